"""Attention patterns put together from others: what an intervention makes of a head.

A mixture is a dictionary from `Term` to its share. Ablations and merges only ever put mixtures in the place of
patterns, so that any number of them, one inside another, is still one mixture a head. The same mixture acts on a fused
attention call (its output is linear in the pattern), on weights that are there, and on blocks of rows.
"""

import functools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch

from ..capture.fused import SdpaArguments
from ..capture.kernels import Scores, find_hidden, iterate_weights


class Term(NamedTuple):
    """A pattern that mixtures are made of."""

    # What the head computes; the same weight on all keys that a query sees; all weight on the first of them.
    kind: Literal["own", "uniform", "first"]
    head: int  # whose pattern, or whose view of the keys, it is
    is_mean: bool = False  # each row is the mean over those up to it (over all where queries see later keys)


# What a head's pattern is made of, and that of each changed head.
Mixture = dict[Term, float]
Mixtures = dict[int, Mixture]


class Queries(NamedTuple):
    """What the mean over the rows of an attention call must know of them."""

    are_causal: bool  # means run over earlier rows only
    are_keys: bool  # query i is key i too, as in self-attention: a query that does not see itself is padding


class PatternChange(NamedTuple):
    """What is made of the heads of one attention call; a `capture.changes.HeadChange`."""

    mixtures: Mixtures
    queries: Queries

    def iterate_weights(self, scores: Scores, rows: slice, *, step: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the weights that the heads have then, as `capture.changes.HeadChange` says, over all keys."""
        mixtures, (are_causal, are_keys) = self
        device = scores.query.device
        terms = {term for mixture in mixtures.values() for term in mixture if term.is_mean}
        sums = {term: torch.zeros(scores.shape[2], device=device) for term in terms}
        count = torch.zeros((), device=device)  # rows so far
        before = slice(0, rows.start if are_causal else scores.shape[1]) if terms else slice(0, 0)
        for is_wanted, part in ((False, before), (True, rows)):
            if part.start == part.stop:
                continue
            for start, block in iterate_weights(scores.select(rows=part), rows=step):
                visible, n_seen = _find_block_view(scores, part.start + start, block), block.shape[2]
                if are_causal or not is_wanted:
                    real = _find_real_rows(visible, part.start + start, are_keys)
                    counts = count + real.cumsum(0)
                    count, means = counts[-1], {}
                    for term in terms:
                        pattern = _make_pattern(term, block[None], visible)[0]
                        total = (pattern * real[:, None]).cumsum(0) + sums[term][:n_seen]
                        sums[term][:n_seen] = total[-1]
                        means[term] = total / counts.clamp(min=1)[:, None]
                else:
                    means = {term: (sums[term] / count).expand(block.shape[1], -1) for term in terms}
                if is_wanted:
                    mixed = torch.nn.functional.pad(block, (0, scores.shape[2] - n_seen))
                    for head, mixture in mixtures.items():
                        mixed[head] = 0
                        for term, share in mixture.items():
                            pattern = means[term] if term.is_mean else _make_pattern(term, block[None], visible)[0]
                            mixed[head, :, :n_seen] += share * pattern
                    yield start, mixed


def mix_outputs(given: SdpaArguments, output: torch.Tensor, change: PatternChange) -> torch.Tensor:
    """Return the output of an attention call, axes ``(batch, n_heads, n_query, d)``, whose heads have other patterns.

    A mask has four axes, some possibly 1; key and value may have fewer heads.
    """
    heads = list(output.unbind(1))
    for head, mixture in change.mixtures.items():
        with torch._C.DisableTorchFunction():  # a watch need not see what only makes up another call
            parts = [
                share * _attend(given, output, term, head, change.queries) for term, share in mixture.items() if share
            ]
        heads[head] = sum(parts[1:], parts[0]) if parts else torch.zeros_like(heads[head])
    return torch.stack(heads, 1)


def _attend(given: SdpaArguments, output: torch.Tensor, term: Term, head: int, queries: Queries) -> torch.Tensor:
    """Return the output of `head` with the pattern of a term: axes (batch, n_query, d)."""
    mask = given.attn_mask
    if term.is_mean:
        rows = _attend(given, output, term._replace(is_mean=False), head, queries)
        real = _find_real(mask, term.head) if queries.are_keys else None
        return _average(rows, real, queries.are_causal)
    if term == Term("own", head):
        return output[:, head]
    query, key, value = (
        part[:, at // (given.query.shape[1] // part.shape[1])].unsqueeze(1)
        for part, at in ((given.query, term.head), (given.key, term.head), (given.value, head))
    )
    mask = None if mask is None else _pick_head(mask, term.head)
    if term.kind != "own":
        mask = None if mask is None else _see_something(~find_hidden(mask))
        query = torch.zeros_like(query)
    if term.kind == "first":
        if mask is None:  # then every query sees key 0
            return value[:, 0, :1].expand(output[:, head].shape)
        first = mask[:, 0].to(torch.uint8).argmax(-1).expand(output.shape[0], output.shape[2])
        return value[:, 0].expand(len(first), -1, -1).gather(1, first[..., None].expand(-1, -1, value.shape[-1]))
    is_causal = given.is_causal and mask is None
    return given._replace(query=query, key=key, value=value, attn_mask=mask, is_causal=is_causal).compute()[:, 0]


def mix_weights(weights: torch.Tensor, visible: torch.Tensor, change: PatternChange) -> torch.Tensor:
    """Return attention weights, axes ``(batch, n_heads, n_query, n_key)``, in which heads have other patterns.

    `visible` has the same axes: the keys that each query sees; no sinks, which come after the keys.
    """
    heads, queries = list(weights.unbind(1)), change.queries
    for head, mixture in change.mixtures.items():
        heads[head] = torch.zeros_like(heads[head])
        for term, share in mixture.items():
            pattern = _make_pattern(term, weights, visible)
            if term.is_mean:
                real = _find_real(visible[..., : visible.shape[2]], term.head) if queries.are_keys else None
                pattern = _average(pattern, real, queries.are_causal)
            heads[head] = heads[head] + share * pattern
    return torch.stack(heads, 1)


def _make_pattern(term: Term, weights: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return a pattern of axes (batch, n_query, n_key), not averaged."""
    if term.kind == "own":
        return weights[:, term.head]
    visible = _see_something(_pick_head(visible, term.head))[:, 0]
    if term.kind == "first":
        visible = visible & (visible.cumsum(-1) == 1)
    pattern = visible.to(weights.dtype)
    return (pattern / pattern.sum(-1, keepdim=True)).expand(weights[:, 0].shape)


def _average(rows: torch.Tensor, real: torch.Tensor | None, are_causal: bool) -> torch.Tensor:
    """Return the mean over rows, or over the rows up to each: axes (batch, n_query, …), `real` (batch, n_query)."""
    if real is None:
        real = rows.new_ones(1, rows.shape[1], dtype=torch.bool)
    real = real[..., None].to(torch.float32)
    fold = functools.partial(torch.cumsum, dim=1) if are_causal else functools.partial(torch.sum, dim=1, keepdim=True)
    return (fold(rows.float() * real) / fold(real).clamp(min=1)).to(rows.dtype).expand(rows.shape)


def _pick_head(mask: torch.Tensor, head: int) -> torch.Tensor:
    """Return the part of a mask of four axes that belongs to a head, as four axes."""
    at = head if mask.shape[1] > 1 else 0
    return mask[:, at : at + 1]


def _see_something(visible: torch.Tensor) -> torch.Tensor:
    """Let rows of padding, which see nothing, see all: their outputs must stay finite."""
    return visible | ~visible.any(-1, keepdim=True)


def _find_real(mask: torch.Tensor | None, head: int) -> torch.Tensor | None:
    """Return which queries are no padding, axes (batch, n_query): those that see their own position; None for all."""
    if mask is None:
        return None
    visible = ~find_hidden(_pick_head(mask, head))[:, 0]
    return visible[:, 0] if visible.shape[1] == 1 else visible.diagonal(dim1=-2, dim2=-1)


def _find_block_view(scores: Scores, start: int, block: torch.Tensor) -> torch.Tensor:
    """Return the keys that the rows of a block see, axes (1, n_heads or 1, rows, n_seen)."""
    n_rows, n_seen = block.shape[1:]
    if scores.mask is not None:
        return ~find_hidden(scores.mask.expand(scores.shape)[None, :, start : start + n_rows, :n_seen])
    visible = torch.ones(1, 1, n_rows, n_seen, dtype=torch.bool, device=block.device)
    return visible.tril_(scores.first + start) if scores.is_causal else visible


def _find_real_rows(visible: torch.Tensor, start: int, are_keys: bool) -> torch.Tensor:
    """Return which rows of a block are no padding, float32, axes (rows,)."""
    n_rows = visible.shape[2]
    if not are_keys:
        return torch.ones(n_rows, device=visible.device)
    at = torch.arange(n_rows, device=visible.device)
    return visible[0, 0, at, at + start].float()
