import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.capture.kernels import (
    Scores,
    average_heads,
    blocks_future,
    iterate_weights,
    pool_weights,
)
from attn_viewer.capture.reduction import pool_matrix

SDPA = torch.nn.functional.scaled_dot_product_attention


def compute_reference(scores):
    """Let torch itself tell the weights: attention over the identity as values returns them."""
    n_heads, n_query, n_key = scores.shape
    key = scores.key.repeat_interleave(n_heads // len(scores.key), dim=0).double()
    identity = torch.eye(n_key, dtype=torch.float64).expand(n_heads, -1, -1)
    mask = scores.mask
    if mask is None and scores.is_causal:
        mask = torch.arange(n_key) <= scores.first + torch.arange(n_query)[:, None]
    elif mask is not None and mask.dtype != torch.bool:
        mask = mask.double()
    weights = SDPA(scores.query.double(), key, identity, mask, scale=scores.scale).nan_to_num(0)
    return weights.float()


def collect(scores, **options):
    weights = torch.zeros(scores.shape)
    for start, block in iterate_weights(scores, **options):
        weights[:, start : start + block.shape[1], : block.shape[2]] = block
    return weights


@st.composite
def draw_scores(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    n_kv_heads, group, n_query, n_key = (draw(st.integers(1, most)) for most in (2, 3, 150, 150))
    query = 3 * torch.randn(n_kv_heads * group, n_query, 8, generator=generator)
    key = torch.randn(n_kv_heads, n_key, 8, generator=generator)
    masking = draw(st.sampled_from(["none", "causal", "bool", "float", "row", "min"]))
    mask = None
    if masking == "bool":
        mask = torch.rand(1, n_query, n_key, generator=generator) > 0.4
    elif masking == "row":
        mask = torch.rand(1, 1, n_key, generator=generator) > 0.4
    elif masking == "float":
        mask = torch.randn(n_kv_heads * group, n_query, n_key, generator=generator)
    elif masking == "min":
        mask = torch.zeros(n_query, n_key).masked_fill_(
            torch.ones(n_query, n_key, dtype=torch.bool).triu(1), torch.finfo(torch.float32).min
        )
    first = draw(st.integers(0, 30)) if masking == "causal" else 0
    return Scores(query, key, mask, masking == "causal", draw(st.sampled_from([None, 1.0, 0.3, 0.0])), first)


@given(draw_scores(), st.integers(1, 150))
def test_weights_are_those_of_torch(scores, rows):
    expected = compute_reference(scores)
    torch.testing.assert_close(collect(scores, rows=rows), expected, atol=3e-6, rtol=1e-5)


@given(
    draw_scores(), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from(["max", "mean"]), st.booleans()
)
def test_pooled_weights_are_the_weights_pooled(scores, cell, pooling, has_lse):
    expected = pool_matrix(compute_reference(scores), cell, pooling)
    if has_lse:
        scores = dataclasses.replace(scores, lse=compute_lse(scores))
    torch.testing.assert_close(pool_weights(scores, cell, pooling), expected, atol=5e-6, rtol=1e-4)


@given(draw_scores(), st.booleans())
def test_averaged_weights_are_the_mean_over_heads(scores, has_lse):
    expected = compute_reference(scores).mean(0)
    if has_lse:
        scores = dataclasses.replace(scores, lse=compute_lse(scores))
    torch.testing.assert_close(average(scores), expected, atol=5e-6, rtol=1e-4)


def average(scores, dtype=torch.float32):
    result = torch.zeros(scores.shape[1:], dtype=dtype)
    average_heads(scores, result)
    return result


def compute_lse(scores):
    group = len(scores.query) // len(scores.key)
    scale = scores.query.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    products = scores.query @ scores.key.repeat_interleave(group, 0).transpose(1, 2) * scale
    if scores.mask is not None and scores.mask.dtype == torch.bool:
        products = products.masked_fill(~scores.mask, -torch.inf)
    elif scores.mask is not None:
        products = products + scores.mask
    elif scores.is_causal:
        seen = torch.arange(scores.shape[2]) <= scores.first + torch.arange(scores.shape[1])[:, None]
        products = products.masked_fill(~seen, -torch.inf)
    return products.logsumexp(-1)


@given(draw_scores(), st.data())
def test_a_selection_has_the_weights_of_the_whole(scores, data):
    n_heads, n_query, _ = scores.shape
    heads = sorted(data.draw(st.sets(st.integers(0, n_heads - 1), min_size=1)))
    start = data.draw(st.integers(0, n_query - 1))
    rows = slice(start, data.draw(st.integers(start + 1, n_query)))
    part = collect(scores.select(heads=heads, rows=rows))
    torch.testing.assert_close(part, collect(scores)[heads][:, rows], atol=2e-6, rtol=1e-5)


def test_tiles_join_without_a_seam():
    """More keys than one tile holds, and more rows than one block."""
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(4, 2100, 8, generator=generator) * 3, torch.randn(2, 2100, 8, generator=generator)
    scores = Scores(query, key, is_causal=True)
    weights = collect(scores)
    for pooling, cell in itertools.product(("max", "mean"), ((9, 9), (300, 300), (1, 2000))):
        torch.testing.assert_close(
            pool_weights(scores, cell, pooling), pool_matrix(weights, cell, pooling), atol=3e-6, rtol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key = torch.randn(2, 1, 30, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = Scores(query * 8, key, is_causal=True)
    torch.testing.assert_close(collect(scores), compute_reference(scores), atol=1e-6, rtol=1e-5)


def test_rows_without_any_key_are_padding():
    mask = torch.tensor([[[False, False], [True, False]]])
    scores = Scores(torch.ones(1, 2, 4), torch.ones(1, 2, 4), mask)
    assert collect(scores).tolist() == [[[0, 0], [1, 0]]]
    lse = torch.tensor([[-torch.inf, 2.0]])
    for pooling in ("max", "mean"):
        for either in (scores, dataclasses.replace(scores, lse=lse)):
            pooled = pool_weights(either, (1, 1), pooling)
            torch.testing.assert_close(pooled, torch.tensor([[[0.0, 0], [1, 0]]]))
            torch.testing.assert_close(average(either), torch.tensor([[0.0, 0], [1, 0]]))


def test_which_masks_hide_the_future():
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    added = torch.zeros(4, 4).masked_fill(~lower, torch.finfo(torch.float32).min)
    assert blocks_future(lower, 4, 4)
    assert blocks_future(lower[None], 4, 4)
    assert blocks_future(added, 4, 4)
    assert blocks_future(torch.full((4, 4), -1e4).triu(1), 4, 4)  # what older models add
    assert not blocks_future(torch.ones(4, 4, dtype=torch.bool), 4, 4)
    assert not blocks_future(torch.zeros(1, 1, 4), 4, 4)
    assert not blocks_future(lower[:2], 2, 4)
