"""Two models side by side: A, B and B − A for every layer."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..declarations import takes_options
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps
from .grids import fit_pages
from .heatmap import read_sides
from .options import WeightLook, describe_data
from .page import Caption, PageFigure
from .panels import PanelPage
from .scales import Extent, make_scale, measure_weights
from .sinks import treat_mask, treat_sink
from .style import shorten_label

NAMES = ("A", "B", "B − A")


@takes_options(WeightLook)
def plot_comparison(first: AttentionMaps, second: AttentionMaps, *, options: WeightLook) -> PageFigure:
    """Draw the layer averages of two models and their difference, a row a layer.

    Parameters
    ----------
    first, second : AttentionMaps
        A and B: the same tokens and layers, as `compare_attention` checks.
    **options
        Options of `WeightLook`. The scale of A and B is shared; that of B − A is centred at 0.

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
    (figure,) = _draw_pages(first, second, 1, options)
    return figure


def iterate_comparison_pages(first: AttentionMaps, second: AttentionMaps, options: WeightLook) -> Iterator[PageFigure]:
    """Draw what `plot_comparison` draws on as few pages as hold it, all on the same scales."""
    yield from fit_pages(lambda n_pages: _draw_pages(first, second, n_pages, options), len(first.layers))


def _draw_pages(first: AttentionMaps, second: AttentionMaps, n_pages: int, options: WeightLook) -> Iterator[PageFigure]:
    one, other = first.average_heads(), second.average_heads()
    sides, pooling = read_sides(one, options.sink).pool()
    future = treat_mask(one, options.sink)
    triples = []
    for a, b in zip(one.weights, other.weights, strict=True):
        a, b = (np.ma.masked_array(treat_sink(w[0].astype(np.float32), one, options.sink), future) for w in (a, b))
        triples.append((a, b, b - a))
    names = [f"A: {first.model_id}", f"B: {second.model_id}"]
    style = options.make_style([*sides.texts, *names])
    extents = [options.measure(maps) for maps in (one, other)]
    extent = Extent(max(e.end for e in extents), max(e.largest for e in extents), one.signed)
    # Where heads of one were zeroed, even what is 1 by construction differs.
    changes = measure_weights([np.ma.filled(difference, 0) for *_, difference in triples], ~future, options.norm)
    shared = options.make_scale(extent, style, WEIGHTINGS[one.weighting])
    signed = dataclasses.replace(changes, is_signed=True)
    scales = shared, shared, make_scale(signed, palette=style.palette, label=NAMES[-1])

    def make_caption(has_indices: bool, step: int) -> Caption:
        plain = dataclasses.replace(one, interventions=())
        notes = [
            *(shorten_label(name, 60) for name in names),
            *describe_changes(first, second),
            one.averaged if one.averaged == other.averaged else f"A: {one.averaged}, B: {other.averaged}",
            *describe_data(plain, options, pooling, has_indices=has_indices, step=step),
        ]
        return options.make_caption("two models", notes, bars=scales[1:])

    look = {"wish": len(NAMES), "fewest": len(NAMES)}
    size = -(-len(triples) // n_pages)
    for start in range(0, len(triples), size):
        layers = one.layers[start : start + size]
        every = [sides] * len(NAMES) * len(layers)
        page = PanelPage(style, every, [f"layer {max(one.layers)}   A"], make_caption, **look, is_outer=True)
        for i, (layer, triple) in enumerate(zip(layers, triples[start:], strict=False)):
            titles = f"layer {layer}   {NAMES[0]}", *NAMES[1:]
            for j, (cells, scale, title) in enumerate(zip(triple, scales, titles, strict=True)):
                page.set_panel(len(NAMES) * i + j, cells, scale, title)
        yield page.figure


def describe_changes(first: AttentionMaps, second: AttentionMaps) -> list[str]:
    """Return phrases of what was done to heads of the model when A and B were captured."""
    return [f"{side} changed: {words}" for side, maps in (("A", first), ("B", second)) for words in maps.interventions]
