"""How figures and their pages look: the options, and what a reader must be told of the data."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes

from ..declarations import option
from ..errors import OptionError
from ..maps import AttentionMaps
from ..options import (
    ColourOptions,
    FigurePageOptions,
    MapOptions,
    PanelOptions,
    ScaleOptions,
)
from .page import Caption
from .scales import QUANTILE, Extent, Scale, get_colormap, make_norm, make_scale, measure_weights
from .sinks import treat_mask, treat_sink
from .style import DARK, PageStyle
from .venues import find_venue, get_style

FIGS_PER_ROW = 4
Highlight = Mapping[str, Sequence[Any]]
_FRAMED = (
    'what to frame: "rows" and "columns", numbers of tokens; "cells", pairs of a query and a key; "diagonals", by how '
    'many tokens keys come before their query; "segments", by name, the tokens of each that look at each other'
)


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
    def span(self) -> int:
        """Columns of the venue's page that the figure spans."""
        return self.columns

    @property
    def phrases(self) -> list[str]:
        """Phrases that the caller adds to the notes."""
        return [] if isinstance(self.notes, bool) else list(self.notes)

    def make_style(self, texts: Iterable[str] = ()) -> PageStyle:
        """Return the look of the page, with fonts for these texts and those of the caller."""
        style = get_style() if self.preset is None else find_venue(self.preset, columns=self.span)
        if self.fontsize is not None:
            style = style.scale_fonts(self.fontsize)
        if self.width is not None:
            style = dataclasses.replace(style, width=self.width * 72)
        if self.figsize is not None:
            width, height = self.figsize
            style = dataclasses.replace(style, width=width * 72, height=height * 72, is_exact=True)
        if self.dark:
            style = dataclasses.replace(style, palette=DARK)
        return style.fit_fonts([*texts, self.title or "", *self.phrases])

    def make_caption(
        self, heading: str, notes: Iterable[str] = (), *, model_id: str = "", bars: Sequence[Scale] = ()
    ) -> Caption:
        """Return what the page says: the caller's title or this heading, and the caller's notes before these."""
        return Caption(
            heading=self.title or heading,
            model_id=model_id,
            notes=[*self.phrases, *notes],
            bars=bars,
            has_heading=self.heading,
            has_notes=self.notes is not False,
        )


class ScaleLook(ScaleOptions):
    """From numbers to colours."""

    def __post_init__(self) -> None:
        """Check all values, so that a wrong one is found before any work is done."""
        super().__post_init__()
        get_colormap(self.cmap)
        start = self.vmin or 0.0
        make_norm(self.norm or "linear", start, max(1.0, start + 1) if self.vmax is None else self.vmax)

    def describe(self) -> Iterator[str]:
        """Yield what a reader must know of the scale."""
        if self.norm == "power":
            yield "square-root colour scale"
        if self.norm == "quantile" and self.vmax is None:
            yield f"colours end at the {QUANTILE * 100:g} % quantile"
        if self.norm == "log":
            yield "logarithmic colour scale"


class HeatmapLook(ColourOptions, ScaleLook, vmin=None):
    """How one heatmap looks, and what of the weights it shows."""

    layer: int | None = option(None, "of maps: true layer number; left out, the only one")
    head: int | None = option(None, "of maps: true head number; left out, the mean over heads")
    tokens_query: Sequence[Any] | None = option(None, "of a matrix: labels of rows")
    tokens_key: Sequence[Any] | None = option(None, "of a matrix: labels of columns; left out, those of the queries")
    causal: bool = option(
        False,
        "of a matrix: whether to mask the keys that come after each query; queries that are fewer than the keys are "
        "the last ones",
    )
    cbar: bool | Axes = option(False, "whether to draw a colour bar, or the axes for it")
    highlight: Highlight | None = option(None, _FRAMED)


