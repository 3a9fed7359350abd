"""Census of heads: what each does over many prompts, kept small.

Sums are whole numbers, so that prompts and workers in any order give the same bits.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsuitableMapsError
from ..maps import AttentionMaps
from ..tokens import read_label
from .blocks import Frame, HeadBlock, find_obstacle, iterate_blocks, require_heads, require_unsigned
from .scores import CURVES, SCORES, choose_scores
from .table import HeadScores, average_scores

# What sums count in: weights are rounded to whole multiples of this.
UNIT = 2.0**-20
# Keys that are kept of a head's strongest query.
N_KEYS = 3
# Classes that a token's text alone decides; the others are "first token", "repeated" and "other".
_CLASSES: dict[str, Callable[[str], bool]] = {
    "newline": lambda text: "\n" in text,
    "punctuation": lambda text: bool(text.strip()) and all(unicodedata.category(c)[0] in "PS" for c in text.strip()),
    "digits": lambda text: text.strip().isdigit(),
    "capitalised": lambda text: text.strip()[:1].isupper(),
}
CLASSES = (*_CLASSES, "first token", "repeated", "other")


@dataclasses.dataclass(frozen=True)
class PromptRecord:
    """What is kept of one prompt.

    Peaks are a query of each head and the `N_KEYS` keys that it looks at most, -1 where there are fewer. First comes
    the query with the largest weight past the first key, then for each of `scores.CURVES` the one where that is
    largest, each times the logarithm of how many keys the query sees.
    """

    tokens: tuple[str, ...]  # labels of all
    scores: NDArray[np.float32]  # axes (n_scores, n_heads)
    peaks: NDArray[np.int32]  # positions, axes (1 + n_curves, n_heads, 1 + N_KEYS)
    weights: NDArray[np.float32]  # of the keys of peaks, axes (1 + n_curves, n_heads, N_KEYS)


@dataclasses.dataclass
class Census:
    """What heads do over some prompts.

    Tallies are whole numbers, column 0 how often something occurs and then a sum of weights a head, in `UNIT`. Those of
    tokens and classes have axes ``(2, 1 + n_heads)``: the weight that queries with this token put on keys past the
    first, and the weight that keys with it get. Those of `scores.CURVES` go by position of the query: axes
    ``(1 + n_heads, n_positions)``.
    """

    model_id: str
    heads: tuple[tuple[int, int], ...]  # true numbers (layer, head)
    names: tuple[str, ...]  # of the scores
    asked: list[str] | None = None  # those that were named; None means all
    prompts: dict[str, PromptRecord] = dataclasses.field(default_factory=dict)  # by hash
    # By label, the first token of a prompt not counted; by class, where it counts; by score.
    tokens: dict[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    classes: dict[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    curves: dict[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)

    def add(self, other: "Census") -> None:
        """Add other prompts of the same heads and scores."""
        self.prompts |= other.prompts
        for mine, theirs in ((self.tokens, other.tokens), (self.classes, other.classes), (self.curves, other.curves)):
            for name, tally in theirs.items():
                mine[name] = _add_padded(mine[name], tally) if name in mine else tally

    def average(self) -> HeadScores:
        """Return the mean of each score over prompts."""
        layer, head = np.array(self.heads).T
        return average_scores(
            HeadScores(layer, head, dict(zip(self.names, record.scores.astype(np.float64), strict=True)), self.model_id)
            for _, record in sorted(self.prompts.items())
        )


def _add_padded(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    long, short = (first, second) if first.shape[-1] >= second.shape[-1] else (second, first)
    total: NDArray[np.int64] = long.copy()
    total[..., : short.shape[-1]] += short
    return total


def take_census(maps: AttentionMaps, name: str, scores: Sequence[str] | None = None) -> Census:
    """Measure what heads do on one prompt, `name` its hash, from every weight of each head of self-attention.

    Left out, `scores` are all that these maps can have but those of singular values, which take longer than the
    capture. Raises `UnsuitableMapsError` if the maps are pooled, a mean over heads, or their queries are none of the
    keys.
    """
    require_heads(maps, "a census of heads", least_keys=2)
    require_unsigned(maps, "a census of heads")
    frame, obstacle = Frame(maps), find_obstacle(maps, positions=True)
    if obstacle is not None:
        raise UnsuitableMapsError(f"a census of heads {obstacle}")
    names = [each for each in choose_scores(scores, maps) if scores is not None or not SCORES[each].is_slow]
    blocks = [_Observed(block, names) for block in iterate_blocks(maps, frame)]
    sent, received = (np.concatenate([getattr(b, each) for b in blocks]) for each in ("sent", "received"))
    kept = (np.concatenate([getattr(b, each) for b in blocks], 1) for each in ("scores", "peaks", "weights"))
    tokens: dict[str, list[int]] = {}
    for place, label in enumerate(maps.tokens_key[1:], 1):
        tokens.setdefault(label, []).append(place)
    return Census(
        maps.model_id,
        tuple((layer, head) for layer, heads in zip(maps.layers, maps.heads, strict=True) for head in heads),
        tuple(names),
        None if scores is None else list(scores),
        {name: PromptRecord(maps.tokens_key, *kept)},
        _tally(tokens, maps.first_query, sent, received),
        _tally(classify_tokens(frame), maps.first_query, sent, received),
        {curve: _lay_out(maps.first_query, [blocks[0].counts, *(b.sums for b in blocks)], curve) for curve in CURVES},
    )


class _Observed:
    """What is kept of some heads of a prompt, sums in `UNIT`, a row a head."""

    def __init__(self, block: HeadBlock, names: Sequence[str]) -> None:
        frame, weights = block.frame, block.weights
        self.scores = np.array([SCORES[name].measure(block) for name in names], np.float32)
        self.sent = count_units(block.masses - weights[:, :, 0])
        self.received = count_units(weights).sum(1)
        surprise = np.log(np.maximum(frame.sees.sum(1), 1))
        found = [weights[:, :, 1:].max(-1) * surprise]
        self.counts, self.sums = {}, {}
        for curve, weigh in CURVES.items():
            values, counted = weigh(block)
            values = np.where(counted, values, 0)
            found.append(values * surprise)
            self.counts[curve], self.sums[curve] = counted[None], count_units(values)
        queries = np.stack(found).argmax(-1)
        rows = weights[np.arange(len(weights)), queries]
        keys = np.argsort(-rows, axis=-1, kind="stable")[..., :N_KEYS]
        largest = np.take_along_axis(rows, keys, -1)
        self.peaks = np.full((*queries.shape, 1 + N_KEYS), -1, np.int32)
        self.peaks[..., 0] = queries + frame.maps.first_query
        self.peaks[..., 1 : 1 + keys.shape[-1]] = np.where(largest > 0, keys, -1)
        self.weights = np.zeros((*queries.shape, N_KEYS), np.float32)
        self.weights[..., : keys.shape[-1]] = largest


def count_units(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round weights to whole numbers of `UNIT`, whose sums float64 holds exactly."""
    units = values * (1 / UNIT)
    return np.rint(units, out=units)


