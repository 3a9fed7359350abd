import warnings

import pytest
import torch
from test_kernels import compute_lse
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_viewer.capture.fused import SDPA, SdpaArguments, attend_with_lse
from attn_viewer.capture.kernels import Scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masking", ["none", "causal", "bool", "float"])
@pytest.mark.parametrize("options", [{}, {"enable_gqa": True}])
def test_output_with_lse_is_that_of_torch_to_the_bit(dtype, masking, options):
    generator = torch.Generator().manual_seed(5)
    for n in (1, 2, 33, 130, 515):
        query = torch.randn(1, 4, n, 16, generator=generator).to(dtype)
        key, value = torch.randn(2, 1, 2 if options else 4, n, 16, generator=generator).to(dtype)
        mask = None
        if masking == "bool":
            mask = torch.rand(1, 1, n, n, generator=generator) > 0.5
            mask[..., 0] = True
        elif masking == "float":
            mask = torch.randn(1, 4, n, n, generator=generator).to(dtype)
        is_causal = masking == "causal"
        plain = SDPA(query, key, value, mask, is_causal=is_causal, **options)
        both = attend_with_lse(SdpaArguments(query, key, value, mask, 0.0, is_causal, **options))
        if both is None and options:  # torch 2.6 has no fused kernel for heads that share keys
            refused = pytest.raises(RuntimeError, match="No available kernel")
            with warnings.catch_warnings(), sdpa_kernel(SDPBackend.FLASH_ATTENTION), refused:
                warnings.simplefilter("ignore")
                SDPA(query, key, value, mask, is_causal=is_causal, **options)
            continue
        assert both is not None, "torch no longer offers its fused kernel: the fast path is gone"
        assert torch.equal(both[0], plain)
        own = compute_lse(Scores(query[0].float(), key[0].float(), None if mask is None else mask[0], is_causal))
        torch.testing.assert_close(both[1][0], own, atol=2e-2 if dtype == torch.bfloat16 else 5e-3, rtol=0)


def test_where_torch_takes_another_kernel_there_is_no_lse():
    query = torch.randn(1, 2, 5, 16)
    assert attend_with_lse(SdpaArguments(query, query, torch.randn(1, 2, 5, 24))) is None
    assert attend_with_lse(SdpaArguments(query, query, query, dropout_p=0.1)) is None
