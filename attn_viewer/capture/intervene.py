"""Interventions: what a model does when some of its heads attend otherwise, or not at all."""

import contextlib
import threading
import weakref
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError, OptionError
from ..maps import choose_numbers
from .guard import use_visible_attention
from .kernels import blocks_future
from .mixtures import IN_FORCE, SDPA, Change, FusedAttention, Term, mix_outputs, mix_weights
from .prompt import takes_argument
from .targets import find_target
from .watch import ModuleStack

MODES = ("zero", "mean", "uniform", "bos")
_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
_JOINS = (torch.cat, torch.concat)
# Scores so far below the largest of their row are masked, whichever number the model masks with.
_MASKED_BY = 5000.0
_active = weakref.WeakKeyDictionary()
_active_lock = threading.Lock()


class Intervention:
    """A change of some heads' attention patterns, in force inside a ``with`` block.

    Made by `ablate_heads` and `merge_heads`. It can be entered again after it ended, and inside others, which then
    act first.

    Parameters
    ----------
    model : torch.nn.Module
        Whose heads they are.
    heads : sequence of tuple of int
        ``(layer, head)`` of those that change, true numbers.
    change : callable
        Takes ``(layer, head, mixtures)``, the mixtures of all heads so far, and returns a head's new one.
    description : str
        What it does, in a few words for figures and tables.
    kind : str, optional
        Which attention of an encoder-decoder.
    rows : sequence of int, optional
        Element of the batch in which each of `heads` changes; left out, all.
    """

    def __init__(self, model, heads, change, description, *, kind=None, rows=None):
        self.model, self.heads, self.change = model, tuple(heads), change
        self.rows = (None,) * len(self.heads) if rows is None else tuple(rows)
        self.description = description
        self.target = find_target(model, kind)
        for layer, head in self.heads:
            choose_numbers([layer], self.target.layers, "layer")
            self.target.check_head(layer, head)

    def __repr__(self):
        """Say what it does."""
        return f"Intervention({self.description})"

    def __enter__(self):
        """Put it in force."""
        with _active_lock:
            surgery = _active.setdefault(self.model, Surgery(self.model))
        surgery.add(self)
        return self

    def __exit__(self, *error):
        """End it."""
        surgery = _active[self.model]
        if surgery.remove(self):
            del _active[self.model]

    def fold(self, layer, mixtures, row):
        """Return the mixtures of a layer's heads with this change on top.

        Parameters
        ----------
        layer : int
            True layer number.
        mixtures : dict of int to dict
            Those so far, of the heads that were changed.
        row : int or None
            Element of the batch; None for what changes in all.

        Returns
        -------
        dict of int to dict
            All of them.
        """
        return mixtures | {
            head: self.change(layer, head, mixtures)
            for (at, head), own in zip(self.heads, self.rows, strict=True)
            if at == layer and own in (None, row)
        }


def ablate_heads(model, heads, mode="zero", *, kind=None):
    """Take heads out of a model while a ``with`` block runs.

    ``with ablate_heads(model, [(5, 3)]): …``

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, or one that is called like it. It is not changed: forward hooks and a watch of its
        attention calls do the work, also inside `generate`, and end with the block whatever happens.
    heads : sequence of tuple of int
        ``(layer, head)`` of each, true numbers.
    mode : {"zero", "mean", "uniform", "bos"}
        What a head's pattern becomes. ``"zero"``: no weight at all, so that the head puts out nothing; the same as
        zeros in its slice of the output projection's input. ``"mean"``: each row is the mean over the rows up to it
        (over all rows in encoders), so that the head puts out the mean of its outputs and no query chooses;
        ``"uniform"``: the same weight on every key that the query sees; ``"bos"``: all weight on the first of
        these, where it rests when it looks for nothing (with a sliding window, the oldest in the window).
    kind : {"self", "encoder", "decoder", "cross"}, optional
        Which attention of an encoder-decoder; left out, the encoder's.

    Returns
    -------
    Intervention
        To be entered. Captured weights are those with the change.

    Raises
    ------
    OptionError
        If a head is not there or the mode is unknown.
    CaptureError
        On entering, if another thread has changed this model's heads; in the forward pass, if the model computes
        attention where nobody sees it, or for ``"mean"`` with a key-value cache, which knows no earlier outputs
        (generate with ``use_cache=False``).

    Notes
    -----
    Zero and mean ablation as in Michel et al. 2019, "Are Sixteen Heads Really Better than One?", and Wang et al.
    2022, "Interpretability in the Wild"; here the mean is over the positions of the same sequence, and over earlier
    ones only where attention is causal, so that nothing of the future leaks. In models with learned sinks a uniform
    pattern gives them nothing.
    """
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    pairs = _read_heads(heads)
    return Intervention(model, pairs, _ABLATIONS[mode], describe_ablation(pairs, mode), kind=kind)


