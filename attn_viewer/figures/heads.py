"""Figures over all heads: layers down, heads across."""

import numbers

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from ..errors import OptionError
from . import style
from .labels import GAP, TICK, measure_text
from .layout import LINE, MARGIN
from .sheet import Sheet
from .venues import get_venue

# Height of a cell and how much wider than high it may be, in points; small models get large cells.
THINNEST_CELL, TALLEST_CELL, WIDEST_RATIO = 2.0, 10.0, 2.4
ATLAS_WIDTH, ATLAS_HEIGHT = 190.0, 270.0
MEANS_WIDTH = 44.0


def arrange_scores(values, *, layers=None, heads=None):
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


def draw_atlas(values, *, ax, layers=None, heads=None, diverging=False, cmap=None, norm="linear", vmin=None,
               vmax=None, marks=()):  # fmt: skip
    """Draw a score of every head into your own axes, layers down and heads across.

    Parameters
    ----------
    values : array_like or sequence of array_like
        Axes ``(n_layers, n_heads)``, or one sequence a layer where layers differ in heads; NaN is drawn neutral.
    ax : matplotlib.axes.Axes
        Where to draw.
    layers : sequence of int, optional
        True layer numbers; left out, they count from 0.
    heads : sequence of int or sequence of sequence of int, optional
        True head numbers, the same for all layers or one sequence a layer; left out, they count from 0.
    diverging : bool
        Whether the scores are signed differences, on a map centred at 0.
    cmap : str, optional
        A matplotlib colour map; left out, the one of this package.
    norm : {"linear", "power", "log"} or matplotlib.colors.Normalize
        Scale from scores to colours; linear when `diverging`.
    vmin, vmax : float, optional
        Ends of the scale; left out, 0 (or the smallest score below it) and the largest score. When `diverging` the
        scale runs from ``-vmax`` to `vmax`.
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
    places = [_find_cell(mark, rows, columns, grid) for mark in marks]
    colors = _make_scale(grid, diverging=diverging, cmap=cmap, norm=norm, vmin=vmin, vmax=vmax)
    ax.imshow(grid, norm=colors.norm, cmap=colors.cmap, interpolation="nearest", aspect="auto", origin="upper")
    label_numbers(ax, rows, columns)
    frames = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in places]
    for color, width in (("white", 2.4), (style.INK if diverging else style.ACCENT, 1.2)) if frames else ():
        ax.add_collection(
            PatchCollection(frames, facecolor="none", edgecolor=color, linewidth=width, zorder=3, clip_on=False)
        )
    return ax


def plot_atlas(values, *, label="score", title="all heads", model_id="", notes=(), layers=None, heads=None,
               layer_means=False, **options):  # fmt: skip
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
    notes : sequence of str
        What the page says about its data, in phrases.
    layers, heads : sequence, optional
        True numbers, as `draw_atlas` takes them.
    layer_means : bool
        Whether to draw the mean over the heads of each layer beside them, as bars on the same scale.
    **options
        `diverging`, `cmap`, `norm`, `vmin`, `vmax` and `marks`, as `draw_atlas` takes them.

    Returns
    -------
    matplotlib.figure.Figure
        The page; its axes are the page, the colour bar, the atlas and the means.

    Raises
    ------
    OptionError
        If values, numbers, marks or scale cannot be used.
    """
    grid, rows, _ = arrange_scores(values, layers=layers, heads=heads)
    family, missing = style.choose_fonts([label, title, model_id, *notes])
    label, title, *notes = (style.spell_missing(text, missing) for text in (label, title, *notes))
    scale = {name: value for name, value in options.items() if name != "marks"}
    norm = options.get("norm", "linear")
    if norm in ("power", "log"):
        notes.append({"power": "square-root colour scale", "log": "logarithmic colour scale"}[norm])
    with mpl.rc_context(style.make_rc(family=family)):
        beside = (MARGIN + MEANS_WIDTH) * layer_means
        page = GridPage(
            *fit_cells(*grid.shape, room=find_grid_room(rows, beside=beside)),
            rows,
            title,
            model_id=model_id,
            notes=notes,
            beside=beside,
            bars=[(_make_scale(grid, **scale), label)],
            family=family,
        )
        draw_atlas(values, ax=page.panel, layers=layers, heads=heads, **options)
        if layer_means:
            _draw_means(page, grid.mean(axis=1))
    return page.figure


def _draw_means(page, means):
    """Draw the mean of each layer as a bar beside its row, in the colour that it would have."""
    (image,) = page.panel.images
    left, bottom, width, height = page.place
    ax = page.add_axes(left + width + MARGIN, bottom, MEANS_WIDTH, height, "layer means")
    ax.barh(range(len(means)), means.filled(0), height=0.8, color=image.to_rgba(means), edgecolor=style.FRAME, lw=0.4)
    ax.set(xlim=(image.norm.vmin, image.norm.vmax), ylim=page.panel.get_ylim(), yticks=[])
    ends = [image.norm.vmin, image.norm.vmax]
    ax.set_xticks(ends, [f"{end:.2g}" for end in ends])
    for tick, side in zip(ax.get_xticklabels(), ("left", "right"), strict=True):
        tick.set_horizontalalignment(side)
    ax.xaxis.set_tick_params(length=TICK, width=0.5, pad=1.5, labelsize=get_venue().label)
    ax.spines[["top", "right"]].set_visible(False)
    middle = left + width + MARGIN + MEANS_WIDTH / 2
    page.write(middle, MARGIN + get_venue().axis / 2, "layer mean", **style.describe_axis_name())


