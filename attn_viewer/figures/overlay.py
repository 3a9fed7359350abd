"""Attention over the patches of an image, laid over the image."""

import math

import matplotlib as mpl
import numpy as np

from ..errors import OptionError, UnsuitableMapsError
from ..facts import WEIGHTINGS
from . import style
from .layout import BETWEEN, MARGIN, measure_title
from .sheet import Sheet
from .venues import get_venue

PANEL, ALPHA = 108.0, 0.85
# The image is shown in light greys, so that all colour is weight.
DARKEST = 0.35


def overlay_attention(maps, image, *, layers=None, head=None, query=None, columns=4, cmap=None, vmax=None,
                      alpha=ALPHA):  # fmt: skip
    """Lay the weights of one query over the image, a panel a layer.

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
    columns : int
        Panels side by side.
    cmap : str, optional
        A matplotlib colour map; left out, the one of this package.
    vmax : float, optional
        Weight at the end of the scale; left out, the largest shown.
    alpha : float
        How much of the image the weights cover where they are largest, from 0 to 1.

    Returns
    -------
    matplotlib.figure.Figure
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
    if not 0 <= alpha <= 1 or not isinstance(columns, int) or columns < 1:
        raise OptionError(f"alpha must be from 0 to 1 and columns from 1, got {alpha!r} and {columns!r}")
    maps = maps.select(layers=layers, heads=None if head is None else [head])
    query, patch = _find_query(maps, query)
    n_patches = rows * n_columns
    weights = np.stack(
        [w[:, query, -n_patches:].mean(axis=0, dtype=np.float32).reshape(rows, n_columns) for w in maps.weights]
    )
    largest = (float(weights.max()) or 1.0) if vmax is None else vmax
    colors = mpl.cm.ScalarMappable(style.make_norm("linear", 0.0, largest), style.get_colormap(cmap))
    who = maps.tokens_query[query] if patch is None else f"patch {patch[0]},{patch[1]}"
    family, missing = style.choose_fonts([maps.model_id, who])
    wide = PANEL * min(1.0, picture.shape[1] / picture.shape[0])
    high = wide * picture.shape[0] / picture.shape[1]
    columns = min(columns, len(weights))
    n_lines = math.ceil(len(weights) / columns)
    across, down = wide + BETWEEN, high + measure_title() + BETWEEN
    notes = [
        f"weights of {style.spell_missing(who, missing)}",
        maps.averaged if head is None else f"head {head}",
        f"{rows} × {n_columns} patches",
        "image in grey",
        *maps.remarks,
    ]
    with mpl.rc_context(style.make_rc(family=family)):
        page = Sheet(
            columns * across - BETWEEN,
            n_lines * down - BETWEEN,
            "image patches",
            model_id=maps.model_id,
            notes=notes,
            bars=[(colors, WEIGHTINGS[maps.weighting])],
            family=family,
        )
        for index, (layer, cells) in enumerate(zip(maps.layers, weights, strict=True)):
            x = MARGIN + index % columns * across
            y = MARGIN + (n_lines - 1 - index // columns) * down
            edges = x, x + wide, y, y + high
            page.axes.imshow(picture, extent=edges, interpolation="antialiased", cmap="gray", vmin=0, vmax=1)
            # The image shows through where weights are small.
            cover = alpha * np.asarray(colors.norm(cells).filled(0))
            page.axes.imshow(
                cells, extent=edges, norm=colors.norm, cmap=colors.cmap, alpha=cover, interpolation="nearest"
            )
            page.write(x, y + high + 3.5, f"layer {layer}", size=get_venue().title)
            if patch is not None:
                side = wide / n_columns, high / rows
                corner = x + patch[1] * side[0], y + high - (patch[0] + 1) * side[1]
                page.axes.add_patch(
                    mpl.patches.Rectangle(corner, *side, fill=False, edgecolor=style.ACCENT, linewidth=1.2)
                )
        page.axes.set(xlim=(0, page.size[0]), ylim=(0, page.size[1]), aspect="auto")
    return page.figure


def _find_grid(maps):
    if maps.grid is None or maps.reduction == "pooled":
        raise UnsuitableMapsError(
            "an overlay needs full maps with a grid of patches, which capture_image_attention keeps; got "
            f"{'pooled maps' if maps.grid is not None else 'maps without a grid'}"
        )
    return maps.grid


def _find_query(maps, query):
    """Return the position among the queries, and row and column if it is a patch."""
    rows, columns = maps.grid
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


def _read_image(image):
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
