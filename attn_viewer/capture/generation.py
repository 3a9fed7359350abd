"""Attention over a prompt and what the model says to it."""

import contextlib
import dataclasses
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from ..capture_options import GenerationOptions
from ..declarations import takes_options
from ..errors import AttnViewerError, CaptureError, OptionError, PromptError, describe_error, shorten
from ..inputs.forms import CACHES, get_text_tokenizer
from ..inputs.limits import explain_refusal, is_in_libraries
from ..inputs.model_inputs import ModelInputs, prepare_inputs
from ..inputs.rows import append_tokens, replace_decoder_tokens, take_prompt
from ..inputs.signature import call_model, find_inner, has_decoder, list_arguments
from ..maps import AttentionMaps
from ..tokens import label_tokens
from .guard import borrow_model
from .prefill import capture_inputs, get_model_id, label_stack, watch_attention
from .steps import StepRecorder, StepReporter
from .targets import choose_kind


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

    The model generates on its fast attention with its key-value cache; then one pass over all tokens together, with the
    same causal mask, gives the weights that each new token had when it was chosen. Padding is left out before. With
    ``when="steps"`` there is no second pass: the weights are those of each step, of the beam that won and without
    candidates that were rejected. The last token, which nobody saw, is then left out.

    Parameters
    ----------
    model
        A transformers model that can generate, or a wrapper around one.
    tokenizer, prompt, model_id
        As `capture_attention` takes them.
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
        If the model cannot generate, or not with these `generate_options`, or there is no `max_new_tokens`.
    PromptError
        If the prompt cannot be used, or prompt and completion are longer than the model's positions.
    """
    if options.max_new_tokens is None:
        raise OptionError("capture_generation needs max_new_tokens, the most tokens to generate")
    is_pair = has_decoder(model)
    kind = choose_kind(model, options.kind or ("cross" if is_pair else None))
    batch = prepare_inputs(model, tokenizer, prompt, options)
    has_begun = options.decoder_prompt is not None or (isinstance(prompt, Mapping) and "decoder_input_ids" in prompt)
    given = dict(options.generate_options or {})
    _check_given(model, given)
    arguments = {"max_new_tokens": options.max_new_tokens, **given}
    maps = []
    for one in batch.prompts:
        inputs = take_prompt(batch, one)
        side = inputs.prompts[0].sides["decoder" if is_pair else "self"]
        _check_cache(model, inputs, given, (side.total or 0) if options.when == "steps" else 0)
        if options.when == "steps":
            found = _capture_steps(model, tokenizer, inputs, options, (kind, arguments, has_begun, model_id))
            maps.append(found)
            continue
        ids = _generate(model, inputs, arguments, has_begun).sequences[:1]
        if is_pair:
            whole = replace_decoder_tokens(inputs, options.decoder_tokenizer or tokenizer, ids)
        else:
            new = ids[:, side.total :] if "input_ids" in inputs.arguments else ids
            whole = append_tokens(model, tokenizer, inputs, new)
        found = capture_inputs(model, whole, options, kind=kind, model_id=model_id)[0]
        maps.append(_note_prompt(found, kind, side.total))
        _check_order(maps[-1])
    return maps if batch.is_batch else maps[0]


def _check_given(model: torch.nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse what would change prompt or length behind the back of what is shown of them."""
    import transformers

    settings = {*vars(transformers.GenerationConfig()), *CACHES} - {"max_new_tokens"}
    if twice := sorted({*given} & {*list_arguments(model), "inputs", "max_new_tokens"} - settings):
        raise OptionError(
            f"generate_options hold {shorten(twice)}; what the model reads goes into the prompt (as model inputs), "
            "how much it writes into max_new_tokens="
        )


def _check_cache(model: torch.nn.Module, inputs: ModelInputs, given: Mapping[str, Any], n_prompt: int) -> None:
    """Refuse a cache of other tokens than the first of the prompt, of which steps show the rest.

    A second pass (`n_prompt` is 0) shows none of it.
    """
    for name in CACHES:
        n_past = int(getattr(given.get(name), "get_seq_length", int)())
        if n_past > max(n_prompt - 1, 0):
            raise OptionError(
                f"{name} in generate_options holds {n_past:,} tokens already, whose attention cannot be shown; "
                "leave it out, or pass when='steps' with a prompt that begins with these tokens and goes on"
            )
        if n_past and not _holds_prompt(model, inputs, given[name], n_past):
            raise OptionError(
                f"{name} in generate_options does not hold the keys of the first {n_past:,} tokens of the prompt, or "
                "keeps them in a form that cannot be compared (quantised, with states, of an encoder-decoder); leave "
                "it out, or fill a DynamicCache by running the model on these tokens"
            )


def _holds_prompt(model: torch.nn.Module, inputs: ModelInputs, cache: Any, n_past: int) -> bool:
    """Tell whether the keys of a cache are those that a pass over the prompt makes of its first tokens."""
    import transformers

    whole = transformers.DynamicCache()
    with borrow_model(model), explain_refusal(model, inputs.arguments):
        call_model(model, {**inputs.arguments, "past_key_values": whole, "use_cache": True})
    pairs = zip_longest(*([getattr(layer, "keys", None) for layer in getattr(c, "layers", ())] for c in (cache, whole)))
    return all(_are_keys(held, keys, n_past) for held, keys in pairs)


