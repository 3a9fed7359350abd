"""Figures over all heads: layers down, heads across."""

import numbers
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from ..declarations import takes_options
from ..errors import OptionError
from .labels import GAP, TICK
from .options import AtlasLook, AtlasPageLook
from .page import LINE, MARGIN, Caption, Page, PageFigure, check_height
from .scales import QUANTILE, Scale, get_colormap, make_norm, round_end
from .style import LIGHT, PageStyle, Palette
from .ticks import set_token_ticks

# Height of a cell and how much wider than high it may be, in points; small models get large cells.
THINNEST_CELL, TALLEST_CELL, WIDEST_RATIO = 2.0, 10.0, 2.4
ATLAS_WIDTH, ATLAS_HEIGHT = 190.0, 270.0
MEANS_WIDTH, MEANS = 44.0, "layer mean"


def arrange_scores(values: Any, look: AtlasLook) -> tuple[np.ma.MaskedArray, tuple[int, ...], tuple[int, ...]]:
    """Put scores of heads on a grid, masked where there is none; return it with the numbers of its layers and heads.

    Layers go down and heads across; scores are as `draw_atlas` takes them.
    """
    try:
        scores = [np.asarray(layer, np.float64) for layer in values]
    except (TypeError, ValueError) as error:
        raise OptionError(f"scores must be real numbers (n_layers, n_heads), got {values!r:.80}") from error
    if not scores or any(layer.ndim != 1 for layer in scores) or not any(len(layer) for layer in scores):
        raise OptionError(
            f"scores must have axes (n_layers, n_heads), got {[layer.shape for layer in scores][:4]} for the first "
            "layers; average or choose over any other axis first"
        )
    if any(np.isinf(layer).any() for layer in scores):
        raise OptionError("scores must be finite, or NaN where a score means nothing; got an infinite one")
    rows = tuple(range(len(scores)) if look.layers is None else look.layers)
    heads: Sequence[Any] = [range(len(layer)) for layer in scores] if look.heads is None else look.heads
    if look.heads is not None and all(isinstance(head, numbers.Integral) for head in heads):
        heads = [tuple(heads)] * len(scores)
    if len(rows) != len(scores) or len(set(rows)) != len(rows):
        raise OptionError(f"layers must be {len(scores)} different numbers, got {list(rows)}")
    if [len(set(numbers_)) for numbers_ in heads] != [len(layer) for layer in scores]:
        raise OptionError(
            f"heads must be different numbers, {[len(layer) for layer in scores]} of them in the layers, "
            f"got {[len(set(numbers_)) for numbers_ in heads]}"
        )
    columns = tuple(sorted(set().union(*heads)))
    grid = np.full((len(rows), len(columns)), np.nan)
    for row, numbers_, layer in zip(grid, heads, scores, strict=True):
        row[np.searchsorted(columns, numbers_)] = layer
    return np.ma.masked_invalid(grid), rows, columns


@takes_options(AtlasLook)
def draw_atlas(values: Any, *, ax: Axes | None = None, options: AtlasLook) -> Axes:
    """Draw a score of every head into your own axes, layers down and heads across.

    Parameters
    ----------
    values : array_like or sequence of array_like
        Axes ``(n_layers, n_heads)``, or one sequence a layer where layers differ in heads; NaN is drawn neutral.
    ax : matplotlib.axes.Axes, optional
        Where to draw; left out, in a figure of its own.
    **options
        Options of `AtlasLook`; ends of the scale that are left out are 0 (or the smallest score below it) and a round
        number from the largest up.

    Returns
    -------
    matplotlib.axes.Axes
        `ax`; the cells are ``ax.images[-1]``, ready for ``figure.colorbar``.

    Raises
    ------
    OptionError
        If values, numbers, marks or scale cannot be used.
    """
    grid, rows, columns = arrange_scores(values, options)
    scale = make_score_scale(grid, options)
    if ax is None:
        ax = PageFigure(layout="constrained").add_subplot(xlabel="head", ylabel="layer")
    draw_scores(ax, grid, rows, columns, scale, options.marks, LIGHT.ink if options.diverging else LIGHT.accent)
    for axis, shown, is_key in ((ax.yaxis, rows, False), (ax.xaxis, columns, True)):
        set_token_ticks(axis, [str(number) for number in shown], 0, len(shown), is_key=is_key, most_step=len(shown))
    return ax


def draw_scores(
    ax: Axes,
    grid: np.ma.MaskedArray,
    rows: Sequence[int],
    columns: Sequence[int],
    scale: Scale,
    marks: Sequence[tuple[int, int]],
    accent: str,
) -> None:
    """Draw the cells of `arrange_scores`, and frames around some of them, without ticks."""
    places = [_find_cell(mark, rows, columns, grid) for mark in marks]
    ax.imshow(grid, norm=scale.norm, cmap=scale.cmap, interpolation="nearest", aspect="auto", origin="upper")
    frames = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in places]
    for color, width in (("white", 2.4), (accent, 1.2)) if frames else ():
        look: dict[str, Any] = {"edgecolor": color, "linewidth": width, "zorder": 3, "clip_on": False}
        ax.add_collection(PatchCollection(frames, facecolor="none", **look))


