"""Attention calls that are changed: a watch puts other patterns in the place of those that heads compute."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..capture.changes import announce_changer
from ..capture.eager import SOFTMAX
from ..capture.fused import SDPA, SdpaArguments
from ..capture.guard import Loan, Watch, use_visible_attention
from ..capture.kernels import blocks_future
from ..capture.module_stack import ModuleStack
from ..errors import CaptureError
from ..inputs.signature import takes_argument
from .mixed_patterns import Mixtures, PatternChange, Queries, mix_outputs, mix_weights

if TYPE_CHECKING:
    from ..capture.targets import Target
    from .changed_heads import Intervention

_JOINS = (torch.cat, torch.concat)
# Scores so far below the largest of their row are masked, whichever number the model masks with.
_MASKED_BY = 5000.0


class _Place(NamedTuple):
    """Where heads are about to be changed: the attention module that runs, and what is made of its heads.

    The mixtures are those of each element of the batch that has its own; None stands for all.
    """

    name: str
    target: Target
    folded: dict[int | None, Mixtures]


class ChangingWatch(Watch):
    """All interventions on one model that are in force, done to each of its attention calls.

    Captures of the same thread ask it what it makes of each (`capture.changes.HeadChanger`).
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.interventions: list[Intervention] = []
        self.thread = threading.get_ident()
        self.loan = Loan()
        self.places: dict[str, tuple[str, Target]] = {}  # name of a module -> (attention module it belongs to, target)
        self.runs: Counter[str] = Counter()
        self.touched: set[str] = set()
        self.run, self.is_cached = 0, False
        self.sunk: torch.Size | None = None  # shape of the last scores that a column of sinks was put beside
        self.handlers |= {SDPA: self._see_call}
        self.handlers |= {function: partial(self._see_softmax, function) for function in SOFTMAX}
        self.handlers |= {function: partial(self._see_join, function) for function in _JOINS}

    def add(self, intervention: Intervention) -> None:
        """Put an intervention in force, on top of the others."""
        if self.thread != threading.get_ident():
            raise CaptureError(
                "another thread has changed heads of this model; wait for it to end, or load the model twice"
            )
        if not self.interventions:
            self._open()
        self.interventions.append(intervention)
        names = [name for name, _ in self.model.named_modules(remove_duplicate=False)]
        for module in intervention.target.modules:
            below = (name for name in names if name == module or name.startswith(f"{module}."))
            self.places |= dict.fromkeys(below, (module, intervention.target))

    def remove(self, intervention: Intervention) -> bool:
        """End an intervention, where it is in force; tell whether none is left."""
        if intervention in self.interventions:
            self.interventions.remove(intervention)
        if not self.interventions:
            self.loan.close()
        return not self.interventions

    def _open(self) -> None:
        self.stack = ModuleStack(self.model)
        with Loan() as loan:
            use_visible_attention(self.model, loan)
            # Before the names of ended modules are taken off, as the hook asks which one ended.
            for module in self.stack.known:
                loan.add_hook(module.register_forward_hook, self._leave)
            self.stack.follow(loan)
            for module in self.stack.known:
                if takes_argument(module, "past_key_values"):
                    loan.add_hook(module.register_forward_pre_hook, self._note_cache, with_kwargs=True)
            loan.enter_mode(self)
            announce_changer(self, loan)
            self.loan = loan.pass_on()

    def _note_cache(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """See whether a pass goes on where another ended."""
        if len(self.stack.frames) == 1:
            past = kwargs.get("past_key_values")
            length = getattr(past, "get_seq_length", lambda: len(past or ()))
            self.is_cached = bool(length())

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        name = self.stack.name
        owner, target = self.places.get(name, ("", None))
        if target is None or owner != name:
            return
        is_changed = bool(self._fold(name, target))
        self.runs[name] += 1
        if is_changed and name not in self.touched:
            raise self._refuse(name)
        self.touched.discard(name)

    def _refuse(self, name: str) -> CaptureError:
        return CaptureError(
            f"the attention of module {name!r} ({type(self.model.get_submodule(name)).__name__}) is computed where it "
            "cannot be changed; it must call torch.nn.functional.scaled_dot_product_attention, or a softmax over axes "
            "(batch, head, query, key)"
        )

    def _fold(self, name: str, target: Target) -> dict[int | None, Mixtures]:
        """Return the mixtures of the layer that runs, for each element of the batch that has its own (None: all)."""
        if self.run != self.stack.runs:
            self.run = self.stack.runs
            self.runs.clear()
        layer = target.modules[name] + (self.runs[name] if target.is_shared else 0)
        here = [i for i in self.interventions if i.target.path == target.path]
        folded: dict[int | None, Mixtures] = {}
        for row in {row for intervention in here for row in intervention.rows}:
            mixtures: Mixtures = {}
            for intervention in here:
                mixtures = intervention.fold(layer, mixtures, row)
            if mixtures:
                folded[row] = mixtures
        return folded

    def _find_place(self) -> _Place | None:
        """Return where heads are about to be changed; None where the running module leaves them alone."""
        name, target = self.places.get(self.stack.name, ("", None))
        folded = {} if target is None else self._fold(name, target)
        return _Place(name, target, folded) if target is not None and folded else None

    def find_change(self, given: SdpaArguments) -> PatternChange | None:
        """Return what is made of the heads of a call that the running module makes; None where nothing is."""
        place = self._find_place()
        if place is None:
            return None
        return PatternChange(place.folded.get(None) or place.folded.get(0, {}), self._look_at(given, place.target))

    @staticmethod
    def _look_at(given: SdpaArguments, target: Target) -> Queries:
        is_cross, mask = target.kind == "cross", given.attn_mask
        is_ordered = mask is not None and blocks_future(mask, given.query.shape[-2], given.key.shape[-2])
        return Queries(is_ordered or is_cross or given.is_causal, not is_cross)

    def _see_join(self, function: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Note where a column of sinks is put beside scores."""
        output = function(*args, **kwargs)
        parts = args[0] if args else next(iter(kwargs.values()))
        is_column = parts[-1].ndim == output.ndim and parts[-1].shape[-1] == 1 < output.shape[-1]
        if is_column and self._find_place() is not None:
            self.sunk = output.shape
        return output

    def _see_softmax(self, function: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute a softmax, and change it where it is that of changed heads."""
        place = self._find_place()
        output = function(*args, **kwargs)
        if place is None:
            return output
        scores = args[0] if args else next(iter(kwargs.values()))
        n_heads = place.target.n_heads or output.shape[-3]
        is_flat = output.ndim == 3 and len(output) % n_heads == 0  # batch and heads on one axis
        by_head = output.unflatten(0, (-1, n_heads)) if is_flat else output
        if by_head.ndim > 4 and n_heads in by_head.shape[:-2]:  # several streams at once (ProphetNet)
            raise self._refuse(place.name)
        if by_head.ndim != 4 or by_head.shape[1] != n_heads:
            return output
        self.touched.add(place.name)
        return self._change_weights(place, by_head, scores.view(by_head.shape)).view(output.shape)

    def _check_means(self, place: _Place, n_query: int, n_key: int) -> None:
        terms = (t for mixtures in place.folded.values() for mixture in mixtures.values() for t in mixture)
        if any(t.is_mean for t in terms) and (self.is_cached or (place.target.kind != "cross" and n_query != n_key)):
            raise CaptureError(
                "the mean of a head's outputs needs all queries of the sequence, which a key-value cache does not "
                "keep; pass use_cache=False"
            )

    def _see_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute an attention call, that of changed heads otherwise."""
        place = self._find_place()
        if place is None:
            return SDPA(*args, **kwargs)
        self.touched.add(place.name)
        given = SdpaArguments(*args, **kwargs)
        queries = self._look_at(given, place.target)
        output, query, mask = given.compute(), given.query, given.attn_mask
        shape, n_heads = output.shape, place.target.n_heads or query.shape[1]
        mask = mask if mask is None else mask[(None,) * (4 - mask.ndim)]
        if query.shape[1] != n_heads and query.shape[1] * query.shape[2] == n_heads:
            # transformers from 5 on makes heads that share keys the rows of one, where there is a single query.
            query, output = (part.flatten(1, 2).unsqueeze(2) for part in (query, output))
            if mask is not None and mask.shape[2] > 1:
                mask = mask.flatten(1, 2).unsqueeze(2)
        self._check_means(place, query.shape[2], given.key.shape[2])

        def mix(rows: slice, mixtures: Mixtures) -> torch.Tensor:
            one_query, key, value, one_output = (
                part if len(part) == 1 else part[rows] for part in (query, given.key, given.value, output)
            )
            one_mask = mask if mask is None or len(mask) == 1 else mask[rows]
            one = given._replace(query=one_query, key=key, value=value, attn_mask=one_mask)
            return mix_outputs(one, one_output, PatternChange(mixtures, queries))

        return _change_rows(place.folded, mix, output).reshape(shape)

    def _change_weights(self, place: _Place, weights: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change weights that eager attention has just made with a softmax."""
        top = scores.amax(-1, keepdim=True)
        visible = scores >= top - _MASKED_BY
        visible &= top > torch.finfo(scores.dtype).min / 2  # rows of padding see nothing
        n_query, n_key = weights.shape[2], weights.shape[3] - (self.sunk == scores.shape)
        visible[..., n_key:] = False
        self._check_means(place, n_query, n_key)
        is_cross = place.target.kind == "cross"
        queries = Queries(is_cross or blocks_future(visible[..., :n_key], n_query, n_key), not is_cross)

        def mix(rows: slice, mixtures: Mixtures) -> torch.Tensor:
            return mix_weights(weights[rows], visible[rows], PatternChange(mixtures, queries))

        return _change_rows(place.folded, mix, weights)


def _change_rows(
    folded: dict[int | None, Mixtures], mix: Callable[[slice, Mixtures], torch.Tensor], whole: torch.Tensor
) -> torch.Tensor:
    """Return `whole` with what `mix` makes of all elements of the batch, or of each that has mixtures of its own."""
    if None in folded:
        whole = mix(slice(None), folded[None])
    rows = list(whole.split(1)) if folded.keys() - {None} else [whole]
    for row in folded:
        if row is not None:
            rows[row] = mix(slice(row, row + 1), folded[row])
    return torch.cat(rows)