def _are_keys(held: Any, keys: Any, n_past: int) -> bool:
    """Tell whether a layer of a cache holds the last of the first `n_past` keys, up to rounding."""
    if not isinstance(held, torch.Tensor) or not isinstance(keys, torch.Tensor) or not held.shape[-2] > 0:
        return False
    held = held[..., :n_past, :].to(keys.device)  # a static cache has room for more
    keys = keys[..., n_past - held.shape[-2] : n_past, :]  # a sliding one has dropped the first
    if held.shape != keys.shape or held.dtype != keys.dtype:
        return False
    off = (held.float() - keys.float()).norm(dim=-1) / keys.float().norm(dim=-1).clamp(min=1e-6)
    return bool((off < (1e-3 if keys.dtype == torch.float32 else 0.05)).all())


def _note_prompt(maps: AttentionMaps, kind: str, n_prompt: int | None) -> AttentionMaps:
    if kind in ("encoder", "cross") or n_prompt is None:
        return maps
    return dataclasses.replace(maps, prompt_length=n_prompt)


def _check_order(maps: AttentionMaps) -> None:
    """Refuse weights of one pass in which tokens see others that were generated after them."""
    if maps.kind in ("encoder", "cross") or maps.causal:
        return
    height, width = maps.cell
    lasts = maps.first_query + np.arange(1, maps.shape[0] + 1) * height - 1
    hidden = np.arange(maps.shape[1]) * width > np.maximum(lasts, maps.prompt_length - 1)[:, None]
    if any(layer[:, hidden].any() for layer in maps.weights):
        raise CaptureError(
            "the model lets tokens of the prompt look at each other and takes all tokens of one pass for a prompt, so "
            "that weights of a pass over the completion are not those that chose it; pass when='steps'"
        )


def _capture_steps(
    model: torch.nn.Module,
    tokenizer: Any,
    inputs: ModelInputs,
    options: GenerationOptions,
    how: tuple[str, dict[str, Any], bool, str | None],
) -> AttentionMaps:
    """Generate, and keep what each step attended to; `how` are kind, arguments, whether the decoder began, a name."""
    kind, arguments, has_begun, model_id = how
    if kind == "encoder":
        raise OptionError("an encoder runs once, before the first step; leave out when='steps'")
    generator = _find_generator(model, inputs)
    n_beams = arguments.get("num_beams") or getattr(generator.generation_config, "num_beams", None) or 1
    if n_beams != 1 and options.on_step is not None:
        raise OptionError("on_step cannot tell which beam wins before the end; leave it out, or num_beams")
    prompt = inputs.prompts[0]
    is_pair = "decoder" in prompt.sides
    side = prompt.sides["decoder" if is_pair else "self"]
    n_prompt = 1 if side.total is None or (is_pair and not has_begun) else side.total
    recorder = StepRecorder(
        generator, options, kind=kind, n_prompt=n_prompt, most=n_prompt + (options.max_new_tokens or 0) - 1
    )
    n_before = 0 if is_pair or "input_ids" in inputs.arguments else n_prompt
    own = options.decoder_tokenizer or tokenizer if is_pair else tokenizer
    criteria = [*arguments.get("stopping_criteria", ())]
    if options.on_step is not None:

        def write(token: int) -> str:
            return label_tokens((token,), get_text_tokenizer(own))[0]

        criteria.append(StepReporter(recorder, options.on_step, n_before, write))
    more = {"stopping_criteria": criteria} if criteria else {}
    output = _generate(model, inputs, {**arguments, **more}, has_begun, recorder)
    beams = getattr(output, "beam_indices", None)
    beams = None if beams is None else [row for row in beams[0].tolist() if row >= 0]
    ids = output.sequences[:1]
    if beams is not None:
        ids = ids[:, : n_prompt - n_before + len(beams)]
    n_rows = n_before + ids.shape[1] - 1
    stack = recorder.join(None if n_before else ids[0], n_rows, beams)
    if not is_pair:
        new = ids[:, n_prompt - n_before : -1]
        whole = append_tokens(model, tokenizer, inputs, new) if new.shape[1] else inputs
    else:
        whole = replace_decoder_tokens(inputs, own, ids[:, :-1])
    (collector,) = recorder.list_collectors()
    found = label_stack(collector, stack, whole.prompts[0], kind, model_id or get_model_id(model))
    return _note_prompt(found, kind, n_prompt)


def _generate(
    model: torch.nn.Module,
    inputs: ModelInputs,
    options: dict[str, Any],
    has_begun: bool,
    recorder: StepRecorder | None = None,
) -> Any:
    """Return what `generate` gives, as a dictionary; the model is left as it was found."""
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
    watched: contextlib.AbstractContextManager[Any] = (
        borrow_model(model, keeps_attention=True) if recorder is None else watch_attention(generator, passes=recorder)
    )
    try:
        with explain_refusal(model, inputs.arguments, n_tokens), watched:
            return generator.generate(**arguments, **options | {"return_dict_in_generate": True})
    except AttnViewerError:  # of ours, or of who is told each step
        raise
    except Exception as error:
        given = {name: value for name, value in options.items() if name not in ("max_new_tokens", "pad_token_id")}
        if not given or isinstance(error, torch.OutOfMemoryError) or not is_in_libraries(error):
            raise
        raise OptionError(
            f"{type(generator).__name__} cannot generate with generate_options {shorten(given)}: it raises "
            f"{type(error).__name__}: {describe_error(error)}; give what its generate takes"
        ) from error
    finally:
        settings.update(**before)


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
