"""Fitting panels on a page: how many of one size stand side by side, how large, with which labels."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import PageSizeError
from .heatmap import Sides
from .labels import AxisLabels
from .options import FIGS_PER_ROW
from .page import BETWEEN, LINE, MARGIN, PIXEL, measure_title, snap
from .style import SMALLEST_LABEL, PageStyle
from .ticks import LINE_ROOM, choose_ticks, label_axis, write_labels

SMALLEST_PANEL, LARGEST_PANEL, LARGEST_LONE_PANEL, INDEX_PANEL = 100.0, 400.0, 640.0, 201.6
THINNEST_PANEL = 72.0
# Less is no panel; on a page of a given width, tokens are labelled on no longer a page than this.
NARROWEST_PANEL, LOWEST_PANEL, TALLEST_PAGE = 30.0, 6.0, 648.0
# Height over width of a page that pleases where it may choose; what it costs that places are left empty, that some
# tokens are not labelled, or all are numbered.
PROPORTION, EMPTY, SOME, NUMBERS = 0.9, 0.7, 0.2, 0.6

Labels = tuple[tuple[AxisLabels, ...], tuple[AxisLabels, ...]]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where panels go, and what labels they have.

    `panel` is width and height of each in points, `title_width` that of the widest title; `labels` are those of rows
    and of columns for each kind of sides, `is_outer` says that they stand beside the outer panels alone.
    """

    n_panels: int
    columns: int
    panel: tuple[float, float]
    labels: Labels
    is_outer: bool
    style: PageStyle
    title_width: float

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return math.ceil(self.n_panels / self.columns)

    @property
    def has_indices(self) -> bool:
        """Whether token numbers label the axes."""
        return any(labels.is_index for side in self.labels for labels in side)

    @property
    def step(self) -> int:
        """Most tokens from one label to the next, where tokens are labelled."""
        return max(labels.step for side in self.labels for labels in side) if not self.has_indices else 1

    @property
    def _room(self) -> tuple[float, float]:
        """Points that labels take left of a panel and below it."""
        queries, keys = self.labels
        return max(labels.width for labels in queries), max(labels.depth for labels in keys)

    @property
    def pitch(self) -> tuple[float, float]:
        """Distance from panel to panel, across and down."""
        wide, deep = (room * (not self.is_outer) for room in self._room)
        return (
            snap(max(self.panel[0], self.title_width) + BETWEEN + wide),
            snap(measure_title(self.style) + self.panel[1] + deep + BETWEEN),
        )

    @property
    def corner(self) -> tuple[float, float]:
        """Left and lower end of the panels, from the lower left corner of the room for them."""
        wide, deep = self._room
        return snap(self.style.axis * LINE + wide), snap(self.style.axis * LINE + deep)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the room that panels and labels need."""
        (left, bottom), (across, down) = self.corner, self.pitch
        return (
            left + (self.columns - 1) * across + max(self.panel[0], self.title_width),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridFitter:
    """What is to be fitted on a page."""

    style: PageStyle
    sides: Sequence[Sides]  # each kind that panels have
    n_panels: int
    wish: int | str | None  # panels side by side, `fewest` at least
    title_width: float  # points of the widest title of a panel
    # Takes whether numbers label the axes, and tokens from label to label; returns the height above the panels.
    measure_head: Callable[[bool, int], float]
    fewest: int
    beside: float  # points for bands between panels and labels
    is_outer: bool

    def fit(self) -> Grid:
        """Find how many panels stand side by side, how large they are, and what labels they have."""
        return self._fit_free() if self.style.width is None else self._fit_page(self.style.width)

    @functools.cached_property
    def _longest(self) -> tuple[int, int]:
        """Most rows and columns of a panel."""
        return max(side.shape[0] for side in self.sides), max(side.shape[1] for side in self.sides)

    @functools.cached_property
    def _has_tokens(self) -> bool:
        """Whether each cell of all panels is one token."""
        return all(side.cell == (1, 1) for side in self.sides)

    def _fit_free(self) -> Grid:
        """Fit panels on a page that is as large as they need."""
        panel, size = self._choose_panel()
        make = functools.partial(self._make, panel=panel, labels=self._label(panel, size))
        if self.wish != "auto":
            return make(min(self.n_panels, int(self.wish or FIGS_PER_ROW)))
        grids = [make(columns) for columns in range(self.fewest, self.n_panels + 1)]
        return min(grids, key=lambda grid: self._rate(grid, grid.size[0]))

    def _choose_panel(self) -> tuple[tuple[float, float], float | None]:
        """Return the size of a panel, and of token labels if they fit beside it."""
        n_query, n_key = self._longest
        longest = max(n_query, n_key)
        largest = LARGEST_LONE_PANEL if self.n_panels == 1 else LARGEST_PANEL
        size = min(self.style.label, largest / longest / LINE_ROOM)
        if size >= min(SMALLEST_LABEL, self.style.label) and self._has_tokens:
            cell = snap(max(SMALLEST_PANEL / longest, size * LINE_ROOM))
            return (cell * n_key, cell * n_query), size
        side = largest if self.n_panels == 1 else INDEX_PANEL
        # A few queries over many keys would be a hairline if their cells were square.
        width, height = (
            snap(max(side * n / longest, min(n * self.style.label, THINNEST_PANEL))) for n in (n_key, n_query)
        )
        return (width, height), None

    def _fit_page(self, page: float) -> Grid:
        """Fit panels on a page of a given width, and height if it has one."""
        most = self.n_panels if not isinstance(self.wish, int) else min(self.wish, self.n_panels)
        found: list[Grid] = []
        for columns in range(self.fewest, most + 1):
            grid = self._try(page, columns, True) or self._try(page, columns, False)
            found += [] if grid is None else [grid]
        if not found:
            size = f"{page / 72:.2f}" + (f" × {self.style.height / 72:.2f}" if self.style.height else "")
            more = "more panels side by side (num_figs_per_row), " * (self.fewest == 1)
            raise PageSizeError(
                f"{self.n_panels} panels do not fit on a page of {size} inches; choose fewer layers or heads, {more}"
                "columns=2 or another preset"
            )
        # As many side by side as was wished; or else a page that pleases.
        return found[-1] if isinstance(self.wish, int) else min(found, key=lambda grid: self._rate(grid, page))

    def _try(self, page: float, columns: int, has_tokens: bool) -> Grid | None:
        """Return the grid with so many panels side by side, with token labels or with numbers, if it fits."""
        style, (n_query, n_key) = self.style, self._longest
        if has_tokens and not self._has_tokens:
            return None
        size = style.label if has_tokens else None
        labels = self._label((1e6, 1e6) if has_tokens else (page / columns, page / columns), size)
        limit = style.height or (TALLEST_PAGE if has_tokens else math.inf)
        # How much room labels need is known when it is known how many there are, and the other way round.
        for _ in range(3):
            wide = max(one.width for one in labels[0])
            left, gap = MARGIN + snap(style.axis * LINE + wide), snap(BETWEEN + wide * (not self.is_outer))
            width = math.floor((page - MARGIN - left - (columns - 1) * gap) / columns / PIXEL) * PIXEL
            if width < LOWEST_PANEL:
                return None
            height = width / n_key * n_query
            if not has_tokens:
                height = max(min(height, TALLEST_PAGE / 2), min(n_query * style.label, THINNEST_PANEL, width))
            over = self._measure_height(self._make(columns, panel=(width, height), labels=labels)) - limit
            if over > 0:
                lower = height - over / math.ceil(self.n_panels / columns)
                width, height = (width * lower / height if n_query > 2 else width), lower
            if height < LOWEST_PANEL or width < LOWEST_PANEL:
                return None
            labels = self._label((width, height), size)
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
        return Grid(self.n_panels, columns, panel, labels, self.is_outer, self.style, self.title_width)

    def _rate(self, grid: Grid, width: float) -> float:
        """Return how far a page is from one of good proportions, without empty places or small panels, and labelled.

        Less is better; a page too flat is half as bad as one too tall.
        """
        taller = math.log(self._measure_height(grid) / width / PROPORTION)
        empty = EMPTY * (grid.columns * grid.rows - grid.n_panels) / grid.n_panels
        small = max(0.0, math.log(THINNEST_PANEL / grid.panel[0]))
        labels = NUMBERS if grid.has_indices else SOME * (grid.step > 1)
        return max(taller, -taller / 2) + empty + small + labels

    def _label(self, panel: tuple[float, float], size: float | None) -> Labels:
        """Return labels of queries and keys for panels of this size; numbers where `size` is None."""
        made = [self._label_sides(side, panel, size) for side in self.sides]
        return tuple(zip(*made, strict=True))  # type: ignore[return-value]

    def _label_sides(self, sides: Sides, panel: tuple[float, float], size: float | None) -> list[AxisLabels]:
        """Label the tokens of both sides, or number both."""
        every = sides.tokens_query or (), sides.tokens_key or ()
        for font in (size if sides.cell == (1, 1) else None, None):
            look: dict[str, Any] = {"size": font or self.style.label, "has_tokens": font is not None}
            texts = write_labels(every[1], self.style) if font else ()
            widest = max((self.style.measure(text, look["size"])[0] for text in texts), default=0.0)
            choices = [
                choose_ticks(length, len(tokens), widest=widest, is_key=bool(is_key), **look)
                for is_key, (tokens, length) in enumerate(zip(every, panel[::-1], strict=True))
            ]
            if not any(choice.is_index for choice in choices):
                break
        return [
            label_axis(tokens, self.style, choice, cell=cell, first=first, size=size, beside=self.beside)
            for tokens, choice, cell, first in zip(every, choices, sides.cell, sides.first, strict=True)
        ]
