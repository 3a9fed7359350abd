"""Attention over several layers: rollout and flow.

Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers".

Both take the mean over the heads of each layer and mix it with the residual connection,
``Â = (1 - residual)·A + residual·I``; the paper's residual is one half.
"""

import dataclasses
import numbers

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from tqdm import tqdm

from ..choices import choose_numbers
from ..errors import OptionError, UnsuitableMapsError
from .blocks import require_shares

# Capacities are whole numbers to scipy; what leaves a node adds up to this, well inside 32 bits.
UNITS = 2**29


def roll_out_attention(maps, *, residual=0.5):
    """Multiply attention through the layers.

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
    rolled, layers = None, []
    for mixed in _mix_residual(maps, residual):
        rolled = mixed if rolled is None else mixed @ rolled
        layers.append(rolled[None].astype(np.float32))
    return _make_maps(maps, layers, maps.layers, "rollout")


def compute_attention_flow(maps, *, residual=0.5, layers=None, progress=None):
    """Compute the largest flow from each position to each input token.

    The layers are a network whose edges carry at most their weight. Costs a maximum flow for each pair of tokens,
    each over layers × tokens² edges: 13 s for 12 layers of 64 tokens on one core (measured), so that some hundred
    tokens are the limit.

    Parameters
    ----------
    maps : AttentionMaps
        Self-attention of every layer from 0 on with all query rows, full or the mean over heads.
    residual : float
        Share of the residual connection, from 0 to below 1.
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
    UnsuitableMapsError
        If the maps are pooled, of cross attention, scaled by values, or lack layers or query rows.
    OptionError
        If `residual` cannot be used or a layer is not there.
    """
    mixed = list(_mix_residual(maps, residual))
    chosen = choose_numbers(maps.layers[-1:] if layers is None else layers, maps.layers, "layer")
    flows, n = [], len(maps.tokens_key)
    disable = None if progress is None else not progress
    with tqdm(total=len(chosen) * n, desc="flow", unit="token", disable=disable, leave=False) as bar:
        for layer in chosen:
            network = _build_network(mixed[: layer + 1])
            flow = np.zeros((n, n))
            for query in range(n):
                for key in np.flatnonzero(np.arange(n) <= query) if maps.causal else range(n):
                    source = (layer + 1) * n + query
                    flow[query, key] = maximum_flow(network, source, int(key)).flow_value
                bar.update()
            sums = flow.sum(1, keepdims=True)
            flows.append(np.divide(flow, sums, out=np.zeros_like(flow), where=sums > 0)[None].astype(np.float32))
    return _make_maps(maps, flows, chosen, "flow")


def _mix_residual(maps, residual):
    """Return each layer's mean over heads with its residual connection: float64, axes ``(n, n)``."""
    if not isinstance(residual, numbers.Real) or isinstance(residual, bool) or not 0 <= residual < 1:
        raise OptionError(f"residual must be a share from 0 to below 1, got {residual!r}")
    n = len(maps.tokens_key)
    require_shares(maps, "a rollout or flow")
    if maps.reduction == "pooled" or maps.kind == "cross" or len(maps.tokens_query) != n or maps.first_query:
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


def _build_network(mixed):
    """Return capacities between (layer, position) nodes: node ``layer * n + position``, inputs first."""
    n = len(mixed[0])
    rows, columns, capacities = [], [], []
    for layer, weights in enumerate(mixed):
        units = np.rint(weights * UNITS).astype(np.int32)
        query, key = np.nonzero(units)
        rows.append((layer + 1) * n + query)
        columns.append(layer * n + key)
        capacities.append(units[query, key])
    size = (len(mixed) + 1) * n
    entries = np.concatenate(capacities), (np.concatenate(rows), np.concatenate(columns))
    return csr_array(entries, shape=(size, size))


def _make_maps(maps, weights, layers, weighting):
    return dataclasses.replace(
        maps, weights=weights, layers=layers, heads=None, reduction="head_mean", weighting=weighting
    )
