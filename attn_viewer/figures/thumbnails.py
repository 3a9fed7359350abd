"""A bird's-eye page: every head of a model as a thumbnail, all in one picture."""

import dataclasses
import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize

from ..cells import pool_cells
from ..declarations import takes_options
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps
from .grids import name_layer_map
from .heads import GridPage, find_grid_room, label_numbers, measure_column_numbers
from .options import OverviewLook, describe_data
from .page import MARGIN, PageFigure
from .scales import Extent, measure_weights
from .sinks import treat_mask, treat_sink

# Cells a side of a thumbnail, and of all of them together; gaps are a share of a thumbnail.
MOST_CELLS, MOST_PIXELS, GAP = 48, 4096, 0.08
SMALLEST, LARGEST = 10.0, 40.0
# A thumbnail is at most so many times as wide as high, or as high as wide.
THINNEST = 3
# Past so many layers of one map each, a row holds several.
MOST_ROWS = 8
PAGE_WIDTH, PAGE_HEIGHT = 460.0, 640.0


@takes_options(OverviewLook)
def plot_birds_eye(maps: AttentionMaps, *, options: OverviewLook) -> PageFigure:
    """Draw every head as a thumbnail, layers down and heads across.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    **options
        Options of `OverviewLook`.

    Returns
    -------
    PageFigure
        A page with one picture of all heads.

    Raises
    ------
    OptionError
        If an option cannot be used.
    PageSizeError
        If it does not fit the page.
    """
    look = options.choose_norm(maps)
    has_own = look.scale == "panel"
    shown = fold_layers(maps)
    picture, is_gap, pooling = tile_heads(shown, sink=look.sink, own_norm=look.norm if has_own else None)
    style = look.make_style([maps.model_id])
    name = "share of the end of each head's scale" if has_own else WEIGHTINGS[maps.weighting]
    extent = Extent(1.0, float(abs(picture).max()), maps.signed) if has_own else look.measure(maps)
    scale = (dataclasses.replace(look, vmax=1.0) if has_own else look).make_scale(extent, style, name)
    layers, columns = shown.layers, sorted(set().union(*shown.heads))
    caption = look.make_caption(
        name_layer_map(maps) if maps.is_mean else "all heads",
        describe_data(maps, look, pooling),
        model_id=maps.model_id,
        bars=[scale],
    )
    colors = np.array(scale.cmap(scale.norm(picture), bytes=True))
    colors[is_gap] = 0  # the page shows between thumbnails
    room = find_grid_room(layers, style)
    least, width = (SMALLEST, PAGE_WIDTH) if room is None else (0.0, room)
    tallest = PAGE_HEIGHT
    if style.height is not None:
        head = caption.lay_out(style, style.width or width).height
        tallest = min(tallest, style.height - head - 2 * MARGIN - measure_column_numbers(style) - 1)
    # Thumbnails in the proportions of the picture, as large as the page allows.
    down, across = picture.shape[0] / len(layers), picture.shape[1] / len(columns)
    side = np.clip(
        min(width / len(columns) * max(1, down / across), tallest / len(layers) * max(1, across / down)),
        least,
        LARGEST,
    )
    size = (
        side * min(1, across / down) * len(columns),
        side * min(1, down / across) * len(layers),
    )
    named = "+ layers" if shown is not maps else "" if maps.is_mean else "head"
    page = GridPage(style, *size, layers, caption, across=named)
    with mpl.rc_context(page.rc):
        edges = -0.5, len(columns) - 0.5, len(layers) - 0.5, -0.5
        page.panel.imshow(colors, extent=edges, aspect="auto", interpolation="antialiased")
        page.panel.spines[:].set_visible(False)
        label_numbers(page.panel, layers, columns, style)
        if not named:  # a mean is no head 0
            page.panel.set_xticks([])
    return page.figure


def fold_layers(maps: AttentionMaps) -> AttentionMaps:
    """Return maps of one map a layer with several layers a row, so that their page is about as high as wide.

    A row goes by its first layer, and the "heads" in it by how many layers they are further. Others, and layers that
    are not evenly spaced, come back as they are.
    """
    layers, steps = maps.layers, set(np.diff(maps.layers).tolist())
    if max(maps.n_heads) > 1 or len(layers) <= MOST_ROWS or len(steps) > 1:
        return maps
    (step,), (high, wide) = steps, maps.shape
    across = math.ceil(math.sqrt(len(layers) * min(max(high / wide, 1 / THINNEST), THINNEST)))
    rows = [np.concatenate(maps.weights[i : i + across]) for i in range(0, len(layers), across)]
    heads = [range(0, step * len(row), step) for row in rows]
    kind = "pooled" if maps.reduction == "pooled" else "full"
    facts: dict[str, Any] = {"layers": layers[::across], "heads": heads, "reduction": kind, "averaged_heads": None}
    return AttentionMaps(rows, maps, **facts)


def tile_heads(
    maps: AttentionMaps, *, sink: str = "keep", own_norm: str | Normalize | None = None
) -> tuple[np.ma.MaskedArray, np.ndarray, tuple[int, int]]:
    """Put thumbnails of all heads side by side into one picture, each divided by the end of its scale of `own_norm`.

    Returns
    -------
    picture : numpy.ma.MaskedArray
        Weights, layers down and heads across; masked where no query may look, and between thumbnails.
    is_gap : numpy.ndarray
        Bool, axes of `picture`: what lies between thumbnails, and where there is no head.
    pooling : tuple of int
        Rows and columns of the maps in a cell, which holds the largest of them.
    """
    columns = sorted(set().union(*maps.heads))
    future = treat_mask(maps, sink)
    most = min(MOST_CELLS, int(MOST_PIXELS / max(len(columns), len(maps.layers)) / (1 + GAP)))
    step = -(-max(future.shape) // most)
    pooling = tuple(min(step, side) for side in future.shape)
    seen = pool_cells(~future, pooling)
    # Cells are square, but a few queries over many keys would be a hairline.
    least = max(1, most // max(future.shape))
    down_zoom, across_zoom = (max(least, max(seen.shape) * least // side // THINNEST) for side in seen.shape)
    masked = ~seen.repeat(down_zoom, 0).repeat(across_zoom, 1)
    gap = max(1, round(max(masked.shape) * GAP))
    down, across = (side + gap for side in masked.shape)
    shape = len(maps.layers) * down - gap, len(columns) * across - gap
    picture, is_gap = np.ma.array(np.zeros(shape, np.float32), mask=True), np.ones(shape, bool)
    for row, (weights, heads) in enumerate(zip(maps.weights, maps.heads, strict=True)):
        shown = treat_sink(weights, maps, sink)
        thumbnails = pool_cells(shown, pooling).repeat(down_zoom, 1).repeat(across_zoom, 2)
        if own_norm is not None:
            ends = [measure_weights([head], ~future, own_norm).end for head in shown]
            thumbnails = thumbnails / np.array(ends, np.float32)[:, None, None]
        for column, thumbnail in zip(np.searchsorted(columns, heads), thumbnails, strict=True):
            place = np.s_[
                row * down : row * down + masked.shape[0], column * across : column * across + masked.shape[1]
            ]
            picture[place] = np.ma.masked_array(thumbnail, masked)
            is_gap[place] = False
    return picture, is_gap, pooling
