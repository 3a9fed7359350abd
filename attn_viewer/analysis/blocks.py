"""What every score is computed from: the weights of some heads, and where their queries and keys stand."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr
from threadpoolctl import threadpool_limits

from ..errors import OptionError, UnsuitableMapsError
from ..facts import MapFacts
from ..hints import check_value
from ..maps import AttentionMaps

WINDOW = 8
EPSILON = 0.3
# Bytes of one block in float64, if it has several heads: a few arrays of its size stay in a core's cache, and there are
# so few blocks that calling numpy costs little.
BLOCK_BYTES = 2**20
# A key counts as a possible sink when at least so many queries see it: fewer, and a head that looks at its neighbours
# seems to have one at the end of every prompt.
LEAST_QUERIES = 8


def require_shares(maps: MapFacts, what: str) -> None:
    """Raise `UnsuitableMapsError` unless the weights of a row are shares of one; `what` asks."""
    require_unsigned(maps, what)
    if obstacle := find_obstacle(maps, shares=True):
        raise UnsuitableMapsError(f"{what} {obstacle}")


def find_obstacle(
    maps: MapFacts, *, positions: bool = False, all_queries: bool = False, shares: bool = False
) -> str | None:
    """Return why maps lack what is needed: queries that are some of the keys, all queries, or shares of a row."""
    n_query, n_key, stop = len(maps.tokens_query), len(maps.tokens_key), maps.first_query + len(maps.tokens_query)
    if positions and (maps.kind == "cross" or stop > n_key):
        return (
            f"needs queries that are some of the key tokens, but these are {maps.kind} maps of "
            f"{n_query} queries × {n_key} keys; score self-attention"
        )
    is_cut = maps.first_query or maps.queries_after or (maps.kind != "cross" and n_query != n_key)
    if all_queries and is_cut:
        return f"needs all query rows, but these maps hold {n_query}; capture without queries="
    if shares and maps.weighting != "attention":
        return (
            f"needs attention weights, whose rows sum to 1, but these maps hold {maps.weighting}; capture with "
            "weighting='attention'"
        )
    return None


def require_unsigned(maps: MapFacts, what: str) -> None:
    """Raise `UnsuitableMapsError` for maps whose numbers may be below 0; `what` asks."""
    if maps.signed:
        raise UnsuitableMapsError(f"{what} needs weights that are not negative, but these maps are signed")


def require_heads(maps: MapFacts, what: str, *, least_keys: int = 1) -> None:
    """Raise `UnsuitableMapsError` unless maps hold every weight of single heads and `least_keys` keys; `what` asks."""
    if maps.reduction != "full":
        raise UnsuitableMapsError(
            f"{what} needs every weight of each head, but these maps are reduced ({maps.reduction}); "
            "capture with reduction='full', where memory is short with fewer layers= or queries="
        )
    if maps.grouping:
        raise UnsuitableMapsError(f"{what} needs maps of tokens, not grouped by {maps.grouping[0]}; pass those before")
    if len(maps.tokens_key) < least_keys:
        raise UnsuitableMapsError(
            f"{what} needs at least {least_keys} key tokens, got {len(maps.tokens_key)}; give a longer prompt"
        )


def check_limits(window: int = WINDOW, epsilon: float = EPSILON) -> None:
    """Raise `OptionError` for limits that a `Frame` cannot have, before a model runs."""
    check_value("window", window, int, at_least=1)
    if not isinstance(epsilon, (int, float)) or not 0 <= epsilon < 1:
        raise OptionError(f"epsilon must be a weight from 0 to below 1, got {epsilon!r}")


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where the queries and keys of maps stand, the same for all heads; limits are checked by `check_limits`."""

    maps: MapFacts
    window: int = WINDOW
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        """Check what a person may have chosen."""
        check_limits(self.window, self.epsilon)

    @functools.cached_property
    def positions(self) -> NDArray[np.int64]:
        """Position of each query among the keys: int, axes ``(n_query, 1)``."""
        return self.maps.first_query + np.arange(len(self.maps.tokens_query))[:, None]

    @functools.cached_property
    def keys(self) -> NDArray[np.int64]:
        """Position of each key: int, axes ``(n_key,)``."""
        return np.arange(len(self.maps.tokens_key))

    @functools.cached_property
    def sees(self) -> NDArray[np.bool_]:
        """Which keys a query may look at: bool, axes ``(n_query, n_key)``."""
        return ~self.maps.future

    @functools.cached_property
    def distances(self) -> NDArray[np.int64]:
        """Tokens between query and key: int, axes ``(n_query, n_key)``."""
        distances: NDArray[np.int64] = np.abs(self.positions - self.keys)
        return distances

    @functools.cached_property
    def repeats(self) -> NDArray[np.bool_]:
        """Earlier keys that hold the query's own token: bool, axes ``(n_query, n_key)``."""
        maps, numbers = self.maps, dict[str | int, int]()
        tokens: Sequence[str | int] = maps.tokens_key if maps.ids_key is None else maps.ids_key
        names = np.array([numbers.setdefault(token, len(numbers)) for token in tokens])
        repeats: NDArray[np.bool_] = (names[self.positions] == names) & (self.keys < self.positions)
        return repeats

    @functools.cached_property
    def followers(self) -> NDArray[np.bool_]:
        """Keys right behind one of `repeats`, the query itself not counted: bool, axes ``(n_query, n_key)``."""
        followers = np.zeros_like(self.repeats)
        followers[:, 1:] = self.repeats[:, :-1]
        earlier: NDArray[np.bool_] = followers & (self.keys < self.positions)
        return earlier


