"""Which modules of a model are running, and what has been seen of attention in them."""

import dataclasses
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

import torch

from .guard import Loan
from .numbering import is_called_attention


@dataclasses.dataclass
class Frame:
    """A module that is running, and what has been seen of attention in it and in its parts."""

    name: str
    is_function: bool = False  # has neither parts nor parameters: may do a part of what the module around it does
    has_read: bool = False  # it has read in its config which attention to run
    has_shown: bool = False  # its weights have been seen
    # (n_query, n_key) of products that may be scores.
    scores: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    # Shapes that came out of a softmax over the last axis.
    softmaxes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    # What was multiplied with values after scores of that shape.
    products: list[torch.Tensor] = dataclasses.field(default_factory=list)


class ModuleStack:
    """Which modules of a model are running in this thread, kept by forward hooks.

    A module that several others share (Zamba's layers) goes by the name it has in the one that runs.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.known: dict[torch.nn.Module, list[str]] = {}
        self.by_name = dict(model.named_modules(remove_duplicate=False))
        for name, module in self.by_name.items():
            self.known.setdefault(module, []).append(name)
        # Modules that only call a function, as SqueezeBert's MatMulWrapper does.
        self.functions = {
            module for module in self.known if not [*module.children(), *module.parameters(recurse=False)]
        }
        self.frames: list[Frame] = []  # the modules that run, the innermost last
        self.seen: set[str] = set()  # names of all that ran
        self.runs = 0  # how many times an outermost module ran
        # Takes each module that ends, before the next hook sees it.
        self.on_leave: list[Callable[[Frame, torch.nn.Module], object]] = []
        self.on_end: list[Callable[[], object]] = []  # called after an outermost module has run to its end

    @property
    def names(self) -> list[str]:
        """Names of the modules that run, the innermost last."""
        return [frame.name for frame in self.frames]

    @property
    def name(self) -> str:
        """Name of the innermost module that runs; empty for the model itself and outside of it."""
        return self.frames[-1].name if self.frames else ""

    def list_around(self, names: Iterable[str]) -> list[torch.nn.Module]:
        """Return the modules around all of those with some names, from the outermost on."""
        columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        return [self.by_name[".".join(shared[:i])] for i in range(len(shared) + 1)]

    def list_callers(self) -> list[torch.nn.Module]:
        """Return all modules but those that call no attention: torch's own plain ones, and norms.

        They are most of a model, and a hook on each costs as much as a layer's weights.
        """

        def is_plain(module: torch.nn.Module) -> bool:
            kind = type(module)
            is_known = kind.__module__.startswith("torch.nn.modules.") or kind.__name__.endswith("Norm")
            return is_known and not any(True for _ in module.children())

        return [m for m, names in self.known.items() if not is_plain(m) or is_called_attention(self.model, m, names)]

    def follow(self, loan: Loan, modules: Iterable[torch.nn.Module] | None = None) -> None:
        """Keep `frames` up to date as long as a loan is open, of all modules or some."""
        for module in self.known if modules is None else modules:
            loan.add_hook(module.register_forward_pre_hook, self._enter, prepend=True)
            loan.add_hook(module.register_forward_hook, self._leave, always_call=True)

    def _enter(self, module: torch.nn.Module, args: Any) -> None:
        name, *others = self.known[module]
        if others and self.name:
            name = next((one for one in (name, *others) if one.startswith(f"{self.name}.")), name)
        if name in self.names:  # no module runs inside itself: a caught interrupt has ended the one that seems to
            del self.frames[self.names.index(name) :]
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
