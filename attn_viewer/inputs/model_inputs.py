"""A prompt in any form as a model takes it, with all that maps must say about its tokens."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..capture_options import PassOptions
from ..errors import OptionError, PromptError
from ..spans import Span, shift_spans
from ..tokens import label_tokens
from .forms import Encoded, Segments, check_tokenizer, encode_form, get_text_tokenizer, read_ids, read_row
from .limits import check_vocabulary
from .pictures import Crop, find_crops
from .placeholders import check_placeholders, find_cross_spans, find_spans
from .signature import find_device, find_inner, get_config, has_decoder, list_arguments, takes_argument

# How alike a misspelt name is: token_type_ids and mm_token_type_ids are less.
_NEARLY = 0.92


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one prompt on one side of a model."""

    kept: slice  # which of the model's tokens they are: padding at both ends is left out
    total: int | None = None  # tokens that the model has there; None where it makes its own of sound or pictures
    ids: tuple[int, ...] | None = None  # where these are words
    labels: tuple[str, ...] | None = None  # one a token; left out, tokens go by number
    spans: tuple[Span, ...] = ()  # patches of pictures and frames of sound among them, padding not counted
    crops: Sequence[Crop] = ()  # parts of the pictures that these lie on

    @property
    def count(self) -> int | None:
        """How many tokens are no padding, where that is known."""
        return None if self.total is None else len(range(self.total)[self.kept])

    def write_labels(self, count: int) -> tuple[str, ...]:
        """Return a label for each of `count` tokens."""
        return tuple(map(str, range(count))) if self.labels is None else self.labels


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of a batch."""

    row: int  # its number in the batch
    # "self", or "encoder" and "decoder"; beside "self" an "encoder" of pictures that the model attends to.
    sides: Mapping[str, Tokens]
    segments: Segments  # named parts of the prompt, padding not counted

    def get_sides(self, kind: str) -> tuple[Tokens, Tokens]:
        """Return the tokens of queries and of keys of a kind of attention."""
        query, key = ("decoder", "encoder") if kind == "cross" else (kind, kind)
        return self.sides.get(query) or self.sides["self"], self.sides[key]


@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """What a model is called with, and the prompts that are wanted of it."""

    arguments: dict[str, torch.Tensor]  # on the model's device, batch axis first, with padding that came
    prompts: tuple[Prompt, ...]  # one, or all of a batch
    n_rows: int = 1  # prompts in the arguments
    is_batch: bool = False  # all of a batch were asked for

    @property
    def ids(self) -> torch.Tensor:
        """The token ids of the first prompt, padding left out, axes ``(1, n_tokens)``."""
        side = next(iter(self.prompts[0].sides.values()))
        if side.ids is None:
            raise PromptError("these model inputs have no token ids (input_ids), which are needed here")
        return torch.tensor([side.ids])


def prepare_inputs(
    model: torch.nn.Module, tokenizer: Any, prompt: Any, options: PassOptions | None = None
) -> ModelInputs:
    """Turn a prompt in any form, as `capture_attention` takes it, into what a model is called with."""
    options = options or PassOptions()
    config, is_pair = get_config(model), has_decoder(model)
    if options.decoder_prompt is not None and not is_pair:
        raise OptionError(f"decoder_prompt is for encoder-decoders, and {type(model).__name__} is none; leave it out")
    wants_types = takes_argument(model, "token_type_ids") and (getattr(config, "type_vocab_size", None) or 0) > 1
    encoded = encode_form(tokenizer, prompt, wants_types=wants_types)
    side = "encoder" if is_pair else "self"
    # Labels are for a loss, which nobody asks for.
    inputs = {name: part for name, part in encoded.inputs.items() if name != "labels" and takes_argument(model, name)}
    _check_names(model, {*encoded.inputs})
    main = _find_main(model, encoded.inputs, inputs)
    n_rows = len(inputs[main])
    if "position_ids" in inputs and takes_argument(model, "attention_mask"):
        # Without a mask, and without the cache that a plain call makes, positions that fall are taken for the
        # beginnings of other prompts.
        inputs.setdefault("attention_mask", torch.ones(inputs[main].shape[:2], dtype=torch.long))
    mask = inputs.get("attention_mask")
    sides: dict[str, Callable[[int], Tokens]] = {side: partial(_read_tokens, main, inputs[main], mask, tokenizer)}
    if is_pair:
        own = options.decoder_tokenizer or tokenizer
        if "decoder_input_ids" not in inputs:
            names_start = options.decoder_tokenizer is not None
            ids = encode_decoder_prompt(model, own, options.decoder_prompt, names_start=names_start)
            inputs["decoder_input_ids"] = ids.expand(n_rows, -1) if len(ids) == 1 else ids
        elif options.decoder_prompt is not None:
            raise PromptError("the model inputs hold decoder_input_ids already; leave out decoder_prompt")
        ids, mask = inputs["decoder_input_ids"], inputs.get("decoder_attention_mask")
        if len(ids) != n_rows:
            raise PromptError(f"there are {len(ids)} decoder prompts for {n_rows} prompts; give one for each")
        sides["decoder"] = partial(_read_tokens, "input_ids", ids, mask, own)
    for name in ("input_ids", "decoder_input_ids"):
        if name in inputs:
            check_vocabulary(model, inputs[name], is_decoder=is_pair and name == "decoder_input_ids")
    check_placeholders(config, inputs)
    spans = {side: find_spans(config, inputs, lambda ids: label_tokens(ids, get_text_tokenizer(tokenizer)))}
    if found := find_cross_spans(config, inputs):
        spans["encoder"] = found
    prompts = tuple(_read_prompt(row, sides, spans, encoded) for row in read_row(options.batch_index, n_rows))
    device = find_device(model)
    arguments = {name: _move(part, device, model) for name, part in inputs.items()}
    return ModelInputs(arguments, prompts, n_rows, options.batch_index == "all")


def _read_prompt(
    row: int,
    sides: Mapping[str, Callable[[int], Tokens]],
    spans: Mapping[str, Sequence[tuple[Span, ...]]],
    encoded: Encoded,
) -> Prompt:
    """Return a prompt of a batch: its tokens on every side, what pictures or sound stand there, and its segments."""
    read = {name: read_tokens(row) for name, read_tokens in sides.items()}
    kept = next(iter(read.values())).kept
    for name, found in spans.items():
        if found:
            own = read.get(name, Tokens(slice(0, None)))
            crops = [] if encoded.show is None else find_crops(found[row], encoded.inputs, encoded.show)
            read[name] = dataclasses.replace(own, spans=shift_spans(found[row], own.kept.start, own.count), crops=crops)
    return Prompt(row, read, _crop(encoded.find_segments(row), kept))


def _read_tokens(name: str, batch: torch.Tensor, mask: torch.Tensor | None, tokenizer: Any, row: int) -> Tokens:
    """Return the tokens of a row of a batch, which goes in by a name."""
    if name not in ("input_ids", "inputs_embeds"):
        return Tokens(slice(0, None))
    n_tokens = batch.shape[1]
    kept = slice(0, n_tokens)
    if mask is not None and mask.shape == batch.shape[:2]:
        seen = mask[row].nonzero()[:, 0]
        kept = slice(int(seen[0]), int(seen[-1]) + 1)
    if name == "inputs_embeds":
        return Tokens(kept, n_tokens)
    ids = tuple(batch[row, kept].tolist())
    return Tokens(kept, n_tokens, ids, tuple(label_tokens(ids, get_text_tokenizer(tokenizer))))


def _find_main(model: torch.nn.Module, came: Mapping[str, Any], taken: Mapping[str, torch.Tensor]) -> str:
    """Return the name of the argument that holds the prompt itself."""
    if {"input_ids", "inputs_embeds"} <= taken.keys():
        raise PromptError("model inputs hold input_ids or inputs_embeds, not both")
    own = getattr(type(find_inner(model)), "main_input_name", "input_ids")
    names = ("input_ids", "inputs_embeds", own, *(name for name in taken if taken[name].is_floating_point()))
    main = next((name for name in names if name in taken and taken[name].ndim >= 2), None)
    if main is None:
        raise PromptError(
            f"{type(model).__name__} takes {own}, and the prompt gives {', '.join(came) or 'nothing'}; "
            "use the tokenizer or processor that belongs to the model"
        )
    return main


def _check_names(model: torch.nn.Module, given: set[str]) -> None:
    """Refuse a misspelt name: tokenizers give more than a model takes, but nothing that is nearly one of its names."""
    taken = list_arguments(model)
    for name in sorted(given - taken):
        near = difflib.get_close_matches(name, taken - given, 1, _NEARLY)
        if near:
            raise PromptError(f"{type(model).__name__} takes no {name!r}; did you mean {near[0]!r}?")


def _crop(segments: Segments, kept: slice) -> Segments:
    """Return segments within the tokens that are kept, counted from the first of these."""
    start, stop = kept.start, math.inf if kept.stop is None else kept.stop
    inside = ((name, max(first, start), min(last, stop)) for name, first, last in segments)
    return tuple((name, first - start, int(last) - start) for name, first, last in inside if first < last)


def _move(part: torch.Tensor, device: torch.device, model: torch.nn.Module) -> torch.Tensor:
    """Bring a tensor to the model's device; numbers with a fraction also to its type."""
    if not part.is_floating_point():
        return part.to(device)
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), part.dtype)
    return part.to(device, own)


