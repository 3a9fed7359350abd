"""Seeing each scaled_dot_product_attention call of a forward pass, without touching the model."""

import contextlib
import dataclasses
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode

from .eager import EagerWeights
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


class ModuleStack:
    """Which module of a model is running, kept by forward hooks.

    Parameters
    ----------
    model : torch.nn.Module
        The model; a module that several others share (Zamba's layers) goes by the name it has in the one that runs.
    """

    def __init__(self, model):
        self.model = model
        self.known = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.known.setdefault(module, []).append(name)
        self.names = []
        self.seen = set()
        self.runs = 0  # of the outermost module

    @contextlib.contextmanager
    def follow(self):
        """Keep `names` up to date while the block runs."""
        handles = []

        def enter(module, args):
            self.runs += not self.names
            names = self.known[module]
            outer = f"{self.names[-1]}." if self.names and self.names[-1] else ""
            name = next((name for name in names if name.startswith(outer)), names[0])
            self.names.append(name)
            self.seen.add(name)

        def leave(module, args, output):
            # A module that raised inside a caught exception never told us that it ended.
            self.names.pop()

        try:
            for module in self.known:
                handles += [
                    module.register_forward_pre_hook(enter, prepend=True),
                    module.register_forward_hook(leave, always_call=True),
                ]
            yield self
        finally:
            for handle in handles:
                handle.remove()


class AttentionWatch(TorchFunctionMode):
    """Hand every scaled_dot_product_attention call to a function; the call's result is what it always is.

    Parameters
    ----------
    stack : ModuleStack
        Followed at the same time; tells which module calls.
    on_call : callable
        Takes an `AttentionCall`, after the model's own computation.
    on_weights : callable
        Takes the `EagerWeights` of a call of `torch.nn.functional.multi_head_attention_forward`.
    wants_lse : bool
        Whether to get the log-sum-exp of rows where it comes for free.
    """

    def __init__(self, stack, on_call, on_weights, *, wants_lse=False):
        super().__init__()
        self.stack = stack
        self.on_call, self.on_weights = on_call, on_weights
        self.wants_lse = wants_lse
        self.counts = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Run `func`; report it if it is attention."""
        kwargs = kwargs or {}
        if func is SDPA:
            call = self._attend(*self._count(), *args, **kwargs)
            self.on_call(call)
            return call.output
        output = func(*args, **kwargs)
        if func is torch.nn.functional.multi_head_attention_forward:
            # What nn.MultiheadAttention runs inside is out of a mode's sight, so that it is asked once more.
            _, weights = func(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})
            self.on_weights(EagerWeights(*self._count(), weights, self.stack.model))
        return output

    def _count(self):
        """Return the name of the running module and how many calls it made before."""
        name = self.stack.names[-1] if self.stack.names else ""
        self.counts[name] += 1
        return name, self.counts[name] - 1

    def _attend(
        self,
        name,
        ordinal,
        query,
        key,
        value,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        *,
        scale=None,
        **options,
    ):
        arguments = (query, key, value, attn_mask, dropout_p, is_causal)
        # The kernel is out of sight of interventions, which change the call's output.
        both = attend_with_lse(*arguments, scale, **options) if self.wants_lse and not IN_FORCE.interventions else None
        if both is None:
            both = SDPA(*arguments, scale=scale, **options), None
        output, lse = both
        change = IN_FORCE.last if IN_FORCE.interventions else None
        return AttentionCall(name, ordinal, query, key, value, output, attn_mask, is_causal, scale, lse, change)
