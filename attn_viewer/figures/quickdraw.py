"""One small figure to a file, without what matplotlib does several times over.

Half of the time of a small figure with a logarithmic axis goes into its tick labels: they are found eleven times a
drawing, and their mathematics is parsed anew for every figure because matplotlib remembers 50 texts only. Here ticks
are found once for each size of the axes, and texts are remembered from figure to figure. The tick lines of an axis,
up to a hundred, are written like the first one, each at its place. The picture is the one that matplotlib draws.
"""

import contextlib
import functools
import gzip
import io

import numpy as np
from matplotlib.artist import allow_rasterization
from matplotlib.axis import XTick, YTick
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import RendererSVG, _short_float_fmt
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.textpath import TextToPath
from matplotlib.transforms import Affine2D

from .formats import check_format, render_figure

POINTS = 72
RASTER_DPI = 300
PAD = 3.0
_REMEMBERED = 4096
_MOST_TURNS = 4
# Sides of axes in a column that suit most labels; where they do, nothing is moved.
SIDES = {"left": 0.14, "right": 0.975, "bottom": 0.16, "top": 0.9}
_WASTE = 0.05


class _Parser(MathTextParser):
    """A parser that remembers more texts."""

    def __init__(self):
        super().__init__("path")
        self._remember = functools.lru_cache(_REMEMBERED)(super().parse)

    def parse(self, s, dpi=72, prop=None, *, antialiased=None):
        return self._remember(s, dpi, None if prop is None else prop.copy(), antialiased=antialiased)


class _TextToPath(TextToPath):
    def __init__(self):
        super().__init__()
        self.mathtext_parser = _Parser()


_text_to_path = _TextToPath()
# Sizes are asked for with the same few font properties and the labels 0.0, 0.2, … of every figure.
_measure = functools.lru_cache(_REMEMBERED)(_text_to_path.get_text_width_height_descent)


class _Renderer(RendererSVG):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._text2path = _text_to_path

    def get_text_width_height_descent(self, s, prop, ismath):
        return _measure(s, prop.copy(), ismath)

    def draw_markers(self, gc, marker_path, marker_trans, path, trans, rgbFace=None):  # noqa: N803
        super().draw_markers(gc, marker_path, marker_trans, path, trans, rgbFace)
        shape = self._convert_path(marker_path, marker_trans + Affine2D().scale(1, -1), simplify=False)
        style = self._get_style(gc, rgbFace)
        self.last_marker = self._markers.get((shape, style)), style

    def draw_marker_again(self, marker, x, y):
        """Write a line that is the marker of `last_marker` at other pixels."""
        name, style = marker
        self.open_group("line2d")
        self.writer.start("g")
        place = {"x": _short_float_fmt(x), "y": _short_float_fmt(self.height - y)}
        self.writer.element("use", attrib={"xlink:href": f"#{name}"} | place | {"style": style})
        self.writer.end("g")
        self.close_group("line2d")


class _TickLine(Line2D):
    """A tick line that looks like all others of its `_group`, the lines of one side of an axis."""

    @allow_rasterization
    def draw(self, renderer):
        if not self.get_visible():
            return
        svg = getattr(renderer, "_renderer", None)
        if type(svg) is not _Renderer or self.get_path_effects() or self.get_sketch_params() is not None:
            super().draw(renderer)
            return
        if self._group.renderer is not svg:
            super().draw(renderer)
            self._group.place(svg)
            return
        x, y = self._group.places[id(self)]
        if 0 <= x <= svg.width and 0 <= y <= svg.height:
            svg.draw_marker_again(self._group.marker, x, y)
        else:
            super().draw(renderer)


class _Twin:
    """A tick that draws only those of its parts that show."""

    @allow_rasterization
    def draw(self, renderer):
        renderer.open_group(self.__name__)
        for line in (self.gridline, self.tick1line, self.tick2line):
            if line.get_visible():
                line.draw(renderer)
        for label in (self.label1, self.label2):
            if label.get_visible() and label.get_text():
                label.draw(renderer)
        renderer.close_group(self.__name__)


class _XTwin(_Twin, XTick):
    pass


class _YTwin(_Twin, YTick):
    pass


# Others have parts of their own.
_TWINS = {XTick: _XTwin, YTick: _YTwin}
_PLAIN = (*_TWINS, *_TWINS.values())


class _Group:
    def __init__(self):
        self.lines = []
        self.renderer = self.marker = None
        self.places = {}

    def add(self, line):
        twin = _copy(line, _TickLine)
        twin._group = self
        self.lines.append(twin)
        return twin

    def place(self, renderer):
        """Find the pixels of all lines, the first of which `renderer` has just drawn."""
        self.renderer, self.marker = renderer, renderer.last_marker
        points = np.array([(line.get_xdata()[0], line.get_ydata()[0]) for line in self.lines], float)
        places = self.lines[0].get_transform().transform(points)
        self.places = dict(zip(map(id, self.lines), places.tolist(), strict=True))


