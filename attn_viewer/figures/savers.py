"""Decorators that make figure functions: of ``(matrix, ax)``, of several axes, or of ``(matrix) -> matrix``.

The names are those of pattern-lens.
"""

import functools
import gzip
import os
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from ..errors import OptionError
from ..files import write_whole
from .formats import check_format
from .images import encode_indices, index_matrix, make_palette, matrix_as_svg
from .pyplot_axes import drop_unused, open_figures
from .registry import check_figure_names
from .scales import get_colormap
from .small_figures import RASTER_DPI, SIDES, render_small_figure
from .style import LIGHT
from .venues import get_style

# Inches: a column of a two-column page.
SIZE = (3.25, 2.2)
# Of lines, in turn; apart in lightness, so that they are told apart in grey too.
COLOURS = ("#2d4f86", LIGHT.accent, "#4f9d8f", LIGHT.muted, LIGHT.ink)
_COLOURS: dict[Any, Any] = {name: value for name, value in mpl.rcParamsDefault.items() if "color" in name}
MATRIX_FORMATS = ("png", "svg", "svgz")


def matplotlib_figure_saver(func: Callable[..., Any] | None = None, *, fmt: str = "svgz") -> Callable[..., Any]:
    """Make a figure function of one that draws into axes; a decorator, with or without arguments.

    Parameters
    ----------
    func : callable
        Takes a pattern, axes ``(n_query, n_key)``, and a `matplotlib.axes.Axes` of an otherwise empty figure, and
        draws there; for the functions of `matplotlib.pyplot` these are the current axes.
    fmt : {"jpg", "png", "pdf", "svg", "svgz"}
        Format of the file.

    Returns
    -------
    callable
        Takes the pattern and a folder and writes ``{folder}/{func.__name__}.{fmt}``. The same pattern gives the
        same bytes.

    Raises
    ------
    OptionError
        If the format is unknown; when saving, if `func` draws nothing there, perhaps in a figure of its own.
    """
    fmt = check_format(fmt)

    def draw(func: Callable[..., Any], matrix: Any) -> dict[str, bytes]:
        return _draw_figures(("",), fmt, lambda axes: func(matrix, axes[""]))

    decorate = _decorate_with(draw, fmt)
    return decorate if func is None else decorate(func)


def matplotlib_multifigure_saver(names: Sequence[str], fmt: str = "svgz") -> Callable[..., Any]:
    """Make a figure function of one that draws several figures; makes a decorator.

    Parameters
    ----------
    names : sequence of str
        Names of the figures.
    fmt : {"jpg", "png", "pdf", "svg", "svgz"}
        Format of the files.

    Returns
    -------
    callable
        A decorator. The function it is given takes a pattern, axes ``(n_query, n_key)``, and a dictionary from
        each name to the `matplotlib.axes.Axes` of a figure of its own. What it returns takes the pattern and a
        folder and writes ``{folder}/{func.__name__}.{name}.{fmt}``, all of them or, when `func` raises, none.

    Raises
    ------
    OptionError
        If the names are not distinct or cannot be those of files, or the format is unknown; when saving, if `func`
        draws nothing into one of the figures.
    """
    names, fmt = check_figure_names(names), check_format(fmt)

    def draw(func: Callable[..., Any], matrix: Any) -> dict[str, bytes]:
        made = _draw_figures(names, fmt, lambda axes: func(matrix, axes))
        return {f".{name}": data for name, data in made.items()}

    return _decorate_with(draw, fmt)


def _draw_figures(names: Sequence[str], fmt: str, draw: Callable[[dict[str, Axes]], Any]) -> dict[str, bytes]:
    """Return the files of small figures, one a name, into whose axes `draw` has drawn."""
    with mpl.rc_context(make_rc()):
        with open_figures(len(names), find_size(), RASTER_DPI, SIDES) as figures:
            axes = {name: figure.axes[0] for name, figure in zip(names, figures, strict=True)}
            draw(dict(axes))
        for (name, ax), figure in zip(axes.items(), figures, strict=True):
            if not drop_unused(ax, figure):
                raise OptionError(
                    f"the function drew nothing into the axes{f' {name!r}' * bool(name)} that it is given; a figure of "
                    "its own is not saved"
                )
        return {name: render_small_figure(figure, fmt) for name, figure in zip(names, figures, strict=True)}


