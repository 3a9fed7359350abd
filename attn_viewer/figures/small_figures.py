"""One small figure to a file: sides that suit its labels, found once, and ticks that cost little.

Half of the time of a small figure with a logarithmic axis goes into mathematics in tick labels and into minor ticks;
its numbers are plain text here, and it has no minor ticks unless a function asks for them.
"""

import gzip
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullLocator

from .formats import check_format, render_figure
from .style import measure_text

POINTS = 72
RASTER_DPI = 300
PAD = 3.0
# Height of a line in font sizes; room for tick marks in points; what is too much of both together.
LINE, TICKS, SPARE = 1.3, 4.5, 1.5
_MOST_TURNS = 3
# Sides of axes in a column that suit most labels; where they do, nothing is moved.
SIDES = {"left": 0.14, "right": 0.975, "bottom": 0.16, "top": 0.9}
_WASTE = 0.05


def render_small_figure(figure: Figure, fmt: str) -> bytes:
    """Turn a figure into a file's content, with all labels on the page, or as its layout engine wants."""
    fmt = check_format(fmt)
    for ax in figure.axes:
        if ax.name == "rectilinear":
            write_plainly(ax.xaxis)
            write_plainly(ax.yaxis)
    if figure.get_layout_engine() is None and not place_by_estimate(figure):
        fit_sides(figure)
    figure.dpi = RASTER_DPI
    data = render_figure(figure, "svg" if fmt == "svgz" else fmt)
    return gzip.compress(data, 6, mtime=0) if fmt == "svgz" else data


def write_plainly(axis: Axis) -> None:
    """Write the powers of ten of a logarithmic axis as plain numbers, and leave its minor ticks out."""
    if type(axis.get_major_formatter()) is LogFormatterSciNotation:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))
        if isinstance(axis.get_minor_locator(), LogLocator):
            axis.set_minor_locator(NullLocator())


def place_by_estimate(figure: Figure) -> bool:
    """Put the words of a plain figure on the page by their font sizes; tell whether it is plain and they fit.

    Plain is one axes with numbers along its lower and left side, and nothing written outside. To measure where
    matplotlib puts things, also the names of axes beside their numbers, takes as long as to draw them.
    """
    if (
        len(figure.axes) != 1
        or figure.texts
        or figure.legends
        or figure.patches
        or figure.axes[0].name != "rectilinear"
    ):
        return False
    (ax,) = figure.axes
    width, height = (side * POINTS for side in figure.get_size_inches())
    title = "".join(ax.get_title(place) for place in ("left", "center", "right"))
    rows, columns = ([t for t in axis.get_majorticklabels() if t.get_text()] for axis in (ax.yaxis, ax.xaxis))
    if not _is_plain(figure, ax, [*rows, *columns], title):
        return False
    beside = TICKS + max((_measure(text) for text in rows), default=0)
    below = TICKS + max((float(text.get_fontsize()) * LINE for text in columns), default=0)
    left, bottom = PAD + beside + _measure_name(ax.yaxis), PAD + below + _measure_name(ax.xaxis)
    right = PAD + max((_measure(text) / 2 for text in columns), default=0)
    top = PAD + max((float(text.get_fontsize()) / 2 for text in rows), default=0)
    if title:
        size = FontProperties(size=mpl.rcParams["axes.titlesize"]).get_size_in_points()
        top = PAD + size * LINE + mpl.rcParams["axes.titlepad"]
        if measure_text(title, size, tuple(mpl.rcParams["font.family"]))[0] > width - left - right - PAD:
            return False
    across, along = width - left - right, height - bottom - top
    if across <= 0 or along <= 0:
        return False
    figure.subplots_adjust(left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height)
    ax.xaxis.set_label_coords(ax.xaxis.label.get_position()[0], -(below + ax.xaxis.labelpad - SPARE) / along)
    ax.yaxis.set_label_coords(-(beside + ax.yaxis.labelpad - SPARE) / across, ax.yaxis.label.get_position()[1])
    return True