@takes_options(AtlasPageLook)
def plot_atlas(values: Any, *, options: AtlasPageLook) -> PageFigure:
    """Draw a score of every head on a page of its own, layers down and heads across.

    Parameters
    ----------
    values : array_like or sequence of array_like
        Axes ``(n_layers, n_heads)``, or one sequence a layer where layers differ in heads; NaN is drawn neutral.
    **options
        Options of `AtlasPageLook`; ends of the scale are those of `draw_atlas`.

    Returns
    -------
    PageFigure
        The page; its axes are the page, the colour bar, the atlas and the means.

    Raises
    ------
    OptionError
        If values, numbers, marks or scale cannot be used.
    PageSizeError
        If it does not fit the page.
    """
    grid, rows, columns = arrange_scores(values, options)
    told = list(options.describe())
    style = options.make_style(["all heads", options.model_id, options.label, *told])
    scale = make_score_scale(grid, options, style.palette, style.spell(options.label))
    caption = options.make_caption("all heads", told, model_id=options.model_id, bars=[scale])
    across = measure_means(scale, style, MEANS) if options.layer_means else 0.0
    beside = MARGIN * options.layer_means + across
    size = fit_cells(*grid.shape, room=find_grid_room(rows, style, beside=beside))
    page = GridPage(style, *size, rows, caption, beside=beside)
    with mpl.rc_context(page.rc):
        accent = style.palette.ink if options.diverging else style.palette.accent
        draw_scores(page.panel, grid, rows, columns, scale, options.marks, accent)
        label_numbers(page.panel, rows, columns, style)
        if options.layer_means:
            left, bottom, width, height = page.place
            left += width + MARGIN
            draw_means(page, (left, bottom, across, height), scale, grid.mean(axis=1), "layer")
            page.name_axis(left + across / 2, page.bottom + style.axis / 2, MEANS)
    return page.figure


def measure_means(scale: Scale, style: PageStyle, name: str) -> float:
    """Return the width of bars of means, in points: room for their name, and for the numbers of both ends."""
    numbers = sum(style.measure(text, style.label)[0] for text in _write_ends(scale)) + style.label
    return max(MEANS_WIDTH, style.measure(name, style.axis)[0], numbers)


def _find_ends(scale: Scale) -> tuple[float, float]:
    low, high = scale.norm.vmin, scale.norm.vmax
    return 0.0 if low is None else float(low), 1.0 if high is None else float(high)


def _write_ends(scale: Scale) -> list[str]:
    return [f"{end:.2g}" for end in _find_ends(scale)]


def draw_means(
    page: Page, place: tuple[float, float, float, float], scale: Scale, means: np.ma.MaskedArray, of: str
) -> Axes:
    """Draw means of rows as bars in a place beside them, in the colours that they would have."""
    style = page.style
    ax = page.add_axes(*place, f"{of} means")
    colours = scale.make_mappable().to_rgba(means)
    look: dict[str, Any] = {"height": 0.8, "edgecolor": style.palette.frame, "linewidth": 0.4}
    ax.barh(range(len(means)), np.ma.filled(means, 0), color=colours, **look)
    ax.set(xlim=_find_ends(scale), ylim=(len(means) - 0.5, -0.5), yticks=[])
    ax.set_xticks(_find_ends(scale), _write_ends(scale))
    first, last = ax.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    ax.xaxis.set_tick_params(length=TICK, width=0.5, pad=1.5, labelsize=style.label)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


class GridPage(Page):
    """A page with one panel of layers down and heads across, still empty, of so many points, and room `beside` it.

    `place` is left, bottom, width and height of the `panel` in points.
    """

    def __init__(
        self,
        style: PageStyle,
        width: float,
        height: float,
        rows: Sequence[int],
        caption: Caption,
        *,
        beside: float = 0.0,
        across: str = "head",
    ) -> None:
        left, below = measure_row_numbers(rows, style), measure_column_numbers(style)
        if style.height is not None:
            # No higher than the page, for a score is as well seen in lower cells.
            page = style.width or left + width + beside + 2 * MARGIN
            height = min(height, style.height - caption.lay_out(style, page).height - 2 * MARGIN - below - 1)
            if height < THINNEST_CELL / 2 * len(rows):
                check_height(style, style.height + THINNEST_CELL / 2 * len(rows) - height)
        super().__init__(style, left + width + beside, below + height, caption)
        self.place = MARGIN + left, self.bottom + below, width, height
        with mpl.rc_context(self.rc):
            self.panel = self.add_axes(*self.place, "heads")
            edge = style.axis / 2
            self.name_axis(MARGIN + edge, self.bottom + below + height / 2, "layer", rotation=90)
            self.name_axis(MARGIN + left + width / 2, self.bottom + edge, across)


def measure_row_numbers(rows: Sequence[int], style: PageStyle) -> float:
    """Return the room left of a grid for layer numbers and the name of their axis, in points."""
    return style.axis * LINE + style.measure(str(max(rows)), style.label)[0] + GAP + TICK


