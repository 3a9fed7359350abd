"""Attention between words, sentences or spans in place of tokens.

Weights to a group are the sum over its keys, since a query spends one unit on all keys together; a group's row is the
mean over its queries, so that rows still sum to 1 (Clark et al. 2019, "What Does BERT Look At?", section 4.1).
"""

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ..cells import merge_groups
from ..errors import OptionError, UnsuitableMapsError
from ..maps import AttentionMaps
from ..selections import check_spans
from ..tokens import CONTINUES, NEWLINE, RETURN, SPACE, TAB, find_character_starts, join_labels

UNITS = ("words", "sentences", "segments")
SUMMARIES = ("sum", "max")
_BLANK = SPACE + NEWLINE + TAB + RETURN
_INNER_BLANK = re.compile(rf"[^{_BLANK}][{_BLANK}]")
_SPECIAL = re.compile(r"<(?!0x|U\+)[^<>]+>|\[[A-Z]+\]")
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*$")
_CLOSING = re.compile(r"[\"'”’»)\].!?…。！？]+")


def group_attention(
    maps: AttentionMaps, by: str | Sequence[tuple[str, int, int]] = "words", *, summary: str = "sum"
) -> AttentionMaps:
    """Merge tokens into words, sentences or spans.

    Parameters
    ----------
    maps : AttentionMaps
        Full or averaged over heads, not pooled.
    by : {"words", "sentences", "segments"} or sequence of (str, int, int)
        Words and sentences as the labels show them (`find_words`, `find_sentences`); the segments of the maps; or
        spans ``(name, start, stop)`` of tokens, ascending, `stop` left out. Tokens outside all spans or segments stay
        what they are. No word or sentence reaches over the border of a segment or of the prompt.
    summary : {"sum", "max"}
        Sum over the keys of a group and mean over its queries; or the largest weight of the block.

    Returns
    -------
    AttentionMaps
        The same layers, float32 of axes ``(n_heads, n_query_groups, n_key_groups)``; labels, `first_query`,
        `prompt_length` and `segments` count groups, and `grouping` says what was done. In cross attention spans and
        segments are those of the keys, and queries stay tokens.

    Raises
    ------
    OptionError
        If `by` or `summary` is unknown, the spans do not fit, or the maps have no segments.
    UnsuitableMapsError
        If the maps are pooled.
    """
    check_grouping(by, summary)
    if maps.reduction == "pooled":
        raise UnsuitableMapsError("pooled cells cannot be cut into groups of tokens; capture with reduction='full'")
    if maps.grouping:
        raise UnsuitableMapsError(f"the maps are grouped by {maps.grouping[0]} already; group those of tokens")
    if by == "segments" and not maps.segments:
        raise OptionError("the maps have no segments; prompt with chat messages or give spans (name, start, stop)")
    n_key = len(maps.tokens_key)
    borders = {maps.prompt_length, *(end for _, *ends in maps.segments for end in ends)}
    keys, names = _find_groups(maps.tokens_key, by, maps.segments, borders)
    if maps.kind != "cross":
        first, last = maps.first_query, maps.first_query + len(maps.tokens_query)
        own = [i for i in range(len(keys)) if keys[i] < last and [*keys, n_key][i + 1] > first]
        queries, first_query = [max(0, keys[i] - first) for i in own], own[0]
        query_names = [names[i] for i in own]
    else:
        wanted = by if by in ("words", "sentences") else ()
        queries, query_names = _find_groups(maps.tokens_query, wanted, (), ())
        first_query = 0
    weights = [_merge(layer, queries, keys, summary) for layer in maps.weights]
    place = {start: i for i, start in enumerate([*keys, n_key])}
    segments = [(name, place[start], place[stop]) for name, start, stop in maps.segments if {start, stop} <= set(place)]
    return dataclasses.replace(
        maps,
        weights=tuple(weights),
        tokens_key=tuple(names),
        tokens_query=tuple(query_names),
        ids_key=None,
        spans=(),
        first_query=first_query,
        prompt_length=int(np.searchsorted(keys, maps.prompt_length)),
        segments=tuple(segments),
        grouping=(by if isinstance(by, str) else "spans", summary),
    )


def check_grouping(by: str | Sequence[tuple[str, int, int]], summary: str = "sum") -> None:
    """Raise `OptionError` for what `group_attention` does not know, before there are maps."""
    if isinstance(by, str) and by not in UNITS:
        raise OptionError(f"attention is grouped by {', '.join(UNITS)} or spans (name, start, stop), got {by!r}")
    if not isinstance(by, str):
        check_spans(by, None, OptionError, "spans")
    if summary not in SUMMARIES:
        raise OptionError(f"the summary of a group must be one of {', '.join(SUMMARIES)}, got {summary!r}")


