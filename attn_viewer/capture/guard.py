"""Leaving a model exactly as it was found."""

import contextlib
import threading
import weakref

import torch

from ..errors import CaptureError

_busy = weakref.WeakSet()
_busy_lock = threading.Lock()
_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
# What transformers leaves on modules when it collects weights: before 5 a `forward` of its own, which an exception
# keeps in place and which holds on to all it saw; later a note that its hooks are there.
_TRACES = ("forward", "_output_capturing_hooks_installed")


@contextlib.contextmanager
def borrow_model(model, *, keeps_attention=False):
    """Have a model for one pass: in eval mode, on attention that can be seen, and put back afterwards.

    Training flags, forward hooks and attention implementations are restored one by one, whatever happens in the
    block. Flash and flex attention are set to SDPA config by config for the time of the pass, because both compute
    the same weights; a model that has no SDPA is set to eager.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    keeps_attention : bool
        Whether to leave flash and flex attention as they are.

    Yields
    ------
    bool
        Whether any part of the model runs eager attention.

    Raises
    ------
    CaptureError
        If another capture is running on this model.
    """
    with _busy_lock:
        if model in _busy:
            raise CaptureError(
                "this model is being captured already; wait for that capture to end, or load the model twice"
            )
        _busy.add(model)
    modules = list(model.modules())
    training = [module.training for module in modules]
    hooks = [{table: getattr(module, table).copy() for table in _HOOK_TABLES} for module in modules]
    traces = [{name: vars(module)[name] for name in _TRACES if name in vars(module)} for module in modules]
    try:
        model.eval()
        with contextlib.nullcontext() if keeps_attention else use_visible_attention(model):
            yield any(config._attn_implementation_internal == "eager" for config in _find_configs(modules))
    finally:
        for module, was_training, tables, known in zip(modules, training, hooks, traces, strict=True):
            module.training = was_training
            for table, entries in tables.items():
                getattr(module, table).clear()
                getattr(module, table).update(entries)
            for name in _TRACES:
                vars(module).pop(name, None)
            vars(module).update(known)
        with _busy_lock:
            _busy.discard(model)


@contextlib.contextmanager
def use_visible_attention(model):
    """Have a model compute flash and flex attention as SDPA (eager where it has none) while the block runs.

    What `torch.compile` made of it is left aside meanwhile: compiled code shows nobody its calls, and tracing it anew
    takes longer than the pass.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    """
    configs = _find_configs(model.modules())
    implementations = [config._attn_implementation_internal for config in configs]
    fallback = "sdpa" if getattr(model, "_supports_sdpa", True) else "eager"
    try:
        for config, implementation in zip(configs, implementations, strict=True):
            if implementation not in ("sdpa", "eager", None):
                config._attn_implementation_internal = fallback
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for config, implementation in zip(configs, implementations, strict=True):
            config._attn_implementation_internal = implementation


def _find_configs(modules):
    """Return the distinct configs that say which attention runs; sub-models may share one or have their own."""
    configs = {}
    for module in modules:
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            configs[id(config)] = config
    return list(configs.values())
