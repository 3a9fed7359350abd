"""One small figure to a file: sides that suit its labels, found once, and ticks that cost little.

Half of the time of a small figure with a logarithmic axis goes into mathematics in tick labels and into minor ticks;
its numbers are plain text here, and it has no minor ticks unless a function asks for them.
"""

import gzip
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text
from matplotlib.ticker import (
    AutoLocator,
    FixedLocator,
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.transforms import Bbox

from .formats import check_format, render_figure
from .page import PIXELS, wrap_phrases
from .style import PageStyle, measure_text

POINTS = 72
RASTER_DPI = 300
PAD = 3.0
# Height of a line in font sizes; what is too much of it and of ticks, in points.
LINE, SPARE = 1.3, 1.5
_MOST_TURNS = 3
# Sides of axes in a column that suit most labels; where they do, nothing is moved.
SIDES = {"left": 0.14, "right": 0.975, "bottom": 0.16, "top": 0.9}
_WASTE = 0.05
# How much of the height or width of axes may be left when their ticks are already chosen.
_LEAST = 0.8


def render_small_figure(figure: Figure, fmt: str) -> bytes:
    """Turn a figure into a file's content, with all labels on the page, or as its layout engine wants."""
    fmt = check_format(fmt)
    for ax in figure.axes:
        if ax.name == "rectilinear":
            write_plainly(ax.xaxis)
            write_plainly(ax.yaxis)
    if figure.get_layout_engine() is None and not place_by_estimate(figure):
        if (layout := _choose_layout(figure)) == "constrained":
            figure.set_layout_engine(layout)
        else:
            fit_sides(figure, is_tight=layout == "tight")
    figure.dpi = RASTER_DPI
    data = render_figure(figure, "svg" if fmt == "svgz" else fmt)
    return gzip.compress(data, 6, mtime=0) if fmt == "svgz" else data


def write_plainly(axis: Axis) -> None:
    """Write the powers of ten of a logarithmic axis as plain numbers, and leave its minor ticks out."""
    if type(axis.get_major_formatter()) is LogFormatterSciNotation:
        if isinstance(axis.get_minor_locator(), LogLocator):
            if len(_find_places(axis)) < 2:
                return  # minor ticks say how long it is
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"e\+?(-?)0?", r"e\1", f"{value:g}")))


def _find_places(axis: Axis) -> list[float]:
    """Return where the ticks of an axis are that will be seen."""
    low, high = sorted(axis.get_view_interval())
    return [place for place in axis.get_majorticklocs() if low <= place <= high]


def place_by_estimate(figure: Figure) -> bool:
    """Put the words of a plain figure on the page by their font sizes; tell whether it is plain and they fit.

    Plain is one axes with numbers along its lower and left side, and nothing written outside. To measure where
    matplotlib puts things, also the names of axes beside their numbers, takes as long as to draw them.
    """
    if len(figure.axes) != 1 or not _is_plain(figure, ax := figure.axes[0]):
        return False
    before = [(axis, axis.get_major_locator()) for axis in (ax.xaxis, ax.yaxis)]
    for axis, locator in before:
        # They make ticks beyond their axis, each of which takes time; a person may have drawn some in their own way.
        if type(locator) in (AutoLocator, LogLocator) and len(axis.majorTicks) < 2:
            axis.set_major_locator(FixedLocator(_find_places(axis)))
    fits = _estimate_sides(figure, ax)
    for axis, locator in [] if fits else before:
        axis.set_major_locator(locator)
    return fits


def _estimate_sides(figure: Figure, ax: Axes) -> bool:
    """Give a plain figure the sides that its words need by their font sizes; tell whether they fit."""
    width, height = (side * POINTS for side in figure.get_size_inches())
    columns, rows = ([t for t in axis.get_majorticklabels() if t.get_text()] for axis in (ax.xaxis, ax.yaxis))
    if not _are_plain(figure, ax, [*rows, *columns]):
        return False
    beside = _measure_ticks(ax.yaxis) + max((_measure(text) for text in rows), default=0)
    below = _measure_ticks(ax.xaxis) + max((float(text.get_fontsize()) * LINE for text in columns), default=0)
    left, bottom = PAD + beside + _measure_name(ax.yaxis), PAD + below + _measure_name(ax.xaxis)
    right = PAD + max((_measure(text) / 2 for text in columns), default=0)
    top = PAD + max((float(text.get_fontsize()) / 2 for text in rows), default=0)
    for title in _find_titles(ax):
        above, edge = (float(where.transform((0, 1))[1]) for where in (title.get_transform(), ax.transAxes))
        pad = (above - edge) * POINTS / figure.dpi
        top = PAD + pad + float(title.get_fontsize()) * LINE
        if _measure(title) > width - left - right - PAD:
            return False
        # Said to stay where it is; else matplotlib looks for what it must not cover. Older versions forget the rest.
        places: list[Literal["left", "center", "right"]] = ["left", "center", "right"]
        place = next(place for place in places if ax.get_title(place))
        look = {"fontproperties": title.get_fontproperties().copy(), "color": title.get_color()}
        ax.set_title(title.get_text(), look | {"ha": title.get_horizontalalignment()}, place, pad, y=1)
    across, along = width - left - right, height - bottom - top
    grid = figure.subplotpars
    # Ticks are those of the axes as they were.
    if across < _LEAST * (grid.right - grid.left) * width or along < _LEAST * (grid.top - grid.bottom) * height:
        return False
    if _measure(ax.xaxis.label) > across or _measure(ax.yaxis.label) > along:
        return False
    figure.subplots_adjust(left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height)
    ax.xaxis.set_label_coords(ax.xaxis.label.get_position()[0], -(below + ax.xaxis.labelpad - SPARE) / along)
    ax.yaxis.set_label_coords(-(beside + ax.yaxis.labelpad - SPARE) / across, ax.yaxis.label.get_position()[1])
    return True


