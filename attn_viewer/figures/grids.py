"""Pages of heatmaps: the mean of every layer, every head of a layer, or chosen heads of any layers and models."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import PageSizeError
from ..facts import DERIVED, WEIGHTINGS
from ..maps import AttentionMaps, takes_maps
from ..selections import describe_numbers
from .heatmap import BAND, limit_cells
from .options import PageLook, PanelLook, describe_data, measure_maps, split_options
from .page import Caption, PageFigure
from .panels import GridFitter, PanelPage, describe_sides
from .scales import Extent, Scale, make_norm, measure_weights
from .sinks import treat_sink

# More names of segments than this would fill the head of a page.
MOST_NAMES = 6
OWN_SCALE = "   (to {:.2g})"
# So that all pages are laid out the same, whichever layers they show.
WIDEST_TITLE = "layer 000"


@takes_maps
def plot_layer_averages(maps: AttentionMaps, **options: Any) -> PageFigure:
    """Draw the mean over the heads of every layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    **options
        Options of `PanelLook` and `PageLook`.

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


def iterate_average_pages(maps: AttentionMaps, **options: Any) -> Iterator[PageFigure]:
    """Draw the mean over the heads of every layer, on as few pages as hold them, all on one scale.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    **options
        Options of `PanelLook` and `PageLook`.

    Yields
    ------
    PageFigure
        A page.

    Raises
    ------
    PageSizeError
        If one panel alone does not fit.
    """
    for n_pages in range(1, len(maps.layers) + 1):
        try:
            figures = _draw_averages(maps, n_pages, options)
            first = next(figures)
        except PageSizeError:
            if n_pages == len(maps.layers):
                raise
            continue
        yield first
        yield from figures
        return


