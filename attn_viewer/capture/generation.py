"""Attention over a prompt and what the model says to it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ..declarations import takes_options
from ..errors import OptionError, PromptError
from ..inputs.limits import explain_refusal
from ..inputs.model_inputs import ModelInputs, prepare_inputs
from ..inputs.rows import append_tokens, replace_decoder_tokens, take_prompt
from ..inputs.signature import call_model, find_inner, get_config
from ..options import GenerationOptions
from .guard import borrow_model
from .prefill import capture_inputs, choose_kind


@takes_options(GenerationOptions)
def capture_generation(
    model: torch.nn.Module,
    tokenizer: Any,
    prompt: Any,
    *,
    model_id: str | None = None,
    options: GenerationOptions,
) -> Any:
    """Generate text and capture the attention over prompt and completion.

    The model generates on its fast attention with its key-value cache; then one pass over all tokens together, with
    the same causal mask, gives the weights that each new token had when it was chosen. Padding is left out before.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model that can generate, or a wrapper around one.
    tokenizer : transformers tokenizer or processor or None
        Its tokenizer.
    prompt : str, tuple of str, list of dict, token ids or mapping
        As `capture_attention` takes it.
    model_id : str, optional
        As `capture_attention` takes it.
    **options
        As `GenerationOptions` declares them.

    Returns
    -------
    AttentionMaps, or list of AttentionMaps for ``batch_index="all"``
        Over prompt and completion; `prompt_length` tells where the completion begins. For an encoder-decoder the
        completion is the decoder's side, and the kind is ``"cross"`` unless ``kind=`` says otherwise.

    Raises
    ------
    OptionError
        If the model cannot generate or there is no `max_new_tokens`.
    PromptError
        If the prompt cannot be used, or prompt and completion are longer than the model's positions.
    """
    if options.max_new_tokens is None:
        raise OptionError("capture_generation needs max_new_tokens, the most tokens to generate")
    has_decoder = bool(getattr(get_config(model), "is_encoder_decoder", False))
    kind = choose_kind(model, options.kind or ("cross" if has_decoder else None))
    batch = prepare_inputs(
        model,
        tokenizer,
        prompt,
        decoder_prompt=options.decoder_prompt,
        decoder_tokenizer=options.decoder_tokenizer,
        batch_index=options.batch_index,
    )
    has_begun = options.decoder_prompt is not None or (isinstance(prompt, Mapping) and "decoder_input_ids" in prompt)
    arguments = {"max_new_tokens": options.max_new_tokens, **(options.generate_options or {})}
    maps = []
    for one in batch.prompts:
        inputs = take_prompt(batch, one)
        side = inputs.prompts[0].sides["decoder" if has_decoder else "self"]
        ids = _generate(model, inputs, arguments, has_begun)
        if has_decoder:
            whole = replace_decoder_tokens(inputs, options.decoder_tokenizer or tokenizer, ids)
        else:
            new = ids[:, side.total :] if "input_ids" in inputs.arguments else ids
            whole = append_tokens(model, tokenizer, inputs, new)
        found = capture_inputs(model, whole, options, kind=kind, model_id=model_id)[0]
        n_prompt = None if kind in ("encoder", "cross") else side.total
        maps.append(found if n_prompt is None else dataclasses.replace(found, prompt_length=n_prompt))
    return maps if batch.is_batch else maps[0]


def _generate(model: torch.nn.Module, inputs: ModelInputs, options: dict[str, Any], has_begun: bool) -> torch.Tensor:
    """Return the token ids that `generate` gives, axes ``(1, n_tokens)``; the model is left as it was found."""
    arguments: dict[str, Any] = dict(inputs.arguments)
    if "attention_mask" in arguments and arguments["attention_mask"].ndim > 2:
        raise PromptError("a mask by query and key says nothing of what is generated; give one of axes (1, n)")
    if "decoder_input_ids" in arguments:
        # Left alone, the model begins as it was trained to; what is given is taken as it is.
        begun = arguments.pop("decoder_input_ids")
        if has_begun:
            arguments |= {"decoder_input_ids": begun, "decoder_start_token_id": int(begun[0, 0])}
    generator = _find_generator(model, inputs)
    settings = generator.generation_config
    if settings.pad_token_id is None:  # never used for one prompt, but missed loudly
        end = settings.eos_token_id
        options = {"pad_token_id": (end[0] if isinstance(end, list) else end) or 0} | options
    before = settings.to_dict()
    n_tokens = max(side.total or 0 for side in inputs.prompts[0].sides.values()) + options["max_new_tokens"]
    with explain_refusal(model, inputs.arguments, n_tokens), borrow_model(model, keeps_attention=True):
        try:
            output = generator.generate(**arguments, **options)
        finally:
            settings.update(**before)
    ids: torch.Tensor = getattr(output, "sequences", output)
    return ids[:1]


def _find_generator(model: torch.nn.Module, inputs: ModelInputs) -> Any:
    """Return what generates: the model, or the one inside of a wrapper that says the same and cannot."""
    if callable(getattr(model, "generate", None)):
        generator = model
    else:
        generator = find_inner(model)
        if generator is not model and not _are_alike(model, generator, inputs.arguments):
            raise OptionError(f"{type(model).__name__} has no generate, and says other things than the model inside")
    if not callable(getattr(generator, "generate", None)) or not getattr(generator, "can_generate", bool)():
        raise OptionError(f"{type(model).__name__} cannot generate; load a language model with its head")
    return generator


def _are_alike(model: torch.nn.Module, inner: torch.nn.Module, arguments: Mapping[str, Any]) -> bool:
    with borrow_model(model):
        outputs = (call_model(one, arguments) for one in (model, inner))
        one, other = (getattr(output, "logits", output) for output in outputs)  # some hand out logits alone
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
