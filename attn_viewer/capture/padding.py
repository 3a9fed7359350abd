"""Leaving out tokens at the ends of a prompt that only pad it, once it is sure that nobody looks at them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from ..errors import CaptureError
from .kernels import Scores, find_hidden

_LEAST = 1e-6  # weight that counts


class Kept(NamedTuple):
    """The ranges of queries and keys that are left in."""

    queries: slice
    keys: slice

    def is_whole(self, shape: tuple[int, int]) -> bool:
        """Tell whether that is all of ``(n_query, n_key)``."""
        return all(len(range(n)[part]) == n for part, n in zip(self, shape, strict=True))


WHOLE = Kept(slice(None), slice(None))


def crop_scores(scores: Scores, kept: Kept, name: str) -> Scores:
    """Leave padding out of what decides a layer's weights; a `CaptureError` where a token that stays sees padding."""
    _, n_query, n_key = scores.shape
    if kept.is_whole((n_query, n_key)):
        return scores
    (start, stop, _), (left, right, _) = kept.queries.indices(n_query), kept.keys.indices(n_key)
    if scores.mask is None:
        is_hidden = (scores.is_causal and left == 0 and right >= stop) or (left, right) == (0, n_key)
    else:
        rows = scores.mask.expand(*scores.mask.shape[:-2], n_query, n_key)[..., start:stop, :]
        hidden = find_hidden(rows)
        is_hidden = bool(hidden[..., :left].all()) and bool(hidden[..., right:].all())
    if not is_hidden:
        raise _refuse(name)
    part = scores.select(rows=slice(start, stop))
    mask = None if part.mask is None else part.mask[..., left:right]
    return dataclasses.replace(part, key=part.key[:, left:right], mask=mask, first=part.first - left)


def crop_weights(weights: torch.Tensor, kept: Kept, name: str) -> torch.Tensor:
    """Leave padding out of weights; axes and errors as in `crop_scores`."""
    rows = weights[:, kept.queries]
    left, right, _ = kept.keys.indices(weights.shape[2])
    if any(part.numel() and float(part.max()) > _LEAST for part in (rows[..., :left], rows[..., right:])):
        raise _refuse(name)
    return rows[..., left:right]


def _refuse(name: str) -> CaptureError:
    return CaptureError(
        f"module {name!r} gives weight to tokens that attention_mask calls padding: the model does not use the mask; "
        "leave the padding out of the prompt"
    )
