"""A page of equally large heatmaps in rows, drawn once for any numbers that are put in."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.image import AxesImage
from matplotlib.patches import Polygon, Rectangle
from matplotlib.transforms import Affine2D

from .fitting import GridFitter
from .heatmap import BAND, Sides, limit_cells
from .labels import TokenStamps
from .options import Highlight, MapLook
from .page import MARGIN, Caption, Page, measure_gap
from .scales import Scale, make_norm, measure_weights
from .style import PageStyle

OWN_SCALE = "   (to {:.2g})"


def reserve_scale(title: str, look: MapLook) -> str:
    """Return a title with what `PanelPage.set_weights` writes after it, about as wide as that gets."""
    return title + OWN_SCALE.format(0.00123) * (look.scale == "panel")


class PanelPage(Page):
    """A page of equally large heatmaps; `set_panel` puts numbers in, so that thirty pages cost one layout.

    One `Axes`, measured in points, holds the whole page: thirty of them take longer to make than all the rest. `sides`
    are those of each panel, as `Sides.pool` returns them; `wish` and `fewest` are panels side by side; `make_caption`
    takes whether token numbers label the axes, and tokens from one label to the next. Labels stand beside the outer
    panels alone where `is_outer`; left out, on a page of a given width where all are alike.
    """

    def __init__(
        self,
        style: PageStyle,
        sides: Sequence[Sides],
        titles: Iterable[str],
        make_caption: Callable[[bool, int], Caption],
        *,
        wish: int | str | None = None,
        fewest: int = 1,
        is_outer: bool | None = None,
    ) -> None:
        alike = [dataclasses.replace(side, segments=(), completion=None) for side in sides]
        kinds = list(dict.fromkeys(alike))
        self.sides, self.kinds = sides, [kinds.index(side) for side in alike]
        self.grid = GridFitter(
            style=style,
            sides=kinds,
            n_panels=len(sides),
            wish=wish,
            title_width=max(style.measure(title, style.title)[0] for title in titles),
            measure_head=lambda *choice: make_caption(*choice).lay_out(style, style.width or math.inf).height,
            fewest=fewest,
            beside=(BAND + 0.5) * any(side.segments for side in sides),
            is_outer=style.width is not None and len(kinds) == 1 if is_outer is None else is_outer,
        ).fit()
        super().__init__(style, *self.grid.size, make_caption(self.grid.has_indices, self.grid.step))
        self.places = self.grid.place(MARGIN, self.bottom)
        with mpl.rc_context(self.rc):
            self._draw_frames()
            self._draw_labels()
            self._draw_marks()

    def _draw_frames(self) -> None:
        ax = self.axes
        self.images = [
            CellImage(ax, extent=(x, x + w, y, y + h), interpolation="nearest", origin="upper")
            for x, y, w, h in self.places
        ]
        for image, side in zip(self.images, self.sides, strict=True):
            image.set_data(np.ma.array(np.zeros(side.shape, np.float32), mask=True))
            ax.add_image(image)
        ax.set(xlim=(0, self.size[0]), ylim=(0, self.size[1]), aspect="auto")
        frames = PatchCollection(
            [Rectangle((x, y), w, h) for x, y, w, h in self.places],
            facecolor="none",
            edgecolor=self.style.palette.frame,
            linewidth=0.5,
            zorder=2,
        )
        self.figure.changing += [*self.images, ax.add_collection(frames)]
        gap = measure_gap(self.style)
        self.titles = [self.write_line(x, y + h + gap, "", size=self.style.title) for x, y, _, h in self.places]

    def _draw_labels(self) -> None:
        n_panels, n_across = len(self.sides), self.grid.columns
        for kind in sorted(set(self.kinds)):
            queries, keys = (labels[kind] for labels in self.grid.labels)
            mine = [i for i in range(n_panels) if self.kinds[i] == kind]
            sides = [(mine, queries, keys)]
            if self.grid.is_outer:
                below = [i for i in mine if i >= n_panels - n_across]
                left = [i for i in mine if i % n_across == 0]
                sides = [(left, queries, keys.drop_texts()), (below, queries.drop_texts(), keys)]
            for panels, *labels in sides:
                transforms = [self._map_cells(i) + self.axes.transData for i in panels]
                self.axes.add_artist(TokenStamps(transforms, self.sides[mine[0]].shape[0], *labels))
        middle = self.style.axis / 2
        for _, y, _, height in self.places[::n_across]:
            self.name_axis(MARGIN + middle, y + height / 2, "query", rotation=90)
        for x, _, width, _ in self.places[(self.grid.rows - 1) * n_across :]:
            self.name_axis(x + width / 2, self.bottom + middle, "key")

    def _map_cells(self, index: int) -> Affine2D:
        """Return the transform from cells ``(column, row)`` of a panel to points on the page."""
        (x, y, width, height), (rows, columns) = self.places[index], self.sides[index].shape
        return Affine2D().translate(0.5, 0.5).scale(width / columns, -height / rows).translate(x, y + height)

    def _map_tokens(self, index: int) -> Affine2D:
        """Return the transform from tokens ``(key, query)`` of a panel to points on the page."""
        (x, y, width, height), (left, right, low, top) = self.places[index], self.sides[index].extent
        to_corner = Affine2D().translate(-left, -top)
        return to_corner.scale(width / (right - left), -height / (low - top)).translate(x, y + height)

    def _draw_marks(self) -> None:
        """Draw a band beside the panels for each segment, and lines where the generated text begins."""
        bars, colours, lines = [], [], []
        for index, side in enumerate(self.sides):
            to_page, (left, right, low, top) = self._map_tokens(index), side.extent
            for colour, is_key, *ends in side.list_bands():
                x, y = to_page.transform([(end, low) if is_key else (left, end) for end in ends]).T
                place = (x[0], y[0] - BAND - 0.5) if is_key else (x[0] - BAND - 0.5, y[1])
                bars.append(Rectangle(place, *((x[1] - x[0], BAND) if is_key else (BAND, y[0] - y[1]))))
                colours.append(colour)
            row, column = side.edges
            if row is not None:
                lines.append(to_page.transform([(left, row), (right, row)]))
            if column is not None:
                lines.append(to_page.transform([(column, top), (column, low)]))
        if bars:
            self.axes.add_collection(PatchCollection(bars, facecolor=colours, linewidth=0, zorder=2))
        if lines:
            accent = self.style.palette.accent
            dashes = LineCollection(lines, colors=accent, linewidths=0.8, linestyles=(0, (3, 2)), zorder=2)
            self.figure.changing.append(self.axes.add_collection(dashes))

    def set_panel(self, index: int, cells: np.ma.MaskedArray, scale: Scale, title: str) -> None:
        """Put numbers, which are pooled to what a picture can show, their colours and a title into a panel."""
        image = self.images[index]
        image.set_data(limit_cells(cells)[0])
        if image.norm is not scale.norm:
            image.set_norm(scale.norm)
            image.set_cmap(scale.cmap)
        self.titles[index].set_text(title)

    def set_weights(self, index: int, cells: np.ma.MaskedArray, shared: Scale, title: str, *, look: MapLook) -> None:
        """Put weights into a panel, on a scale of their own, which the title then says, if that is wished."""
        if look.scale == "panel":
            end = measure_weights([cells.filled(0)], ~np.ma.getmaskarray(cells), look.norm).end
            norm = make_norm(look.norm, -end if shared.smallest < 0 else look.vmin, end)
            shared, title = dataclasses.replace(shared, norm=norm), title + OWN_SCALE.format(norm.vmax)
        self.set_panel(index, cells, shared, title)

    def frame(self, index: int, highlight: Highlight) -> None:
        """Frame some cells of a panel, as `Sides.list_frames` takes them."""
        to_page = self._map_tokens(index)
        corners = self.sides[index].list_frames(highlight, self.places[index][2:])
        frames = [Polygon(to_page.transform(each)) for each in corners]
        with mpl.rc_context(self.rc):
            look: dict[str, Any] = {"edgecolor": self.style.palette.accent, "linewidth": 1.2, "zorder": 3}
            self.figure.changing.append(self.axes.add_collection(PatchCollection(frames, facecolor="none", **look)))


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
