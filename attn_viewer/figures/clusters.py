"""Which heads look alike, as a clustered heatmap."""

import warnings

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..errors import OptionError
from . import style
from .labels import TICK, measure_text
from .layout import BAR_HEIGHT, BAR_WIDTH, LINE, MARGIN, choose_resolution, measure_bar, wrap_phrases
from .sheet import choose_width
from .venues import SMALLEST_LABEL, get_venue

SIDE, DENDROGRAM, ROW = 168.0, 30.0, 1.2  # points, but rows are in font sizes


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
    size = SMALLEST_LABEL if get_venue().width is None else get_venue().label
    # The names of the heads stand right of the cells and below them.
    room = max(measure_text(name, size)[0] for name in names) + 2 * TICK + 1.5
    width = choose_width(DENDROGRAM + room + (SIDE if get_venue().width is None else 0))
    side = width - DENDROGRAM - room - 2 * MARGIN
    step = -(-n_heads * size * ROW // side)
    if step > 1:
        notes.append(f"one head in {step:.0f} named")
    lines = wrap_phrases(notes, width - 2 * MARGIN, family)
    head = get_venue().heading * LINE + len(lines) * get_venue().note * LINE + MARGIN / 2 + measure_bar()
    height = side + DENDROGRAM + head + room + 2 * MARGIN
    with mpl.rc_context(style.make_rc(family=family)):
        # Lines of many heads keep white between them.
        line = min(0.5, 0.4 * side / n_heads)
        grid = _make_clustermap(values, tree, cmap=style.get_colormap(cmap), size=(width / 72, height / 72), line=line)
        left, bottom = MARGIN + DENDROGRAM, MARGIN + room
        bar_top = height - MARGIN - head + measure_bar()
        bar = MARGIN, bar_top - get_venue().note * LINE - BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT
        for ax, (x, y, wide, high) in (
            (grid.ax_heatmap, (left, bottom, side, side)),
            (grid.ax_row_dendrogram, (MARGIN, bottom, DENDROGRAM - 2, side)),
            (grid.ax_col_dendrogram, (left, bottom + side + 2, side, DENDROGRAM - 2)),
            (grid.ax_cbar, bar),
        ):
            ax.set_position((x / width, y / height, wide / width, high / height))
        grid.ax_cbar.set_title(label, fontsize=get_venue().note, loc="left", pad=2.5)
        grid.ax_cbar.tick_params(labelsize=get_venue().label, length=TICK, width=0.5, pad=1.5)
        shown = np.arange(0, n_heads, int(step))
        words = [names[grid.dendrogram_row.reordered_ind[i]] for i in shown]
        grid.ax_heatmap.set_xticks(shown + 0.5, words, rotation=90)
        grid.ax_heatmap.set_yticks(shown + 0.5, words, rotation=0)
        grid.ax_heatmap.tick_params(labelsize=size, length=TICK, width=0.5, pad=1.5)
        grid.ax_heatmap.set(xlabel="", ylabel="")
        heading = f"{style.shorten_label(model_id, 18)}  ·  {title}" if model_id else title
        top = height - MARGIN - get_venue().heading
        weight = "bold" if family == get_venue().family else "normal"
        rows = [(top, heading, {"size": get_venue().heading, "weight": weight})]
        rows += [
            (top - (i + 1) * get_venue().note * LINE, line, {"size": get_venue().note, "color": style.MUTED})
            for i, line in enumerate(lines)
        ]
        for y, text, look in rows:
            grid.figure.text(MARGIN / width, y / height, text, parse_math=False, **look)
    return grid.figure


def _make_clustermap(values, tree, *, cmap, size, line):
    """Call seaborn, which makes its figure through pyplot; take it out of there at once."""
    import seaborn
    from matplotlib import pyplot

    with warnings.catch_warnings():
        # Heads that are all the same make a tree without height.
        warnings.filterwarnings("ignore", "Attempting to set identical")
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
            tree_kws={"linewidths": line, "colors": style.MUTED},
            rasterized=True,
        )
    pyplot.close(grid.figure)
    # Closing leaves the canvas of pyplot's backend behind, which may be a window's.
    FigureCanvasAgg(grid.figure)
    grid.figure.set_layout_engine(None)
    grid.figure.dpi = choose_resolution(*(72 * side for side in size))
    return grid
