"""What changes the heads of a model while it is captured: interventions say so here, and are asked about each call."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from .fused import SdpaArguments
from .guard import Loan
from .kernels import Scores


class HeadChange(Protocol):
    """What is made of the heads of one attention call."""

    def iterate_weights(self, scores: Scores, rows: slice, *, step: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the changed weights of some rows, `step` at a time, as `kernels.iterate_weights` does.

        `scores` are those of all heads and rows of a layer, as they would be without the change.
        """


class HeadIntervention(Protocol):
    """An intervention that is in force."""

    model: torch.nn.Module  # whose heads it changes
    heads: tuple[tuple[int, int], ...]  # layer and number of each
    description: str  # what it does, in a few words


class HeadChanger(Protocol):
    """What changes heads of one model, by some interventions."""

    @property
    def interventions(self) -> Sequence[HeadIntervention]:
        """Those in force, in the order in which they act."""

    def find_change(self, given: SdpaArguments) -> HeadChange | None:
        """Return what it makes of a call that the running module makes; None where it leaves its heads alone."""


class _InForce(threading.local):
    """What changes heads in this thread."""

    def __init__(self) -> None:
        self.changers: dict[HeadChanger, None] = {}  # in the order in which they began


_IN_FORCE = _InForce()


def announce_changer(changer: HeadChanger, loan: Loan) -> None:
    """Have captures of this thread ask what changes heads, as long as a loan is open."""
    changers = _IN_FORCE.changers
    loan.note(partial(changers.pop, changer, None))
    changers[changer] = None


def list_interventions() -> list[HeadIntervention]:
    """Return the interventions that are in force in this thread."""
    return [intervention for changer in _IN_FORCE.changers for intervention in changer.interventions]


def find_change(given: SdpaArguments) -> HeadChange | None:
    """Return what is made of the heads of a call that a module is about to make; None where nothing is."""
    changes = (changer.find_change(given) for changer in _IN_FORCE.changers)
    return next((change for change in changes if change is not None), None)
