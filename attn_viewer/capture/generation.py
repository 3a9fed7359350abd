"""Attention over a prompt and what the model says to it."""

import dataclasses

import torch

from ..errors import OptionError
from .guard import borrow_model
from .prefill import capture_attention
from .prompt import encode_prompt, find_segments


def capture_generation(model, tokenizer, prompt, *, max_new_tokens, generate_options=None, **options):
    """Generate text and capture the attention over prompt and completion.

    The model generates on its fast attention with its key-value cache; then one pass over all tokens together, with
    the same causal mask, gives the weights that each new token had when it was chosen.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model that can generate.
    tokenizer : transformers tokenizer
        Its tokenizer.
    prompt : str, list of dict or list of int
        Text, chat messages or token ids.
    max_new_tokens : int
        Most tokens to generate.
    generate_options : dict, optional
        More arguments of `model.generate`, such as ``do_sample`` and ``temperature``.
    **options
        As `capture_attention` takes them.

    Returns
    -------
    AttentionMaps
        Over prompt and completion; `prompt_length` tells where the completion begins. For an encoder-decoder the
        completion is the decoder's side, and the kind is ``"cross"`` unless ``kind=`` says otherwise.

    Raises
    ------
    OptionError
        If the model cannot generate or `max_new_tokens` is not a number from 1.
    """
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise OptionError(f"max_new_tokens must be a whole number from 1, got {max_new_tokens!r}")
    if not callable(getattr(model, "generate", None)) or not getattr(model, "can_generate", bool)():
        raise OptionError(f"{type(model).__name__} cannot generate; load a language model with its head")
    inputs = encode_prompt(model, tokenizer, prompt)
    arguments = {"max_new_tokens": max_new_tokens} | (generate_options or {})
    settings = model.generation_config
    if settings.pad_token_id is None:  # never used for one prompt, but missed loudly
        end = settings.eos_token_id
        arguments.setdefault("pad_token_id", (end[0] if isinstance(end, list) else end) or 0)
    before = settings.to_dict()
    with borrow_model(model, keeps_attention=True), torch.no_grad():
        try:
            ids = model.generate(**inputs, **arguments)[0].tolist()
        finally:
            settings.update(**before)
    if model.config.is_encoder_decoder:
        options = {"kind": "cross"} | options
        return capture_attention(model, tokenizer, prompt, decoder_prompt=ids, **options)
    maps = capture_attention(model, tokenizer, ids, **options)
    segments = find_segments(tokenizer, prompt, len(ids))
    return dataclasses.replace(maps, prompt_length=inputs["input_ids"].shape[1], segments=segments)
