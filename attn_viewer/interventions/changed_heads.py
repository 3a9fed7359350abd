"""Interventions: heads that attend otherwise, or not at all, while a block runs."""

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import SupportsIndex

import torch

from ..capture.guard import PatientLock
from ..capture.targets import find_target
from ..errors import CaptureError, OptionError
from ..kinds import Kind
from ..options import AblationMode
from ..selections import choose_numbers
from .changed_calls import ChangingWatch
from .mixed_patterns import Mixture, Mixtures, Term

# Makes a head's mixture from its layer, its number and the mixtures of all heads of the layer so far.
Change = Callable[[int, int, Mixtures], Mixture]
_active: weakref.WeakKeyDictionary[torch.nn.Module, ChangingWatch] = weakref.WeakKeyDictionary()
_active_lock = PatientLock()


class Intervention:
    """A change of some heads' attention patterns, in force inside a ``with`` block.

    Made by `ablate_heads` and `merge_heads`. It can be entered again after it ended, and inside others, which then act
    first.

    Attributes
    ----------
    model
        Whose heads they are.
    heads
        ``(layer, head)`` of those that change, true numbers.
    description
        What it does, in a few words for figures and tables.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        heads: Iterable[tuple[int, int]],
        change: Change,
        description: str,
        *,
        kind: str | None = None,
        rows: Iterable[int] | None = None,
    ) -> None:
        self.model, self.heads, self.change = model, tuple(heads), change
        self.rows: tuple[int | None, ...] = (None,) * len(self.heads) if rows is None else tuple(rows)
        self.description = description
        self.target = find_target(model, kind)
        for layer, head in self.heads:
            choose_numbers([layer], self.target.layers, "layer")
            self.target.check_head(layer, head)

    def __repr__(self) -> str:
        """Say what it does."""
        return f"Intervention({self.description})"

    def __enter__(self) -> "Intervention":
        """Put it in force."""
        try:
            with _active_lock:
                _refuse_overlap(self.model)
                watch = _active.setdefault(self.model, ChangingWatch(self.model))
                try:
                    watch.add(self)
                finally:
                    if not watch.interventions:
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
            watch = _active.get(self.model)
            if watch is not None and watch.remove(self):
                del _active[self.model]

    def fold(self, layer: int, mixtures: Mixtures, row: int | None) -> Mixtures:
        """Return the mixtures of a layer's heads with this change on top, in an element of the batch (None: in all)."""
        return mixtures | {
            head: self.change(layer, head, mixtures)
            for (at, head), own in zip(self.heads, self.rows, strict=True)
            if at == layer and own in (None, row)
        }


def _refuse_overlap(model: torch.nn.Module) -> None:
    """Refuse to change heads of a part of a model, or of what it is a part of: nobody could tell what comes of both."""
    own = set(model.modules())
    for other, watch in _active.items():
        if other is not model and watch.thread == threading.get_ident() and not own.isdisjoint(other.modules()):
            raise CaptureError(
                f"heads of {type(other).__name__}, which shares modules with this {type(model).__name__}, are changed "
                "already; make all interventions on one of them"
            )


def ablate_heads(
    model: torch.nn.Module, heads: Iterable[Sequence[int]], mode: AblationMode = "zero", *, kind: Kind | None = None
) -> Intervention:
    """Take heads out of a model while a ``with`` block runs: ``with ablate_heads(model, [(5, 3)]): …``.

    Parameters
    ----------
    model
        A transformers model, or one that is called like it. It is not changed: forward hooks and a watch of its
        attention calls do the work, also inside `generate`, and end with the block whatever happens.
    heads
        ``(layer, head)`` of each, true numbers.
    mode
        What a head's pattern becomes. ``"zero"``: no weight at all, so that the head puts out nothing; the same as
        zeros in its slice of the output projection's input. ``"mean"``: each row is the mean over the rows up to it
        (over all rows in encoders), so that the head puts out the mean of its outputs and no query chooses;
        ``"uniform"``: the same weight on every key that the query sees; ``"bos"``: all weight on the first of
        these, where it rests when it looks for nothing (with a sliding window, the oldest in the window).
    kind
        Which attention; left out, that over the prompt itself.

    Returns
    -------
    Intervention
        To be entered. Captured weights are those with the change.

    Raises
    ------
    OptionError
        If a head is not there.
    CaptureError
        On entering, if another thread has changed this model's heads, or heads of a part of it or of what it is a part
        of are changed already; in the forward pass, if the model computes attention where nobody sees it, or for
        ``"mean"`` with a key-value cache, which knows no earlier outputs (generate with ``use_cache=False``).

    Notes
    -----
    Zero and mean ablation as in Michel et al. 2019, "Are Sixteen Heads Really Better than One?", and Wang et al.
    2022, "Interpretability in the Wild"; here the mean is over the positions of the same sequence, and over earlier
    ones only where attention is causal, so that nothing of the future leaks. In models with learned sinks a uniform
    pattern gives them nothing.
    """
    pairs = _read_heads(heads)
    return Intervention(model, pairs, _ABLATIONS[mode][0], describe_ablation(pairs, mode), kind=kind)


