"""Figures to the bytes of a file, the same bytes for the same figure."""

import gzip
import io

import matplotlib as mpl

from ..errors import OptionError
from . import style

FORMATS = ("jpg", "png", "pdf", "svg", "svgz")
JPG_QUALITY = 92
# Without dates, so that the same figure gives the same bytes.
_METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}, "jpg": None}


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
    kind = "svg" if fmt == "svgz" else fmt
    buffer = io.BytesIO()
    options = {"pil_kwargs": {"quality": JPG_QUALITY, "subsampling": 0}} if kind == "jpg" else {}
    if kind == "png":
        options = {"pil_kwargs": {"compress_level": 6}}
    with mpl.rc_context(style.make_rc(text_as_path=text_as_path)):
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=_METADATA[kind], **options)
    data = buffer.getvalue()
    return gzip.compress(data, mtime=0) if fmt == "svgz" else data
