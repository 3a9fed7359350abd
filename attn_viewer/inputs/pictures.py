"""Pictures in any form that people have them in, read at a bounded cost."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import PromptError, describe_error, shorten
from ..files import expand_home
from ..spans import Span

Inputs = Mapping[str, "torch.Tensor"]
Turn = Callable[[Any], Image.Image]
Crop = tuple[float, float, float, float]

if TYPE_CHECKING:
    import torch

# No model sees more of a picture, and one of so many takes 200 MB while it is read.
MOST_PIXELS = 50_000_000
WHOLE: Crop = (0.0, 0.0, 1.0, 1.0)
# Less of a picture, as a share of its side, is not seen, and measured as not cut off.
EXACT = 0.01
# What Pillow reads by itself; for others it runs programs (EPS) or seldom used code.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def read_picture(source: Any) -> Image.Image:
    """Read a picture of 8 bits a channel as RGB, upright as its EXIF data says; what is transparent stands on white.

    It comes as a file of one of `FORMATS` (a path, or io.BytesIO), as a PIL image, or as an array of axes ``(height,
    width)`` or ``(height, width, 3 or 4)``. One of more than `MOST_PIXELS` is refused before it is decoded.
    """
    what = f"image {str(source)!r:.200}" if isinstance(source, (str, os.PathLike)) else f"a {type(source).__name__}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            if isinstance(source, (str, os.PathLike)):
                source = expand_home(source)
            if isinstance(source, (os.PathLike, io.BytesIO)):
                with Image.open(source, formats=FORMATS) as file:
                    return _convert(file)
            return _convert(source if isinstance(source, Image.Image) else Image.fromarray(_read_bytes(source)))
    except PromptError:
        raise
    except Exception as error:  # as many types as Pillow has readers
        raise PromptError(f"cannot read {what} as a picture: {describe_error(error)}; give a PNG or JPEG") from error


def _read_bytes(source: Any) -> Any:
    pixels = np.asarray(source)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}, where uint8 (height, width[, 3 or 4]) is expected")
    return pixels


def _convert(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if not width * height:
        raise PromptError(f"a picture of {width} × {height} pixels has none; give one with pixels")
    if width * height > MOST_PIXELS:
        raise PromptError(
            f"a picture of {width:,} × {height:,} pixels is more than {MOST_PIXELS:,} in all, and models see it much "
            "smaller; make it smaller first"
        )
    if picture.mode[0] in "IF":  # Pillow would cut values off at 255 without a word
        raise PromptError(
            f"a picture must have 8 bits a channel, got mode {picture.mode!r}; bring its values to 0 … 255 first"
        )
    picture = ImageOps.exif_transpose(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        own = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", own.size, "white"), own).convert("RGB")
    return picture.convert("RGB")


def ask_about(picture: Image.Image, prompt: Any) -> list[Mapping[str, Any]]:
    """Return the chat message of a user who shows a picture and asks about it."""
    if not isinstance(prompt, str) or not prompt:
        raise PromptError(
            f"image goes with a prompt that is text, got {shorten(prompt)}; in chat messages a picture is a part of a "
            "content, {'type': 'image', 'image': …}"
        )
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]}]


def find_crops(spans: Sequence[Span], inputs: Inputs, show: Callable[[Turn], Inputs]) -> list[Crop]:
    """Find which part of each picture its patches lie on, as `MapFacts.crops` says it; nothing where it is all of it.

    Processors cut borders off, add some or do neither. What they do depends on the size alone, so that pictures of
    which each place is known tell it: `show` returns the inputs of the same prompt, each of whose pictures a function
    has turned into another.
    """
    spans = [span for span in spans if span.sense == "image"]
    pixels = inputs.get("pixel_values")
    # Patches without pictures are never cut, and families that tell sizes leave borders out themselves.
    if pixels is None or pixels.ndim < 4 or not spans or "image_sizes" in inputs:
        return []
    n_pictures, has_places = 1 + max(span.number for span in spans), pixels.ndim == 6  # for as many tiles as may be
    if not has_places and pixels.flatten(0, -4).shape[0] != len(spans):
        return []
    black, white, ramps = (show(turn)["pixel_values"].float() for turn in (_make_black, _make_white, _make_ramps))
    shares = ((ramps - black) / (white - black)).flatten(0, -4).numpy()  # not a number in borders that were added
    crops = []
    for number in range(n_pictures):
        own = [(i, span) for i, span in enumerate(spans) if span.number == number]
        if has_places:
            own = [(number * len(shares) // n_pictures + i, span) for i, (_, span) in enumerate(own)]
        tiles = [(shares[i], span.tile) for i, span in own if span.tile] or [(shares[own[0][0]], (0, 0))]
        rows, columns = (1 + max(place[axis] for _, place in tiles) for axis in (0, 1))
        grid = {place: tile for tile, place in tiles}
        empty = np.full_like(shares[0], np.nan)
        canvas = np.block([[grid.get((row, column), empty) for column in range(columns)] for row in range(rows)])
        (left, right), (top, bottom) = _find_ends(canvas[0], 0), _find_ends(canvas[1], 1)
        crops.append((left, top, right, bottom))
    return crops if any(np.abs(np.subtract(crop, WHOLE)).max() > EXACT for crop in crops) else []


def _make_black(picture: Any) -> Image.Image:
    return Image.new("RGB", picture.size)


def _make_white(picture: Any) -> Image.Image:
    return Image.new("RGB", picture.size, "white")


def _make_ramps(picture: Any) -> Image.Image:
    """Return a picture whose red tells how far to the right a place is, its green how far down."""
    across, down = ((np.arange(side) + 0.5) / side * 255 for side in picture.size)
    pixels = np.zeros((len(down), len(across), 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = across.round(), down.round()[:, None]
    return Image.fromarray(pixels)


def _find_ends(shares: np.ndarray, axis: int) -> tuple[float, float]:
    """Return where the first pixel of an axis begins and the last one ends, by how far along a picture each is."""
    along = np.ma.masked_invalid(shares).mean(axis)
    (seen,) = np.nonzero(~np.ma.getmaskarray(along))
    if not len(seen):  # a picture that was not turned: the processor fetched it
        return 0.0, 1.0
    # Where a picture was made larger its ends are not as bright as their places say.
    inner = seen[(along[seen] > max(0.02, along.min() + 0.01)) & (along[seen] < min(0.98, along.max() - 0.01))]
    places = (inner + 0.5) / len(along)
    if len(inner) > 1:
        slope, start = np.polyfit(places, along[inner], 1)
    else:  # of so few pixels none was cut off
        slope = len(along) / len(seen)
        start = -seen[0] / len(seen)
    return float(start), float(start + slope)


def crop_pixels(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """Return a part of a picture, axes ``(height, width, …)``, black where it lies beyond."""
    left, top, right, bottom = crop
    size = (bottom - top) * (right - left) * pixels.shape[0] * pixels.shape[1]
    step = math.ceil(math.sqrt(max(1, size / MOST_PIXELS)))
    pixels = pixels[::step, ::step]
    kept, added = [], [(0, 0)] * pixels.ndim
    for axis, (start, stop) in enumerate(((top, bottom), (left, right))):
        side = pixels.shape[axis]
        first, last = round(start * side), round(stop * side)
        last = max(last, first + 1)
        kept.append(slice(max(first, 0), max(last, 0)))
        added[axis] = max(-first, 0), max(last - side, 0)
    return np.pad(pixels[tuple(kept)], added)


def turn_pictures(messages: Sequence[Mapping[str, Any]], turn: Turn = read_picture) -> list[Mapping[str, Any]]:
    """Return chat messages whose pictures were read, or turned; addresses on the web are left to the processor."""

    def read(part: Any) -> Any:
        if not isinstance(part, Mapping) or part.get("type") != "image":
            return part
        name = next((name for name in ("image", "path", "url") if part.get(name) is not None), None)
        if name is None:
            raise PromptError(f"a part of type 'image' has no image, path or url: {shorten(dict(part))}")
        source = part[name]
        if isinstance(source, str) and (name == "url" or source.startswith(("http://", "https://", "data:"))):
            return part
        return {"type": "image", "image": turn(source)}

    return [
        {**message, "content": [read(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), (list, tuple))
        else message
        for message in messages
    ]