def merge_heads(
    model: torch.nn.Module, layer: int, head1: int, head2: int, alpha: float = 0.5, *, kind: Kind | None = None
) -> Intervention:
    """Let two heads of a layer share one pattern while a ``with`` block runs.

    Both attend with α·A1 + (1 - α)·A2, α from 0 to 1, each to its own values. `model`, `kind`, what is returned and the
    errors are as in `ablate_heads`; it is an `OptionError` too to merge a head with itself.
    """
    (_, head1), (_, head2) = pairs = _read_heads([(layer, head1), (layer, head2)])
    if head1 == head2:
        raise OptionError(f"head {head1} of layer {layer} cannot be merged with itself; give two heads")
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be a number from 0 to 1, got {alpha!r}")

    def change(layer: int, head: int, mixtures: Mixtures) -> Mixture:
        mixed: Mixture = {}
        for share, part in ((alpha, head1), (1 - alpha, head2)):
            for term, old in _get_mixture(mixtures, part).items():
                mixed[term] = mixed.get(term, 0.0) + share * old
        return mixed

    words = f"heads {layer}.{head1} and {layer}.{head2} merged ({alpha:g} : {1 - alpha:g})"
    return Intervention(model, pairs, change, words, kind=kind)


def ablate_rows(model: torch.nn.Module, heads: Sequence[tuple[int, int]], mode: AblationMode = "zero") -> Intervention:
    """Take another head, ``(layer, head)``, out of each element of a batch; see `ablate_heads`."""
    return Intervention(model, heads, _ABLATIONS[mode][0], describe_ablation(heads, mode), rows=range(len(heads)))


def _read_heads(heads: Iterable[Iterable[SupportsIndex]]) -> list[tuple[int, int]]:
    try:
        pairs = [(layer, head) for layer, head in heads]
    except (TypeError, ValueError):
        pairs = []
    flat = [number for pair in pairs for number in pair]
    if not pairs or any(isinstance(number, bool) or not hasattr(number, "__index__") for number in flat):
        raise OptionError(f"heads must be (layer, head) pairs of whole numbers, at least one, got {heads!r}")
    return [(layer.__index__(), head.__index__()) for layer, head in pairs]


def describe_ablation(pairs: Sequence[tuple[int, int]], mode: AblationMode) -> str:
    """Say which heads were ablated how, in a few words, such as ``head 5.3 zeroed``."""
    names = [f"{layer}.{head}" for layer, head in pairs]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"head{'s' * (len(names) > 1)} {shown} {_ABLATIONS[mode][1]}"


def _get_mixture(mixtures: Mixtures, head: int) -> Mixture:
    return mixtures.get(head, {Term("own", head): 1.0})


def _average_mixture(layer: int, head: int, mixtures: Mixtures) -> Mixture:
    return {term._replace(is_mean=True): share for term, share in _get_mixture(mixtures, head).items()}


# What each mode makes of a head, the words for it, and what that means to who chooses it.
_ABLATIONS: dict[AblationMode, tuple[Change, str, str]] = {
    "zero": (lambda layer, head, mixtures: {}, "zeroed", "the head puts out nothing"),
    "mean": (
        _average_mixture,
        "set to the mean",
        "each query gets the mean of the rows up to its own in this text (of all, in encoders): none chooses",
    ),
    "uniform": (
        lambda layer, head, mixtures: {Term("uniform", head): 1.0},
        "made uniform",
        "each query gives the same weight to every key that it sees",
    ),
    "bos": (
        lambda layer, head, mixtures: {Term("first", head): 1.0},
        "on the first token",
        "each query gives all weight to the first key that it sees",
    ),
}
ABLATION_MEANINGS: dict[str, str] = {mode: meaning for mode, (_, _, meaning) in _ABLATIONS.items()}
