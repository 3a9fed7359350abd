"""Matrices to pictures of one pixel a cell, without drawing: indices into a palette, PNG, SVG around a PNG.

The names are those of pattern-lens.
"""

import base64
import functools
import io
import zlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.colors import Colormap
from PIL import Image

from ..attentions import read_weights
from ..errors import OptionError
from .scales import get_colormap

# An odd number of colours has one in the middle, which 0 of a diverging scale gets; the last index is for NaN.
LAST_COLOUR = 254
MISSING = 255
# Programs that set text place the picture at the width of a column.
WIDTH_INCHES = 3.25


@runtime_checkable
class ByteWriter(Protocol):
    """A binary file, or what takes bytes as one does."""

    def write(self, data: bytes, /) -> Any:
        """Take bytes."""


def matrix_to_image_preprocess(
    matrix: Any,
    normalize: bool = False,
    cmap: str | Colormap | None = None,
    diverging_colormap: bool = False,
    normalize_min: float | None = None,
) -> np.ndarray:
    """Colour a matrix, one pixel a cell.

    Parameters
    ----------
    matrix : numpy.ndarray
        Numbers, axes ``(rows, columns)``; NaN and masked cells are neutral.
    normalize : bool
        Whether the smallest and largest number get the ends of the colour map. If not, 0 and 1 do (-1 and 1 when
        diverging), and numbers outside are an error.
    cmap : str or matplotlib.colors.Colormap, optional
        Colour map; left out, the one of this package, or a diverging one.
    diverging_colormap : bool
        Whether 0 gets the middle of the colour map, and numbers of the same size on both sides are equally far from it.
    normalize_min : float, optional
        Number at the lower end of the colour map in place of the smallest; smaller numbers get the same colour.
        Only with `normalize`, and not when diverging.

    Returns
    -------
    numpy.ndarray
        RGB, uint8, axes ``(rows, columns, 3)``.

    Raises
    ------
    OptionError
        If the matrix or an option cannot be used.
    """
    indices = index_matrix(
        matrix, normalize=normalize, diverging_colormap=diverging_colormap, normalize_min=normalize_min
    )
    return make_palette(cmap, diverging_colormap).take(indices, axis=0)