def encode_decoder_prompt(
    model: torch.nn.Module, tokenizer: Any, prompt: Any, *, names_start: bool = False
) -> torch.Tensor:
    """Turn what an encoder-decoder has said so far into token ids, axes ``(batch, n_tokens)``.

    Token ids are taken as they are; before text goes the token with which the decoder starts, which also stands in for
    nothing. Where the tokenizer is the decoder's own (`names_start`), it knows that token if the model does not.
    """
    if prompt is not None and not isinstance(prompt, str):
        return read_ids(prompt)
    own = get_text_tokenizer(tokenizer)
    if prompt:
        check_tokenizer(tokenizer)
    names = ("decoder_start_token_id", "bos_token_id")
    owners = (get_config(model), getattr(find_inner(model), "generation_config", None))
    starts = [getattr(owner, name, None) for name in names for owner in owners]
    if names_start:
        starts += [getattr(own, "bos_token_id", None), getattr(own, "cls_token_id", None)]
    start = next((token for token in starts if token is not None), None)
    if start is None:
        raise PromptError("decoder_prompt needs a model that names its start token; pass token ids")
    given = {"text" if names_start else "text_target": prompt}
    text = own(**given, add_special_tokens=False, verbose=False)["input_ids"] if prompt else ()
    return torch.tensor([[start, *text]])
