"""Pages of heatmaps: the mean of every layer, or every head of a layer."""

import functools

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D

from ..errors import OptionError
from ..facts import DERIVED, WEIGHTINGS
from . import style
from .heatmap import draw_colorbar, label_axis, limit_cells
from .labels import LineText, TokenStamps, measure_text
from .layout import MARGIN, fit_column, fit_panel, lay_out_page
from .options import GridOptions, describe_data, find_largest
from .repeat import CellImage, RepeatedFigure
from .sinks import count_hidden, treat_sink
from .venues import get_venue

# More names of segments than this would fill the head of a page.
MOST_NAMES = 6
# How thick the band of a segment is, in points.
BAND = 1.6
OWN_SCALE = "   (max {:.2g})"


def plot_layer_averages(maps, *, title=None, note=None, **options):
    """Draw the mean over the heads of every layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    title : str, optional
        What the page shows; the model's name goes before it. Left out, layer averages, or a rollout or flow.
    note : str, optional
        What was done to the weights before, as `analysis.rollout` does it.
    **options
        Fields of `GridOptions`.

    Returns
    -------
    matplotlib.figure.Figure
        A page with a panel a layer.
    """
    means = maps.average_heads()
    if title is None:
        title = f"attention {maps.weighting}" if maps.weighting in DERIVED else "layer averages"
    matrices = [layer[0] for layer in means.weights]
    page = HeatmapPage(maps, len(matrices), find_largest(means, options), [note, maps.averaged], **options)
    return page.show(matrices, [f"layer {number}" for number in maps.layers], title)


def plot_heads(maps, layer, **options):
    """Draw every head of one layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    layer : int
        True layer number.
    **options
        Fields of `GridOptions`.

    Returns
    -------
    matplotlib.figure.Figure
        A page with a panel a head.
    """
    return next(iterate_head_pages(maps.select(layers=[layer]), **options))[1]


def iterate_head_pages(maps, *, largest=None, **options):
    """Draw every head of every layer, a page a layer, all on one scale.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    largest : float, optional
        Largest weight on the scale; left out, the one from `find_largest`.
    **options
        Fields of `GridOptions`.

    Yields
    ------
    layer : int
        True layer number.
    figure : matplotlib.figure.Figure
        Its page; the next step draws into the same figure if the layers have equally many heads.
    """
    page, largest = None, find_largest(maps, options) if largest is None else largest
    for layer, weights, heads in zip(maps.layers, maps.weights, maps.heads, strict=True):
        if page is None or len(page.images) != len(heads):
            page = HeatmapPage(maps, len(heads), largest, **options)
        titles = [name_layer_map(maps)] if maps.is_mean else [f"head {number}" for number in heads]
        yield layer, page.show(weights, titles, f"layer {layer}")


def name_layer_map(maps):
    """Return a title for the one map of a layer whose heads were averaged."""
    return maps.weighting if maps.weighting in DERIVED else maps.averaged


