"""Singular values of heads' patterns: how many independent patterns a head mixes."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from ..errors import UnsuitableMapsError
from ..maps import AttentionMaps
from .blocks import divide, find_obstacle, find_singular_values, require_heads


def compute_singular_values(maps: AttentionMaps) -> tuple[NDArray[np.float64], ...]:
    """Compute the singular values of every head's pattern.

    Returns
    -------
    tuple of numpy.ndarray
        One array a layer, axes ``(n_heads, min(n_query, n_key))``, float64, descending.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled, a mean over heads, or lack query rows.
    """
    require_heads(maps, "a spectrum")
    if obstacle := find_obstacle(maps, all_queries=True):
        raise UnsuitableMapsError(f"a spectrum {obstacle}")
    return tuple(find_singular_values(layer.astype(np.float64)) for layer in maps.weights)


def compute_effective_rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the effective rank of singular values ``(…, n)``, axes ``(…)``, from 1 to n; 1 where all are 0.

    The exponential of the entropy of the values divided by their sum: Roy & Vetterli 2007, "The Effective Rank: A
    Measure of Effective Dimensionality".
    """
    ranks: NDArray[np.float64] = np.exp(entr(np.nan_to_num(divide(values, values.sum(-1, keepdims=True)))).sum(-1))
    return ranks
