"""The look of every figure, as data: colours, sizes, fonts and scales."""

import functools
import math

import matplotlib as mpl
import numpy as np
from matplotlib import colors, font_manager

from ..errors import OptionError
from .venues import get_venue

INK = "#1c2433"
MUTED = "#667085"
FRAME = "#98a1b0"
ACCENT = "#d1495b"
MASKED, MASKED_DARK = "#e7e2df", "#2b2a2d"  # the second on dark pages

# Parts of a prompt, neighbours far apart in hue.
BANDS = ("#3b6fb6", "#e0a030", "#4f9d69", "#a05fb0", "#7f7f7f", "#c9694a")
NORMS = ("linear", "power", "log", "quantile")
QUANTILE = 0.99
# Weights below this share of the largest are all the same to a logarithmic scale.
LOG_FLOOR = 1e-4
POWER = 0.5

# Pale to dark through sea green and blue: CIELAB (L*, a*, b*) at equal steps of lightness.
_ANCHORS = ((97, -2, 4), (83, -16, 2), (69, -22, -12), (55, -14, -26), (41, 4, -34), (27, 16, -32), (13, 16, -18))
# Dark red over white to dark blue, each side as even as the other.
_DIVERGING_ANCHORS = (
    *((24, 40, 18), (39, 52, 28), (54, 46, 30), (69, 30, 22), (84, 13, 11), (97, 0, 1)),
    *((84, -7, -8), (69, -13, -18), (54, -12, -28), (39, 6, -36), (24, 16, -36)),
)


def make_rc(*, family=None, text_as_path=False):
    """Return the rcParams that every figure is drawn and saved under.

    Parameters
    ----------
    family : sequence of str, optional
        Font families, the first that has a glyph draws it; left out, those of the venue.
    text_as_path : bool
        Whether SVG holds outlines in place of text.

    Returns
    -------
    dict
        For `matplotlib.rc_context`.
    """
    venue = get_venue()
    return {
        "font.family": list(family or venue.family),
        "font.size": venue.label,
        "text.color": INK,
        "axes.edgecolor": FRAME,
        "axes.linewidth": 0.5,
        "axes.labelcolor": INK,
        "axes.labelsize": venue.axis,
        "xtick.color": INK,
        "xtick.labelsize": venue.label,
        "xtick.major.size": 2.0,
        "xtick.major.width": 0.5,
        "xtick.major.pad": 1.5,
        "ytick.color": INK,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.fonttype": "path" if text_as_path else "none",
        "svg.hashsalt": "attn_viewer",
        "pdf.fonttype": 42,
        "path.simplify": True,
    }


def describe_axis_name():
    """Return the look of the name of an axis, for `matplotlib.text.Text`."""
    return {"size": get_venue().axis, "color": MUTED, "ha": "center", "va": "center"}


@functools.cache
def get_colormap(name=None, *, diverging=False):
    """Return a colour map whose masked cells are neutral.

    Parameters
    ----------
    name : str, optional
        A matplotlib name; left out, the map of this package: sequential, even in CIELAB lightness, readable in grey.
    diverging : bool
        Whether that is the one for signed values: red below 0, white at 0, blue above, each side as even as the other.

    Returns
    -------
    matplotlib.colors.Colormap
        A map with `MASKED` for masked values.

    Raises
    ------
    OptionError
        If there is no map of that name.
    """
    if name is None:
        anchors = _DIVERGING_ANCHORS if diverging else _ANCHORS
        # An odd number of colours has one in the middle, for 0.
        where = np.linspace(0, len(anchors) - 1, 257 if diverging else 256)
        lab = np.column_stack([np.interp(where, range(len(anchors)), c) for c in zip(*anchors, strict=True)])
        cmap = colors.ListedColormap(_lab_to_srgb(lab), name="attention difference" if diverging else "attention")
    elif name in mpl.colormaps:
        cmap = mpl.colormaps[name]
    else:
        raise OptionError(f"there is no colour map {name!r}; use a matplotlib name such as 'viridis' or 'magma_r'")
    return cmap.with_extremes(bad=MASKED)


