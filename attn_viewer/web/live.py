"""A page with a prompt box over one model: `serve_live`.

What the page asks for is work for the model, one job at a time (`jobs`); names of models, files or code never come
from it. Each request under ``/live`` holds the secret that the page got with its HTML, so that nobody else asks.
"""

import asyncio
import hmac
import html
import ipaddress
import json
import math
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from ..capture.generation import capture_generation
from ..capture.prefill import capture_attention
from ..errors import AttnViewerError, OptionError, PromptError
from ..inputs.model_inputs import prepare_inputs
from ..interventions.changed_heads import ablate_heads
from ..interventions.head_effects import measure_effect
from ..maps import AttentionMaps
from ..selections import parse_heads
from ..tokens import show_text
from .encode import encode_head, score_for_display
from .guard import Guard, send_json
from .jobs import Job, JobQueue, Result
from .live_options import LiveOptions, Wanted
from .server import STATIC, check_address, explain_error, run_app, send_static
from .several import describe_page

# Seconds for the body of a request to come in, and for which one reply tells of a job; the page then asks again.
BODY_SECONDS, STREAM_SECONDS = 10.0, 60.0
# Maps of the same tokens that a job holds at most: measuring an effect makes them twice, without and with it.
MOST_COPIES = 4
SHORTEST_TOKEN = 16


