"""What a model takes, asked of the model itself or, where a wrapper takes anything, of the one inside."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SEQUENCES = ("input_ids", "inputs_embeds")


def find_inner(model: torch.nn.Module) -> torch.nn.Module:
    """Find the model inside of wrappers (`torch.compile`, `DataParallel`, adapters, a module around a model).

    It is the outermost transformers model that takes tokens; else the outermost module that says in its signature that
    it takes some; else `model`.
    """
    named, level = None, [model]
    while level:
        for module in level:
            # Asked of the class: wrappers hand attributes of the model inside on as their own.
            main = getattr(type(module), "main_input_name", None)
            if main == "input_ids":
                return module
            if named is None and (main is not None or not _read_parameters(module).keys().isdisjoint(_SEQUENCES)):
                named = module
        level = [child for module in level for child in module.children()]
    return model if named is None else named


def _read_parameters(module: torch.nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


def get_config(model: torch.nn.Module) -> Any:
    """Return the config of a model, or of the one inside of a wrapper; None where there is none."""
    own = getattr(model, "config", None)
    return getattr(find_inner(model), "config", None) if own is None else own


def has_decoder(model: torch.nn.Module) -> bool:
    """Tell an encoder-decoder, by its config."""
    return bool(getattr(get_config(model), "is_encoder_decoder", False))


def find_decoder(model: torch.nn.Module) -> torch.nn.Module:
    """Return the language model inside of one that sees or hears, whose prompts hold placeholders; else `model`."""
    from .placeholders import list_placeholders

    inner: Any = find_inner(model)
    if not list_placeholders(getattr(inner, "config", None)) or has_decoder(inner):
        return model
    # transformers before 5 hands out the whole model as the decoder of some.
    named = (getattr(getattr(inner, "model", inner), name, None) for name in ("language_model", "text_model"))
    found: torch.nn.Module | None = next((part for part in named if part is not None), None)
    if found is None and hasattr(inner, "get_decoder"):
        found = inner.get_decoder()
    return model if found is None else found


def takes_argument(model: torch.nn.Module, name: str) -> bool:
    """Tell whether the model's forward pass names this argument."""
    return name in list_arguments(model)


def list_arguments(model: torch.nn.Module) -> set[str]:
    """Return what the forward pass takes; a wrapper that takes anything takes what the model inside does."""
    names = _read_parameters(model)
    if _takes_ids_first(model, names):
        return {"input_ids", *names}
    inner = find_inner(model)
    if inner is model and not hasattr(type(model), "main_input_name") and _takes_one(names):
        return {"input_ids"}  # whatever it is called there
    return {*names, *(_read_parameters(inner) if inner is not model and not _is_closed(names) else ())}


def _is_closed(names: Mapping[str, inspect.Parameter]) -> bool:
    """Tell a signature that says all by itself."""
    takes_any = any(part.kind is inspect.Parameter.VAR_KEYWORD for part in names.values())
    return not takes_any and not _takes_one(names)


def _takes_one(names: Mapping[str, inspect.Parameter]) -> bool:
    needed = [name for name, part in names.items() if part.default is part.empty and part.kind < part.VAR_POSITIONAL]
    return len(needed) == 1 and needed[0] not in _SEQUENCES


def _takes_ids_first(model: torch.nn.Module, names: Mapping[str, inspect.Parameter]) -> bool:
    """Tell a forward pass whose one needed argument are the tokens, by another name (TransformerLens), mask beside."""
    return _takes_one(names) and "attention_mask" in names and not hasattr(type(model), "main_input_name")


def call_model(model: torch.nn.Module, arguments: Mapping[str, Any]) -> Any:
    """Run a model with arguments by name; a wrapper that takes all as one (SentenceTransformer) gets a dictionary."""
    names, inner = _read_parameters(model), find_inner(model)
    if _takes_ids_first(model, names):
        others = {name: value for name, value in arguments.items() if name != "input_ids"}
        return model(arguments["input_ids"], **others)
    if _takes_one(names) and not hasattr(type(model), "main_input_name"):
        return model(dict(arguments) if inner is not model else arguments["input_ids"])
    return model(**arguments)


def find_device(model: torch.nn.Module) -> torch.device:
    """Find the device on which a model wants its inputs.

    It is that of the first parameter that is anywhere; else the one to which a hook of accelerate moves offloaded ones;
    else the CPU.
    """
    import torch

    here = next((part.device for part in model.parameters() if not part.is_meta), None)
    if here is not None:
        return here
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), "cpu"))
