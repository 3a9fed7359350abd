"""Figures over all heads: layers down, heads across."""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Rectangle

from ..errors import OptionError
from .labels import GAP, TICK
from .options import PageLook
from .page import LINE, MARGIN, Caption, Page, PageFigure, check_height
from .scales import QUANTILE, Scale, get_colormap, make_norm, round_end
from .style import LIGHT, PageStyle, Palette
from .ticks import set_token_ticks

# Height of a cell and how much wider than high it may be, in points; small models get large cells.
THINNEST_CELL, TALLEST_CELL, WIDEST_RATIO = 2.0, 10.0, 2.4
ATLAS_WIDTH, ATLAS_HEIGHT = 190.0, 270.0
MEANS_WIDTH = 44.0


def arrange_scores(
    values: Any, *, layers: Sequence[int] | None = None, heads: Sequence[Any] | None = None
) -> tuple[np.ma.MaskedArray, tuple[int, ...], tuple[int, ...]]:
    """Put scores of heads on a grid, layers down and heads across.

    Parameters
    ----------
    values : array_like or sequence of array_like
        Axes ``(n_layers, n_heads)``, or one sequence a layer where layers differ in heads; NaN where a score means
        nothing.
    layers : sequence of int, optional
        True layer numbers; left out, they count from 0.
    heads : sequence of int or sequence of sequence of int, optional
        True head numbers, the same for all layers or one sequence a layer; left out, they count from 0.

    Returns
    -------
    grid : numpy.ma.MaskedArray
        Axes ``(n_layers, n_columns)``; masked where there is no head or no score.
    rows, columns : tuple of int
        Layer number of each row and head number of each column.

    Raises
    ------
    OptionError
        If the values are not finite real numbers or NaN, or numbers and values do not fit together.
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
    rows = tuple(range(len(scores)) if layers is None else layers)
    if heads is None:
        heads = [range(len(layer)) for layer in scores]
    elif all(isinstance(head, numbers.Integral) for head in heads):
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


def draw_atlas(
    values: Any,
    *,
    ax: Axes | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[Any] | None = None,
    diverging: bool = False,
    cmap: str | Colormap | None = None,
    norm: str | Normalize = "linear",
    vmin: float | None = None,
    vmax: float | None = None,
    marks: Sequence[tuple[int, int]] = (),
) -> Axes:
    """Draw a score of every head into your own axes, layers down and heads across.

    Parameters
    ----------
    values : array_like or sequence of array_like
        Axes ``(n_layers, n_heads)``, or one sequence a layer where layers differ in heads; NaN is drawn neutral.
    ax : matplotlib.axes.Axes, optional
        Where to draw; left out, in a figure of its own.
    layers : sequence of int, optional
        True layer numbers; left out, they count from 0.
    heads : sequence of int or sequence of sequence of int, optional
        True head numbers, the same for all layers or one sequence a layer; left out, they count from 0.
    diverging : bool
        Whether the scores are signed differences, on a map centred at 0.
    cmap : str or matplotlib.colors.Colormap, optional
        A matplotlib colour map; left out, the one of this package.
    norm : {"linear", "power", "log", "quantile"} or matplotlib.colors.Normalize
        Scale from scores to colours; linear or with a quantile at its end when `diverging`.
    vmin, vmax : float, optional
        Ends of the scale; left out, 0 (or the smallest score below it) and a round number from the largest up.
        When `diverging` the scale runs from ``-vmax`` to `vmax`.
    marks : sequence of (int, int)
        Layer and head numbers to frame.

    Returns
    -------
    matplotlib.axes.Axes
        `ax`; the cells are ``ax.images[-1]``, ready for ``figure.colorbar``.

    Raises
    ------
    OptionError
        If values, numbers, marks or scale cannot be used.
    """
    grid, rows, columns = arrange_scores(values, layers=layers, heads=heads)
    scale = make_score_scale(grid, diverging=diverging, cmap=cmap, norm=norm, vmin=vmin, vmax=vmax)
    if ax is None:
        ax = PageFigure(layout="constrained").add_subplot(xlabel="head", ylabel="layer")
    draw_scores(ax, grid, rows, columns, scale, marks=marks, accent=LIGHT.ink if diverging else LIGHT.accent)
    for axis, shown, is_key in ((ax.yaxis, rows, False), (ax.xaxis, columns, True)):
        set_token_ticks(axis, [str(number) for number in shown], 0, len(shown), is_key=is_key, most_step=len(shown))
    return ax


def draw_scores(
    ax: Axes,
    grid: np.ma.MaskedArray,
    rows: Sequence[int],
    columns: Sequence[int],
    scale: Scale,
    *,
    marks: Sequence[tuple[int, int]] = (),
    accent: str = LIGHT.accent,
) -> None:
    """Draw the cells of `arrange_scores`, and frames around some of them, without ticks."""
    places = [_find_cell(mark, rows, columns, grid) for mark in marks]
    ax.imshow(grid, norm=scale.norm, cmap=scale.cmap, interpolation="nearest", aspect="auto", origin="upper")
    frames = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in places]
    for color, width in (("white", 2.4), (accent, 1.2)) if frames else ():
        ax.add_collection(
            PatchCollection(frames, facecolor="none", edgecolor=color, linewidth=width, zorder=3, clip_on=False)
        )


def plot_atlas(
    values: Any,
    *,
    label: str = "score",
    title: str = "all heads",
    model_id: str = "",
    notes: bool | Sequence[str] = (),
    layers: Sequence[int] | None = None,
    heads: Sequence[Any] | None = None,
    layer_means: bool = False,
    **options: Any,
) -> PageFigure:
    """Draw a score of every head on a page of its own, layers down and heads across.

    Parameters
    ----------
    values : array_like or sequence of array_like
        Axes ``(n_layers, n_heads)``, or one sequence a layer where layers differ in heads; NaN is drawn neutral.
    label : str
        Name of the score, with its unit, for the colour bar.
    title : str
        Heading of the page.
    model_id : str
        Name of the model, which goes before the heading.
    notes : sequence of str or False
        What the page says about its data, in phrases; False for no notes at all.
    layers, heads : sequence, optional
        True numbers, as `draw_atlas` takes them.
    layer_means : bool
        Whether to draw the mean over the heads of each layer beside them, as bars on the same scale.
    **options
        `diverging`, `cmap`, `norm`, `vmin`, `vmax` and `marks`, as `draw_atlas` takes them; options of `PageLook`.

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
    grid, rows, columns = arrange_scores(values, layers=layers, heads=heads)
    look, page_options = _split_options(options, title=title, notes=notes)
    marks = look.pop("marks", ())
    style = page_options.make_style()
    scale = make_score_scale(grid, palette=style.palette, label=label, **look)
    norm = look.get("norm", "linear")
    told = (
        {
            "power": ["square-root colour scale"],
            "log": ["logarithmic colour scale"],
            "quantile": [f"colours end at the {QUANTILE * 100:g} % quantile"] * (look.get("vmax") is None),
        }.get(norm, [])
        if isinstance(norm, str)
        else []
    )
    caption = Caption(
        heading=title, model_id=model_id, notes=[*page_options.phrases, *told], bars=[scale], **page_options.shown
    )
    style = style.fit_fonts(caption.list_texts())
    caption = dataclasses.replace(
        caption,
        heading=style.spell(title),
        bars=[dataclasses.replace(scale, label=style.spell(label))],
    )
    beside = (MARGIN + MEANS_WIDTH) * layer_means
    room = find_grid_room(rows, style, beside=beside)
    size = fit_cells(*grid.shape, room=room)
    page = GridPage(style, *size, rows, caption, beside=beside)
    with mpl.rc_context(page.rc):
        accent = style.palette.ink if look.get("diverging") else style.palette.accent
        draw_scores(page.panel, grid, rows, columns, scale, marks=marks, accent=accent)
        label_numbers(page.panel, rows, columns, style)
        if layer_means:
            _draw_means(page, scale, grid.mean(axis=1))
    return page.figure