def _lab_to_srgb(lab):
    """Convert CIELAB (D65) of axes (n, 3) to sRGB in [0, 1], by IEC 61966-2-1 and CIE 15."""
    lightness, a, b = lab.T
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * np.array([[0.95047], [1.0], [1.08883]])
    matrix = np.array(
        [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
    )
    linear = np.clip(matrix @ xyz, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T


def make_norm(name, vmin, vmax):
    """Return the scale from weights to colours.

    Parameters
    ----------
    name : {"linear", "power", "log", "quantile"} or matplotlib.colors.Normalize
        ``"power"`` is the square root, which shows small weights beside large ones; ``"log"`` ends at
        `LOG_FLOOR` of the largest weight when `vmin` is 0; ``"quantile"`` is linear, with `vmax` from `find_end`.
    vmin, vmax : float
        Weights at the ends of the scale.

    Returns
    -------
    matplotlib.colors.Normalize
        The scale; a `Normalize` that came in is returned as it is.

    Raises
    ------
    OptionError
        If the name is unknown or the ends do not make a scale.
    """
    if isinstance(name, colors.Normalize):
        return name
    if name not in NORMS:
        raise OptionError(f"norm must be one of {', '.join(NORMS)}, got {name!r}")
    if not -math.inf < vmin < vmax < math.inf:
        raise OptionError(f"the scale must end above its start, got vmin={vmin:g}, vmax={vmax:g}")
    if name == "log":
        if vmin < 0:
            raise OptionError(f"a logarithmic scale cannot start below 0, got vmin={vmin:g}; use norm='linear'")
        return colors.LogNorm(vmin if vmin > 0 else vmax * LOG_FLOOR, vmax, clip=True)
    if name == "power":
        return colors.PowerNorm(POWER, vmin, vmax, clip=True)
    return colors.Normalize(vmin, vmax, clip=True)


def find_end(values, norm):
    """Return the weight at which a scale ends.

    Parameters
    ----------
    values : numpy.ndarray
        The weights shown.
    norm : str or matplotlib.colors.Normalize
        As `make_norm` takes it.

    Returns
    -------
    float
        The largest; for ``"quantile"`` the `QUANTILE` of them unless that is 0. Never 0.
    """
    end = float(np.quantile(values, QUANTILE)) if isinstance(norm, str) and norm == "quantile" and values.size else 0.0
    return end or float(values.max(initial=0)) or 1.0


@functools.cache
def _read_charmap(path):
    return frozenset(font_manager.get_font(path).get_charmap())


def choose_fonts(texts):
    """Find installed fonts that have all characters, and write out those that none has.

    Parameters
    ----------
    texts : iterable of str
        All texts that will be drawn.

    Returns
    -------
    family : tuple of str
        Font families for `make_rc`, the fallback ones last.
    missing : frozenset of str
        Characters that no installed font can draw; see `spell_missing`.
    """
    family = [*get_venue().family]
    needed = set().union(*texts) if texts else set()
    missing = {c for c in needed if ord(c) not in _read_charmap(font_manager.findfont(family[0]))}
    for path, name in _list_fonts() if missing else ():
        try:
            found = {c for c in missing if ord(c) in _read_charmap(path)}
        except (OSError, RuntimeError):  # bitmap-only fonts (colour emoji) cannot be opened
            continue
        if found:
            family.append(name)
            missing -= found
        if not missing:
            break
    return tuple(family), frozenset(missing)


@functools.cache
def _list_fonts():
    # Regular upright faces in a fixed order, so that the same machine draws the same bytes. The last-resort font
    # has a box for every character and would hide what is missing.
    entries = {
        (entry.name, entry.fname)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal", "regular") and "Last" not in entry.name
    }
    return [(path, name) for name, path in sorted(entries)]


def spell_missing(text, missing):
    """Replace characters that no font can draw by their code points.

    Parameters
    ----------
    text : str
        A label.
    missing : collection of str
        From `choose_fonts`.

    Returns
    -------
    str
        The label with ``<U+4E2D>`` for each missing character.
    """
    if not missing:
        return text
    return "".join(f"<U+{ord(c):04X}>" if c in missing else c for c in text)


def shorten_label(label, longest=18):
    """Cut the middle out of a label that is too long for an axis.

    Parameters
    ----------
    label : str
        A token.
    longest : int
        Most characters to keep.

    Returns
    -------
    str
        The label, or its beginning and end around ``…``.
    """
    if len(label) <= longest:
        return label
    head = (longest * 2) // 3
    return f"{label[:head]}…{label[head + 1 - longest :]}"