def _draw_averages(maps: AttentionMaps, n_pages: int, options: dict[str, Any]) -> Iterator[PageFigure]:
    look, page = split_options(options)
    means = maps.average_heads()
    extent = measure_maps(means, look)
    title = page.title or (f"attention {maps.weighting}" if maps.weighting in DERIVED else "layer averages")
    size = -(-len(maps.layers) // n_pages)
    for start in range(0, len(maps.layers), size):
        matrices = [layer[0] for layer in means.weights[start : start + size]]
        layers = maps.layers[start : start + size]
        heading = title if size >= len(maps.layers) else f"{title}, layers {describe_numbers(layers)}"
        made = HeatmapPage(maps, len(matrices), extent, [*page.phrases, maps.averaged], heading, look, page)
        yield made.show(matrices, [f"layer {number}" for number in layers], heading)


@takes_maps
def plot_heads(maps: AttentionMaps, layer: int, **options: Any) -> PageFigure:
    """Draw every head of one layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    layer : int
        True layer number.
    **options
        Options of `PanelLook` and `PageLook`.

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
    return next(iterate_head_pages(maps.select(layers=[layer]), **options))[1]


@takes_maps
def iterate_head_pages(
    maps: AttentionMaps, *, extent: Extent | None = None, **options: Any
) -> Iterator[tuple[int, PageFigure]]:
    """Draw every head of every layer, a page a layer, all on one scale.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    extent : Extent, optional
        How large weights are; left out, from `measure_maps`.
    **options
        Options of `PanelLook` and `PageLook`.

    Yields
    ------
    layer : int
        True layer number.
    figure : PageFigure
        Its page; the next step draws into the same figure if the layers have equally many heads.
    """
    look, options_ = split_options(options)
    page, extent = None, measure_maps(maps, look) if extent is None else extent
    for layer, weights, heads in zip(maps.layers, maps.weights, maps.heads, strict=True):
        if page is None or len(page.images) != len(heads):
            page = HeatmapPage(
                maps, len(heads), extent, options_.phrases, options_.title or WIDEST_TITLE, look, options_
            )
        titles = [name_layer_map(maps)] if maps.is_mean else [f"head {number}" for number in heads]
        yield layer, page.show(list(weights), titles, options_.title or f"layer {layer}")


def name_layer_map(maps: AttentionMaps) -> str:
    """Return a title for the one map of a layer whose heads were averaged."""
    return maps.weighting if maps.weighting in DERIVED else maps.averaged


class HeatmapPage:
    """A page of equally large heatmaps over the same tokens, with one heading and one colour bar.

    It is laid out once; `show` puts other weights in, so that thirty layers cost one layout.

    Parameters
    ----------
    maps : AttentionMaps
        Whose tokens label the panels.
    n_panels : int
        How many panels.
    extent : Extent
        How large the weights are that will be shown.
    notes : sequence of str
        What was done to the weights before.
    heading : str
        The widest heading that will be shown.
    look : PanelLook
        How weights are shown.
    options : PageLook
        How the page looks.
    """

    def __init__(
        self,
        maps: AttentionMaps,
        n_panels: int,
        extent: Extent,
        notes: Sequence[str],
        heading: str,
        look: PanelLook,
        options: PageLook,
    ) -> None:
        self.maps, self.look = maps, look
        sides, pooling = describe_sides(maps, look.sink)
        segments = name_segments(maps)
        style = options.make_style().fit_fonts(
            [
                *sides.texts,
                maps.model_id,
                *notes,
                *segments,
                heading,
            ]
        )
        self.scale = look.make_scale(extent, style, WEIGHTINGS[maps.weighting])
        title = name_layer_map(maps) if maps.is_mean else WIDEST_TITLE
        title += OWN_SCALE.format(0.00123) * (look.scale == "panel")

        def make_caption(has_indices: bool, step: int) -> Caption:
            told = describe_data(maps, look, pooling, has_indices=has_indices, step=step, has_lines=True)
            return Caption(
                heading=heading,
                model_id=maps.model_id,
                notes=[note for note in (*notes, *told, *segments) if note],
                bars=[self.scale] * (look.scale == "shared"),
                **options.shown,
            )

        fitter = GridFitter(
            style=style,
            sides=[sides],
            n_panels=n_panels,
            wish=look.num_figs_per_row,
            title_width=style.measure(title, style.title)[0],
            measure_head=lambda *choice: make_caption(*choice).lay_out(style, style.width or math.inf).height,
            beside=(BAND + 0.5) * bool(segments),
            is_outer=style.width is not None,
        )
        grid = fitter.fit()
        self.panels = PanelPage(grid, [sides] * n_panels, make_caption(grid.has_indices, grid.step))
        self.figure, self.images = self.panels.figure, self.panels.images
        self.panels.mark_segments(maps)
        self.panels.mark_completion(maps)
        self.figure.changing += self.panels.page.headings
        self.figure.changing += self.panels.titles if look.scale == "panel" else []

    def show(self, matrices: Sequence[np.ndarray], titles: Sequence[str], heading: str) -> PageFigure:
        """Put weights into the panels.

        Parameters
        ----------
        matrices : sequence of numpy.ndarray
            One a panel, axes ``(n_query, n_key)``, as they stand in the maps.
        titles : sequence of str
            One a panel.
        heading : str
            What the page shows; the model's name goes before it.

        Returns
        -------
        PageFigure
            The page.
        """
        future = treat_mask(self.maps, self.look.sink)
        for index, (matrix, title) in enumerate(zip(matrices, titles, strict=True)):
            shown = np.ma.masked_array(treat_sink(matrix, self.maps, self.look.sink), future)
            scale, title = choose_panel_scale(shown, self.scale, self.look, title)
            self.panels.set_panel(index, limit_cells(shown)[0], scale, title)
        self.panels.page.set_heading(heading)
        return self.figure


def treat_mask(maps: AttentionMaps, sink: str) -> np.ndarray:
    """Return the cells of a head that no query may see, after the first token was hidden."""
    return treat_sink(maps.future, maps, "hide" if sink != "keep" else sink)


def choose_panel_scale(shown: np.ma.MaskedArray, shared: Scale, look: PanelLook, title: str) -> tuple[Scale, str]:
    """Return the scale of a panel and its title, which says where the scale ends if it is the panel's own."""
    if look.scale == "shared":
        return shared, title
    if look.vmax is not None:
        norm = shared.norm
    else:
        end = measure_weights([shown.filled(0)], ~np.ma.getmaskarray(shown), look.norm).end
        norm = make_norm(look.norm, -end if shared.smallest < 0 else look.vmin, end)
    return Scale(norm, shared.cmap), title + OWN_SCALE.format(norm.vmax)


def name_segments(maps: AttentionMaps) -> list[str]:
    """Return a phrase that names the segments of the prompt, if there are any."""
    names = [name for name, *_ in maps.segments]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return [f"bands, in order: {', '.join(names[:MOST_NAMES])}{more}"] if names else []
