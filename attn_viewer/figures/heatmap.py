"""One heatmap: cells, axis labels and colour bar."""

import itertools
import math

import numpy as np
from matplotlib import colors

from ..errors import OptionError
from . import style
from .labels import AxisLabels, TokenStamps, measure_text
from .venues import SMALLEST_LABEL, get_venue

# A picture shows no more cells than this a side; larger maps are pooled to the largest weight of each cell, because
# single large weights are what people look for and averaging would hide them.
MOST_CELLS = 512


def limit_cells(matrix):
    """Pool a matrix that has more cells than a picture can show.

    Parameters
    ----------
    matrix : numpy.ndarray
        Axes ``(n_query, n_key)``, masked or plain.

    Returns
    -------
    matrix : numpy.ndarray
        At most `MOST_CELLS` cells a side, each the maximum over its block.
    factors : tuple of int
        Rows and columns of a block; (1, 1) when nothing was pooled.
    """
    down, across = (math.ceil(side / MOST_CELLS) for side in matrix.shape)
    if (down, across) == (1, 1):
        return matrix, (1, 1)
    rows, columns = math.ceil(matrix.shape[0] / down), math.ceil(matrix.shape[1] / across)
    padded = np.ma.masked_all((rows * down, columns * across), matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(rows, down, columns, across).max(axis=(1, 3)), (down, across)


def label_axis(tokens, family, missing, *, cell=1, first=0, size=None, most=8, beside=0.0):
    """Make the labels of one axis: tokens where they fit, index ticks where not.

    Parameters
    ----------
    tokens : sequence of str
        One label a token.
    family : tuple of str
        Font families.
    missing : collection of str
        Characters that no font can draw.
    cell : int
        Tokens a cell; more than one makes index ticks.
    first : int
        Number of the first token.
    size : float or None
        Font size in points; None makes index ticks.
    most : int
        Most index ticks.
    beside : float
        Room between panel and labels that something else takes, in points.

    Returns
    -------
    AxisLabels
        The labels.
    """
    if size is not None and cell == 1:
        texts = tuple(style.shorten_label(style.spell_missing(token, missing)) for token in tokens)
        return AxisLabels(tuple(range(len(tokens))), texts, size=size, family=family, beside=beside)
    step = choose_step(len(tokens), most)
    numbers = range(-(-first // step) * step, first + len(tokens), step)
    # The tick of token i stands at the middle of that token, also inside a larger cell.
    positions = tuple((i - first + 0.5) / cell - 0.5 for i in numbers)
    return AxisLabels(
        positions, tuple(map(str, numbers)), is_index=True, size=get_venue().label, family=family, beside=beside
    )


def choose_step(count, most=8):
    """Return the round step (1, 2 or 5 times a power of ten) that puts at most `most` ticks on `count` tokens.

    Parameters
    ----------
    count : int
        Number of tokens.
    most : int
        Most ticks wanted.

    Returns
    -------
    int
        The step.
    """
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return next(step for step in steps if -(-count // step) <= most)


def draw_heatmap(matrix, tokens_query=None, tokens_key=None, *, ax, causal=False, norm="linear", cmap=None,
                 vmin=0.0, vmax=None):  # fmt: skip
    """Draw one attention pattern into your own axes.

    Parameters
    ----------
    matrix : numpy.ndarray
        Weights of axes ``(n_query, n_key)``.
    tokens_query, tokens_key : sequence of str, optional
        Labels of rows and columns; keys are those of the queries when left out, none when both are.
    ax : matplotlib.axes.Axes
        Where to draw.
    causal : bool
        Whether to mask the cells above the diagonal.
    norm : str or matplotlib.colors.Normalize
        ``"linear"``, ``"power"``, ``"log"`` or ``"quantile"``.
    cmap : str, optional
        A matplotlib colour map.
    vmin, vmax : float, optional
        Ends of the scale; `vmax` is the largest weight when left out.

    Returns
    -------
    matplotlib.axes.Axes
        `ax`; the cells are ``ax.images[-1]``, ready for ``figure.colorbar``.

    Raises
    ------
    OptionError
        If there are not as many labels as rows and columns.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.size == 0:
        raise OptionError(f"a heatmap needs a matrix (n_query, n_key), got shape {matrix.shape}")
    tokens_key = tokens_query if tokens_key is None else tokens_key
    for tokens, size, what in ((tokens_query, matrix.shape[0], "query"), (tokens_key, matrix.shape[1], "key")):
        if tokens is not None and len(tokens) != size:
            raise OptionError(f"got {len(tokens)} {what} labels for {size} {what} positions; give one each")
    shown = np.ma.masked_array(matrix, np.triu(np.ones(matrix.shape, bool), 1) if causal else False)
    scale = style.make_norm(norm, vmin, style.find_end(shown.compressed(), norm) if vmax is None else vmax)
    cells, (down, across) = limit_cells(shown)
    ax.imshow(cells, norm=scale, cmap=style.get_colormap(cmap), interpolation="nearest", origin="upper")
    ax.set(xticks=[], yticks=[])
    if tokens_query is not None:
        family, missing = style.choose_fonts([*tokens_query, *tokens_key])
        ax.apply_aspect()
        height = ax.get_position().height * ax.figure.get_figheight() * 72 / cells.shape[0]
        fits = height >= SMALLEST_LABEL * 1.1
        size = min(get_venue().label, height / 1.1) if fits else None
        ax.figure.add_artist(
            TokenStamps(
                [ax.transData],
                len(cells),
                label_axis(tokens_query, family, missing, cell=down, size=size),
                label_axis(tokens_key, family, missing, cell=across, size=size),
            )
        )
    return ax


def draw_colorbar(figure, rectangle, image, label):
    """Draw one horizontal colour bar for all panels.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Where to draw.
    rectangle : tuple of float
        ``(left, bottom, width, height)`` in points from the lower left corner of the figure.
    image : matplotlib.cm.ScalarMappable
        What the colours stand for.
    label : str
        Name of the quantity.

    Returns
    -------
    matplotlib.colorbar.Colorbar
        The bar.
    """
    width, height = (72 * side for side in figure.get_size_inches())
    left, bottom, wide, high = rectangle
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height), label="colour bar")
    bar = figure.colorbar(image, cax=axes, orientation="horizontal")
    bar.outline.set_linewidth(0.5)
    bar.ax.set_title(label, fontsize=get_venue().note, loc="left", pad=2.5, x=0)
    most = max(2, int(wide // (measure_text("0.000" if image.norm.vmin >= 0 else "−0.0000", get_venue().label)[0] + 6)))
    if image.norm.__class__.__name__ == "Normalize":
        bar.ax.locator_params(axis="x", nbins=min(most, 5))
    elif not isinstance(image.norm, colors.LogNorm):
        bar.set_ticks(_space_ticks(bar.get_ticks(), image.norm, wide))
    bar.ax.minorticks_off()
    return bar


def _space_ticks(ticks, norm, width):
    """Drop ticks of a curved scale whose labels would touch, from the upper end down."""
    kept = []
    for tick in sorted((t for t in ticks if norm.vmin <= t <= norm.vmax), reverse=True):
        room = measure_text(f"{tick:g}", get_venue().label)[0] + 6
        if not kept or (norm(kept[-1]) - norm(tick)) * width >= room:
            kept.append(tick)
    return kept[::-1]