def _is_plain(figure: Figure, ax: Axes, numbers: Sequence[Text], title: str) -> bool:
    """Tell whether all that is written lies inside of axes, or along their lower and left side as numbers do."""
    words = [title, *(text.get_text() for text in (ax.xaxis.label, ax.yaxis.label, *numbers))]
    places = [axis.get_ticks_position() for axis in (ax.xaxis, ax.yaxis)]
    if ax.child_axes or ax.tables or any("$" in word or not word.isprintable() for word in words):
        return False
    if places != ["bottom", "left"] or any(text.get_rotation() for text in numbers):
        return False
    names = [(label.get_rotation(), label.get_verticalalignment()) for label in (ax.xaxis.label, ax.yaxis.label)]
    if names != [(0, "top"), (90, "bottom")] or ax.xaxis.label.get_position()[1] or ax.yaxis.label.get_position()[0]:
        return False
    if any(axis.get_major_formatter().get_offset() for axis in (ax.xaxis, ax.yaxis)):
        return False
    legend = ax.get_legend()
    inside = [*ax.texts, *([] if legend is None else [legend])]
    if inside:
        renderer = make_renderer(figure)
        room = ax.get_window_extent().padded(1)
        return all(room.count_contains(text.get_window_extent(renderer).corners()) == 4 for text in inside)
    return True


def _measure(text: Text) -> float:
    return measure_text(text.get_text(), float(text.get_fontsize()), tuple(text.get_fontfamily()))[0]


def _measure_name(axis: Axis) -> float:
    """Return the room that the name of an axis takes, in points."""
    return float(axis.label.get_fontsize()) * LINE + axis.labelpad if axis.label.get_text() else 0.0


def make_renderer(figure: Figure) -> RendererBase:
    """Return what measures the texts of a figure."""
    renderer: RendererBase = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def fit_sides(figure: Figure) -> None:
    """Give axes on a grid such sides that all labels are `PAD` points from the edge of the page."""
    figure.dpi = POINTS
    renderer = make_renderer(figure)
    for turn in range(_MOST_TURNS):
        sides = _find_sides(figure, renderer)
        # Axes of another size may have other tick labels, which then may need more room.
        if sides is None or _fits(sides, figure, waste=1 if turn else _WASTE):
            return
        figure.subplots_adjust(**sides)


def _find_sides(figure: Figure, renderer: RendererBase) -> dict[str, float] | None:
    """Return the sides of the figure's grid that put all labels `PAD` points from the edge of the page, or None."""
    boxes = [box for ax in figure.axes if (box := ax.get_tightbbox(renderer, for_layout_only=True)) is not None]
    if not boxes:
        return None
    width, height = figure.bbox.size
    top = height - PAD
    titles = [text for text in figure.texts if text.get_text() and text.get_text() == figure.get_suptitle()]
    if titles:
        top = min(text.get_window_extent(renderer).y0 for text in titles) - PAD
    grid = figure.subplotpars
    sides = {
        "left": grid.left + (PAD - min(box.x0 for box in boxes)) / width,
        "right": grid.right + (width - PAD - max(box.x1 for box in boxes)) / width,
        "bottom": grid.bottom + (PAD - min(box.y0 for box in boxes)) / height,
        "top": grid.top + (top - max(box.y1 for box in boxes)) / height,
    }
    sides = {name: min(max(side, 0), 1) for name, side in sides.items()}
    return sides if sides["left"] < sides["right"] and sides["bottom"] < sides["top"] else None


def _fits(sides: dict[str, float], figure: Figure, waste: float) -> bool:
    """Tell whether the labels of the present grid, whose best sides are known, are a hair from the edge at least.

    Nor may more than a share `waste` of the page be left over at any side.
    """
    slack = 0.005
    grid = figure.subplotpars
    spare = [grid.left - sides["left"], grid.bottom - sides["bottom"]]
    spare += [sides["right"] - grid.right, sides["top"] - grid.top]
    return all(-slack <= share <= waste for share in spare)
