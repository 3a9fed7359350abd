"""Taking the weights of attention modules that compute them where no fused kernel hides them (eager mode).

Nothing is asked of the model, and its tensors are read only: a model that prunes tokens by them, a user's hooks and
the outputs of a caller who asked for them all have what they always have.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ..errors import CaptureError, shorten
from .changes import list_interventions
from .guard import Loan, Watch
from .module_stack import Frame, ModuleStack
from .numbering import has_no_softmax, is_called_attention, registered
from .targets import count_heads
from .watch import ModuleWeights

SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm)
# How far the rows of weights of half precision may be from 1.
_ROUNDING = 0.02


class EagerHooks:
    """Forward hooks that take attention weights out of the outputs of attention modules, or out of products.

    Other modules may hand on matrices whose rows sum to 1 that the model goes on to use (DeepSeek V4 mixes its streams
    with some), so looks alone do not make weights. The stack is followed from later on, so that a module is still on it
    when its hook runs.
    """

    def __init__(self, stack: ModuleStack, on_weights: Callable[[ModuleWeights], object]) -> None:
        self.stack = stack
        self.on_weights = on_weights
        self.counts: Counter[str] = Counter()
        self.unclear: set[str] = set()  # modules that multiply scores with values, but not as weights

    def install(self, loan: Loan, modules: Iterable[torch.nn.Module]) -> None:
        """Look at what those modules that are called attention hand out, as long as a loan is open."""
        for module in modules:
            if is_called_attention(self.stack.model, module, self.stack.known[module]):
                loan.add_hook(module.register_forward_hook, self._take, prepend=True)

    def look_through(self, watch: Watch) -> None:
        """Look at the products and softmaxes that a watch sees."""
        self.stack.on_leave.append(self._settle)
        watch.handlers |= {function: self._make_product(function) for function in _PRODUCTS}
        watch.handlers |= {torch.einsum: self._see_einsum, torch.baddbmm: self._make_product(torch.baddbmm, 1)}
        watch.handlers |= {function: self._make_softmax(function) for function in SOFTMAX}

    def _take(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        frame = self.stack.frames[-1]
        if type(module) in registered and not frame.has_shown:
            weights = registered[type(module)](module, args, output)
            if not _are_weights(weights, may_be_zero=True):
                raise CaptureError(
                    f"what is registered for {type(module).__name__} must return weights, axes (batch, n_heads, "
                    f"n_query, n_key), whose rows sum to at most 1; got {shorten(weights)}"
                )
            self._hand_on(frame, module, weights)
        if not isinstance(output, (tuple, list)) or frame.has_shown:
            return
        if output and isinstance(output[0], tuple):  # I-BERT pairs its outputs with their quantisation scale
            self._take(module, args, output[0])
            return
        may_be_zero = bool(list_interventions())
        found = [part for part in map(_order_axes, output[1:]) if _are_weights(part, may_be_zero)]
        if len(found) > 1:
            raise CaptureError(
                f"module {frame.name!r} returns {len(found)} tensors that look like attention weights; "
                "which of them they are is not known"
            )
        # Biases of positions may look like it where tokens are few; what values were multiplied with settles it.
        if found and (may_be_zero or not frame.products or _are_normalised(found[0], frame.softmaxes)):
            self._hand_on(frame, module, found[0])

    def _hand_on(self, frame: Frame, module: torch.nn.Module, weights: torch.Tensor) -> None:
        frame.has_shown = True
        self.counts[frame.name] += 1
        self.on_weights(ModuleWeights(frame.name, self.counts[frame.name] - 1, weights.detach(), module))

    def _make_product(self, function: Callable[..., torch.Tensor], first: int = 0) -> Callable[..., torch.Tensor]:
        def see(*args: Any, **kwargs: Any) -> torch.Tensor:
            output = function(*args, **kwargs)
            if len(args) > first + 1 and args[first + 1].ndim > 2:  # parameters have two axes
                self._note_product(args[first : first + 1], output)
            return output

        return see

    def _see_einsum(self, equation: Any, *operands: Any, **kwargs: Any) -> torch.Tensor:
        output = torch.einsum(equation, *operands, **kwargs)
        if isinstance(equation, str):
            given = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
            terms, _, result = equation.replace(" ", "").partition("->")
            pairs = list(zip(terms.split(","), given, strict=False))
            # Of weights, the last axis is summed over with the values, and the one before it is theirs alone.
            fit = [
                part
                for term, part in pairs
                if term[-1] not in result and term[-2:-1] in result and terms.count(term[-2:-1]) == 1
            ]
            if len(pairs) == 2:
                self._note_product(fit, output)
        return output

    def _note_product(self, operands: Sequence[torch.Tensor], output: torch.Tensor) -> None:
        if not self.stack.frames or output.ndim < 3:
            return
        inner = self.stack.frames[-1]
        for frame in self.stack.frames[: -3 if inner.is_function else -2 : -1]:
            if frame.has_shown:
                return
            found = [part for part in operands if part.ndim > 2 and tuple(part.shape[-2:]) in frame.scores]
            if found:
                if not any(found[0].data_ptr() == other.data_ptr() for other in frame.products):
                    frame.products.append(found[0])
                return
        inner.scores.add(tuple(output.shape[-2:]))

    def _make_softmax(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def see(*args: Any, **kwargs: Any) -> torch.Tensor:
            output = function(*args, **kwargs)
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if self.stack.frames and output.ndim > 2 and dim in (-1, output.ndim - 1):
                self.stack.frames[-1].softmaxes.append(tuple(output.shape))
            return output

        return see

    def _settle(self, frame: Frame, module: torch.nn.Module) -> None:
        """Take what a module that ends has multiplied values with, if that is sure to be its weights."""
        products, frame.products = frame.products, []
        if frame.has_shown or not products or has_no_softmax(self.stack.model, module):
            return
        weights = _add_axes(products[0], frame.softmaxes, count_heads(module, self.stack.model))
        if len(products) == 1 and weights is not None and _are_normalised(weights, frame.softmaxes):
            self._hand_on(frame, module, weights)
        else:
            self.unclear.add(frame.name)


def _order_axes(part: Any) -> Any:
    """Bring weights of axes (query, key, batch of one, head), as XLNet has them, to (batch, head, query, key)."""
    if not isinstance(part, torch.Tensor) or part.ndim != 4 or not part.shape[0] == part.shape[1] >= part.shape[2] == 1:
        return part
    # With one token, a row of ones is that of heads, which each have a single weight.
    return part.permute(2, 3, 0, 1) if len(part) > 1 or bool((part == 1).all()) else part


def _add_axes(weights: torch.Tensor, softmaxes: Sequence[tuple[int, ...]], n_heads: int | None) -> torch.Tensor | None:
    """Give weights the axes (batch, n_heads, n_query, n_key); None where nothing tells batch from heads."""
    if weights.ndim == 3:
        shapes = [shape for shape in softmaxes if len(shape) > 3 and torch.Size(shape).numel() == weights.numel()]
        if shapes:
            weights = weights.reshape(shapes[-1])
        elif n_heads and len(weights) % n_heads == 0:
            weights = weights.unflatten(0, (-1, n_heads))
        elif len(weights) == 1:
            weights = weights[None]
    return weights.flatten(1, -3) if weights.ndim > 3 else None  # groups of heads that share keys


def _sum_rows(part: Any) -> torch.Tensor | None:
    """Return what the rows of numbers that may be weights, axes (batch, n_heads, n_query, n_key), sum to."""
    if not isinstance(part, torch.Tensor) or part.ndim != 4 or not part.is_floating_point() or part.numel() == 0:
        return None
    # What is no number (of a model that overflows) is no reason to look elsewhere: maps refuse it.
    return None if part.min() < 0 else part.sum(dim=-1, dtype=torch.float32)


def _are_weights(part: Any, may_be_zero: bool) -> bool:
    """Tell attention weights from position biases and cached keys; an intervention can zero all heads of a layer."""
    sums = _sum_rows(part)
    return sums is not None and not bool(sums.max() > 1.01 or (sums.max() <= 1e-6 and not may_be_zero))


def _are_normalised(weights: torch.Tensor, softmaxes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether each row sums to 1, to 0 (padding, a head taken out) or, beside a sink, to less."""
    sums = _sum_rows(weights)
    if sums is None:
        return False
    has_sinks = any(shape[-1] == weights.shape[-1] + 1 for shape in softmaxes)
    are_right = ((sums - 1).abs() < _ROUNDING) | (sums == 0) | (has_sinks & (sums < 1)) | sums.isnan()
    return bool(are_right.all() and (sums != 0).any())