def index_matrix(
    matrix: Any, *, normalize: bool = False, diverging_colormap: bool = False, normalize_min: float | None = None
) -> np.ndarray:
    """Turn numbers into uint8 indices of `make_palette`, `MISSING` for NaN; as `matrix_to_image_preprocess` takes them.

    Raises
    ------
    OptionError
        If the matrix or an option cannot be used.
    """
    if normalize_min is not None and (diverging_colormap or not normalize):
        raise OptionError("normalize_min goes with normalize=True and diverging_colormap=False")
    matrix = _check_matrix(matrix)
    low, high = np.fmin.reduce(matrix, axis=None), np.fmax.reduce(matrix, axis=None)
    if np.isnan(low):
        return np.full(matrix.shape, MISSING, np.uint8)
    if np.isinf([low, high]).any():
        raise OptionError(f"a matrix to colour must be finite, got numbers from {low} to {high}; put NaN for no number")
    if not normalize:
        least = -1.0 if diverging_colormap else 0.0
        if low < least or high > 1:
            raise OptionError(
                f"Matrix values must be in range [{least:g}, 1], or normalize must be True; got {low:g} to {high:g}"
            )
        start, end = least, 1
    elif diverging_colormap:
        end = max(-low, high)
        start = -end
    else:
        start, end = low if normalize_min is None else normalize_min, high
        if start > end:
            raise OptionError(f"normalize_min must not be above the largest number, {high:g}, got {normalize_min:g}")
    span = float(end) - float(start)
    if span == 0:  # one number only: the middle when diverging (it is 0), else the lower end
        shares = np.where(np.isnan(matrix), matrix, LAST_COLOUR // 2 if diverging_colormap else 0)
    else:
        shares = (matrix - start) * (LAST_COLOUR / span)
        if normalize_min is not None:
            shares = np.maximum(shares, 0)
    indices = np.rint(shares, out=shares)
    missing = np.isnan(indices)
    if missing.any():
        indices[missing] = MISSING
    return indices.astype(np.uint8)


def _check_matrix(matrix: Any) -> np.ndarray:
    if hasattr(matrix, "detach"):  # a tensor, perhaps with gradients, on a device or in bfloat16
        matrix = read_weights(matrix)
    try:
        given = np.ma.asarray(matrix) if isinstance(matrix, np.ma.MaskedArray) else np.asarray(matrix)
        numbers = given.astype(np.result_type(given, np.float32), copy=False)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if isinstance(numbers, np.ma.MaskedArray):
        numbers = numbers.filled(np.nan)
    if numbers.ndim != 2 or numbers.size == 0 or numbers.dtype.kind != "f":
        raise OptionError(f"a picture needs a matrix of real numbers (rows, columns), got {_describe(numbers)}")
    return numbers


def _describe(matrix: np.ndarray) -> str:
    return f"{matrix.dtype} of shape {matrix.shape}"


def make_palette(cmap: str | Colormap | None = None, diverging: bool = False) -> np.ndarray:
    """Return the colours that `index_matrix` points to: read-only RGB, uint8, axes ``(256, 3)``, the last for NaN.

    Raises
    ------
    OptionError
        If there is no such colour map.
    """
    return _sample(cmap) if isinstance(cmap, Colormap) else _sample_named(cmap, diverging)


@functools.lru_cache(maxsize=64)
def _sample_named(name: str | None, diverging: bool) -> np.ndarray:
    return _sample(get_colormap(name, diverging=diverging))


def _sample(cmap: Colormap) -> np.ndarray:
    shares = np.append(np.linspace(0, 1, LAST_COLOUR + 1), np.nan)
    palette: np.ndarray = np.rint(cmap(shares)[:, :3] * 255).astype(np.uint8)
    palette.flags.writeable = False
    return palette


def matrix2drgb_to_png_bytes(matrix: Any, buffer: ByteWriter | None = None) -> bytes | None:
    """Turn an RGB picture into a PNG file.

    Parameters
    ----------
    matrix : numpy.ndarray
        uint8, axes ``(rows, columns, 3)``, as `matrix_to_image_preprocess` returns.
    buffer : binary file, optional
        Where to write; left out, the content is returned.

    Returns
    -------
    bytes or None
        The file, or None when it went to `buffer`. The same picture gives the same bytes.

    Raises
    ------
    OptionError
        If it is no such picture, or no file.
    """
    if np.ndim(matrix) != 3 or np.shape(matrix)[2] != 3 or np.size(matrix) == 0 or matrix.dtype != np.uint8:
        raise OptionError(
            f"an RGB picture has axes (rows, columns, 3) and dtype uint8, got {_describe(np.asarray(matrix))}"
        )
    if buffer is not None and not hasattr(buffer, "write"):
        raise OptionError(f"buffer must be a binary file, got {type(buffer).__name__}")
    data = _encode_png(Image.fromarray(matrix))
    if buffer is None:
        return data
    buffer.write(data)
    return None


def encode_indices(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """Turn indices and their palette into a PNG file, a third of the bytes of RGB before compression."""
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    return _encode_png(picture)


def _encode_png(picture: Image.Image) -> bytes:
    density = picture.width / WIDTH_INCHES
    buffer = io.BytesIO()
    # Runs are what heatmaps have; looking for more takes ten times longer and gains a tenth.
    picture.save(buffer, "png", compress_level=1, compress_type=zlib.Z_RLE, dpi=(density, density))
    return buffer.getvalue()


def matrix_as_svg(
    matrix: Any,
    normalize: bool = False,
    cmap: str | Colormap | None = None,
    diverging_colormap: bool = False,
    normalize_min: float | None = None,
) -> str:
    """Turn a matrix into an SVG picture of one unit a cell, with sharp cells at any size.

    Parameters
    ----------
    matrix, normalize, cmap, diverging_colormap, normalize_min
        As `matrix_to_image_preprocess` takes them.

    Returns
    -------
    str
        The SVG, as wide as the matrix has columns and as high as it has rows.

    Raises
    ------
    OptionError
        If the matrix or an option cannot be used.
    """
    indices = index_matrix(
        matrix, normalize=normalize, diverging_colormap=diverging_colormap, normalize_min=normalize_min
    )
    height, width = indices.shape
    picture = base64.b64encode(encode_indices(indices, make_palette(cmap, diverging_colormap))).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<image href="data:image/png;base64,{picture}" width="{width}" height="{height}" '
        'style="image-rendering:pixelated"/></svg>'
    )
