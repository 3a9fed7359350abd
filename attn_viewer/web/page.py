"""One HTML file that shows attention maps anywhere: data as text, the front end, and nothing from a network."""

import base64
import dataclasses
import functools
import hashlib
import html
import json
import math
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..analysis.compare import AttentionComparison
from ..cells import pool_maps
from ..declarations import takes_options
from ..errors import OptionError
from ..files import check_file, expand_home, make_folder, write_whole
from ..long_runs import show_bar
from ..maps import AttentionMaps
from ..options import ExportOptions, FilePath, PageOptions, Theme
from ..selections import describe_numbers
from .encode import Meta, Scores, encode_head, score_for_display
from .pictures import spell_pictures
from .scripts import join_modules, read_style
from .several import EXACT_BYTES, describe_page, list_maps, score_several

if TYPE_CHECKING:
    from .widget import AttentionWidget

MB = 1_000_000
# 2 % more bytes than level 9, in a fifth of the time.
DEFLATE_LEVEL = 7
# Heads that tell how large a page will be, and by how much they may be wrong.
SAMPLED_HEADS, SAMPLE_DOUBT = 9, 1.3
_BOOT = 'document.documentElement.dataset.viewer = openPage() ? "shown" : "failed";'
_FRAME_CSS = "html, body { margin: 0; } body { background: light-dark(#fff, #14171d); }"


class _OverBudgetError(Exception):
    def __init__(self, size: float) -> None:
        self.size = size


@dataclasses.dataclass(frozen=True)
class _Opening:
    """How a page opens, whether it reads and writes the hash of its URL, and the pictures in it."""

    options: ExportOptions
    use_hash: bool = True
    pictures: Sequence[Mapping[str, Any]] = ()


@takes_options(ExportOptions)
def export_html(
    maps: AttentionMaps | Sequence[AttentionMaps] | AttentionComparison,
    path: FilePath,
    *,
    image: Any = None,
    scores: Scores | None = None,
    options: ExportOptions,
) -> list[Path]:
    """Write attention maps as one HTML file that opens in any browser, without a network.

    Weights are 8-bit codes (`web.encode`), or float32 where the maps are small.

    Parameters
    ----------
    maps : AttentionMaps, sequence of AttentionMaps or AttentionComparison
        The weights. The page switches between several, such as the three parts of an encoder-decoder. Two stand side by
        side; where they are of the same tokens, layers and heads, B − A too can be seen, and what is pointed at in one
        is marked in the other.
    path : path-like
        The file; its folder is made.
    image : path-like, PIL.Image.Image, numpy.ndarray or list of these, optional
        The picture that was captured, 8-bit, where the maps have its patches; several in the order in which the model
        was given them. What the model saw of it stands beside the text, at most 512 pixels a side.
    scores : mapping of str to sequence of sequence of float, optional
        Numbers about heads to sort by, one list a layer; left out, a few are measured where the maps are full.
    **options
        As `ExportOptions` declares them. With ``fit="split"`` every full weight is kept in files of some layers each,
        ``{stem}.layers-{first}-{last}.html``, and `path` shows all layers pooled with links to them. What is pooled
        keeps the maximum of a cell (the mean where cells are means already), and the page says so.

    Returns
    -------
    list of pathlib.Path
        The files written, `path` first.

    Raises
    ------
    InvalidMapsError
        If there is something else than maps.
    UnsuitableMapsError
        If there is an image, and maps without its patches.
    OptionError
        If an option cannot be used, or nothing fits into `max_mb`.
    PromptError
        If an image cannot be read.
    OutputError
        If a file cannot be written. A file is complete or absent.
    """
    path = check_page_path(path)
    chosen = list_maps(maps, "export_html")
    budget, fit = options.max_mb * MB, options.fit
    opening = _Opening(options, pictures=() if image is None else spell_pictures(image, chosen))
    if len(chosen) > 1 and fit == "split":
        raise OptionError("a page of several maps cannot be split; export each by itself, or use fit='pool'")
    measured = score_several(chosen, scores)
    try:
        pages = {path: _render(chosen, budget, measured, opening)}
    except _OverBudgetError as over:
        parts = _render_parts(chosen[0], path, budget, measured[0], opening) if fit == "split" else {}
        links = [{"layers": part.layers, "href": urllib.parse.quote(name.name)} for name, (part, _) in parts.items()]
        whole = _render_pooled(chosen, budget, over.size, measured, opening, parts=links)
        pages = {path: whole} | {name: page for name, (_, page) in parts.items()}
    make_folder(path.parent)
    return [write_whole(name, page) for name, page in pages.items()]


