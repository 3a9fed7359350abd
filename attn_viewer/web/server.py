"""A browser over a data folder on a local port: `serve`.

Nothing is trusted: requests name things and never paths (`listing`), pages of strangers must not read replies (Host
header, resource policy: `guard`), and figures, which may come from strangers, run nothing (sandbox).
"""

import hashlib
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..cells import pool_cells
from ..errors import ActivationsMissingError, AttnViewerError, GetActivationsError, OptionError
from ..figures.images import encode_indices, index_matrix, make_palette
from ..figures.scales import get_colormap
from ..figures.style import DARK, LIGHT
from ..storage.atlas_files import read_entry
from ..storage.folder import MAX_BYTES
from .listing import FIGURE_TYPES, Listing, open_figure
from .replies import describe_folder, describe_prompt, describe_weights, encode_stored, find_side, score_layer
from .scripts import STATIC

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from .connections import Connection
    from .guard import Guard, make_error, send_json
except ImportError as error:
    raise OptionError("the server needs starlette and uvicorn: pip install 'attn-viewer[server]'") from error

_log = logging.getLogger(__name__)
# A figure may draw and style itself. Opened as a page of its own it still runs nothing and loads nothing.
FIGURE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
MAX_PROMPTS = 500
TEXT_LENGTH = 300
# Cells a side of a thumbnail; longer prompts are pooled by the maximum.
THUMBNAIL_SIDE = 160
SORTS = ("text", "n_tokens", "hash")
_Reader = Callable[[str, str], Any]
_NAME = re.compile(r"[a-zA-Z0-9.-]{1,253}")


def make_app(path: str | os.PathLike[str], *, allowed_hosts: Sequence[str] = ()) -> Guard:
    """Make the web application, ASGI, over a data folder; `OptionError` if that is none.

    Browsers may address the server by ``localhost``, plain addresses and the names `allowed_hosts`; others are refused,
    since a page of a stranger can point a name of its own at this machine (DNS rebinding).
    """
    listing = Listing(path)

    def answer(function: Callable[..., Response], **kinds: _Reader) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            return function(listing, request, **_read_words(request, kinds))

        return endpoint

    prompt: dict[str, _Reader] = {"model": _read_text, "prompt": _read_text}
    head: dict[str, _Reader] = {**prompt, "layer": _read_number, "head": _read_number}
    routes = [
        Route("/", lambda request: send_static(request, "browser.html")),
        Route("/static/{name}", lambda request: send_static(request, request.path_params["name"])),
        Route("/api/folder", answer(_describe_folder)),
        Route(
            "/api/prompts",
            answer(
                _list_prompts, models=_read_list, q=_read_any, sort=_read_text, offset=_read_number, limit=_read_number
            ),
        ),
        Route("/api/atlas", answer(_send_entry, model=_read_text, name=_read_text)),
        Route("/api/prompt", answer(_describe_prompt, **prompt)),
        Route("/api/scores", answer(_score_layer, **prompt, layer=_read_number)),
        Route("/api/weights", answer(_send_weights, **head)),
        Route("/thumbnail", answer(_send_thumbnail, **head, theme=_read_text)),
        Route("/figure", answer(_send_figure, **head, name=_read_text)),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: explain_error, AttnViewerError: explain_error})
    app.router.redirect_slashes = False
    return Guard(app, {name.lower() for name in allowed_hosts})


async def explain_error(_request: Request, error: Exception) -> Response:
    """Turn an error into a reply."""
    if isinstance(error, HTTPException):
        return make_error(error.status_code, error.detail, error.headers)
    if isinstance(error, (ActivationsMissingError, OptionError)):
        return make_error(404, str(error))
    if isinstance(error, GetActivationsError):
        return make_error(422, str(error))
    # The words of other errors may name paths of this machine.
    _log.warning("%s", error)
    return make_error(422, "what is stored for this request does not fit together")


def _read_words(request: Request, kinds: Mapping[str, _Reader]) -> dict[str, Any]:
    """Read the words of a query, each known, well-formed and at most once."""
    words: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in kinds or (name in words and kinds[name] is not _read_list):
            raise HTTPException(400, "an unknown or repeated word in the query")
        if len(value) > 1_000 or not value.isprintable():
            raise HTTPException(400, f"{name} cannot be read")
        read = kinds[name](name, value)
        words[name] = words.get(name, []) + read if kinds[name] is _read_list else read
    required = {"model", "prompt", "layer", "head", "name"} & kinds.keys()
    if missing := sorted(required - words.keys()):
        raise HTTPException(400, f"the query lacks {', '.join(missing)}")
    return words


def _read_number(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", value):
        raise HTTPException(400, f"{name} must be a number from 0")
    return int(value)


def _read_text(name: str, value: str) -> str:
    if not value:
        raise HTTPException(400, f"{name} is empty")
    return value


def _read_any(_name: str, value: str) -> str:
    return value


def _read_list(name: str, value: str) -> list[str]:
    return [_read_text(name, value)]


def send_static(request: Request, name: str) -> Response:
    """Send a file of the front end."""
    # Compared with what is there, never joined: a name cannot lead elsewhere.
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}
    if request.query_params or name not in files:
        raise HTTPException(404, "there is no such page")
    return _send_file(request, files[name].read_bytes(), _TYPES[files[name].suffix])


