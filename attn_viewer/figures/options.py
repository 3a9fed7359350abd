"""How heatmaps and pages are shown: the options, and what a reader must be told of the data."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from ..errors import OptionError
from ..maps import AttentionMaps
from ..options import FigurePageOptions, PanelOptions
from .scales import QUANTILE, Extent, Scale, get_colormap, make_norm, make_scale, measure_weights
from .sinks import count_hidden, treat_sink
from .style import PageStyle
from .venues import adapt_style, find_venue, get_style

AUTO = "auto"
FIGS_PER_ROW = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanelLook(PanelOptions):
    """How weights are shown."""

    def __post_init__(self) -> None:
        """Check all values, so that a wrong one is found before any work is done."""
        super().__post_init__()
        get_colormap(self.cmap)
        make_norm(self.norm, self.vmin, max(1.0, self.vmin + 1) if self.vmax is None else self.vmax)

    def make_scale(self, extent: Extent, style: PageStyle, label: str = "") -> Scale:
        """Return the scale of weights on a page."""
        return make_scale(
            extent,
            norm=self.norm,
            vmin=self.vmin,
            vmax=self.vmax,
            cmap=self.cmap,
            palette=style.palette,
            label=label,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageLook(FigurePageOptions):
    """How a page looks; every function that makes one takes these."""

    def __post_init__(self) -> None:
        """Check all values."""
        super().__post_init__()
        if self.figsize is not None and not all(0 < side < math.inf for side in self.figsize):
            raise OptionError(f"figsize must be width and height in inches, got {self.figsize!r}")
        if self.figsize is not None and self.width is not None:
            raise OptionError("width is for pages as high as they need; figsize has a width of its own")

    @property
    def phrases(self) -> list[str]:
        """Phrases that the caller adds to the notes."""
        return [] if isinstance(self.notes, bool) else list(self.notes)

    @property
    def shown(self) -> dict[str, Any]:
        """What of a caption is shown, for `page.Caption`."""
        return {"has_heading": self.heading, "has_notes": self.notes is not False}

    def make_style(self) -> PageStyle:
        """Return the look of the page."""
        style = get_style() if self.preset is None else find_venue(self.preset, columns=self.columns)
        return adapt_style(style, width=self.width, figsize=self.figsize, dark=self.dark, fontsize=self.fontsize)


def split_options(options: dict[str, Any], **defaults: Any) -> tuple[PanelLook, PageLook]:
    """Part the options of a page of heatmaps.

    Parameters
    ----------
    options : dict
        Options of `PanelLook` and of `PageLook`.
    **defaults
        Values of options that are left out, or None.

    Returns
    -------
    look : PanelLook
        How weights are shown.
    page : PageLook
        How the page looks.

    Raises
    ------
    OptionError
        If one is unknown or has a wrong value.
    """
    options = defaults | {name: value for name, value in options.items() if value is not None or name not in defaults}
    PanelLook.check_names(options, also=PageLook.list_names(), caller="a page of heatmaps")
    names = PanelLook.list_names()
    look = {key: value for key, value in options.items() if key in names}
    return PanelLook(**look), PageLook(**{key: value for key, value in options.items() if key not in names})


def measure_maps(maps: AttentionMaps, look: PanelLook) -> Extent:
    """Find where the scale of a page of these maps ends, after the first token was hidden or rows renormalised."""
    rows, columns = count_hidden(maps, look.sink)
    seen = ~maps.future[rows:, columns:]
    extent = measure_weights((treat_sink(weights, maps, look.sink) for weights in maps.weights), seen, look.norm)
    return dataclasses.replace(extent, is_signed=maps.signed)


def describe_data(
    maps: AttentionMaps,
    options: PanelLook,
    pooling: tuple[int, int] = (1, 1),
    *,
    has_indices: bool = False,
    step: int = 1,
    has_lines: bool = False,
) -> Iterator[str]:
    """Yield what a reader must know about the data of a page.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    options : PanelLook
        How they are shown.
    pooling : tuple of int
        Rows and columns of the maps that were drawn as one cell.
    has_indices : bool
        Whether token indices label the axes.
    step : int
        Tokens from one label to the next, where not all are labelled.
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
    elif step > 1:
        yield f"one {unit} in {step} labelled"
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
        yield f"colours end at the {QUANTILE * 100:g} % quantile"
    if options.norm == "log":
        yield "logarithmic colour scale"
    if options.scale == "panel":
        yield "each panel on its own scale"
