"""Token labels, laid out once and stamped beside every panel that shows the same tokens."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform, Transform

from .style import PageStyle

GAP = 2.5
TICK = 2.0


@dataclasses.dataclass(frozen=True)
class AxisLabels:
    """The labels of one axis: where they stand, in cells from 0, and what they say; sizes are in points.

    `is_index` labels are numbers of tokens; `is_upright` ones stand below the key axis without being turned; `step` is
    tokens from one to the next, and `beside` room between panel and labels that something else takes.
    """

    positions: tuple[float, ...]
    texts: tuple[str, ...]
    style: PageStyle
    size: float
    is_index: bool = False
    is_upright: bool = False
    step: int = 1
    beside: float = 0.0

    def drop_texts(self) -> "AxisLabels":
        """Return an axis without labels, for panels whose neighbour has them."""
        return dataclasses.replace(self, positions=(), texts=())

    def measure(self, index: int) -> tuple[float, float]:
        """Return width and height of one label in points."""
        return self.style.measure(self.texts[index], self.size)

    @property
    def has_marks(self) -> bool:
        """Whether each label has a tick mark, because not every cell has a label."""
        return self.is_index or self.step > 1

    @property
    def gap(self) -> float:
        """Distance of the labels from the panel in points."""
        return GAP + TICK * self.has_marks + self.beside

    @property
    def depth(self) -> float:
        """Room that the labels take below a panel (keys), in points."""
        sizes = [self.measure(i) for i in range(len(self.texts))]
        return self.gap + max((size[self.is_upright] for size in sizes), default=0)

    @property
    def width(self) -> float:
        """Room that the labels take left of a panel (queries), in points."""
        return self.gap + max((self.measure(i)[0] for i in range(len(self.texts))), default=0)


class LineText(Text):
    """One line of text that begins at its point on the baseline; drawn without matplotlib's layout of paragraphs."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw the line."""
        if self.get_visible() and self.get_text():
            gc = renderer.new_gc()
            gc.set_foreground(self.get_color())
            x, y = self.get_transform().transform(self.get_unitless_position())
            y = renderer.get_canvas_width_height()[1] - y if renderer.flipy() else y
            renderer.draw_text(gc, x, y, self.get_text(), self.get_fontproperties(), 0, ismath=False, mtext=self)
            gc.restore()
        self.stale = False


