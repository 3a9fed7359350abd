"""Which modules are attention, and which stack and layer they belong to, read from their names."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

import torch

from ..errors import OptionError
from ..inputs.signature import find_decoder

_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")
# torch's own decoder layers call theirs multihead_attn.
_CROSS = re.compile(r"cross|encdec|encoder_attn|encoder_decoder|decoder.*multihead_attn", re.IGNORECASE)
# What attention modules are called where their class does not say so (LongCat's are self_attn.0 and self_attn.1).
_ATTENTION_NAME = re.compile(r"(^|[._])(attn|attention)(\.\d+)*$")
# Words of modules that are called attention but have no softmax over keys (a residual attends to earlier layers).
_NO_WEIGHTS = ("linear", "lightning", "delta", "mamba", "conv", "residual")
registered: dict[type[torch.nn.Module], Callable[..., Any]] = {}


def register_attention(module_class: type[torch.nn.Module], weights_from: Callable[..., Any]) -> None:
    """Say where the attention weights of a kind of module are, when neither its calls nor its outputs show them.

    Parameters
    ----------
    module_class
        The class itself; classes made from it are registered apart. Registered again, the last word counts.
    weights_from
        Takes a module, the tuple of its positional arguments and its output, once it has run; returns its weights, axes
        ``(batch, n_heads, n_query, n_key)``. Rows sum to at most 1, or the capture is a `CaptureError`.

    Raises
    ------
    OptionError
        If the class is none of modules, or there is nothing to call.

    Examples
    --------
    >>> register_attention(TokenMixer, lambda module, args, output: output["mixing"])
    """
    if not (isinstance(module_class, type) and issubclass(module_class, torch.nn.Module)) or not callable(weights_from):
        raise OptionError(f"a class of modules and a function are needed, got {module_class!r} and {weights_from!r}")
    registered[module_class] = weights_from


def number_modules(model: torch.nn.Module) -> dict[str, tuple[str, int]]:
    """Return for each qualified module name its stack (the name with ``*`` for indices) and its true layer number.

    Modules whose names differ in nothing but indices form a stack: ``model.layers.*.self_attn``. Where one index varies
    over the stack, it is the layer number; where none does, the first index is (0 without any); where several do
    (stages of blocks), the layers are counted in the order of the model's modules.
    """
    stacks: dict[str, list[str]] = defaultdict(list)
    for name, _ in model.named_modules(remove_duplicate=False):
        stacks[_INDEX.sub("*", name)].append(name)
    numbers = {}
    for stack, names in stacks.items():
        indices = [[int(i) for i in _INDEX.findall(name)] for name in names]
        varying = [place for place, column in enumerate(zip(*indices, strict=True)) if len(set(column)) > 1]
        for count, (name, index) in enumerate(zip(names, indices, strict=True)):
            number = index[varying[0] if varying else 0] if index else 0
            numbers[name] = stack, count if len(varying) > 1 else number
    return numbers


class NumberedModules:
    """What is known of the modules of a model before it runs, once for all passes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.numbers = number_modules(model)
        self.by_name = dict(model.named_modules(remove_duplicate=False))
        self.members = Counter(path for path, _ in self.numbers.values())  # how many modules each stack has
        # Those of the language model: whatever a tower does, its own attention is what it is.
        self.own = {*find_decoder(model).modules()}


def is_attention(model: torch.nn.Module, module: torch.nn.Module) -> bool:
    """Tell by its class name whether a module of a model computes attention weights, from a softmax over keys."""
    name = type(module).__name__.lower()
    is_named = any(word in name for word in ("attention", "attn")) and not has_no_softmax(model, module)
    return type(module) in registered or is_named


def has_no_softmax(model: torch.nn.Module, module: torch.nn.Module) -> bool:
    """Tell by its class name whether a module does another thing in the place of attention (a state space).

    A prefix that its class and the model's share (``KimiLinear``, ``ConvBert``) counts for nothing.
    """
    name = type(module).__name__
    pairs = zip(name, type(model).__name__, strict=False)
    own = name[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :].lower()
    return any(word in own for word in _NO_WEIGHTS)


def is_called_attention(model: torch.nn.Module, module: torch.nn.Module, names: Iterable[str]) -> bool:
    """Tell by its class or by one of its own names whether a module of a model may compute attention weights."""
    return is_attention(model, module) or any(_ATTENTION_NAME.search(name) for name in names)


def get_kind(name: str) -> str:
    """Return the kind of attention of a module or a stack, by the names that libraries give it.

    It is ``"encoder"`` where the name says neither ``"decoder"`` nor ``"cross"``.
    """
    if _CROSS.search(name):
        return "cross"
    return "decoder" if "decoder" in name else "encoder"
