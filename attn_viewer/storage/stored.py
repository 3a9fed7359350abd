"""What is stored of a prompt: weights, not yet read, and what ``prompt.json`` says of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    ActivationsMissingError,
    InvalidMapsError,
    shorten,
)
from ..facts import MapFacts
from ..maps import AttentionMaps
from ..tokens import show_raw_token
from .arrays import Archive, Shape, Stack

# The key of what only this package reads.
EXTRA = "attn_viewer"


@dataclasses.dataclass(frozen=True)
class StoredMaps:
    """The open weights of a prompt, and what is `stored` of them in ``prompt.json`` and known as `read_facts` says."""

    stored: Mapping[str, Any]
    weights: Archive | Stack
    facts: MapFacts

    def read_layers(self, layers: Sequence[int] | None = None) -> AttentionMaps:
        """Return layers by true number, all where they are left out, as `Prompt.open_maps` and `OptionError` allow."""
        facts = self.facts.select_layers(layers)
        return self._make_maps(facts, [self.weights.read_layer(layer) for layer in facts.layers])

    def read_head(self, layer: int, head: int) -> AttentionMaps:
        """Return one head by true numbers; no other is read where they are stored so."""
        heads = dict(zip(self.facts.layers, self.facts.heads, strict=True)).get(layer, ())
        if head not in heads:
            raise ActivationsMissingError(f"there is no head {head} in layer {layer}")
        facts = dataclasses.replace(self.facts, layers=(layer,), heads=((head,),))
        return self._make_maps(facts, [self.weights.read_head(layer, heads.index(head))[None]])

    def describe(self) -> MapFacts:
        """Return what is known of the weights, `causal` too, which one head shows where nothing says it."""
        sample = self.read_head(self.facts.layers[0], self.facts.heads[0][0])
        return dataclasses.replace(self.facts, causal=sample.causal, first_query=sample.first_query)

    def _make_maps(self, facts: MapFacts, weights: Sequence[npt.NDArray[Any]]) -> AttentionMaps:
        with np.errstate(over="ignore"):  # to infinity, which no weight is
            layers = [w if w.dtype == np.float16 else w.astype(np.float32, copy=False) for w in weights]
        try:
            return make_maps(layers, facts, get_facts(self.stored))
        except InvalidMapsError as error:
            raise ActivationsDamagedError(
                f"what is stored of prompt {self.stored['hash']!r} are no attention weights: {error}; "
                "compute them again (--force)"
            ) from error


def make_maps(weights: Sequence[npt.NDArray[Any]], facts: MapFacts, said: Mapping[str, Any]) -> AttentionMaps:
    """Return stored maps; `causal` is read from the weights where nothing that is `said` of them says it.

    Raises `InvalidMapsError` as `AttentionMaps`, and if the weights are not what the facts say.
    """
    unsaid = {} if "causal" in said else {"causal": None, "first_query": None}
    maps = AttentionMaps(weights, facts, **unsaid)
    maps.check_claims()
    return maps


def get_facts(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that this package wrote into a ``prompt.json``, by name; none where pattern-lens wrote it.

    Raises `ActivationsDamagedError` if they are no object, or the numbers of the layers are none.
    """
    facts: Any = stored.get(EXTRA, {})
    layers = facts.get("layers", [0]) if isinstance(facts, dict) else None
    if not (isinstance(layers, list) and layers and all(type(n) is int and n >= 0 for n in layers)):
        raise ActivationsDamagedError(
            f"prompt {shorten(stored.get('hash'))} has {shorten(facts)} under {EXTRA!r}, not facts about its weights"
        )
    return dict(facts)


def read_facts(stored: Mapping[str, Any], shapes: Mapping[int, Shape], model_id: str) -> MapFacts:
    """Say what the weights of a prompt are before they are read; `shapes` are those of `Archive` or `Stack`.

    Where pattern-lens wrote the prompt, a first token that it does not name is ``<bos>``, and `causal` is for
    `StoredMaps` to read from the weights. Raises `ActivationsMismatchError` if the weights are of other layers, heads
    or tokens, `ActivationsDamagedError` if facts are missing, or of a wrong type or range.
    """
    plain = get_facts(stored)
    if "tokens_key" not in plain:
        tokens = stored.get("tokens")
        labels = [show_raw_token(str(token)) for token in tokens] if isinstance(tokens, list) else []
        if any(len(labels) == shape[-1] - 1 for shape in shapes.values()):
            labels.insert(0, "<bos>")
        plain = {"tokens_key": labels} | plain
    found = {"layers": list(shapes), "heads": [list(range(shape[0])) for shape in shapes.values()]}
    try:
        facts = MapFacts.from_plain(found | plain | {"model_id": model_id})
    except InvalidMapsError as error:
        raise ActivationsDamagedError(
            f"prompt.json of {shorten(stored.get('hash'))} does not describe its weights: {error}; compute them again"
        ) from error
    expected = {layer: (n, *facts.shape) for layer, n in zip(facts.layers, facts.n_heads, strict=True)}
    if expected != shapes:
        raise ActivationsMismatchError(
            f"weights and prompt.json of {shorten(stored.get('hash'))} do not fit together: (layer: heads, queries, "
            f"keys) {shorten(shapes)} there, {shorten(expected)} here; run attn-viewer activations again"
        )
    return facts
