"""From numbers to colours: colour maps, norms, where a scale ends, and the bar that shows it."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import colors
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize

from ..errors import OptionError
from .style import DARK, LIGHT, PageStyle, Palette

if TYPE_CHECKING:  # pictures of a pixel a cell need colours, and no drawing
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

NORMS = ("linear", "power", "log", "quantile")
QUANTILE = 0.99
# Weights below this share of the largest are all the same to a logarithmic scale.
LOG_FLOOR = 1e-4
POWER = 0.5
# Queries that see fewer keys than this, or than a tenth of all, have large weights for want of choice.
FEW_KEYS = 10
# Where the largest weight is so many times the `QUANTILE`, nothing else would show on a linear scale up to it.
OUTLIER = 4.0
# A quantile is found from no more cells than this.
MOST_CELLS = 1_000_000
BAR_HEIGHT = 6.0
_TICKS = 5
# Ends of scales, and how many steps up to them are round.
_ROUND = {1.0: 5, 1.2: 4, 1.5: 3, 2.0: 4, 2.5: 5, 3.0: 3, 4.0: 4, 5.0: 5, 6.0: 3, 8.0: 4, 10.0: 5}

# Pale to dark through sea green and blue: CIELAB (L*, a*, b*) at equal steps of lightness.
_ANCHORS = ((97, -2, 4), (83, -16, 2), (69, -22, -12), (55, -14, -26), (41, 4, -34), (27, 16, -32), (13, 16, -18))
# Dark red over white to dark blue, each side as even as the other.
_DIVERGING_ANCHORS = (
    *((24, 40, 18), (39, 52, 28), (54, 46, 30), (69, 30, 22), (84, 13, 11), (97, 0, 1)),
    *((84, -7, -8), (69, -13, -18), (54, -12, -28), (39, 6, -36), (24, 16, -36)),
)
# Pale red over black to pale blue.
_DIVERGING_DARK = (
    *((80, 30, 18), (66, 44, 30), (52, 46, 32), (38, 36, 24), (24, 18, 12), (12, 0, -2)),
    *((24, 0, -16), (38, -4, -28), (52, -8, -34), (66, -10, -30), (80, -8, -18)),
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """A scale from numbers to colours, a neutral one for masked cells; `label` names the quantity with its unit.

    Where the `largest` or `smallest` of the numbers shown are beyond an end of the scale, the bar ends in an arrow.
    """

    norm: Normalize
    cmap: Colormap
    label: str = ""
    largest: float = -math.inf
    smallest: float = math.inf

    @property
    def extend(self) -> str:
        """Which ends numbers are beyond: ``"neither"``, ``"min"``, ``"max"`` or ``"both"``."""
        low, high = self.norm.vmin, self.norm.vmax
        if low is None or high is None:  # numbers set the ends when they are drawn
            return "neither"
        slack = 1e-3 * (high - low)
        beyond = self.smallest < low - slack, self.largest > high + slack
        return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]

    def make_mappable(self) -> ScalarMappable:
        """Return what `matplotlib.figure.Figure.colorbar` draws a bar of."""
        return ScalarMappable(self.norm, self.cmap)


def get_colormap(name: str | Colormap | None = None, *, diverging: bool = False, palette: Palette = LIGHT) -> Colormap:
    """Return a colour map of matplotlib, or that of this package, with the palette's neutral colour for masked cells.

    Ours is sequential, even in CIELAB lightness and readable in grey, on dark pages palest where largest; or diverging:
    red below 0, blue above, each side as even as the other, and 0 the colour of the page.
    """
    if isinstance(name, Colormap):
        return name.with_extremes(bad=palette.masked)
    return _find_colormap(name, diverging, palette)


@functools.cache
def _find_colormap(name: str | None, diverging: bool, palette: Palette) -> Colormap:
    if name is None:
        is_dark = palette is DARK
        anchors: Sequence[tuple[int, int, int]] = _ANCHORS[::-1] if is_dark else _ANCHORS
        if diverging:
            anchors = _DIVERGING_DARK if is_dark else _DIVERGING_ANCHORS
        # An odd number of colours has one in the middle, for 0.
        where = np.linspace(0, len(anchors) - 1, 257 if diverging else 256)
        lab = np.column_stack([np.interp(where, range(len(anchors)), c) for c in zip(*anchors, strict=True)])
        title = "attention difference" if diverging else "attention"
        cmap: Colormap = colors.ListedColormap(_lab_to_srgb(lab), name=title)
    elif name in mpl.colormaps:
        cmap = mpl.colormaps[name]
    else:
        raise OptionError(
            f"there is no colour map {name!r}; use a matplotlib name such as 'viridis' or 'magma_r', or a Colormap"
        )
    return cmap.with_extremes(bad=palette.masked)


def _lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Convert CIELAB (D65) of axes (n, 3) to sRGB in [0, 1], by IEC 61966-2-1 and CIE 15."""
    lightness, a, b = lab.T
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * np.array([[0.95047], [1.0], [1.08883]])
    matrix = np.array(
        [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
    )
    linear = np.clip(matrix @ xyz, 0, 1)
    srgb: np.ndarray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T
    return srgb


def make_norm(name: str | Normalize, vmin: float, vmax: float) -> Normalize:
    """Return the scale from weights to colours between these ends; a `Normalize` that came in is returned as it is.

    ``"power"`` is the square root, which shows small weights beside large ones; ``"log"`` ends at `LOG_FLOOR` of the
    largest weight when `vmin` is 0; ``"quantile"`` is linear.
    """
    if isinstance(name, Normalize):
        return name
    if name not in NORMS:
        raise OptionError(f"norm must be one of {', '.join(NORMS)}, or a Normalize, got {name!r}")
    if not -math.inf < vmin < vmax < math.inf:
        raise OptionError(f"the scale must end above its start, got vmin={vmin:g}, vmax={vmax:g}")
    if name == "log":
        if vmin < 0:
            raise OptionError(f"a logarithmic scale cannot start below 0, got vmin={vmin:g}; use norm='linear'")
        return colors.LogNorm(vmin if vmin > 0 else vmax * LOG_FLOOR, vmax, clip=True)
    if name == "power":
        return colors.PowerNorm(POWER, vmin, vmax, clip=True)
    return Normalize(vmin, vmax, clip=True)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How large numbers are that share a scale; sizes where `is_signed`, and the scale is then centred on 0.

    `end` is where an automatic scale ends, not yet rounded: the largest weight of queries that have a choice, or a
    quantile; `largest` is the largest of all.
    """

    end: float
    largest: float
    is_signed: bool = False


def measure_weights(weights: Iterable[np.ndarray], seen: np.ndarray, norm: str | Normalize = "linear") -> Extent:
    """Find where a scale of weights ends, of axes ``(..., n_query, n_key)`` and shown where `seen`; never at 0.

    What is large by construction is left out: the first query of a causal map sees one key, whose weight is 1, and the
    next ones see few. That is every row that sees fewer keys than `FEW_KEYS`, or than a tenth of all if those are less;
    at least two. ``"quantile"`` ends at the `QUANTILE` of the weights in place of the largest; so does ``"linear"``
    where the largest is more than `OUTLIER` times that.
    """
    has_choice = seen.sum(axis=1) >= max(2, min(FEW_KEYS, seen.shape[1] // 10))
    if not seen.any():
        return Extent(1.0, 1.0)
    if not has_choice.any():
        has_choice[:] = True
    chosen = seen & has_choice[:, None]
    arrays = list(weights)
    is_signed = any(float(array.min(initial=0, where=seen)) < 0 for array in arrays)
    arrays = [np.abs(array) for array in arrays] if is_signed else arrays
    largest = max((float(array.max(initial=0, where=seen)) for array in arrays), default=0.0)
    rest = max(
        (float(array[..., has_choice, :].max(initial=0, where=seen[has_choice])) for array in arrays), default=0.0
    )
    usual = _find_quantile(arrays, chosen)
    has_outliers = isinstance(norm, str) and (norm == "quantile" or (norm == "linear" and rest > OUTLIER * usual > 0))
    return Extent((usual if has_outliers and usual > 0 else rest) or largest or 1.0, largest or 1.0, is_signed)


def _find_quantile(arrays: Sequence[np.ndarray], chosen: np.ndarray) -> float:
    """Return the `QUANTILE` of the chosen cells of all arrays; of evenly spaced ones where there are very many."""
    places = np.flatnonzero(chosen)
    rows = [array.reshape(-1, array.shape[-2] * array.shape[-1]) for array in arrays]
    total = len(places) * sum(map(len, rows))
    if not total:
        return 0.0
    # An odd step, so that it does not fall on the same column again and again.
    places = places[:: max(1, -(-total // MOST_CELLS) | 1)] if total > MOST_CELLS else places
    return float(np.quantile(np.concatenate([row[:, places].ravel() for row in rows]).astype(np.float32), QUANTILE))


def round_end(end: float, norm: str | Normalize = "linear") -> float:
    """Return the next round number at or (but for a thousandth) above `end`; a power of ten on a logarithmic scale."""
    power = math.floor(math.log10(end) + 1e-9)
    mantissa = end / 10**power
    steps = (1.0, 10.0) if norm == "log" else tuple(_ROUND)
    return float(f"{next((step for step in steps if mantissa <= step * (1 + 1e-3)), 10.0) * 10.0**power:.3g}")


def make_scale(
    extent: Extent,
    *,
    norm: str | Normalize = "linear",
    vmin: float = 0.0,
    vmax: float | None = None,
    cmap: str | Colormap | None = None,
    palette: Palette = LIGHT,
    label: str = "",
) -> Scale:
    """Return the scale of weights; `vmax` left out is the round number from the end of `extent` up."""
    if extent.is_signed and vmin == 0 and not isinstance(norm, Normalize):
        if norm not in ("linear", "quantile"):
            raise OptionError(f"numbers below 0 are drawn on a linear scale around 0, got norm={norm!r}")
        end = round_end(extent.end) if vmax is None else vmax
        colours = get_colormap(cmap, diverging=True, palette=palette)
        return Scale(make_norm("linear", -end, end), colours, label, extent.largest, -extent.largest)
    end = round_end(max(extent.end, vmin + 1e-9), norm) if vmax is None else vmax
    end = vmin + 1.0 if vmax is None and end <= vmin else end
    if isinstance(norm, Normalize) and vmax is not None and norm.vmax not in (None, vmax):
        raise OptionError(
            f"the scale ends at {norm.vmax:g}, as norm= has it, and vmax={vmax:g} is given; leave one out"
        )
    made = make_norm(norm, vmin, end)
    # A person's own may be without ends.
    is_log = isinstance(made, colors.LogNorm) and vmin <= 0
    made.autoscale_None(np.array([end * LOG_FLOOR if is_log else vmin, end]))
    return Scale(made, get_colormap(cmap, palette=palette), label, extent.largest)


def choose_bar_ticks(norm: Normalize, most: int = _TICKS) -> list[float]:
    """Return ascending round numbers for the bar of a linear scale, at most so many steps, and both ends.

    Ends that are not round stand there all the same, and no other tick is near them.
    """
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    if low < 0 < high and math.isclose(-low, high):
        half = choose_bar_ticks(Normalize(0, high), max(1, most // 2))
        return [*(-tick for tick in half[:0:-1]), *half]
    if low == 0:
        power = math.floor(math.log10(high) + 1e-9)
        known = next((steps for end, steps in _ROUND.items() if math.isclose(end * 10.0**power, high)), None)
        if known is not None:
            count = next(n for n in range(min(most, known), 0, -1) if known % n == 0)
            return [float(f"{high * i / count:.6g}") for i in range(count + 1)]
    power = math.floor(math.log10((high - low) / most))
    step = next(digit * 10.0**power for digit in (1, 2, 5, 10) if digit * 10.0**power * most >= (high - low) * 0.999)
    inner = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    return [low, *(float(f"{x:.6g}") for x in inner if min(x - low, high - x) > step * 0.51), high]


def format_number(number: float) -> str:
    """Write a tick of a bar: as short as it can be without loss, with a minus sign."""
    return f"{0.0 if number == 0 else number:.3g}".replace("-", "−")


def draw_colorbar(
    figure: "Figure", rectangle: tuple[float, float, float, float], scale: Scale, style: PageStyle
) -> "Colorbar":
    """Draw a horizontal colour bar, its name above, in ``(left, bottom, width, height)`` points of the figure."""
    width, height = (72 * side for side in figure.get_size_inches())
    left, bottom, wide, high = rectangle
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height), label="colour bar")
    bar = figure.colorbar(
        scale.make_mappable(), cax=axes, orientation="horizontal", extend=scale.extend, extendfrac=8 / wide
    )
    bar.outline.set_linewidth(0.5)
    bar.ax.set_title(scale.label, fontsize=style.note, loc="left", pad=2.5, x=0)
    set_bar_ticks(bar, scale, wide, style)
    return bar


def set_bar_ticks(bar: "Colorbar", scale: Scale, length: float, style: PageStyle) -> None:
    """Put round ticks at a bar of so many points, both ends among them and none touching another."""
    if not isinstance(scale.norm, colors.LogNorm):
        room = 6 + max(style.measure(format_number(t), style.label)[0] for t in choose_bar_ticks(scale.norm))
        most = max(1, min(_TICKS, int(length // room))) if type(scale.norm) is Normalize else 2 * _TICKS
        ticks = _space_ticks(choose_bar_ticks(scale.norm, most), scale.norm, length, style)
        bar.set_ticks(ticks, labels=[format_number(tick) for tick in ticks])
    bar.ax.minorticks_off()


def _space_ticks(ticks: Sequence[float], norm: Normalize, length: float, style: PageStyle) -> list[float]:
    """Drop ticks whose labels would touch, from the upper end down, but no end."""
    first, *inner, last = ticks
    kept = [last]

    def is_apart(low: float, high: float) -> bool:
        widths = [style.measure(format_number(tick), style.label)[0] for tick in (low, high)]
        return bool((norm(high) - norm(low)) * length >= sum(widths) / 2 + 6)

    for tick in reversed(inner):
        if is_apart(tick, kept[-1]) and is_apart(first, tick):
            kept.append(tick)
    return [first, *kept[::-1]]