def check_page_path(path: FilePath) -> Path:
    """Return the path of a page to write, checked before anything is encoded."""
    path = expand_home(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"a page's name must end in .html, got {str(path)!r}")
    return check_file(path)


def show_attention(maps: AttentionMaps, *, state: str = "", theme: Theme = "auto") -> "AttentionWidget":
    """Show attention maps in a notebook.

    Parameters
    ----------
    maps : AttentionMaps
        The weights; they stay in Python, and the notebook asks for a head when it is looked at.
    state : str
        What to show first, as in the hash of a page's URL: ``"view=heatmap&layer=3&head=2"``.
    theme : {"auto", "light", "dark"}
        Colours.

    Returns
    -------
    AttentionWidget
        Shown when it is the last value of a cell.

    Raises
    ------
    OptionError
        If `theme` is none of these, or anywidget is not installed.
    """
    PageOptions(state=state, theme=theme)  # which checks them
    from .widget import AttentionWidget

    return AttentionWidget(maps, state=state, theme=theme)


def render_frame(maps: AttentionMaps, *, max_mb: float = 2.0, height: int = 680) -> str:
    """Render maps as an ``iframe`` for other pages, such as a notebook's output, that may do nothing but run its own.

    Past `max_mb` megabytes its cells are pooled, and it says so; `height` is in CSS pixels.
    """
    scores = [score_for_display(maps)]
    opening = _Opening(ExportOptions(progress=False), use_hash=False)
    try:
        page = _render([maps], max_mb * MB, scores, opening)
    except _OverBudgetError as over:
        page = _render_pooled([maps], max_mb * MB, over.size, scores, opening)
    return (
        f'<iframe srcdoc="{html.escape(page.decode("ascii"))}" sandbox="allow-scripts" '
        f'title="Attention of {html.escape(maps.model_id)}" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


def _render_pooled(
    maps: Sequence[AttentionMaps],
    budget: float,
    size: float,
    scores: Sequence[Scores],
    opening: _Opening,
    *,
    parts: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Render maps in the smallest cells that fit; `size` is what they take without."""
    side = max(2, math.floor(math.sqrt(size / budget)))
    while True:
        pooled = [pool_maps(one, side) for one in maps]
        notes = [f"Pooled by {side} × {side} to fit into {budget / MB:g} MB."]
        if parts:
            notes.append("Every weight is in the files of single layers:")
        try:
            return _render(pooled, budget, scores, opening, notes=notes, parts=parts)
        except _OverBudgetError as over:
            if max(max(one.shape) for one in pooled) == 1:
                tokens, heads = max(len(one.tokens_key) for one in maps), sum(sum(one.n_heads) for one in maps)
                raise OptionError(
                    f"{tokens} tokens and {heads} heads do not fit into "
                    f"max_mb={budget / MB:g}, not even as one cell a head ({over.size / MB:.2g} MB); allow more, or "
                    "choose fewer layers or heads"
                ) from None
            side = math.ceil(side * max(1.1, math.sqrt(over.size / budget)))


def _render_parts(
    maps: AttentionMaps, path: Path, budget: float, scores: Scores, opening: _Opening
) -> dict[Path, tuple[AttentionMaps, bytes]]:
    """Render every full weight in files of consecutive layers; by path, the maps and the page."""
    pages = {}
    rest = list(maps.layers)
    count = len(rest)
    while rest:
        chosen = rest[:count]
        part = maps.select(layers=chosen)
        indices = [maps.layers.index(layer) for layer in chosen]
        own = {name: [values[i] for i in indices] for name, values in scores.items()}
        notes = [f"Layers {describe_numbers(chosen)} of {describe_numbers(maps.layers)}."]
        parts = [{"layers": maps.layers, "href": urllib.parse.quote(path.name)}]
        try:
            page = _render([part], budget, [own], opening, notes=notes, parts=parts)
        except _OverBudgetError as over:
            if count == 1:
                raise OptionError(
                    f"the weights of layer {chosen[0]} alone take {over.size / MB:.1f} MB, more than max_mb="
                    f"{budget / MB:g}; allow more, or use fit='pool' (--fit pool)"
                ) from None
            count = max(1, min(count - 1, math.floor(len(chosen) * budget / over.size)))
            continue
        pages[path.with_name(f"{path.stem}.layers-{chosen[0]}-{chosen[-1]}{path.suffix}")] = (part, page)
        rest = rest[len(chosen) :]
    return pages


def _render(
    maps: Sequence[AttentionMaps],
    budget: float,
    scores: Sequence[Scores],
    opening: _Opening,
    *,
    notes: Sequence[str] = (),
    parts: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Return the page of maps as bytes, or raise `_OverBudgetError` with the size that it would about have."""
    metas = describe_page(maps, scores, notes=notes, most_bytes=min(EXACT_BYTES, budget / 2))
    for meta in metas if opening.pictures else ():
        meta["pictures"] = opening.pictures
    if parts:
        metas[0]["parts"] = [{"layers": list(part["layers"]), "href": part["href"]} for part in parts]
    options = opening.options
    pieces = [_render_head(metas, {"useHash": opening.use_hash, "state": options.state, "theme": options.theme})]
    size = len(pieces[0]) + 20
    layers = [
        (f"{_prefix(i)}l{layer}", weights, meta)
        for i, (one, meta) in enumerate(zip(maps, metas, strict=False))  # that of a difference has no heads
        for layer, weights in zip(one.layers, one.weights, strict=True)
    ]
    total = sum(len(weights) for _, weights, _ in layers)
    if total > 2 * SAMPLED_HEADS:
        sample = [(head, meta) for _, weights, meta in layers for head in weights][:: math.ceil(total / SAMPLED_HEADS)]
        expected = size + sum(len(_pack_heads([head], meta)) for head, meta in sample) * total / len(sample)
        if expected > SAMPLE_DOUBT * budget:
            raise _OverBudgetError(expected)
    with show_bar("encoding", "head", options.progress, total=total) as bar:
        for done, (name, weights, meta) in enumerate(layers, start=1):
            pieces.append(f'<script type="text/plain" id="{name}">{_pack_heads(weights, meta)}</script>\n')
            size += len(pieces[-1])
            bar.update(len(weights))
            if size > budget:
                raise _OverBudgetError(max(size, len(pieces[0]) + (size - len(pieces[0])) * len(layers) / done))
    pieces.append("</body>\n</html>\n")
    return "".join(pieces).encode("ascii")


def _prefix(index: int) -> str:
    """Return what names of elements of some maps of a page begin with."""
    return f"m{index}." if index else ""


def _pack_heads(weights: Iterable[NDArray[Any]], meta: Meta) -> str:
    """Write heads one after the other; a browser inflates one text a layer in a third of the time of one a head."""
    data = b"".join(encode_head(head, meta) for head in weights)
    return base64.b64encode(zlib.compress(data, DEFLATE_LEVEL)).decode("ascii")


def _render_head(metas: Sequence[Meta], options: Mapping[str, Any]) -> str:
    """Return all of a page but its weights, in ASCII."""
    script, style = _read_code()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    names = " and ".join(dict.fromkeys(meta["model_id"] for meta in metas if "difference" not in meta))
    facts = "".join(
        f'<script type="application/json" id="{_prefix(i)}meta">{_embed(meta)}</script>\n'
        for i, meta in enumerate(metas)
    )
    title = html.escape(f"Attention of {names}").encode("ascii", "xmlcharrefreplace").decode("ascii")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<div id="viewer"></div>\n<noscript>This page draws with JavaScript.</noscript>\n'
        f"{facts}"
        f'<script type="application/json" id="options">{_embed(options)}</script>\n'
        f"<script>{script}</script>\n"
    )


@functools.cache
def _read_code() -> tuple[str, str]:
    """Return script and style with no character past ASCII, so that a page reads the same in every encoding."""
    script = '"use strict";\n{\n' + join_modules("file.js") + f"\n{_BOOT}\n}}\n"
    style = read_style() + _FRAME_CSS
    escaped = "".join(c if c < "\x80" else f"\\u{ord(c):04x}" for c in script)
    return escaped, style.encode("ascii").decode("ascii")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("ascii")).digest()).decode("ascii")


def _embed(data: Any) -> str:
    """Write JSON that ends no element: ``<`` is escaped, and so is all that is not ASCII."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
