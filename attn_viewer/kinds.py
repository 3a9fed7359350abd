"""What attention weights may be of, and how they may be kept: each word once, as a type."""

from typing import Literal

Kind = Literal["self", "encoder", "decoder", "cross"]
Kept = Literal["full", "head_mean", "pooled"]
Reduction = Literal["auto", Kept]
Pooling = Literal["max", "mean"]
