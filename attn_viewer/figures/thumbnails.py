"""A bird's-eye page: every head of a model as a thumbnail, all in one picture."""

import matplotlib as mpl
import numpy as np

from ..facts import WEIGHTINGS
from . import style
from .grids import name_layer_map
from .heads import GridPage, find_grid_room, label_numbers
from .options import GridOptions, describe_data, find_largest
from .sinks import treat_sink

# Cells a side of a thumbnail, and of all of them together; gaps are a share of a thumbnail.
MOST_CELLS, MOST_PIXELS, GAP = 48, 4096, 0.08
SMALLEST, LARGEST = 10.0, 40.0
PAGE_WIDTH, PAGE_HEIGHT = 460.0, 640.0


def plot_birds_eye(maps, **options):
    """Draw every head as a thumbnail, layers down and heads across.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    **options
        Fields of `GridOptions`; `norm` is ``"power"`` unless said otherwise, and panels are not set in rows.

    Returns
    -------
    matplotlib.figure.Figure
        A page with one picture of all heads.
    """
    look = GridOptions(**{"norm": "power", **options})
    picture, is_gap, pooling = tile_heads(maps, sink=look.sink, has_own_scale=look.scale == "panel")
    largest = find_largest(maps, options) if look.vmax is None else look.vmax
    norm = style.make_norm(look.norm, look.vmin, 1.0 if look.scale == "panel" else largest)
    cmap = style.get_colormap(look.cmap)
    columns = sorted(set().union(*maps.heads))
    family, _ = style.choose_fonts([maps.model_id])
    colors = np.array(cmap(norm(picture), bytes=True))
    colors[is_gap] = 255
    room = find_grid_room(maps.layers)
    least, width = (SMALLEST, PAGE_WIDTH) if room is None else (0.0, room)
    side = np.clip(min(width / len(columns), PAGE_HEIGHT / len(maps.layers)), least, LARGEST)
    height, width = (side * length / max(picture.shape) for length in picture.shape)
    scale = side / max(width / len(columns), height / len(maps.layers))
    name = "share of the head's largest weight" if look.scale == "panel" else WEIGHTINGS[maps.weighting]
    with mpl.rc_context(style.make_rc(family=family)):
        page = GridPage(
            width * scale,
            height * scale,
            maps.layers,
            name_layer_map(maps) if maps.is_mean else "all heads",
            model_id=maps.model_id,
            notes=list(describe_data(maps, look, pooling)),
            bars=[(mpl.cm.ScalarMappable(norm, cmap), name)],
            family=family,
            across="" if maps.is_mean else "head",
        )
        edges = -0.5, len(columns) - 0.5, len(maps.layers) - 0.5, -0.5
        page.panel.imshow(colors, extent=edges, aspect="auto", interpolation="antialiased")
        page.panel.spines[:].set_visible(False)
        label_numbers(page.panel, maps.layers, columns)
        if maps.is_mean:  # which is no head 0
            page.panel.set_xticks([])
    return page.figure


def tile_heads(maps, *, sink="keep", has_own_scale=False):
    """Put thumbnails of all heads side by side into one picture.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token.
    has_own_scale : bool
        Whether to divide each head by its largest weight.

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
    future = treat_sink(maps.future, maps, "hide" if sink != "keep" else sink)
    most = min(MOST_CELLS, int(MOST_PIXELS / max(len(columns), len(maps.layers)) / (1 + GAP)))
    step = -(-max(future.shape) // most)
    zoom = max(1, most // max(future.shape))
    pooling = tuple(min(step, side) for side in future.shape)
    masked = ~_pool(~future[None], pooling)[0].repeat(zoom, 0).repeat(zoom, 1)
    gap = max(1, round(max(masked.shape) * GAP))
    down, across = (side + gap for side in masked.shape)
    shape = len(maps.layers) * down - gap, len(columns) * across - gap
    picture, is_gap = np.ma.masked_all(shape, np.float32), np.ones(shape, bool)
    for row, (weights, heads) in enumerate(zip(maps.weights, maps.heads, strict=True)):
        thumbnails = _pool(treat_sink(weights, maps, sink), pooling).repeat(zoom, 1).repeat(zoom, 2)
        if has_own_scale:
            thumbnails = thumbnails / np.maximum(thumbnails.max(axis=(1, 2), keepdims=True), np.float32(1e-30))
        for column, thumbnail in zip(np.searchsorted(columns, heads), thumbnails, strict=True):
            place = np.s_[
                row * down : row * down + masked.shape[0], column * across : column * across + masked.shape[1]
            ]
            picture[place] = np.ma.masked_array(thumbnail, masked)
            is_gap[place] = False
    return picture, is_gap, pooling


def _pool(values, block):
    """Return the largest of each block of rows and columns; axes ``(n_heads, n_query, n_key)``."""
    for axis, size in zip((1, 2), block, strict=True):
        values = np.maximum.reduceat(values, range(0, values.shape[axis], size), axis=axis) if size > 1 else values
    return values
