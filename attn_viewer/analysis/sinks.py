"""Keys that take weight from everywhere."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..maps import AttentionMaps
from .blocks import EPSILON, Frame, iterate_blocks, require_heads, require_shares
from .scores import score_heads


class Sink(NamedTuple):
    """A key that takes a large share of a head's weight: its mean over the queries that see it."""

    layer: int
    head: int
    position: int
    token: str
    mass: float


def find_sinks(maps: AttentionMaps, *, epsilon: float = EPSILON) -> list[Sink]:
    """Find the keys that heads put most of their weight on.

    Parameters
    ----------
    maps : AttentionMaps
        Every weight of each head (``reduction="full"``).
    epsilon : float
        Mean weight, over the queries that see a key, past which it is a sink of a head: the importance score of
        Gu et al. 2025, "When Attention Sink Emerges in Language Models". Keys past the first count if at least
        `blocks.LEAST_QUERIES` queries see them.

    Returns
    -------
    list of Sink
        ``(layer, head, position, token, mass)``, by layer, head, then position.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled or a mean over heads, are scaled by values, or have one key.
    OptionError
        If `epsilon` cannot be used.
    """
    require_heads(maps, "finding sinks", least_keys=2)
    require_shares(maps, "finding sinks")
    blocks = iterate_blocks(maps, Frame(maps, epsilon=epsilon))
    masses = np.concatenate([block.column_means for block in blocks])
    layers, heads = np.repeat(maps.layers, maps.n_heads), np.concatenate(maps.heads)
    return [
        Sink(int(layers[row]), int(heads[row]), int(key), maps.tokens_key[key], float(masses[row, key]))
        for row, key in np.argwhere(np.nan_to_num(masses) > epsilon)
    ]


def measure_sink_heads(maps: AttentionMaps, *, epsilon: float = EPSILON) -> NDArray[np.float64]:
    """Measure how many heads of each layer have the first token as their sink; all is as `find_sinks` takes it.

    Returns
    -------
    numpy.ndarray
        Share of heads, axes ``(n_layers,)``; the mean over all heads is the sink metric of Gu et al. 2025, "When
        Attention Sink Emerges in Language Models".
    """
    masses = score_heads(maps, ["sink_mass"], epsilon=epsilon, progress=False)["sink_mass"]
    ends = np.cumsum(maps.n_heads)[:-1]
    return np.array([np.mean(part > epsilon) for part in np.split(masses, ends)])


def accumulate_columns(maps: AttentionMaps) -> tuple[NDArray[np.float64], ...]:
    """Sum the weight that each key gets from all queries.

    Zhang et al. 2023, "H2O: Heavy-Hitter Oracle", accumulated attention score. Earlier keys of a causal model are seen
    by more queries.

    Returns
    -------
    tuple of numpy.ndarray
        One array a layer, axes ``(n_heads, n_key)``, float64, in units of queries.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled or a mean over heads.
    """
    require_heads(maps, "accumulated weight")
    return tuple(layer.sum(1, dtype=np.float64) for layer in maps.weights)
