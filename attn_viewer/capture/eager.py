"""Taking the weights that attention modules in eager mode hand out."""

import contextlib
import dataclasses

import torch

from ..errors import CaptureError
from .mixtures import IN_FORCE
from .numbering import is_called_attention
from .sequences import UNKNOWN, Given


@dataclasses.dataclass(frozen=True)
class EagerWeights:
    """Weights that one attention module returned.

    Parameters
    ----------
    name : str
        Qualified name of the module.
    ordinal : int
        How many times that module had returned weights before, in this pass.
    weights : torch.Tensor
        Axes ``(batch, n_heads, n_query, n_key)``.
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


class EagerHooks:
    """Forward hooks that take attention weights out of the outputs of attention modules.

    Other modules may hand on matrices whose rows sum to 1 that the model goes on to use (DeepSeek V4 mixes its
    streams with some), so looks alone do not make weights. The weights are passed on at once and then made
    zeros that take no memory, in place, so that a model told to collect all of them collects nothing, even where it
    did so before the hook (transformers before 5 wraps `forward`).

    Parameters
    ----------
    stack : watch.ModuleStack
        Followed at the same time, from later on, so that a module is still on it when its hook runs.
    on_weights : callable
        Takes an `EagerWeights`.
    was_watched : callable
        Tells for a module name whether its weights were computed by scaled_dot_product_attention.
    """

    def __init__(self, stack, on_weights, was_watched):
        self.stack = stack
        self.on_weights = on_weights
        self.was_watched = was_watched
        self.counts = {}

    @contextlib.contextmanager
    def install(self):
        """Keep the hooks on all attention modules while the block runs."""
        handles = []
        try:
            for module, names in self.stack.known.items():
                if is_called_attention(self.stack.model, module, names):
                    handles.append(module.register_forward_hook(self._take, prepend=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _take(self, module, args, output):
        name = self.stack.names[-1]
        if not isinstance(output, (tuple, list)) or self.was_watched(name):
            return
        if output and isinstance(output[0], tuple):  # I-BERT pairs its outputs with their quantisation scale
            self._take(module, args, output[0])
            return
        may_be_zero = bool(IN_FORCE.interventions)
        found = [part for i, part in enumerate(output) if i > 0 and _are_weights(_order_axes(part), may_be_zero)]
        if not found:
            return
        if len(found) > 1:
            raise CaptureError(
                f"module {name!r} returns {len(found)} tensors that look like attention weights; "
                "this architecture is not supported yet"
            )
        weights = found[0].detach()
        ordinal = self.counts.get(name, 0)
        self.counts[name] = ordinal + 1
        self.on_weights(EagerWeights(name, ordinal, _order_axes(weights), module))
        found[0].set_(weights.new_zeros(1).untyped_storage(), 0, weights.shape, (0,) * weights.ndim)


def _order_axes(part):
    """Bring weights of axes (query, key, batch of one, head), as XLNet has them, to (batch, head, query, key)."""
    if not isinstance(part, torch.Tensor) or part.ndim != 4 or not part.shape[0] == part.shape[1] >= part.shape[2] == 1:
        return part
    # With one token, a row of ones is that of heads, which each have a single weight.
    return part.permute(2, 3, 0, 1) if len(part) > 1 or bool((part == 1).all()) else part


def _are_weights(part, may_be_zero):
    """Tell attention weights from position biases, cached keys and our own placeholders by what rows sum to.

    An intervention can zero all heads of a layer; the placeholders that stay then lie on a single number.
    """
    if not isinstance(part, torch.Tensor) or part.ndim != 4 or not part.is_floating_point() or part.numel() == 0:
        return False
    sums = part.sum(dim=-1, dtype=torch.float32)
    return bool(part.min() >= 0 and sums.max() <= 1.01 and (sums.max() > 1e-6 or (may_be_zero and any(part.stride()))))