def _is_plain(figure: Figure, ax: Axes) -> bool:
    """Tell whether an axes is where its grid puts it, with nothing beside it but what is along its sides."""
    if figure.get_children() != [figure.patch, ax] or ax.name != "rectilinear":
        return False
    if ax.child_axes or ax.tables or ax.artists or ax.get_aspect() != "auto" or ax.get_box_aspect() is not None:
        return False
    grid, position = figure.subplotpars, ax.get_position()
    if not np.allclose(position.extents, (grid.left, grid.bottom, grid.right, grid.top)):
        return False
    if any(ax.spines[side].get_position() != ("outward", 0) for side in ("left", "bottom")):
        return False
    if [axis.get_ticks_position() for axis in (ax.xaxis, ax.yaxis)] != ["bottom", "left"]:
        return False
    titles, names = _find_titles(ax), (ax.xaxis.label, ax.yaxis.label)
    turned = [(text.get_rotation(), text.get_verticalalignment()) for text in (*names, *titles)]
    places = [names[0].get_position()[1], names[1].get_position()[0], *(title.get_position()[1] for title in titles)]
    n = 2 + bool(titles)
    return turned == [(0, "top"), (90, "bottom"), (0, "baseline")][:n] and places == [0, 0, 1][:n]


def _are_plain(figure: Figure, ax: Axes, numbers: Sequence[Text]) -> bool:
    """Tell whether what is written along the sides of an axes is simple, and all else inside of it."""
    texts = [*_find_titles(ax), ax.xaxis.label, ax.yaxis.label, *numbers]
    if any("$" in (word := text.get_text()) or not word.isprintable() or text.get_bbox_patch() for text in texts):
        return False
    if any(text.get_rotation() for text in numbers):
        return False
    for axis in (ax.xaxis, ax.yaxis):
        has_numbers = not isinstance(axis.get_minor_formatter(), NullFormatter)
        if has_numbers and not isinstance(axis.get_minor_locator(), NullLocator):
            return False
        if axis.get_major_formatter().get_offset():
            return False
    legend = ax.get_legend()
    inside = [*ax.texts, *([] if legend is None else [legend])]
    if inside:
        renderer = make_renderer(figure)
        room = ax.get_window_extent().padded(1)
        return all(room.count_contains(text.get_window_extent(renderer).corners()) == 4 for text in inside)
    return True


def _find_titles(ax: Axes) -> list[Text]:
    """Return the titles of an axes that say something."""
    texts = (child for child in ax.get_children() if isinstance(child, Text) and child.get_text())
    return [text for text in texts if text not in ax.texts]


def _measure_ticks(axis: Axis) -> float:
    """Return the room between an axes and the numbers along its side, in points."""
    ticks: Any = axis.get_major_ticks()  # whose pad is nothing in matplotlib's stubs
    return float(axis.get_tick_padding() or 0) + max((tick.get_pad() for tick in ticks), default=0) + 1


def _measure(text: Text) -> float:
    return measure_text(text.get_text(), float(text.get_fontsize()), tuple(text.get_fontfamily()))[0]


def _measure_name(axis: Axis) -> float:
    """Return the room that the name of an axis takes, in points."""
    return float(axis.label.get_fontsize()) * LINE + axis.labelpad if axis.label.get_text() else 0.0