def merge_heads(model, layer, head1, head2, alpha=0.5, *, kind=None):
    """Let two heads of a layer share one pattern while a ``with`` block runs.

    Both attend with α·A1 + (1 - α)·A2, each to its own values.

    Parameters
    ----------
    model : torch.nn.Module
        As in `ablate_heads`.
    layer, head1, head2 : int
        True numbers.
    alpha : float
        Share of the first head's pattern, 0 to 1.
    kind : {"self", "encoder", "decoder", "cross"}, optional
        Which attention of an encoder-decoder; left out, the encoder's.

    Returns
    -------
    Intervention
        To be entered. Captured weights are those with the change.

    Raises
    ------
    OptionError
        If a head is not there, both are the same, or `alpha` is not from 0 to 1.
    CaptureError
        As in `ablate_heads`.
    """
    (_, head1), (_, head2) = pairs = _read_heads([(layer, head1), (layer, head2)])
    if head1 == head2:
        raise OptionError(f"head {head1} of layer {layer} cannot be merged with itself; give two heads")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be a number from 0 to 1, got {alpha!r}")

    def change(layer, head, mixtures):
        parts = ((alpha, head1), (1 - alpha, head2))
        mixed = Counter()
        for share, part in parts:
            for term, old in _get_mixture(mixtures, part).items():
                mixed[term] += share * old
        return dict(mixed)

    words = f"heads {layer}.{head1} and {layer}.{head2} merged ({alpha:g} : {1 - alpha:g})"
    return Intervention(model, pairs, change, words, kind=kind)


def ablate_rows(model, heads, mode="zero"):
    """Take another head out of each element of a batch; see `ablate_heads`.

    Parameters
    ----------
    model : torch.nn.Module
        The model, to be run on batches of ``len(heads)``.
    heads : sequence of tuple of int
        ``(layer, head)`` for each element.
    mode : str
        As in `ablate_heads`.

    Returns
    -------
    Intervention
        To be entered.
    """
    pairs = _read_heads(heads)
    return Intervention(model, pairs, _ABLATIONS[mode], describe_ablation(pairs, mode), rows=range(len(pairs)))


def _read_heads(heads):
    try:
        pairs = [(layer, head) for layer, head in heads]
    except (TypeError, ValueError):
        pairs = []
    flat = [number for pair in pairs for number in pair]
    if not pairs or any(isinstance(number, bool) or not hasattr(number, "__index__") for number in flat):
        raise OptionError(f"heads must be (layer, head) pairs of whole numbers, at least one, got {heads!r}")
    return [(layer.__index__(), head.__index__()) for layer, head in pairs]


def describe_ablation(pairs, mode):
    """Say which heads were ablated how, in a few words.

    Parameters
    ----------
    pairs : sequence of tuple of int
        ``(layer, head)`` of each.
    mode : str
        As in `ablate_heads`.

    Returns
    -------
    str
        Such as ``head 5.3 zeroed``.
    """
    names = [f"{layer}.{head}" for layer, head in pairs]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    what = {"zero": "zeroed", "mean": "set to the mean", "uniform": "made uniform", "bos": "on the first token"}[mode]
    return f"head{'s' * (len(names) > 1)} {shown} {what}"


def _get_mixture(mixtures, head):
    return mixtures.get(head, {Term("own", head): 1.0})


_ABLATIONS = {
    "zero": lambda layer, head, mixtures: {},
    "mean": lambda layer, head, mixtures: {
        term._replace(is_mean=True): share for term, share in _get_mixture(mixtures, head).items()
    },
    "uniform": lambda layer, head, mixtures: {Term("uniform", head): 1.0},
    "bos": lambda layer, head, mixtures: {Term("first", head): 1.0},
}


