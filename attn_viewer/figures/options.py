"""How heatmaps are shown: the options, and what a reader must be told of the data."""

import dataclasses

import numpy as np

from ..errors import OptionError
from . import style
from .sinks import SINKS, count_hidden, treat_sink

SCALES = ("shared", "panel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridOptions:
    """How a page of heatmaps looks.

    Parameters
    ----------
    num_figs_per_row : int
        Panels side by side.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token, which often takes most of the weight: nothing; its column and its own row
        are left out; the same, and each row is divided by what is left of it.
    cmap : str, optional
        A matplotlib colour map; left out, the one of this package.
    norm : {"linear", "power", "log", "quantile"}
        Scale from weights to colours; ``"quantile"`` is linear and ends at the 99 % quantile of what is shown.
    vmin, vmax : float, optional
        Ends of the scale; left out, 0 and the largest weight shown.
    scale : {"shared", "panel"}
        One scale and colour bar for all panels, or a scale for each, its largest weight in the title.

    Raises
    ------
    OptionError
        If a value cannot be used.
    """

    num_figs_per_row: int = 4
    sink: str = "keep"
    cmap: str | None = None
    norm: str = "linear"
    vmin: float = 0.0
    vmax: float | None = None
    scale: str = "shared"

    def __post_init__(self):
        """Check all values, so that a wrong one is found before any work is done."""
        if not isinstance(self.num_figs_per_row, int) or self.num_figs_per_row < 1:
            raise OptionError(f"num_figs_per_row must be a whole number from 1, got {self.num_figs_per_row!r}")
        for name, known in (("sink", SINKS), ("scale", SCALES)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        style.get_colormap(self.cmap)
        style.make_norm(self.norm, self.vmin, max(1.0, self.vmin + 1) if self.vmax is None else self.vmax)


def find_largest(maps, options):
    """Return the largest weight that a page of these maps shows.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    options : dict
        Fields of `GridOptions`.

    Returns
    -------
    float
        The largest weight, or the quantile at which the scale ends, after the first token was hidden or rows
        renormalised; never 0.
    """
    sink = options.get("sink", "keep")
    rows, columns = count_hidden(maps, sink)
    seen = ~maps.future[rows:, columns:]
    if options.get("norm") == "quantile" and seen.any():
        shown = [treat_sink(weights, maps, sink)[:, seen].ravel() for weights in maps.weights]
        return style.find_end(np.concatenate(shown), "quantile")
    return max(float(treat_sink(weights, maps, sink).max(initial=0)) for weights in maps.weights) or 1.0


def describe_data(maps, options, pooling=(1, 1), *, has_indices=False, has_lines=False):
    """Yield what a reader must know about the data of a page.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    options : GridOptions
        How they are shown.
    pooling : tuple of int
        Rows and columns of the maps that were drawn as one cell.
    has_indices : bool
        Whether token indices label the axes.
    has_lines : bool
        Whether dashed lines mark where the completion begins.

    Yields
    ------
    str
        A phrase.
    """
    n_query, n_key, unit = len(maps.tokens_query), len(maps.tokens_key), maps.unit
    if n_query != n_key:
        yield f"{n_query} query and {n_key} key {unit}s"
    else:
        yield f"{n_key} {unit}{'s' * (n_key > 1)}"
    if maps.grouping:
        yield "largest weight of each block" if maps.grouping[1] == "max" else "summed over keys, mean over queries"
    if maps.kind != "cross" and maps.prompt_length < n_key:
        yield f"{'dashed lines: ' * has_lines}generated from {unit} {maps.prompt_length} on"
    if maps.kind in ("encoder", "decoder", "cross"):
        yield {"encoder": "encoder", "decoder": "decoder", "cross": "cross attention"}[maps.kind]
    if maps.reduction == "pooled":
        yield f"each cell the {maps.pooling} over {maps.cell[0]} × {maps.cell[1]} tokens"
    if max(pooling) > 1:
        yield f"drawn as the max over {pooling[0]} × {pooling[1]} {'cells' if max(maps.cell) > 1 else unit + 's'}"
    if has_indices:
        yield f"axes count {unit}s from 0"
    if options.sink == "hide":
        yield f"first {unit} hidden" if maps.cell[1] == 1 else f"first {maps.cell[1]} keys hidden"
    if options.sink == "renormalise":
        yield f"first {unit} hidden, rows renormalised"
    if maps.has_sinks:
        yield "rows sum to less than 1: learned sinks take the rest"
    yield from maps.remarks
    if options.norm == "power":
        yield "square-root colour scale"
    if options.norm == "quantile" and options.vmax is None:
        yield f"colours end at the {style.QUANTILE * 100:g} % quantile"
    if options.norm == "log":
        yield "logarithmic colour scale"
    if options.scale == "panel":
        yield "each panel on its own scale"
