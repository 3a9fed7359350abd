"""The pages of a prompt as files: the layer averages, and the heads of each layer, which several processes may draw.

Nothing here loads a model, so worker processes start as quickly as matplotlib does.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import joblib
import matplotlib as mpl

from ..long_runs import leave_when_ended, show_bar
from ..maps import AttentionMaps
from .chosen_heads import plot_panels
from .formats import render_figure
from .grids import iterate_average_pages, iterate_head_pages
from .options import PanelLook
from .page import PageFigure
from .scales import Extent
from .style import PageStyle
from .venues import get_style, use_style

AVERAGES, PANELS = "all_layers_avg", "panels"
# Measured on two cores, in seconds: two worker processes start in 1.5, and are 3.7 behind by the time each has laid
# out its first pages (31 JPGs of 64 tokens: 10.2 in one process, 8.8 in two). Less drawing is not worth sharing.
START = 3.7
PARTS_A_PROCESS = 4

Render = Callable[[PageFigure], bytes]
Pages = list[tuple[str, bytes]]
T = TypeVar("T")


def render_pages(
    maps: AttentionMaps,
    look: PanelLook,
    fmt: str,
    *,
    panels: Sequence[tuple[int, int]] | None = None,
    has_heads: bool = False,
    text_as_path: bool = False,
    parallel: bool | int = 1,
    progress: bool | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of a prompt's pages: `panels` as `plot_panels` takes them, layer averages, heads.

    Processes draw the pages of heads, `parallel` of them, True for one a core, where the first of these pages shows
    that the time saved is more than their start costs; the files are the same in any case. A name has no ending; what
    does not fit one page is on several, numbered from 1.
    """
    render = functools.partial(render_figure, fmt=fmt, text_as_path=text_as_path)
    count = 1 + len(maps.layers) * has_heads
    with show_bar("drawing", "page", progress, total=count) as bar:
        if panels is not None:
            yield PANELS, render(plot_panels(maps, panels, **look.changes()))
        for name, figure in number_pages(AVERAGES, iterate_average_pages(maps, look)):
            yield name, render(figure)
        bar.update()
        for name, data in _render_heads(maps, look, render, parallel) if has_heads else ():
            yield name, data
            bar.update(bar.n < count)  # layers of several pages are more pages than that


def number_pages(name: str, figures: Iterator[T]) -> Iterator[tuple[str, T]]:
    """Yield figures with their names: ``name`` where there is one, ``name_1`` and so on where there are several."""
    first, second = next(figures), next(figures, None)
    yield (name if second is None else f"{name}_1"), first
    for number, figure in enumerate([] if second is None else [second, *figures], 2):
        yield f"{name}_{number}", figure


def _render_heads(
    maps: AttentionMaps, look: PanelLook, render: Render, parallel: bool | int
) -> Iterator[tuple[str, bytes]]:
    draw = functools.partial(_draw_layers, look, look.measure(maps), render)
    (first, *others), start = maps.layers, time.perf_counter()
    pages = list(draw(maps.select(layers=[first])))
    seconds = (time.perf_counter() - start) * len(others)
    yield from pages
    processes = min(joblib.cpu_count() if parallel is True else parallel, len(others))
    if processes < 2 or seconds * (1 - 1 / processes) < START:
        yield from draw(maps.select(layers=others)) if others else ()
        return
    # Here, for joblib makes its tasks in a thread, which has no style.
    settings, style = dict(mpl.rcParams.copy()), get_style()
    del settings["backend"]
    size = -(-len(others) // (processes * PARTS_A_PROCESS))
    parts = [maps.select(layers=others[i : i + size]) for i in range(0, len(others), size)]
    run = joblib.Parallel(processes, return_as="generator", batch_size=1)
    tasks = (joblib.delayed(_draw_elsewhere)(draw, part, style, settings) for part in parts)
    with leave_when_ended(), contextlib.closing(run(tasks)) as done:
        yield from itertools.chain.from_iterable(done)


def _draw_layers(look: PanelLook, extent: Extent, render: Render, maps: AttentionMaps) -> Iterator[tuple[str, bytes]]:
    for name, figure in iterate_head_pages(maps, extent=extent, options=look):
        yield name, render(figure)


def _draw_elsewhere(
    draw: Callable[[AttentionMaps], Iterator[tuple[str, bytes]]],
    maps: AttentionMaps,
    style: PageStyle,
    settings: dict[Any, Any],
) -> Pages:
    """Draw under the settings of the process that asks."""
    with use_style(style), mpl.rc_context(settings):
        return list(draw(maps))
