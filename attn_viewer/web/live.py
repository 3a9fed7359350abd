"""A page with a prompt box over one model: `serve_live`.

What the page asks for is work for the model, one job at a time (`jobs`); names of models, files or code never come
from it. Each request under ``/live`` holds the secret that the page got with its HTML, so that nobody else asks.
"""

import asyncio
import base64
import hmac
import html
import ipaddress
import json
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import AttnViewerError, OptionError
from ..options import FilePath
from ..storage.folder import DATA_DIR, DataFolder
from .encode import encode_head
from .guard import MAX_BODY, Guard, send_json
from .jobs import JobQueue
from .live_models import LiveModel, LiveModels, Loader
from .live_options import LiveOptions, Wanted
from .scripts import STATIC
from .server import check_address, explain_error, run_app, send_static

# Seconds for the body of a request to come in, and for which one reply tells of a job; the page then asks again.
BODY_SECONDS, STREAM_SECONDS = 10.0, 60.0
SHORTEST_TOKEN = 16
# Of the body of a request for a job, where a model sees: a picture in base64.
MAX_PICTURE = 8 * 2**20


class LiveApp:
    """Replies to requests of the page."""

    def __init__(self, models: LiveModels, token: str | None, folder: FilePath) -> None:
        self.models, self.token, self.folder = models, token, DataFolder(folder)
        self.secret = secrets.token_urlsafe(24)
        self.queue = JobQueue(models.first.limits.max_maps_mb * 10**6)

    def list_routes(self) -> list[Route]:
        """Return what is answered."""
        return [
            Route("/", self.send_page),
            Route("/static/{name}", lambda request: send_static(request, request.path_params["name"])),
            Route("/live/jobs", self.add_job, methods=["POST"]),
            Route("/live/cancel", self.cancel_job, methods=["POST"]),
            Route("/live/keep", self.keep_prompts, methods=["POST"]),
            Route("/live/events", self.send_events),
            Route("/live/weights", self.send_weights),
            Route("/live/picture", self.send_picture),
        ]

    def send_page(self, request: Request) -> Response:
        """Send the page with its secret, to who knows the server's token if it has one."""
        if self.token is not None and not _are_equal(request.query_params.get("token", ""), self.token):
            raise HTTPException(403, "open the address that the server printed, which ends in ?token=…")
        facts = self.models.first.describe() | {"models": self.models.names, "secret": self.secret}
        page = (STATIC / "live.html").read_text(encoding="utf-8")
        return HTMLResponse(page.replace('id="live"', f'id="live" data-facts="{html.escape(json.dumps(facts))}"'))

    def _check(self, request: Request) -> None:
        if not _are_equal(request.headers.get("x-secret", ""), self.secret):
            raise HTTPException(403, "this page is of an earlier run of the server; reload it")

    async def _read_words(self, request: Request) -> dict[str, Any]:
        self._check(request)
        try:
            body = await asyncio.wait_for(request.body(), BODY_SECONDS)
            words = json.loads(body)
        except asyncio.TimeoutError:
            raise HTTPException(408, "the request came too slowly") from None
        except ClientDisconnect:
            raise HTTPException(400, "the request ended before its body did") from None  # to nobody
        except (ValueError, RecursionError):
            raise HTTPException(400, "the request is no JSON") from None
        if not isinstance(words, dict):
            raise HTTPException(400, "the request is no JSON object")
        return words

    async def add_job(self, request: Request) -> Response:
        """Line a job up."""
        words = await self._read_words(request)
        try:
            wanted = Wanted.collect(words)
            if len((wanted.prompt + wanted.other).encode()) > MAX_BODY:  # a picture's request may be longer
                raise OptionError(f"prompts have at most {MAX_BODY:,} bytes")
        except (OptionError, UnicodeEncodeError) as error:
            raise HTTPException(400, str(error)) from error
        try:
            return send_json({"job": self.queue.add(lambda job: self.models.run(wanted, job)).name}, 202)
        except OptionError as error:
            raise HTTPException(503, str(error)) from error

    async def cancel_job(self, request: Request) -> Response:
        """Stop a job."""
        self.queue.cancel(self.queue.get(str((await self._read_words(request)).get("job"))))
        return send_json({})

    async def keep_prompts(self, request: Request) -> Response:
        """Save the maps of a job's prompts, without changes, to the data folder."""
        result = self.queue.get(str((await self._read_words(request)).get("job"))).result
        if result is None or not result.texts:
            raise HTTPException(404, "a data folder keeps prompts that are text, when their job is done")

        def save() -> Iterator[str]:
            for text, maps in zip(result.texts, result.maps, strict=False):
                model = self.folder.get_model(maps.model_id)
                model.save_config(maps)
                prompt = model.get_prompt({"text": text})
                prompt.save(maps)
                yield prompt.path.relative_to(self.folder.root).as_posix()

        saved = await asyncio.to_thread(lambda: [*save()])
        return send_json({"saved": saved, "folder": self.folder.root.resolve().name})

    def send_events(self, request: Request) -> Response:
        """Stream what a job tells, from an event on, as server-sent events."""
        self._check(request)
        job = self.queue.get(request.query_params.get("job", ""))
        start = _read_count(request, "from")

        async def write() -> AsyncIterator[str]:
            async for event in job.follow(start, STREAM_SECONDS):
                yield f"data: {json.dumps(event, separators=(',', ':'), allow_nan=False)}\n\n"

        return StreamingResponse(write(), media_type="text/event-stream")

    def send_weights(self, request: Request) -> Response:
        """Send all heads of some layers by position, one after another, as `encode_head` writes them."""
        self._check(request)
        result = self.queue.get(request.query_params.get("job", "")).result
        index, first, count = (_read_count(request, name) for name in ("map", "first", "count"))
        if result is None or index >= len(result.maps):
            raise HTTPException(404, "this job made no such maps")
        layers = result.maps[index].weights[first : first + count]
        data = b"".join(encode_head(head, result.metas[index]) for layer in layers for head in layer)
        return Response(data, media_type="application/octet-stream")

    def send_picture(self, request: Request) -> Response:
        """Send a job's picture to who knows the job's name: an image element cannot send the secret."""
        result = self.queue.get(request.query_params.get("job", "")).result
        if result is None or not result.picture:
            raise HTTPException(404, "this job has no picture")
        kind, _, data = result.picture.removeprefix("data:").partition(";base64,")
        return Response(base64.b64decode(data), media_type=kind)


