"""Two models side by side: A, B and B − A for every layer."""

import dataclasses
import functools

import matplotlib as mpl
import numpy as np
from matplotlib.transforms import Affine2D

from ..facts import WEIGHTINGS
from . import style
from .grids import label_column
from .heatmap import label_axis, limit_cells
from .labels import TokenStamps
from .layout import BETWEEN, LINE, MARGIN, fit_panel, measure_title, snap
from .options import GridOptions, describe_data, find_largest
from .sheet import Sheet
from .sinks import count_hidden, treat_sink
from .venues import get_venue


def plot_comparison(first, second, **options):
    """Draw the layer averages of two models and their difference, a row a layer.

    Parameters
    ----------
    first, second : AttentionMaps
        A and B: the same tokens and layers, as `compare_attention` checks.
    **options
        Fields of `GridOptions`. The scale of A and B is shared; that of B − A is centred at 0.

    Returns
    -------
    matplotlib.figure.Figure
        A page with three panels a layer.
    """
    look = GridOptions(**{**options, "scale": "shared"})
    one, other = first.average_heads(), second.average_heads()
    row, column = count_hidden(one, look.sink)
    future = one.future[row:, column:]
    triples = []
    for a, b in zip(one.weights, other.weights, strict=True):
        a, b = (np.ma.masked_array(treat_sink(w[0].astype(np.float32), one, look.sink), future) for w in (a, b))
        triples.append((limit_cells(a)[0], limit_cells(b)[0], _limit_signed(b - a)))
    drawn, pooling = limit_cells(np.broadcast_to(np.float32(0), future.shape))
    largest = max(find_largest(maps, options) for maps in (one, other)) if look.vmax is None else look.vmax
    limit = max(float(np.ma.filled(np.abs(difference).max(), 0)) for *_, difference in triples) or 1.0
    norms = style.make_norm(look.norm, look.vmin, largest), style.make_norm("linear", -limit, limit)
    cmaps = style.get_colormap(look.cmap), style.get_colormap(diverging=True)
    names = [f"A: {first.model_id}", f"B: {second.model_id}"]
    tokens_query, tokens_key = one.tokens_query[row:], one.tokens_key[column * one.cell[1] :]
    family, missing = style.choose_fonts([*tokens_query, *tokens_key, *names])
    down, across = (mine * shown for mine, shown in zip(one.cell, pooling, strict=True))
    label = {"family": family, "missing": missing}
    queries = functools.partial(label_axis, tokens_query, cell=down, first=one.first_query + row, **label)
    keys = functools.partial(label_axis, tokens_key, cell=across, first=column * one.cell[1], **label)
    has_tokens = (down, across) == (1, 1)
    if get_venue().width is None:
        width, height, size = fit_panel(*drawn.shape, has_tokens=has_tokens)
        queries, keys = queries(size=size), keys(size=size)
    else:
        look_alike = {"has_tokens": has_tokens, "title": f"layer {max(one.layers)}   A", "family": family, "fewest": 3}
        _, (width, height), (queries, keys) = label_column(
            3 * len(triples), 3, *drawn.shape, queries, keys, **look_alike
        )
    left, below = get_venue().axis * LINE, get_venue().axis * LINE
    # Labels stand left of A and below the last row alone: the other panels show the same tokens.
    right, up = snap(width + BETWEEN), snap(height + measure_title() + BETWEEN / 2)
    notes = [
        *(style.spell_missing(style.shorten_label(name, 60), missing) for name in names),
        *describe_changes(first, second),
        one.averaged if one.averaged == other.averaged else f"A: {one.averaged}, B: {other.averaged}",
        *describe_data(
            dataclasses.replace(one, interventions=()),
            dataclasses.replace(look, scale="shared"),
            pooling,
            has_indices=queries.is_index,
        ),
    ]
    with mpl.rc_context(style.make_rc(family=family)):
        page = Sheet(
            left + queries.width + 2 * right + width,
            below + keys.depth + len(triples) * up - BETWEEN / 2,
            "two models",
            notes=notes,
            bars=[
                (mpl.cm.ScalarMappable(norm, cmap), name)
                for norm, cmap, name in zip(norms, cmaps, (WEIGHTINGS[one.weighting], "B − A"), strict=True)
            ],
            family=family,
        )
        x0, y0 = snap(MARGIN + left + queries.width), snap(MARGIN + below + keys.depth)
        transforms = []
        for i, (layer, triple) in enumerate(zip(one.layers, triples, strict=True)):
            y = y0 + (len(triples) - 1 - i) * up
            for j, (cells, name) in enumerate(zip(triple, ("A", "B", "B − A"), strict=True)):
                x = x0 + j * right
                page.axes.imshow(
                    cells,
                    extent=(x, x + width, y, y + height),
                    norm=norms[j == 2],
                    cmap=cmaps[j == 2],
                    interpolation="nearest",
                )
                page.axes.add_patch(
                    mpl.patches.Rectangle((x, y), width, height, fill=False, edgecolor=style.FRAME, linewidth=0.5)
                )
                title = f"layer {layer}   {name}" if j == 0 else name
                page.write(x, y + height + 3.5, title, size=get_venue().title)
                transforms.append((i, j, x, y))
        page.axes.set(xlim=(0, page.size[0]), ylim=(0, page.size[1]), aspect="auto")
        n_rows, n_columns = drawn.shape
        to_page = [
            Affine2D().translate(0.5, 0.5).scale(width / n_columns, -height / n_rows).translate(x, y + height)
            + page.axes.transData
            for _, _, x, y in transforms
        ]
        nothing = queries.drop_texts()
        rows = [place for place, (_, j, *_) in zip(to_page, transforms, strict=True) if j == 0]
        columns = to_page[-3:]
        page.axes.add_artist(TokenStamps(rows, n_rows, queries, keys.drop_texts()))
        page.axes.add_artist(TokenStamps(columns, n_rows, nothing, keys))
        centred = style.describe_axis_name()
        for i in range(len(triples)):
            page.write(MARGIN + get_venue().axis / 2, y0 + i * up + height / 2, "query", rotation=90, **centred)
        for j in range(3):
            page.write(x0 + j * right + width / 2, MARGIN + get_venue().axis / 2, "key", **centred)
    return page.figure


def describe_changes(first, second):
    """Return phrases of what was done to heads of the model when A and B were captured.

    Parameters
    ----------
    first, second : AttentionMaps
        A and B.

    Returns
    -------
    list of str
        Each begins with ``A`` or ``B``.
    """
    return [f"{side} changed: {words}" for side, maps in (("A", first), ("B", second)) for words in maps.interventions]


def _limit_signed(difference):
    """Pool as `limit_cells` does, keeping of each block what is furthest from 0."""
    highest, lowest = limit_cells(difference)[0], -limit_cells(-difference)[0]
    return np.ma.where(highest >= -lowest, highest, lowest)
