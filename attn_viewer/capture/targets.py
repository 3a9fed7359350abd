"""Where the heads of a model are, found from its modules before it runs."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import CaptureError, OptionError
from ..inputs.signature import has_decoder
from ..selections import describe_numbers
from .numbering import get_kind, is_attention, is_called_attention, number_modules

if TYPE_CHECKING:
    import torch

_TOWER = re.compile(r"vision|visual|image|audio|speech", re.IGNORECASE)
_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_attn_heads")


@dataclasses.dataclass(frozen=True)
class Target:
    """The attention modules of one kind in a model."""

    path: str  # their qualified name with * for indices
    kind: str
    modules: dict[str, int]  # layer number of each, by qualified name
    layers: tuple[int, ...]  # true numbers; more than there are modules where one serves them all (ALBERT)
    n_heads: int | None  # heads a layer, where modules or config tell

    @property
    def is_shared(self) -> bool:
        """Whether one module serves all layers."""
        return len(self.layers) > len(self.modules)

    def check_head(self, layer: int, head: int) -> None:
        """Raise an `OptionError` for a head that is not there, by true numbers."""
        if head < 0 or head >= (self.n_heads or head + 1):
            there = f"there are {describe_numbers(range(self.n_heads))}" if self.n_heads else "heads count from 0"
            raise OptionError(f"there is no head {head} in layer {layer}; {there}")


def choose_kind(model: torch.nn.Module, kind: str | None) -> str:
    """Return the kind of attention that is wanted of a model, by default that over the prompt itself."""
    kinds: tuple[str, ...] = ("encoder", "decoder", "cross")
    if not has_decoder(model):
        looks = any(get_kind(name) == "cross" and is_attention(model, part) for name, part in model.named_modules())
        kinds = ("self", "cross") if looks else ("self",)
    if (kind or kinds[0]) not in kinds:
        raise OptionError(f"{type(model).__name__} has {', '.join(kinds)} attention, not {kind!r}")
    return kind or kinds[0]


def find_target(model: torch.nn.Module, kind: str | None = None) -> Target:
    """Find the attention modules of a model whose heads can be chosen.

    They are the deepest stack of a kind, towers for images and sound last.
    """
    kind = choose_kind(model, kind)
    named = dict(model.named_modules(remove_duplicate=False))
    attention = [name for name, module in named.items() if name and _has_heads(model, module, name)]
    outer = {name[:i] for name in attention for i, c in enumerate(name) if c == "."}
    numbers = number_modules(model)
    stacks: dict[str, dict[str, int]] = defaultdict(dict)
    for name in attention:
        path, number = numbers[name]
        if name not in outer and (get_kind(path) == kind or (kind == "self" and get_kind(path) != "cross")):
            stacks[path][name] = number
    if not stacks:
        raise CaptureError(f"{type(model).__name__} has no {kind} attention whose heads could be found")
    path, modules = max(stacks.items(), key=lambda item: (not is_tower(item[0]), len(item[1])))
    module = named[next(iter(modules))]
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    layers: Iterable[int] = modules.values()
    if len(modules) == 1 and isinstance(depth, int) and not _has_siblings(next(iter(modules)), named):
        layers = range(depth)  # one module serves them all
    return Target(path, kind, modules, tuple(sorted(layers)), count_heads(module, model))


def _has_heads(model: torch.nn.Module, module: torch.nn.Module, name: str) -> bool:
    """Tell the module that projects queries and keys from helpers inside it and from attention without a softmax."""
    is_other = "attention" in type(module).__name__.lower() and not is_attention(model, module)
    is_other = is_other or name.rsplit(".", 1)[-1].startswith("linear")
    return any(True for _ in module.children()) and is_called_attention(model, module, [name]) and not is_other


def _has_siblings(name: str, named: Mapping[str, torch.nn.Module]) -> bool:
    """Tell whether any list of modules on the way to one has others too."""
    parts = name.split(".")
    parents = (named[".".join(parts[:i])] for i, part in enumerate(parts) if part.isdecimal())
    return any(len(list(parent.children())) > 1 for parent in parents)


def is_tower(name: str) -> bool:
    """Tell by its name whether a module is of a part for images or sound."""
    return bool(_TOWER.search(name))


def count_heads(module: torch.nn.Module, model: torch.nn.Module) -> int | None:
    """Return how many heads a module has, as it, its config or the model's says; None where none does."""
    owners = (module, getattr(module, "config", None), getattr(model, "config", None))
    counts = (getattr(owner, name, None) for owner in owners for name in _COUNTS)
    return next((count for count in counts if isinstance(count, int)), None)
