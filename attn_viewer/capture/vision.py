"""Attention over the patches of an image."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..capture_options import CaptureOptions
from ..declarations import takes_options
from ..errors import CaptureError, PromptError
from ..inputs.limits import explain_refusal
from ..inputs.pictures import Turn, find_crops, read_picture
from ..maps import AttentionMaps
from ..spans import Span
from .collector import Collector
from .prefill import get_model_id, run_watched


@takes_options(CaptureOptions)
def capture_image_attention(
    model: torch.nn.Module,
    image: Any,
    processor: Callable[..., Any] | None = None,
    *,
    model_id: str | None = None,
    options: CaptureOptions,
) -> AttentionMaps:
    """Capture the exact attention weights of a vision encoder for an image.

    Parameters
    ----------
    model
        A vision encoder of transformers that takes ``pixel_values`` (ViT, DINOv2, SigLIP, CLIP's vision tower, …).
    image : path-like, PIL.Image.Image, numpy.ndarray or torch.Tensor
        A picture, put upright as its EXIF data say, or a tensor that the processor takes; or, without one, pixel values
        of axes ``(1, channels, height, width)``.
    processor : transformers image processor, optional
        Turns the image into pixel values.
    model_id
        Name for titles and files; left out, found as in `capture_attention`.
    **options
        What to keep, as `CaptureOptions` declares it.

    Returns
    -------
    AttentionMaps
        Self-attention; tokens are patches, row by row, after special tokens, and `spans` tells which are where.

    Raises
    ------
    PromptError
        If there are no pixel values of one image.
    CaptureError
        If the weights could not be seen, or are not over a regular grid of patches.
    """
    is_picture = processor is not None and not isinstance(image, torch.Tensor)
    image = read_picture(image) if is_picture else image

    def show(turn: Turn) -> Any:
        return processor(images=turn(image), return_tensors="pt") if processor else {"pixel_values": image}

    inputs = show(lambda picture: picture)
    pixels = inputs["pixel_values"]
    if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4 or len(pixels) != 1:
        came = f"shape {tuple(pixels.shape)}" if isinstance(pixels, torch.Tensor) else type(pixels).__name__
        raise PromptError(
            f"an image must be pixel values (1, channels, height, width) or come with a processor, got {came}"
        )
    collector = Collector(model, options, lambda stack, shape: True)
    first = next(model.parameters())
    arguments = {"pixel_values": pixels.to(first.device, first.dtype)}
    with explain_refusal(model, arguments):
        run_watched(model, [collector], arguments)
    stack = collector.find_main()
    grid = _find_grid(model, pixels.shape[-2:])
    n_special = stack.shape[1] - grid[0] * grid[1]
    if n_special < 0 or stack.shape[0] != stack.shape[1]:
        raise CaptureError(
            f"attention is over {stack.shape[1]} tokens where the image has {grid[0]} × {grid[1]} patches; "
            "patches are merged or stand in windows; capture_attention_calls shows each kind of attention"
        )
    tokens = ["[CLS]", *(f"[REG{i}]" for i in range(1, n_special))][:n_special]
    tokens += [f"{row},{column}" for row in range(grid[0]) for column in range(grid[1])]
    span = Span("image", 0, "whole", n_special, *grid, grid[1], 0.0)
    crops = find_crops([span], inputs, show) if is_picture else ()
    return collector.make_maps(
        stack, tokens, tokens, model_id=model_id or get_model_id(model), spans=[span], crops=crops
    )


def _find_grid(model: torch.nn.Module, size: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of patches for pixel values of (height, width)."""
    config = getattr(model, "config", None)
    config = getattr(config, "vision_config", config)
    patch = getattr(config, "patch_size", None)
    if patch is None:
        raise CaptureError(
            f"{type(model).__name__} names no patch size in its config; it is no vision encoder of patches"
        )
    patch = (patch, patch) if isinstance(patch, int) else tuple(patch)
    return size[0] // patch[0], size[1] // patch[1]
