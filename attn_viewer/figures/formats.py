"""Figures to the bytes of a file, the same bytes for the same figure."""

import gzip
import io

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ..errors import OptionError
from . import style

FORMATS = ("jpg", "png", "pdf", "svg", "svgz")
JPG_QUALITY = 92
# Without dates, so that the same figure gives the same bytes.
_METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def check_format(fmt):
    """Return a format's name in lower case, without a dot.

    Parameters
    ----------
    fmt : str
        One of `FORMATS`; ``jpeg`` is ``jpg``.

    Returns
    -------
    str
        The name.

    Raises
    ------
    OptionError
        If it is unknown.
    """
    name = str(fmt).lower().lstrip(".")
    name = "jpg" if name == "jpeg" else name
    if name not in FORMATS:
        raise OptionError(f"figure format must be one of {', '.join(FORMATS)}, got {fmt!r}")
    return name


def render_figure(figure, fmt, *, text_as_path=False):
    """Turn a figure into the content of a file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    fmt : str
        One of `FORMATS`.
    text_as_path : bool
        Whether SVG holds outlines in place of text.

    Returns
    -------
    bytes
        The file.
    """
    fmt = check_format(fmt)
    with mpl.rc_context(style.make_rc(text_as_path=text_as_path)):
        if fmt in ("jpg", "png"):
            return _render_pixels(figure, fmt)
        kind = "svg" if fmt == "svgz" else fmt
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=_METADATA[kind])
    return gzip.compress(buffer.getvalue(), mtime=0) if fmt == "svgz" else buffer.getvalue()


def _render_pixels(figure, fmt):
    """Draw on white and hand the pixels to the encoder as they are; `savefig` would copy and blend them first."""
    canvas, colour = figure.canvas, figure.get_facecolor()
    try:
        figure.set_facecolor("white")
        drawn = FigureCanvasAgg(figure)
        drawn.draw()
        size = drawn.get_width_height()
        picture = Image.frombuffer("RGBX", size, drawn.buffer_rgba(), "raw", "RGBX", 0, 1)
        buffer = io.BytesIO()
        if fmt == "jpg":
            picture.save(buffer, "jpeg", quality=JPG_QUALITY, subsampling=0, dpi=(figure.dpi, figure.dpi))
        else:
            picture.convert("RGB").save(buffer, "png", compress_level=6, dpi=(figure.dpi, figure.dpi))
    finally:
        figure.set_canvas(canvas)
        figure.set_facecolor(colour)
    return buffer.getvalue()
