"""What labels of an axis say, and when they give way to fewer or to numbers: for stamps and for real ticks."""

import dataclasses
import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import Formatter, Locator, NullLocator

from ..errors import OptionError
from ..tokens import name_bytes
from .labels import AxisLabels
from .style import SMALLEST_LABEL, PageStyle, find_families, shorten_label

# Room for a line of text, in font sizes.
LINE_ROOM = 1.2
# Past so many tokens from one label to the next, or with fewer labels than so many, numbers say more.
MOST_STEP, FEWEST_LABELS = 8, 4
MOST_INDICES = 8
# How much longer axes may have been when their labels were chosen.
SLACK = 1.15
_given: weakref.WeakKeyDictionary[Axis, dict[str, Any]] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class TickChoice:
    """Which tokens of an axis are labelled: one in `step`, by name or number, below an axis upright or turned."""

    step: int
    is_index: bool
    is_upright: bool

    def coarsen(self, other: "TickChoice") -> "TickChoice":
        """Return a choice that needs no more room along the axis than this one or the other."""
        if self.is_index != other.is_index:
            return self if self.is_index else other
        return TickChoice(max(self.step, other.step), self.is_index, self.is_upright and other.is_upright)


def choose_ticks(
    length: float,
    count: float,
    size: float,
    *,
    widest: float,
    is_key: bool,
    has_tokens: bool = True,
    most_step: int = MOST_STEP,
    most_indices: int = MOST_INDICES,
) -> TickChoice:
    """Decide which tokens of an axis of so many points are labelled.

    Every token if all labels fit; else every second, third, … one up to `most_step`; else at most `most_indices`
    numbers. Below an axis labels are turned unless the `widest` fits upright.
    """
    pitch = length / count
    # A hair of slack, so that rounding does not drop labels.
    step = max(1, math.ceil(size * LINE_ROOM / pitch - 1e-6))
    if has_tokens and (step == 1 or (step <= most_step and count / step >= FEWEST_LABELS) or most_step >= count):
        return TickChoice(step, False, is_key and widest + size * 0.4 <= pitch * step)
    room = size * LINE_ROOM if not is_key else widest_number(count, size) + size * 0.6
    most = min(most_indices, max(1, int(length // room)))
    return TickChoice(choose_step(max(1, round(count)), most), True, is_key)


def widest_number(count: float, size: float) -> float:
    """Return about the width of the largest of so many token numbers in points."""
    return len(str(int(count))) * size * 0.65


def choose_step(count: int, most: int = MOST_INDICES) -> int:
    """Return the round step (1, 2 or 5 times a power of ten) that puts at most `most` ticks on `count` tokens."""
    steps = (int(digit * 10**power) for power in itertools.count() for digit in (1, 2, 5))
    return next(step for step in steps if -(-count // step) <= most)


def write_labels(tokens: Sequence[str], style: PageStyle) -> tuple[str, ...]:
    """Return tokens as written at an axis: bytes by their character, cut where too long, nothing that no font has."""
    return tuple(shorten_label(style.spell(token)) for token in name_bytes(tokens))


def label_axis(
    tokens: Sequence[str],
    style: PageStyle,
    choice: TickChoice,
    *,
    cell: int = 1,
    first: int = 0,
    size: float | None = None,
    beside: float = 0.0,
) -> AxisLabels:
    """Make the labels of one axis of stamped panels, with `cell` tokens a cell from number `first` on.

    Sizes are in points; `beside` is room between panel and labels that something else takes.
    """
    look: dict[str, Any] = {"step": choice.step, "is_upright": choice.is_upright, "beside": beside}
    if not choice.is_index:
        places = range(0, len(tokens), choice.step)
        written = write_labels(tokens, style)
        texts = tuple(written[i] for i in places)
        return AxisLabels(tuple(map(float, places)), texts, style, size or style.label, **look)
    numbers = range(-(-first // choice.step) * choice.step, first + len(tokens), choice.step)
    # The tick of token i stands at the middle of that token, also inside a larger cell.
    positions = tuple((i - first + 0.5) / cell - 0.5 for i in numbers)
    return AxisLabels(positions, tuple(map(str, numbers)), style, style.label, is_index=True, **look)


class TokenLocator(Locator):
    """Ticks at tokens, as many as fit: every token, every n-th, or round numbers; without texts, numbers alone.

    It is asked anew at each drawing, so that labels suit the size of the axes and what part of them is shown. Labels
    shrink to fit, but no further than `SMALLEST_LABEL`, and are turned below an axis where they are wide, unless their
    size or rotation was set by somebody else. Tokens that are `named`, by their place among the tokens, keep
    their names as far as there is room, the first of them first, where not all have theirs.

    On a page of one size labels only get fewer, smaller and turned: where a layout engine makes room for numbers, the
    axes may grow until words fit, for which it has made no room.
    """

    def __init__(
        self,
        texts: Sequence[str] | None,
        first: int,
        count: int,
        *,
        is_key: bool,
        most_step: int = MOST_STEP,
        named: Sequence[int] = (),
    ) -> None:
        self.texts, self.most_step, self.named = texts, most_step, named
        self.first, self.count = first, count
        self.is_key = is_key
        self.choice = TickChoice(1, texts is None, is_key)
        self._widths: dict[tuple[str, ...], float] = {}
        self._given: dict[str, Any] = {}
        self._size = self._pitch = math.inf
        # What labels were last chosen for: what is shown and how it is written; size of the page, length of the axis.
        self._chosen_for: tuple[Any, ...] = ()

    @property
    def _own_axis(self) -> Axis:
        """The axis that `set_token_ticks` gave it to."""
        return cast(Axis, self.axis)  # matplotlib's hint has stand-ins of its tests and of 3D axes too

    def __call__(self) -> list[float]:
        """Return where ticks stand on the axis as it is now."""
        low, high = sorted(self._own_axis.get_view_interval())
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return where ticks stand if the axis shows tokens from `vmin` to `vmax`."""
        shown = max(min(vmax, self.first + self.count - 0.5) - max(vmin, self.first - 0.5), 1e-9)
        self._choose((vmin, vmax), shown)
        start, stop = max(self.first, round(vmin + 1e-6)), min(self.first + self.count - 1, round(vmax - 1e-6))
        offset = 0 if self.choice.is_index else self.first
        step = self.choice.step
        begin = -(-(start - offset) // step) * step + offset
        places = list(range(begin, stop + 1, step))
        if self.choice.is_index or step > 1:
            places = self._space([self.first + i for i in self.named if start <= self.first + i <= stop], places)
        return [float(i) for i in places]

    def _space(self, named: Sequence[int], numbers: Sequence[int]) -> list[int]:
        """Return the places of names and then of numbers that do not touch what was kept before them."""
        kept: dict[int, float] = {}
        for place in (*named, *numbers):
            room = self._size * LINE_ROOM
            if self.is_key and self.choice.is_upright:
                room = self._label_style.measure(self._write(place), self._size)[0] + self._size * 0.6
            if all(abs(place - other) * self._pitch >= (room + its) / 2 for other, its in kept.items()):
                kept[place] = room
        return sorted(kept)

    def format(self, place: float) -> str:
        """Return the label of the token at a coordinate."""
        return escape_markup(self._write(round(place)))

    def _write(self, place: int) -> str:
        index = place - self.first
        if self.texts is None or not 0 <= index < self.count:
            return str(place)
        if self.choice.is_index:
            return f"{place} {self.texts[index]}" if index in self.named else str(place)
        return self.texts[index]

    def _choose(self, view: tuple[float, float], shown: float) -> None:
        """Decide which tokens are labelled, and shrink and turn labels to fit."""
        axes = self._own_axis.axes
        whole = (axes.bbox.width if self.is_key else axes.bbox.height) * 72 / axes.figure.dpi
        length = whole * shown / (view[1] - view[0])
        now: dict[str, Any] = self._own_axis.get_tick_params(which="major") or {}
        wished = FontProperties(
            size=mpl.rcParams["xtick.labelsize" if self.is_key else "ytick.labelsize"]
        ).get_size_in_points()
        is_ours = now.get("labelsize") in (None, self._given.get("labelsize"))
        size = wished if is_ours else FontProperties(size=now["labelsize"]).get_size_in_points()
        family = find_families(now.get("labelfontfamily") or mpl.rcParams["font.family"])
        page = [round(float(side) / axes.figure.dpi, 6) for side in axes.figure.bbox.size]
        is_again = self._keep((*view, size, family), page, round(whole, 6))
        if is_ours and self.texts is not None:
            fitting = length / shown / LINE_ROOM
            size = min(size, max(fitting, min(SMALLEST_LABEL, size))) if fitting >= SMALLEST_LABEL else size
        self._label_style = PageStyle(family=family)
        # Axes that get a little shorter keep their labels, which may be wider where they are others.
        slack = SLACK if is_again else 1.0
        now_is = size, length * slack / shown
        self._size, self._pitch = map(min, now_is, (self._size, self._pitch)) if is_again else now_is
        choice = choose_ticks(
            length * slack,
            shown,
            self._size,
            widest=self._measure(self._size) * slack,
            is_key=self.is_key,
            has_tokens=self.texts is not None,
            most_step=self.most_step,
        )
        self.choice = choice.coarsen(self.choice) if is_again else choice
        wanted = {"labelsize": self._size}
        if self.is_key:
            wanted["rotation"] = 0.0 if self.choice.is_upright else 90.0
        self._give({key: value for key, value in wanted.items() if now.get(key) in (None, self._given.get(key))})

    def _keep(self, shown: tuple[Any, ...], page: list[float], length: float) -> bool:
        """Note what labels are chosen for; tell whether it is what they were last chosen for."""
        before, self._chosen_for = self._chosen_for, (shown, page, length)
        # A page that is cut to what is on it (bbox_inches) has another size, and axes of the same.
        return bool(before) and before[0] == shown and (before[1] == page or before[2] == length)

    def _give(self, wanted: dict[str, Any]) -> None:
        changed = {key: value for key, value in wanted.items() if self._given.get(key) != value}
        if changed:
            self._given |= changed
            for axis in self._list_axes():
                axis.set_tick_params(which="major", **changed)

    @property
    def names(self) -> tuple[Any, ...]:
        """What stands where on the axis."""
        return self.texts, self.first, self.count

    def _list_axes(self) -> list[Axis]:
        """Return this axis and those that share it, which have their ticks from this object."""
        others = _list_others(self._own_axis, is_key=self.is_key)
        return [self._own_axis, *(ax.xaxis if self.is_key else ax.yaxis for ax in others)]

    def _measure(self, size: float) -> float:
        """Return the width of the widest label in points."""
        style = self._label_style
        if style.family not in self._widths:
            widest = max((style.measure(text, 100)[0] for text in self.texts or ()), default=0)
            self._widths[style.family] = widest / 100
        return self._widths[style.family] * size


def _list_others(axis: Axis, *, is_key: bool) -> list[Axes]:
    """Return the axes that share an axis with those it belongs to."""
    shared = axis.axes.get_shared_x_axes() if is_key else axis.axes.get_shared_y_axes()
    return [ax for ax in shared.get_siblings(axis.axes) if ax is not axis.axes]


class TokenFormatter(Formatter):
    """Labels of the ticks that a `TokenLocator` chose."""

    def __init__(self, tokens: TokenLocator) -> None:
        self.tokens = tokens

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of the token at `x`."""
        return self.tokens.format(x)


def set_token_ticks(
    axis: Axis,
    tokens: Sequence[str] | None,
    first: int,
    count: int,
    *,
    is_key: bool,
    most_step: int = MOST_STEP,
    named: Sequence[int] = (),
) -> None:
    """Label an axis with `count` tokens, or their numbers where there are none; each stands at its number.

    From `most_step` of `count` on, numbers of tokens never take their place; `named` ones keep their names the longest.
    """
    texts = None
    if tokens is not None:
        style = PageStyle(family=find_families(mpl.rcParams["font.family"])).fit_fonts(name_bytes(tokens))
        texts = write_labels(tokens, style)
        if len(style.family) > 1:
            axis.set_tick_params(which="major", labelfontfamily=list(style.family))
    locator = TokenLocator(texts, first, count, is_key=is_key, most_step=most_step, named=named)
    # What another chose for its labels is nobody's wish, and stays when axes are cleared.
    before = axis.get_major_locator()
    if (
        isinstance(before, TokenLocator)
        and before.names != locator.names
        and any(ax.images for ax in _list_others(axis, is_key=is_key))
    ):
        raise OptionError(
            f"these axes share their {'keys' if is_key else 'queries'} with others, which show other tokens and would "
            f"get these labels; draw into axes that do not share {'x' if is_key else 'y'}"
        )
    locator._given = _given.setdefault(axis, before._given if isinstance(before, TokenLocator) else {})
    axis.set_major_locator(locator)
    axis.set_major_formatter(TokenFormatter(locator))
    axis.set_minor_locator(NullLocator())  # there is nothing between two tokens


def escape_markup(text: str) -> str:
    r"""Return a text that matplotlib, or TeX under ``text.usetex``, draws as it stands."""
    if mpl.rcParams["text.usetex"]:
        return "".join(_TEX.get(c, c) for c in text)
    return text.replace("$", r"\$")


_TEX = {c: f"\\{c}" for c in "$%&#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "␣": r"\textvisiblespace{}",
    "⏎": r"$\hookleftarrow$",
    "…": r"\ldots{}",
}