def _split_options(options: dict[str, Any], **others: Any) -> tuple[dict[str, Any], PageLook]:
    known = {"diverging", "cmap", "norm", "vmin", "vmax", "marks"}
    look = {name: value for name, value in options.items() if name in known}
    return look, PageLook(**others, **{name: value for name, value in options.items() if name not in known})


def _draw_means(page: "GridPage", scale: Scale, means: np.ma.MaskedArray) -> None:
    """Draw the mean of each layer as a bar beside its row, in the colour that it would have."""
    style = page.style
    left, bottom, width, height = page.place
    ax = page.add_axes(left + width + MARGIN, bottom, MEANS_WIDTH, height, "layer means")
    colours = scale.make_mappable().to_rgba(means)
    ax.barh(range(len(means)), means.filled(0), height=0.8, color=colours, edgecolor=style.palette.frame, lw=0.4)
    ends = [float(scale.norm.vmin or 0.0), float(scale.norm.vmax or 1.0)]
    ax.set(xlim=ends, ylim=page.panel.get_ylim(), yticks=[])
    ax.set_xticks(ends, [f"{end:.2g}" for end in ends])
    first, last = ax.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    ax.xaxis.set_tick_params(length=TICK, width=0.5, pad=1.5, labelsize=style.label)
    ax.spines[["top", "right"]].set_visible(False)
    page.name_axis(left + width + MARGIN + MEANS_WIDTH / 2, page.bottom + style.axis / 2, "layer mean")


