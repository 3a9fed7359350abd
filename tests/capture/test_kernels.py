import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.capture.kernels import blocks_future, iterate_weights

SDPA = torch.nn.functional.scaled_dot_product_attention


def compute_reference(query, key, mask, is_causal, scale):
    """Let torch itself tell the weights: attention over the identity as values returns them."""
    group = len(query) // len(key)
    key = key.repeat_interleave(group, dim=0).double()
    identity = torch.eye(key.shape[1], dtype=torch.float64).expand(len(query), -1, -1)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.double()
    return SDPA(query.double(), key, identity, mask, is_causal=is_causal, scale=scale).float()


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["none", "causal", "bool", "float"]),
    st.sampled_from([None, 1.0, 0.3, 0.0]),
    st.integers(1, 50),
    st.integers(0, 9),
)
def test_weights_are_those_of_torch(n_kv_heads, group, n_query, n_key, masking, scale, block, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(n_kv_heads * group, n_query, 8, generator=generator)
    key = torch.randn(n_kv_heads, n_key, 8, generator=generator)
    mask = None
    if masking == "bool":
        mask = torch.rand(1, n_query, n_key, generator=generator) > 0.4
        mask[..., 0] = True
    elif masking == "float":
        mask = torch.randn(n_kv_heads * group, n_query, n_key, generator=generator)
    is_causal = masking == "causal"
    blocks = list(iterate_weights(query, key, mask, is_causal=is_causal, scale=scale, block=block))
    assert [start for start, _ in blocks] == list(range(0, n_query, block))
    ours = torch.cat([weights for _, weights in blocks], dim=1)
    torch.testing.assert_close(ours, compute_reference(query, key, mask, is_causal, scale), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key = torch.randn(2, 1, 30, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    (_, ours), *_ = iterate_weights(query * 8, key, is_causal=True)
    torch.testing.assert_close(ours, compute_reference(query * 8, key, None, True, None), atol=1e-6, rtol=1e-5)


def test_rows_without_any_key_are_padding():
    mask = torch.tensor([[[False, False], [True, False]]])
    (_, weights), *_ = iterate_weights(torch.ones(1, 2, 4), torch.ones(1, 2, 4), mask)
    assert weights.tolist() == [[[0, 0], [1, 0]]]


def test_which_masks_hide_the_future():
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    added = torch.zeros(4, 4).masked_fill(~lower, torch.finfo(torch.float32).min)
    assert blocks_future(lower, 4, 4)
    assert blocks_future(lower[None], 4, 4)
    assert blocks_future(added, 4, 4)
    assert not blocks_future(torch.ones(4, 4, dtype=torch.bool), 4, 4)
    assert not blocks_future(torch.zeros(1, 1, 4), 4, 4)
    assert not blocks_future(lower[:2], 2, 4)
