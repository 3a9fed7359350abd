"""Axes that `matplotlib.pyplot` draws into, for functions that were written for it.

pyplot has no public way to take in a figure that it did not make, nor to forget others for a while. `_lend` does it
with private names of matplotlib: no window opens, and a person's own figures are as before. `_make` is the plain way
for a matplotlib that lacks them: the figures are pyplot's own.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import OptionError

Gcf: Any
try:
    from matplotlib import _pylab_helpers

    Gcf = _pylab_helpers.Gcf
except (ImportError, AttributeError):
    Gcf = None

Way = Callable[[int, tuple[float, float], float], contextlib.AbstractContextManager[list[Figure]]]


@contextlib.contextmanager
def open_figures(count: int, size: tuple[float, float], dpi: float, sides: dict[str, float]) -> Iterator[list[Figure]]:
    """Make figures of `size` inches with one axes each; the first of them is pyplot's current one in the block."""
    way: Way = _make if Gcf is None else _lend
    with way(count, size, dpi) as figures:
        for figure in figures:
            figure.subplots_adjust(**sides)
            figure.add_subplot()
        yield figures


@contextlib.contextmanager
def _lend(count: int, size: tuple[float, float], dpi: float) -> Iterator[list[Figure]]:
    known = Gcf.figs
    others = dict(known)
    known.clear()
    figures = [Figure(size, dpi=dpi) for _ in range(count)]
    # The last is the current one.
    managers = [FigureManagerBase(figure.canvas, number) for number, figure in enumerate(figures, 1)][::-1]
    for manager in managers:
        Gcf._set_new_active_manager(manager)
    try:
        yield figures
        _check_drawn(figures, any(manager not in managers for manager in known.values()))
    finally:
        for manager in [*known.values()]:
            Gcf.destroy(manager)
        for figure in figures:
            figure.canvas.manager = None
        known.clear()
        known.update(others)


@contextlib.contextmanager
def _make(count: int, size: tuple[float, float], dpi: float) -> Iterator[list[Figure]]:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    current = pyplot.gcf().number if before else None
    with pyplot.ioff():
        figures = [pyplot.figure(figsize=size, dpi=dpi) for _ in range(count)]
        pyplot.figure(figures[0].number)
    numbers = [figure.number for figure in figures]
    try:
        yield figures
        _check_drawn(figures, bool(set(pyplot.get_fignums()) - {*before, *numbers}))
    finally:
        for number in set(pyplot.get_fignums()) - set(before):
            pyplot.close(number)
        for figure in figures:
            # Closing leaves the canvas of pyplot's backend behind, which may be a window's.
            FigureCanvasAgg(figure)
        if current in pyplot.get_fignums():
            pyplot.figure(current)


def _check_drawn(figures: list[Figure], has_others: bool) -> None:
    if has_others and not any(ax.has_data() for figure in figures for ax in figure.axes):
        raise OptionError("the function drew into a figure of its own; draw into the axes that it is given")
