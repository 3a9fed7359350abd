"""Attention over the patches of an image, laid over the image."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap
from matplotlib.patches import Rectangle

from ..errors import OptionError, UnsuitableMapsError
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps, takes_maps
from .options import PageLook
from .page import BETWEEN, MARGIN, Page, PageFigure, measure_title
from .scales import Extent, Scale, make_scale
from .style import PageStyle

# Width of an image in points; how wide the coloured square on a patch is; from which share of the scale on it is drawn.
PANEL, COVER, FAINTEST = 108.0, 0.7, 0.01
# The image is shown in light greys, so that all colour is weight.
DARKEST = 0.35


@takes_maps
def overlay_attention(
    maps: AttentionMaps,
    image: Any,
    *,
    layers: Sequence[int] | None = None,
    head: int | None = None,
    query: int | tuple[int, int] | None = None,
    num_figs_per_row: int = 4,
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    cover: float = COVER,
    **options: Any,
) -> PageFigure:
    """Lay the weights of one query over the image, a panel a layer.

    A square on each patch has the colour of its weight, as the bar shows it; the image is seen around the squares, and
    where weights are next to nothing.

    Parameters
    ----------
    maps : AttentionMaps
        Full maps of a vision model with its `grid` of patches (`capture_image_attention`); patches are the last keys.
    image : array_like or PIL.Image.Image
        The picture as the model saw it, of axes ``(height, width)``, ``(height, width, 3)`` or ``(…, 4)``: 8-bit, or
        floats from 0 to 1. It is stretched over the grid of patches.
    layers : sequence of int, optional
        True layer numbers; left out, all.
    head : int, optional
        True head number; left out, the mean over heads.
    query : int or tuple of int, optional
        Who looks: the row and column of a patch; a position among the queries; left out, the first special token
        (CLS) where there is one, else the last token.
    num_figs_per_row : int
        Panels side by side.
    cmap : str or matplotlib.colors.Colormap, optional
        A matplotlib colour map; left out, the one of this package.
    vmax : float, optional
        Weight at the end of the scale; left out, a round number from the largest up.
    cover : float
        Sides of the squares, as a share of those of a patch, from 0 to 1.
    **options
        Options of `PageLook`.

    Returns
    -------
    PageFigure
        A page with a panel a layer, all on one scale.

    Raises
    ------
    UnsuitableMapsError
        If the maps have no grid of patches or are pooled.
    OptionError
        If there is no such layer, head or query, or the image is none.
    """
    rows, n_columns = _find_grid(maps)
    picture = _read_image(image)
    if not 0 < cover <= 1 or not isinstance(num_figs_per_row, int) or num_figs_per_row < 1:
        raise OptionError(
            f"cover must be from 0 to 1 and num_figs_per_row from 1, got {cover!r} and {num_figs_per_row!r}"
        )
    look = PageLook(**options)
    maps = maps.select(layers=layers, heads=None if head is None else [head])
    query, patch = _find_query(maps, (rows, n_columns), query)
    n_patches = rows * n_columns
    weights = np.stack(
        [w[:, query, -n_patches:].mean(axis=0, dtype=np.float32).reshape(rows, n_columns) for w in maps.weights]
    )
    largest = float(np.abs(weights).max()) or 1.0
    who = maps.tokens_query[query] if patch is None else f"patch {patch[0]},{patch[1]}"
    style = look.make_style([maps.model_id, who])
    extent = Extent(largest, largest, maps.signed)
    scale = make_scale(extent, vmax=vmax, cmap=cmap, palette=style.palette, label=WEIGHTINGS[maps.weighting])
    notes = [f"weights of {who}", maps.averaged if head is None else f"head {head}", f"{rows} × {n_columns} patches"]
    notes += ["image in grey", *maps.remarks]
    caption = look.make_caption("image patches", notes, model_id=maps.model_id, bars=[scale])
    columns, wide = _fit_panels(style, min(num_figs_per_row, len(weights)), picture.shape)
    high = wide * picture.shape[0] / picture.shape[1]
    n_lines = math.ceil(len(weights) / columns)
    across, down = wide + BETWEEN, high + measure_title(style) + BETWEEN
    page = Page(style, columns * across - BETWEEN, n_lines * down - BETWEEN, caption)
    with mpl.rc_context(page.rc):
        for index, (layer, cells) in enumerate(zip(maps.layers, weights, strict=True)):
            x = MARGIN + index % columns * across
            y = page.bottom + (n_lines - 1 - index // columns) * down
            place = x, y, wide, high
            page.axes.imshow(
                picture, extent=(x, x + wide, y, y + high), interpolation="antialiased", cmap="gray", vmin=0, vmax=1
            )
            page.axes.add_collection(_cover_patches(cells, place, scale, cover))
            page.write(x, y + high + 3.5, f"layer {layer}", size=style.title)
            if patch is not None:
                page.axes.add_patch(
                    Rectangle(*_place_patch(patch, cells.shape, place), fill=False, edgecolor=style.palette.accent,
                              linewidth=1.2)
                )  # fmt: skip
        page.axes.set(xlim=(0, page.size[0]), ylim=(0, page.size[1]), aspect="auto")
    return page.figure


def _fit_panels(style: PageStyle, columns: int, shape: tuple[int, ...]) -> tuple[int, float]:
    """Return how many panels stand side by side and how wide they are, for a picture of this shape."""
    wide = PANEL * min(1.0, shape[1] / shape[0])
    if style.width is None:
        return columns, wide
    room = style.width - 2 * MARGIN
    columns = min(columns, max(1, int((room + BETWEEN) // (wide / 2 + BETWEEN))))
    return columns, min(wide, (room + BETWEEN) / columns - BETWEEN)


def _place_patch(
    patch: tuple[int, int], shape: tuple[int, ...], place: tuple[float, float, float, float]
) -> tuple[tuple[float, float], float, float]:
    """Return corner, width and height of a patch of the picture that stands at a place, in points."""
    x, y, wide, high = place
    width, height = wide / shape[1], high / shape[0]
    return (x + patch[1] * width, y + high - (patch[0] + 1) * height), width, height


def _cover_patches(
    cells: np.ndarray, place: tuple[float, float, float, float], scale: Scale, cover: float
) -> PatchCollection:
    """Return squares on patches in the colours of their weights."""
    squares = []
    for patch in np.ndindex(*cells.shape):
        (x, y), width, height = _place_patch(patch, cells.shape, place)
        inset = (1 - cover) / 2
        squares.append(Rectangle((x + inset * width, y + inset * height), cover * width, cover * height))
    shown = PatchCollection(squares, norm=scale.norm, cmap=scale.cmap, linewidth=0, zorder=1)
    shown.set_array(cells.ravel())
    shown.set_alpha((np.asarray(scale.norm(cells.ravel())) >= FAINTEST).astype(float).tolist())
    return shown


def _find_grid(maps: AttentionMaps) -> tuple[int, int]:
    if len(maps.spans) != 1 or maps.reduction == "pooled":
        raise UnsuitableMapsError(
            "an overlay needs full maps with a grid of patches, which capture_image_attention keeps; got "
            f"{'pooled maps' if maps.spans else 'maps without a grid'}"
        )
    return maps.spans[0].rows, maps.spans[0].columns


def _find_query(
    maps: AttentionMaps, grid: tuple[int, int], query: int | tuple[int, int] | None
) -> tuple[int, tuple[int, int] | None]:
    """Return the position among the queries, and row and column if it is a patch."""
    rows, columns = grid
    n_query, n_patches = len(maps.tokens_query), rows * columns
    before = n_query - n_patches
    if query is None:
        query = 0 if before > 0 else n_query - 1
    if isinstance(query, tuple) and len(query) == 2 and before >= 0:
        row, column = query
        if 0 <= row < rows and 0 <= column < columns:
            return before + row * columns + column, (row, column)
    elif isinstance(query, (int, np.integer)) and -n_query <= query < n_query:
        query = int(query) % n_query
        return query, divmod(query - before, columns) if 0 <= before <= query else None
    raise OptionError(f"there is no query {query!r}; there are {n_query} tokens, patches of {rows} × {columns}")


def _read_image(image: Any) -> np.ndarray:
    """Return an image in light greys: floats from `DARKEST` to 1, axes ``(height, width)``."""
    try:
        picture = np.asarray(image)
    except (TypeError, ValueError) as error:
        raise OptionError(f"an image must be an array or a PIL image, got {type(image).__name__}") from error
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
    picture = picture / np.float32(255) if is_byte else picture
    if not (picture.min() >= 0 and picture.max() <= 1):
        raise OptionError(f"an image of floats must be from 0 to 1, got {picture.min():g} to {picture.max():g}")
    # Luminance of ITU-R BT.709; what is transparent stands on white.
    grey = picture if picture.ndim == 2 else picture[..., :3] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    if picture.shape[2:] == (4,):
        grey = 1 - (1 - grey) * picture[..., 3]
    return DARKEST + (1 - DARKEST) * grey