class LiveModel:
    """A model, its tokenizer, and what may be asked of them; one thread uses it."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, model_id: str | None, limits: LiveOptions) -> None:
        self.model, self.tokenizer, self.limits = model, tokenizer, limits
        first = capture_attention(model, tokenizer, "a", model_id=model_id)  # refused before anything is served
        self.model_id = first.model_id
        self.n_heads = sum(first.n_heads)
        by_memory = math.isqrt(limits.max_maps_mb * 10**6 // (4 * self.n_heads * MOST_COPIES))
        self.most_tokens = min(limits.max_tokens, by_memory)
        if self.most_tokens < 2:
            raise OptionError(
                f"max_maps_mb={limits.max_maps_mb} leaves no room for the {self.n_heads} heads; allow more"
            )

    def describe(self) -> dict[str, Any]:
        """Return what the page says beforehand."""
        return {
            "model": self.model_id,
            "tokens": self.most_tokens,
            "newTokens": min(self.limits.max_new_tokens, self.most_tokens - 1),
            "hasChat": bool(getattr(self.tokenizer, "chat_template", None)),
        }

    def run(self, wanted: Wanted, job: Job) -> Result:
        """Do what was asked for."""
        prompt: Any = [{"role": "user", "content": wanted.prompt}] if wanted.chat else wanted.prompt
        n_prompt = self._count_tokens(prompt)
        job.tell("running", tokens=n_prompt)
        job.check()
        facts: Mapping[str, Any] = {}
        if wanted.what == "generate":
            maps = [self._generate(prompt, n_prompt, wanted.new_tokens, job)]
        else:
            maps = [capture_attention(self.model, self.tokenizer, prompt, model_id=self.model_id)]
        if wanted.what == "ablate":
            job.check()
            changed, facts = self._ablate(prompt, n_prompt, wanted, job)
            maps.append(changed)
        job.check()
        return Result(tuple(maps), describe_page(maps, [score_for_display(one) for one in maps]), facts)

    def _count_tokens(self, prompt: Any) -> int:
        sides = prepare_inputs(self.model, self.tokenizer, prompt).prompts[0].sides.values()
        count = max(side.total or 0 for side in sides)
        if count > self.most_tokens:
            raise PromptError(f"the prompt has {count:,} tokens where {self.most_tokens:,} are allowed; shorten it")
        return count

    def _generate(self, prompt: Any, n_prompt: int, count: int, job: Job, answer: int = 0) -> AttentionMaps:
        """Generate, telling each token as it comes; `answer` is the number of the answer that it is of."""
        if count > self.limits.max_new_tokens or n_prompt + count > self.most_tokens:
            raise PromptError(
                f"{n_prompt:,} tokens of prompt and {count:,} new ones are asked for, where {self.most_tokens:,} "
                f"together and {self.limits.max_new_tokens:,} new ones are allowed; ask for fewer"
            )

        def report(step: Any) -> None:
            job.check()
            row = sum(rows.mean(0, dtype=float) for rows in step.weights.values()) / len(step.weights)
            weights = [round(float(value), 4) for value in row]
            job.tell("step", answer=answer, text=show_text(step.text), weights=weights)

        maps: AttentionMaps = capture_generation(
            self.model,
            self.tokenizer,
            prompt,
            model_id=self.model_id,
            max_new_tokens=count,
            generate_options={"do_sample": False},
            when="steps",
            on_step=report,
        )
        return maps

    def _ablate(self, prompt: Any, n_prompt: int, wanted: Wanted, job: Job) -> tuple[AttentionMaps, Mapping[str, Any]]:
        """Return the maps with heads taken out, and what that did to the predictions; tell both answers."""
        if not wanted.heads:
            raise OptionError("which heads are to be taken out? Write layer.head of each, such as 1.3,2.0")
        change = ablate_heads(self.model, parse_heads(wanted.heads), wanted.mode)
        effect = measure_effect(self.model, self.tokenizer, prompt, change, model_id=self.model_id)
        job.check()
        with change:
            maps = capture_attention(self.model, self.tokenizer, prompt, model_id=self.model_id)
        if wanted.mode != "mean":  # which needs all queries, and a model that generates keeps keys and values alone
            self._generate(prompt, n_prompt, wanted.new_tokens, job)
            with change:
                self._generate(prompt, n_prompt, wanted.new_tokens, job, answer=1)
        described = {
            "description": effect.description,
            "loss": [float(effect.loss_before.mean()), float(effect.loss_after.mean())],
            "before": [[show_text(label), p, q] for label, p, q in effect.top_before],
            "after": [[show_text(label), p, q] for label, p, q in effect.top_after],
        }
        return maps, {"effect": described}


class LiveApp:
    """Replies to requests of the page."""

    def __init__(self, live: LiveModel, token: str | None) -> None:
        self.live, self.token = live, token
        self.secret = secrets.token_urlsafe(24)
        self.queue = JobQueue(live.limits.max_maps_mb * 10**6)

    def list_routes(self) -> list[Route]:
        """Return what is answered."""
        return [
            Route("/", self.send_page),
            Route("/static/{name}", lambda request: send_static(request, request.path_params["name"])),
            Route("/live/jobs", self.add_job, methods=["POST"]),
            Route("/live/cancel", self.cancel_job, methods=["POST"]),
            Route("/live/events", self.send_events),
            Route("/live/weights", self.send_weights),
        ]

    def send_page(self, request: Request) -> Response:
        """Send the page with its secret, to who knows the server's token if it has one."""
        if self.token is not None and not _are_equal(request.query_params.get("token", ""), self.token):
            raise HTTPException(403, "open the address that the server printed, which ends in ?token=…")
        facts = html.escape(json.dumps({**self.live.describe(), "secret": self.secret}))
        page = (STATIC / "live.html").read_text(encoding="utf-8")
        return HTMLResponse(page.replace('id="live"', f'id="live" data-facts="{facts}"'))

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
            wanted.prompt.encode()
        except (OptionError, UnicodeEncodeError) as error:
            raise HTTPException(400, str(error)) from error
        try:
            return send_json({"job": self.queue.add(lambda job: self.live.run(wanted, job)).name}, 202)
        except OptionError as error:
            raise HTTPException(503, str(error)) from error

    async def cancel_job(self, request: Request) -> Response:
        """Stop a job."""
        self.queue.cancel(self.queue.get(str((await self._read_words(request)).get("job"))))
        return send_json({})

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
        """Send all heads of a layer, one after another, as `encode_head` writes them."""
        self._check(request)
        result = self.queue.get(request.query_params.get("job", "")).result
        index, layer = (_read_count(request, name) for name in ("map", "layer"))
        if result is None or index >= len(result.maps):
            raise HTTPException(404, "this job made no such maps")
        heads = result.maps[index].get_layer(layer)
        data = b"".join(encode_head(head, result.metas[index]) for head in heads)
        return Response(data, media_type="application/octet-stream")


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
    page = LiveApp(LiveModel(model, tokenizer, model_id, limits or LiveOptions()), token)
    routes = page.list_routes()
    app = Starlette(routes=routes, exception_handlers={HTTPException: explain_error, AttnViewerError: explain_error})
    app.router.redirect_slashes = False
    posts = {route.path for route in routes if "POST" in (route.methods or ())}
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
