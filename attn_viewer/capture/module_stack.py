"""Which modules of a model are running, and what has been seen of attention in them."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .guard import Loan
from .numbering import is_called_attention


@dataclasses.dataclass
class Frame:
    """A module that is running, and what has been seen of attention in it and in its parts.

    Parameters
    ----------
    name : str
        Its qualified name.
    is_function : bool
        Whether it has neither parts nor parameters, so that it may do a part of what the module around it does.
    has_shown : bool
        Whether its weights have been seen.
    scores : set of tuple of int
        ``(n_query, n_key)`` of products that may be scores.
    softmaxes : list of tuple of int
        Shapes that came out of a softmax over the last axis.
    products : list of torch.Tensor
        What was multiplied with values after scores of that shape.
    """

    name: str
    is_function: bool = False
    has_shown: bool = False
    scores: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    softmaxes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    products: list[torch.Tensor] = dataclasses.field(default_factory=list)


class ModuleStack:
    """Which module of a model is running in this thread, kept by forward hooks.

    Parameters
    ----------
    model : torch.nn.Module
        The model; a module that several others share (Zamba's layers) goes by the name it has in the one that runs.

    Attributes
    ----------
    frames : list of Frame
        The modules that run, the innermost last.
    seen : set of str
        Names of all that ran.
    runs : int
        How many times an outermost module ran.
    on_end : list of callable
        Called after an outermost module has run to its end.
    on_leave : list of callable
        Each takes the `Frame` of a module that ends and the module, before the next hook sees it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.known: dict[torch.nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.known.setdefault(module, []).append(name)
        # Modules that only call a function, as SqueezeBert's MatMulWrapper does.
        self.functions = {
            module for module in self.known if not [*module.children(), *module.parameters(recurse=False)]
        }
        self.frames: list[Frame] = []
        self.seen: set[str] = set()
        self.runs = 0
        self.on_leave: list[Callable[[Frame, torch.nn.Module], object]] = []
        self.on_end: list[Callable[[], object]] = []

    @property
    def names(self) -> list[str]:
        """Names of the modules that run, the innermost last."""
        return [frame.name for frame in self.frames]

    @property
    def name(self) -> str:
        """Name of the innermost module that runs; empty for the model itself and outside of it."""
        return self.frames[-1].name if self.frames else ""

    def list_callers(self) -> list[torch.nn.Module]:
        """Return all modules but those that call no attention: torch's own plain ones, and norms.

        They are most of a model, and a hook on each costs as much as a layer's weights.
        """
        return [module for module, names in self.known.items() if not self._is_plain(module, names)]

    def _is_plain(self, module: torch.nn.Module, names: list[str]) -> bool:
        kind = type(module)
        is_known = kind.__module__.startswith("torch.nn.modules.") or kind.__name__.endswith("Norm")
        has_parts = any(True for _ in module.children())
        return is_known and not has_parts and not is_called_attention(self.model, module, names)

    def follow(self, loan: Loan, modules: Iterable[torch.nn.Module] | None = None) -> None:
        """Keep `frames` up to date as long as a loan is open, of all modules or some."""
        for module in self.known if modules is None else modules:
            loan.add_hook(module.register_forward_pre_hook, self._enter, prepend=True)
            loan.add_hook(module.register_forward_hook, self._leave, always_call=True)

    def _enter(self, module: torch.nn.Module, args: Any) -> None:
        names = self.known[module]
        outer = f"{self.name}." if self.name else ""
        name = next((name for name in names if name.startswith(outer)), names[0])
        # No module runs inside itself: an interrupt that was caught has ended the one that seems to.
        for i, frame in enumerate(self.frames):
            if frame.name == name:
                del self.frames[i:]
                break
        self.runs += not self.frames
        self.frames.append(Frame(name, is_function=module in self.functions))
        self.seen.add(name)

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        # A module that raised inside a caught exception never told us that it ended.
        frame = self.frames[-1]
        for function in self.on_leave:
            function(frame, module)
        if len(self.frames) == 1 and output is not None:  # None also where it raised
            for end in self.on_end:
                end()
        self.frames.pop()
        if self.frames:
            outer = self.frames[-1]
            if frame.has_shown:
                outer.has_shown = True
            else:
                outer.scores |= frame.scores
                outer.softmaxes += frame.softmaxes
