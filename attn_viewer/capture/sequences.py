"""What a module that runs was given: how many tokens, how many a cache holds already, and whether it ran before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.weak import TensorWeakRef

if TYPE_CHECKING:
    from .guard import Loan
    from .module_stack import ModuleStack


class Given(NamedTuple):
    """What an attention module was given for the run that it is in."""

    # Tokens of all batch elements in the first tensor that the module got; None where it got no rows of numbers.
    own: int | None = None
    others: tuple[int, ...] = ()  # of the other tensors: an encoder's output, or one that only looks like a sequence
    past: int | None = None  # tokens that a key-value cache held before this pass; None without a cache
    follows: bool = True  # False for another run of the module, or of one around it, on other than its own output


UNKNOWN = Given()


class SequenceWatch:
    """Keep what modules are given while they run.

    Shapes of attention calls alone do not tell what they are about: heads that share keys are packed as queries, a step
    over a cache has more keys than queries as cross-attention has, weights of a band have as many axes as a map.

    The stack is followed from earlier on, so that a module is on it when its hook runs.
    """

    def __init__(self, stack: ModuleStack) -> None:
        self.stack = stack
        self.given: dict[str, tuple[torch.nn.Module, tuple[Any, ...]]] = {}  # each running module, and all that it got
        self.runs: Counter[str] = Counter()
        self.results: dict[str, list[TensorWeakRef]] = {}
        # Each takes what an outermost module that begins was given by name, and how many tokens its cache holds.
        self.on_begin: list[Callable[[Mapping[str, Any], int | None], object]] = []
        self.lengths: dict[int, tuple[int, object]] = {}  # of caches when a pass first showed them; by id, so they stay

    def install(self, loan: Loan, modules: Iterable[torch.nn.Module]) -> None:
        """Look at what modules are given as long as a loan is open."""
        for module in modules:
            loan.add_hook(module.register_forward_pre_hook, self._enter, with_kwargs=True)
            loan.add_hook(module.register_forward_hook, self._leave)

    def find(self) -> Given:
        """Return what the innermost running module that got rows of tokens was given."""
        running = [name for name in self.stack.names if name in self.given]
        every = (self._describe(name) for name in reversed(running))
        found = next((given for given in every if given.own is not None), UNKNOWN)
        again = next((name for name in running if self.runs[name] > 1), None)
        return found._replace(follows=again is None or self._follows(again))

    def _enter(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(self.stack.frames) == 1:  # another pass
            self.lengths.clear()
        name = self.stack.name
        values = (*args, *kwargs.values())
        self.runs[name] += 1
        self.given[name] = module, values  # as long as the module runs, which has them as well
        lengths = [self._measure_cache(value) for value in values if is_cache(value)]
        if len(self.stack.frames) == 1:
            for begin in self.on_begin:
                begin(kwargs, lengths[0] if lengths else None)

    def forget(self) -> None:
        """Take the next run of each module for its first."""
        self.runs.clear()
        self.results.clear()

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        name = self.stack.name
        self.given.pop(name, None)
        self.results[name] = [TensorWeakRef(part) for part in iterate_tensors(output)]

    def _describe(self, name: str) -> Given:
        module, values = self.given[name]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        # Modules that convolve, as SqueezeBert's, have a token's numbers on axis 1.
        channels = 1 if any(isinstance(part, torch.nn.Conv1d) for part in module.children()) else -1
        vectors = (part for part in tensors if part.ndim in (2, 3) and part.is_floating_point() and part.numel())
        rows = [part.numel() // part.shape[channels] for part in vectors]
        return Given(
            rows[0] if rows and tensors[0].ndim in (2, 3) else None,
            tuple(rows[1:]),
            next((self._measure_cache(value) for value in values if is_cache(value)), None),
        )

    def _follows(self, name: str) -> bool:
        """Tell whether a module runs on what it put out before."""
        earlier = {id(part) for part in (there() for there in self.results.get(name, ())) if part is not None}
        return any(id(value) in earlier for value in self.given[name][1] if isinstance(value, torch.Tensor))

    def _measure_cache(self, cache: Any) -> int:
        """Return how many tokens a cache held when it was first seen: layers add to it while they run."""
        if id(cache) not in self.lengths:
            self.lengths[id(cache)] = int(cache.get_seq_length()), cache
        return self.lengths[id(cache)][0]


def is_cache(value: object) -> bool:
    """Tell a key-value cache of transformers, whichever class it is of."""
    kind = type(value)
    return callable(getattr(kind, "get_seq_length", None)) and callable(getattr(kind, "update", None))


def iterate_tensors(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that a module put out, one or in a tuple or a dictionary."""
    parts: tuple[Any, ...] | list[Any]
    if isinstance(output, dict):
        parts = list(output.values())
    else:
        parts = output if isinstance(output, (tuple, list)) else (output,)
    yield from (part for part in parts if isinstance(part, torch.Tensor))