class GridPage(Sheet):
    """A sheet with one panel of layers down and heads across.

    Parameters
    ----------
    width, height : float
        Size of the panel in points.
    rows : sequence of int
        Layer numbers.
    heading : str
        What the page shows.
    beside : float
        Room right of the panel, in points.
    across : str
        Name of the horizontal axis.
    **options
        As `Sheet` takes them.

    Attributes
    ----------
    place : tuple of float
        Left, bottom, width and height of the panel in points.
    panel : matplotlib.axes.Axes
        The panel, still empty.
    """

    def __init__(self, width, height, rows, heading, *, beside=0, across="head", **options):
        left = measure_row_numbers(rows)
        below = get_venue().axis * LINE + get_venue().label + GAP + TICK
        super().__init__(left + width + beside, below + height, heading, **options)
        self.place = MARGIN + left, MARGIN + below, width, height
        self.panel = self.add_axes(*self.place, "heads")
        name, edge = style.describe_axis_name(), MARGIN + get_venue().axis / 2
        self.write(edge, MARGIN + below + height / 2, "layer", rotation=90, **name)
        self.write(MARGIN + left + width / 2, edge, across, **name)


def measure_row_numbers(rows):
    """Return the room left of a grid for layer numbers and the name of their axis, in points."""
    return get_venue().axis * LINE + measure_text(str(max(rows)), get_venue().label)[0] + GAP + TICK


def find_grid_room(rows, *, beside=0):
    """Return the width that a venue leaves for a grid with so much `beside` it, in points; None where none is given."""
    width = get_venue().width
    return None if width is None else width - 2 * MARGIN - measure_row_numbers(rows) - beside


def fit_cells(n_rows, n_columns, *, room=None):
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


def _make_scale(grid, *, diverging=False, cmap=None, norm="linear", vmin=None, vmax=None):
    """Return colours for an atlas from what is wished and what is there."""
    low, high = (float(grid.min()), float(grid.max())) if grid.count() else (0.0, 1.0)
    if diverging:
        if norm != "linear":
            raise OptionError(f"a diverging scale is linear around 0, got norm={norm!r}")
        limit = (max(-low, high) or 1.0) if vmax is None else vmax
        if vmin not in (None, -limit):
            raise OptionError(f"a diverging scale is centred on 0; give vmax alone, got vmin={vmin:g}, vmax={limit:g}")
        vmin, vmax = -limit, limit
    else:
        vmin = min(0.0, low) if vmin is None else vmin
        # A constant score is no scale; it stands at the start of one.
        vmax = (high if high > vmin else vmin + 1.0) if vmax is None else vmax
    if norm == "log" and vmin < 0:
        raise OptionError(f"a logarithmic scale has no place for scores below 0, got {low:g}; use norm='linear'")
    return mpl.cm.ScalarMappable(style.make_norm(norm, vmin, vmax), style.get_colormap(cmap, diverging=diverging))


def _find_cell(mark, rows, columns, grid):
    try:
        layer, head = mark
        place = rows.index(layer), columns.index(head)
    except (TypeError, ValueError) as error:
        raise OptionError(f"marks must be (layer, head) pairs of heads that are shown, got {mark!r}") from error
    if np.ma.getmaskarray(grid)[place]:
        raise OptionError(f"head {head} of layer {layer} has no score to mark")
    return place


def label_numbers(ax, rows, columns):
    """Write the true numbers of layers and heads at the axes of a grid with one cell a head, as many as fit.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The grid; cells are counted from 0.
    rows, columns : sequence of int
        Layer and head numbers.
    """
    box = ax.get_position()
    width, height = (72 * side for side in ax.figure.get_size_inches())
    number = measure_text(str(max(columns)), get_venue().label)[0] + 4
    steps = (
        _choose_tick_step(rows, box.height * height, get_venue().label * 1.15),
        _choose_tick_step(columns, box.width * width, number),
    )
    for axis, shown, step in zip((ax.yaxis, ax.xaxis), (rows, columns), steps, strict=True):
        ticks = [i for i, value in enumerate(shown) if step == 1 or value % step == 0] or [0]
        axis.set_ticks(ticks, [str(shown[i]) for i in ticks])
        axis.set_tick_params(length=TICK, width=0.5, pad=1.5, labelsize=get_venue().label)


def _choose_tick_step(shown, length, room):
    """Return 1 if every number fits, else the smallest round step whose multiples lie far enough apart."""
    if length / len(shown) >= room:
        return 1
    for step in (2, 5, 10, 20, 50, 100, 200, 500, 1000):
        places = [i for i, value in enumerate(shown) if value % step == 0]
        if len(places) > 1 and min(np.diff(places)) * length / len(shown) >= room:
            return step
    return max(max(shown), 1) + 1
