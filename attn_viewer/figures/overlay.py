"""Attention over the patches of an image, laid over the image."""

import dataclasses
import io
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from PIL import Image

from ..analysis.modalities import COMPLETION, find_completion, find_text
from ..declarations import takes_options
from ..errors import OptionError, UnsuitableMapsError, shorten
from ..facts import WEIGHTINGS
from ..inputs.pictures import WHOLE, Crop, crop_pixels, read_picture
from ..maps import AttentionMaps
from ..options import MOST_PANELS, OverlayOptions
from ..spans import Span, shift_spans
from ..tokens import join_labels
from .options import FIGS_PER_ROW, PageLook, ScaleLook
from .page import BETWEEN, MARGIN, Page, PageFigure, measure_gap, measure_title
from .scales import QUANTILE, Extent, Scale, make_scale
from .style import DARK, PageStyle, Palette, shorten_label

# Width of an image in points; from which share of the scale on a square is drawn.
PANEL, FAINTEST = 108.0, 0.01
TITLE = 20
# The image is shown in greys near the page's ground, so that all colour is weight: of so much contrast, of less where
# weights of 0 are dark; and with less than twice so many pixels a side.
CONTRAST, DARK_CONTRAST, SHARPEST = 0.65, 0.35, 1024


class _Panel(NamedTuple):
    """What a panel shows: weights over the key tokens, of one query or the mean over some."""

    title: str
    weights: np.ndarray


class OverlayLook(OverlayOptions, ScaleLook, PageLook):
    """What is laid over a picture, and how it looks."""


