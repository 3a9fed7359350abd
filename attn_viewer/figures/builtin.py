"""Figure functions of this package, each a few lines on the registry.

All take one attention pattern. It is read as causal where nothing is above its last diagonal: a query at position i
then sees keys 0 to i. Queries that are fewer than the keys are the last ones.
"""

import functools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..errors import OptionError
from .registry import register_attn_figure_func
from .savers import COLOURS, matplotlib_figure_saver, save_matrix_wrapper
from .style import LIGHT

MOST_DOTS = 128
SHARES = (0.90, 0.95, 0.99)


def find_future(pattern: np.ndarray) -> np.ndarray:
    """Tell which cells no query may see; none unless every weight above the last diagonal is 0."""
    future = _list_future(*pattern.shape)
    return future if not ((pattern != 0) & future).any() else np.zeros_like(future)


# All heads of a prompt have one shape.
@functools.lru_cache(maxsize=2)
def _list_future(n_query: int, n_key: int) -> np.ndarray:
    future = np.arange(n_key) > np.arange(n_query)[:, None] + n_key - n_query
    future.flags.writeable = False
    return future


@register_attn_figure_func
@save_matrix_wrapper(fmt="png", normalize=True, normalize_min=0)
def raw(pattern: np.ndarray) -> np.ndarray:
    """Return the pattern itself, one pixel a cell, scaled from 0 to its largest weight; future keys are NaN."""
    return np.where(find_future(pattern), np.nan, pattern)


@register_attn_figure_func
@matplotlib_figure_saver
def svd_spectra(pattern: np.ndarray, ax: Axes) -> None:
    """Draw the singular values of the pattern and its effective rank.

    The effective rank is the exponential of the entropy of the singular values scaled to sum 1 (Roy and Vetterli
    2007, "The effective rank: a measure of effective dimensionality").
    """
    if _is_zero(pattern, ax, "singular values"):
        return
    values = np.linalg.svd(pattern.astype(np.float64), compute_uv=False)
    rank = np.exp(_sum_entropy(values / values.sum(), np.log))
    # What float32 weights can tell from 0.
    values[values < values[0] * np.finfo(np.float32).eps * max(pattern.shape)] = np.nan
    is_left = rank < len(values) / 2
    ax.axvline(rank, color=COLOURS[1], linewidth=0.8)
    ax.annotate(
        "effective rank",
        (rank, 1),
        (3 if is_left else -3, 0),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        color=COLOURS[1],
        ha="left" if is_left else "right",
        va="top",
    )
    ax.plot(np.arange(1, len(values) + 1), values, _choose_line(len(values)))
    ax.set_yscale("log")
    ax.set(xlabel="index", ylabel="singular value")
    _tick_whole_numbers(ax)
    _set_title(ax, f"singular values; effective rank {rank:.1f} of {len(values)}")


@register_attn_figure_func
@matplotlib_figure_saver
def entropy_by_query(pattern: np.ndarray, ax: Axes) -> None:
    """Draw the entropy of each query's weights, in bits, below the most that it could be.

    H = -Σ p log2 p over the keys (Shannon 1948); the most is log2 of the number of keys that the query sees.
    """
    entropies = _sum_entropy(pattern.astype(np.float64), np.log2)
    queries = _number_queries(pattern)
    most = np.log2((~find_future(pattern)).sum(axis=1))
    ax.plot(queries, most, color=LIGHT.frame, linewidth=0.8, label="uniform")
    ax.plot(queries, entropies, _choose_line(len(queries)), label="this head")
    ax.set(xlabel="query", ylabel="entropy, bits")
    ax.set_ylim(bottom=0)
    _tick_whole_numbers(ax)
    ax.legend(loc="upper left", handlelength=1.2)
    _set_title(ax, f"entropy of each query; mean {entropies.mean():.2f} bits")


