"""Interventions: what a model does when some of its heads attend otherwise, or not at all."""

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..errors import OptionError
from ..selections import choose_numbers
from .guard import PatientLock
from .mixtures import Term
from .surgery import Surgery
from .targets import find_target

MODES = ("zero", "mean", "uniform", "bos")
_active = weakref.WeakKeyDictionary()
_active_lock = PatientLock()


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
        try:
            with _active_lock:
                surgery = _active.setdefault(self.model, Surgery(self.model))
                try:
                    surgery.add(self)
                finally:
                    if not surgery.interventions:
                        del _active[self.model]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        try:
            self._end()
        except BaseException:  # an interrupt: what is left is done again
            self._end()
            raise

    def _end(self) -> None:
        with _active_lock:
            surgery = _active.get(self.model)
            if surgery is not None and surgery.remove(self):
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


def ablate_heads(
    model: torch.nn.Module, heads: Iterable[Sequence[int]], mode: str = "zero", *, kind: str | None = None
) -> Any:
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


def merge_heads(
    model: torch.nn.Module, layer: int, head1: int, head2: int, alpha: float = 0.5, *, kind: str | None = None
) -> Any:
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