@contextlib.contextmanager
def _hold_ticks(figure):
    """Find the ticks of each axis once inside the block, in which nothing moves."""
    axes = [axis for ax in figure.axes for axis in ax._axis_map.values()]
    for axis in axes:
        axis._update_ticks = functools.cache(axis._update_ticks)
        axis._get_ticklabel_bboxes = _remember_boxes(axis._get_ticklabel_bboxes)
        axis._get_tick, axis._copy_tick_props = _make_cloner(axis._get_tick, axis._copy_tick_props)
    try:
        yield
    finally:
        for axis in axes:
            del axis._update_ticks, axis._get_ticklabel_bboxes, axis._get_tick, axis._copy_tick_props


def _remember_boxes(find_boxes):
    known = {}

    def find(ticks, renderer):
        key = (*map(id, ticks),)
        if key not in known:
            known[key] = find_boxes(_drop_unlabelled(ticks), renderer)
        return known[key]

    return find


def _drop_unlabelled(ticks):
    """Keep one of the ticks without text, which are all as far from the axes, of each kind."""
    kept, kinds = [], set()
    for tick in ticks:
        kind = tick._major
        is_plain = type(tick) in _PLAIN and not tick.label1.get_text() and not tick.label2.get_text()
        if not is_plain or kind not in kinds:
            kept.append(tick)
        if is_plain:
            kinds.add(kind)
    return kept


def _make_cloner(make_tick, copy_props):
    """Return replacements that make the first tick as ever and later ones by copying its parts.

    A new tick gets all properties of the first one anyway, and nobody but the drawing sees it.
    """
    first, groups = {}, {}

    def clone(major):
        if major not in first:
            tick = make_tick(major)
            if type(tick) in _TWINS:
                first[major] = tick
            return tick
        tick = _copy(first[major], _TWINS[type(first[major])])
        for part in ("gridline", "label1", "label2"):
            setattr(tick, part, _copy(getattr(tick, part)))
        for part in ("tick1line", "tick2line"):
            group = groups.setdefault((major, part), _Group())
            setattr(tick, part, group.add(getattr(tick, part)))
        return tick

    def copy_to_first(source, target):
        if target in first.values() or type(target) not in _PLAIN:
            copy_props(source, target)

    return clone, copy_to_first


def _copy(artist, kind=None):
    # copy.copy would drop the callbacks.
    twin = object.__new__(kind or type(artist))
    twin.__dict__.update(artist.__dict__)
    return twin


def render_small_figure(figure, fmt):
    """Lay a figure out and turn it into the content of a file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Its axes are sized so that all labels are on the page; a figure that has a layout engine keeps it.
    fmt : {"jpg", "png", "pdf", "svg", "svgz"}
        Format.

    Returns
    -------
    bytes
        The file.
    """
    fmt = check_format(fmt)
    if figure.get_layout_engine() is not None:
        figure.dpi = RASTER_DPI
        return render_figure(figure, fmt)
    figure.dpi = POINTS
    width, height = figure.bbox.size
    file = io.StringIO()
    renderer = _Renderer(width, height, file, image_dpi=RASTER_DPI, metadata={"Date": None})
    for turn in range(_MOST_TURNS):
        with _hold_ticks(figure):
            sides = _find_sides(figure, renderer)
            # Axes of another size may have other tick labels, which then may need more room.
            if sides is None or _fits(sides, figure, waste=1 if turn else _WASTE) or turn == _MOST_TURNS - 1:
                if fmt in ("svg", "svgz"):
                    mixed = MixedModeRenderer(figure, *figure.get_size_inches(), RASTER_DPI, renderer)
                    figure.draw(mixed)
                    mixed.finalize()
                break
        figure.subplots_adjust(**sides)
    if fmt in ("svg", "svgz"):
        data = file.getvalue().encode()
        return gzip.compress(data, 6, mtime=0) if fmt == "svgz" else data
    figure.dpi = RASTER_DPI
    with _hold_ticks(figure):
        return render_figure(figure, fmt)


def _find_sides(figure, renderer):
    """Return the sides of the figure's grid that put all labels `PAD` points from the edge of the page, or None."""
    boxes = [box for ax in figure.axes if (box := ax.get_tightbbox(renderer, for_layout_only=True)) is not None]
    if not boxes:
        return None
    width, height = figure.bbox.size
    top = height - PAD
    if figure.get_suptitle():
        top = figure._suptitle.get_window_extent(renderer).y0 - PAD
    grid = figure.subplotpars
    sides = {
        "left": grid.left + (PAD - min(box.x0 for box in boxes)) / width,
        "right": grid.right + (width - PAD - max(box.x1 for box in boxes)) / width,
        "bottom": grid.bottom + (PAD - min(box.y0 for box in boxes)) / height,
        "top": grid.top + (top - max(box.y1 for box in boxes)) / height,
    }
    sides = {name: min(max(side, 0), 1) for name, side in sides.items()}
    return sides if sides["left"] < sides["right"] and sides["bottom"] < sides["top"] else None


def _fits(sides, figure, waste):
    """Tell whether the labels of the present grid, whose best sides are known, are a hair from the edge at least.

    Nor may more than a share `waste` of the page be left over at any side.
    """
    slack = 0.005
    grid = figure.subplotpars
    spare = (grid.left - sides["left"], grid.bottom - sides["bottom"])
    spare += (sides["right"] - grid.right, sides["top"] - grid.top)
    return all(-slack <= share <= waste for share in spare)
