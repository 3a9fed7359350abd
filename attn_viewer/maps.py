"""`AttentionMaps`, the only type that the rooms of this package hand to each other."""

import dataclasses
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .attentions import check_rows, find_weights
from .errors import InvalidMapsError, shorten
from .facts import MapFacts, document_facts, find_future
from .selections import choose_numbers

if TYPE_CHECKING:
    from typing_extensions import Self

Weights = npt.NDArray[np.float32 | np.float16]


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False, kw_only=True)
class AttentionMaps(MapFacts):
    """The attention weights of one forward pass, with all that a figure must say about them.

    Row = query (the token that looks), column = key (the token looked at). A row of full maps sums to 1,
    except where a model has learned sinks (`has_sinks`): there the missing mass went to the sink.

    Parameters
    ----------
    weights : sequence of numpy.ndarray
        One array a layer, float16 or float32, axes ``(n_heads, n_query, n_key)``; cells instead of
        tokens on the last two when `reduction` is ``"pooled"``; one head when it is ``"head_mean"``.
    tokens_key : sequence of str, or MapFacts
        Labels of the key tokens; or all facts at once, as other maps or a file have them (`facts`).
    **facts
        What else is known. Where they are not said, `layers` and the `heads` of each layer count from 0, and `causal`
        and `first_query` are read from the weights.

    Raises
    ------
    InvalidMapsError
        If shapes, labels, numbers, types or ranges do not fit together.
    """

    weights: tuple[Weights, ...]

    def __init__(self, weights: Iterable[Any], tokens_key: Sequence[str] | MapFacts, **facts: Any) -> None:
        """Bring everything to its final type and check it once."""
        layers = _freeze_layers(weights)
        given = _list_facts(tokens_key) if isinstance(tokens_key, MapFacts) else {"tokens_key": tokens_key}
        known = given | facts
        if known.get("layers") is None:
            known["layers"] = range(len(layers))
        if known.get("heads") is None:
            known["heads"] = [range(len(layer)) for layer in layers]
        causal, first_query = known.get("causal"), known.get("first_query")
        self._take(known | {"causal": causal is not None and causal})
        object.__setattr__(self, "weights", layers)
        self._check_weights()
        if causal is None or (self.causal and first_query is None):
            vars(self).update(self._read_position(causal, first_query))

    @classmethod
    def from_attentions(
        cls,
        attentions: Any,
        tokens: Sequence[str],
        *,
        tokens_query: Sequence[str] | None = None,
        kind: str | None = None,
        batch_index: int | None = None,
        **facts: Any,
    ) -> "AttentionMaps":
        """Make maps of the attention weights that a model or a library hands out.

        Parameters
        ----------
        attentions : ModelOutput, mapping, sequence or array
            A transformers output with attentions; its tuple with one array a layer; that of ``generate``, a tuple a
            step, which are joined to one square; a TransformerLens cache (``hook_pattern``); the weights of one layer,
            axes ``(n_heads, n_query, n_key)``, or of one head, ``(n_query, n_key)``, with a batch axis or without.
            Arrays of numpy, tensors of any dtype and device, or lists. A list of matrices is the heads of one layer, a
            list of larger arrays the layers.
        tokens : sequence of str
            Labels of the keys. Those of a generation may end with one that was never a query; it is left out.
        tokens_query : sequence of str, optional
            Labels of the queries; left out, they are the keys, or the last of them where these are causal.
        kind : {"self", "encoder", "decoder", "cross"}, optional
            Which of the three attentions of an encoder-decoder's output to take; for arrays, which they are. Left out,
            ``"cross"`` where the queries are no run of the keys.
        batch_index : int, optional
            Which prompt of a batch of several.
        **facts
            What else is known, as `AttentionMaps` takes it. `causal` and `first_query` are read from the weights where
            they are not said.

        Returns
        -------
        AttentionMaps
            The maps. Nothing is renormalised.

        Raises
        ------
        InvalidMapsError
            If there are no weights in it, or of several prompts or kinds without a choice; if tokens do not fit, rows
            do not sum to 1, or numbers are negative or not finite.
        """
        found = find_weights(attentions, kind=kind, batch_index=batch_index)
        n_query, n_key = found.weights[0].shape[-2:]
        labels = _read_labels(tokens, "tokens")
        if found.prompt_length is not None and len(labels) == n_key + 1:
            labels = labels[:-1]
        queries = None if tokens_query is None else _read_labels(tokens_query, "tokens_query")
        if queries is None and kind != "cross" and found.kind != "cross" and n_query < n_key == len(labels):
            queries = labels[n_key - n_query :]
        is_run = queries is None or queries in (labels[: len(queries)], labels[len(labels) - len(queries) :])
        known = {"prompt_length": found.prompt_length, "layers": found.layers} | facts
        maps = cls(
            found.weights,
            labels,
            tokens_query=queries,
            kind=found.kind or kind or ("self" if is_run else "cross"),
            **known,
        )
        if tokens_query is None and n_query < n_key and not maps.causal and kind is None and found.kind is None:
            raise InvalidMapsError(
                f"{n_query} queries have weight on later ones of {n_key} keys, so they need not be the last of them; "
                "say tokens_query=, the labels of the queries, or kind='self' if they are the last"
            )
        maps.check_claims()
        return maps

    def check_claims(self) -> None:
        """Raise `InvalidMapsError` where weights from elsewhere are not what the facts say.

        Rows of attention weights, if these are such, sum to 1, and causal ones are 0 on later keys, which no figure
        shows.
        """
        future = self.future
        if self.causal and any(head[future].any() for layer in self.weights for head in layer):
            raise InvalidMapsError("the maps are said to be causal, but queries have weight on later keys")
        is_summed = self.reduction != "pooled" and not (self.grouping and self.grouping[1] == "max")
        if self.weighting == "attention" and is_summed and not self.signed:
            check_rows(self.weights, has_sinks=self.has_sinks)

    def _check_weights(self) -> None:
        """Raise where weights are not of these layers, heads and tokens."""
        rows, columns = self.shape
        least = 0 if self.signed else min(float(layer.min()) for layer in self.weights)
        if least < 0:
            raise InvalidMapsError(
                f"weights must not be negative, got values from {least:g}; attention scores before the softmax are not "
                "weights, and differences of weights go in with signed=True"
            )
        if len(self.weights) != len(self.layers):
            raise InvalidMapsError(
                f"layers must be {len(self.weights)} ascending numbers, one an array, got {len(self.layers)}"
            )
        for number, heads, layer in zip(self.layers, self.heads, self.weights, strict=True):
            if len(layer) != len(heads):
                raise InvalidMapsError(
                    f"heads must hold one number a head: layer {number} has {len(layer)} heads, got {len(heads)}"
                )
            if layer.shape[1:] != (rows, columns):
                raise InvalidMapsError(
                    f"layer {number} has {layer.shape[1]} × {layer.shape[2]} weights where {len(self.tokens_query)} "
                    f"query and {len(self.tokens_key)} key tokens make {rows} × {columns}"
                )

    __eq__ = object.__eq__  # maps of equal facts need not have equal weights
    __hash__ = object.__hash__

    def _read_position(self, causal: bool | None, first_query: int | None) -> dict[str, Any]:
        """Read from the weights what is not said: whether queries see later keys, and which tokens they are.

        Queries are those keys that have their labels, else the first or the last of all; causal are those that have no
        weight on a later key.
        """
        n_after = len(self.tokens_key) - len(self.tokens_query)
        if n_after >= 0 and (causal or self.kind not in ("encoder", "cross")):
            for first in self._list_places(n_after) if first_query is None else [self.first_query]:
                future = find_future(self.shape, self.cell, first)
                if first + len(self.tokens_query) <= len(self.tokens_key) and not any(
                    layer[:, future].any() for layer in self.weights
                ):
                    return {"causal": True, "first_query": first}
        if causal:
            raise InvalidMapsError(
                f"causal=True, but queries have weight on later keys of the {len(self.tokens_key)}; leave causal out, "
                "say first_query=, the position of the first query, or clear those weights"
            )
        return {"causal": False, "first_query": self.first_query}

    def _list_places(self, n_after: int) -> list[int]:
        """Return where the queries may begin among the keys, the likeliest first."""
        ends, labels = sorted({0, n_after}), self.tokens_query
        named = [i for i in range(n_after + 1) if self.tokens_key[i : i + len(labels)] == labels]
        return sorted(named, key=lambda place: place not in ends) or ends

    @property
    def facts(self) -> MapFacts:
        """All that is known of the weights, without them."""
        facts = object.__new__(MapFacts)
        vars(facts).update(_list_facts(self))
        return facts

    @property
    def nbytes(self) -> int:
        """Size of all weights in bytes."""
        return sum(w.nbytes for w in self.weights)

    def _repr_html_(self) -> str:
        """Show the maps in a notebook: the interactive page, in a frame of its own."""
        # IPython asks the object itself how to show it: the one call upwards, by name.
        return str(pkgutil.resolve_name("attn_viewer.web.page:render_frame")(self))

    def get_layer(self, layer: int) -> Weights:
        """Return the weights of the layer with this true number, read-only: axes ``(n_heads, n_query, n_key)``.

        Raises
        ------
        OptionError
            If that layer is not in the maps.
        """
        return self.weights[self.layers.index(choose_numbers((layer,), self.layers, "layer")[0])]

    def select(self, *, layers: Iterable[int] | None = None, heads: Iterable[int] | None = None) -> "Self":
        """Return maps with only some layers and heads, on the same memory where possible.

        Parameters
        ----------
        layers, heads : sequence of int, optional
            True numbers of the layers to keep, and of the heads to keep in every layer; left out, all.

        Raises
        ------
        OptionError
            If a layer, or a head in any kept layer, is not there.
        """
        kept = choose_numbers(layers, self.layers, "layer")
        chosen = [self.layers.index(number) for number in kept]
        weights = [self.weights[i] for i in chosen]
        numbers = [self.heads[i] for i in chosen]
        if heads is not None:
            where = [choose_numbers(heads, n, "head", f" in layer {k}") for k, n in zip(kept, numbers, strict=True)]
            places = [[n.index(h) for h in hs] for n, hs in zip(numbers, where, strict=True)]
            weights = [_take_heads(w, rows) for w, rows in zip(weights, places, strict=True)]
            numbers = where
        return dataclasses.replace(self, weights=tuple(weights), layers=kept, heads=tuple(numbers))

    def average_heads(self) -> "Self":
        """Return maps with one head a layer, the mean over its heads: axes ``(1, n_query, n_key)``, float32."""
        if self.is_mean:
            return self
        return dataclasses.replace(
            self,
            weights=tuple(w.mean(axis=0, keepdims=True, dtype=np.float32) for w in self.weights),
            heads=((0,),) * len(self.layers),
            reduction="head_mean" if self.reduction == "full" else self.reduction,
            averaged_heads=self.mean_heads,
        )