def _lay_out(first: int, parts: Iterable[Mapping[str, NDArray[Any]]], curve: str) -> NDArray[np.int64]:
    """Return a curve's rows by position, where queries begin at `first`."""
    return np.pad(np.concatenate([part[curve] for part in parts]), ((0, 0), (first, 0))).astype(np.int64)


def _tally(
    groups: Mapping[str, Iterable[int]], first: int, sent: NDArray[np.float64], received: NDArray[np.float64]
) -> dict[str, NDArray[np.int64]]:
    """Sum what is sent by queries, which begin at position `first`, and received by keys, over groups of positions."""
    tallies = {}
    for name, positions in groups.items():
        keys = np.fromiter(positions, np.int64)
        queries = keys[(keys >= first) & (keys < first + sent.shape[1])] - first
        sums = [np.append(len(places), of[:, places].sum(1)) for places, of in ((queries, sent), (keys, received))]
        tallies[name] = np.array(sums, np.int64)
    return tallies


def classify_tokens(frame: Frame) -> dict[str, list[int]]:
    """Return the positions of the tokens of each class of `CLASSES`; a token may be in several."""
    texts = [read_label(label).decode("utf-8", "replace") for label in frame.maps.tokens_key]
    found = {name: [i for i, text in enumerate(texts) if fits(text)] for name, fits in _CLASSES.items()}
    found |= {"first token": [0], "repeated": frame.positions[frame.repeats.any(1), 0].tolist()}
    known = {place for places in found.values() for place in places}
    return found | {"other": [i for i in range(len(texts)) if i not in known]}
