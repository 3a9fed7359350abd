"""Which output projection follows an attention call: the one that is fed the heads' outputs, side by side.

Names differ from architecture to architecture, and where a gate or a norm stands between attention and projection the
weights times the projected values are not what a head contributes. So nothing is looked up by name: a projection is
believed only if its input is the call's output, number by number.
"""

import contextlib
import dataclasses

import torch
from transformers.pytorch_utils import Conv1D


class ProjectionWatch:
    """Hold each attention call until its output projection runs, then hand on both.

    Parameters
    ----------
    stack : watch.ModuleStack
        Followed at the same time.
    on_call : callable
        Takes a `watch.AttentionCall` with its `projection`, or without where none was fed its output.
    """

    def __init__(self, stack, on_call):
        self.stack, self.on_call = stack, on_call
        self.held = None

    @contextlib.contextmanager
    def install(self):
        """Keep the hooks on all linear modules while the block runs."""
        handles = []
        try:
            for module, (name, *_) in self.stack.known.items():
                # What stands around a base layer adds something of its own to it (LoRA).
                if type(module) in (torch.nn.Linear, Conv1D) and not name.endswith("base_layer"):
                    handles.append(module.register_forward_pre_hook(self._compare))
            yield self
            self._let_go()
        finally:
            self.held = None
            for handle in handles:
                handle.remove()

    def take_call(self, call):
        """Take a call."""
        self._let_go()
        self.held = call

    def _let_go(self):
        call, self.held = self.held, None
        if call is not None:
            self.on_call(call)

    def _compare(self, module, args):
        if self.held is None or not args or not isinstance(args[0], torch.Tensor):
            return
        output, given = self.held.output, args[0].detach()
        if given.numel() != output.numel() or given.device != output.device or given.dtype != output.dtype:
            return
        # Where there is a single query, heads that share keys may be rows, which lie side by side already.
        has_columns = given.shape[-1] == output.shape[-3] * output.shape[-1]
        joined = output.transpose(-3, -2) if has_columns else output
        if torch.equal(joined.reshape(given.shape), given):
            weight = module.weight if isinstance(module, Conv1D) else module.weight.T
            self.held = dataclasses.replace(self.held, projection=weight.detach())
            self._let_go()


def measure_value_norms(value, projection):
    """Return how long each value vector is once its head's slice of the output projection has been applied.

    Parameters
    ----------
    value : torch.Tensor
        Axes ``(n_value_heads, n_key, d)``; query head h uses value head ``h // (n_heads // n_value_heads)``.
    projection : torch.Tensor
        Axes ``(n_heads * d, d_model)``.

    Returns
    -------
    torch.Tensor
        float32, axes ``(n_heads, n_key)``: ‖v_j^h W_O^h‖, ‖f(x_j)‖ of Kobayashi et al. 2020, "Attention is Not Only a
        Weight", equation 5. The bias of the output projection belongs to no head and is left out.
    """
    slices = projection.unflatten(0, (-1, value.shape[-1]))
    group = len(slices) // len(value)
    norms = (torch.linalg.vector_norm(value[i // group].float() @ w.float(), dim=-1) for i, w in enumerate(slices))
    return torch.stack(list(norms))
