"""The forms that people have a prompt in: text, a pair of texts, chat messages, token ids, model inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import PromptError, describe_error
from ..facts import PAIR
from .chat import encode_chat, find_turns
from .pictures import Turn, turn_pictures

if TYPE_CHECKING:
    import torch

Segments = Sequence[tuple[str, int, int]]
_FORMS = (
    "text, a pair of texts (a, b), chat messages, token ids, or model inputs as a tokenizer or processor returned them"
)
# What versions of transformers call the keys and values of earlier tokens.
CACHES = ("past_key_values", "cache")


class Encoded(NamedTuple):
    """A prompt as a tokenizer made it, or as it came."""

    inputs: dict[str, torch.Tensor]  # arguments of a forward pass, batch axis first
    find_segments: Callable[[int], Segments]  # (name, start, stop) of the parts of a row, padding counted
    show: Callable[[Turn], Mapping[str, torch.Tensor]] | None = None  # the same prompt with other pictures


def get_text_tokenizer(tokenizer: Any) -> Any:
    """Return the tokenizer of a processor, or what came if it is one itself; None where there is none."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    return inner if callable(getattr(inner, "convert_ids_to_tokens", None)) else None


def encode_form(tokenizer: Any, prompt: Any, *, wants_types: bool = False) -> Encoded:
    """Turn a prompt in any form into tensors.

    With `wants_types`, the model was trained with segment ids, which some tokenizers give only when asked.
    """
    if isinstance(prompt, Mapping):
        inputs = _read_inputs(prompt)
        return Encoded(inputs, lambda row: _find_sentences(prompt, inputs, row))
    is_list = isinstance(prompt, (list, tuple))
    if prompt is None or ((is_list or isinstance(prompt, str)) and len(prompt) == 0):
        raise PromptError(f"the prompt must be {_FORMS}, got nothing; give at least one token")
    if hasattr(prompt, "ndim") or (is_list and not any(isinstance(part, (str, Mapping)) for part in prompt)):
        return Encoded({"input_ids": read_ids(prompt)}, lambda row: ())
    if isinstance(prompt, str):
        check_tokenizer(tokenizer)
        return Encoded(_run_tokenizer(tokenizer, prompt), lambda row: ())
    if is_list and any(isinstance(part, Mapping) for part in prompt):
        check_tokenizer(tokenizer)
        messages = turn_pictures(prompt)
        ids = (inputs := encode_chat(tokenizer, messages))["input_ids"][0].tolist()
        return Encoded(
            inputs,
            lambda row: find_turns(tokenizer, messages, ids),
            lambda turn: encode_chat(tokenizer, turn_pictures(messages, turn)),
        )
    if isinstance(prompt, tuple) and len(prompt) == 2 and all(isinstance(part, str) for part in prompt):
        check_tokenizer(tokenizer)
        if not all(prompt):
            raise PromptError(f"a pair is two texts that are not empty, got {prompt!r:.80}")
        types = {"return_token_type_ids": True} if wants_types else {}
        encoded = _run_tokenizer(get_text_tokenizer(tokenizer), *prompt, **types)
        pair = dict(encoded)
        return Encoded(pair, lambda row: _find_sentences(encoded, pair, row))
    what = f"a {type(prompt).__name__}"
    if is_list:
        what += f" with a {type(next(part for part in prompt if isinstance(part, str))).__name__} in it"
    raise PromptError(
        f"the prompt must be {_FORMS}, got {what}; two texts that belong together are a tuple (a, b), "
        "several prompts go in one by one, token ids are whole numbers"
    )


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse words without a tokenizer, or with what is none."""
    if tokenizer is None:
        raise PromptError("a prompt in words needs a tokenizer; pass tokenizer= or a list of token ids")
    if get_text_tokenizer(tokenizer) is None:
        raise PromptError(f"{type(tokenizer).__name__} has no tokenizer for words; pass tokenizer= or model inputs")


def _run_tokenizer(tokenizer: Any, *texts: str, **options: Any) -> Any:
    """Call a tokenizer, or a processor, on one text or a pair."""
    try:
        if get_text_tokenizer(tokenizer) is not tokenizer:
            return dict(tokenizer(text=texts[0], return_tensors="pt"))
        return tokenizer(*texts, return_tensors="pt", verbose=False, **options)
    except Exception as error:  # of as many types as there are tokenizers
        raise PromptError(f"{type(tokenizer).__name__} refuses this prompt: {describe_error(error)}") from error


def _find_sentences(encoded: Any, inputs: Mapping[str, torch.Tensor], row: int) -> Segments:
    """Find both texts of a pair: by what the tokenizer says of each token, or by the segment ids."""
    mask, types = inputs.get("attention_mask"), inputs.get("token_type_ids")
    is_fast = getattr(encoded, "is_fast", False)
    numbers = encoded.sequence_ids(row) if is_fast else [] if types is None else types[row].tolist()
    if 1 not in numbers or not {0, 1, None}.issuperset(numbers):
        return ()
    seen = [True] * len(numbers) if mask is None or mask.ndim != 2 else mask[row].bool().tolist()
    first, stop = seen.index(True), len(numbers) - seen[::-1].index(True)
    second = next((i for i in range(first, stop) if numbers[i] == 1), stop)
    if not first < second < stop or 0 in numbers[second:stop]:
        return ()
    return ((PAIR[0], first, second), (PAIR[1], second, stop))


def read_ids(prompt: Any) -> torch.Tensor:
    """Read token ids of axes ``(n,)`` or ``(batch, n)`` as int64 of axes ``(batch, n)``."""
    ids = _read_whole("token ids", read_tensor("token ids", prompt))
    if ids.ndim not in (1, 2):
        raise PromptError(f"token ids have axes (n,) or (batch, n), got shape {tuple(ids.shape)}")
    if ids.numel() == 0:
        raise PromptError("the prompt has no tokens; give at least one token")
    return ids.reshape(-1, ids.shape[-1])


def _read_whole(name: str, numbers: torch.Tensor) -> torch.Tensor:
    """Return whole numbers as int64."""
    import torch

    if numbers.dtype.is_floating_point or numbers.dtype.is_complex or numbers.dtype == torch.bool:
        raise PromptError(f"{name} are whole numbers, got {numbers.dtype}; convert them: .long()")
    return numbers.long()


def read_tensor(name: str, value: Any) -> torch.Tensor:
    """Turn a tensor, array or list of numbers, however deep, into a tensor whose numbers are there, where it lies."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise PromptError(
                f"{name} lie on the device 'meta', where tensors have no numbers; bring them to the model's"
            )
        if value.layout != torch.strided:
            raise PromptError(f"{name} lie in a tensor of layout {value.layout}; convert it: to_dense()")
        return value.detach()
    if isinstance(value, (list, tuple)):
        value = [part.tolist() if hasattr(part, "tolist") else part for part in value]
    try:
        array = np.asarray(value)
        if array.dtype.kind == "u":
            array = array.astype(np.int64)
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array.copy())
        came = f"a {type(value).__name__} of {array.dtype}"
    except (ValueError, TypeError, OverflowError):  # rows of different lengths, numbers past 64 bits
        came = f"a ragged {type(value).__name__}, or numbers that are too large"
    raise PromptError(f"{name} must be whole numbers in a list, array or tensor of even rows, got {came}")


