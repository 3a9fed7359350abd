"""Attention weights in the forms that other libraries hand out, brought to one array a layer."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidMapsError, shorten

Array = npt.NDArray[Any]

# Where the outputs of transformers keep weights, by kind.
_FIELDS = {
    "attentions": "self",
    "encoder_attentions": "encoder",
    "decoder_attentions": "decoder",
    "cross_attentions": "cross",
}
# Keys of TransformerLens, as its caches and the files of pattern-lens have them.
_HOOK = re.compile(r"(blocks|encoder|decoder)\.(\d{1,5})\.(attn|cross_attn)\.hook_pattern")
# How far a row may sum from 1: what rounding to bfloat16 can add up to.
SUM_ERROR = 0.02


@dataclasses.dataclass(frozen=True)
class FoundWeights:
    """Weights, per layer one float array of axes ``(n_heads, n_query, n_key)``, and what their container says of them.

    None is what it does not say; `prompt_length` are the tokens that went in before generation began.
    """

    weights: tuple[Array, ...]
    layers: tuple[int, ...] | None = None  # true numbers
    kind: str | None = None
    prompt_length: int | None = None


def find_weights(attentions: Any, *, kind: str | None = None, batch_index: int | None = None) -> FoundWeights:
    """Find the weights of one prompt in what a library hands out; `AttentionMaps.from_attentions` says in which forms.

    Raises `InvalidMapsError` if there are none, of several prompts or kinds without a choice, or they are ragged.
    """
    if isinstance(attentions, (str, bytes)) or attentions is None:
        raise _refuse(f"got {shorten(attentions)}")
    if hasattr(attentions, "keys") and hasattr(attentions, "__getitem__"):
        return _find_in_mapping(attentions, kind, batch_index)
    ranks = [*_list_ranks(attentions)]
    if not isinstance(attentions, (list, tuple)) or ranks[-1] < 2:  # one array, also as lists of numbers
        return FoundWeights(_read_array(attentions, batch_index))
    if ranks == [2]:
        heads = [read_weights(head) for head in attentions]
        if len(shapes := {head.shape for head in heads}) > 1:
            raise InvalidMapsError(f"heads must be of one shape, got {shorten(sorted(shapes))}")
        return FoundWeights((np.stack(heads),))
    if ranks in ([3], [4]):
        return FoundWeights(tuple(_drop_batch(read_weights(layer), batch_index) for layer in attentions))
    if len(ranks) == 2 and ranks[1] == 4:
        return _join_steps(attentions, batch_index)
    raise _refuse(f"got {shorten(attentions)}")


def check_rows(weights: Sequence[Array], *, has_sinks: bool) -> None:
    """Raise `InvalidMapsError` where the weights of a row do not sum to 1, or with learned sinks to more.

    Rows of zeros are padding. Axes of each layer are ``(n_heads, n_query, n_key)``.
    """
    for number, layer in enumerate(weights):
        sums = layer.sum(-1, dtype=np.float64)
        wrong = (sums > 1 + SUM_ERROR) | ((sums < 1 - SUM_ERROR) & (sums != 0) & (not has_sinks))
        if wrong.any():
            head, row = np.argwhere(wrong)[0]
            raise InvalidMapsError(
                f"the weights of a query must sum to 1, but row {row} of array {number}, head {head} sums to "
                f"{sums[head, row]:.4g}; dropout is switched off by model.eval(), scores become weights by a softmax, "
                "and what is no attention weight goes into AttentionMaps.from_attentions with signed=True, "
                "weighting=… or has_sinks=True"
            )


def _refuse(came: str) -> InvalidMapsError:
    return InvalidMapsError(
        "attentions must be what a model handed out: its output, a tuple with one array a layer, or one array of axes "
        f"(n_heads, n_query, n_key) or (n_query, n_key); {came}"
    )


def _find_in_mapping(attentions: Any, kind: str | None, batch_index: int | None) -> FoundWeights:
    """Find weights by name: fields of an output, or keys of a cache."""
    names = [name for name in attentions.keys() if isinstance(name, str)]  # noqa: SIM118 - a cache may be no mapping
    if getattr(attentions, "beam_indices", None) is not None:
        raise InvalidMapsError(
            "steps of a beam search belong to beams that were dropped; capture the chosen text with capture_attention, "
            "or generate with num_beams=1"
        )
    held = {_FIELDS[name]: attentions[name] for name in names if name in _FIELDS}
    # A model without cross attention says None or an empty tuple.
    fields = {found: layers for found, layers in held.items() if layers is not None and len(layers)}
    hooks: dict[str, dict[int, Any]] = {}
    for match in filter(None, map(_HOOK.fullmatch, names)):
        place, number, module = match.groups()
        found = "cross" if module == "cross_attn" else {"blocks": "self"}.get(place, place)
        hooks.setdefault(found, {})[int(number)] = attentions[match[0]]
    kinds = [*fields, *hooks]
    if not kinds:
        raise _refuse(
            f"got a {type(attentions).__name__} with {shorten(names)}; call the model with output_attentions=True, or "
            "cache hook_pattern"
        )
    if kind is None and len(kinds) > 1:
        raise InvalidMapsError(f"there are attentions of several kinds; say kind={' or '.join(map(repr, kinds))}")
    wanted = kinds[0] if kind is None or (len(kinds) == 1 and kinds[0] == "self") else kind
    if wanted not in kinds:
        raise InvalidMapsError(f"there are no attentions of kind {shorten(wanted)}; there are {', '.join(kinds)}")
    if wanted in fields:
        return dataclasses.replace(find_weights(fields[wanted], batch_index=batch_index), kind=kind or wanted)
    layers = dict(sorted(hooks[wanted].items()))
    weights = tuple(_drop_batch(read_weights(layer), batch_index) for layer in layers.values())
    return FoundWeights(weights, tuple(layers), kind or wanted)


def _list_ranks(attentions: Any) -> Iterable[int]:
    """Yield how many axes the arrays have inside of one list, of two, …; 0 alone where numbers are inside."""
    inner = attentions
    while isinstance(inner, (list, tuple)):
        if not inner:
            raise _refuse("got an empty list")
        inner = inner[0]
        yield getattr(inner, "ndim", 0)


def read_weights(array: Any) -> Array:
    """Return an array of any library as float16 or float32, or raise `InvalidMapsError`: ragged, sparse, no numbers."""
    try:
        if hasattr(array, "detach"):  # a torch tensor, perhaps with gradients, on a device or in bfloat16
            array = array.detach().cpu()
            array = (array if str(array.dtype) in ("torch.float16", "torch.float32") else array.float()).numpy()
        found: Array = np.asarray(array)
        if found.dtype == np.float16:
            return found
        if found.dtype.kind not in "fiub":
            raise TypeError(f"it holds {found.dtype}")
        return found.astype(np.float32)
    except Exception as reason:  # a ragged list, a sparse tensor, anything
        raise _refuse(f"got {shorten(array)} ({shorten(str(reason))})") from reason


def _read_array(array: Any, batch_index: int | None) -> tuple[Array, ...]:
    """Return the layers of one array, which has two to five axes."""
    found = read_weights(array)
    if found.ndim == 2:
        return (found[None],)
    if found.ndim == 3:
        return (found,)
    if found.ndim == 4:
        if len(found) > 1 and batch_index is None:
            raise InvalidMapsError(
                f"an array of shape {found.shape} may be layers or a batch; pass list(array) for layers, or say "
                "batch_index= for one layer of a batch"
            )
        return (_drop_batch(found, batch_index),)
    if found.ndim == 5:
        return tuple(_drop_batch(layer, batch_index) for layer in found)
    raise _refuse(f"got an array of shape {found.shape}")


def _drop_batch(layer: Array, batch_index: int | None) -> Array:
    """Return the weights of one prompt: axes ``(n_heads, n_query, n_key)``."""
    if layer.ndim != 4:
        return layer
    if batch_index is None and len(layer) != 1:
        raise InvalidMapsError(f"the batch holds {len(layer)} prompts; say which with batch_index=")
    index = batch_index or 0
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(layer):
        raise InvalidMapsError(f"batch_index must be 0 to {len(layer) - 1}, got {shorten(batch_index)}")
    chosen: Array = layer[index]
    return chosen


def _join_steps(steps: Sequence[Sequence[Any]], batch_index: int | None) -> FoundWeights:
    """Join the steps of a generation: the rows of the prompt, then of each step; keys still to come have weight 0."""
    if len({len(step) for step in steps}) > 1:
        raise InvalidMapsError(f"every step must have one array a layer, got {shorten([len(s) for s in steps])}")
    by_layer = [
        [_drop_batch(read_weights(layer), batch_index) for layer in column] for column in zip(*steps, strict=True)
    ]
    n_keys = [layer.shape[2] for layer in by_layer[0]]
    is_cross = len(steps) > 1 and len(set(n_keys)) == 1 and all(len(layer[0]) == 1 for layer in by_layer[0])
    if not is_cross and any(later <= earlier for earlier, later in itertools.pairwise(n_keys)):
        raise InvalidMapsError(
            f"the keys of a generation must grow with each step, got {shorten(n_keys)}; a static or sliding cache "
            "hides which tokens they are: use capture_generation"
        )
    weights = tuple(_join_layer(layers, is_cross=is_cross) for layers in by_layer)
    return FoundWeights(weights, prompt_length=None if is_cross else n_keys[0])


def _join_layer(steps: Sequence[Array], *, is_cross: bool) -> Array:
    n_key = steps[-1].shape[2]
    rows, seen = [], 0
    for step in steps:
        # With a cache a step has its new queries alone, without one all of them again.
        new = step.shape[1] if is_cross else step.shape[2] - seen
        if not 0 < new <= step.shape[1]:
            raise InvalidMapsError(
                f"a step of {step.shape[1]} queries × {step.shape[2]} keys cannot follow {seen} tokens; pass the "
                "attentions as generate returned them"
            )
        seen = step.shape[2]
        rows.append(np.pad(step[:, -new:], ((0, 0), (0, 0), (0, n_key - seen))))
    if len({(row.shape[0], row.dtype) for row in rows}) > 1:
        raise InvalidMapsError(f"steps must have the same heads, got {shorten([row.shape[0] for row in rows])}")
    return np.concatenate(rows, axis=1)
