"""What an atlas holds for a page: each file declared once, and checked against that when it is read.

::

    {model}/atlas/census.npz   what `analysis.census` counted, from which a run goes on and all else is made
                  atlas.json  L{l}H{h}.json  prompts-{n}.json   `AtlasIndex`, `HeadEntry`, `PromptEntries`
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ActivationsDamagedError, ActivationsMissingError
from ..hints import describe_hint, fits_hint

if TYPE_CHECKING:
    from typing_extensions import Self

    from .folder import Model

ATLAS = "atlas"
# A prompt where a score has a value: number of the prompt, value, query, keys that it looks at most, their weights.
Example = tuple[int, float, int, Sequence[int], Sequence[float]]
# A group of tokens: its name, how often it occurs, and the weight that its tokens send or get, in rows of attention.
Group = tuple[str, int, float]
# A singular direction: tokens at its one end and the other of what goes in, and of what comes out.
Direction = tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]]


class Entry:
    """Base of what stands in a file of an atlas."""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], name: str) -> "Self":
        """Return what came from a file; `ActivationsDamagedError`, which calls it `name`, if it is not as declared."""
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name not in plain or not fits_hint(plain[field.name], field.type):
                raise ActivationsDamagedError(
                    f"{name!r} must say {field.name} ({describe_hint(field.type)}); run attn-viewer atlas again"
                )
        return cls(**{field.name: plain[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]

    def to_plain(self) -> dict[str, Any]:
        """Return plain types, as a file holds them."""
        return dict(vars(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtlasIndex(Entry):
    """All heads."""

    heads: Sequence[tuple[int, int]]  # true numbers (layer, head)
    scores: Sequence[tuple[str, str, Sequence[float | None]]]  # name, label, and the mean over prompts for each head
    n_prompts: int
    part: int  # prompts of a file of prompts
    is_stored: bool  # whether the weights of the prompts are in the data folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadEntry(Entry):
    """One head; scores, lists of tokens and curves stand by name."""

    # Ends of the histogram, prompts in each of its bins, the same for all heads, and prompts without a value.
    distributions: Sequence[tuple[str, float, float, Sequence[int], int]]
    strongest: Sequence[tuple[str, Sequence[Example]]]  # the prompts with the highest value
    deciles: Sequence[tuple[str, Sequence[Example]]]  # from the lowest to the highest in steps of a tenth of all
    looks_from: Sequence[Group]  # tokens that send most, past each prompt's first
    looks_to: Sequence[Group]  # tokens that get most
    classes_from: Sequence[Group]
    classes_to: Sequence[Group]
    # Positions of the query that each number is the mean over, and the numbers.
    curves: Sequence[tuple[str, int, Sequence[float | None]]]
    # "QK" and "OV": singular values, largest first, and the directions of the first.
    circuits: Sequence[tuple[str, Sequence[float], Sequence[Direction]]]
    remark: str  # why there are no circuits, or what they leave out


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptEntries(Entry):
    """The tokens of some prompts, each ``(hash, labels)``."""

    prompts: Sequence[tuple[str, Sequence[str]]]


_KINDS: dict[str, type[Entry]] = {"atlas": AtlasIndex, r"L\d+H\d+": HeadEntry, r"prompts-\d+": PromptEntries}


def read_entry(model: "Model", name: str) -> Entry:
    """Read a file of an atlas by its name without ``.json``, or raise `GetActivationsError`."""
    kind = next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, name, re.ASCII)), None)
    if kind is None:
        raise ActivationsMissingError("an atlas has no such file")
    what = f"atlas of model {model.name!r} (attn-viewer atlas makes one)"
    return kind.from_plain(model.folder.read_json(model.name, ATLAS, f"{name}.json", what=what), f"{ATLAS}/{name}.json")


def list_entries(model: "Model") -> list[str]:
    """Return the names of the files that an atlas has, without ``.json``."""
    names = sorted(path.stem for path in (model.path / ATLAS).glob("*.json"))
    return [name for name in names if any(re.fullmatch(pattern, name, re.ASCII) for pattern in _KINDS)]
