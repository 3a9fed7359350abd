"""Tensors of attention calls, whichever axes a program gives them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import AttnViewerError, CaptureError, OptionError, describe_error

if TYPE_CHECKING:
    from .watch import AttentionCall


def divide_batch(call: AttentionCall, n_heads: int | None, n_rows: int | None) -> AttentionCall:
    """Give a call without an axis of heads one, and one whose first axis is of prompts or all their heads one of each.

    `n_heads` and `n_rows`, the prompts of a batch, are None where they are not known.
    """
    if call.query.ndim == 3:
        n_first, n_query = call.query.shape[:2]
        if n_rows is None and n_heads is not None and n_first % n_heads == 0:
            n_rows = n_first // n_heads
        elif n_rows is None and call.given.own == n_first * n_query:
            n_rows = n_first
        if n_first == 1 or n_rows in (None, 1):
            return call
        if n_first not in (n_rows, n_rows * (n_heads or 0)):
            raise _refuse_shape(call.query, call.name)
    elif call.query.ndim > 3:
        return call

    def divide(part: torch.Tensor) -> torch.Tensor:
        if part.ndim == 3:
            return part.unflatten(0, (n_rows, -1)) if len(part) > 1 else part
        return part[None]

    parts: dict[str, Any] = {name: divide(getattr(call, name)) for name in ("query", "key", "value", "output")}
    mask = divide(call.mask) if call.mask is not None and call.mask.ndim == 3 else call.mask
    return dataclasses.replace(call, **parts, mask=mask)


def drop_batch(
    tensor: torch.Tensor, name: str, batch_index: int | None, batch_size: int | None, least: int = 3
) -> torch.Tensor:
    """Return one prompt's part of a tensor of axes (batch, n_heads, n, …) of a module; `least` are those it may have.

    Without `batch_index` there must be no more than one prompt; `batch_size` is None where it is not known.
    """
    is_batch = batch_index is not None and batch_size in (None, len(tensor))
    if tensor.ndim == 4 and (len(tensor) == 1 or is_batch):
        index = 0 if len(tensor) == 1 or batch_index is None else batch_index
        if not -len(tensor) <= index < len(tensor):
            raise OptionError(f"batch_index={index}, but module {name!r} runs on a batch of {len(tensor)}")
        return tensor[index]
    if least <= tensor.ndim <= 3:
        return tensor
    raise _refuse_shape(tensor, name)


def _refuse_shape(tensor: torch.Tensor, name: str) -> CaptureError:
    return CaptureError(
        f"module {name!r} computes attention on a tensor of shape {tuple(tensor.shape)}, where "
        "(1, n_heads, n_tokens, d) is expected: windows, frames or pictures of one input, or prompts of a "
        "batch, lie side by side there, which make no one map; capture_attention_calls(…, batch_index=…) shows one"
    )


@contextlib.contextmanager
def explain_tensors(name: str) -> Iterator[None]:
    """Turn what torch raises for tensors of a module from which no weights can be computed into a `CaptureError`."""
    try:
        yield
    except (AttnViewerError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise CaptureError(
            f"module {name!r} computes attention on tensors that are no plain arrays of numbers (those of vmap, nested "
            f"ones, or on the meta device, say), from which torch makes no weights: {describe_error(error)}; run it on "
            "plain tensors"
        ) from error
