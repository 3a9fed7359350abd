"""Torch's fused attention: what it is given, and how it is called."""

from typing import NamedTuple

import torch

SDPA = torch.nn.functional.scaled_dot_product_attention
_FLASH = torch.nn.attention.SDPBackend.FLASH_ATTENTION.value


class SdpaArguments(NamedTuple):
    """What `torch.nn.functional.scaled_dot_product_attention` is given, by torch's names."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def compute(self) -> torch.Tensor:
        """Call the function."""
        return SDPA(*self[:6], scale=self.scale, enable_gqa=self.enable_gqa)


def attend_with_lse(given: SdpaArguments) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Compute attention as `scaled_dot_product_attention` would, and the log-sum-exp of its rows with it.

    On a CPU torch's fused kernel has computed them anyway, axes ``(batch, n_heads, n_query)``. It is reached through a
    private operator, so only where torch itself would take that kernel (else None); the output is the same to the bit.
    """
    query, key, value, mask, dropout, is_causal, scale, enable_gqa = given
    flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    choose = getattr(torch, "_fused_sdp_choice", None)
    if flash is None or choose is None or query.device.type != "cpu" or dropout or query.ndim != 4:
        return None
    if choose(query, key, value, mask, dropout, is_causal, scale=scale, enable_gqa=enable_gqa) != _FLASH:
        return None
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
    output, lse = flash(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale)
    return output, lse
