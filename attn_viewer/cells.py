"""Pooling: the weights of neighbouring tokens put together in cells or groups."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .hints import check_value
from .maps import AttentionMaps


def choose_cell(n_query: int, n_key: int, max_cells: int) -> tuple[int, int]:
    """Return the query rows and keys of the smallest cell that makes at most `max_cells` cells a side."""
    check_value("max_cells", max_cells, int, at_least=1)
    return math.ceil(n_query / max_cells), math.ceil(n_key / max_cells)


def measure_cells(n_tokens: int, size: int) -> npt.NDArray[np.intp]:
    """Return how many tokens lie in each cell of `size`; the last may have fewer."""
    return np.diff([*range(0, n_tokens, size), n_tokens])


def pool_cells(weights: npt.NDArray[Any], cell: Sequence[int]) -> npt.NDArray[Any]:
    """Return the largest weight of each cell; where some are below 0, the one that is furthest from 0.

    `weights` have axes ``(…, n_query, n_key)``, and the last cells may be smaller. Of a masked array, what is masked
    counts only where a cell has nothing else, and the cells are masked too.
    """
    if tuple(cell) == (1, 1):
        return weights
    starts = [range(0, n, size) for n, size in zip(weights.shape[-2:], cell, strict=True)]
    highest = _merge_largest(weights, starts)
    if weights.dtype.kind != "f" or not weights.min() < 0:
        return highest
    lowest = -_merge_largest(-weights, starts)
    chosen: npt.NDArray[Any] = np.ma.where(highest >= -lowest, highest, lowest)  # type: ignore[no-untyped-call]  # numpy's
    return chosen if isinstance(weights, np.ma.MaskedArray) else np.asarray(chosen)


def _merge_largest(weights: npt.NDArray[Any], starts: Sequence[Sequence[int]]) -> npt.NDArray[Any]:
    """Return the largest of each group; masked where all of it is."""
    if not isinstance(weights, np.ma.MaskedArray):
        return merge_groups(np.maximum, weights, *starts)
    nothing = -np.inf if weights.dtype.kind == "f" else np.iinfo(weights.dtype).min
    hidden = ~merge_groups(np.maximum, ~np.ma.getmaskarray(weights), *starts)
    return np.ma.masked_array(merge_groups(np.maximum, weights.filled(nothing), *starts), hidden)


def merge_groups(
    function: np.ufunc, weights: npt.NDArray[Any], queries: Sequence[int], keys: Sequence[int], **options: Any
) -> npt.NDArray[Any]:
    """Merge groups of keys, then of queries, with a function of two numbers such as `numpy.maximum` or `numpy.add`.

    `queries` and `keys` are the first row and column of each group, which reaches to the next: axes
    ``(…, n_query, n_key)`` become ``(…, len(queries), len(keys))``. `numpy.ufunc.reduceat` gets `options` for the keys.
    """
    return function.reduceat(function.reduceat(weights, keys, axis=-1, **options), queries, axis=-2)


def pool_maps(maps: AttentionMaps, side: int) -> AttentionMaps:
    """Return maps whose cells are `side` × `side` cells of these: the maximum, or the mean where they are means."""
    starts = [range(0, length, side) for length in maps.shape]
    if maps.pooling == "mean":
        tokens = len(maps.tokens_query), len(maps.tokens_key)
        area = np.multiply.outer(*map(measure_cells, tokens, maps.cell)).astype(np.float64)
        total = merge_groups(np.add, area, *starts)
        weights = [(merge_groups(np.add, w * area, *starts) / total).astype(np.float32) for w in maps.weights]
    else:
        weights = [pool_cells(w, (side, side)) for w in maps.weights]
    cell = tuple(side * old for old in maps.cell)
    pooling = maps.pooling or "max"
    return AttentionMaps(weights, maps.facts, reduction="pooled", cell=cell, pooling=pooling)
