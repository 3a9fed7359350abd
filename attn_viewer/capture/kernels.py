"""Exact attention weights from queries and keys, a block of query rows at a time."""

import torch

# Rows of a block. Larger blocks gain nothing once the matrix product is efficient, and cost memory.
BLOCK = 128


def iterate_weights(query, key, mask=None, *, is_causal=False, scale=None, block=BLOCK):
    """Yield the attention weights of `scaled_dot_product_attention` in blocks of query rows.

    Weights are softmax(Q Kᵀ · scale + mask) over the keys (Vaswani et al. 2017, equation 1), computed in float32
    whatever the inputs are, as `torch.nn.functional.scaled_dot_product_attention` defines mask, scale and
    `is_causal`. A row whose keys are all masked is padding and gets zeros.

    Parameters
    ----------
    query : torch.Tensor
        Axes ``(n_heads, n_query, d)``.
    key : torch.Tensor
        Axes ``(n_kv_heads, n_key, d)``; `n_heads` is a multiple of `n_kv_heads`, and query head h uses
        key head ``h // (n_heads // n_kv_heads)``.
    mask : torch.Tensor, optional
        Broadcastable to ``(n_heads, n_query, n_key)``: bool keeps where True, float is added to the scores.
    is_causal : bool
        Whether query i sees keys 0 to i only, with no mask given.
    scale : float, optional
        Factor of the scores; None means ``d ** -0.5``.
    block : int
        Rows a block.

    Yields
    ------
    start : int
        Number of the first query row of the block.
    weights : torch.Tensor
        float32, axes ``(n_heads, rows, n_key)``, on the device of the inputs.
    """
    n_heads, n_query, depth = query.shape
    n_kv_heads, n_key, _ = key.shape
    scale = depth**-0.5 if scale is None else scale
    group = n_heads // n_kv_heads
    keys = key.float().transpose(1, 2)
    if mask is not None:
        mask = mask.expand(n_heads, n_query, n_key)
    for start in range(0, n_query, block):
        rows = query[:, start : start + block].float() * scale
        count = rows.shape[1]
        scores = (rows.reshape(n_kv_heads, group * count, depth) @ keys).view(n_heads, count, n_key)
        if mask is not None:
            part = mask[:, start : start + count]
            scores = scores.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else scores.add_(part)
        elif is_causal:
            last = torch.arange(start, start + count, device=scores.device)[:, None]
            scores.masked_fill_(torch.arange(n_key, device=scores.device) > last, -torch.inf)
        # A softmax over nothing is NaN where the mask leaves no key.
        yield start, torch.softmax(scores, dim=-1).nan_to_num_(nan=0.0)


def blocks_future(mask, n_query, n_key):
    """Tell whether a mask hides every key after the query's own position.

    Parameters
    ----------
    mask : torch.Tensor
        Bool (True is seen) or float (added), last axes ``(n_query, n_key)`` or broadcastable to them.
    n_query, n_key : int
        Numbers of queries and keys.

    Returns
    -------
    bool
        True if no query sees a later key.
    """
    if n_query != n_key:
        return False
    hidden = ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min / 2
    future = torch.ones(n_query, n_key, dtype=torch.bool, device=mask.device).triu_(1)
    return bool((hidden | ~future).all())
