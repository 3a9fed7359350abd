"""Pages of venues, which `tueplots` knows: how wide they are, in which fonts and font sizes."""

import contextlib
import contextvars
import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from ..errors import OptionError
from .style import DARK, LIGHT, PageStyle, choose_family

_POINTS = 72
# What tueplots calls one column and two where a venue's page has columns.
_COLUMN_NAMES = {1: "half", 2: "full"}
# Height of the text on a page of a paper, in points; slides are as high as tueplots makes figures.
PAPER_HEIGHT = 648.0

_OWN = PageStyle()
_current: contextvars.ContextVar[PageStyle] = contextvars.ContextVar("page style", default=_OWN)


def get_style() -> PageStyle:
    """Return the `PageStyle` that figures have where no option says another."""
    return _current.get()


@contextlib.contextmanager
def use_preset(preset: str | None, *, columns: int = 1) -> Iterator[None]:
    """Draw the figures inside the block for a venue: as wide as its columns, in its fonts and font sizes.

    Parameters
    ----------
    preset : str or None
        A bundle of `tueplots`, such as ``"icml2024"`` or ``"neurips2024"``; None changes nothing.
    columns : {1, 2}
        Columns of the page that the figure spans; venues of one column have 1.

    Raises
    ------
    OptionError
        If `tueplots` is not installed, or has no such preset.
    """
    with use_style(get_style() if preset is None else find_venue(preset, columns=columns)):
        yield


@contextlib.contextmanager
def use_style(style: PageStyle) -> Iterator[None]:
    """Draw the figures inside the block in a `PageStyle`."""
    token = _current.set(style)
    try:
        yield
    finally:
        _current.reset(token)


def find_venue(preset: str, *, columns: int = 1) -> PageStyle:
    """Look up a venue; ticks of `tueplots` size labels, its legend notes, and presets for dark slides are dark."""
    try:
        from tueplots import bundles
    except ImportError as error:
        raise OptionError(
            f"the preset {preset!r} comes from tueplots, which is not installed: pip install 'attn-viewer[venues]'"
        ) from error
    known = {
        name: function
        for name, function in inspect.getmembers(bundles, inspect.isfunction)
        if function.__module__ == bundles.__name__ and not name.startswith("_")
    }
    if preset not in known:
        close = difflib.get_close_matches(str(preset), known, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise OptionError(f"there is no preset {preset!r}; {hint}there are {', '.join(sorted(known))}")
    takes = inspect.signature(known[preset]).parameters
    most = 2 if "column" in takes else 1
    if isinstance(columns, bool) or columns not in range(1, most + 1):
        raise OptionError(f"columns must be {' or '.join('12'[:most])} for {preset}, got {columns!r}")
    options = {"column": _COLUMN_NAMES[columns]} if most == 2 else {}
    rc = known[preset](**options, **({"usetex": False} if "usetex" in takes else {}))
    width, height = (side * _POINTS for side in rc["figure.figsize"])
    return PageStyle(
        label=float(rc["xtick.labelsize"]),
        axis=float(rc["axes.labelsize"]),
        note=float(rc["legend.fontsize"]),
        title=float(rc["axes.titlesize"]),
        heading=float(rc["font.size"]),
        family=(_find_family(rc),),
        width=width,
        height=height if "beamer" in preset else PAPER_HEIGHT,
        palette=DARK if "dark" in preset else LIGHT,
    )


def _find_family(rc: dict[str, Any]) -> str:
    kind = rc["font.family"]
    kind = kind if isinstance(kind, str) else kind[0]
    is_generic = kind in ("serif", "sans-serif")
    names = rc.get(f"font.{kind}", ()) if is_generic else (kind,)
    return choose_family([names] if isinstance(names, str) else names, kind if is_generic else "sans-serif")
