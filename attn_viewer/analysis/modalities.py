"""How much of the weight of each query lies on pictures and sound, on the prompt and on the completion."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, UnsuitableMapsError
from ..maps import AttentionMaps
from ..spans import SENSES
from ..tokens import NEWLINE, SPACE, join_labels
from .grouping import find_words

COMPLETION = "completion"


class ModalityShares(NamedTuple):
    """Shares of the weight of queries.

    Attributes
    ----------
    names
        What the keys are: of image, video, audio, the names of segments, prompt and completion those that there are.
    words
        Each word of the completion, or each query where nothing was generated.
    values
        Axes ``(names, layers, words)``: the mean over the heads of a layer. Over names they sum to a row's
        sum, to 1 where weights are times norms of values.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    values: npt.NDArray[np.float32]


def measure_modality_share(maps: AttentionMaps) -> ModalityShares:
    """Measure how much each word looked at pictures, at parts of the prompt and at the completion when it was chosen.

    A word of the completion counts with the weights of the token before it, which chose it.

    Returns
    -------
    ModalityShares
        A share a word and layer.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled, grouped or signed.
    """
    if maps.reduction == "pooled" or maps.grouping:
        raise UnsuitableMapsError(
            f"{'groups' if maps.grouping else 'pooled cells'} mix kinds of keys; take maps of tokens, captured with "
            "reduction='full' or 'head_mean'"
        )
    if maps.signed:
        raise UnsuitableMapsError("signed weights have no shares; measure each of the maps compared")
    kinds = np.full(len(maps.tokens_key), "prompt", dtype=object)
    for segment, start, stop in maps.segments:
        kinds[start:stop] = segment
    kinds[maps.prompt_length :] = COMPLETION
    for span in maps.spans:
        kinds[span.positions] = span.sense
    known = dict.fromkeys((*SENSES, *(name for name, *_ in maps.segments), "prompt", COMPLETION))
    names = tuple(name for name in known if name in kinds)
    if maps.prompt_length < len(maps.tokens_key) and maps.kind != "cross":
        words = find_completion(maps)
    else:
        words = [(label, i, i + 1) for i, label in enumerate(maps.tokens_query)]
    values = np.empty((len(names), len(maps.layers), len(words)), np.float32)
    for at, layer in enumerate(maps.weights):
        mean = layer.mean(axis=0, dtype=np.float32)
        for i, name in enumerate(names):
            shares = mean[:, kinds == name].sum(axis=1)
            values[i, at] = [shares[start:stop].mean() for _, start, stop in words]
    if maps.weighting == "value_norm":  # no row sums to 1
        values /= np.maximum(values.sum(axis=0), np.finfo(np.float32).tiny)
    return ModalityShares(names, tuple(word for word, *_ in words), values)


def find_completion(maps: AttentionMaps) -> list[tuple[str, int, int]]:
    """Return each word that was generated, and the queries that chose its tokens, one before them: first and stop.

    Raises `OptionError` if the maps do not tell what was generated, or do not hold its queries.
    """
    first = maps.prompt_length - maps.first_query
    labels = maps.tokens_query[max(first, 0) :]
    if maps.kind == "cross" or not 0 < first < len(maps.tokens_query):
        raise OptionError(
            "these maps hold no completion, or not the token before it; capture_generation makes some, or give another "
            "query"
        )
    starts = find_words(labels)
    return [
        (join_labels(labels[start:stop]), first + start - 1, first + stop - 1)
        for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True)
    ]


def find_text(labels: Sequence[str], text: str) -> tuple[int, int] | None:
    """Find the last tokens that hold a text: the first of them, and the last left out; None where there are none."""
    joined = [join_labels([label]) for label in labels]
    ends = np.cumsum([len(label) for label in joined])
    wanted = text.replace(" ", SPACE).replace("\n", NEWLINE)
    place = "".join(joined).rfind(wanted)
    if place < 0 or not wanted:
        return None
    return int(np.searchsorted(ends, place, "right")), int(np.searchsorted(ends, place + len(wanted))) + 1
