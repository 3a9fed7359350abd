"""Axes that `matplotlib.pyplot` draws into, for functions that were written for it."""

import contextlib
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import OptionError


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
    numbers = {*before, *(figure.number for figure in figures)}
    try:
        yield figures
        has_others = bool(set(pyplot.get_fignums()) - numbers)
        if has_others and not any(ax.has_data() for figure in figures for ax in figure.axes):
            raise OptionError("the function drew into a figure of its own; draw into the axes that it is given")
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
