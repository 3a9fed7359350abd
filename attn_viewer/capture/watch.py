"""Seeing each scaled_dot_product_attention call of a forward pass, without touching the model."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .guard import Loan, Watch
from .kernels import attend_with_lse
from .mixtures import IN_FORCE, SDPA, Change
from .sequences import UNKNOWN, Given


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """One call of `torch.nn.functional.scaled_dot_product_attention`, with the inputs the model really used.

    Parameters
    ----------
    name : str
        Qualified name of the innermost module that was running.
    ordinal : int
        How many times that module had made such a call before, in this pass.
    query, key, value : torch.Tensor
        Axes ``(batch, n_heads, n_query | n_key, d)``; key and value may have fewer heads.
    output : torch.Tensor
        What the call returns, axes ``(batch, n_heads, n_query, d)``.
    mask : torch.Tensor or None
        Bool (True is seen) or float (added to the scores).
    is_causal : bool
        Whether query i sees keys 0 to i only.
    scale : float or None
        Factor of the scores; None means ``d ** -0.5``.
    lse : torch.Tensor or None
        Log-sum-exp of the rows, axes ``(batch, n_heads, n_query)``, where it fell off with the output.
    change : mixtures.Change or None
        What interventions made of its heads.
    projection : torch.Tensor or None
        Weights of the output projection, where it was looked for and found, axes ``(n_heads * d, d_model)``.
    given : sequences.Given
        What the module was given, where that was looked for.
    """

    name: str
    ordinal: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    mask: torch.Tensor | None
    is_causal: bool
    scale: float | None
    lse: torch.Tensor | None = None
    change: Change | None = None
    projection: torch.Tensor | None = None
    given: Given = UNKNOWN


@dataclasses.dataclass(frozen=True)
class ModuleWeights:
    """Weights that one attention module computed itself.

    Parameters
    ----------
    name : str
        Qualified name of the module.
    ordinal : int
        How many times that module had shown weights before, in this pass.
    weights : torch.Tensor
        Axes ``(batch, n_heads, n_query, n_key)``; the model's own, to be read only.
    module : torch.nn.Module
        The module, for what it knows of sinks and soft caps.
    given : sequences.Given
        What the module was given, where that was looked for.
    """

    name: str
    ordinal: int
    weights: torch.Tensor
    module: torch.nn.Module
    given: Given = UNKNOWN


@dataclasses.dataclass
class Frame:
    """A module that is running, and what has been seen of attention in it and in its parts.

    Parameters
    ----------
    name : str
        Its qualified name.
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
    on_leave : list of callable
        Each takes the `Frame` of a module that ends and the module, before the next hook sees it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.known: dict[torch.nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.known.setdefault(module, []).append(name)
        self.frames: list[Frame] = []
        self.seen: set[str] = set()
        self.runs = 0
        self.on_leave: list[Callable[[Frame, torch.nn.Module], object]] = []

    @property
    def names(self) -> list[str]:
        """Names of the modules that run, the innermost last."""
        return [frame.name for frame in self.frames]

    @property
    def name(self) -> str:
        """Name of the innermost module that runs; empty for the model itself and outside of it."""
        return self.frames[-1].name if self.frames else ""

    def follow(self, loan: Loan) -> None:
        """Keep `frames` up to date as long as a loan is open."""
        for module in self.known:
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
        self.frames.append(Frame(name))
        self.seen.add(name)

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        # A module that raised inside a caught exception never told us that it ended.
        frame = self.frames[-1]
        for function in self.on_leave:
            function(frame, module)
        self.frames.pop()
        if self.frames:
            outer = self.frames[-1]
            if frame.has_shown:
                outer.has_shown = True
            else:
                outer.scores |= frame.scores
                outer.softmaxes += frame.softmaxes


class AttentionWatch(Watch):
    """Hand every scaled_dot_product_attention call to a function; the call's result is what it always is.

    Parameters
    ----------
    stack : ModuleStack
        Followed at the same time; tells which module calls.
    on_call : callable
        Takes an `AttentionCall`, after the model's own computation.
    on_weights : callable
        Takes the `ModuleWeights` of a call of `torch.nn.functional.multi_head_attention_forward`.
    wants_lse : bool
        Whether to get the log-sum-exp of rows where it comes for free.
    """

    def __init__(
        self,
        stack: ModuleStack,
        on_call: Callable[[AttentionCall], object],
        on_weights: Callable[[ModuleWeights], object],
        *,
        wants_lse: bool = False,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.on_call, self.on_weights = on_call, on_weights
        self.wants_lse = wants_lse
        self.counts: Counter[str] = Counter()
        self.handlers |= {
            SDPA: self._see_call,
            torch.nn.functional.multi_head_attention_forward: self._see_multihead,
        }

    def _see_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        call = self._attend(*self._count(), *args, **kwargs)
        self.on_call(call)
        return call.output

    def _see_multihead(self, *args: Any, **kwargs: Any) -> Any:
        function = torch.nn.functional.multi_head_attention_forward
        output = function(*args, **kwargs)
        # What nn.MultiheadAttention runs inside is out of a mode's sight, so that it is asked once more.
        _, weights = function(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})
        self.on_weights(ModuleWeights(*self._count(), weights, self.stack.model))
        return output

    def _count(self) -> tuple[str, int]:
        """Return the name of the running module and how many calls it made before."""
        if self.stack.frames:
            self.stack.frames[-1].has_shown = True
        name = self.stack.name
        self.counts[name] += 1
        return name, self.counts[name] - 1

    def _attend(
        self,
        name: str,
        ordinal: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        **options: bool,
    ) -> AttentionCall:
        arguments = (query, key, value, attn_mask, dropout_p, is_causal)
        # The kernel is out of sight of interventions, which change the call's output.
        both = attend_with_lse(*arguments, scale, **options) if self.wants_lse and not IN_FORCE.interventions else None
        if both is None:
            both = SDPA(*arguments, scale=scale, **options), None
        output, lse = both
        change = IN_FORCE.last if IN_FORCE.interventions else None
        return AttentionCall(name, ordinal, query, key, value, output, attn_mask, is_causal, scale, lse, change)
