"""How heatmaps and pages are shown: the options, and what a reader must be told of the data."""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.colors import Colormap, Normalize

from ..errors import OptionError
from ..maps import AttentionMaps
from .scales import QUANTILE, Extent, Scale, get_colormap, make_norm, make_scale, measure_weights
from .sinks import SINKS, count_hidden, treat_sink
from .style import PageStyle
from .venues import adapt_style, find_venue, get_style

SCALES = ("shared", "panel")
AUTO = "auto"
FIGS_PER_ROW = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridOptions:
    """How weights are shown.

    Parameters
    ----------
    num_figs_per_row : int or "auto", optional
        Panels side by side, ``"auto"`` for a page without empty places that is about as high as wide; left out, 4, and
        on pages of a given width as many as fit them best.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token, which often takes most of the weight: nothing; its column and its own row
        are left out; the same, and each row is divided by what is left of it.
    cmap : str or matplotlib.colors.Colormap, optional
        A matplotlib colour map; left out, the one of this package.
    norm : {"linear", "power", "log", "quantile"} or matplotlib.colors.Normalize
        Scale from weights to colours; ``"quantile"`` is linear and ends at the 99 % quantile of what is shown.
    vmin, vmax : float, optional
        Ends of the scale; left out, 0 and a round number from the largest weight up, not counting queries that see
        almost no keys.
    scale : {"shared", "panel"}
        One scale and colour bar for all panels, or a scale for each, its end in the title.

    Raises
    ------
    OptionError
        If a value cannot be used.
    """

    num_figs_per_row: int | str | None = None
    sink: str = "keep"
    cmap: str | Colormap | None = None
    norm: str | Normalize = "linear"
    vmin: float = 0.0
    vmax: float | None = None
    scale: str = "shared"

    def __post_init__(self) -> None:
        """Check all values, so that a wrong one is found before any work is done."""
        per_row = self.num_figs_per_row
        is_count = isinstance(per_row, int) and not isinstance(per_row, bool) and per_row >= 1
        if not (is_count or per_row is None or per_row == AUTO):
            raise OptionError(f"num_figs_per_row must be a whole number from 1 or 'auto', got {per_row!r}")
        for name, known in (("sink", SINKS), ("scale", SCALES)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
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
class PageOptions:
    """How a page looks; every function that makes one takes these.

    Parameters
    ----------
    title : str, optional
        What the page shows; the model's name goes before it. Left out, what the function draws.
    heading : bool
        Whether title and model stand above the figure; in a paper the caption says them.
    notes : bool or sequence of str
        Whether what was done to the data stands above the figure; phrases to add to it.
    figsize : tuple of float, optional
        Width and height of the page in inches.
    width : float, optional
        Width of the page in inches; its height is what it needs.
    dark : bool, optional
        Whether the page is dark; left out, as the preset has it.
    fontsize : float, optional
        Font size of labels in points; everything else grows with it.
    preset : str, optional
        A venue such as ``"icml2024"``: its width, fonts and font sizes; left out, that of `use_preset` around the call.
    columns : {1, 2}
        Columns of the venue's page that the figure spans.

    Raises
    ------
    OptionError
        If a value cannot be used.
    """

    title: str | None = None
    heading: bool = True
    notes: bool | Sequence[str] = True
    figsize: tuple[float, float] | None = None
    width: float | None = None
    dark: bool | None = None
    fontsize: float | None = None
    preset: str | None = None
    columns: int = 1

    def __post_init__(self) -> None:
        """Check all values."""
        for name in ("width", "fontsize"):
            value = getattr(self, name)
            if value is not None and not _is_length(value):
                raise OptionError(f"{name} must be a number above 0, got {value!r}")
        if self.figsize is not None:
            try:
                size = tuple(self.figsize)
            except TypeError:
                size = ()
            if len(size) != 2 or not all(map(_is_length, size)):
                raise OptionError(f"figsize must be width and height in inches, got {self.figsize!r}")
            if self.width is not None:
                raise OptionError("width is for pages as high as they need; figsize has a width of its own")
        if isinstance(self.notes, str) or not (
            isinstance(self.notes, bool) or all(isinstance(note, str) for note in self.notes)
        ):
            raise OptionError(f"notes must be True, False or a sequence of phrases, got {self.notes!r}")
        if self.title is not None and not isinstance(self.title, str):
            raise OptionError(f"title must be text, got {self.title!r}")

    @property
    def phrases(self) -> list[str]:
        """Phrases that the caller adds to the notes."""
        return [] if isinstance(self.notes, bool) else list(self.notes)

    @property
    def shown(self) -> dict[str, bool]:
        """What of a caption is shown, for `page.Caption`."""
        return {"has_heading": self.heading, "has_notes": self.notes is not False}

    def make_style(self) -> PageStyle:
        """Return the look of the page."""
        style = get_style() if self.preset is None else find_venue(self.preset, columns=self.columns)
        return adapt_style(style, width=self.width, figsize=self.figsize, dark=self.dark, fontsize=self.fontsize)


def _is_length(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def split_options(options: dict[str, Any], **defaults: Any) -> tuple[GridOptions, PageOptions]:
    """Part the options of a page of heatmaps.

    Parameters
    ----------
    options : dict
        Fields of `GridOptions` and of `PageOptions`.
    **defaults
        Values of options that are left out.

    Returns
    -------
    look : GridOptions
        How weights are shown.
    page : PageOptions
        How the page looks.

    Raises
    ------
    OptionError
        If one is unknown or has a wrong value.
    """
    options = defaults | options
    names = [{field.name for field in dataclasses.fields(kind)} for kind in (GridOptions, PageOptions)]
    check_names(options, names[0] | names[1])
    look, page = ({key: value for key, value in options.items() if key in known} for known in names)
    return GridOptions(**look), PageOptions(**page)


def check_names(options: dict[str, Any], known: set[str]) -> None:
    """Refuse options that are not known, with the nearest one that is."""
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
            raise OptionError(f"there is no option {name}; {hint}")


def measure_maps(maps: AttentionMaps, look: GridOptions) -> Extent:
    """Find where the scale of a page of these maps ends, after the first token was hidden or rows renormalised."""
    rows, columns = count_hidden(maps, look.sink)
    seen = ~maps.future[rows:, columns:]
    extent = measure_weights((treat_sink(weights, maps, look.sink) for weights in maps.weights), seen, look.norm)
    return dataclasses.replace(extent, is_signed=maps.signed)


def describe_data(
    maps: AttentionMaps,
    options: GridOptions,
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
    options : GridOptions
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