class AtlasLook(ScaleLook, vmin=None):
    """How scores of heads look."""

    layers: Sequence[int] | None = option(None, "true layer numbers; left out, they count from 0")
    heads: Sequence[int] | Sequence[Sequence[int]] | None = option(
        None, "true head numbers, the same for all layers or one sequence a layer; left out, they count from 0"
    )
    diverging: bool = option(False, "whether scores are signed differences, on a map centred at 0, from -vmax to vmax")
    marks: Sequence[tuple[int, int]] = option((), "layer and head numbers to frame")


class AtlasPageLook(AtlasLook, PageLook):
    """How a page of scores of heads looks."""

    label: str = option("score", "name of the score, with its unit, for the colour bar")
    model_id: str = option("", "name of the model, which goes before the heading")
    layer_means: bool = option(
        False, "whether to draw the mean over the heads of each layer beside them, as bars on the same scale"
    )


class WeightLook(ColourOptions, ScaleLook, PageLook):
    """How a page of weights looks."""

    def make_scale(self, extent: Extent, style: PageStyle, label: str = "") -> Scale:
        """Return the scale of weights on a page."""
        look: dict[str, Any] = {"norm": self.norm, "vmin": self.vmin, "vmax": self.vmax, "cmap": self.cmap}
        return make_scale(extent, **look, palette=style.palette, label=label)

    def measure(self, maps: AttentionMaps) -> Extent:
        """Find where the scale of these maps ends, after the first token was hidden or rows renormalised."""
        seen = ~treat_mask(maps, self.sink)
        extent = measure_weights((treat_sink(weights, maps, self.sink) for weights in maps.weights), seen, self.norm)
        return dataclasses.replace(extent, is_signed=maps.signed)


class MapLook(MapOptions, WeightLook):
    """How a page of maps looks."""

    def describe(self) -> Iterator[str]:
        """Yield what a reader must know of the scale."""
        yield from super().describe()
        if self.scale == "panel":
            yield "each panel on its own scale"


class OverviewLook(MapLook, norm=None):
    """How a page of all layers looks; `norm` left out is power, or linear where weights have signs."""

    def choose_norm(self, maps: AttentionMaps) -> "OverviewLook":
        """Return the look for these maps."""
        norm = ("linear" if maps.signed else "power") if self.norm is None else self.norm
        return dataclasses.replace(self, norm=norm)


class PanelLook(PanelOptions, MapLook):
    """How a page of heatmaps looks."""


class ChosenLook(PanelLook):
    """How a page of chosen heads looks."""

    letters: bool = option(True, "whether panels are called (a), (b), …")
    columns: int | Literal["auto"] | None = option(  # type: ignore[assignment]  # of the venue's page it has one
        None, "panels side by side, as `num_figs_per_row` of other pages", at_least=1, apart="num_figs_per_row"
    )
    highlight: Highlight | Sequence[Highlight | None] | None = option(
        None,
        f"of every panel, or of each: {_FRAMED}",
    )

    @property
    def span(self) -> int:
        """Columns of the venue's page that the figure spans."""
        return 1


def describe_data(
    maps: AttentionMaps,
    look: WeightLook,
    pooling: tuple[int, int] = (1, 1),
    *,
    has_indices: bool = False,
    step: int = 1,
    has_lines: bool = False,
) -> Iterator[str]:
    """Yield what a reader must know about the data of a page, in phrases.

    `pooling` is rows and columns of the maps drawn as one cell; with `has_indices`, token indices label the axes, else
    tokens, `step` from one label to the next; with `has_lines`, dashed lines mark where the completion begins.
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
    if look.sink == "hide":
        yield f"first {unit} hidden" if maps.cell[1] == 1 else f"first {maps.cell[1]} keys hidden"
    if look.sink == "renormalise":
        yield f"first {unit} hidden, rows renormalised"
    if maps.has_sinks:
        yield "rows sum to less than 1: learned sinks take the rest"
    yield from maps.remarks
    yield from look.describe()