def _read_inputs(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Read what a tokenizer or processor returned, batch axis first."""
    if {"role", "content"} <= inputs.keys():
        raise PromptError("a chat prompt is a list of messages; put this one into a list")
    if not all(isinstance(name, str) for name in inputs) or not inputs:
        raise PromptError(f"model inputs go by their names, such as input_ids; got {list(inputs)!r:.80}")
    ids = None if inputs.get("input_ids") is None else read_ids(inputs["input_ids"])
    tensors = {} if ids is None else {"input_ids": ids}
    embeds = inputs.get("inputs_embeds")
    if ids is None and embeds is not None:
        tensors["inputs_embeds"] = embeds = read_tensor("inputs_embeds", embeds)
        if embeds.ndim not in (2, 3) or 0 in embeds.shape or not embeds.dtype.is_floating_point:
            raise PromptError(
                f"inputs_embeds are numbers of axes (batch, n, d), got {embeds.dtype} of shape {tuple(embeds.shape)}"
            )
        tensors["inputs_embeds"] = embeds.reshape(-1, *embeds.shape[-2:])
    for name, value in inputs.items():
        if value is not None and name in (*CACHES, "encoder_outputs"):
            raise PromptError(
                f"{name} comes from an earlier pass, whose tokens nobody can tell here; give all tokens as one prompt, "
                "or run both passes in capture_attention_calls"
            )
        if value is not None and name not in tensors:
            tensors[name] = read_ids(value) if name == "decoder_input_ids" else read_tensor(name, value)
    if ids is not None or embeds is not None:
        _check_lengths(tensors, next(iter(tensors.values())).shape[:2])
    return tensors


def _check_lengths(tensors: dict[str, torch.Tensor], shape: Sequence[int]) -> None:
    """Check what goes with the tokens one by one, and give it the batch axis."""
    for name in ("attention_mask", "token_type_ids", "position_ids"):
        part = tensors.get(name)
        if part is None:
            continue
        part = part if name == "attention_mask" else _read_whole(name, part)
        tensors[name] = part = part[None] if part.ndim == 1 else part
        is_wide = name != "token_type_ids" and part.ndim > 2  # masks by query and key, positions of several axes
        is_wide = is_wide or (name == "position_ids" and len(part) == 1)
        if part.shape[-1] != shape[1] or (not is_wide and part.shape != tuple(shape)):
            raise PromptError(
                f"{name} is of shape {tuple(part.shape)}, the tokens are {shape[0]} × {shape[1]}; "
                "give the model inputs as one tokenizer or processor call returned them"
            )
    mask = tensors.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise PromptError("attention_mask must hold 1 for tokens and 0 for padding; got other numbers")
        if not bool(mask.any(-1).all()):
            raise PromptError("attention_mask leaves no token of a prompt; give at least one token")


def read_row(batch_index: Any, n_rows: int) -> list[int]:
    """Return the numbers of the rows of a batch that are wanted; negative ones count from the end."""
    if batch_index is None:
        if n_rows > 1:
            raise PromptError(
                f"these are {n_rows} prompts; choose one with batch_index=0 to {n_rows - 1}, or all with 'all'"
            )
        return [0]
    if isinstance(batch_index, str):
        if batch_index != "all":
            raise PromptError(f"batch_index must be a number or 'all', got {batch_index!r:.80}")
        return list(range(n_rows))
    try:
        row = operator.index(batch_index)
    except TypeError as error:
        raise PromptError(f"batch_index must be a whole number or 'all', got {batch_index!r:.80}") from error
    if isinstance(batch_index, bool) or not -n_rows <= row < n_rows:
        raise PromptError(f"there is no prompt {batch_index!r} in a batch of {n_rows}")
    return [row % n_rows]
