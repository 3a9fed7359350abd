"""One head's pattern, and what a token looks at."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..hints import check_value
from ..maps import AttentionMaps
from .blocks import require_heads


class AttendedToken(NamedTuple):
    """A key token and the weight that a query puts on it."""

    position: int
    token: str
    weight: float


def attention_pattern(maps: AttentionMaps, layer: int, head: int) -> NDArray[Any]:
    """Return the weights of one head, by true numbers of its layer and itself.

    Returns
    -------
    numpy.ndarray
        Axes ``(n_query, n_key)``, read-only.

    Raises
    ------
    OptionError
        If there is no such layer or head.
    UnsuitableMapsError
        If the maps are pooled or a mean over heads.
    """
    require_heads(maps, "a head's pattern")
    pattern: NDArray[Any] = maps.select(layers=[layer], heads=[head]).weights[0][0]
    return pattern


def top_attended(maps: AttentionMaps, layer: int, head: int, query: int = -1, k: int = 5) -> list[AttendedToken]:
    """Return the keys that a query of a head puts most weight on.

    Parameters
    ----------
    maps, layer, head
        As `attention_pattern` takes them.
    query : int
        Index into the query tokens, from the end when negative.
    k : int
        Most keys to return.

    Returns
    -------
    list of AttendedToken
        ``(position, token, weight)``, the heaviest first, the earlier key first among equals; keys without weight
        never.

    Raises
    ------
    OptionError, UnsuitableMapsError
        As `attention_pattern`; also if there is no such query, or `k` is not a whole number from 1.
    """
    check_value("k", k, int, at_least=1)
    pattern = attention_pattern(maps, layer, head)
    if not isinstance(query, (int, np.integer)) or not -len(pattern) <= query < len(pattern):
        raise OptionError(
            f"there is no query {query!r}; the maps have queries 0 to {len(pattern) - 1}, or -{len(pattern)} to -1 "
            "from the end"
        )
    row = pattern[query]
    order = np.argsort(-row, kind="stable")[:k]
    return [AttendedToken(int(j), maps.tokens_key[j], float(row[j])) for j in order if row[j] > 0]
