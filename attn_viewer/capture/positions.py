"""Which positions the queries and keys of an attention call have, where a key-value cache brings keys of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..errors import CaptureError
from .kernels import find_hidden

if TYPE_CHECKING:
    from .sequences import Given
    from .watch import AttentionCall


_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


class Positions(NamedTuple):
    """Where queries and keys lie among all tokens so far."""

    n_key: int  # keys of the map, from position 0 on: dropped ones weigh nothing, those not yet written are none
    first: int = 0  # of the first query, among the keys
    start: int = 0  # of the first key; more than 0 where a sliding cache has dropped earlier ones
    continues: bool = False  # queries and keys are of one sequence that earlier passes began


def find_positions(
    given: Given, module: torch.nn.Module, n_query: int, n_key: int, visible: torch.Tensor | None, batch: int
) -> Positions:
    """Find where the queries and keys of self-attention lie.

    They are found from the cache that the module was given (`given.past`); or, where a program has a cache of its own,
    from which keys each query sees: one more from query to query, or for a single one, all that there are in a module
    which was given nothing but that query's token. Else the keys are those of another sequence.

    `visible` is bool, axes ``(…, n_query, n_key)``, asked for only without a cache and with unlike numbers of queries
    and keys; `batch` is the number of batch elements.
    """
    is_given = any(n in (n_key, batch * n_key) for n in given.others)
    if given.past is not None and (not is_given or n_key == given.past + n_query):
        total = given.past + n_query
        windows = {
            getattr(owner, name, None) for owner in (module, getattr(module, "config", None)) for name in _WINDOWS
        }
        # What a sliding cache hands out: what it keeps beside the new keys, or as much as it keeps.
        slides = n_key in {n for window in windows if isinstance(window, int) for n in (window, window - 1 + n_query)}
        if n_key < total and not slides:
            raise CaptureError(
                f"a module attends to {n_key} keys where its cache has seen {total} tokens, and no window says which "
                "they are; run the prompt in one pass, without a cache"
            )
        return Positions(total, given.past, max(total - n_key, 0), given.past > 0 or n_key > total)
    if n_query == n_key or visible is None:
        return Positions(n_key)
    seen = visible.reshape(-1, n_query, n_key).any(0)
    last = (seen * torch.arange(1, n_key + 1, device=seen.device)).amax(-1) - 1
    steps = last - last[0] == torch.arange(n_query, device=last.device)
    is_alone = given.own == batch and not is_given
    if (n_query > 1 or is_alone) and bool(steps.all()) and int(last[0]) > 0:
        return Positions(int(last[0]) + n_query, int(last[0]), continues=True)
    return Positions(n_key)


def lay_out_call(call: AttentionCall, positions: Positions) -> AttentionCall:
    """Return a call whose keys are those of the map; a `CaptureError` where queries see keys not written yet."""
    n_query, n_key = call.query.shape[-2], call.key.shape[-2]
    dropped, unwritten = positions.start, n_key + positions.start - positions.n_key
    if not dropped and not unwritten:
        return call
    mask = call.mask
    if mask is None and (dropped or not call.is_causal):
        mask = torch.ones(n_query, n_key, dtype=torch.bool, device=call.key.device)
        mask = mask.tril_() if call.is_causal else mask
    if mask is not None:
        mask = mask.expand(*mask.shape[:-1], n_key)
        if not bool(find_hidden(mask[..., n_key - unwritten :]).all()):
            raise _refuse_unwritten(call.name, unwritten)
        hidden = False if mask.dtype == torch.bool else -torch.inf
        mask = torch.nn.functional.pad(mask[..., : n_key - unwritten], (dropped, 0), value=hidden)
    key, value = (
        torch.nn.functional.pad(part[..., : n_key - unwritten, :], (0, 0, dropped, 0))
        for part in (call.key, call.value)
    )
    return dataclasses.replace(call, key=key, value=value, mask=mask, is_causal=call.is_causal and mask is None)


def lay_out_weights(weights: torch.Tensor, positions: Positions, name: str) -> torch.Tensor:
    """Return weights, axes ``(…, n_query, n_key)``, whose keys are those of the map, as `lay_out_call` does."""
    n_key = weights.shape[-1]
    dropped, unwritten = positions.start, n_key + positions.start - positions.n_key
    if unwritten and bool(weights[..., n_key - unwritten :].any()):
        raise _refuse_unwritten(name, unwritten)
    return torch.nn.functional.pad(weights[..., : n_key - unwritten], (dropped, 0)) if dropped or unwritten else weights


def _refuse_unwritten(name: str, unwritten: int) -> CaptureError:
    return CaptureError(
        f"module {name!r} attends to {unwritten} keys behind the last token, which its cache has not written yet; "
        "pass an attention mask that hides them, or a DynamicCache"
    )
