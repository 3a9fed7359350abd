"""Exact attention weights from queries and keys, a tile at a time.

All scores are kept in base 2 (the factor log2 e is part of the scale): `exp2` is many times faster than `exp` where
results are denormal or zero, which they mostly are. Products are taken in float32 whatever the model's type.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import torch

from ..cells import measure_cells
from .threads import run_parallel

LOG2E = math.log2(math.e)
# Query rows and keys of a tile. Larger ones gain nothing once the matrix product is efficient, and cost memory.
ROWS, KEYS = 256, 512
# 2^-100 is nothing beside a largest weight of at least 1/n; below it `exp2` would slow down.
SMALLEST = -100.0
# Up to this log-sum-exp float32 rounding changes a weight by less than 1e-4 of it.
LARGEST_LSE = 512.0
# A mask that adds so little to a score hides: what is left of a weight is no number any more.
_HIDES = -1e4


@dataclasses.dataclass(frozen=True)
class Scores:
    """What decides the attention weights of one layer.

    The weights are softmax(Q Kᵀ · scale + mask) over the keys (Vaswani et al. 2017, equation 1), with mask, scale and
    `is_causal` as `torch.nn.functional.scaled_dot_product_attention` defines them. A row whose keys are all masked is
    padding and has zero weights.
    """

    query: torch.Tensor  # axes (n_heads, n_query, d)
    key: torch.Tensor  # axes (n_kv_heads, n_key, d); query head h uses key head h // (n_heads // n_kv_heads)
    # Broadcastable to (n_heads, n_query, n_key): bool keeps where True, float is added to the scores.
    mask: torch.Tensor | None = None
    is_causal: bool = False  # without a mask, row i sees keys 0 to first + i only
    scale: float | None = None  # None means d ** -0.5
    first: int = 0  # position of the first row among all queries
    lse: torch.Tensor | None = None  # natural log of each row's sum of exponentials, axes (n_heads, n_query), if known

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(n_heads, n_query, n_key)``."""
        return len(self.query), self.query.shape[1], self.key.shape[1]

    def slice_keys(self, start: int, stop: int) -> "Scores":
        """Return the scores of the query heads that use key heads `start` to `stop`, on the same memory."""
        group = len(self.query) // len(self.key)
        heads = slice(start * group, stop * group)
        mask = None if self.mask is None else self.mask.expand(self.shape)[heads]
        lse = None if self.lse is None else self.lse[heads]
        return dataclasses.replace(self, query=self.query[heads], key=self.key[start:stop], mask=mask, lse=lse)

    def select(self, *, heads: Sequence[int] | None = None, rows: slice | None = None) -> "Scores":
        """Return the scores of some heads, each then with a key head of its own, and of a range of query rows."""
        query, key, mask, lse, first = self.query, self.key, self.mask, self.lse, self.first
        if mask is not None:
            mask = mask.expand(self.shape)
        if heads is not None:
            chosen = torch.as_tensor(heads, device=query.device)
            key = key[chosen // (len(query) // len(key))]
            query, mask, lse = query[chosen], _pick(mask, chosen), _pick(lse, chosen)
        if rows is not None:
            start, stop, _ = rows.indices(query.shape[1])
            query, first = query[:, start:stop], first + start
            mask, lse = (None if part is None else part[:, start:stop] for part in (mask, lse))
        return dataclasses.replace(self, query=query, key=key, mask=mask, lse=lse, first=first)


def _pick(tensor: torch.Tensor | None, heads: torch.Tensor) -> torch.Tensor | None:
    return None if tensor is None else tensor[heads]


def iterate_weights(scores: Scores, *, rows: int = ROWS) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the first row and the weights of each block of query rows.

    Weights are float32, axes ``(n_heads, rows, n_seen)``; keys from `n_seen` on have no weight.
    """
    n_heads, n_query, _ = scores.shape
    query, key, scale = _prepare(scores)
    for start in range(0, n_query, rows):
        stop = min(start + rows, n_query)
        n_seen = _count_seen(scores, stop)
        block = _multiply(_join(query[:, :, start:stop]), key[:, :n_seen].mT, scale)
        block = block.view(n_heads, stop - start, n_seen)
        for place, mask in _masks(scores, start, stop, 0, n_seen):
            _hide(block[..., place], mask)
        # The softmax in base 2, in place; a row that sees nothing has the maximum -inf and gets zeros.
        block -= block.amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
        block.clamp_(min=SMALLEST).exp2_()
        torch.nn.functional.threshold(block, 2.0**SMALLEST, 0.0, inplace=True)
        total = block.sum(-1, keepdim=True)
        block /= total.clamp_(min=torch.finfo(torch.float32).tiny)
        yield start, block


def multiply_row(query: torch.Tensor, key: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Return the scores, float32, axes ``(n_heads, n_key)``, of one query, axes ``(1, n_heads, 1, d)`` or packed.

    Keys have axes ``(1, n_kv_heads, n_key, d)``. Once a layer and step, each operation counts.
    """
    _, n_kv_heads, _, d = key.shape
    query = query.reshape(n_kv_heads, -1, d).float() * (d**-0.5 if scale is None else scale)
    return torch.bmm(query, key.squeeze(0).float().mT).flatten(0, 1)


def pool_weights(scores: Scores, cell: tuple[int, int], pooling: str) -> torch.Tensor:
    """Pool attention weights into cells without ever having all of them.

    The largest weight of a cell is the exponential of its largest score minus the row's log-sum-exp, so that the
    exponential is taken once a cell and row group and not once a weight. Keys lie on rows of the product, because a
    maximum over a leading axis is several times faster than one over a short last axis. What comes out is float32, axes
    ``(n_heads, ceil(n_query / cell[0]), ceil(n_key / cell[1]))``.
    """
    n_heads, n_query, n_key = scores.shape
    parts = _divide_heads(scores)
    shape = n_heads, -(-n_query // cell[0]), -(-n_key // cell[1])
    result = torch.zeros(shape, dtype=torch.float32, device=scores.query.device)
    rows = cell[0] * max(1, ROWS // cell[0])
    # Later rows see more keys: the longest tasks first, so that no thread is left with one at the end.
    tasks = [
        (part, cell, pooling, start, out)
        for part, out in zip(parts, result.split([len(part.query) for part in parts]), strict=True)
        for start in reversed(range(0, n_query, rows))
    ]
    run_parallel(_pool_block, tasks, device=scores.query.device)
    if pooling == "mean":
        height, width = (measure_cells(n, size) for n, size in zip((n_query, n_key), cell, strict=True))
        result.div_(torch.as_tensor(height[:, None] * width, device=result.device))
    return result


def average_heads(scores: Scores, result: torch.Tensor) -> None:
    """Average attention weights over the heads into `result` without ever having those of more than a tile.

    `result` is of zeros, axes ``(n_query, n_key)``, on any device.
    """
    parts = _divide_heads(scores)
    tasks = [(parts, start, result) for start in reversed(range(0, scores.shape[1], ROWS))]
    run_parallel(_average_block, tasks, device=scores.query.device)


def _divide_heads(scores: Scores) -> list[Scores]:
    """Return the scores of the key heads of each tile, in float32, with a log-sum-exp only where it can be trusted."""
    # Keys are read again and again.
    query, key = scores.query.detach().float(), scores.key.detach().float().contiguous()
    # A log-sum-exp from elsewhere was rounded elsewhere, which matters where scores are huge.
    is_known = scores.lse is not None and bool((scores.lse[scores.lse.isfinite()].abs() < LARGEST_LSE).all())
    scores = dataclasses.replace(scores, query=query, key=key, lse=scores.lse if is_known else None)
    # On a CPU the tile of one head stays in a core's cache; a GPU wants all.
    step = 1 if query.device.type == "cpu" else len(key)
    return [scores.slice_keys(first, first + step) for first in range(0, len(key), step)]


def _pool_block(scores: Scores, cell: tuple[int, int], pooling: str, start: int, result: torch.Tensor) -> None:
    """Pool a block of query rows into `result`: the largest weights, or the sums of weights.

    Exponentials are taken here and not of the whole result: torch would share those among threads, and the last few
    of each thread's share are computed by another routine, with other bits, than the rest.
    """
    down, across = cell
    stop = min(start + down * max(1, ROWS // down), scores.shape[1])
    keys = across * max(1, KEYS // across)
    n_seen = _count_seen(scores, stop)
    # The largest score of a cell is found without the log-sum-exp, so that it falls off on the way.
    is_open = scores.lse is None and pooling == "max"
    n_columns = len(scores.query) // len(scores.key) * (stop - start)
    lse = scores.query.new_full((len(scores.key), 1, n_columns), -torch.inf)
    if not is_open:
        lse = _find_lse(scores, start, stop, keys)
    columns = scores.query.new_empty(len(scores.key), -(-n_seen // across), n_columns)
    tiles = _iterate_tiles(scores, start, stop, keys)
    for (_, tile), cells in zip(tiles, columns.split(keys // across, 1), strict=True):
        if is_open:
            lse = torch.logaddexp2(lse, _logsumexp2(tile))
        if pooling == "mean":
            _exponentiate(tile.sub_(lse))
        _pool_keys(tile, across, pooling, cells)
    if pooling == "max":
        columns.sub_(lse)
    cells = _pool_rows(columns.unflatten(2, (-1, stop - start)), down, pooling)
    if pooling == "max":
        _exponentiate(cells)
    # Every weight of nothing became 2^SMALLEST, and a cell's sum of them is still nothing.
    _drop_nothing(cells, 1 if pooling == "max" else down * across)
    # (n_kv_heads, cells of keys, group, cells of rows), to go where heads come first and keys last
    cells = cells.permute(0, 2, 3, 1).flatten(0, 1)
    result[:, start // down : start // down + cells.shape[1], : cells.shape[2]] = cells


def _average_block(parts: list[Scores], start: int, result: torch.Tensor) -> None:
    """Average the weights of a block of query rows over the heads of all parts into `result`."""
    stop = min(start + ROWS, parts[0].shape[1])
    n_seen = _count_seen(parts[0], stop)
    total = parts[0].query.new_zeros(n_seen, stop - start)
    for scores in parts:
        lse = _find_lse(scores, start, stop, KEYS)
        for first, tile in _iterate_tiles(scores, start, stop, KEYS):
            weights = _exponentiate(tile.sub_(lse)).unflatten(2, (-1, stop - start))
            total[first : first + tile.shape[1]] += weights.sum((0, 2))
    n_heads = sum(len(scores.query) for scores in parts)
    _drop_nothing(total, n_heads).div_(n_heads)
    result[start:stop, :n_seen] = total.mT


def _iterate_tiles(scores: Scores, start: int, stop: int, keys: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the first key and the scores of each tile of `keys` keys and the rows from `start` to `stop`.

    Axes ``(n_kv_heads, keys, group * rows)``; a tile lies where the one before it lay, because fresh memory costs as
    much as the product that fills it.
    """
    query, key, scale = _prepare(scores)
    block = _join(query[:, :, start:stop]).mT
    n_seen = _count_seen(scores, stop)
    memory = query.new_empty(len(key), min(keys, n_seen), block.shape[2])
    for first, part in zip(range(0, n_seen, keys), key[:, :n_seen].split(keys, 1), strict=True):
        tile = _multiply(part, block, scale, memory[:, : part.shape[1]])
        for place, mask in _masks(scores, start, stop, first, first + part.shape[1]):
            mask = mask.mT if mask.ndim == 2 else mask.unflatten(0, (len(key), -1)).permute(0, 3, 1, 2)
            _hide(tile.unflatten(2, (-1, stop - start))[:, place], mask[:, None] if mask.ndim == 2 else mask)
        yield first, tile


def _find_lse(scores: Scores, start: int, stop: int, keys: int) -> torch.Tensor:
    """Return log2 of the rows' sums of exponentials, known or from a pass over all tiles.

    Axes ``(n_kv_heads, 1, group * rows)``.
    """
    if scores.lse is not None:
        lse = LOG2E * scores.lse[:, start:stop].float().reshape(len(scores.key), 1, -1)
        return lse.nan_to_num_().clamp_(min=torch.finfo(torch.float32).min)  # rows that see no key
    return functools.reduce(torch.logaddexp2, (_logsumexp2(t) for _, t in _iterate_tiles(scores, start, stop, keys)))


def _exponentiate(exponents: torch.Tensor) -> torch.Tensor:
    """Return 2 to the power of what is at most 0, in place; of nothing, 2^SMALLEST comes out."""
    return exponents.clamp_(SMALLEST, 0.0).exp2_()


def _drop_nothing(sums: torch.Tensor, n_weights: int) -> torch.Tensor:
    """Make sums of `n_weights` weights 0, in place, where all of them are nothing."""
    return torch.nn.functional.threshold(sums, 2 * n_weights * 2.0**SMALLEST, 0.0, inplace=True)


def _prepare(scores: Scores) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return queries as (n_kv_heads, group, n_query, d), keys, and the factor of their products, in base 2."""
    scale = scores.query.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    return scores.query.float().unflatten(0, (len(scores.key), -1)), scores.key.float(), scale * LOG2E


def _multiply(left: torch.Tensor, right: torch.Tensor, scale: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return the batched product of two tensors times a factor."""
    if out is None:
        out = left.new_empty(len(left), left.shape[1], right.shape[2])
    return torch.baddbmm(out, left, right, beta=0, alpha=scale, out=out)


def _join(block: torch.Tensor) -> torch.Tensor:
    """Put the query heads of a group side by side: (n_kv_heads, group, rows, d) to (n_kv_heads, group * rows, d)."""
    return block.flatten(1, 2)


def _count_seen(scores: Scores, stop: int) -> int:
    """Return how many keys the rows before `stop` see at most."""
    n_key = scores.key.shape[1]
    return min(n_key, scores.first + stop) if scores.is_causal and scores.mask is None else n_key


def _masks(scores: Scores, start: int, stop: int, first: int, last: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (slice of keys from `first`, mask of axes (…, rows, keys)) for what hides keys in a tile."""
    if scores.mask is not None:
        yield slice(None), scores.mask.expand(scores.shape)[:, start:stop, first:last]
    elif scores.is_causal and last > scores.first + start:
        # Only keys from the first row's own position on can lie in some row's future.
        begin = max(first, scores.first + start)
        yield (
            slice(begin - first, last - first),
            _bar_future(stop - start, last - begin, begin - scores.first - start, scores.query.device),
        )


@functools.lru_cache(maxsize=4)
def _bar_future(n_rows: int, n_keys: int, ahead: int, device: torch.device) -> torch.Tensor:
    """Return -inf where key j + `ahead` is later than row i, 0 elsewhere; laid out for tiles with keys on rows."""
    return torch.full((n_keys, n_rows), -torch.inf, device=device).tril_(ahead - 1).mT


def _hide(block: torch.Tensor, mask: torch.Tensor) -> None:
    if mask.dtype == torch.bool:
        block.masked_fill_(~mask, -torch.inf)
    else:
        block.add_(mask, alpha=LOG2E)


def _logsumexp2(tile: torch.Tensor) -> torch.Tensor:
    """Return log2 of the sum over keys of 2^tile, axes (n_kv_heads, 1, group * rows)."""
    top = tile.amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
    return (tile - top).clamp_(min=SMALLEST).exp2_().sum(1, keepdim=True).log2_() + top


def _pool_keys(tile: torch.Tensor, across: int, pooling: str, out: torch.Tensor) -> None:
    """Pool rows of keys: (n_kv_heads, keys, columns) into `out`, (n_kv_heads, cells, columns)."""
    reduce = torch.amax if pooling == "max" else torch.sum
    whole, rest = divmod(tile.shape[1], across)
    if whole:
        reduce(tile[:, : whole * across].unflatten(1, (whole, across)), 2, out=out[:, :whole])
    if rest:
        reduce(tile[:, whole * across :], 1, out=out[:, whole])


def _pool_rows(columns: torch.Tensor, down: int, pooling: str) -> torch.Tensor:
    """Pool the last axis, query rows, to cells."""
    missing = -columns.shape[-1] % down
    if missing:
        nothing = -torch.inf if pooling == "max" else 0.0
        columns = torch.nn.functional.pad(columns, (0, missing), value=nothing)
    columns = columns.unflatten(-1, (-1, down))
    return columns.amax(-1) if pooling == "max" else columns.sum(-1)


def blocks_future(mask: torch.Tensor, n_query: int, n_key: int, first: int = 0) -> bool:
    """Tell whether a mask hides every key after the query's own position, which is `first` for the first query.

    False where queries are no keys too. The mask's last axes are ``(n_query, n_key)`` or broadcastable to them.
    """
    if first + n_query != n_key:
        return False
    future = torch.ones(n_query, n_key, dtype=torch.bool, device=mask.device).triu_(first + 1)
    return bool((find_hidden(mask) | ~future).all())


def find_hidden(mask: torch.Tensor) -> torch.Tensor:
    """Return what a mask hides: bool, of its shape."""
    return ~mask if mask.dtype == torch.bool else mask <= _HIDES