def _find_groups(
    tokens: Sequence[str],
    by: str | Sequence[tuple[str, int, int]],
    segments: Sequence[tuple[str, int, int]],
    borders: Iterable[int],
) -> tuple[list[int], list[str]]:
    """Return the first token of each group and the group's label."""
    if isinstance(by, str) and by != "segments":
        starts = find_words(tokens) if by == "words" else find_sentences(tokens)
        starts = sorted({*starts, *(b for b in borders if 0 < b < len(tokens))})
        return starts, [_join(tokens[a:b]) for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]
    spans = segments if isinstance(by, str) else check_spans(by, len(tokens), OptionError, "spans")
    inside = {i for _, start, stop in spans for i in range(start, stop)}
    groups = {start: name for name, start, _ in spans} | {i: t for i, t in enumerate(tokens) if i not in inside}
    starts = sorted(groups)
    return starts, [groups[start] for start in starts]


def _join(labels: Sequence[str]) -> str:
    text = join_labels(labels)
    return text.strip(SPACE).replace(SPACE, " ") or text


def _merge(weights: np.ndarray, queries: Sequence[int], keys: Sequence[int], summary: str) -> np.ndarray:
    """Merge rows and columns; groups are given by their first token and reach to the next."""
    if summary == "max":
        return merge_groups(np.maximum, weights, queries, keys).astype(np.float32)
    sums = merge_groups(np.add, weights, queries, keys, dtype=np.float32)
    return sums / np.diff([*queries, weights.shape[1]]).astype(np.float32)[:, None]


def find_words(tokens: Sequence[str]) -> list[int]:
    """Return the first token of each word in labels that `tokens.label_tokens` made, ascending, from 0.

    A word begins at a space or line break, at punctuation and after it, at and after a special token, and at each
    character of a script that is written without spaces; WordPiece's ``##`` goes on with a word, and no character is
    divided. A token with a space inside ends the word that it goes on with. Without any space among the labels every
    other token is a word.
    """
    starts, texts = _find_characters(tokens)
    has_spaces = any(SPACE in text for text in texts)
    pairs = zip(starts, [SPACE, *texts], texts, strict=False)
    return [start for start, before, text in pairs if start == 0 or _begins_word(before, text, has_spaces)]


def _find_characters(tokens: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the first token of each run that no character reaches out of, and the run's label."""
    alone = [0, *(i for i, token in enumerate(tokens) if _SPECIAL.fullmatch(token)), len(tokens)]
    borders = sorted({*alone, *(i + 1 for i in alone[1:-1])})
    starts = [a + i for a, b in itertools.pairwise(borders) for i in find_character_starts(tokens[a:b])]
    runs = [tokens[a:b] for a, b in itertools.pairwise([*starts, len(tokens)])]
    return starts, [run[0] if CONTINUES.match(run[0]) else join_labels(run) for run in runs]


def _begins_word(before: str, text: str, has_spaces: bool) -> bool:
    if CONTINUES.match(text) or not text:
        return False
    if not has_spaces or _SPECIAL.fullmatch(text) or _SPECIAL.fullmatch(before):
        return True
    if before and not before.strip(SPACE):  # the space with which this word begins
        return text[0] in _BLANK[1:]
    if text[0] in _BLANK or _INNER_BLANK.search(before) or before[-1:] in [*_BLANK]:
        return True
    if unicodedata.east_asian_width(text[0]) in "WF":
        return True
    return _is_punctuation(before) != _is_punctuation(text)


def _is_punctuation(token: str) -> bool:
    text = token.strip(_BLANK)
    return bool(text) and all(unicodedata.category(c)[0] in "PS" for c in text) and not text.startswith("<0x")


def find_sentences(tokens: Sequence[str]) -> list[int]:
    """Return the first token of each sentence in labels that `tokens.label_tokens` made, ascending, from 0.

    A sentence ends with a full stop, question or exclamation mark before a space, at a line break, and at special
    tokens, which stand alone; what is abbreviated with a full stop ("Mr.") ends one too.
    """
    places, texts = _find_characters(tokens)
    has_spaces = any(SPACE in text for text in texts)
    starts, ended = [0], False
    for i, (before, token) in enumerate(zip(["", *texts], texts, strict=False)):
        text = token.strip(_BLANK)
        is_alone = i > 0 and bool(_SPECIAL.fullmatch(token) or _SPECIAL.fullmatch(before))
        goes_on = not is_alone and (not text or bool(_CLOSING.fullmatch(token)))
        is_apart = not has_spaces or token[:1] in [*_BLANK] or before[-1:] in [*_BLANK, *"。！？"]
        if is_alone or (ended and not goes_on and is_apart):
            starts.append(places[i])
        has_break = NEWLINE in token or RETURN in token
        ended = (ended and goes_on) or has_break or bool(_SENTENCE_END.search(text))
    return starts