def label_column(n_panels, columns, n_query, n_key, queries, keys, *, has_tokens, title, family, fewest=1):
    """Choose panels and labels for a page as wide as the venue says.

    Parameters
    ----------
    n_panels, columns, n_query, n_key, fewest : int
        As `layout.fit_column` takes them.
    queries, keys : callable
        `heatmap.label_axis` of each axis.
    has_tokens : bool
        Whether each cell is one token.
    title : str
        The widest panel title.
    family : tuple of str
        Font families.

    Returns
    -------
    columns : int
        Panels side by side.
    panel : tuple of float
        Width and height of each.
    labels : tuple of AxisLabels
        Labels of queries and keys.
    """
    size = get_venue().label
    labels = [(queries(size=size), keys(size=size))] * has_tokens + [(queries(), keys())]
    width = measure_text(title, get_venue().title, family)[0]
    across, panel, labels = fit_column(n_panels, columns, n_query, n_key, labels, title_width=width, fewest=fewest)
    if labels[0].is_index:
        widest = max(measure_text(text, size)[0] for text in labels[1].texts)
        ticks = [min(8, max(1, int(s // room))) for s, room in zip(panel, (widest + 4, size * 1.3), strict=True)]
        labels = queries(most=ticks[1]), keys(most=ticks[0])
    return across, panel, labels


class HeatmapPage:
    """A page of equally large heatmaps over the same tokens, with one heading and one colour bar.

    It is laid out once; `show` puts other weights in, so that thirty layers cost one layout.

    Parameters
    ----------
    maps : AttentionMaps
        Whose tokens label the panels.
    n_panels : int
        How many panels.
    largest : float
        Largest weight that will be shown.
    notes : sequence of (str or None)
        What was done to the weights before.
    **options
        Fields of `GridOptions`.
    """

    def __init__(self, maps, n_panels, largest, notes=(), **options):
        self.maps, self.options = maps, GridOptions(**options)
        row, column = self.hidden = count_hidden(maps, self.options.sink)
        tokens_query, tokens_key = maps.tokens_query[row:], maps.tokens_key[column * maps.cell[1] :]
        if not tokens_query or not tokens_key:
            raise OptionError("nothing is left of a prompt of one token without its first token; keep it")
        segments = self._name_segments()
        self.family, self.missing = style.choose_fonts([*tokens_query, *tokens_key, maps.model_id, *segments])
        shape = maps.shape[0] - row, maps.shape[1] - column
        shown, pooling = limit_cells(np.broadcast_to(np.float32(0), shape))
        down, across = (mine * drawn for mine, drawn in zip(maps.cell, pooling, strict=True))
        label = {"family": self.family, "missing": self.missing, "beside": (BAND + 0.5) * bool(segments)}
        queries = functools.partial(label_axis, tokens_query, cell=down, first=maps.first_query + row, **label)
        keys = functools.partial(label_axis, tokens_key, cell=across, first=column * maps.cell[1], **label)
        n_across, panel = self._fit_panels(n_panels, shown.shape, queries, keys, (down, across) == (1, 1))
        has_indices = self.queries.is_index
        notes = [*notes, *describe_data(maps, self.options, pooling, has_indices=has_indices, has_lines=True)]
        self.norm = style.make_norm(
            self.options.norm, self.options.vmin, largest if self.options.vmax is None else self.options.vmax
        )
        self.cmap = style.get_colormap(self.options.cmap)
        self.layout = lay_out_page(
            n_panels,
            n_across,
            panel,
            label_width=self.queries.width,
            label_depth=self.keys.depth,
            notes=[style.spell_missing(n, self.missing) for n in (*notes, *segments) if n],
            has_bar=self.options.scale == "shared",
            family=self.family,
        )
        with mpl.rc_context(style.make_rc(family=self.family)):
            self._draw_frame(*shown.shape, down, across)

    def _fit_panels(self, n_panels, shape, queries, keys, has_tokens):
        """Choose the labels; return how many panels stand side by side and how large they are."""
        most = self.options.num_figs_per_row
        if get_venue().width is None:
            *panel, size = fit_panel(*shape, is_lone=n_panels == 1, has_tokens=has_tokens)
            self.queries, self.keys = queries(size=size), keys(size=size)
            return most, panel
        # The same for all pages, whichever layers they show.
        title = name_layer_map(self.maps) if self.maps.is_mean else "layer 000"
        title += OWN_SCALE.format(0.00123) * (self.options.scale == "panel")
        most, panel, (self.queries, self.keys) = label_column(
            n_panels, most, *shape, queries, keys, has_tokens=has_tokens, title=title, family=self.family
        )
        return most, panel

    def _draw_frame(self, n_rows, n_columns, down, across):
        """Draw all that stays the same from layer to layer.

        One `Axes`, measured in points, holds the whole page: thirty of them take longer to make than all the rest.
        """
        width, height = self.layout.size
        self.figure = RepeatedFigure(figsize=(width / 72, height / 72), dpi=self.layout.resolution)
        self.axes = ax = self.figure.add_axes((0, 0, 1, 1), label="page")
        ax.set_axis_off()
        nothing = np.ma.masked_all((n_rows, n_columns), np.float32)
        look = {"norm": self.norm, "cmap": self.cmap, "interpolation": "nearest", "origin": "upper"}
        self.images = [
            ax.add_image(CellImage(ax, extent=(x, x + w, y, y + h), **look)) for x, y, w, h in self.layout.panels
        ]
        for image in self.images:
            image.set_data(nothing)
        ax.set(xlim=(0, width), ylim=(0, height), aspect="auto")
        frames = [Rectangle((x, y), w, h) for x, y, w, h in self.layout.panels]
        self.figure.changing += [
            *self.images,
            ax.add_collection(
                PatchCollection(frames, facecolor="none", edgecolor=style.FRAME, linewidth=0.5, zorder=2)
            ),
        ]
        self.titles = [self._write(x, y + h + 3.5, "", size=get_venue().title) for x, y, _, h in self.layout.panels]
        from_cells = Affine2D().translate(0.5, 0.5)
        panels = [
            from_cells + Affine2D().scale(w / n_columns, -h / n_rows).translate(x, y + h) + ax.transData
            for x, y, w, h in self.layout.panels
        ]
        self._mark_segments(n_rows, n_columns, down, across)
        self._mark_completion(panels, n_rows, n_columns, down, across)
        if get_venue().width is None:
            ax.add_artist(TokenStamps(panels, n_rows, self.queries, self.keys))
        else:
            n_across = self.layout.columns
            ax.add_artist(TokenStamps(panels[::n_across], n_rows, self.queries, self.keys.drop_texts()))
            ax.add_artist(TokenStamps(panels[-n_across:], n_rows, self.queries.drop_texts(), self.keys))
        # A fallback font seldom comes in bold, and matplotlib complains about it aloud.
        weight = "bold" if style.choose_fonts([self.maps.model_id])[0] == get_venue().family else "normal"
        family = list(get_venue().family if weight == "bold" else self.family)
        self.heading = self._write(*self.layout.heading, "", size=get_venue().heading, weight=weight, fontfamily=family)
        self.figure.changing += [self.heading, *(self.titles if self.options.scale == "panel" else ())]
        self.notes = [
            self._write(MARGIN, y, line, size=get_venue().note, color=style.MUTED) for line, y in self.layout.notes
        ]
        for place in self.layout.queries:
            self._name_axis(*place, "query", rotation=90)
        for place in self.layout.keys:
            self._name_axis(*place, "key")
        self.colorbar = None
        if self.layout.bar:
            mappable = mpl.cm.ScalarMappable(self.norm, self.cmap)
            self.colorbar = draw_colorbar(self.figure, self.layout.bar, mappable, WEIGHTINGS[self.maps.weighting])

    def _name_segments(self):
        names = [name for name, *_ in self.maps.segments]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return [f"bands, in order: {', '.join(names[:MOST_NAMES])}{more}"] if names else []

    def _mark_segments(self, n_rows, n_columns, down, across):
        """Draw a band beside the axes for each segment, one colour a name."""
        maps, bars, colours = self.maps, [], []
        names = list(dict.fromkeys(name for name, *_ in maps.segments))
        for x, y, width, height in self.layout.panels:
            for name, *ends in maps.segments:
                colour = style.BANDS[names.index(name) % len(style.BANDS)]
                left, right = (np.clip((e - self.hidden[1] * maps.cell[1]) / across, 0, n_columns) for e in ends)
                top, end = (np.clip((e - maps.first_query - self.hidden[0]) / down, 0, n_rows) for e in ends)
                sides = [((x + left * width / n_columns, y - BAND - 0.5), (right - left) * width / n_columns, BAND)]
                if maps.kind != "cross":
                    sides += [
                        ((x - BAND - 0.5, y + height - end * height / n_rows), BAND, (end - top) * height / n_rows)
                    ]
                shown = [Rectangle(*side) for side in sides if min(side[1:]) > 0]
                bars += shown
                colours += [colour] * len(shown)
        if bars:
            self.axes.add_collection(PatchCollection(bars, facecolor=colours, linewidth=0, zorder=2))

    def _mark_completion(self, panels, n_rows, n_columns, down, across):
        """Draw lines where the generated text begins, on the axes that hold it."""
        maps = self.maps
        if maps.kind == "cross" or maps.prompt_length == len(maps.tokens_key):
            return
        row = (maps.prompt_length - maps.first_query - self.hidden[0]) / down - 0.5
        column = (maps.prompt_length - self.hidden[1] * maps.cell[1]) / across - 0.5
        ends = [[(-0.5, row), (n_columns - 0.5, row)]] if row > -0.5 else []
        ends += [[(column, -0.5), (column, n_rows - 0.5)]]
        to_page = self.axes.transData.inverted()
        lines = [to_page.transform(panel.transform(line)) for panel in panels for line in ends]
        dashes = LineCollection(lines, colors=style.ACCENT, linewidths=0.8, linestyles=(0, (3, 2)), zorder=2)
        self.figure.changing.append(self.axes.add_collection(dashes))

    def _write(self, x, y, text, **look):
        return self.axes.add_artist(LineText(x, y, text, transform=self.axes.transData, parse_math=False, **look))

    def _name_axis(self, x, y, text, **look):
        centred = style.describe_axis_name()
        self.axes.text(x, y, text, parse_math=False, **centred, **look)

    def show(self, matrices, titles, heading):
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
        matplotlib.figure.Figure
            The page.
        """
        own_scale = self.options.scale == "panel"
        future = self.maps.future[self.hidden[0] :, self.hidden[1] :]
        for matrix, title, image, text in zip(matrices, titles, self.images, self.titles, strict=True):
            shown = treat_sink(matrix, self.maps, self.options.sink)
            shown = np.ma.masked_array(shown, future)
            image.set_data(limit_cells(shown)[0])
            if own_scale:
                largest = float(shown.max()) or 1.0
                end = style.find_end(shown.compressed(), self.options.norm)
                image.set_norm(style.make_norm(self.options.norm, self.options.vmin, end))
                title += OWN_SCALE.format(largest)
            text.set_text(title)
        self.heading.set_text(self._fit_heading(heading))
        return self.figure

    def _fit_heading(self, heading):
        """Cut the model's name where it would run out of the page or into the colour bar."""
        room = self.layout.size[0] - 2 * MARGIN
        if self.layout.bar and self.layout.bar[0] > MARGIN:
            room = self.layout.bar[0] - 2 * MARGIN
        name = style.spell_missing(self.maps.model_id, self.missing)
        for longest in range(max(len(name), 4), 3, -1):
            text = f"{style.shorten_label(name, longest)}  ·  {heading}"
            # Bold is up to a sixth wider than the regular face that is measured.
            if measure_text(text, get_venue().heading, self.family)[0] * 7 / 6 <= room:
                return text
        return heading