def measure_column_numbers(style: PageStyle) -> float:
    """Return the room below a grid for head numbers and the name of their axis, in points."""
    return style.axis * LINE + style.label + GAP + TICK


def find_grid_room(rows: Sequence[int], style: PageStyle, *, beside: float = 0.0) -> float | None:
    """Return the width that a page leaves for a grid with so much `beside` it, in points; None where none is given."""
    return None if style.width is None else style.width - 2 * MARGIN - measure_row_numbers(rows, style) - beside


def fit_cells(n_rows: int, n_columns: int, *, room: float | None = None) -> tuple[float, float]:
    """Return width and height of an atlas in points: as wide as `room`, or as a column of a paper allows, or more.

    Cells are never too thin to see.
    """
    high = min(max(ATLAS_HEIGHT / n_rows, THINNEST_CELL), TALLEST_CELL)
    if room is not None:
        return min(room, 4 * WIDEST_RATIO * high * n_columns), high * n_rows
    wide = min(max(ATLAS_WIDTH / n_columns, THINNEST_CELL), WIDEST_RATIO * high)
    return max(wide * n_columns, 2 * TALLEST_CELL), high * n_rows


def make_score_scale(grid: np.ma.MaskedArray, look: AtlasLook, palette: Palette = LIGHT, label: str = "") -> Scale:
    """Return colours for scores of heads from what is wished and what is there."""
    low, high = (float(grid.min()), float(grid.max())) if grid.count() else (0.0, 1.0)
    colours = get_colormap(look.cmap, diverging=look.diverging, palette=palette)
    if isinstance(look.norm, Normalize):
        look.norm.autoscale_None(grid.compressed())
        return Scale(look.norm, colours, label, high, low)
    top = high
    if look.norm == "quantile" and grid.count():
        top = float(np.quantile(abs(grid.compressed()) if look.diverging else grid.compressed(), QUANTILE))
    elif look.diverging:
        top = max(-low, high)
    if look.diverging:
        if look.norm not in ("linear", "quantile"):
            raise OptionError(f"a diverging scale is linear around 0, got norm={look.norm!r}")
        limit = (round_end(top) if top > 0 else 1.0) if look.vmax is None else look.vmax
        if look.vmin not in (None, -limit):
            raise OptionError(
                f"a diverging scale is centred on 0; give vmax alone, got vmin={look.vmin:g}, vmax={limit:g}"
            )
        return Scale(make_norm("linear", -limit, limit), colours, label, high, low)
    if look.norm == "log" and (low if look.vmin is None else look.vmin) < 0:
        raise OptionError(f"a logarithmic scale has no place for scores below 0, got {low:g}; use norm='linear'")
    start = (0.0 if low >= 0 else -round_end(-low)) if look.vmin is None else look.vmin
    # A constant score is no scale; it stands at the start of one. Scores below 0 end there.
    least = 0.0 if start < 0 else start + 1.0
    end = (round_end(top, look.norm) if top > max(start, 0) else least) if look.vmax is None else look.vmax
    return Scale(make_norm(look.norm, start, end), colours, label, high, low if look.norm != "log" else start)


def _find_cell(
    mark: tuple[int, int], rows: Sequence[int], columns: Sequence[int], grid: np.ma.MaskedArray
) -> tuple[int, int]:
    try:
        layer, head = mark
        place = rows.index(layer), columns.index(head)
    except (TypeError, ValueError) as error:
        raise OptionError(f"marks must be (layer, head) pairs of heads that are shown, got {mark!r}") from error
    if np.ma.getmaskarray(grid)[place]:
        raise OptionError(f"head {head} of layer {layer} has no score to mark")
    return place


def label_numbers(ax: Axes, rows: Sequence[int], columns: Sequence[int], style: PageStyle) -> None:
    """Write the true numbers of layers and heads at the axes of a grid with one cell a head, as many as fit."""
    width, height = (side * 72 / ax.figure.dpi for side in (ax.bbox.width, ax.bbox.height))
    number = style.measure(str(max(columns)), style.label)[0] + 4
    steps = (
        _choose_tick_step(rows, height, style.label * 1.15),
        _choose_tick_step(columns, width, number),
    )
    for axis, shown, step in zip((ax.yaxis, ax.xaxis), (rows, columns), steps, strict=True):
        ticks = [i for i, value in enumerate(shown) if step == 1 or value % step == 0] or [0]
        axis.set_ticks(ticks, [str(shown[i]) for i in ticks])
        axis.set_tick_params(length=TICK, width=0.5, pad=1.5, labelsize=style.label)


def _choose_tick_step(shown: Sequence[int], length: float, room: float) -> int:
    """Return 1 if every number fits, else the smallest round step whose multiples lie far enough apart."""
    if length / len(shown) >= room:
        return 1
    for step in (2, 5, 10, 20, 50, 100, 200, 500, 1000):
        places = [i for i, value in enumerate(shown) if value % step == 0]
        if len(places) > 1 and min(np.diff(places)) * length / len(shown) >= room:
            return step
    return max(max(shown), 1) + 1
