"""Axes that `matplotlib.pyplot` draws into, for functions that were written for it."""

import contextlib
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


@contextlib.contextmanager
def open_figures(count: int, size: tuple[float, float], dpi: float, sides: dict[str, float]) -> Iterator[list[Figure]]:
    """Make figures of `size` inches with one axes each; the first of them is pyplot's current one in the block.

    No window opens. Figures that a person had in pyplot stay, and the one that was current is so again.
    """
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    current = pyplot.gcf().number if before else None
    backend = mpl.get_backend()
    if not before and backend.lower() != "agg":
        pyplot.switch_backend("agg")  # older matplotlib closes all figures on a switch
    with pyplot.ioff():
        figures = [pyplot.figure(figsize=size, dpi=dpi) for _ in range(count)]
    for figure in figures:
        figure.subplots_adjust(**sides)
        figure.add_subplot()
    pyplot.figure(figures[0].number)
    try:
        yield figures
    finally:
        for number in set(pyplot.get_fignums()) - set(before):
            pyplot.close(number)
        for figure in figures:
            # Closing leaves the canvas of pyplot's backend behind, which may be a window's.
            FigureCanvasAgg(figure)
        if current in pyplot.get_fignums():
            pyplot.figure(current)
        if mpl.get_backend() != backend:
            pyplot.switch_backend(backend)


def drop_unused(ax: Axes, figure: Figure) -> bool:
    """Take the axes that a figure was made with out of it where others lie over them; tell whether anything is drawn.

    Functions of pyplot that make axes, such as ``pyplot.subplot``, find none there elsewhere.
    """
    others = [other for other in figure.axes if other is not ax]
    if len(others) < len(figure.axes) and _is_untouched(ax):
        is_shared = any(axes.get_siblings(ax)[1:] for axes in (ax.get_shared_x_axes(), ax.get_shared_y_axes()))
        if not is_shared and any(ax.bbox.count_overlaps([other.bbox]) for other in others):
            ax.remove()
    own = [figure.patch, *(other for other in figure.axes if _is_untouched(other))]
    return any(child not in own for child in figure.get_children())


def _is_untouched(ax: Axes) -> bool:
    """Tell whether nothing is drawn or written in an axes."""
    own = {ax.patch, ax.xaxis, ax.yaxis, *ax.spines.values()}
    texts = [child for child in ax.get_children() if isinstance(child, Text)]
    has_words = any(text.get_text() for text in (*texts, ax.xaxis.label, ax.yaxis.label))
    return not has_words and all(child in own for child in ax.get_children() if child not in texts)