class GridPage(Page):
    """A page with one panel of layers down and heads across.

    Parameters
    ----------
    style : PageStyle
        The look of the page.
    width, height : float
        Size of the panel in points.
    rows : sequence of int
        Layer numbers.
    caption : Caption
        What the page says about its data.
    beside : float
        Room right of the panel, in points.
    across : str
        Name of the horizontal axis.

    Attributes
    ----------
    place : tuple of float
        Left, bottom, width and height of the panel in points.
    panel : matplotlib.axes.Axes
        The panel, still empty.
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
    """Find the size of an atlas of so many layers and heads.

    Parameters
    ----------
    n_rows, n_columns : int
        Layers and heads.
    room : float, optional
        Width to fill, in points; left out, that of the column of a paper or, for many heads, more.

    Returns
    -------
    width, height : float
        Points; cells are as large as the page of a paper's column allows, and never too thin to see.
    """
    high = min(max(ATLAS_HEIGHT / n_rows, THINNEST_CELL), TALLEST_CELL)
    if room is not None:
        return min(room, 4 * WIDEST_RATIO * high * n_columns), high * n_rows
    wide = min(max(ATLAS_WIDTH / n_columns, THINNEST_CELL), WIDEST_RATIO * high)
    return max(wide * n_columns, 2 * TALLEST_CELL), high * n_rows


def make_score_scale(
    grid: np.ma.MaskedArray,
    *,
    diverging: bool = False,
    cmap: str | Colormap | None = None,
    norm: str | Normalize = "linear",
    vmin: float | None = None,
    vmax: float | None = None,
    palette: Palette = LIGHT,
    label: str = "",
) -> Scale:
    """Return colours for scores of heads from what is wished and what is there; as `draw_atlas` takes them."""
    low, high = (float(grid.min()), float(grid.max())) if grid.count() else (0.0, 1.0)
    colours = get_colormap(cmap, diverging=diverging, palette=palette)
    if isinstance(norm, Normalize):
        norm.autoscale_None(grid.compressed())
        return Scale(norm, colours, label, high, low)
    top = high
    if norm == "quantile" and grid.count():
        top = float(np.quantile(abs(grid.compressed()) if diverging else grid.compressed(), QUANTILE))
    elif diverging:
        top = max(-low, high)
    if diverging:
        if norm not in ("linear", "quantile"):
            raise OptionError(f"a diverging scale is linear around 0, got norm={norm!r}")
        limit = (round_end(top) if top > 0 else 1.0) if vmax is None else vmax
        if vmin not in (None, -limit):
            raise OptionError(f"a diverging scale is centred on 0; give vmax alone, got vmin={vmin:g}, vmax={limit:g}")
        return Scale(make_norm("linear", -limit, limit), colours, label, high, low)
    if norm == "log" and (low if vmin is None else vmin) < 0:
        raise OptionError(f"a logarithmic scale has no place for scores below 0, got {low:g}; use norm='linear'")
    start = (0.0 if low >= 0 else -round_end(-low)) if vmin is None else vmin
    # A constant score is no scale; it stands at the start of one.
    end = (round_end(top, norm) if top > max(start, 0) else start + 1.0) if vmax is None else vmax
    return Scale(make_norm(norm, start, end), colours, label, high, low if norm != "log" else start)


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
    """Write the true numbers of layers and heads at the axes of a grid with one cell a head, as many as fit.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The grid; cells are counted from 0.
    rows, columns : sequence of int
        Layer and head numbers.
    style : PageStyle
        The look of the page.
    """
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
