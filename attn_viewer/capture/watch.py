"""Seeing each scaled_dot_product_attention call of a forward pass, without touching the model."""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .changes import HeadChange, find_change, list_interventions
from .fused import SDPA, SdpaArguments, attend_with_lse
from .guard import Watch
from .module_stack import ModuleStack
from .sequences import UNKNOWN, Given


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """One call of `torch.nn.functional.scaled_dot_product_attention`, with the inputs the model really used."""

    name: str  # of the innermost module that was running, qualified
    ordinal: int  # how many times that module had made such a call before, in this pass
    query: torch.Tensor  # axes (batch, n_heads, n_query, d)
    key: torch.Tensor  # axes (batch, n_heads or fewer, n_key, d)
    value: torch.Tensor
    output: torch.Tensor  # what the call returns, axes (batch, n_heads, n_query, d)
    mask: torch.Tensor | None  # bool (True is seen) or float (added to the scores)
    is_causal: bool  # query i sees keys 0 to i only
    scale: float | None  # factor of the scores; None means d ** -0.5
    lse: torch.Tensor | None = None  # log-sum-exp of the rows, axes (batch, n_heads, n_query), if it was free
    change: HeadChange | None = None  # what interventions made of its heads
    projection: torch.Tensor | None = None  # weights of the output projection, axes (n_heads * d, d_model), if found
    given: Given = UNKNOWN  # what the module was given, where that was looked for


@dataclasses.dataclass(frozen=True)
class ModuleWeights:
    """Weights that one attention module computed itself."""

    name: str  # of the module, qualified
    ordinal: int  # how many times that module had shown weights before, in this pass
    weights: torch.Tensor  # axes (batch, n_heads, n_query, n_key); the model's own, to be read only
    module: torch.nn.Module  # for what it knows of sinks and soft caps
    given: Given = UNKNOWN  # what the module was given, where that was looked for


class AttentionWatch(Watch):
    """Hand every scaled_dot_product_attention call to a function; the call's result is what it always is.

    Weights of `torch.nn.functional.multi_head_attention_forward` go to `on_weights`. The first call of a module that
    nothing changes goes to `take_row` before, which tells whether nothing is left to hand on. With `wants_lse`, calls
    come with the log-sum-exp of their rows where it costs nothing.
    """

    def __init__(
        self,
        stack: ModuleStack,
        on_call: Callable[[AttentionCall], object],
        on_weights: Callable[[ModuleWeights], object],
        take_row: Callable[[str, SdpaArguments], bool] = lambda name, given: False,
        *,
        wants_lse: bool = False,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.on_call, self.on_weights, self.take_row = on_call, on_weights, take_row
        self.wants_lse = wants_lse
        self.counts: Counter[str] = Counter()
        self.unread: set[str] = set()  # modules that called attention before they read in their config which to run
        self.handlers |= {
            SDPA: self._see_call,
            torch.nn.functional.multi_head_attention_forward: self._see_multihead,
        }

    def _see_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._attend(*self._count(), SdpaArguments(*args, **kwargs), self.on_call)

    def _attend(
        self, name: str, ordinal: int, given: SdpaArguments, on_call: Callable[[AttentionCall], object]
    ) -> torch.Tensor:
        change = find_change(given)
        # The kernel is out of sight of interventions, which change the call's output.
        # For a single row there is nothing to save.
        wants_lse = self.wants_lse and given.query.shape[-2] > 1 and not list_interventions()
        both = attend_with_lse(given) if wants_lse else None
        output, lse = both or (given.compute(), None)
        if ordinal or change is not None or not self.take_row(name, given):
            query, key, value, mask, _, is_causal, scale, _ = given
            on_call(AttentionCall(name, ordinal, query, key, value, output, mask, is_causal, scale, lse, change))
        return output

    def _see_multihead(self, *args: Any, **kwargs: Any) -> Any:
        function = torch.nn.functional.multi_head_attention_forward
        output = function(*args, **kwargs)
        # What nn.MultiheadAttention runs inside is out of a mode's sight, so that it is asked once more: for weights
        # before dropout, which would take random numbers that the model is to have.
        asked = {"training": False, "need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            weights: Any = function(**inspect.signature(function).bind(*args, **kwargs).arguments | asked)[1]
        weights = weights[None] if weights.ndim == 3 else weights
        self.on_weights(ModuleWeights(*self._count(), weights, self.stack.model))
        return output

    def _count(self) -> tuple[str, int]:
        """Return the name of the running module and how many calls it made before."""
        if self.stack.frames:
            self.stack.frames[-1].has_shown = True
        name = self.stack.name
        if not self.stack.frames or not self.stack.frames[-1].has_read:
            self.unread.add(name)
        self.counts[name] += 1
        return name, self.counts[name] - 1
