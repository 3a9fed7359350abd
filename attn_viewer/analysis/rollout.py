"""Attention over several layers: rollout and flow.

Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers".

Both take the mean over the heads of each layer and mix it with the residual connection,
``Â = (1 - residual)·A + residual·I``; the paper's residual is one half.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from ..errors import OptionError, UnsuitableMapsError
from ..long_runs import show_bar
from ..maps import AttentionMaps
from ..selections import choose_numbers
from .blocks import divide, require_shares

# Capacities are whole numbers to scipy; what leaves a node adds up to this, well inside 32 bits.
UNITS = 2**29
# Edges that are given to scipy at a time: fewer, and a call costs more than its flow; more, and the memory does.
EDGES = 2**16


def roll_out_attention(maps: AttentionMaps, *, residual: float = 0.5) -> AttentionMaps:
    """Multiply attention through the layers.

    Of maps with chosen heads it is that of their mean, and says so.

    Parameters
    ----------
    maps : AttentionMaps
        Self-attention of every layer from 0 on with all query rows, full or the mean over heads.
    residual : float
        Share of the residual connection, from 0 to below 1.

    Returns
    -------
    AttentionMaps
        Per layer one map, ``Â_l · … · Â_0``: how much of each input token reaches a position after that layer. The
        last is the rollout of the model. What went to learned sinks or padding is lost on the way, so that rows
        may sum to less than 1; nothing is renormalised.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled, of cross attention, scaled by values, or lack layers or query rows.
    OptionError
        If `residual` cannot be used.
    """
    rolled: NDArray[np.float64] | None = None
    layers = []
    for mixed in _mix_residual(maps, residual):
        rolled = mixed if rolled is None else mixed @ rolled
        layers.append(rolled[None].astype(np.float32))
    return _make_maps(maps, layers, maps.layers, "rollout")


def compute_attention_flow(
    maps: AttentionMaps,
    *,
    residual: float = 0.5,
    layers: Sequence[int] | None = None,
    progress: bool | None = None,
) -> AttentionMaps:
    """Compute the largest flow from each position to each input token.

    The layers are a network whose edges carry at most their weight. Costs a maximum flow for each pair of tokens,
    each over layers × tokens² edges, in a causal model over those between the two: 1 s for 12 layers of 64 tokens,
    4 s of 96, on one core (measured), so that some hundred tokens are the limit.

    Parameters
    ----------
    maps, residual
        As `roll_out_attention` takes them.
    layers : sequence of int, optional
        True numbers of the layers from whose outputs to flow; left out, the last.
    progress : bool, optional
        Whether to show a bar on stderr; left out, only when stderr is a terminal.

    Returns
    -------
    AttentionMaps
        Per chosen layer one map, each row divided by its sum as in the authors' code.

    Raises
    ------
    UnsuitableMapsError, OptionError
        As `roll_out_attention`; also if a layer is not there.
    """
    mixed = list(_mix_residual(maps, residual))
    chosen = choose_numbers(maps.layers[-1:] if layers is None else layers, maps.layers, "layer")
    flows, n = [], len(maps.tokens_key)
    units = np.rint(np.stack(mixed) * UNITS).astype(np.int32)
    with show_bar("flow", "token", progress, total=len(chosen) * n) as bar:
        for layer in chosen:
            flow = np.zeros((n, n))
            for query in range(n):
                keys = np.arange(query + 1 if maps.causal else n)
                n_edges = (layer + 1) * (query - keys + 1 if maps.causal else keys * 0 + n) ** 2
                for some in np.split(keys, np.flatnonzero(np.diff(np.cumsum(n_edges) // EDGES)) + 1):
                    flow[query, some] = _find_flows(units[: layer + 1], query, some, maps.causal)
                bar.update()
            shares = np.nan_to_num(divide(flow, flow.sum(1, keepdims=True)))
            flows.append(shares[None].astype(np.float32))
    return _make_maps(maps, flows, chosen, "flow")


def _mix_residual(maps: AttentionMaps, residual: float) -> list[NDArray[np.float64]]:
    """Return each layer's mean over heads with its residual connection: float64, axes ``(n, n)``."""
    if not isinstance(residual, numbers.Real) or isinstance(residual, bool) or not 0 <= residual < 1:
        raise OptionError(f"residual must be a share from 0 to below 1, got {residual!r}")
    n = len(maps.tokens_key)
    require_shares(maps, "a rollout or flow")
    if maps.kind == "cross":
        raise UnsuitableMapsError(
            "rollout and flow need self-attention, but these are cross maps, whose queries and keys are different "
            "tokens; capture with kind='encoder' or 'decoder'"
        )
    if maps.reduction == "pooled" or len(maps.tokens_query) != n or maps.first_query:
        raise UnsuitableMapsError(
            f"rollout and flow need all rows of self-attention, but these are {maps.kind} maps ({maps.reduction}) of "
            f"{len(maps.tokens_query)} queries × {n} keys; capture with reduction='head_mean' and without queries="
        )
    if maps.grouping:
        raise UnsuitableMapsError(
            f"rollout and flow need maps of tokens, not grouped by {maps.grouping[0]}; group after"
        )
    if maps.layers != tuple(range(len(maps.layers))):
        raise UnsuitableMapsError(
            f"rollout and flow need every layer from 0 on, got {list(maps.layers)}; capture without layers=, and note "
            "that layers without attention mix tokens in ways that weights do not show"
        )
    means = (layer.mean(0, dtype=np.float64) for layer in maps.weights)
    return [(1 - residual) * mean + residual * np.eye(n) for mean in means]


def _find_flows(units: NDArray[np.int32], query: int, keys: NDArray[np.int64], causal: bool) -> NDArray[np.int32]:
    """Return the largest flow from a query to each of some keys.

    Each pair has a network of its own, and all hang between one source (node 0) and one sink (node 1), since a call
    costs more than most flows. In a causal one no path leaves the positions from key to query: no others are in it.
    Nodes of a network are its inputs, then each layer's positions.
    """
    starts: list[int] = []
    columns: list[Any] = []
    counts: list[Any] = []
    capacities: list[Any] = []
    size = 2
    for key in keys:
        first, stop = (key, query + 1) if causal else (0, units.shape[1])
        part, n = units[:, first:stop, first:stop], stop - first
        cells = np.flatnonzero(part)
        counts += [np.arange(first, stop) == key, np.count_nonzero(part, axis=2).ravel()]
        columns += [[1], size + cells // n**2 * n + cells % n]
        capacities += [[2 * UNITS], part.ravel()[cells]]
        starts.append(size + part.shape[0] * n + query - first)
        size += (part.shape[0] + 1) * n
    ends = np.cumsum(np.concatenate([[0, len(starts), 0], *counts]))
    entries = np.concatenate([[2 * UNITS] * len(starts), *capacities]), np.concatenate([starts, *columns]), ends
    network = csr_array(tuple(entry.astype(np.int32) for entry in entries), shape=(size, size))
    flow = maximum_flow(network, 0, 1).flow
    flows: NDArray[np.int32] = flow.data[: flow.indptr[1]]
    return flows


def _make_maps(
    maps: AttentionMaps, weights: list[NDArray[np.float32]], layers: Sequence[int], weighting: str
) -> AttentionMaps:
    means = {"heads": None, "averaged_heads": maps.mean_heads, "reduction": "head_mean"}
    return AttentionMaps(weights, maps.facts, layers=layers, weighting=weighting, **means)
