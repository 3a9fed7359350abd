"""Two models side by side: A, B and B − A for every layer."""

import dataclasses
import math
from typing import Any

import numpy as np

from ..facts import WEIGHTINGS
from ..maps import AttentionMaps, takes_maps
from .grids import treat_mask
from .heatmap import limit_cells
from .options import describe_data, measure_maps, split_options
from .page import Caption, PageFigure
from .panels import GridFitter, PanelPage, describe_sides
from .scales import Extent, make_scale, measure_weights
from .sinks import treat_sink
from .style import shorten_label

NAMES = ("A", "B", "B − A")


@takes_maps
def plot_comparison(first: AttentionMaps, second: AttentionMaps, **options: Any) -> PageFigure:
    """Draw the layer averages of two models and their difference, a row a layer.

    Parameters
    ----------
    first, second : AttentionMaps
        A and B: the same tokens and layers, as `compare_attention` checks.
    **options
        Options of `PanelLook` and `PageLook`. The scale of A and B is shared; that of B − A is centred at 0.

    Returns
    -------
    PageFigure
        A page with three panels a layer.

    Raises
    ------
    OptionError
        If an option cannot be used.
    PageSizeError
        If the panels do not fit the page.
    """
    look, page_options = split_options(options)
    look = dataclasses.replace(look, scale="shared", num_figs_per_row=len(NAMES))
    one, other = first.average_heads(), second.average_heads()
    sides, pooling = describe_sides(one, look.sink)
    future = treat_mask(one, look.sink)
    triples = []
    for a, b in zip(one.weights, other.weights, strict=True):
        a, b = (np.ma.masked_array(treat_sink(w[0].astype(np.float32), one, look.sink), future) for w in (a, b))
        triples.append((limit_cells(a)[0], limit_cells(b)[0], limit_cells(b - a)[0]))
    names = [f"A: {first.model_id}", f"B: {second.model_id}"]
    style = page_options.make_style().fit_fonts(
        [
            *sides.texts,
            *names,
            page_options.title or "",
            *page_options.phrases,
        ]
    )
    extents = [measure_maps(maps, look) for maps in (one, other)]
    extent = Extent(max(e.end for e in extents), max(e.largest for e in extents), one.signed)
    # Where heads of one were zeroed, even what is 1 by construction differs.
    differences = [difference for *_, difference in triples]
    seen = ~np.ma.getmaskarray(differences[0])
    changes = measure_weights([np.ma.filled(difference, 0) for difference in differences], seen, look.norm)
    scales = [
        look.make_scale(extent, style, WEIGHTINGS[one.weighting]),
        make_scale(dataclasses.replace(changes, is_signed=True), palette=style.palette, label=NAMES[-1]),
    ]

    def make_caption(has_indices: bool, step: int) -> Caption:
        plain = dataclasses.replace(one, interventions=())
        return Caption(
            heading=page_options.title or "two models",
            notes=[
                *page_options.phrases,
                *(shorten_label(name, 60) for name in names),
                *describe_changes(first, second),
                one.averaged if one.averaged == other.averaged else f"A: {one.averaged}, B: {other.averaged}",
                *describe_data(plain, look, pooling, has_indices=has_indices, step=step),
            ],
            bars=scales,
            **page_options.shown,
        )

    n_panels = len(NAMES) * len(triples)
    grid = GridFitter(
        style=style,
        sides=[sides],
        n_panels=n_panels,
        wish=len(NAMES),
        title_width=style.measure(f"layer {max(one.layers)}   A", style.title)[0],
        measure_head=lambda *choice: make_caption(*choice).lay_out(style, style.width or math.inf).height,
        fewest=len(NAMES),
        is_outer=True,
    ).fit()
    panels = PanelPage(grid, [sides] * n_panels, make_caption(grid.has_indices, grid.step))
    for i, (layer, triple) in enumerate(zip(one.layers, triples, strict=True)):
        for j, (cells, name) in enumerate(zip(triple, NAMES, strict=True)):
            title = f"layer {layer}   {name}" if j == 0 else name
            panels.set_panel(len(NAMES) * i + j, cells, scales[j == len(NAMES) - 1], title)
    return panels.figure


def describe_changes(first: AttentionMaps, second: AttentionMaps) -> list[str]:
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
