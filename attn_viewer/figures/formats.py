"""Figures to the bytes of a file, the same bytes for the same figure."""

import contextlib
import gzip
import io
import re
from collections.abc import Iterator
from typing import Any, cast, get_args

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from PIL import Image
from PIL.JpegPresets import presets

from ..errors import OptionError, PageSizeError
from ..options import Format, read_format
from .style import make_file_rc

FORMATS: tuple[str, ...] = get_args(Format)
# Coarse where letters and edges do not show it, and even areas exact: colours are numbers here. Of 18 pages, 12 are no
# larger than PNG (median 0.67); those of many labels are up to 1.9 times as large, for PNG says what repeats once. With
# half the colours (4:2:0) they would be 1.4 times as large, and small cells of wrong colours.
JPG_TABLES = [[8, *table[1:]] for table in cast(Any, presets["web_low"]["quantization"])]
# Pixels of a side, as JPEG holds them, and of a page: 1 GB while it is drawn.
LONGEST_SIDE, MOST_PIXELS = 65_500, 2**28
_VECTOR = ("eps", "pdf", "ps", "svg")
# Without dates, so that the same figure gives the same bytes.
_METADATA: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def check_format(fmt: str) -> str:
    """Return a format's name in lower case, without a dot; ``jpeg`` is ``jpg``."""
    name = read_format(fmt)
    if not isinstance(name, str) or name not in FORMATS:
        raise OptionError(f"figure format must be one of {', '.join(FORMATS)}, got {fmt!r}")
    return name


def render_figure(figure: Figure, fmt: str, *, text_as_path: bool = False) -> bytes:
    """Turn a figure into the content of a file, SVG with text as text or as outlines."""
    fmt = check_format(fmt)
    with _set_rc(figure, text_as_path=text_as_path):
        if fmt in ("jpg", "png") and (fmt == "jpg" or to_rgba(figure.get_facecolor())[3] == 1):
            return _render_pixels(figure, fmt)
        return _save(figure, fmt, {})


def _check_pixels(figure: Figure, dpi: float) -> None:
    """Refuse a picture that is too large before its memory is taken."""
    width, height = (round(side * dpi) for side in figure.get_size_inches())
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise PageSizeError(
            f"{width:,} × {height:,} pixels are more than a picture has ({LONGEST_SIDE:,} a side, {MOST_PIXELS:,} in "
            "all); write PDF or SVG, or a smaller page"
        )


def save_figure(figure: Figure, fmt: str, options: dict[str, Any]) -> bytes:
    """Turn a figure into a file's content, with options of `matplotlib.figure.Figure.savefig` and any of its formats.

    Without options, the file is that of `render_figure`; text is text in SVG, fonts are TrueType in PDF, no dates.
    """
    kind = str(read_format(fmt))
    if kind in FORMATS and not options:
        return render_figure(figure, kind)
    with _set_rc(figure):
        return _save(figure, kind, options)


def _set_rc(figure: Figure, *, text_as_path: bool = False) -> contextlib.AbstractContextManager[None]:
    """Set the rcParams of files, and those of a page of ours: matplotlib reads some before it draws."""
    return mpl.rc_context(getattr(figure, "rc", {}) | make_file_rc(text_as_path=text_as_path))


def _save(figure: Figure, fmt: str, options: dict[str, Any]) -> bytes:
    kind = "svg" if fmt == "svgz" else fmt
    if kind == "pgf":
        raise OptionError(
            "a PGF file holds no cells, which are pictures, and its words are TeX, which tokens are not; write PDF or "
            "EPS, which LaTeX includes as well"
        )
    if kind not in (known := figure.canvas.get_supported_filetypes()):
        raise OptionError(f"matplotlib writes {', '.join(sorted(known))}, got format {fmt!r}")
    look = {"dpi": figure.dpi} | options
    if kind not in _VECTOR:
        _check_pixels(figure, look["dpi"] if isinstance(look["dpi"], (int, float)) else figure.dpi)
    if kind in _METADATA:
        look["metadata"] = _METADATA[kind] | dict(look.get("metadata") or {})
    buffer, is_postscript = io.BytesIO(), kind in ("eps", "ps")
    with _flatten(figure) if is_postscript else contextlib.nullcontext():
        Figure.savefig(figure, buffer, format=kind, **look)
    data = buffer.getvalue()
    if is_postscript:  # which takes no word on its date
        data = re.sub(rb"%%CreationDate:[^\n]*\n", b"", data, count=1)
    return gzip.compress(data, mtime=0) if fmt == "svgz" else data


@contextlib.contextmanager
def _flatten(figure: Figure) -> Iterator[None]:
    """Lay lines and pictures that are transparent on the colour of the page, for PostScript draws them opaque.

    Cells go in one by one: PostScript writes each pixel of what was brought to size as six digits.
    """
    ground = np.array(to_rgb(figure.get_facecolor()))

    def blend(colours: np.ndarray) -> np.ndarray:
        shares = colours / 255 if colours.dtype == np.uint8 else colours
        alpha = shares[..., 3:]
        return np.concatenate([shares[..., :3] * alpha + ground * (1 - alpha), np.ones_like(alpha)], axis=-1)

    images = [(image, image.get_array()) for ax in figure.axes for image in ax.images]
    cells = [image for image, _ in images if image.get_interpolation() == "nearest"]
    found: list[tuple[Artist, str, np.ndarray]] = [
        *((lines, "color", to_rgba_array(lines.get_colors())) for lines in figure.findobj(LineCollection)),
        *((image, "data", array) for image, array in images if array is not None and array.shape[2:] == (4,)),
    ]
    try:
        for artist, name, colours in found:
            artist.set(**{name: blend(colours)})
        for image in cells:
            image.set_interpolation("none")
        yield
    finally:
        for image in cells:
            image.set_interpolation("nearest")
        for artist, name, colours in found:
            artist.set(**{name: colours})


def _render_pixels(figure: Figure, fmt: str) -> bytes:
    """Hand the pixels to the encoder as they are; `savefig` would copy and blend them first."""
    _check_pixels(figure, figure.dpi)
    canvas, colour = figure.canvas, figure.get_facecolor()
    try:
        if to_rgba(colour)[3] < 1:
            figure.set_facecolor("white")
        drawn = FigureCanvasAgg(figure)
        drawn.draw()  # type: ignore[no-untyped-call]
        size = drawn.get_width_height()
        pixels = drawn.buffer_rgba()  # type: ignore[no-untyped-call]
        picture = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
        buffer = io.BytesIO()
        if fmt == "jpg":
            picture.save(buffer, "jpeg", qtables=JPG_TABLES, subsampling=0, optimize=True, dpi=(figure.dpi, figure.dpi))
        else:
            picture.convert("RGB").save(buffer, "png", compress_level=6, dpi=(figure.dpi, figure.dpi))
    finally:
        figure.set_canvas(canvas)
        figure.set_facecolor(colour)
    return buffer.getvalue()