@register_attn_figure_func
@matplotlib_figure_saver
def attention_by_distance(pattern: np.ndarray, ax: Axes) -> None:
    """Draw the mean weight by distance from query to key, with and without the first key.

    Distance 0 is the query itself, and a key before it is at a positive distance. Each mean is over the queries that
    have a key at that distance.
    """
    n_query, n_key = pattern.shape
    if n_query > n_key:
        raise OptionError(f"distances need queries that are among the keys, got {n_query} queries and {n_key} keys")
    if _is_zero(pattern, ax, "weight by distance"):
        return
    distance = _number_queries(pattern)[:, None] - np.arange(n_key)
    seen = ~find_future(pattern)
    for first, label in ((0, "all keys"), (1, "without the first key")):
        where = seen & (np.arange(n_key) >= first)
        index = distance[where] + n_key
        count = np.bincount(index)
        total = np.bincount(index, pattern[where].astype(np.float64))
        kept = (count > 0) & (total > 0)
        ax.plot(np.flatnonzero(kept) - n_key, total[kept] / count[kept], _choose_line(n_key), label=label)
    ax.set_yscale("log")
    ax.set(xlabel="distance from query to key, tokens", ylabel="mean weight")
    _tick_whole_numbers(ax)
    ax.legend(loc="best", handlelength=1.2)
    _set_title(ax, "weight by distance")


@register_attn_figure_func
@matplotlib_figure_saver
def column_mass(pattern: np.ndarray, ax: Axes) -> None:
    """Draw the mean weight that each key receives from the queries that see it."""
    if _is_zero(pattern, ax, "weight by key"):
        return
    seen = (~find_future(pattern)).sum(axis=0)
    total = pattern.sum(axis=0, dtype=np.float64)
    mean = np.where(total > 0, total / np.maximum(seen, 1), np.nan)
    ax.plot(np.arange(len(mean)), mean, _choose_line(len(mean)))
    top = int(np.argmax(total))
    ax.plot([top], [mean[top]], "o", color=COLOURS[1], markersize=3.5)
    ax.set_yscale("log")
    ax.set(xlabel="key", ylabel="mean weight received")
    _tick_whole_numbers(ax)
    _set_title(ax, f"weight by key; key {top} (red) has {100 * total[top] / total.sum():.0f} % of all")


@register_attn_figure_func
@matplotlib_figure_saver
def cumulative_mass(pattern: np.ndarray, ax: Axes) -> None:
    """Draw the share of a query's weight in its heaviest keys, and how many keys hold 90, 95 and 99 %.

    The line is the median over the queries, the band their middle 80 %.
    """
    if _is_zero(pattern, ax, "share of weight in the heaviest keys"):
        return
    rows = np.sort(pattern.astype(np.float64), axis=1)[:, ::-1].cumsum(axis=1)
    rows = rows[rows[:, -1] > 0]
    rows /= rows[:, -1:]
    low, middle, high = np.quantile(rows, (0.1, 0.5, 0.9), axis=0)
    keys = np.arange(1, rows.shape[1] + 1)
    ax.fill_between(keys, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="middle 80 % of queries")
    ax.plot(keys, middle, _choose_line(len(keys)), label="median query")
    counts = [int((middle < share).sum()) + 1 for share in SHARES]
    ax.plot(counts, [middle[count - 1] for count in counts], "o", color=COLOURS[1], markersize=3.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set(xlabel="keys, heaviest first", ylabel="share of weight", ylim=(0, 1.03))
    ax.legend(loc="lower right", handlelength=1.2)
    _set_title(ax, f"90, 95, 99 % of weight in {', '.join(map(str, counts))} keys")


def _is_zero(pattern: np.ndarray, ax: Axes, title: str) -> bool:
    """Tell whether a pattern has no weight; if so, the axes say it in place of a drawing."""
    if pattern.any():
        return False
    words: dict[str, Any] = {"ha": "center", "va": "center", "color": LIGHT.muted, "transform": ax.transAxes}
    ax.text(0.5, 0.5, "all weights are 0", **words)
    ax.set(xticks=[], yticks=[])
    _set_title(ax, title)
    return True


def _tick_whole_numbers(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))


def _sum_entropy(shares: np.ndarray, log: np.ufunc) -> Any:
    positive = shares > 0
    return 0 - np.multiply(shares, log(shares, where=positive, out=np.zeros_like(shares))).sum(axis=-1)  # no -0


def _number_queries(pattern: np.ndarray) -> np.ndarray:
    n_query, n_key = pattern.shape
    return np.arange(max(n_key - n_query, 0), max(n_key, n_query))


def _choose_line(n_points: int) -> str:
    return ".-" if n_points <= MOST_DOTS else "-"


def _set_title(ax: Axes, text: str) -> None:
    # At the top of the axes, where matplotlib would put it too, after it has measured all ticks.
    ax.set_title(text, loc="left", y=1.0)
    ax.spines[["top", "right"]].set_visible(False)
