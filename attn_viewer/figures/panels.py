"""Equally large heatmaps in rows on a page: how many stand side by side, how large, with which labels."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, Transform

from ..errors import OptionError, PageSizeError
from ..maps import AttentionMaps
from ..tokens import name_bytes
from .heatmap import BAND, Heatmap, find_frames, limit_cells
from .labels import AxisLabels, TokenStamps
from .options import AUTO, FIGS_PER_ROW
from .page import BETWEEN, LINE, MARGIN, PIXEL, Caption, Page, measure_title, snap
from .scales import Scale
from .sinks import count_hidden
from .style import BANDS, SMALLEST_LABEL, PageStyle
from .ticks import LINE_ROOM, TickChoice, choose_ticks, label_axis, write_labels

SMALLEST_PANEL, LARGEST_PANEL, LARGEST_LONE_PANEL, INDEX_PANEL = 100.0, 400.0, 640.0, 201.6
THINNEST_PANEL = 72.0
# Less is no panel; on a page of a given width, tokens are labelled on no longer a page than this.
NARROWEST_PANEL, LOWEST_PANEL, TALLEST_PAGE = 30.0, 6.0, 648.0
# Height over width of a page that pleases where it may choose.
PROPORTION = 0.9


@dataclasses.dataclass(frozen=True)
class Sides:
    """What stands along the sides of a panel.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of cells that are drawn.
    cell : tuple of int
        Query and key tokens of such a cell.
    tokens_query, tokens_key : tuple of str
        Labels of the tokens.
    first : tuple of int
        Numbers of the first query and key.
    """

    shape: tuple[int, int]
    cell: tuple[int, int]
    tokens_query: tuple[str, ...]
    tokens_key: tuple[str, ...]
    first: tuple[int, int]

    @property
    def texts(self) -> list[str]:
        """All that labels may say, to find fonts for."""
        return [*name_bytes(self.tokens_query), *name_bytes(self.tokens_key)]

    @property
    def has_tokens(self) -> bool:
        """Whether each cell is one token."""
        return self.cell == (1, 1)


def describe_sides(maps: AttentionMaps, sink: str) -> tuple[Sides, tuple[int, int]]:
    """Return what stands along the sides of a head of these maps, and how many of their rows and columns a cell is.

    Raises
    ------
    OptionError
        If nothing is left without the first token.
    """
    row, column = count_hidden(maps, sink)
    tokens_query, tokens_key = maps.tokens_query[row:], maps.tokens_key[column * maps.cell[1] :]
    if not tokens_query or not tokens_key:
        raise OptionError("nothing is left of a prompt of one token without its first token; keep it")
    shape = maps.shape[0] - row, maps.shape[1] - column
    shown, pooling = limit_cells(np.broadcast_to(np.float32(0), shape))
    cell = maps.cell[0] * pooling[0], maps.cell[1] * pooling[1]
    first = maps.first_query + row, column * maps.cell[1]
    return Sides(shown.shape, cell, tuple(tokens_query), tuple(tokens_key), first), pooling


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where panels go and what labels they have.

    Parameters
    ----------
    n_panels, columns : int
        Panels, and how many stand side by side in a full row.
    panel : tuple of float
        Width and height of each in points.
    queries, keys : tuple of AxisLabels
        Labels of rows and of columns, for each kind of sides.
    is_outer : bool
        Whether labels stand beside the outer panels alone.
    style : PageStyle
        The look of the page.
    """

    n_panels: int
    columns: int
    panel: tuple[float, float]
    queries: tuple[AxisLabels, ...]
    keys: tuple[AxisLabels, ...]
    is_outer: bool
    style: PageStyle

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return math.ceil(self.n_panels / self.columns)

    @property
    def has_indices(self) -> bool:
        """Whether token numbers label the axes."""
        return any(labels.is_index for labels in (*self.queries, *self.keys))

    @property
    def step(self) -> int:
        """Most tokens from one label to the next, where tokens are labelled."""
        return max(labels.step for labels in (*self.queries, *self.keys)) if not self.has_indices else 1

    @property
    def pitch(self) -> tuple[float, float]:
        """Distance from panel to panel, across and down."""
        wide = max(labels.width for labels in self.queries) * (not self.is_outer)
        deep = max(labels.depth for labels in self.keys) * (not self.is_outer)
        return (
            snap(self.panel[0] + BETWEEN + wide),
            snap(measure_title(self.style) + self.panel[1] + deep + BETWEEN),
        )

    @property
    def corner(self) -> tuple[float, float]:
        """Left and lower end of the panels, from the lower left corner of the room for them."""
        name = self.style.axis * LINE
        wide, deep = max(labels.width for labels in self.queries), max(labels.depth for labels in self.keys)
        return snap(name + wide), snap(name + deep)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the room that panels and labels need."""
        (left, bottom), (across, down) = self.corner, self.pitch
        return (
            left + (self.columns - 1) * across + self.panel[0],
            bottom + (self.rows - 1) * down + self.panel[1] + measure_title(self.style),
        )

    def place(self, x: float, y: float) -> list[tuple[float, float, float, float]]:
        """Return left, bottom, width and height of each panel when the room's lower left corner is at ``(x, y)``."""
        (left, bottom), (across, down) = self.corner, self.pitch
        return [
            (
                x + left + i % self.columns * across,
                y + bottom + (self.rows - 1 - i // self.columns) * down,
                *self.panel,
            )
            for i in range(self.n_panels)
        ]


Labels = tuple[tuple[AxisLabels, ...], tuple[AxisLabels, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridFitter:
    """What is to be fitted on a page.

    Parameters
    ----------
    style : PageStyle
        The look of the page.
    sides : sequence of Sides
        Each kind of sides that panels have.
    n_panels : int
        Panels.
    wish : int, "auto" or None
        Panels side by side.
    title_width : float
        Width of the widest panel title in points.
    measure_head : callable
        Takes whether numbers label the axes and tokens from label to label; returns the height above the panels.
    fewest : int
        Fewest panels side by side.
    beside : float
        Room between panels and labels for bands, in points.
    is_outer : bool
        Whether labels stand beside the outer panels alone.
    """

    style: PageStyle
    sides: Sequence[Sides]
    n_panels: int
    wish: int | str | None
    title_width: float
    measure_head: Callable[[bool, int], float]
    fewest: int = 1
    beside: float = 0.0
    is_outer: bool = False

    def fit(self) -> Grid:
        """Find how many panels stand side by side, how large they are, and what labels they have.

        Raises
        ------
        PageSizeError
            If they do not fit the page.
        """
        return self._fit_free() if self.style.width is None else self._fit_page()

    def _fit_free(self) -> Grid:
        """Fit panels on a page that is as large as they need."""
        panel, size = self._choose_panel()
        labels = self._label(panel, size)
        make = functools.partial(self._make, panel=panel, labels=labels)
        if self.wish != AUTO:
            return make(min(self.n_panels, int(self.wish or FIGS_PER_ROW)))
        grids = [make(columns) for columns in range(self.fewest, self.n_panels + 1)]
        return min(grids, key=lambda grid: self._rate(grid, grid.size[0]))

    def _choose_panel(self) -> tuple[tuple[float, float], float | None]:
        """Return the size of a panel, and of token labels if they fit beside it."""
        n_query, n_key = (max(side.shape[axis] for side in self.sides) for axis in (0, 1))
        longest = max(n_query, n_key)
        largest = LARGEST_LONE_PANEL if self.n_panels == 1 else LARGEST_PANEL
        size = min(self.style.label, largest / longest / LINE_ROOM)
        if size >= min(SMALLEST_LABEL, self.style.label) and all(side.has_tokens for side in self.sides):
            cell = snap(max(SMALLEST_PANEL / longest, size * LINE_ROOM))
            return (cell * n_key, cell * n_query), size
        side = largest if self.n_panels == 1 else INDEX_PANEL
        # A few queries over many keys would be a hairline if their cells were square.
        width, height = (
            snap(max(side * n / longest, min(n * self.style.label, THINNEST_PANEL))) for n in (n_key, n_query)
        )
        return (width, height), None

    def _fit_page(self) -> Grid:
        """Fit panels on a page of a given width, and height if it has one."""
        most = self.n_panels if not isinstance(self.wish, int) else min(self.wish, self.n_panels)
        found: list[tuple[Any, Grid]] = []
        for columns in range(self.fewest, most + 1):
            for has_tokens in (True, False):
                grid = self._try(columns, has_tokens)
                if grid is not None:
                    rank = 2 if grid.has_indices else int(grid.step > 1)
                    # As many side by side as was wished; or else a page of good proportions.
                    rest = -columns if isinstance(self.wish, int) else self._rate(grid, self.style.width or 0.0)
                    found.append(((rank, rest), grid))
                    break
        if not found:
            size = f"{(self.style.width or 0) / 72:.2f}"
            size += f" × {self.style.height / 72:.2f}" if self.style.height else ""
            raise PageSizeError(
                f"{self.n_panels} panels do not fit on a page of {size} inches; choose fewer layers or heads, more "
                "panels side by side (num_figs_per_row), columns=2 or another preset"
            )
        return min(found, key=lambda pair: pair[0])[1]

    def _try(self, columns: int, has_tokens: bool) -> Grid | None:
        """Return the grid with so many panels side by side, with token labels or with numbers, if it fits."""
        style, page = self.style, self.style.width or 0.0
        n_query, n_key = (max(side.shape[axis] for side in self.sides) for axis in (0, 1))
        if has_tokens and not all(side.has_tokens for side in self.sides):
            return None
        labels = self._label((1e6, 1e6) if has_tokens else (page / columns, page / columns), style.label, has_tokens)
        limit = style.height or (TALLEST_PAGE if has_tokens else math.inf)
        # How much room labels need is known when it is known how many there are, and the other way round.
        for _ in range(3):
            wide = max(one.width for one in labels[0])
            left, gap = MARGIN + snap(style.axis * LINE + wide), snap(BETWEEN + wide * (not self.is_outer))
            width = math.floor((page - MARGIN - left - (columns - 1) * gap) / columns / PIXEL) * PIXEL
            height = width / n_key * n_query
            if not has_tokens:
                height = max(min(height, TALLEST_PAGE / 2), min(n_query * style.label, THINNEST_PANEL, width))
            over = self._measure_height(self._make(columns, panel=(width, height), labels=labels)) - limit
            if over > 0:
                lower = height - over / math.ceil(self.n_panels / columns)
                width, height = (width * lower / height if n_query > 2 else width), lower
            if height < LOWEST_PANEL or width < LOWEST_PANEL:
                return None
            labels = self._label((width, height), style.label, has_tokens)
            if has_tokens and any(one.is_index for side in labels for one in side):
                return None
        grid = self._make(columns, panel=(width, height), labels=labels)
        narrowest = self.title_width if has_tokens else max(self.title_width, NARROWEST_PANEL)
        is_narrow = width < narrowest and (has_tokens or columns > self.fewest)
        fits = grid.size[0] + 2 * MARGIN <= page + 1e-6 and self._measure_height(grid) <= limit + PIXEL
        return grid if fits and not is_narrow else None

    def _measure_height(self, grid: Grid) -> float:
        """Return the height of the page in points."""
        return snap(2 * MARGIN + self.measure_head(grid.has_indices, grid.step) + grid.size[1]) + PIXEL

    def _make(self, columns: int, *, panel: tuple[float, float], labels: Labels) -> Grid:
        return Grid(self.n_panels, columns, panel, *labels, self.is_outer, self.style)

    def _rate(self, grid: Grid, width: float) -> float:
        """Return how far a page is from one of good proportions without empty places; less is better."""
        empty = grid.columns * grid.rows - grid.n_panels
        return abs(math.log(grid.size[1] / width / PROPORTION)) + 0.7 * empty / grid.n_panels

    def _label(self, panel: tuple[float, float], size: float | None, has_tokens: bool = True) -> Labels:
        """Return labels of queries and keys for panels of this size; numbers where `size` is None."""
        made = []
        for side in self.sides:
            has = has_tokens and size is not None and side.has_tokens
            choices = [
                self._choose(tokens, length, size or self.style.label, has, is_key=is_key)
                for tokens, length, is_key in (
                    (side.tokens_query, panel[1], False),
                    (side.tokens_key, panel[0], True),
                )
            ]
            if any(choice.is_index for choice in choices):
                choices = [
                    self._choose(tokens, length, self.style.label, False, is_key=is_key)
                    for tokens, length, is_key in (
                        (side.tokens_query, panel[1], False),
                        (side.tokens_key, panel[0], True),
                    )
                ]
            made.append(
                [
                    label_axis(tokens, self.style, choice, cell=cell, first=first, size=size, beside=self.beside)
                    for tokens, choice, cell, first in zip(
                        (side.tokens_query, side.tokens_key), choices, side.cell, side.first, strict=True
                    )
                ]
            )
        return tuple(zip(*made, strict=True))  # type: ignore[return-value]

    def _choose(
        self, tokens: Sequence[str], length: float, size: float, has_tokens: bool, *, is_key: bool
    ) -> TickChoice:
        widest = 0.0
        if is_key and has_tokens:
            widest = max(self.style.measure(text, size)[0] for text in write_labels(tokens, self.style))
        return choose_ticks(length, len(tokens), size, widest=widest, is_key=is_key, has_tokens=has_tokens)


class PanelPage:
    """A page of equally large heatmaps; `set_panel` puts numbers in, so that thirty pages cost one layout.

    One `Axes`, measured in points, holds the whole page: thirty of them take longer to make than all the rest.

    Parameters
    ----------
    grid : Grid
        Where panels go.
    sides : sequence of Sides
        What stands along the sides of each panel.
    caption : Caption
        What the page says about its data.
    kinds : sequence of int, optional
        Which of the grid's labels each panel has; left out, all have the first.

    Attributes
    ----------
    page : Page
        The page.
    images : list of CellImage
        The cells of each panel.
    titles : list of LineText
        The titles.
    places : list of tuple of float
        Left, bottom, width and height of each panel in points.
    """

    def __init__(self, grid: Grid, sides: Sequence[Sides], caption: Caption, kinds: Sequence[int] = ()) -> None:
        self.grid, self.sides = grid, sides
        self.kinds = kinds or [0] * grid.n_panels
        self.page = Page(grid.style, *grid.size, caption)
        self.figure, self.axes = self.page.figure, self.page.axes
        self.places = grid.place(MARGIN, self.page.bottom)
        with mpl.rc_context(self.page.rc):
            self._draw_frames()
            self._draw_labels()

    def _draw_frames(self) -> None:
        style, ax = self.page.style, self.axes
        self.images = [
            CellImage(ax, extent=(x, x + w, y, y + h), interpolation="nearest", origin="upper")
            for x, y, w, h in self.places
        ]
        for image, side in zip(self.images, self.sides, strict=True):
            image.set_data(np.ma.array(np.zeros(side.shape, np.float32), mask=True))
            ax.add_image(image)
        ax.set(xlim=(0, self.page.size[0]), ylim=(0, self.page.size[1]), aspect="auto")
        frames = PatchCollection(
            [Rectangle((x, y), w, h) for x, y, w, h in self.places],
            facecolor="none",
            edgecolor=style.palette.frame,
            linewidth=0.5,
            zorder=2,
        )
        self.figure.changing += [*self.images, ax.add_collection(frames)]
        self.titles = [self.page.write_line(x, y + h + 3.5, "", size=style.title) for x, y, _, h in self.places]

    def _draw_labels(self) -> None:
        grid, n_across = self.grid, self.grid.columns
        is_last = [i >= grid.n_panels - n_across for i in range(grid.n_panels)]
        for kind in sorted(set(self.kinds)):
            queries, keys = grid.queries[kind], grid.keys[kind]
            mine = [i for i in range(grid.n_panels) if self.kinds[i] == kind]
            rows = self.sides[mine[0]].shape[0]
            if not grid.is_outer:
                self.axes.add_artist(TokenStamps([self.map_cells(i) for i in mine], rows, queries, keys))
                continue
            left = [self.map_cells(i) for i in mine if i % n_across == 0]
            below = [self.map_cells(i) for i in mine if is_last[i]]
            self.axes.add_artist(TokenStamps(left, rows, queries, keys.drop_texts()))
            self.axes.add_artist(TokenStamps(below, rows, queries.drop_texts(), keys))
        middle = self.page.style.axis / 2
        for _, y, _, height in self.places[::n_across]:
            self.page.name_axis(MARGIN + middle, y + height / 2, "query", rotation=90)
        for x, _, width, _ in self.places[(grid.rows - 1) * n_across :]:
            self.page.name_axis(x + width / 2, self.page.bottom + middle, "key")

    def map_cells(self, index: int) -> Transform:
        """Return the transform from cells ``(column, row)`` of a panel to display coordinates."""
        return self.cells_to_page(index) + self.axes.transData

    def cells_to_page(self, index: int) -> Affine2D:
        """Return the transform from cells ``(column, row)`` of a panel to points on the page."""
        (x, y, width, height), (rows, columns) = self.places[index], self.sides[index].shape
        return Affine2D().translate(0.5, 0.5).scale(width / columns, -height / rows).translate(x, y + height)

    def set_panel(self, index: int, cells: np.ndarray, scale: Scale, title: str) -> None:
        """Put numbers, their colours and a title into a panel."""
        image = self.images[index]
        image.set_data(cells)
        if image.norm is not scale.norm:
            image.set_norm(scale.norm)
            image.set_cmap(scale.cmap)
        self.titles[index].set_text(title)

    def mark_segments(self, maps: AttentionMaps, panels: Iterable[int] | None = None) -> None:
        """Draw a band beside the axes of some or all panels for each segment of the prompt, one colour a name."""
        bars: list[Rectangle] = []
        colours: list[str] = []
        names = list(dict.fromkeys(name for name, *_ in maps.segments))
        for index in range(self.grid.n_panels) if panels is None else panels:
            side, to_page = self.sides[index], self.cells_to_page(index)
            rows, columns = side.shape
            for name, *ends in maps.segments:
                left, right = (float(np.clip((e - side.first[1]) / side.cell[1], 0, columns)) - 0.5 for e in ends)
                top, low = (float(np.clip((e - side.first[0]) / side.cell[0], 0, rows)) - 0.5 for e in ends)
                (x0, y0), (x1, _) = to_page.transform([(left, rows - 0.5), (right, rows - 0.5)])
                shown = [((x0, y0 - BAND - 0.5), x1 - x0, BAND)]
                if maps.kind != "cross":
                    (x, y1), (_, y0) = to_page.transform([(-0.5, top), (-0.5, low)])
                    shown.append(((x - BAND - 0.5, y0), BAND, y1 - y0))
                rectangles = [Rectangle(*bar) for bar in shown if min(bar[1:]) > 1e-9]
                bars += rectangles
                colours += [BANDS[names.index(name) % len(BANDS)]] * len(rectangles)
        if bars:
            self.axes.add_collection(PatchCollection(bars, facecolor=colours, linewidth=0, zorder=2))

    def mark_completion(self, maps: AttentionMaps, panels: Iterable[int] | None = None) -> None:
        """Draw lines where the generated text begins, on the axes of some or all panels that hold it."""
        if maps.kind == "cross" or maps.prompt_length == len(maps.tokens_key):
            return
        lines = []
        for index in range(self.grid.n_panels) if panels is None else panels:
            side = self.sides[index]
            rows, columns = side.shape
            row, column = ((maps.prompt_length - f) / c - 0.5 for f, c in zip(side.first, side.cell, strict=True))
            ends = [[(-0.5, row), (columns - 0.5, row)]] if -0.5 < row < rows - 0.5 else []
            ends += [[(column, -0.5), (column, rows - 0.5)]] if column > -0.5 else []
            lines += [self.cells_to_page(index).transform(line) for line in ends]
        accent = self.page.style.palette.accent
        dashes = LineCollection(lines, colors=accent, linewidths=0.8, linestyles=(0, (3, 2)), zorder=2)
        self.figure.changing.append(self.axes.add_collection(dashes))

    def frame(self, index: int, shown: Heatmap, highlight: Any) -> None:
        """Frame rows, columns and cells of a panel, as `heatmap.find_frames` takes them."""
        side = self.sides[index]
        frames = []
        for x, y, width, height in find_frames(shown, highlight):
            corners = [
                ((x + 0.5 - side.first[1]) / side.cell[1] - 0.5, (y + 0.5 - side.first[0]) / side.cell[0] - 0.5),
                (
                    (x + width + 0.5 - side.first[1]) / side.cell[1] - 0.5,
                    (y + height + 0.5 - side.first[0]) / side.cell[0] - 0.5,
                ),
            ]
            (x0, y1), (x1, y0) = self.cells_to_page(index).transform(corners)
            frames.append(Rectangle((x0, y0), x1 - x0, y1 - y0))
        accent = self.page.style.palette.accent
        frame = PatchCollection(frames, facecolor="none", edgecolor=accent, linewidth=1.2, zorder=3)
        self.figure.changing.append(self.axes.add_collection(frame))


class CellImage(AxesImage):
    """A heatmap's cells: the pixels that "nearest" means, straight from the colours of the cells.

    matplotlib resamples weights and mask to the size on the page and then looks up a colour for each pixel.
    """

    def make_image(
        self, renderer: RendererBase, magnification: float = 1.0, unsampled: bool = False
    ) -> tuple[np.ndarray, float, float, Any]:
        """Return the picture of the cells and where its lower left corner goes, as matplotlib asks for it."""
        if unsampled:
            return super().make_image(renderer, magnification, unsampled)
        left, bottom, right, top = np.multiply(self.get_window_extent().extents, magnification)
        # Rounded as matplotlib does, so that panels and frames meet.
        x0, x1 = np.floor(left + 0.5), np.floor(right + 0.5 + 1e-8)
        y0, y1 = np.ceil(bottom - 0.5 - 1e-8), np.ceil(top - 0.5)
        cells = self.get_array()
        if x1 <= x0 or y1 <= y0 or cells is None:
            return np.empty((0, 0, 4), np.uint8), 0.0, 0.0, None
        colours = self.to_rgba(cells, bytes=True).view(np.uint32)[..., 0]
        rows = _find_cells(bottom, top, y0, y1, colours.shape[0])
        columns = _find_cells(left, right, x0, x1, colours.shape[1])
        picture = colours[::-1].take(rows, axis=0).take(columns, axis=1)
        return picture.view(np.uint8).reshape(*picture.shape, 4), x0 / magnification, y0 / magnification, None


def _find_cells(start: float, stop: float, first: float, end: float, count: int) -> np.ndarray:
    """Return the cell (of `count` from `start` to `stop`) under the middle of each pixel from `first` to `end`."""
    middles = np.arange(first, end) + 0.5
    return np.clip(np.floor((middles - start) / (stop - start) * count + 1e-9), 0, count - 1).astype(np.intp)
