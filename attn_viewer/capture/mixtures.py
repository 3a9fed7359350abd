"""Attention patterns put together from others: what an intervention makes of a head.

A mixture is a dictionary from `Term` to its share. Ablations and merges only ever put mixtures in the place of
patterns, so that any number of them, one inside another, is still one mixture a head. The same mixture acts on a fused
attention call (its output is linear in the pattern), on weights that are there, and on blocks of rows.
"""

import functools
import threading
from typing import NamedTuple

import torch

from .kernels import ROWS, iterate_weights

SDPA = torch.nn.functional.scaled_dot_product_attention
SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)


class Term(NamedTuple):
    """A pattern that mixtures are made of.

    Parameters
    ----------
    kind : {"own", "uniform", "first"}
        What the head computes; the same weight on all keys that a query sees; all weight on the first of them.
    head : int
        The head whose pattern, or whose view of the keys, it is.
    is_mean : bool
        Whether each row is the mean over the rows up to it (over all rows where queries see later keys).
    """

    kind: str
    head: int
    is_mean: bool = False


class Queries(NamedTuple):
    """What the mean over the rows of an attention call must know of them.

    Parameters
    ----------
    are_causal : bool
        Whether means run over earlier rows only.
    are_keys : bool
        Whether query i is key i too, as in self-attention: a query that does not see itself is padding.
    """

    are_causal: bool
    are_keys: bool


class Change(NamedTuple):
    """What was made of the heads of one attention call.

    Parameters
    ----------
    mixtures : dict of int to dict
        A mixture for each changed head.
    queries : Queries
        What is known of the rows.
    """

    mixtures: dict
    queries: Queries


class ChangesInForce(threading.local):
    """Which interventions this thread has in force, and what they made of its last attention call."""

    def __init__(self):
        self.interventions, self.last = [], None


IN_FORCE = ChangesInForce()