class HeadBlock:
    """The weights of some heads of a layer, axes ``(n_heads, n_query, n_key)``, with sums that several scores share.

    Rows of zeros are padding: they are no queries and count in no mean.
    """

    def __init__(self, weights: NDArray[np.float64], frame: Frame) -> None:
        self.weights, self.frame = weights, frame

    @functools.cached_property
    def masses(self) -> NDArray[np.float64]:
        """Sum of each row: axes ``(n_heads, n_query)``; less than 1 where a learned sink took its share."""
        masses: NDArray[np.float64] = self.weights.sum(-1)
        return masses

    @functools.cached_property
    def is_query(self) -> NDArray[np.bool_]:
        """Rows that are no padding: bool, axes ``(n_heads, n_query)``."""
        return self.masses > 0

    @functools.cached_property
    def column_means(self) -> NDArray[np.float64]:
        """Mean weight on each key over the queries that see it: axes ``(n_heads, n_key)``.

        NaN for keys past the first that fewer than `LEAST_QUERIES` see.
        """
        counts = self.is_query.astype(np.int64) @ self.frame.sees
        counts[:, 1:][counts[:, 1:] < LEAST_QUERIES] = 0
        return divide(self.column_sums, counts)

    @functools.cached_property
    def column_sums(self) -> NDArray[np.float64]:
        """Weight on each key from all queries: axes ``(n_heads, n_key)``."""
        sums: NDArray[np.float64] = self.weights.sum(1)
        return sums

    @functools.cached_property
    def cumulated(self) -> NDArray[np.float64]:
        """Running sum of each row's weights from the largest on: axes ``(n_heads, n_query, n_key)``."""
        return np.cumsum(np.sort(self.weights, axis=-1)[..., ::-1], axis=-1)

    @functools.cached_property
    def follower_masses(self) -> NDArray[np.float64]:
        """Weight of each query on `Frame.followers`: axes ``(n_heads, n_query)``."""
        return self.sum_over(self.frame.followers)

    @functools.cached_property
    def entropies(self) -> NDArray[np.float64]:
        """Entropy of each row in nats: axes ``(n_heads, n_query)``; a learned sink counts as one more key."""
        entropies: NDArray[np.float64] = entr(self.weights).sum(-1)
        if self.frame.maps.has_sinks:
            entropies += entr(np.clip(1 - self.masses, 0, 1))
        return entropies

    @functools.cached_property
    def singular_values(self) -> NDArray[np.float64]:
        """Singular values of each head, descending: axes ``(n_heads, min(n_query, n_key))``."""
        return find_singular_values(self.weights)

    def sum_over(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        """Return each query's weight on `keys`, bool or factors ``(n_query, n_key)``: axes ``(n_heads, n_query)``."""
        sums: NDArray[np.float64] = np.einsum("hqk,qk->hq", self.weights, keys.astype(np.float64))
        return sums

    def average(self, values: NDArray[Any], counted: NDArray[np.bool_] | np.bool_ | bool = True) -> NDArray[np.float64]:
        """Return the mean of `values` ``(n_heads, n_query)`` over the queries `counted`; NaN where none counts."""
        counted = self.is_query & counted
        return divide(np.where(counted, values, 0).sum(-1), counted.sum(-1))


def iterate_blocks(maps: AttentionMaps, frame: Frame) -> Iterator[HeadBlock]:
    """Yield the heads of all layers, a bounded number at a time, by layer, then head."""
    heads = [head for layer in maps.weights for head in layer]
    step = max(1, BLOCK_BYTES // (8 * heads[0].size))
    for start in range(0, len(heads), step):
        yield HeadBlock(np.stack(heads[start : start + step], dtype=np.float64), frame)


def find_singular_values(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the singular values of each head of ``(n_heads, n_query, n_key)``, descending."""
    # Threads that share a matrix of some hundred rows wait for each other several times as long as one would take.
    with threadpool_limits(1, user_api="blas"):
        return np.linalg.svd(weights, compute_uv=False).astype(np.float64, copy=False)


def divide(sums: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """Return ``sums / counts`` of arrays that broadcast, NaN where a count is 0."""
    shape = np.broadcast_shapes(np.shape(sums), np.shape(counts))
    quotients: NDArray[np.float64] = np.divide(sums, counts, out=np.full(shape, np.nan), where=np.not_equal(counts, 0))
    return quotients
