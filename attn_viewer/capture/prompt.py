"""A prompt, in any of the forms people have it in, to the inputs of a model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from ..errors import OptionError, PromptError

if TYPE_CHECKING:
    import torch


def encode_prompt(model, tokenizer, prompt):
    """Turn a prompt into the keyword arguments of a forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        The model, for its device and the inputs that it takes.
    tokenizer : transformers tokenizer or None
        Not needed when `prompt` is a list of token ids.
    prompt : str, list of dict or list of int
        Text; chat messages (``role`` and ``content``) for the tokenizer's chat template; or token ids, which are
        taken as they are.

    Returns
    -------
    dict of str to torch.Tensor
        ``input_ids`` of axes ``(1, n_tokens)`` and what else the tokenizer made, on the model's device.

    Raises
    ------
    PromptError
        If the prompt is empty or of another type, has no tokens, or does not fit tokenizer and model.
    OptionError
        If the model is a name or anything else that is not loaded.
    """
    if not callable(getattr(model, "parameters", None)):
        raise OptionError(
            f"the model must be one that is loaded, got {model!r:.80}; load_model gives it and its tokenizer"
        )
    if not isinstance(prompt, (str, list, tuple)) or len(prompt) == 0:
        came = "nothing" if prompt is None or prompt in ("", [], ()) else f"a {type(prompt).__name__}"
        raise PromptError(f"the prompt must be text, chat messages or token ids, got {came}; give at least one token")
    if all(isinstance(part, int) for part in prompt):
        inputs = _from_ids(prompt)
    elif tokenizer is None:
        raise PromptError("a prompt in words needs a tokenizer; pass tokenizer= or a list of token ids")
    elif isinstance(prompt, str):
        inputs = dict(tokenizer(prompt, return_tensors="pt", verbose=False))
    else:
        inputs = _from_chat(tokenizer, prompt)
    if inputs["input_ids"].shape[-1] == 0:
        raise PromptError(f"the prompt {prompt!r} has no tokens; give at least one token")
    _check_vocabulary(model, inputs["input_ids"])
    device = find_device(model)
    return {name: tensor.to(device) for name, tensor in inputs.items() if takes_argument(model, name)}


def find_segments(tokenizer, prompt, n_tokens):
    """Find which tokens of a chat prompt belong to which message.

    Parameters
    ----------
    tokenizer : transformers tokenizer or None
        With the chat template.
    prompt : str, list of dict or list of int
        As `encode_prompt` takes it.
    n_tokens : int
        Number of tokens of the prompt.

    Returns
    -------
    list of (str, int, int)
        ``(role, start, stop)`` a message; what the template adds for the answer is the assistant's. Empty for any
        other prompt, and where a conversation's beginning is not how the template begins the whole.
    """
    if isinstance(prompt, str) or not all(isinstance(part, dict) for part in prompt):
        return []
    whole = _from_chat(tokenizer, prompt)["input_ids"][0].tolist()
    segments, start = [], 0
    for i, message in enumerate(prompt, 1):
        try:
            part = tokenizer.apply_chat_template(list(prompt[:i]), return_dict=True)["input_ids"]
        except Exception:  # templates are programs of the model's authors and raise what they like
            return []
        if len(part) <= start or whole[: len(part)] != list(part):
            return []
        segments.append((str(message["role"]), start, len(part)))
        start = len(part)
    return segments + [("assistant", start, n_tokens)] * (start < n_tokens)


def encode_decoder_prompt(model, tokenizer, prompt):
    """Turn what an encoder-decoder has said so far into token ids.

    Parameters
    ----------
    model : torch.nn.Module
        The model, for its device and the token with which its decoder starts.
    tokenizer : transformers tokenizer or None
        Needed for text.
    prompt : str, list of int or None
        Text; token ids, taken as they are; or nothing.

    Returns
    -------
    torch.Tensor
        Axes ``(1, n_tokens)``, at least the start token.

    Raises
    ------
    PromptError
        If text comes without a tokenizer or the model names no start token.
    """
    if prompt is not None and not isinstance(prompt, str):
        ids = _from_ids(prompt)["input_ids"]
    else:
        start = getattr(model.config, "decoder_start_token_id", None)
        start = getattr(model.config, "bos_token_id", None) if start is None else start
        if start is None or (prompt and tokenizer is None):
            raise PromptError("decoder_prompt needs a tokenizer and a model that names its start token; pass token ids")
        ids = tokenizer(text_target=prompt, add_special_tokens=False, verbose=False)["input_ids"] if prompt else []
        ids = _from_ids([start, *ids])["input_ids"]
    _check_vocabulary(model, ids)
    return ids.to(find_device(model))


def _from_ids(ids):
    import torch

    return {"input_ids": torch.tensor([list(ids)], dtype=torch.long)}


def _from_chat(tokenizer, messages):
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise PromptError(
                f"a chat prompt is a list of {{'role': …, 'content': …}}, got {message!r} in it; "
                "text goes in as one str, token ids as a list of int"
            )
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("this tokenizer has no chat template; pass the prompt as text (no --chat)")
    try:
        encoded = tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=messages[-1]["role"] != "assistant",
            return_dict=True,
            return_tensors="pt",
        )
    except Exception as error:  # templates are programs of the model's authors and raise what they like
        raise PromptError(f"the chat template refuses these messages: {error}") from error
    return dict(encoded)


def _check_vocabulary(model, ids):
    try:
        size = getattr(getattr(model, "get_input_embeddings", lambda: None)(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):  # models of images and texts (CLIP) have no single one
        size = getattr(model.config.get_text_config(), "vocab_size", None)
    if size is not None and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise PromptError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, but the model knows 0 to {size - 1}; "
            "use the tokenizer that belongs to the model"
        )


def find_device(model: torch.nn.Module) -> torch.device:
    """Find the device on which a model wants its inputs.

    Parameters
    ----------
    model : torch.nn.Module
        The model; parameters that accelerate has offloaded are nowhere, and its hooks say where they will be.

    Returns
    -------
    torch.device
        That of the first parameter that is anywhere, or the one that a hook moves parameters to; else the CPU.
    """
    import torch

    here = next((part.device for part in model.parameters() if not part.is_meta), None)
    if here is not None:
        return here
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), "cpu"))


def takes_argument(model, name):
    """Tell whether the model's forward pass names this argument.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    name : str
        Argument name.

    Returns
    -------
    bool
        True if the argument is in the signature of `forward`.
    """
    plain = getattr(model, "_orig_mod", model)  # torch.compile wraps models in one whose forward names nothing
    return name in inspect.signature(plain.forward).parameters