def _send_file(request: Request, data: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", **(headers or {})}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)


def _describe_folder(listing: Listing, _request: Request) -> Response:
    return send_json(describe_folder(listing))


def _list_prompts(
    listing: Listing,
    _request: Request,
    models: Sequence[str] = (),
    q: str = "",
    sort: str = "text",
    offset: int = 0,
    limit: int = 100,
) -> Response:
    """Search the prompts of some models; those of one hash are one row."""
    key = sort.removeprefix("-")
    if key not in SORTS or not 0 < limit <= MAX_PROMPTS or len(models) > 100:
        raise HTTPException(400, f"sort must be one of {', '.join(SORTS)}, limit 1 to {MAX_PROMPTS}")
    rows: dict[str, dict[str, Any]] = {}
    for name in models:
        for hash_, prompt in listing.read_prompts(listing.get_model(name)).items():
            rows.setdefault(hash_, {**prompt, "models": []})["models"].append(name)
    words = q.lower().split()
    found = [row for row in rows.values() if all(w in row["text"].lower() or w == row["hash"].lower() for w in words)]
    found.sort(key=lambda row: (row[key], row["hash"]), reverse=sort.startswith("-"))
    page = [{**row, "text": row["text"][:TEXT_LENGTH]} for row in found[offset : offset + limit]]
    return send_json({"total": len(found), "of": len(rows), "offset": offset, "prompts": page})


def _send_entry(listing: Listing, _request: Request, model: str, name: str) -> Response:
    return send_json(read_entry(listing.get_model(model), name).to_plain())


def _describe_prompt(listing: Listing, _request: Request, model: str, prompt: str) -> Response:
    return send_json(describe_prompt(listing, listing.get_prompt(model, prompt)))


def _score_layer(listing: Listing, _request: Request, model: str, prompt: str, layer: int) -> Response:
    with listing.get_prompt(model, prompt).open_maps() as opened:
        return send_json(score_layer(opened.read_layers([layer])))


def _send_weights(listing: Listing, _request: Request, model: str, prompt: str, layer: int, head: int) -> Response:
    with listing.get_prompt(model, prompt).open_maps() as opened:
        data = encode_stored(opened.read_head(layer, head).weights[0][0], describe_weights(opened))
    return Response(data, media_type="application/octet-stream")


def _send_thumbnail(
    listing: Listing, request: Request, model: str, prompt: str, layer: int, head: int, theme: str = "light"
) -> Response:
    if theme not in ("light", "dark"):
        raise HTTPException(400, "theme must be light or dark")
    with listing.get_prompt(model, prompt).open_maps() as opened:
        maps = opened.read_head(layer, head)
    seen = np.ma.masked_array(maps.weights[0][0].astype(np.float32), maps.future)
    weights = pool_cells(seen, (find_side(seen.shape, THUMBNAIL_SIDE),) * 2)
    roots = np.sign(weights) * np.sqrt(np.abs(weights))  # small weights are what a small picture would lose
    look = {"diverging_colormap": True} if maps.signed else {"normalize_min": 0.0}
    colours = get_colormap(diverging=maps.signed, palette=DARK if theme == "dark" else LIGHT)
    data = encode_indices(index_matrix(roots, normalize=True, **look), make_palette(colours))
    return _send_file(request, data, "image/png")


def _send_figure(
    listing: Listing, request: Request, model: str, prompt: str, layer: int, head: int, name: str
) -> Response:
    file, ending = open_figure(listing.get_prompt(model, prompt), layer, head, name)
    with file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise HTTPException(422, "this figure is too large to be served")
        data = file.read()
    headers = {"Content-Security-Policy": FIGURE_POLICY}
    if ending == "svgz":
        headers["Content-Encoding"] = "gzip"
    return _send_file(request, data, FIGURE_TYPES[ending], headers)


def serve(
    path: str | os.PathLike[str] = "attn_data",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: Sequence[str] = (),
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a browser over a data folder until interrupted.

    Other machines reach only a `host` of theirs, such as ``"0.0.0.0"``, by its address or `allowed_hosts`. `port` 0
    takes a free one. `ready` is called with the server's URL once it listens. Raises `OptionError` if there is no such
    folder, or the address cannot be listened on.
    """
    check_address(port, allowed_hosts)
    run_app(make_app(path, allowed_hosts=allowed_hosts), host, port, ready)


def check_address(port: int, allowed_hosts: Sequence[str]) -> None:
    """Refuse what is no port, or no name of a host."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise OptionError(f"port must be 0 to 65535, got {port!r}")
    for name in allowed_hosts:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OptionError(f"an allowed host must be a plain name such as 'lab.example', got {name!r}")


def run_app(app: Guard, host: str, port: int, ready: Callable[[str], None] | None) -> None:
    """Run an application until interrupted; the rest is as `serve` takes it."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
        # asyncio does it for sockets that it made itself; without, each reply waits 40 ms for the one before.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from error
    with listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        if ready is not None:
            ready(url)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="error",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listener])
