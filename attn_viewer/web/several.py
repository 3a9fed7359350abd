"""Several maps in one page: what the front end must know to show them together."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..analysis.compare import AttentionComparison, compare_attention, require_alike
from ..errors import MapsMismatchError, OptionError, UnsuitableMapsError
from ..maps import AttentionMaps, require_maps
from .encode import (
    LABELS,
    POWER,
    Meta,
    Scores,
    count_cells,
    describe_facts,
    describe_maps,
    find_maxima,
    score_for_display,
)

# Heads are kept in float32 where all of them together take no more bytes than this.
EXACT_BYTES = 512 * 1024
# What one page may switch between.
MOST_MAPS = 16
PARTS = {"encoder": "Encoder", "decoder": "Decoder", "cross": "Cross attention", "self": "Self-attention"}


def list_maps(came: Any, what: str) -> list[AttentionMaps]:
    """Return the maps that a page is to hold, from what a person handed to `what`: maps, a sequence or a comparison.

    Raises `InvalidMapsError` if it is something else, or holds something else; `OptionError` if there are none, or more
    than `MOST_MAPS`.
    """
    if isinstance(came, AttentionComparison):
        return [came.first, came.second]
    if not isinstance(came, (list, tuple)):
        return [require_maps(came, what)]
    if not 0 < len(came) <= MOST_MAPS:
        raise OptionError(f"{what} needs 1 to {MOST_MAPS} maps, got {len(came)}")
    return [require_maps(one, what) for one in came]


def describe_several(
    maps: Sequence[AttentionMaps], scores: Sequence[Scores], *, exact: bool = False, notes: Sequence[str] = ()
) -> list[Meta]:
    """Describe maps that one page holds: those of each, and where two can be compared cell by cell the difference last.

    Each is as the front end's ``source.meta``; `scores` are those of each maps, as `describe_maps` takes them.
    """
    metas = [describe_maps(one, exact=exact, scores=own, notes=notes) for one, own in zip(maps, scores, strict=True)]
    if len(maps) == 1:
        return metas
    kinds = [one.kind for one in maps]
    are_parts = len(set(kinds)) == len(kinds)
    for i, (one, meta) in enumerate(zip(maps, metas, strict=True)):
        meta["name"] = PARTS[one.kind] if are_parts else chr(ord("A") + i)
        if are_parts or any(meta.get(name) != metas[0].get(name) for name in LABELS):
            sides = zip(("query", "key"), _list_sides(maps[0]), _list_sides(one), strict=True)
            meta["links"] = {axis: link_tokens(first, other) for axis, first, other in sides}
    if len(maps) == 2 and not are_parts:
        try:
            metas.append(_describe_difference(maps[0], maps[1], metas))
        except MapsMismatchError as reason:
            metas[0]["no_difference"] = str(reason)
    return metas


def describe_page(
    maps: Sequence[AttentionMaps],
    scores: Sequence[Scores],
    *,
    notes: Sequence[str] = (),
    most_bytes: float = EXACT_BYTES,
) -> list[Meta]:
    """Describe maps that one page holds as `describe_several`, in float32 if that takes at most `most_bytes`."""
    metas = describe_several(maps, scores, notes=notes)
    counts = [count_cells(meta) * sum(one.n_heads) for meta, one in zip(metas, maps, strict=False)]
    return metas if 4 * sum(counts) > most_bytes else describe_several(maps, scores, exact=True, notes=notes)


def _describe_difference(first: AttentionMaps, second: AttentionMaps, metas: Sequence[Meta]) -> Meta:
    """Describe B − A, which the front end computes; how far heads are apart goes with it as a score."""
    require_alike(first, second)
    try:
        scores: Scores = {"distance": [layer.tolist() for layer in compare_attention(first, second).distances]}
    except UnsuitableMapsError:
        scores = {}
    name = f"{second.model_id} − {first.model_id}" if first.model_id != second.model_id else second.model_id
    facts = dataclasses.replace(second.facts, signed=True, model_id=name, interventions=())
    pairs = zip(first.weights, second.weights, strict=True)
    maxima = [[find_maxima(b.astype(np.float32) - a, first) for a, b in zip(*pair, strict=True)] for pair in pairs]
    notes = ["The second maps minus the first."]
    if first.reduction == "pooled":
        notes.append(f"It is the difference of the {first.pooling} in each cell.")
    scale = max(kept for layer in maxima for kept, _ in layer) or 1.0
    meta = describe_facts(facts, scale=scale, exact=True, maxima=maxima, scores=scores, notes=notes)
    coded = [one["encoding"] for one in metas if one["encoding"]["type"] == "uint8"]
    errors = [POWER / 2 * codes["scale"] / (codes["zero"] or 255) for codes in coded]
    if errors:
        meta["encoding"] = {"type": "difference", "error": sum(errors)}
    return meta | {"name": "B − A", "difference": True}


def link_tokens(first: tuple[str, Sequence[str]], other: tuple[str, Sequence[str]]) -> list[int | None]:
    """Return for each token of `other` its position in `first`: runs that both have, and as many tokens between them.

    Tokens of different texts are never linked.
    """
    links: list[int | None] = [None] * len(other[1])
    if first[0] == other[0]:
        for tag, start, end, begin, stop in difflib.SequenceMatcher(None, first[1], other[1]).get_opcodes():
            if tag == "equal" or (tag == "replace" and end - start == stop - begin):
                links[begin:stop] = range(start, end)
    return links


def _list_sides(maps: AttentionMaps) -> list[tuple[str, Sequence[str]]]:
    """Return for queries and keys of a part of a model which text they are of, and its tokens."""
    if maps.kind == "cross":
        return [("target", maps.tokens_query), ("source", maps.tokens_key)]
    return [("source" if maps.kind == "encoder" else "target", maps.tokens_key)] * 2


def score_several(maps: Sequence[AttentionMaps], scores: Scores | None) -> list[Scores]:
    """Return for each of several maps what its heads can be sorted by; `scores` are those of maps that are alone."""
    if scores is None:
        return [score_for_display(one) for one in maps]
    if len(maps) > 1:
        raise OptionError("scores= belongs to one map; leave it out for several")
    return [scores]
