"""Doing interventions: a watch that puts other patterns in the place of those that heads compute."""

import threading
from collections import Counter
from functools import partial

import torch

from ..errors import CaptureError
from ..inputs.signature import takes_argument
from .guard import Loan, Watch, use_visible_attention
from .kernels import blocks_future
from .mixtures import IN_FORCE, SDPA, SOFTMAX, Change, FusedAttention, Queries, mix_outputs, mix_weights
from .watch import ModuleStack

_JOINS = (torch.cat, torch.concat)
# Scores so far below the largest of their row are masked, whichever number the model masks with.
_MASKED_BY = 5000.0


class Surgery(Watch):
    """All interventions on one model that are in force, done to each of its attention calls.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.interventions = []
        self.thread = threading.get_ident()
        self.loan = Loan()
        self.places = {}  # name of a module -> (attention module it belongs to, target)
        self.runs, self.touched = Counter(), set()
        self.run, self.is_cached = 0, False
        self.sunk = None  # shape of the last scores that a column of sinks was put beside
        self.handlers |= {SDPA: self._see_call}
        self.handlers |= {function: partial(self._see_softmax, function) for function in SOFTMAX}
        self.handlers |= {function: partial(self._see_join, function) for function in _JOINS}

    def add(self, intervention):
        """Put an intervention in force, on top of the others."""
        if self.thread != threading.get_ident():
            raise CaptureError(
                "another thread has changed heads of this model; wait for it to end, or load the model twice"
            )
        if not self.interventions:
            self._open()
        self.interventions.append(intervention)
        IN_FORCE.interventions.append(intervention)
        for module in intervention.target.modules:
            for name in self._names_below(module):
                self.places[name] = module, intervention.target

    def remove(self, intervention):
        """End an intervention, where it is in force; tell whether none is left."""
        for listed in (IN_FORCE.interventions, self.interventions):
            if intervention in listed:
                listed.remove(intervention)
        if not self.interventions:
            self.loan.close()
        return not self.interventions

    def _names_below(self, module):
        names = (name for name, _ in self.model.named_modules(remove_duplicate=False))
        return [name for name in names if name == module or name.startswith(f"{module}.")]

    def _open(self):
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
            self.loan = loan.pass_on()

    def _note_cache(self, module, args, kwargs):
        """See whether a pass goes on where another ended."""
        if len(self.stack.frames) == 1:
            past = kwargs.get("past_key_values")
            length = getattr(past, "get_seq_length", lambda: len(past or ()))
            self.is_cached = bool(length())

    def _leave(self, module, args, output):
        name = self.stack.name
        place = self.places.get(name)
        if place is None or place[0] != name:
            return
        is_changed = bool(self._fold(name, place[1]))
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

    def _fold(self, name, target):
        """Return the mixtures of the layer that runs, for each element of the batch that has its own (None: all)."""
        if self.run != self.stack.runs:
            self.run = self.stack.runs
            self.runs.clear()
        layer = target.modules[name] + (self.runs[name] if target.is_shared else 0)
        here = [i for i in self.interventions if i.target.path == target.path]
        folded = {}
        for row in {row for intervention in here for row in intervention.rows}:
            mixtures = {}
            for intervention in here:
                mixtures = intervention.fold(layer, mixtures, row)
            if mixtures:
                folded[row] = mixtures
        return folded

    def _find_changes(self):
        """Return the module whose heads run, its target, and what is made of them; nothing where nothing is."""
        name, target = self.places.get(self.stack.name, (None, None))
        return name, target, self._fold(name, target) if name is not None else {}

    def _see_call(self, *args, **kwargs):
        """Compute an attention call, that of changed heads otherwise."""
        IN_FORCE.last = None
        name, target, folded = self._find_changes()
        if not folded:
            return SDPA(*args, **kwargs)
        self.touched.add(name)
        return self._change_call(target, folded, *args, **kwargs)

    def _see_join(self, function, *args, **kwargs):
        """Note where a column of sinks is put beside scores."""
        output = function(*args, **kwargs)
        parts = args[0] if args else next(iter(kwargs.values()))
        if self._find_changes()[2] and parts[-1].ndim == output.ndim and parts[-1].shape[-1] == 1 < output.shape[-1]:
            self.sunk = output.shape
        return output

    def _see_softmax(self, function, *args, **kwargs):
        """Compute a softmax, and change it where it is that of changed heads."""
        name, target, folded = self._find_changes()
        output = function(*args, **kwargs)
        if not folded:
            return output
        scores = args[0] if args else next(iter(kwargs.values()))
        n_heads = target.n_heads or output.shape[-3]
        is_flat = output.ndim == 3 and len(output) % n_heads == 0  # batch and heads on one axis
        by_head = output.unflatten(0, (-1, n_heads)) if is_flat else output
        if by_head.ndim > 4 and n_heads in by_head.shape[:-2]:  # several streams at once (ProphetNet)
            raise self._refuse(name)
        if by_head.ndim != 4 or by_head.shape[1] != n_heads:
            return output
        self.touched.add(name)
        return self._change_weights(by_head, scores.view(by_head.shape), target, folded).view(output.shape)

    def _check_means(self, folded, target, n_query, n_key):
        terms = (t for mixtures in folded.values() for mixture in mixtures.values() for t in mixture)
        if any(t.is_mean for t in terms) and (self.is_cached or (target.kind != "cross" and n_query != n_key)):
            raise CaptureError(
                "the mean of a head's outputs needs all queries of the sequence, which a key-value cache does not "
                "keep; pass use_cache=False"
            )

    def _change_call(
        self, target, folded, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *,
        scale=None, **options,
    ):  # fmt: skip
        is_cross = target.kind == "cross"
        is_ordered = is_cross or is_causal
        is_ordered = is_ordered or (attn_mask is not None and blocks_future(attn_mask, query.shape[-2], key.shape[-2]))
        queries = Queries(is_ordered, not is_cross)
        IN_FORCE.last = Change(folded.get(None) or folded.get(0, {}), queries)
        output = SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
        shape, n_heads = output.shape, target.n_heads or query.shape[1]
        mask = attn_mask if attn_mask is None else attn_mask[(None,) * (4 - attn_mask.ndim)]
        if query.shape[1] != n_heads and query.shape[1] * query.shape[2] == n_heads:
            # transformers from 5 on makes heads that share keys the rows of one, where there is a single query.
            query, output = (part.flatten(1, 2).unsqueeze(2) for part in (query, output))
            if mask is not None and mask.shape[2] > 1:
                mask = mask.flatten(1, 2).unsqueeze(2)
        self._check_means(folded, target, query.shape[2], key.shape[2])

        def mix(rows, mixtures):
            parts = (
                part if part is None or len(part) == 1 else part[rows] for part in (query, key, value, output, mask)
            )
            return mix_outputs(FusedAttention(*parts, is_causal, dropout_p, scale), mixtures, queries)

        return _change_rows(folded, mix, output).reshape(shape)

    def _change_weights(self, weights, scores, target, folded):
        """Change weights that eager attention has just made with a softmax."""
        top = scores.amax(-1, keepdim=True)
        visible = scores >= top - _MASKED_BY
        visible &= top > torch.finfo(scores.dtype).min / 2  # rows of padding see nothing
        n_query, n_key = weights.shape[2], weights.shape[3] - (self.sunk == scores.shape)
        visible[..., n_key:] = False
        self._check_means(folded, target, n_query, n_key)
        is_cross = target.kind == "cross"
        queries = Queries(is_cross or blocks_future(visible[..., :n_key], n_query, n_key), not is_cross)
        return _change_rows(folded, lambda rows, m: mix_weights(weights[rows], visible[rows], m, queries), weights)


def _change_rows(folded, mix, whole):
    """Return `whole` with what `mix` makes of all elements of the batch, or of each that has mixtures of its own."""
    if None in folded:
        whole = mix(slice(None), folded[None])
    rows = list(whole.split(1)) if folded.keys() - {None} else [whole]
    for row in folded.keys() - {None}:
        rows[row] = mix(slice(row, row + 1), folded[row])
    return torch.cat(rows)
