"""Attention between words, sentences or spans in place of tokens.

Weights to a group are the sum over its keys, since a query spends one unit on all keys together; a group's row is the
mean over its queries, so that rows still sum to 1 (Clark et al. 2019, "What Does BERT Look At?", section 4.1).
"""

import dataclasses
import re
import unicodedata

import numpy as np

from ..choices import check_spans
from ..errors import OptionError, UnsuitableMapsError
from ..tokens import NEWLINE, RETURN, SPACE, TAB

UNITS = ("words", "sentences", "segments")
SUMMARIES = ("sum", "max")
_BLANK = SPACE + NEWLINE + TAB + RETURN
_SPECIAL = re.compile(r"<(?!0x|U\+)[^<>]+>|\[[A-Z]+\]")
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*$")
_CLOSING = re.compile(r"[\"'”’»)\].!?…。！？]+")


def group_attention(maps, by="words", *, summary="sum"):
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
        weights=weights,
        tokens_key=names,
        tokens_query=query_names,
        ids_key=None,
        grid=None,
        first_query=first_query,
        prompt_length=int(np.searchsorted(keys, maps.prompt_length)),
        segments=segments,
        grouping=(by if isinstance(by, str) else "spans", summary),
    )


def check_grouping(by, summary="sum"):
    """Check what can be known to be wrong before there are maps.

    Parameters
    ----------
    by, summary
        As `group_attention` takes them.

    Raises
    ------
    OptionError
        If one is unknown.
    """
    if isinstance(by, str) and by not in UNITS:
        raise OptionError(f"attention is grouped by {', '.join(UNITS)} or spans (name, start, stop), got {by!r}")
    if not isinstance(by, str):
        check_spans(by, None, OptionError, "spans")
    if summary not in SUMMARIES:
        raise OptionError(f"the summary of a group must be one of {', '.join(SUMMARIES)}, got {summary!r}")


def _find_groups(tokens, by, segments, borders):
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


def _join(labels):
    text = "".join(label.removeprefix("##") for label in labels)
    return text.strip(SPACE).replace(SPACE, " ") or text


def _merge(weights, queries, keys, summary):
    """Merge rows and columns; groups are given by their first token and reach to the next."""
    if summary == "max":
        return np.maximum.reduceat(np.maximum.reduceat(weights, keys, axis=2), queries, axis=1).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(weights, keys, axis=2, dtype=np.float32), queries, axis=1)
    return sums / np.diff([*queries, weights.shape[1]]).astype(np.float32)[:, None]


def find_words(tokens):
    """Find where words begin in the labels of tokens.

    Parameters
    ----------
    tokens : sequence of str
        Labels as `tokens.label_tokens` makes them.

    Returns
    -------
    list of int
        The first token of each word, ascending, from 0. A word begins at a space or line break, at punctuation and
        after it, at and after a special token, and at each token of a script that is written without spaces;
        WordPiece's ``##`` goes on with a word. Without any space among the labels every other token is a word.
    """
    has_spaces = any(SPACE in token for token in tokens)
    return [i for i in range(len(tokens)) if i == 0 or _begins_word(tokens[i - 1], tokens[i], has_spaces)]


def _begins_word(before, token, has_spaces):
    if token.startswith("##") or not token:
        return False
    if not has_spaces or token[0] in _BLANK or before[-1:] in [*_BLANK]:
        return True
    if _SPECIAL.fullmatch(token) or _SPECIAL.fullmatch(before):
        return True
    if unicodedata.east_asian_width(token[0]) in "WF":
        return True
    return _is_punctuation(before) != _is_punctuation(token)


def _is_punctuation(token):
    text = token.strip(_BLANK)
    return bool(text) and all(unicodedata.category(c)[0] in "PS" for c in text) and not text.startswith("<0x")


def find_sentences(tokens):
    """Find where sentences begin in the labels of tokens.

    Parameters
    ----------
    tokens : sequence of str
        Labels as `tokens.label_tokens` makes them.

    Returns
    -------
    list of int
        The first token of each sentence, ascending, from 0. A sentence ends with a full stop, question or exclamation
        mark before a space, at a line break, and at special tokens, which stand alone; what is abbreviated with a
        full stop ("Mr.") ends one too.
    """
    has_spaces = any(SPACE in token for token in tokens)
    starts, ended = [0], False
    for i, (before, token) in enumerate(zip(["", *tokens], tokens, strict=False)):
        text = token.strip(_BLANK)
        is_alone = i > 0 and bool(_SPECIAL.fullmatch(token) or _SPECIAL.fullmatch(before))
        goes_on = not is_alone and (not text or bool(_CLOSING.fullmatch(token)))
        is_apart = not has_spaces or token[:1] in [*_BLANK] or before[-1:] in [*_BLANK, *"。！？"]
        if is_alone or (ended and not goes_on and is_apart):
            starts.append(i)
        has_break = NEWLINE in token or RETURN in token
        ended = (ended and goes_on) or has_break or bool(_SENTENCE_END.search(text))
    return starts