class FusedAttention(NamedTuple):
    """The inputs of an attention call, one key and value head a query head or fewer, and its output.

    Parameters
    ----------
    query, key, value, output : torch.Tensor
        Axes ``(batch, n_heads, n, d)``.
    mask : torch.Tensor or None
        Axes ``(batch, n_heads, n_query, n_key)``, each of them possibly 1.
    is_causal : bool
        Whether query i sees keys 0 to i only, with no mask given.
    dropout, scale : float
        As the call has them.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    mask: torch.Tensor | None
    is_causal: bool
    dropout: float
    scale: float | None


def mix_outputs(call, mixtures, queries):
    """Return the output of an attention call whose heads have other patterns.

    Parameters
    ----------
    call : FusedAttention
        The call.
    mixtures : dict of int to dict
        A mixture for each changed head.
    queries : Queries
        What is known of the rows.

    Returns
    -------
    torch.Tensor
        Axes ``(batch, n_heads, n_query, d)``.
    """
    heads = list(call.output.unbind(1))
    for head, mixture in mixtures.items():
        with torch._C.DisableTorchFunction():  # a watch need not see what only makes up another call
            parts = [share * _attend(call, term, head, queries) for term, share in mixture.items() if share]
        heads[head] = sum(parts[1:], parts[0]) if parts else torch.zeros_like(heads[head])
    return torch.stack(heads, 1)


def _attend(call, term, head, queries):
    """Return the output of `head` with the pattern of a term: axes (batch, n_query, d)."""
    if term.is_mean:
        output = _attend(call, term._replace(is_mean=False), head, queries)
        real = _find_real(call.mask, term.head) if queries.are_keys else None
        return _average(output, real, queries.are_causal)
    if term == Term("own", head):
        return call.output[:, head]
    query, key, value = (
        part[:, at // (call.query.shape[1] // part.shape[1])].unsqueeze(1)
        for part, at in ((call.query, term.head), (call.key, term.head), (call.value, head))
    )
    mask = None if call.mask is None else _pick_head(call.mask, term.head)
    if term.kind != "own":
        mask = None if mask is None else _see_something(_find_visible(mask))
        query = torch.zeros_like(query)
    if term.kind == "first":
        if mask is None:  # then every query sees key 0
            return value[:, 0, :1].expand(call.output[:, head].shape)
        first = mask[:, 0].to(torch.uint8).argmax(-1).expand(call.output.shape[0], call.output.shape[2])
        return value[:, 0].expand(len(first), -1, -1).gather(1, first[..., None].expand(-1, -1, value.shape[-1]))
    is_causal = call.is_causal and mask is None
    return SDPA(query, key, value, mask, call.dropout, is_causal, scale=call.scale)[:, 0]


def mix_weights(weights, visible, mixtures, queries):
    """Return attention weights in which heads have other patterns.

    Parameters
    ----------
    weights : torch.Tensor
        Axes ``(batch, n_heads, n_query, n_key)``.
    visible : torch.Tensor
        Bool, the same axes: the keys that each query sees; no sinks, which come after the keys.
    mixtures : dict of int to dict
        A mixture for each changed head.
    queries : Queries
        What is known of the rows.

    Returns
    -------
    torch.Tensor
        Of the shape of `weights`.
    """
    heads = list(weights.unbind(1))
    for head, mixture in mixtures.items():
        heads[head] = torch.zeros_like(heads[head])
        for term, share in mixture.items():
            pattern = _make_pattern(term, weights, visible)
            if term.is_mean:
                real = _find_real(visible[..., : visible.shape[2]], term.head) if queries.are_keys else None
                pattern = _average(pattern, real, queries.are_causal)
            heads[head] = heads[head] + share * pattern
    return torch.stack(heads, 1)


def iterate_mixed(scores, change, rows, *, step=ROWS):
    """Yield the weights that heads with other patterns have, in blocks of query rows.

    Parameters
    ----------
    scores : kernels.Scores
        All heads and rows of a layer.
    change : Change
        What is made of the heads.
    rows : slice
        The rows to yield.
    step : int
        Rows a block.

    Yields
    ------
    start : int
        Number of the first row of the block, counted from the first of `rows`.
    weights : torch.Tensor
        float32, axes ``(n_heads, rows, n_key)``.
    """
    mixtures, (are_causal, are_keys) = change
    terms = {term for mixture in mixtures.values() for term in mixture if term.is_mean}
    sums = {term: torch.zeros(scores.shape[2], device=scores.query.device) for term in terms}
    count = 0
    before = slice(0, rows.start if are_causal else scores.shape[1]) if terms else slice(0, 0)
    for is_wanted, part in ((False, before), (True, rows)):
        if part.start == part.stop:
            continue
        for start, block in iterate_weights(scores.select(rows=part), rows=step):
            visible = _find_block_view(scores, part.start + start, block)
            real = _find_real_rows(visible, part.start + start, are_keys)
            means = {}
            if terms and (are_causal or not is_wanted):
                counts = count + real.cumsum(0)
                count = counts[-1]
            for term in terms:
                if are_causal or not is_wanted:
                    pattern = _make_pattern(term, block[None], visible)[0]
                    total = (pattern * real[:, None]).cumsum(0) + sums[term][: block.shape[2]]
                    sums[term][: block.shape[2]] = total[-1]
                    means[term] = total / counts.clamp(min=1)[:, None]
                else:
                    means[term] = (sums[term] / count).expand(block.shape[1], -1)
            if is_wanted:
                mixed = torch.nn.functional.pad(block, (0, scores.shape[2] - block.shape[2]))
                for head, mixture in mixtures.items():
                    mixed[head] = 0
                    for term, share in mixture.items():
                        pattern = means[term] if term.is_mean else _make_pattern(term, block[None], visible)[0]
                        mixed[head, :, : block.shape[2]] += share * pattern
                yield start, mixed


def _make_pattern(term, weights, visible):
    """Return a pattern of axes (batch, n_query, n_key), not averaged."""
    if term.kind == "own":
        return weights[:, term.head]
    visible = _see_something(_pick_head(visible, term.head))[:, 0]
    if term.kind == "first":
        visible = visible & (visible.cumsum(-1) == 1)
    pattern = visible.to(weights.dtype)
    return (pattern / pattern.sum(-1, keepdim=True)).expand(weights[:, 0].shape)


def _average(rows, real, are_causal):
    """Return the mean over rows, or over the rows up to each: axes (batch, n_query, …), `real` (batch, n_query)."""
    if real is None:
        real = rows.new_ones(1, rows.shape[1], dtype=torch.bool)
    real = real[..., None].to(torch.float32)
    fold = functools.partial(torch.cumsum, dim=1) if are_causal else lambda x: x.sum(1, keepdim=True)
    return (fold(rows.float() * real) / fold(real).clamp(min=1)).to(rows.dtype).expand(rows.shape)


def _pick_head(mask, head):
    """Return the part of a mask of four axes that belongs to a head, as four axes."""
    at = head if mask.shape[1] > 1 else 0
    return mask[:, at : at + 1]


def _find_visible(mask):
    """Return a bool mask of what queries see."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _see_something(visible):
    """Let rows of padding, which see nothing, see all: their outputs must stay finite."""
    return visible | ~visible.any(-1, keepdim=True)


def _find_real(mask, head):
    """Return which queries are no padding, axes (batch, n_query): those that see their own position; None for all."""
    if mask is None:
        return None
    visible = _find_visible(_pick_head(mask, head))[:, 0]
    return visible[:, 0] if visible.shape[1] == 1 else visible.diagonal(dim1=-2, dim2=-1)


def _find_block_view(scores, start, block):
    """Return the keys that the rows of a block see, axes (1, n_heads or 1, rows, n_seen)."""
    n_rows, n_seen = block.shape[1:]
    if scores.mask is not None:
        return _find_visible(scores.mask.expand(scores.shape)[None, :, start : start + n_rows, :n_seen])
    visible = torch.ones(1, 1, n_rows, n_seen, dtype=torch.bool, device=block.device)
    return visible.tril_(scores.first + start) if scores.is_causal else visible


def _find_real_rows(visible, start, are_keys):
    """Return which rows of a block are no padding, float32, axes (rows,)."""
    n_rows = visible.shape[2]
    if not are_keys:
        return torch.ones(n_rows, device=visible.device)
    at = torch.arange(n_rows, device=visible.device)
    return visible[0, 0, at, at + start].float()
