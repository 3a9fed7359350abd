"""Pages of heatmaps over the same tokens: the mean of every layer, or every head of a layer."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ..declarations import takes_options
from ..errors import PageSizeError
from ..facts import DERIVED, WEIGHTINGS
from ..maps import AttentionMaps
from ..selections import describe_numbers
from .heatmap import name_outstanding, read_sides
from .options import PanelLook, describe_data
from .page import Caption, PageFigure
from .panels import PanelPage, reserve_scale
from .scales import Extent
from .sinks import treat_mask, treat_sink

# More names of segments than this would fill the head of a page.
MOST_NAMES = 6
# So that all pages are laid out the same, whichever layers they show.
WIDEST_TITLE = "layer 000"
PART = ", heads {} to {}"
T = TypeVar("T")


@takes_options(PanelLook)
def plot_layer_averages(maps: AttentionMaps, *, options: PanelLook) -> PageFigure:
    """Draw the mean over the heads of every layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    **options
        Options of `PanelLook`.

    Returns
    -------
    PageFigure
        A page with a panel a layer.

    Raises
    ------
    OptionError
        If an option cannot be used.
    PageSizeError
        If the panels do not fit the page.
    """
    (figure,) = _draw_averages(maps, 1, options)
    return figure


def iterate_average_pages(maps: AttentionMaps, options: PanelLook) -> Iterator[PageFigure]:
    """Draw the mean over the heads of every layer, on as few pages as hold them, all on one scale.

    Raises
    ------
    PageSizeError
        If one panel alone does not fit.
    """
    yield from fit_pages(lambda n_pages: _draw_averages(maps, n_pages, options), len(maps.layers))


def _draw_averages(maps: AttentionMaps, n_pages: int, options: PanelLook) -> Iterator[PageFigure]:
    means = maps.average_heads()
    extent = options.measure(means)
    title = options.title or (f"attention {maps.weighting}" if maps.weighting in DERIVED else "layer averages")
    size = -(-len(maps.layers) // n_pages)
    for start in range(0, len(maps.layers), size):
        matrices = [layer[0] for layer in means.weights[start : start + size]]
        layers = maps.layers[start : start + size]
        heading = title if size >= len(maps.layers) else f"{title}, layers {describe_numbers(layers)}"
        page = HeatmapPage(maps, len(matrices), extent, heading, options, notes=[maps.averaged])
        yield page.show(matrices, [f"layer {number}" for number in layers], heading)


@takes_options(PanelLook)
def plot_heads(maps: AttentionMaps, layer: int, *, options: PanelLook) -> PageFigure:
    """Draw every head of one layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    layer : int
        True layer number.
    **options
        Options of `PanelLook`.

    Returns
    -------
    PageFigure
        A page with a panel a head.

    Raises
    ------
    OptionError
        If there is no such layer, or an option cannot be used.
    PageSizeError
        If the panels do not fit the page.
    """
    one = maps.select(layers=[layer])
    return _show_heads(_make_head_page(one, len(one.heads[0]), options.measure(one), options), one, 0)


@takes_options(PanelLook)
def iterate_head_pages(
    maps: AttentionMaps, *, extent: Extent | None = None, options: PanelLook
) -> Iterator[tuple[str, PageFigure]]:
    """Draw every head of every layer, on as few pages a layer as hold them, all on one scale.

    The scale is of a given `extent`, or that of these maps.

    Yields
    ------
    name : str
        Name of the page, ``"layer_3"``, or ``"layer_3_1"`` and so on where the layer has several.
    figure : PageFigure
        The page; the next step draws into the same figure if it has as many panels.

    Raises
    ------
    PageSizeError
        If one panel alone does not fit.
    """
    measured = extent or options.measure(maps)

    @functools.cache
    def make_page(n_panels: int, *, is_part: bool) -> HeatmapPage:
        return _make_head_page(maps, n_panels, measured, options, is_part=is_part)

    @functools.cache
    def choose_size(n_heads: int) -> int:
        fitting = fit_pages(lambda n: iter([make_page(-(-n_heads // n), is_part=n > 1)]), n_heads)
        return len(next(fitting).images)

    for index, (layer, heads) in enumerate(zip(maps.layers, maps.heads, strict=True)):
        size = choose_size(len(heads))
        for number, start in enumerate(range(0, len(heads), size), 1):
            some = slice(start, start + size)
            name = f"layer_{layer}" if size == len(heads) else f"layer_{layer}_{number}"
            yield name, _show_heads(make_page(len(heads[some]), is_part=size < len(heads)), maps, index, some)


def _make_head_page(
    maps: AttentionMaps, n_panels: int, extent: Extent, look: PanelLook, *, is_part: bool = False
) -> "HeatmapPage":
    heading = (look.title or WIDEST_TITLE) + PART.format("000", "000") * is_part
    title = f"head {'0' * len(str(max(map(max, maps.heads))))}"
    return HeatmapPage(maps, n_panels, extent, heading, look, title=title)


def _show_heads(page: "HeatmapPage", maps: AttentionMaps, index: int, some: slice = slice(None)) -> PageFigure:
    """Put some heads of a layer into a page."""
    heads = maps.heads[index][some]
    titles = [name_layer_map(maps)] if maps.is_mean else [f"head {number}" for number in heads]
    part = "" if len(heads) == len(maps.heads[index]) else PART.format(heads[0], heads[-1])
    heading = (page.look.title or f"layer {maps.layers[index]}") + part
    return page.show(list(maps.weights[index][some]), titles, heading)


def fit_pages(draw: Callable[[int], Iterator[T]], most: int) -> Iterator[T]:
    """Yield what `draw` makes of the fewest pages, of at most so many, on which it does not raise `PageSizeError`."""
    for n_pages in range(1, most + 1):
        try:
            pages = draw(n_pages)
            first = next(pages)
        except PageSizeError:
            if n_pages == most:
                raise
            continue
        yield first
        yield from pages
        return


def name_layer_map(maps: AttentionMaps) -> str:
    """Return a title for the one map of a layer whose heads were averaged."""
    return maps.weighting if maps.weighting in DERIVED else maps.averaged


class HeatmapPage(PanelPage):
    """A page of heatmaps over the tokens of `maps`, laid out once; `show` puts weights in.

    The scale suits weights of this `extent`; `heading`, and `title` of a panel, are the widest that will be shown.
    """

    def __init__(
        self,
        maps: AttentionMaps,
        n_panels: int,
        extent: Extent,
        heading: str,
        look: PanelLook,
        *,
        notes: Sequence[str] = (),
        title: str = WIDEST_TITLE,
    ) -> None:
        self.maps, self.look = maps, look
        tokens = read_sides(maps, look.sink)
        sides, pooling = tokens.pool()
        segments = name_segments(maps)
        future = treat_mask(maps, look.sink)
        named = name_outstanding(tokens, (treat_sink(w, maps, look.sink) for w in maps.weights), ~future)
        style = look.make_style([*sides.texts, maps.model_id, *notes, *segments, heading])
        self.scale = look.make_scale(extent, style, WEIGHTINGS[maps.weighting])
        widest = reserve_scale(name_layer_map(maps) if maps.is_mean else title, look)

        def make_caption(has_indices: bool, step: int) -> Caption:
            told = [*describe_data(maps, look, pooling, has_indices=has_indices, step=step, has_lines=True)]
            told += named * (has_indices or step > 1)
            bars = [self.scale] * (look.scale == "shared")
            return look.make_caption(heading, [*notes, *told, *segments], model_id=maps.model_id, bars=bars)

        super().__init__(style, [sides] * n_panels, [widest], make_caption, wish=look.num_figs_per_row)
        self.figure.changing += self.headings
        self.figure.changing += self.titles if look.scale == "panel" else []

    def show(self, matrices: Sequence[np.ndarray], titles: Sequence[str], heading: str) -> PageFigure:
        """Put weights into the panels, axes ``(n_query, n_key)`` as they stand in the maps."""
        future = treat_mask(self.maps, self.look.sink)
        for index, (matrix, title) in enumerate(zip(matrices, titles, strict=True)):
            cells = np.ma.masked_array(treat_sink(matrix, self.maps, self.look.sink), future)
            self.set_weights(index, cells, self.scale, title, look=self.look)
        self.set_heading(heading)
        return self.figure


def name_segments(maps: AttentionMaps) -> list[str]:
    """Return a phrase that names the segments of the prompt, if there are any."""
    names = [name for name, *_ in maps.segments]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return [f"bands, in order: {', '.join(names[:MOST_NAMES])}{more}"] if names else []