def make_renderer(figure: Figure) -> RendererBase:
    """Return what measures the texts of a figure."""
    renderer: RendererBase = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def _choose_layout(figure: Figure) -> Literal["tight", "constrained"] | None:
    """Return the layout engine for the axes of a figure where they are as far apart as matplotlib puts them."""
    if figure.subfigs:
        return "constrained"
    specs = [spec for ax in figure.axes if (spec := ax.get_subplotspec())]
    grids = [spec.get_topmost_subplotspec().get_gridspec() for spec in specs]
    usual = mpl.rcParams["figure.subplot.wspace"], mpl.rcParams["figure.subplot.hspace"]
    if any(not isinstance(grid, GridSpec) or grid.locally_modified_subplot_params() for grid in grids):
        return None
    if (figure.subplotpars.wspace, figure.subplotpars.hspace) != usual:
        return None
    if all(max(grid.get_geometry()) == 1 for grid in grids):
        return None
    if len(specs) == len(figure.axes):
        return "tight"
    # A colour bar of several axes, which the one engine knows as the other does bars of one.
    return "constrained" if all(spec.get_topmost_subplotspec() is spec for spec in specs) else None


def fit_sides(figure: Figure, *, is_tight: bool = False) -> None:
    """Give axes on a grid such sides that all labels are `PAD` points from the edge of the page, and apart.

    What a person wrote beside the axes stays beside them, and lines too long for the page are broken.
    """
    figure.dpi = POINTS
    renderer = make_renderer(figure)
    lay_out = _lay_out_tight if is_tight else _lay_out
    lay_out(figure, renderer, _find_room(figure, renderer))
    if _break_lines(figure, renderer):
        lay_out(figure, renderer, _find_room(figure, renderer))


def _find_room(figure: Figure, renderer: RendererBase) -> Bbox:
    """Return the part of the page that is left for axes by what is written beside them."""
    width, height = figure.bbox.size
    left, bottom, right, top = PAD, PAD, width - PAD, height - PAD
    grid = figure.subplotpars
    for artist in (*figure.texts, *figure.legends):
        box = artist.get_window_extent(renderer)
        x, y = (box.p0 + box.p1) / 2 / (width, height)
        if y > grid.top:
            top = min(top, box.y0 - PAD)
        elif y < grid.bottom:
            bottom = max(bottom, box.y1 + PAD)
        elif x < grid.left:
            left = max(left, box.x1 + PAD)
        elif x > grid.right:
            right = min(right, box.x0 - PAD)
    return Bbox.from_extents(left, bottom, right, top)


def _lay_out_tight(figure: Figure, _: RendererBase, room: Bbox) -> None:
    for text in figure.texts:
        text.set_in_layout(False)  # the room is without them
    pad = PAD / FontProperties(size=mpl.rcParams["font.size"]).get_size_in_points()
    left, bottom, right, top = figure.transFigure.inverted().transform_bbox(room).extents
    figure.tight_layout(pad=0, w_pad=pad, h_pad=pad, rect=(left, bottom, right, top))


def _lay_out(figure: Figure, renderer: RendererBase, room: Bbox) -> None:
    for turn in range(_MOST_TURNS):
        sides = _find_sides(figure, renderer, room)
        # Axes of another size may have other tick labels, which then may need more room.
        if sides is None or _fits(sides, figure, waste=1 if turn else _WASTE):
            return
        figure.subplots_adjust(**sides)


def _break_lines(figure: Figure, renderer: RendererBase) -> bool:
    """Break titles and names of axes that are longer than the page; tell whether there are any."""
    texts = [*figure.texts]
    for ax in figure.axes:
        ax.get_tightbbox(renderer)  # which moves them
        texts += [*_find_titles(ax), ax.xaxis.label, ax.yaxis.label]
    found = False
    for text in texts:
        turns, box = text.get_rotation() / 90, text.get_window_extent(renderer)
        (low, high), side = ((box.intervaly, box.intervalx)[turns % 2 == 0], figure.bbox.size[int(turns % 2)])
        if turns % 1 or "$" in text.get_text() or (low > -1 and high < side + 1):
            continue
        middle = (low + high) / 2
        room = {"left": side - low, "right": high}.get(text.get_horizontalalignment(), 2 * min(middle, side - middle))
        style, size = PageStyle(family=tuple(text.get_fontfamily())), float(text.get_fontsize())
        lines = (wrap_phrases([line], (room - 2 * PAD) * PIXELS, size, style) for line in text.get_text().splitlines())
        text.set_text("\n".join(itertools.chain.from_iterable(lines)))
        found = True
    return found


def _find_sides(figure: Figure, renderer: RendererBase, room: Bbox) -> dict[str, float] | None:
    """Return the sides of the figure's grid that put all labels at the edge of their room, or None."""
    boxes = [box for ax in figure.axes if (box := ax.get_tightbbox(renderer, for_layout_only=True)) is not None]
    if not boxes:
        return None
    width, height = figure.bbox.size
    grid = figure.subplotpars
    sides = {
        "left": grid.left + (room.x0 - min(box.x0 for box in boxes)) / width,
        "right": grid.right + (room.x1 - max(box.x1 for box in boxes)) / width,
        "bottom": grid.bottom + (room.y0 - min(box.y0 for box in boxes)) / height,
        "top": grid.top + (room.y1 - max(box.y1 for box in boxes)) / height,
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