@takes_options(OverlayLook)
def overlay_attention(maps: AttentionMaps, image: Any, *, options: OverlayLook) -> PageFigure:
    """Lay the weights of a query over the picture, a panel a layer, a chosen head or a word of the completion.

    A square on each patch has the colour of its weight, as the bar shows it; the image is seen around the squares, and
    where weights are next to nothing. Percents say how much of a query's weight lies on the patches. A page of words
    begins with the picture in its colours.

    Parameters
    ----------
    maps : AttentionMaps
        Full or averaged over heads, with the `spans` of a picture, which `capture_attention` finds for models that see
        and `capture_image_attention` for vision encoders.
    image : array_like, PIL.Image.Image or path-like
        The picture that was captured, of axes ``(height, width)``, ``(height, width, 3)`` or ``(…, 4)``: 8-bit, or
        floats from 0 to 1; or a file of it. Shown is what the model saw, without borders that its processor cut off or
        with those that it added, where the capture was given the picture; of maps of ready model inputs give it as the
        model saw it. It is stretched over the patches; the page says so where it is not of their shape.
    **options
        Options of `OverlayLook`.

    Returns
    -------
    PageFigure
        All panels on one scale.

    Raises
    ------
    UnsuitableMapsError
        If the maps have no patches of such a picture, or are pooled.
    OptionError
        If there is no such layer, head or query, or the image is none.
    PromptError
        If a file or a PIL image cannot be read.
    """
    maps, looks = _turn_words(maps)
    spans = _choose_spans(maps, options)
    picture = crop_pixels(_read_image(image), _find_crop(maps, options))
    panels, who, patch = _list_panels(maps, spans, options)
    weights = np.stack([np.concatenate([p.weights[span.positions].ravel() for span in spans]) for p in panels])
    largest = float(np.abs(weights).max()) or 1.0
    end = float(np.quantile(np.abs(weights), QUANTILE)) if options.norm == "quantile" else largest
    titles = [shorten_label(panel.title, TITLE) for panel in panels]
    style = options.make_style([maps.model_id, who, *titles])
    scale = make_scale(
        Extent(end or largest, largest, maps.signed),
        norm=options.norm, vmin=options.vmin, vmax=options.vmax, cmap=options.cmap, palette=style.palette,
        label=WEIGHTINGS[maps.weighting],
    )  # fmt: skip
    notes = [
        *_describe(maps, spans, options, looks + who),
        *_describe_image(picture, spans),
        *maps.remarks,
        *options.describe(),
    ]
    picture = _shrink(picture)
    grey = _turn_grey(picture, style.palette)
    caption = options.make_caption("image patches", notes, model_id=maps.model_id, bars=[scale])
    # Words name colours, so they are read beside the picture as it is.
    has_colours = bool(options.query == COMPLETION)  # a number of numpy compares to one of its own
    n_panels = len(panels) + has_colours
    columns, wide = _fit_panels(style, min(_count_columns(options, n_panels), n_panels), picture.shape)
    high = wide * picture.shape[0] / picture.shape[1]
    n_lines = math.ceil(n_panels / columns)
    across, down, gap = wide + BETWEEN, high + measure_title(style) + BETWEEN, measure_gap(style)
    page = Page(style, columns * across - BETWEEN, n_lines * down - BETWEEN, caption)
    patches = [rectangle for span in spans for rectangle in _place_patches(span, spans)]
    with mpl.rc_context(page.rc):
        for index, (title, cells) in enumerate([("image", None)] * has_colours + [*zip(titles, weights, strict=True)]):
            x, y = MARGIN + index % columns * across, page.bottom + (n_lines - 1 - index // columns) * down
            place = x, y, wide, high
            page.axes.imshow(
                picture if cells is None else grey, extent=(x, x + wide, y, y + high), interpolation="antialiased",
                cmap="gray", vmin=0, vmax=1,
            )  # fmt: skip
            if cells is None:
                page.write(x, y + high + gap, title, size=style.title, color=style.palette.muted)
                continue
            page.axes.add_collection(_cover_patches(cells, patches, place, scale, options.cover))
            page.write(x, y + high + gap, style.spell(title), size=style.title)
            share = f"{cells.sum():.0%}" if maps.weighting == "attention" and not (maps.signed or looks) else ""
            page.write(x + wide, y + high + gap, share, size=style.title, ha="right", color=style.palette.muted)
            if patch is not None:
                page.axes.add_patch(
                    Rectangle(*_scale_patch(patches[patch], place), fill=False, edgecolor=style.palette.accent,
                              linewidth=1.2)
                )  # fmt: skip
        page.axes.set(xlim=(0, page.size[0]), ylim=(0, page.size[1]), aspect="auto")
    return page.figure


def _count_columns(options: OverlayOptions, n_panels: int) -> int:
    wish = options.num_figs_per_row
    return math.ceil(math.sqrt(n_panels)) if wish == "auto" else int(wish or FIGS_PER_ROW)


def _describe(maps: AttentionMaps, spans: Sequence[Span], options: OverlayOptions, who: str) -> Iterator[str]:
    """Yield what a reader must know of the weights."""
    yield f"weights of {who}"
    if options.query == COMPLETION and options.panels is not None:
        several = "mean over heads" if len(options.panels) > 1 else "head"
        yield f"{several} {', '.join(f'{layer}.{head}' for layer, head in options.panels)}"
    elif options.panels is None:
        yield maps.averaged if options.head is None else f"head {options.head}"
        if options.query == COMPLETION and len(maps.layers) > 1:
            count = len(maps.layers if options.layers is None else options.layers)
            yield f"mean over {count} layers"
    n_tiles = len(spans)
    yield f"{spans[0].rows} × {spans[0].columns} patches" + (f" in each of {n_tiles} tiles" if n_tiles > 1 else "")
    if options.picture or options.part:
        yield ", ".join([f"picture {options.picture}"] * bool(options.picture) + [options.part or ""])


def _describe_image(picture: np.ndarray, spans: Sequence[Span]) -> Iterator[str]:
    yield "image in grey"
    down, across = _count_tiles(spans)
    wide, high = across * spans[0].columns, down * spans[0].rows
    if not 0.8 < picture.shape[1] / picture.shape[0] / (wide / high) < 1.25:
        yield f"its {picture.shape[1]} × {picture.shape[0]} pixels stretched over {wide} × {high} patches"


def _turn_words(maps: AttentionMaps) -> tuple[AttentionMaps, str]:
    """Return maps of words over the patches that look at them, and a word for that; others as they are."""
    if maps.spans or not maps.spans_query:
        return maps, ""
    turned = dataclasses.replace(
        maps,
        weights=tuple(weights.swapaxes(1, 2) for weights in maps.weights),
        tokens_key=maps.tokens_query,
        tokens_query=maps.tokens_key,
        spans=shift_spans(maps.spans_query, maps.first_query, len(maps.tokens_query)),
        spans_query=(),
        first_query=0,
        queries_after=0,
        ids_key=None,
        prompt_length=len(maps.tokens_query),
        segments=(),
    )
    return turned, "patches on "


def _choose_spans(maps: AttentionMaps, options: OverlayOptions) -> Sequence[Span]:
    """Return the patches that show a picture best: tiles, else the whole of it, else its thumbnail."""
    found = [span for span in maps.spans if span.sense != "audio" and span.number == options.picture]
    if not found or maps.reduction == "pooled":
        raise UnsuitableMapsError(
            f"an overlay needs full maps with the patches of picture {options.picture}, which capture_attention and "
            "capture_image_attention find; got "
            + ("pooled maps" if found else f"maps with {len(maps.spans)} spans" if maps.spans else "maps without any")
        )
    if options.part is not None:
        chosen = [span for span in found if span.part == options.part]
        if not chosen:
            parts = ", ".join(span.part for span in found)
            raise OptionError(f"picture {options.picture} has no part {shorten(options.part)}; there are {parts}")
        return [chosen[0]._replace(part="whole")]
    tiles = [span for span in found if span.tile]
    return tiles or [next((span for part in ("whole", "thumbnail") for span in found if span.part == part), found[0])]


def _find_crop(maps: AttentionMaps, options: OverlayOptions) -> Crop:
    """Return the part of the picture that the chosen patches lie on."""
    found = [span for span in maps.spans if span.number == options.picture and span.sense == "image"]
    crop = maps.crops[options.picture] if options.picture < len(maps.crops) else WHOLE
    here = next((span.tile for span in found if span.part == options.part), None)
    if options.part is not None and here is None:  # a thumbnail is of all of it where there are tiles
        return crop if options.part == "whole" else WHOLE
    if here is None:
        return crop
    down, across = _count_tiles([span for span in found if span.tile])
    wide, high = (crop[2] - crop[0]) / across, (crop[3] - crop[1]) / down
    left, top = crop[0] + here[1] * wide, crop[1] + here[0] * high
    return left, top, left + wide, top + high


def _list_panels(
    maps: AttentionMaps, spans: Sequence[Span], options: OverlayOptions
) -> tuple[list[_Panel], str, int | None]:
    """Return the panels, who looks, and the number of its patch if it is one."""
    if options.panels is not None:
        if not options.panels:
            raise OptionError("panels must be chosen heads, (layer, head) each; got none")
        sources = [
            (f"layer {layer}, head {head}", maps.select(layers=[layer], heads=[head]).weights[0][0])
            for layer, head in options.panels
        ]
    else:
        maps = maps.select(layers=options.layers, heads=None if options.head is None else [options.head])
        sources = [
            (f"layer {layer}", w.mean(axis=0, dtype=np.float32))
            for layer, w in zip(maps.layers, maps.weights, strict=True)
        ]
    if options.query == COMPLETION:
        mean: np.ndarray = np.stack([weights for _, weights in sources]).mean(axis=0, dtype=np.float32)
        words = find_completion(maps)
        if len(words) > MOST_PANELS:
            raise OptionError(f"a page holds {MOST_PANELS} words, the completion has {len(words)}; choose a query")
        panels = [_Panel(word, mean[start:stop].mean(axis=0)) for word, start, stop in words]
        return panels, "the token before each word, which chose it", None
    start, stop, patch = _find_query(maps, spans, options.query)
    panels = [_Panel(title, weights[start:stop].mean(axis=0, dtype=np.float32)) for title, weights in sources]
    if patch is not None:
        return panels, f"patch {','.join(map(str, divmod(patch, spans[0].columns)))}", patch
    return panels, join_labels(maps.tokens_query[start:stop]), None


def _fit_panels(style: PageStyle, columns: int, shape: tuple[int, ...]) -> tuple[int, float]:
    """Return how many panels stand side by side and how wide they are, for a picture of this shape."""
    wide = PANEL * min(1.0, shape[1] / shape[0])
    if style.width is None:
        return columns, wide
    room = style.width - 2 * MARGIN
    columns = min(columns, max(1, int((room + BETWEEN) // (wide / 2 + BETWEEN))))
    return columns, min(wide, (room + BETWEEN) / columns - BETWEEN)


def _place_patches(span: Span, spans: Sequence[Span]) -> Iterator[tuple[float, float, float, float]]:
    """Yield left, top, width and height of each patch of a tile, as shares of the picture."""
    down, across = _count_tiles(spans)
    row, column = span.tile or (0, 0)
    high, wide = 1 / (down * span.rows), 1 / (across * span.columns)
    for r, c in np.ndindex(span.rows, span.columns):
        yield (column * span.columns + c) * wide, (row * span.rows + r) * high, wide, high


def _count_tiles(spans: Sequence[Span]) -> tuple[int, int]:
    """Return how many tiles stand above each other and side by side."""
    rows, columns = zip(*(span.tile or (0, 0) for span in spans), strict=True)
    return max(rows) + 1, max(columns) + 1


def _scale_patch(
    patch: tuple[float, float, float, float], place: tuple[float, float, float, float], cover: float = 1.0
) -> tuple[tuple[float, float], float, float]:
    """Return corner, width and height of the square on a patch of the picture that stands at a place, in points."""
    x, y, wide, high = place
    left, top, width, height = patch
    inset = (1 - cover) / 2
    corner = x + (left + inset * width) * wide, y + high - (top + (1 - inset) * height) * high
    return corner, cover * width * wide, cover * height * high


def _cover_patches(
    cells: np.ndarray,
    patches: Sequence[tuple[float, float, float, float]],
    place: tuple[float, float, float, float],
    scale: Scale,
    cover: float,
) -> PatchCollection:
    """Return squares on patches in the colours of their weights."""
    squares = [Rectangle(*_scale_patch(patch, place, cover)) for patch in patches]
    shown = PatchCollection(squares, norm=scale.norm, cmap=scale.cmap, linewidth=0, zorder=1)
    shown.set_array(cells)
    shown.set_alpha((np.asarray(scale.norm(cells)) >= FAINTEST).astype(float).tolist())
    return shown


def _find_query(
    maps: AttentionMaps, spans: Sequence[Span], query: int | str | tuple[int, int] | None
) -> tuple[int, int, int | None]:
    """Return first and last query, that one left out, and the number of its patch if it is one."""
    n_query = len(maps.tokens_query)
    patches = np.concatenate([span.positions.ravel() for span in spans])
    if isinstance(query, str):
        found = find_text(maps.tokens_query, query)
        if found is None:
            raise OptionError(
                f"there is no query {shorten(query)}: no such text among {n_query} tokens; give a position"
            )
        return *found, None
    first = maps.first_query if maps.kind != "cross" else None
    before = 0 if first is None else int(patches.min()) - first
    if query is None:
        query = 0 if before > 0 and not maps.causal else n_query - 1
    if isinstance(query, tuple):
        rows, columns = spans[0].rows, spans[0].columns
        if len(spans) == 1 and first is not None and 0 <= query[0] < rows and 0 <= query[1] < columns:
            number = query[0] * columns + query[1]
            place = int(patches[number]) - first
            if 0 <= place < n_query:
                return place, place + 1, number
    elif -n_query <= query < n_query:
        query = query % n_query
        numbers = [] if first is None else np.flatnonzero(patches == query + first).tolist()
        return query, query + 1, numbers[0] if numbers and len(spans) == 1 else None
    raise OptionError(
        f"there is no query {query!r}; there are {n_query} tokens, patches of {spans[0].rows} × {spans[0].columns}"
    )


def _read_image(image: Any) -> Any:
    """Return an image as an array: bytes, or floats from 0 to 1, of axes ``(height, width[, 3 or 4])``."""
    if isinstance(image, (str, os.PathLike, io.BytesIO, Image.Image)):
        image = read_picture(image)  # palettes, CMYK, EXIF
    try:
        picture = np.asarray(image)
    except (TypeError, ValueError) as error:
        raise OptionError(f"an image must be an array, a PIL image or a file, got {type(image).__name__}") from error
    is_byte = picture.dtype == np.uint8
    if (
        picture.ndim not in (2, 3)
        or (picture.ndim == 3 and picture.shape[2] not in (3, 4))
        or picture.size == 0
        or not (is_byte or picture.dtype.kind == "f")
    ):
        raise OptionError(
            "an image must be (height, width) or (height, width, 3 or 4), 8-bit or floats from 0 to 1, got "
            f"{picture.dtype} of shape {picture.shape}"
        )
    if not is_byte and not (picture.min() >= 0 and picture.max() <= 1):
        raise OptionError(f"an image of floats must be from 0 to 1, got {picture.min():g} to {picture.max():g}")
    return picture


def _shrink(picture: Any) -> Any:
    """Return an image as floats from 0 to 1; of a large one, all of whose pixels every panel would resample, fewer."""
    step = min(max(1, max(picture.shape[:2]) // SHARPEST), *picture.shape[:2])
    high, wide = (side // step for side in picture.shape[:2])
    blocks = picture[: high * step, : wide * step].reshape(high, step, wide, step, *picture.shape[2:])
    return blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255 if picture.dtype == np.uint8 else 1)


def _turn_grey(picture: Any, palette: Palette) -> Any:
    """Return a picture in greys as light or dark as the page: floats, axes ``(height, width)``."""
    # Luminance of ITU-R BT.709; what is transparent stands on white.
    grey = picture if picture.ndim == 2 else picture[..., :3] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    if picture.shape[2:] == (4,):
        grey = 1 - (1 - grey) * picture[..., 3]
    return DARK_CONTRAST * grey if palette is DARK else 1 - CONTRAST * (1 - grey)
