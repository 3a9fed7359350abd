"""Font sizes, fonts and page widths: our own, or those of a venue, which `tueplots` knows."""

import contextlib
import contextvars
import dataclasses
import difflib
import inspect

from matplotlib import font_manager

from ..errors import OptionError

SMALLEST_LABEL = 5.0
_POINTS = 72
# What tueplots calls one column and two where a venue's page has columns.
_COLUMN_NAMES = {1: "half", 2: "full"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Venue:
    """Sizes in points of what a figure says, and where it will stand.

    Parameters
    ----------
    label : float
        Font size of token labels and numbers at axes.
    axis, note, title, heading : float
        Font sizes of the names of axes, of notes and names of colour bars, of panel titles, of the heading.
    family : tuple of str
        Font families, the first that has a glyph draws it.
    width : float or None
        Width of the page; None lets each figure choose.
    """

    label: float = 6.5
    axis: float = 7.0
    note: float = 7.0
    title: float = 7.5
    heading: float = 9.5
    family: tuple = ("DejaVu Sans",)
    width: float | None = None


_OWN = Venue()
_current = contextvars.ContextVar("venue", default=_OWN)


def get_venue():
    """Return the `Venue` that figures are drawn for."""
    return _current.get()


@contextlib.contextmanager
def use_preset(preset, *, columns=1):
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
    with use_venue(get_venue() if preset is None else find_venue(preset, columns=columns)):
        yield


@contextlib.contextmanager
def use_venue(venue):
    """Draw the figures inside the block for a `Venue`."""
    token = _current.set(venue)
    try:
        yield
    finally:
        _current.reset(token)


def find_venue(preset, *, columns=1):
    """Look up a venue.

    Parameters
    ----------
    preset, columns
        As `use_preset` takes them.

    Returns
    -------
    Venue
        The font sizes of `tueplots`: ticks for labels, the legend for notes.

    Raises
    ------
    OptionError
        If `tueplots` is not installed, or has no such preset, or the venue has not so many columns.
    """
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
    return Venue(
        label=float(rc["xtick.labelsize"]),
        axis=float(rc["axes.labelsize"]),
        note=float(rc["legend.fontsize"]),
        title=float(rc["axes.titlesize"]),
        heading=float(rc["font.size"]),
        family=(_find_family(rc),),
        width=rc["figure.figsize"][0] * _POINTS,
    )


def _find_family(rc):
    """Return the first font of a venue that is installed; matplotlib's own of that kind is always."""
    kind = rc["font.family"]
    fallback = {"serif": "DejaVu Serif", "sans-serif": "DejaVu Sans"}
    kind = kind if isinstance(kind, str) else kind[0]
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next(
        (name for name in rc.get(f"font.{kind}", [kind]) if name in installed), fallback.get(kind, "DejaVu Sans")
    )
