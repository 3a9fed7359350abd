"""Pictures in any form that people have them in, read at a bounded cost."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import PromptError, describe_error, shorten

# No model sees more of a picture, and one of so many takes 200 MB while it is read.
MOST_PIXELS = 50_000_000
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
            if isinstance(source, (str, os.PathLike, io.BytesIO)):
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


def crop_picture(picture: Image.Image, processor: Any) -> Image.Image:
    """Return what a processor leaves of a picture that it scales as one: some cut off the borders."""
    own = getattr(processor, "image_processor", processor)
    size, crop = getattr(own, "size", None) or {}, getattr(own, "crop_size", None) or {}
    if not getattr(own, "do_center_crop", False) or size.get("shortest_edge") is None:
        return picture
    scale = min(picture.size) / size["shortest_edge"]
    wide, high = (min(side, crop[name] * scale) for side, name in zip(picture.size, ("width", "height"), strict=True))
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    return picture.crop((round(left), round(top), round(left + wide), round(top + high)))


def pad_picture(picture: Image.Image, processor: Any, tiles: tuple[int, int]) -> Image.Image:
    """Return a picture on the canvas of so many tiles, down and across, on which a processor pads it; others as it is.

    It is scaled as `get_image_size_fit_to_canvas` of transformers' Mllama does it, and lies at the top left.
    """
    own = getattr(processor, "image_processor", processor)
    if not (getattr(own, "do_pad", False) and getattr(own, "max_image_tiles", None)):
        return picture
    side = own.size["height"]
    canvas = tiles[1] * side, tiles[0] * side
    scale = min(min(max(n, side), most) / n for n, most in zip(picture.size, canvas, strict=True))
    padded = Image.new("RGB", canvas)
    padded.paste(picture.resize([max(1, int(n * scale)) for n in picture.size]))
    return padded


def read_message_pictures(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return chat messages whose pictures were read; addresses on the web are left to the processor."""

    def read(part: Any) -> Any:
        if not isinstance(part, Mapping) or part.get("type") != "image":
            return part
        name = next((name for name in ("image", "path", "url") if part.get(name) is not None), None)
        if name is None:
            raise PromptError(f"a part of type 'image' has no image, path or url: {shorten(dict(part))}")
        source = part[name]
        if isinstance(source, str) and (name == "url" or source.startswith(("http://", "https://", "data:"))):
            return part
        return {"type": "image", "image": read_picture(source)}

    return [
        {**message, "content": [read(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), (list, tuple))
        else message
        for message in messages
    ]