def _decorate_with(
    make_files: Callable[[Callable[..., Any], Any], dict[str, bytes]], fmt: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator; `make_files` takes the function and a pattern, and returns what follows its name in names."""

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def save(matrix: Any, folder: str | os.PathLike[str]) -> None:
            for name, data in make_files(func, matrix).items():
                write_whole(os.path.join(folder, f"{func.__name__}{name}.{fmt}"), data)

        save.figure_save_fmt = fmt  # type: ignore[attr-defined]
        return save

    return decorate


def save_matrix_wrapper(
    func: Callable[..., Any] | None = None,
    *,
    fmt: str = "svgz",
    normalize: bool = False,
    cmap: str | Colormap | None = None,
    diverging_colormap: bool = False,
    normalize_min: float | None = None,
) -> Callable[..., Any]:
    """Make a figure function of one that returns a matrix; a decorator, with or without arguments.

    Parameters
    ----------
    func : callable
        Takes a pattern, axes ``(n_query, n_key)``, and returns a matrix ``(rows, columns)``.
    fmt : {"png", "svg", "svgz"}
        Format of the file: one pixel, or one unit, a cell.
    normalize, cmap, diverging_colormap, normalize_min
        As `images.matrix_to_image_preprocess` takes them.

    Returns
    -------
    callable
        Takes the pattern and a folder and writes ``{folder}/{func.__name__}.{fmt}``. The same pattern gives the
        same bytes.

    Raises
    ------
    OptionError
        If an option cannot be used.
    """
    fmt = check_format(fmt)
    if fmt not in MATRIX_FORMATS:
        raise OptionError(f"a matrix is saved as {', '.join(MATRIX_FORMATS)}, got {fmt!r}")
    if not isinstance(cmap, Colormap):
        get_colormap(cmap)
    look: dict[str, Any] = {
        "normalize": normalize,
        "diverging_colormap": diverging_colormap,
        "normalize_min": normalize_min,
    }
    index_matrix([[0.0]], **look)  # options that exclude each other are found now, not at the first head

    def colour(func: Callable[..., Any], matrix: Any) -> dict[str, bytes]:
        result = func(matrix)
        if fmt == "png":
            return {"": encode_indices(index_matrix(result, **look), make_palette(cmap, diverging_colormap))}
        data = matrix_as_svg(result, cmap=cmap, **look).encode()
        return {"": gzip.compress(data, 6, mtime=0) if fmt == "svgz" else data}

    decorate = _decorate_with(colour, fmt)
    return decorate if func is None else decorate(func)


def make_rc() -> dict[Any, Any]:
    """Return the rcParams of a figure in a column, with lines and ticks to suit."""
    style = get_style()
    # A dark style sheet would draw white on the white page.
    colours = {name: value for name, value in _COLOURS.items() if mpl.rcParams[name] != value}
    own = {
        "axes.titlesize": style.title,
        "axes.titlepad": 4.0,
        "axes.labelpad": 2.0,
        "axes.prop_cycle": cycler(color=COLOURS),
        "lines.linewidth": 1.0,
        "lines.markersize": 2.5,
        "legend.fontsize": style.label,
        "legend.frameon": False,
        "ytick.labelsize": style.label,
        "ytick.major.size": 2.0,
        "ytick.major.width": 0.5,
        "ytick.major.pad": 1.5,
        "xtick.minor.size": 1.2,
        "xtick.minor.width": 0.4,
        "ytick.minor.size": 1.2,
        "ytick.minor.width": 0.4,
    }
    return colours | style.make_rc() | own


def find_size() -> tuple[float, float]:
    """Return width and height of a figure in inches: that of a column, or as the figures of tueplots are."""
    width = get_style().width
    return SIZE if width is None else (width / 72, width / 72 * 2 / (1 + 5**0.5))