def _are_equal(came: str, wanted: str) -> bool:
    return hmac.compare_digest(came.encode(), wanted.encode())


def _read_count(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise HTTPException(400, f"{name} must be a number from 0")
    return int(text)


def make_live_app(
    model: torch.nn.Module,
    tokenizer: Any,
    *,
    model_id: str | None = None,
    limits: LiveOptions | None = None,
    others: Mapping[str, Loader] | None = None,
    folder: FilePath = DATA_DIR,
    token: str | None = None,
    allowed_hosts: Sequence[str] = (),
) -> tuple[Guard, JobQueue]:
    """Make the web application over a model, and the queue of its jobs, which is to be closed.

    Parameters
    ----------
    model, tokenizer
        As `load_model` returns them.
    model_id
        The model's name on the page; left out, its own.
    limits
        What a job may take.
    others
        Further models that the page may switch to: by name what loads one, called when it is first asked for.
    folder
        The data folder that prompts are saved to when the page asks.
    token
        What the page's address must end in (``?token=…``), at least 16 characters; left out, nothing.
    allowed_hosts
        As `make_app` takes them.

    Raises
    ------
    OptionError
        If a limit or the token cannot be used.
    CaptureError
        If the model's attention cannot be captured.
    """
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise OptionError(f"a token that others cannot guess has {SHORTEST_TOKEN} characters, got {len(token)}")
    first = LiveModel(model, tokenizer, model_id, limits or LiveOptions())
    page = LiveApp(LiveModels(first, others or {}), token, folder)
    routes = page.list_routes()
    app = Starlette(routes=routes, exception_handlers={HTTPException: explain_error, AttnViewerError: explain_error})
    app.router.redirect_slashes = False
    posts = {route.path: MAX_BODY for route in routes if "POST" in (route.methods or ())}
    if others or first.sees:
        posts["/live/jobs"] = MAX_PICTURE
    return Guard(app, {name.lower() for name in allowed_hosts}, posts), page.queue


def serve_live(
    model: torch.nn.Module,
    tokenizer: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
    token: str | None = None,
    allowed_hosts: Sequence[str] = (),
    **options: Any,
) -> None:
    """Serve a page with a prompt box over a model until interrupted.

    Parameters
    ----------
    model, tokenizer, token, allowed_hosts, **options
        As `make_live_app` takes them.
    host, port, ready
        As `serve` takes them. Other machines are served only with a token.

    Raises
    ------
    OptionError
        As from `make_live_app`, or if the address cannot be listened on.
    """
    check_address(port, allowed_hosts)
    if token is None and not _is_loopback(host):
        raise OptionError(f"other machines reach {host}; give a token (--token) that the page's address must end in")
    app, queue = make_live_app(model, tokenizer, token=token, allowed_hosts=allowed_hosts, **options)
    end = "" if token is None else f"/?token={urllib.parse.quote(token, safe='')}"

    def tell(url: str) -> None:
        if ready is not None:
            ready(url + end)

    try:
        run_app(app, host, port, tell)
    finally:
        queue.close()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
