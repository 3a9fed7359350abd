"""One small figure to a file, without what matplotlib does several times over.

Half of the time of a small figure with a logarithmic axis goes into its tick labels: they are found eleven times a
drawing, and their mathematics is parsed anew for every figure because matplotlib remembers 50 texts only. Here ticks
are found once for each size of the axes, and texts are remembered from figure to figure. The picture is
the one that matplotlib draws.
"""

import contextlib
import functools
import gzip
import io

from matplotlib.axis import XTick, YTick
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.mathtext import MathTextParser
from matplotlib.textpath import TextToPath

from .formats import check_format, render_figure

POINTS = 72
RASTER_DPI = 300
PAD = 3.0
_REMEMBERED = 4096
_MOST_TURNS = 4


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
            known[key] = find_boxes(ticks, renderer)
        return known[key]

    return find


def _make_cloner(make_tick, copy_props):
    """Return replacements that make the first tick as ever and later ones by copying its parts.

    A new tick gets all properties of the first one anyway, and nobody but the drawing sees it.
    """
    first = {}

    def clone(major):
        if major not in first:
            tick = make_tick(major)
            if type(tick) in (XTick, YTick):  # others have parts of their own
                first[major] = tick
            return tick
        tick = _copy(first[major])
        for part in ("tick1line", "tick2line", "gridline", "label1", "label2"):
            setattr(tick, part, _copy(getattr(tick, part)))
        return tick

    def copy_to_first(source, target):
        if target in first.values() or type(target) not in (XTick, YTick):
            copy_props(source, target)

    return clone, copy_to_first


def _copy(artist):
    # copy.copy would drop the callbacks.
    twin = object.__new__(type(artist))
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
            if sides is None or (turn and _is_on_page(sides, figure.subplotpars)) or turn == _MOST_TURNS - 1:
                if fmt in ("svg", "svgz"):
                    mixed = MixedModeRenderer(figure, width, height, RASTER_DPI, renderer)
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


def _is_on_page(sides, grid):
    """Tell whether the labels of the present grid, whose best sides are known, are a hair from the edge at least."""
    slack = 0.005
    return (
        sides["left"] <= grid.left + slack
        and sides["bottom"] <= grid.bottom + slack
        and sides["right"] >= grid.right - slack
        and sides["top"] >= grid.top - slack
    )