class TokenStamps(Artist):
    """Labels of queries (left) and keys (below) for many panels of one size at once.

    Each panel is a transform from its cells ``(column, row)`` to display coordinates. Raster renderers draw each side
    once and copy the picture to every panel; others get each label as text.
    """

    def __init__(self, panels: Sequence[Transform], n_rows: int, queries: AxisLabels, keys: AxisLabels) -> None:
        super().__init__()
        self.panels = list(panels)
        self.n_rows = n_rows
        self.queries, self.keys = queries, keys
        self.set_zorder(3)
        self._sides = _Side(queries, is_left=True), _Side(keys, is_left=False)

    def _find_point(self) -> float:
        """Return a point in pixels."""
        # The figure of a figure is the outermost one, in every matplotlib.
        return 1.0 if self.figure is None else self.figure.figure.dpi / 72

    def _anchors(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the points (display coordinates) at which labels end, for each panel those of rows and of columns."""
        point = self._find_point()
        rows = np.column_stack(np.broadcast_arrays(-0.5, self.queries.positions))
        columns = np.column_stack(np.broadcast_arrays(self.keys.positions, self.n_rows - 0.5))
        left, below = (point * self.queries.gap, 0), (0, point * self.keys.gap)
        return [(panel.transform(rows) - left, panel.transform(columns) - below) for panel in self.panels]

    def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
        """Return the box around all labels, in display coordinates."""
        return Bbox.union(self.label_boxes())

    def get_tightbbox(self, renderer: RendererBase | None = None) -> Bbox:
        """Return the box that layout engines and tight saving keep free."""
        return self.get_window_extent(renderer)

    def label_boxes(self) -> list[Bbox]:
        """Return one box (display coordinates) a label, panel by panel, rows before columns."""
        point = self._find_point()
        return [
            side.box(index, anchor, point)
            for panel in self._anchors()
            for side, anchors in zip(self._sides, panel, strict=True)
            for index, anchor in enumerate(anchors)
        ]

    def draw(self, renderer: RendererBase) -> None:
        """Draw the labels of all panels."""
        if not self.get_visible():
            return
        for side, panels in zip(self._sides, zip(*self._anchors(), strict=True), strict=True):
            if not side.labels.texts:
                continue
            if isinstance(renderer, RendererAgg):
                side.stamp(panels, renderer)
            else:
                side.write(panels, renderer)
        self.stale = False


class _Side:
    """The labels on one side of a panel."""

    def __init__(self, labels: AxisLabels, *, is_left: bool) -> None:
        self.labels = labels
        self.is_left = is_left
        self.rotation = 0 if is_left or labels.is_upright else 90
        self.is_centred = not is_left and labels.is_upright
        self.font = FontProperties(family=list(labels.style.family), size=labels.size)
        # SVG reads the anchor of a text from its artist.
        self.text = Text(
            rotation=self.rotation,
            rotation_mode="anchor",
            ha="center" if self.is_centred else "right",
            transform=IdentityTransform(),
        )
        self._picture: tuple[tuple[float, bytes], np.ndarray] | None = None

    def box(self, index: int, anchor: np.ndarray, point: float) -> Bbox:
        """Return the box of one label that ends at `anchor`, with `point` pixels a point."""
        x, y = anchor
        width, height = (point * side for side in self.labels.measure(index))
        if self.rotation:
            return Bbox.from_bounds(x - height / 2, y - width, height, width)
        if self.is_centred:
            return Bbox.from_bounds(x - width / 2, y - height, width, height)
        return Bbox.from_bounds(x - width, y - height / 2, width, height)

    def write(self, panels: Sequence[np.ndarray], renderer: RendererBase) -> None:
        """Draw every label, and tick marks for indices, with the renderer's own text beside each panel."""
        widths = [renderer.get_text_width_height_descent(label, self.font, False)[0] for label in self.labels.texts]
        for anchors in panels:
            self._write_panel(anchors, widths, renderer)

    def _write_panel(self, anchors: np.ndarray, widths: Sequence[float], renderer: RendererBase) -> None:
        gc = renderer.new_gc()
        point = _count_pixels(1, renderer)
        if self.labels.has_marks:
            gc.set_foreground(self.labels.style.palette.frame)
            gc.set_linewidth(0.5)
            outwards = np.array([TICK, 0] if self.is_left else [0, TICK]) * point
            edge = np.asarray(anchors) + outwards * self.labels.gap / TICK
            for end in edge:
                renderer.draw_path(gc, Path([end, end - outwards]), IdentityTransform())
        gc.set_foreground(self.labels.style.palette.ink)
        for anchor, label, width in zip(anchors, self.labels.texts, widths, strict=True):
            self.text.set_position(anchor)
            x, y = self._find_baseline(anchor, width, renderer)
            renderer.draw_text(gc, x, y, label, self.font, self.rotation, False, mtext=self.text)
        gc.restore()

    def _find_baseline(self, anchor: np.ndarray, width: float, renderer: RendererBase) -> tuple[float, float]:
        """Return where the baseline of a label that ends at `anchor` begins, in the renderer's coordinates."""
        x, y = anchor
        # Text looks centred on a line through the middle between baseline and capitals.
        middle = 0.36 * _count_pixels(self.labels.size, renderer)
        if self.rotation:
            x, y = x + middle, y - width
        elif self.is_centred:
            x, y = x - width / 2, y - 2 * middle
        else:
            x, y = x - width, y - middle
        return x, renderer.get_canvas_width_height()[1] - y if renderer.flipy() else y

    def stamp(self, panels: Sequence[np.ndarray], renderer: RendererAgg) -> None:
        """Draw the labels of one panel into a picture and copy that to all panels."""
        point = _count_pixels(1, renderer)
        first = panels[0]
        margin = 2 + self.labels.gap * point
        boxes = Bbox.union([self.box(i, anchor, point) for i, anchor in enumerate(first)])
        left, bottom = np.floor([boxes.x0 - margin, boxes.y0 - margin])
        width, height = (int(np.ceil(side + 2 * margin)) + 1 for side in boxes.size)
        moved = first - (left, bottom)
        # The picture is still right if the figure is drawn again at the same size.
        state = (renderer.dpi, moved.tobytes())
        if self._picture is None or self._picture[0] != state:
            aside = RendererAgg(width, height, renderer.dpi)  # type: ignore[no-untyped-call]
            self.write([moved], aside)
            self._picture = state, np.array(aside.buffer_rgba())[::-1]  # type: ignore[no-untyped-call]
        gc = renderer.new_gc()
        for panel in panels:
            shift = panel[0] - first[0]
            renderer.draw_image(gc, left + shift[0], bottom + shift[1], self._picture[1])
        gc.restore()


def _count_pixels(points: float, renderer: RendererBase) -> float:
    """Return a length in the units of a renderer."""
    return float(np.asarray(renderer.points_to_pixels(points)))
