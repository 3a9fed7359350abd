"""The same prompt under two models: full and quantised, base and tuned."""

import dataclasses

import numpy as np

from ..choices import describe_numbers
from ..errors import MapsMismatchError, UnsuitableMapsError
from ..maps import AttentionMaps
from .blocks import require_shares


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionComparison:
    """What changed from one model to another.

    Parameters
    ----------
    first, second : AttentionMaps
        A and B.
    distances : tuple of numpy.ndarray
        Per layer the mean total variation of each head, float64 of axes ``(n_heads,)``, from 0 to 1.
    """

    first: AttentionMaps
    second: AttentionMaps
    distances: tuple

    def get_difference(self, layer):
        """Return B − A of one layer.

        Parameters
        ----------
        layer : int
            True layer number.

        Returns
        -------
        numpy.ndarray
            Axes ``(n_heads, n_query, n_key)``, float32, from -1 to 1.

        Raises
        ------
        OptionError
            If that layer is not in the maps.
        """
        return self.second.get_layer(layer).astype(np.float32) - self.first.get_layer(layer)


def compare_attention(first, second):
    """Compare two attention maps of the same prompt.

    The distance of a head is the mean over its queries i of ½ Σ_j |B[i, j] − A[i, j]|, the total variation between
    two distributions over keys (Levin & Peres 2017, "Markov Chains and Mixing Times", proposition 4.2). Rows of
    padding count in no mean; a learned sink counts as one more key.

    Parameters
    ----------
    first, second : AttentionMaps
        A and B, full or the mean over heads.

    Returns
    -------
    AttentionComparison
        Both maps and the distance of every head.

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


def _measure_distances(one, other):
    """Return the mean total variation of each head; both of axes ``(n_heads, n_query, n_key)``."""
    distances = np.empty(len(one))
    for head, (a, b) in enumerate(zip(one, other, strict=True)):  # one at a time, or float64 would take much memory
        a, b = a.astype(np.float64), b.astype(np.float64)
        missing = np.abs(np.clip(1 - b.sum(1), 0, 1) - np.clip(1 - a.sum(1), 0, 1))
        rows = (np.abs(b - a).sum(1) + missing) / 2
        is_query = (a.sum(1) > 0) | (b.sum(1) > 0)
        distances[head] = rows[is_query].mean() if is_query.any() else 0.0
    return distances


def require_alike(first, second):
    """Raise unless two maps show the same prompt through heads that correspond.

    Parameters
    ----------
    first, second : AttentionMaps
        The maps.

    Raises
    ------
    MapsMismatchError
        For the first thing in which they differ.
    """
    for field, what in (("tokens_query", "query"), ("tokens_key", "key")):
        one, other = getattr(first, field), getattr(second, field)
        if one != other:
            where = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
            )
            here = [repr(tokens[where]) if where < len(tokens) else "the end" for tokens in (one, other)]
            raise MapsMismatchError(
                f"{what} tokens differ from position {where} on ({here[0]} and {here[1]}; {len(one)} and {len(other)} "
                "tokens); compare the same prompt under the same tokenizer"
            )
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
    for field in ("kind", "causal", "first_query", "reduction", "cell", "pooling", "weighting"):
        one, other = getattr(first, field), getattr(second, field)
        if one != other:
            raise MapsMismatchError(f"{field} differs: {one!r} and {other!r}; capture both in the same way")
