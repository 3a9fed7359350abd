"""Which heads look alike, as a clustered heatmap."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from numpy.typing import ArrayLike

from ..declarations import option, takes_options
from ..errors import OptionError
from ..options import ColormapOptions
from .labels import TICK
from .options import PageLook
from .page import MARGIN, Caption, Page, PageFigure, choose_width
from .scales import Scale, get_colormap, make_norm
from .style import SMALLEST_LABEL

SIDE, DENDROGRAM, ROW = 168.0, 30.0, 1.2  # points, but rows are in font sizes


class SimilarityLook(ColormapOptions, PageLook):
    """How a page of similarities looks."""

    model_id: str = option("", "name of the model, which goes before the heading")
    label: str = option("cosine similarity", "name of the similarity, for the colour bar")


@takes_options(SimilarityLook)
def plot_similarity(similarity: ArrayLike, *, names: Sequence[str], options: SimilarityLook) -> PageFigure:
    """Draw similarities between heads, clustered by average linkage of 1 − similarity.

    Parameters
    ----------
    similarity : array_like
        Axes ``(n_heads, n_heads)``, symmetric, 1 for the same.
    names : sequence of str
        One a head, such as ``5.3``.
    **options
        Options of `SimilarityLook`.

    Returns
    -------
    PageFigure
        The page; its axes are the page, the colour bar, the heatmap (``"heads"``) and the two trees.

    Raises
    ------
    OptionError
        If the array is not square, finite and symmetric, of at least two heads, or has not as many names.
    PageSizeError
        If it does not fit the page.
    """
    values = _check_similarity(similarity, names)
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    distances = squareform(np.clip(1 - values, 0, None), checks=False)
    tree = dendrogram(linkage(distances, "average", optimal_ordering=True), no_plot=True)
    order = tree["leaves"]
    style = options.make_style([options.model_id, options.label, *names])
    # The names of the heads stand right of the cells and below them.
    size = SMALLEST_LABEL if style.width is None else style.label
    room = max(style.measure(name, size)[0] for name in names) + 2 * TICK + 1.5
    width = choose_width(style, DENDROGRAM + room + (SIDE if style.width is None else 0))
    side = width - DENDROGRAM - room - 2 * MARGIN
    cmap = get_colormap(options.cmap, palette=style.palette)
    scale = Scale(make_norm("linear", 0.0, 1.0), cmap, style.spell(options.label))

    def make_caption(side: float) -> tuple[Caption, int]:
        step = int(-(-len(values) * size * ROW // side))
        told = [f"one head in {step} named"] if step > 1 else []
        return options.make_caption("heads alike", told, model_id=options.model_id, bars=[scale]), step

    if style.height is not None:
        head = make_caption(side / 2)[0].lay_out(style, width).height
        side = min(side, style.height - head - 2 * MARGIN - DENDROGRAM - room - 1)
    caption, step = make_caption(max(side, 1.0))
    page = Page(style, DENDROGRAM + side + room, room + side + DENDROGRAM, caption)
    with mpl.rc_context(page.rc):
        left, bottom = MARGIN + DENDROGRAM, page.bottom + room
        panel = page.add_axes(left, bottom, side, side, "heads")
        cells = values[np.ix_(order, order)]
        panel.imshow(cells, norm=scale.norm, cmap=scale.cmap, interpolation="nearest", aspect="auto")
        shown = np.arange(0, len(values), step)
        words = [style.spell(names[order[i]]) for i in shown]
        panel.set_xticks(shown, words, rotation=90, parse_math=False)
        panel.set_yticks(shown, words, parse_math=False)
        panel.yaxis.tick_right()
        panel.tick_params(labelsize=size, length=TICK, width=0.5, pad=1.5)
        panel.spines[:].set_visible(False)
        heights = np.array(tree["dcoord"]) / (np.max(tree["dcoord"]) or 1.0)
        # scipy puts leaf i at 5 + 10 i.
        places = (np.array(tree["icoord"]) - 5) / 10
        # Lines of many heads keep white between them.
        line: dict[str, Any] = {"linewidths": min(0.5, 0.4 * side / len(values)), "colors": style.palette.muted}
        above = page.add_axes(left, bottom + side + 2, side, DENDROGRAM - 2, "tree of columns")
        above.add_collection(LineCollection(list(np.dstack([places, heights])), **line))
        above.set(xlim=panel.get_xlim(), ylim=(0, 1.02))
        beside = page.add_axes(MARGIN, bottom, DENDROGRAM - 2, side, "tree of rows")
        beside.add_collection(LineCollection(list(np.dstack([heights, places])), **line))
        beside.set(xlim=(1.02, 0), ylim=panel.get_ylim())
        for ax in (above, beside):
            ax.set_axis_off()
    return page.figure


def _check_similarity(similarity: ArrayLike, names: Sequence[str]) -> np.ndarray:
    try:
        values = np.asarray(similarity, np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(f"similarity must be numbers (heads, heads), got {similarity!r:.80}") from error
    if values.ndim != 2 or len(values) != len(values.T) or len(values) < 2 or len(names) != len(values):
        raise OptionError(
            f"similarities must be (n_heads, n_heads) of at least 2 heads with a name each, got shape {values.shape} "
            f"and {len(names)} names; one head alone has nothing to be like"
        )
    if not np.isfinite(values).all() or not np.allclose(values, values.T, atol=1e-6):
        raise OptionError("similarities must be finite, and the same from either side")
    return values
