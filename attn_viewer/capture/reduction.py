"""What is kept of a layer's attention weights while they stream by.

A reduction is fed in one of two ways: with the `Scores` of a watched call, from which it computes what it keeps, or
with the weights that an eager module handed out. A new one is a class here and an entry in `REDUCTIONS`.
"""

import ctypes
import functools
import math
import mmap
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ..attentions import Array
from . import kernels

AUTO = "auto"
# Bytes of weights up to which "auto" keeps everything: 700 tokens of a model with 30 layers of 9 heads.
FULL_BUDGET = 512 * 2**20
# Bytes from which on an array has pages of its own. Linux gives a process about 65,000 maps, and rows of a generation
# would take one a layer and step.
MAPPED_SIZE = 256 * 2**10
# Bytes of queries after which freed memory is given back: about as much lies unused by then.
RELEASE_SIZE = 64 * 2**20


class FullReduction:
    """Keep every weight; `shape`, ``(n_heads, n_query, n_key)``, is that of what will come."""

    def __init__(self, shape: tuple[int, int, int], dtype: npt.DTypeLike, cell: tuple[int, int], pooling: str) -> None:
        self.array = allocate_zeros(shape, dtype)

    def take_scores(self, scores: kernels.Scores) -> None:
        """Take a layer's chosen heads and rows as what decides their weights."""
        for start, block in kernels.iterate_weights(scores):
            self.take_weights(block, start)

    def take_weights(self, weights: torch.Tensor, start: int = 0) -> None:
        """Take the weights of the chosen heads in some rows, axes ``(n_heads, rows, n_seen)``.

        Keys from `n_seen` on have no weight; `start` is the first row's number among those chosen, a whole number of
        cells.
        """
        self.array[:, start : start + weights.shape[1], : weights.shape[2]] = weights.float().cpu().numpy()


class HeadMeanReduction(FullReduction):
    """Keep the mean over the heads."""

    def __init__(self, shape: tuple[int, int, int], dtype: npt.DTypeLike, cell: tuple[int, int], pooling: str) -> None:
        super().__init__((1, *shape[1:]), dtype, cell, pooling)

    def take_scores(self, scores: kernels.Scores) -> None:
        """Take a layer as what decides its weights."""
        if scores.shape[1] == 1:  # no heads' worth of memory to save, and tiles cost more than a row
            super().take_scores(scores)
            return
        kernels.average_heads(scores, torch.from_numpy(self.array[0]))

    def take_weights(self, weights: torch.Tensor, start: int = 0) -> None:
        """Take weights."""
        super().take_weights(weights.mean(0, keepdim=True, dtype=torch.float32), start)


class PooledReduction(FullReduction):
    """Keep each head on a coarse grid, whose last cells may be smaller."""

    def __init__(self, shape: tuple[int, int, int], dtype: npt.DTypeLike, cell: tuple[int, int], pooling: str) -> None:
        rows, columns = (math.ceil(side / tokens) for side, tokens in zip(shape[1:], cell, strict=True))
        super().__init__((shape[0], rows, columns), dtype, cell, pooling)
        self.cell, self.pooling = cell, pooling

    def take_scores(self, scores: kernels.Scores) -> None:
        """Take a layer as what decides its weights."""
        self.array[:] = kernels.pool_weights(scores, self.cell, self.pooling).cpu().numpy()

    def take_weights(self, weights: torch.Tensor, start: int = 0) -> None:
        """Take weights."""
        super().take_weights(pool_matrix(weights.float(), self.cell, self.pooling), start // self.cell[0])


REDUCTIONS: dict[str, type[FullReduction]] = {
    "full": FullReduction,
    "head_mean": HeadMeanReduction,
    "pooled": PooledReduction,
}


def allocate_zeros(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Return a writable array of zeros, in pages of its own where it is large.

    What stays of each layer must not lie between what the model frees: the heap would grow by several times as much.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes < MAPPED_SIZE:
        return np.zeros(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, n_bytes), dtype).reshape(shape)


class RowMemory:
    """Copies of small arrays of one type, side by side in pages that go when all arrays in them have gone.

    Rows of a generation that lay between the keys and values of its steps would stop those from being used again.
    """

    def __init__(self) -> None:
        self.free: Array = np.empty(0, np.uint8)

    def copy(self, array: Array) -> Array:
        """Return a copy, and a large array as it is: it has pages of its own."""
        if array.nbytes >= MAPPED_SIZE:
            return array
        if len(self.free) < array.nbytes:
            self.free = allocate_zeros((16 * MAPPED_SIZE,), np.uint8)
        taken, self.free = self.free[: array.nbytes], self.free[array.nbytes :]
        copied = taken.view(array.dtype).reshape(array.shape)
        copied[:] = array
        return copied


def release_freed(query: torch.Tensor, passed: int) -> int:
    """Give memory that the layers of a long prompt have freed back to the system, where the C library can.

    glibc keeps what was freed, and what lives on between it stops it from being used again: at 8,192 tokens the heap
    came to hold twice what the plain pass needs. What it leaves grows by about the size of the queries a layer; to
    touch given-back memory again costs, so that it is not done every layer. `passed`, which is returned with this
    layer, is how many bytes of queries there were since.
    """
    if query.device.type != "cpu":
        return passed
    passed += query.numel() * query.element_size()
    if passed < RELEASE_SIZE:
        return passed
    _find_trim()(0)
    return 0


@functools.cache
def _find_trim() -> Callable[[int], object]:
    """Return glibc's malloc_trim, or a stand-in that does nothing."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return lambda pad: 0


def pool_matrix(weights: torch.Tensor, cell: tuple[int, int], pooling: str) -> torch.Tensor:
    """Pool weights that are there, axes ``(n_heads, n_query, n_key)``, into cells."""
    if pooling == "max":
        return torch.nn.functional.max_pool2d(weights[None], cell, cell, ceil_mode=True)[0]
    # Cells that hang over the edge count only the weights that are there.
    return torch.nn.functional.avg_pool2d(weights[None], cell, cell, ceil_mode=True, count_include_pad=False)[0]