def _take_heads(weights: Weights, places: list[int]) -> Weights:
    """Return some heads of a layer, on the same memory where they stand side by side."""
    run = range(places[0], places[-1] + 1)
    return weights[run.start : run.stop] if places == [*run] else weights[places]


def require_maps(came: Any, what: str) -> AttentionMaps:
    """Return maps, or raise `InvalidMapsError`, which says what makes maps of arrays; `what` needs them."""
    if isinstance(came, AttentionMaps):
        return came
    raise InvalidMapsError(
        f"{what} needs AttentionMaps, got {type(came).__name__} {shorten(came)}; "
        "AttentionMaps.from_attentions(attentions, tokens) makes them of a model's output, arrays, tensors or lists, "
        "and capture_attention(model, tokenizer, prompt) captures them"
    )


def _read_labels(tokens: Any, name: str) -> list[str]:
    if isinstance(tokens, str) or not isinstance(tokens, Iterable):
        raise InvalidMapsError(f"{name} must be a list of str, one a token, got {shorten(tokens)}")
    return list(tokens)


def _list_facts(facts: MapFacts) -> dict[str, Any]:
    return {field.name: getattr(facts, field.name) for field in dataclasses.fields(MapFacts)}


def _freeze_layers(weights: Any) -> tuple[Weights, ...]:
    """Return read-only views of the weights of all layers, or raise for what cannot be attention weights."""
    if not isinstance(weights, Iterable) or isinstance(weights, (str, bytes, Mapping)):
        raise InvalidMapsError(f"weights must be a list with one array a layer, got {shorten(weights)}")
    layers = tuple(_freeze_layer(layer, index) for index, layer in enumerate(weights))
    if not layers:
        raise InvalidMapsError("no layers: weights is empty; pass one array (n_heads, n_query, n_key) a layer")
    return layers


def _freeze_layer(weights: Any, index: int) -> Weights:
    """Return a read-only view of one layer's weights, or raise for what cannot be attention weights."""
    expected = f"weights[{index}] must be float16 or float32 with axes (n_heads, n_query, n_key), "
    try:
        weights = np.asarray(weights)
    except Exception as reason:  # a ragged list, a tensor on a device, anything
        raise InvalidMapsError(f"{expected}got {shorten(weights)}") from reason
    if weights.ndim != 3 or weights.dtype not in (np.float16, np.float32) or 0 in weights.shape:
        raise InvalidMapsError(f"{expected}got {weights.dtype} of shape {weights.shape}")
    low, high = weights.min(), weights.max()
    if not (low > -np.inf and high < np.inf):  # NaN makes both comparisons false
        raise InvalidMapsError(f"weights[{index}] must be finite, got values from {low} to {high}")
    view: Weights = weights.view()
    view.flags.writeable = False
    return view


document_facts(AttentionMaps, "weights")
