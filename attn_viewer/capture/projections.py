"""Which output projection follows an attention call: the one that makes a module's output from the heads' alone.

Names differ from architecture to architecture, and where a gate or a norm stands between attention and projection, or
an adapter beside it, the weights times the projected values are not what a head contributes. So nothing is looked up by
name: a projection is believed only if its input is the call's output, number by number, and its weights make of that
what the module puts out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from .sequences import iterate_tensors

if TYPE_CHECKING:
    from .guard import Loan
    from .module_stack import ModuleStack
    from .watch import AttentionCall

# Of the largest number of an output: how far one that was computed another way may be off.
_TOLERANCE = 1e-4


@dataclasses.dataclass
class _Fed:
    """A module that got the heads' outputs and nothing else, and what it made of them."""

    module: torch.nn.Module
    given: torch.Tensor
    output: torch.Tensor | None = None


class ProjectionWatch:
    """Hold each attention call until the next, to see which projection follows, then hand on both.

    A call without a projection that is certain is handed on without one. The stack is followed from later on, so that a
    module is still on it when its hook runs.
    """

    def __init__(self, stack: ModuleStack, on_call: Callable[[AttentionCall], None]) -> None:
        self.stack, self.on_call = stack, on_call
        self.held: AttentionCall | None = None
        self.copies: dict[str, Any] = {}  # of what it was given
        self.fed: dict[str, _Fed] = {}
        self.total: torch.Tensor | None = None  # what the module that made the call put out

    def install(self, loan: Loan) -> None:
        """Look at what all modules are given and put out as long as a loan is open; `let_go` ends it."""
        for module in self.stack.known:
            loan.add_hook(module.register_forward_pre_hook, self._enter, with_kwargs=True)
            loan.add_hook(module.register_forward_hook, self._leave)

    def take_call(self, call: AttentionCall) -> None:
        """Take a call."""
        self.let_go()
        self.held = call
        self.copies = {name: getattr(call, name).clone() for name in ("query", "key", "value")}

    def let_go(self) -> None:
        """Hand on the last call."""
        call, self.held = self.held, None
        if call is not None:
            # The model may have written over what the call was given.
            parts = {name: part for name, part in self.copies.items() if not torch.equal(part, getattr(call, name))}
            self.on_call(dataclasses.replace(call, projection=self._find(call.name), **parts))
        self.fed, self.total, self.copies = {}, None, {}

    def _enter(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.held is None:
            return
        tensors = [part.detach() for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor)]
        if len(tensors) == 1 and _is_joined(self.held.output, tensors[0]):
            self.fed[self.stack.name] = _Fed(module, tensors[0])

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.held is None:
            return
        name = self.stack.name
        if name in self.fed or name == self.held.name:
            first = next((part.detach() for part in iterate_tensors(output)), None)
            if name in self.fed:
                self.fed[name].output = first
            else:
                self.total = first

    def _find(self, caller: str) -> torch.Tensor | None:
        """Return the weights that make the output of the module `caller`, or of the one fed its heads' outputs."""
        outer = [name for name in self.fed if not any(name.startswith(f"{other}.") for other in self.fed)]
        if not outer:
            return None
        if all(name.startswith(f"{caller}.") or not caller for name in outer):
            made = self.total
        else:
            made = self.fed[outer[0]].output if len(outer) == 1 else None
        for fed in self.fed.values():
            weight = get_weight(fed.module)
            if made is None or weight is None or fed.output is None or fed.output.numel() != made.numel():
                continue
            bias = getattr(fed.module, "bias", None)
            expected = fed.given.float() @ weight.float() + (0 if bias is None else bias.detach().float())
            # Nothing may be added on the way, however little; the same by another way is rounded in another way.
            is_whole = _is_close(made.reshape(fed.output.shape), fed.output, 1e-6)
            if is_whole and _is_close(expected, fed.output, max(_TOLERANCE, 4 * torch.finfo(fed.output.dtype).eps)):
                return weight
        return None


def _is_joined(output: torch.Tensor, given: torch.Tensor) -> bool:
    """Tell whether a tensor holds the heads' outputs of a call, side by side."""
    if given.numel() != output.numel() or given.device != output.device or given.dtype != output.dtype:
        return False
    # Where there is a single query, heads that share keys may be rows, which lie side by side already.
    has_columns = given.shape[-1] == output.shape[-3] * output.shape[-1]
    joined = output.transpose(-3, -2) if has_columns else output
    return torch.equal(joined.reshape(given.shape), given)


def get_weight(module: torch.nn.Module) -> torch.Tensor | None:
    """Return the weights of a plain linear module, axes ``(n_in, n_out)``; None of a quantised or offloaded one."""
    weight: Any = module.weight if isinstance(module, (torch.nn.Linear, Conv1D)) else None
    if type(weight) not in (torch.Tensor, torch.nn.Parameter) or weight.is_meta or not weight.is_floating_point():
        return None
    made: torch.Tensor = weight.detach()
    return made if isinstance(module, Conv1D) else made.T


def _is_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    theirs = theirs.float()
    return bool((ours.float() - theirs).abs().max() <= tolerance * theirs.abs().max())


def measure_value_norms(value: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """Return how long each value vector is once its head's slice of the output projection has been applied.

    That is ‖v_j^h W_O^h‖, or ‖f(x_j)‖ of Kobayashi et al. 2020, "Attention is Not Only a Weight", equation 5, float32,
    axes ``(n_heads, n_key)``, from `value` of axes ``(n_value_heads, n_key, d)`` and `projection` of axes ``(n_heads *
    d, d_model)``. The bias of the output projection belongs to no head and is left out.
    """
    slices = projection.unflatten(0, (-1, value.shape[-1]))
    group = len(slices) // len(value)
    with torch.autocast(value.device.type, enabled=False):  # the model's pass may have it on
        norms = [torch.linalg.vector_norm(value[i // group].float() @ w.float(), dim=-1) for i, w in enumerate(slices)]
    return torch.stack(norms)
