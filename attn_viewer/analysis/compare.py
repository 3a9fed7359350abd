"""Maps together: the same prompt under two models, and the mean over many prompts."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ..errors import MapsMismatchError, OptionError, UnsuitableMapsError, shorten
from ..hints import check_value
from ..maps import AttentionMaps, Weights, require_maps
from ..selections import describe_numbers
from ..spans import shift_spans
from .blocks import require_shares


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionComparison:
    """What changed from one model, `first` (A), to another, `second` (B)."""

    first: AttentionMaps
    second: AttentionMaps
    distances: tuple[npt.NDArray[np.float64], ...]  # a layer each, axes (n_heads,): mean total variation, 0 to 1

    def get_difference(self, layer: int) -> npt.NDArray[np.float32]:
        """Return B − A of the layer with this true number: float32, axes ``(n_heads, n_query, n_key)``."""
        return self.second.get_layer(layer).astype(np.float32) - self.first.get_layer(layer)


def compare_attention(first: AttentionMaps, second: AttentionMaps) -> AttentionComparison:
    """Compare two attention maps, A and B, of the same prompt.

    The distance of a head is the mean over its queries i of ½ Σ_j ``|B[i, j] − A[i, j]|``, the total variation between
    two distributions over keys (Levin & Peres 2017, "Markov Chains and Mixing Times", proposition 4.2). Rows of
    padding count in no mean; a learned sink counts as one more key.

    Raises
    ------
    MapsMismatchError
        If tokens, layers, heads or what was kept differ.
    UnsuitableMapsError
        If the maps are pooled or scaled by values.
    """
    require_alike(first, second)
    require_shares(first, "the distance between two patterns")
    if first.reduction == "pooled":
        raise UnsuitableMapsError(
            "rows of pooled maps are no distributions over keys; capture both prompts with reduction='full' or "
            "'head_mean', where memory is short with fewer layers= or queries="
        )
    return AttentionComparison(first, second, tuple(map(_measure_distances, first.weights, second.weights)))


def _measure_distances(one: Weights, other: Weights) -> npt.NDArray[np.float64]:
    """Return the mean total variation of each head; both of axes ``(n_heads, n_query, n_key)``."""
    distances = np.empty(len(one))
    for head, (a, b) in enumerate(zip(one, other, strict=True)):  # one at a time, or float64 would take much memory
        a, b = a.astype(np.float64), b.astype(np.float64)
        missing = np.abs(np.clip(1 - b.sum(1), 0, 1) - np.clip(1 - a.sum(1), 0, 1))
        rows = (np.abs(b - a).sum(1) + missing) / 2
        is_query = (a.sum(1) > 0) | (b.sum(1) > 0)
        distances[head] = rows[is_query].mean() if is_query.any() else 0.0
    return distances


def require_alike(first: AttentionMaps, second: AttentionMaps) -> None:
    """Raise `MapsMismatchError` unless two maps show the same prompt through heads that correspond."""
    for name, what in (("tokens_query", "query"), ("tokens_key", "key")):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            where = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
            )
            here = [repr(tokens[where]) if where < len(tokens) else "the end" for tokens in (one, other)]
            raise MapsMismatchError(
                f"{what} tokens differ from position {where} on ({here[0]} and {here[1]}; {len(one)} and {len(other)} "
                "tokens); compare the same prompt under the same tokenizer"
            )
    _require_heads(first, second)
    _require_same(first, second, first.find_difference(second))


def average_maps(maps: Iterable[AttentionMaps], *, length: int | None = None) -> AttentionMaps:
    """Average the attention of many prompts by position.

    As figure 2 of Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks", shows sinks: what is
    left after averaging depends on where tokens stand, not on what they say.

    Parameters
    ----------
    maps : iterable of AttentionMaps
        Of one model, layer for layer and head for head; taken one at a time, so that an iterator keeps memory small.
    length : int, optional
        Tokens to cut longer prompts to, where maps are causal and begin at the first token; left out, all prompts must
        have the same number.

    Returns
    -------
    AttentionMaps
        The means, float32. A label is the token where all prompts have the same, else the position; `n_prompts` says
        how many there were.

    Raises
    ------
    MapsMismatchError
        If they differ in more than tokens, or in their number.
    UnsuitableMapsError
        If they cannot be cut: pooled, grouped, not causal, or shorter than `length`.
    OptionError
        If there are none, or `length` is no number from 1.
    """
    check_value("length", length, int | None, at_least=1)
    if isinstance(maps, (AttentionMaps, str)) or not isinstance(maps, Iterable):
        raise OptionError(f"average_maps needs a sequence of AttentionMaps, got {shorten(maps)}")
    first, sums, labels, n_prompts = None, [], [], 0
    for one in maps:
        one = require_maps(one, "average_maps")
        one = one if length is None else _cut(one, length)
        sides = [one.tokens_query, one.tokens_key]
        if first is None:
            first, labels = one, [list(side) for side in sides]
            sums = [layer.astype(np.float64) * one.n_prompts for layer in one.weights]
        else:
            _require_same_model(first, one)
            for kept, side in zip(labels, sides, strict=True):
                kept[:] = [a if a == b else "" for a, b in zip(kept, side, strict=True)]
            for total, layer in zip(sums, one.weights, strict=True):
                total += layer.astype(np.float64) * one.n_prompts
        n_prompts += one.n_prompts
    if first is None:
        raise OptionError("there are no maps to average, of as many tokens as were asked for; ask for fewer")
    starts = (0 if first.kind == "cross" else first.first_query, 0)
    queries, keys = (
        tuple(label or str(start + i) for i, label in enumerate(side))
        for start, side in zip(starts, labels, strict=True)
    )
    return dataclasses.replace(
        first,
        weights=tuple((total / n_prompts).astype(np.float32) for total in sums),
        tokens_key=keys,
        tokens_query=queries,
        ids_key=None,
        segments=(),
        prompt_length=len(keys),
        n_prompts=n_prompts,
    )


def _cut(maps: AttentionMaps, length: int) -> AttentionMaps:
    """Return maps of the first tokens: what comes later changes nothing in causal rows."""
    if not maps.causal or maps.first_query or maps.reduction == "pooled" or maps.grouping:
        raise UnsuitableMapsError(
            f"only causal maps of all tokens can be cut to a length, got {maps!r}; give prompts of one length"
        )
    if len(maps.tokens_query) < length:
        raise UnsuitableMapsError(
            f"a prompt of {len(maps.tokens_query)} tokens cannot be cut to {length}; leave it out"
        )
    tokens = maps.tokens_key[:length]
    return dataclasses.replace(
        maps,
        weights=tuple(layer[:, :length, :length] for layer in maps.weights),
        tokens_key=tokens,
        tokens_query=tokens,
        ids_key=maps.ids_key and maps.ids_key[:length],
        segments=(),
        spans=shift_spans(maps.spans, 0, length),
        prompt_length=min(maps.prompt_length, length),
        queries_after=0,
    )


def _require_same_model(first: AttentionMaps, second: AttentionMaps) -> None:
    """Raise unless two maps of different prompts can be averaged cell by cell."""
    shapes = [tuple(len(tokens) for tokens in (maps.tokens_query, maps.tokens_key)) for maps in (first, second)]
    if shapes[0] != shapes[1]:
        raise MapsMismatchError(
            f"prompts differ in length: {shapes[0]} and {shapes[1]} (queries, keys); cut them with length="
        )
    _require_heads(first, second)
    _require_same(first, second, first.find_difference(second), "model_id", "interventions", "has_sinks")


def _require_same(first: AttentionMaps, second: AttentionMaps, *names: str | None) -> None:
    """Raise for the first of some facts in which two maps differ."""
    for name in filter(None, names):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise MapsMismatchError(
                f"{name} differs: {shorten(one)} and {shorten(other)}; capture both in the same way"
            )


def _require_heads(first: AttentionMaps, second: AttentionMaps) -> None:
    """Raise unless two maps have the same layers and heads."""
    if first.layers != second.layers:
        raise MapsMismatchError(
            f"layers differ: {describe_numbers(first.layers)} and {describe_numbers(second.layers)}; select those that "
            "both have (maps.select(layers=…), --layers)"
        )
    for layer, one, other in zip(first.layers, first.heads, second.heads, strict=True):
        if one != other:
            raise MapsMismatchError(
                f"heads of layer {layer} differ: {describe_numbers(one)} and {describe_numbers(other)}; only models of "
                "the same shape have heads that correspond; compare the means over heads (maps.average_heads())"
            )
