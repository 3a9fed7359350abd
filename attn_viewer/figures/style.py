"""The look of every figure as a value that is handed on: colours, fonts, font sizes and the page it stands on."""

import dataclasses
import functools
import logging
from collections.abc import Collection, Iterable
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

_log = logging.getLogger(__name__)

# Parts of a prompt, neighbours far apart in hue.
BANDS = ("#3b6fb6", "#e0a030", "#4f9d69", "#a05fb0", "#7f7f7f", "#c9694a")
SMALLEST_LABEL = 5.0
# What matplotlib draws by where no style sheet says otherwise: a page looks the same whatever a person has set.
_DRAWN = "agg axes errorbar figure font grid hatch image legend lines mathtext patch path scatter text xtick ytick"
DRAWING: dict[Any, Any] = {k: v for k, v in mpl.rcParamsDefault.items() if k.partition(".")[0] in _DRAWN.split()}
_SAVING: dict[Any, Any] = {k: v for k, v in mpl.rcParamsDefault.items() if k.startswith("savefig.")}
GENERIC = ("serif", "sans-serif", "sans serif", "sans", "cursive", "fantasy", "monospace")
# Bundled with matplotlib and drawn after Times, which papers are set in.
STIX = "STIXGeneral"


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours: words, notes and names of axes, frames, what is marked, cells that no query may see, the page."""

    ink: str
    muted: str
    frame: str
    accent: str
    masked: str
    ground: str


LIGHT = Palette("#1c2433", "#667085", "#98a1b0", "#d1495b", "#e7e2df", "#ffffff")
DARK = Palette("#e8eaee", "#98a1b0", "#5a6372", "#ff8a98", "#2b2a2d", "#14171d")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageStyle:
    """How a page looks; every figure is handed one.

    Font sizes (of token labels and numbers, names of axes, notes and names of bars, panel titles, heading), `width`
    and most `height` are in points; without a width each figure chooses, and `is_exact` pages are as high as `height`
    even where less would do. The first of `family` that has a glyph draws it; `spell` writes out what is `missing`.
    """

    label: float = 6.5
    axis: float = 7.0
    note: float = 7.0
    title: float = 7.5
    heading: float = 9.5
    family: tuple[str, ...] = ("DejaVu Sans",)
    missing: frozenset[str] = frozenset()
    width: float | None = None
    height: float | None = None
    is_exact: bool = False
    palette: Palette = LIGHT

    def measure(self, text: str, size: float) -> tuple[float, float]:
        """Return width and height (at least the font size) of one line of text in points; nothing in it is markup."""
        return measure_text(text, size, self.family)

    def fit_fonts(self, texts: Iterable[str]) -> "PageStyle":
        """Return the style with fallback fonts for all characters of these texts, and what none has in `missing`."""
        family = [self.family[0]]
        missing = {c for c in set().union(*texts) if ord(c) not in read_charmap(family[0])}
        for path, name in _list_fonts() if missing else ():
            try:
                found = {c for c in missing if ord(c) in _read_file(path)}
            except (OSError, RuntimeError):  # bitmap-only fonts (colour emoji) cannot be opened
                continue
            if found:
                family.append(name)
                missing -= found
            if not missing:
                break
        return dataclasses.replace(self, family=tuple(family), missing=frozenset(missing))

    def spell(self, text: str) -> str:
        """Write out characters that no font can draw: ``<U+4E2D>``."""
        return spell_missing(text, self.missing)

    def shorten(self, text: str, room: float, size: float, *, longest: int | None = None) -> str:
        """Cut the middle out of a text until it is no wider than `room` points, at least to its first letters."""
        text = text if longest is None else shorten_label(text, longest)
        for kept in range(len(text), 4, -1):
            if self.measure(shorten_label(text, kept), size)[0] <= room:
                return shorten_label(text, kept)
        return shorten_label(text, 4)

    def embolden(self, text: str) -> dict[Any, Any]:
        """Return properties that make a text bold where its font comes in bold, which a fallback seldom does."""
        if all(ord(c) in read_charmap(self.family[0]) for c in text):
            return {"weight": "bold", "fontfamily": [self.family[0]]}
        return {"weight": "normal", "fontfamily": list(self.family)}

    def scale_fonts(self, label: float) -> "PageStyle":
        """Return the style with labels of another size in points, and everything else larger or smaller with them."""
        names = ("label", "axis", "note", "title", "heading")
        return dataclasses.replace(self, **{name: getattr(self, name) * label / self.label for name in names})

    @property
    def axis_name(self) -> dict[Any, Any]:
        """The look of the name of an axis, for `matplotlib.text.Text`."""
        return {"size": self.axis, "color": self.palette.muted, "ha": "center", "va": "center"}

    def make_rc(self) -> dict[Any, Any]:
        """Return the rcParams that a figure is drawn under, for `matplotlib.rc_context`."""
        colors = self.palette
        return {
            "font.family": list(self.family),
            "font.size": self.label,
            "mathtext.fontset": "stix" if STIX in self.family else "dejavusans",
            "text.color": colors.ink,
            "axes.facecolor": "none",
            "axes.edgecolor": colors.frame,
            "axes.linewidth": 0.5,
            "axes.labelcolor": colors.ink,
            "axes.titlecolor": colors.ink,
            "axes.labelsize": self.axis,
            "xtick.color": colors.ink,
            "xtick.labelsize": self.label,
            "xtick.major.size": 2.0,
            "xtick.major.width": 0.5,
            "xtick.major.pad": 1.5,
            "ytick.color": colors.ink,
            "figure.facecolor": colors.ground,
            "path.simplify": True,
        }


def make_file_rc(*, text_as_path: bool = False) -> dict[Any, Any]:
    """Return the rcParams that make files with text as text (or outlines), TrueType fonts and the same bytes each time.

    A figure's own are no part of them, for it is drawn under those whoever saves it.
    """
    return _SAVING | {
        "svg.fonttype": "path" if text_as_path else "none",
        "svg.hashsalt": "attn_viewer",
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }


@functools.lru_cache(maxsize=65536)
def measure_text(text: str, size: float, family: tuple[str, ...]) -> tuple[float, float]:
    """Return width and height (at least the font size) of one line of text in points; nothing in it is markup."""
    font = FontProperties(family=list(family), size=size)
    width, height, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width, max(height, size)


@functools.cache
def read_charmap(family: str) -> frozenset[int]:
    """Return the code points that the font of a family has."""
    return _read_file(font_manager.findfont(FontProperties(family=[family])))


@functools.cache
def _read_file(path: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def _list_fonts() -> list[tuple[str, str]]:
    # Regular upright faces in a fixed order, so that the same machine draws the same bytes. The last-resort font
    # has a box for every character and would hide what is missing.
    entries = {
        (entry.name, entry.fname)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal", "regular") and "Last" not in entry.name
    }
    return [(path, name) for name, path in sorted(entries)]


def find_families(names: Iterable[str]) -> tuple[str, ...]:
    """Return font families by their own names, where some are called as rcParams have them: ``sans-serif``."""
    return tuple(_read_name(font_manager.findfont(FontProperties(family=[n]))) if n in GENERIC else n for n in names)


@functools.cache
def _read_name(path: str) -> str:
    return str(font_manager.get_font(path).family_name)


def choose_family(names: Iterable[str], kind: str) -> str:
    """Return the first of these families that is installed, else one bundled with matplotlib, which is logged once."""
    names = tuple(names)
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    known = next((name for name in names if name in installed), None)
    if known is not None:
        return known
    instead = STIX if kind == "serif" else "DejaVu Sans"
    if names:
        _say_once(names, instead)
    return instead


@functools.cache
def _say_once(names: tuple[str, ...], instead: str) -> None:
    _log.warning("none of the fonts %s is installed; figures use %s", ", ".join(names), instead)


def spell_missing(text: str, missing: Collection[str]) -> str:
    """Write characters that no font can draw as ``<U+4E2D>``."""
    if not missing:
        return text
    return "".join(f"<U+{ord(c):04X}>" if c in missing else c for c in text)


def shorten_label(label: str, longest: int = 24) -> str:
    """Cut the middle out of a label that is too long for an axis."""
    if len(label) <= longest:
        return label
    head = (longest * 2) // 3
    return f"{label[:head]}…{label[head + 1 - longest :]}"
