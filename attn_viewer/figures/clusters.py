"""Which heads look alike, as a clustered heatmap."""

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..errors import OptionError
from . import style
from .labels import TICK
from .layout import BAR_HEIGHT, BAR_ROOM, BAR_WIDTH, LINE, MARGIN, wrap_phrases

# Points; the names of the heads stand right of the cells and below them.
SIDE, DENDROGRAM, NAMES, SMALLEST_CELL = 168.0, 30.0, 22.0, 6.0


def plot_similarity(similarity, *, names, model_id="", title="heads alike", notes=(), label="cosine similarity",
                    cmap=None):  # fmt: skip
    """Draw similarities between heads with seaborn's clustermap: average linkage of 1 − similarity.

    Parameters
    ----------
    similarity : array_like
        Axes ``(n_heads, n_heads)``, symmetric, 1 for the same.
    names : sequence of str
        One a head, such as ``5.3``.
    model_id : str
        Name of the model, which goes before the heading.
    title : str
        Heading of the page.
    notes : sequence of str
        What the page says about its data, in phrases.
    label : str
        Name of the similarity, for the colour bar.
    cmap : str, optional
        A matplotlib colour map; left out, the one of this package.

    Returns
    -------
    matplotlib.figure.Figure
        The page; pyplot knows nothing of it.

    Raises
    ------
    OptionError
        If the array is not square, finite and symmetric, of at least two heads, or has not as many names.
    """
    values = np.asarray(similarity, np.float64)
    if values.ndim != 2 or len(values) != len(values.T) or len(values) < 2 or len(names) != len(values):
        raise OptionError(
            f"similarities must be (n_heads, n_heads) of at least 2 heads with a name each, got shape {values.shape} "
            f"and {len(names)} names"
        )
    if not np.isfinite(values).all() or not np.allclose(values, values.T, atol=1e-6):
        raise OptionError("similarities must be finite, and the same from either side")
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    distances = squareform(np.clip(1 - values, 0, None), checks=False)
    tree = linkage(distances, "average", optimal_ordering=True)
    family, missing = style.choose_fonts([model_id, title, label, *notes])
    texts = [style.spell_missing(text, missing) for text in (model_id, title, label, *notes)]
    model_id, title, label, *notes = texts
    n_heads = len(values)
    step = -(-n_heads * SMALLEST_CELL // SIDE)
    if step > 1:
        notes.append(f"one head in {step:.0f} named")
    width = SIDE + DENDROGRAM + 2 * MARGIN + NAMES
    lines = wrap_phrases(notes, width - 2 * MARGIN)
    head = style.HEADING_SIZE * LINE + len(lines) * style.NOTE_SIZE * LINE + BAR_ROOM + MARGIN
    height = SIDE + DENDROGRAM + head + NAMES + 2 * MARGIN
    with mpl.rc_context(style.make_rc(family=family)):
        grid = _make_clustermap(values, tree, cmap=style.get_colormap(cmap), size=(width / 72, height / 72))
        left, bottom = MARGIN + DENDROGRAM, MARGIN + NAMES
        bar = MARGIN, height - head + BAR_ROOM - style.NOTE_SIZE * LINE - BAR_HEIGHT - MARGIN, BAR_WIDTH, BAR_HEIGHT
        for ax, (x, y, wide, high) in (
            (grid.ax_heatmap, (left, bottom, SIDE, SIDE)),
            (grid.ax_row_dendrogram, (MARGIN, bottom, DENDROGRAM - 2, SIDE)),
            (grid.ax_col_dendrogram, (left, bottom + SIDE + 2, SIDE, DENDROGRAM - 2)),
            (grid.ax_cbar, bar),
        ):
            ax.set_position((x / width, y / height, wide / width, high / height))
        grid.ax_cbar.set_title(label, fontsize=style.NOTE_SIZE, loc="left", pad=2.5)
        grid.ax_cbar.tick_params(labelsize=style.LABEL_SIZE, length=TICK, width=0.5, pad=1.5)
        shown = np.arange(0, n_heads, int(step))
        words = [names[grid.dendrogram_row.reordered_ind[i]] for i in shown]
        grid.ax_heatmap.set_xticks(shown + 0.5, words, rotation=90)
        grid.ax_heatmap.set_yticks(shown + 0.5, words, rotation=0)
        grid.ax_heatmap.tick_params(labelsize=style.SMALLEST_LABEL, length=TICK, width=0.5, pad=1.5)
        grid.ax_heatmap.set(xlabel="", ylabel="")
        heading = f"{style.shorten_label(model_id, 18)}  ·  {title}" if model_id else title
        top = height - MARGIN - style.HEADING_SIZE
        rows = [(top, heading, {"size": style.HEADING_SIZE, "weight": "bold" if family == style.FAMILY else "normal"})]
        rows += [
            (top - (i + 1) * style.NOTE_SIZE * LINE, line, {"size": style.NOTE_SIZE, "color": style.MUTED})
            for i, line in enumerate(lines)
        ]
        for y, text, look in rows:
            grid.figure.text(MARGIN / width, y / height, text, parse_math=False, **look)
    return grid.figure


def _make_clustermap(values, tree, *, cmap, size):
    """Call seaborn, which makes its figure through pyplot; take it out of there at once."""
    import seaborn
    from matplotlib import pyplot

    grid = seaborn.clustermap(
        values,
        row_linkage=tree,
        col_linkage=tree,
        cmap=cmap,
        vmin=0,
        vmax=1,
        figsize=size,
        xticklabels=False,
        yticklabels=False,
        cbar_kws={"orientation": "horizontal"},
        tree_kws={"linewidths": 0.5, "colors": style.MUTED},
        rasterized=True,
    )
    pyplot.close(grid.figure)
    # Closing leaves the canvas of pyplot's backend behind, which may be a window's.
    FigureCanvasAgg(grid.figure)
    grid.figure.set_layout_engine(None)
    grid.figure.dpi = 200
    return grid
