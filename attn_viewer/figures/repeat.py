"""What makes the next page cheap: pixels that stay are kept, and cells are painted without resampling."""

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox


class RepeatedFigure(Figure):
    """A figure that is drawn many times while little of it changes.

    Raster renderers draw what stays once and copy its pixels from then on, until one of its artists is stale; vector
    formats are drawn as ever. The pixels are those of a figure drawn for the first time.

    Attributes
    ----------
    changing : list of matplotlib.artist.Artist
        What may change, in the order of drawing; it lies on top of all that stays.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Put together, the cells of all panels would be resampled once more.
        self.suppressComposite = True
        self.changing = []
        self._kept = None

    def draw(self, renderer):
        """Draw what stays, or copy it, and then what changes."""
        # Where layout is measured, a renderer is blinded by methods that do nothing.
        if not isinstance(renderer, RendererAgg) or "draw_path" in vars(renderer):
            super().draw(renderer)
            return
        state = renderer.width, renderer.height, renderer.dpi, self.get_facecolor(), self.get_edgecolor()
        if self._kept is None or self._kept[0] != state or any(a.stale for a in self._list_staying()):
            shown = [artist for artist in self.changing if artist.get_visible()]
            for artist in shown:
                artist.set_visible(False)
            try:
                super().draw(renderer)
            finally:
                for artist in shown:
                    artist.set_visible(True)
            page = Bbox.from_bounds(0, 0, renderer.width, renderer.height)
            self._kept = state, renderer.copy_from_bbox(page)
        else:
            renderer.restore_region(self._kept[1])
        for artist in self.changing:
            artist.draw(renderer)
        self.stale = False

    def _list_staying(self):
        """Yield the artists by whose `stale` it shows that pixels are out of date."""
        for ax in self.axes:
            if not ax.axison:
                for kind in (ax.artists, ax.collections, ax.images, ax.lines, ax.patches, ax.texts):
                    yield from (artist for artist in kind if artist not in self.changing)
            else:
                yield ax
        for kind in (self.artists, self.images, self.lines, self.patches, self.texts, self.legends, self.subfigs):
            yield from kind


class CellImage(AxesImage):
    """A heatmap's cells: the pixels that "nearest" means, straight from the colours of the cells.

    matplotlib resamples weights and mask to the size on the page and then looks up a colour for each pixel.
    """

    def make_image(self, renderer, magnification=1.0, unsampled=False):
        """Return the picture of the cells and where its lower left corner goes, as matplotlib asks for it."""
        if unsampled:
            return super().make_image(renderer, magnification, unsampled)
        left, bottom, right, top = self.get_window_extent().extents * magnification
        # Rounded as matplotlib does, so that panels and frames meet.
        x0, x1 = np.floor(left + 0.5), np.floor(right + 0.5 + 1e-8)
        y0, y1 = np.ceil(bottom - 0.5 - 1e-8), np.ceil(top - 0.5)
        if x1 <= x0 or y1 <= y0:
            return None, 0, 0, None
        colours = self.to_rgba(self.get_array(), bytes=True).view(np.uint32)[..., 0]
        rows = _find_cells(bottom, top, y0, y1, colours.shape[0])
        columns = _find_cells(left, right, x0, x1, colours.shape[1])
        picture = colours[::-1].take(rows, axis=0).take(columns, axis=1)
        return picture.view(np.uint8).reshape(*picture.shape, 4), x0 / magnification, y0 / magnification, None


def _find_cells(start, stop, first, end, count):
    """Return the cell (of `count` from `start` to `stop`) under the middle of each pixel from `first` to `end`."""
    middles = np.arange(first, end) + 0.5
    return np.clip(np.floor((middles - start) / (stop - start) * count + 1e-9), 0, count - 1).astype(np.intp)
