"""Pictures in pages: as the model saw them, small, beside the text."""

import base64
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import OptionError, UnsuitableMapsError
from ..inputs.pictures import WHOLE, Crop, crop_pixels, read_picture
from ..maps import AttentionMaps

# Patches are at least this small, and a page shows a picture smaller.
MOST_SIDE = 512


def spell_pictures(image: Any, maps: Sequence[AttentionMaps]) -> list[dict[str, Any]]:
    """Return pictures as the front end's ``meta.pictures``: address of the bytes themselves, width and height.

    `image` is what `read_picture` takes, or a list of these in the order in which the model was given them. Raises
    `UnsuitableMapsError` if no maps have patches of a picture, `OptionError` if there are more pictures than those,
    `PromptError` if one cannot be read.
    """
    numbers = [span.number for one in maps for span in one.spans if span.sense == "image"]
    if not numbers:
        raise UnsuitableMapsError(
            "image needs maps with the patches of a picture, which capture_attention and capture_image_attention "
            "find; these have none"
        )
    images = image if isinstance(image, (list, tuple)) else [image]
    if len(images) > max(numbers) + 1:
        raise OptionError(f"there are patches of {max(numbers) + 1} pictures, got {len(images)} pictures")
    crops = next(one.crops for one in maps if one.spans)
    return [_spell(one, crop) for one, crop in itertools.zip_longest(images, crops[: len(images)], fillvalue=WHOLE)]


def _spell(image: Any, crop: Crop) -> dict[str, Any]:
    picture = Image.fromarray(crop_pixels(np.asarray(read_picture(image)), crop))
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    found = {}
    for kind in ("png", "jpeg"):  # drawings are smaller in the first, photographs in the second
        file = io.BytesIO()
        picture.save(file, kind, quality=90, optimize=True)
        found[kind] = file.getvalue()
    kind, data = min(found.items(), key=lambda item: len(item[1]))
    href = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return {"href": href, "width": picture.width, "height": picture.height}
