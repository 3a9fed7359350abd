"""The layers of one kind of attention in a model, as far as they were seen."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.weak import TensorWeakRef

from ..attentions import Array
from ..errors import CaptureError
from ..selections import describe_numbers
from .padding import WHOLE, Kept

# Weak references to the query and key of a call.
Inputs = tuple[TensorWeakRef, ...]


@dataclasses.dataclass
class Stack:
    """The layers of one kind of attention in a model, as far as they were seen."""

    name: str  # of its modules, qualified, with * for indices; layers over other tokens have it too
    shape: tuple[int, int]  # query and key tokens of every layer
    n_layers: int  # how many layers the model seems to have there
    first: int = 0  # position of its first query among the keys
    continues: bool = False  # whether earlier passes made some of the keys
    kept_tokens: Kept = WHOLE  # without padding
    causal: bool = True
    has_sinks: bool = False
    softcap: float | None = None
    sources: set[str] = dataclasses.field(default_factory=set)
    reduction: str | None = None
    cell: tuple[int, int] = (1, 1)
    calls: set[int] = dataclasses.field(default_factory=set)  # layers that ran, kept or not
    last: tuple[int, Inputs | None] | None = None  # the last of them, and what its call was given
    # Head numbers and what was kept of each layer.
    kept: dict[int, tuple[tuple[int, ...], Array]] = dataclasses.field(default_factory=dict)
    # By number of heads: scores of layers that had one row, axes (n_heads, n_key), of which nothing has been kept yet.
    waiting: dict[int, dict[int, torch.Tensor]] = dataclasses.field(default_factory=dict)
    # Tokens of the layers where they are not the wanted ones.
    elsewhere: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    unscaled: str | None = None  # the first module whose values or projection were not seen, where they were wanted

    @property
    def size(self) -> tuple[int, int]:
        """Query and key tokens that are no padding."""
        n_query, n_key = self.shape
        return len(range(n_query)[self.kept_tokens.queries]), len(range(n_key)[self.kept_tokens.keys])

    @property
    def depth(self) -> int:
        """How many layers ran."""
        return len(self.calls | self.elsewhere.keys())

    def takes_turns_with(self, other: Stack) -> bool:
        """Tell whether both have layers of the same list, and none in common."""
        (prefix, _, rest), (other_prefix, _, other_rest) = (one.name.partition("*") for one in (self, other))
        is_list = prefix == other_prefix and "*" in self.name and "*" not in rest + other_rest
        return is_list and bool(other.calls) and self.calls.isdisjoint(other.calls)

    def is_equal_to(self, other: Stack) -> bool:
        """Tell whether nothing makes one of two the main stack."""
        sizes = [(one.depth, len(one.calls), one.size) for one in (self, other)]
        return sizes[0] == sizes[1] and not self.elsewhere and not other.elsewhere

    def absorb(self, other: Stack) -> None:
        """Add layers whose attention goes by another name (one of them is wrapped, or of another class)."""
        if (self.shape, self.reduction, self.cell) != (other.shape, other.reduction, other.cell):
            raise CaptureError(
                f"layers {describe_numbers(sorted(other.calls))} attend in {other.name!r} from {other.shape[0]} to "
                f"{other.shape[1]} positions and layers {describe_numbers(sorted(self.calls))} in {self.name!r} from "
                f"{self.shape[0]} to {self.shape[1]}, which make no one map; capture_attention_calls shows each"
            )
        self.calls |= other.calls
        self.kept |= other.kept
        self.sources |= other.sources
        self.causal &= other.causal
        self.has_sinks |= other.has_sinks
        self.softcap = other.softcap if self.softcap is None else self.softcap
        self.unscaled = self.unscaled or other.unscaled