class Surgery(TorchFunctionMode):
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
        self.places = {}  # name of a module -> (attention module it belongs to, target)
        self.runs, self.touched = Counter(), set()
        self.run, self.is_cached = 0, False
        self.sunk = None  # shape of the last scores that a column of sinks was put beside

    def add(self, intervention):
        """Put an intervention in force, on top of the others."""
        if self.thread != threading.get_ident():
            raise CaptureError(
                "another thread has changed heads of this model; wait for it to end, or load the model twice"
            )
        self.interventions.append(intervention)
        for module in intervention.target.modules:
            for name in self._names_below(module):
                self.places[name] = module, intervention.target
        if len(self.interventions) == 1:
            self._open()

    def remove(self, intervention):
        """End an intervention; tell whether it was the last."""
        self.interventions.remove(intervention)
        if not self.interventions:
            self.resources.close()
        return not self.interventions

    def _names_below(self, module):
        names = (name for name, _ in self.model.named_modules(remove_duplicate=False))
        return [name for name in names if name == module or name.startswith(f"{module}.")]

    def _open(self):
        with contextlib.ExitStack() as resources:
            resources.enter_context(use_visible_attention(self.model))
            self.stack = ModuleStack(self.model)
            # Before the names of ended modules are taken off, as the hook asks which one ended.
            for module in self.stack.known:
                resources.callback(module.register_forward_hook(self._leave).remove)
            resources.enter_context(self.stack.follow())
            for module in self.stack.known:
                if takes_argument(module, "past_key_values"):
                    hook = module.register_forward_pre_hook(self._note_cache, with_kwargs=True)
                    resources.callback(hook.remove)
            resources.enter_context(self)
            IN_FORCE.count += 1
            resources.callback(self._let_go)
            self.resources = resources.pop_all()

    @staticmethod
    def _let_go():
        IN_FORCE.count -= 1

    def _note_cache(self, module, args, kwargs):
        """See whether a pass goes on where another ended."""
        if len(self.stack.names) == 1:
            past = kwargs.get("past_key_values")
            length = getattr(past, "get_seq_length", lambda: len(past or ()))
            self.is_cached = bool(length())

    def _leave(self, module, args, output):
        name = self.stack.names[-1]
        place = self.places.get(name)
        if place is None or place[0] != name:
            return
        is_changed = bool(self._fold(name, place[1]))
        self.runs[name] += 1
        if is_changed and name not in self.touched:
            raise CaptureError(
                f"the attention of module {name!r} ({type(module).__name__}) is computed where it cannot be changed; "
                "load the model with attn_implementation='sdpa' or 'eager'"
            )
        self.touched.discard(name)

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

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Run `func`; change its result if it is attention of a changed head."""
        kwargs = kwargs or {}
        if func is SDPA:
            IN_FORCE.last = None
        elif func not in _SOFTMAX and func not in _JOINS:
            return func(*args, **kwargs)
        name, target = self.places.get(self.stack.names[-1] if self.stack.names else "", (None, None))
        folded = self._fold(name, target) if name is not None else {}
        if folded and func is SDPA:
            self.touched.add(name)
            return self._change_call(target, folded, *args, **kwargs)
        output = func(*args, **kwargs)
        if not folded:
            return output
        first = args[0] if args else next(iter(kwargs.values()))
        if func in _JOINS:
            if first[-1].ndim == output.ndim and first[-1].shape[-1] == 1 < output.shape[-1]:
                self.sunk = output.shape
            return output
        n_heads = target.n_heads or output.shape[-3]
        is_flat = output.ndim == 3 and len(output) % n_heads == 0  # batch and heads on one axis
        by_head = output.unflatten(0, (-1, n_heads)) if is_flat else output
        if by_head.ndim != 4 or by_head.shape[1] != n_heads:
            return output
        self.touched.add(name)
        return self._change_weights(by_head, first.view(by_head.shape), target, folded).view(output.shape)

    def _check_means(self, folded, target, n_query, n_key):
        terms = (t for mixtures in folded.values() for mixture in mixtures.values() for t in mixture)
        if any(t.is_mean for t in terms) and (self.is_cached or (target.kind != "cross" and n_query != n_key)):
            raise CaptureError(
                "the mean of a head's outputs needs all queries of the sequence, which a key-value cache does not "
                "keep; pass use_cache=False"
            )

    def _change_call(
        self, target, folded, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *,
        scale=None, enable_gqa=False,
    ):  # fmt: skip
        is_ordered = target.kind == "cross" or is_causal
        is_ordered = is_ordered or (attn_mask is not None and blocks_future(attn_mask, query.shape[-2], key.shape[-2]))
        IN_FORCE.last = Change(folded.get(None) or folded.get(0, {}), is_ordered)
        output = SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
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
            return mix_outputs(FusedAttention(*parts, is_causal, dropout_p, scale), mixtures, is_ordered)

        return _change_rows(folded, mix, output).reshape(shape)

    def _change_weights(self, weights, scores, target, folded):
        """Change weights that eager attention has just made with a softmax."""
        top = scores.amax(-1, keepdim=True)
        visible = scores >= top - _MASKED_BY
        visible &= top > torch.finfo(scores.dtype).min / 2  # rows of padding see nothing
        n_query, n_key = weights.shape[2], weights.shape[3] - (self.sunk == scores.shape)
        visible[..., n_key:] = False
        self._check_means(folded, target, n_query, n_key)
        is_ordered = target.kind == "cross" or blocks_future(visible[..., :n_key], n_query, n_key)
        return _change_rows(folded, lambda rows, m: mix_weights(weights[rows], visible[rows], m, is_ordered), weights)


def _change_rows(folded, mix, whole):
    """Return `whole` with what `mix` makes of all elements of the batch, or of each that has mixtures of its own."""
    if None in folded:
        whole = mix(slice(None), folded[None])
    rows = list(whole.split(1)) if folded.keys() - {None} else [whole]
    for row in folded.keys() - {None}:
        rows[row] = mix(slice(row, row + 1), folded[row])
    return torch.cat(rows)
