"""Figure functions of this package, each a few lines on the registry."""

import numpy as np

from . import style
from .registry import register_attn_figure_func
from .savers import matplotlib_figure_saver, save_matrix_wrapper


@register_attn_figure_func
@save_matrix_wrapper(fmt="png", normalize=True, normalize_min=0)
def raw(pattern):
    """Return the pattern itself, one pixel a cell; where no query sees a later key, those cells are neutral.

    Parameters
    ----------
    pattern : numpy.ndarray
        Attention weights, axes ``(n_query, n_key)``.

    Returns
    -------
    numpy.ndarray
        The same axes, NaN for future keys.
    """
    future = np.triu(np.ones(pattern.shape, bool), 1)
    if future.any() and not pattern[future].any():
        return np.where(future, np.nan, pattern)
    return pattern


@register_attn_figure_func
@matplotlib_figure_saver
def svd_spectra(pattern, ax):
    """Draw the singular values of the pattern and its effective rank.

    The effective rank is the exponential of the entropy of the singular values scaled to sum 1 (Roy and Vetterli,
    2007, The effective rank: a measure of effective dimensionality).

    Parameters
    ----------
    pattern : numpy.ndarray
        Attention weights, axes ``(n_query, n_key)``.
    ax : matplotlib.axes.Axes
        Where to draw.
    """
    values = np.linalg.svd(pattern.astype(np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    ax.plot(np.arange(1, len(values) + 1), values, ".-", color=style.ACCENT, linewidth=0.8, markersize=3)
    ax.set_yscale("log")
    ax.set(xlabel="index", ylabel="singular value", title=f"effective rank {rank:.1f} of {len(values)}")
