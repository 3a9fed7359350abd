"""The page: every figure of ours stands on one, with heading, notes and colour bars on top and free room below."""

import contextlib
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from ..errors import OptionError, PageSizeError
from .formats import render_figure, save_figure
from .labels import LineText
from .scales import BAR_HEIGHT, Scale, draw_colorbar, format_number
from .style import DRAWING, PageStyle

BETWEEN = 11.0
LINE = 1.4
BAR_WIDTH = 130.0
# A page with a heading is no narrower than this.
NARROWEST = 150.0
# A pixel at 100 dots per inch, two at 200: lengths that are multiples keep cells sharp and labels in step.
PIXEL = 0.72
MARGIN = 13 * PIXEL
# Bold is up to a sixth wider than the regular face that is measured; letters on whole pixels take a little more room.
BOLD, PIXELS = 7 / 6, 0.96
# Raster pages get the finest of these resolutions (dots per inch) at which they still open quickly; in print pixels
# show sooner.
RESOLUTIONS, MOST_PIXELS, PRINT_RESOLUTION = (200, 150, 100), 24e6, 300


def snap(length: float) -> float:
    """Round a length up to whole pixels."""
    return math.ceil(length / PIXEL - 1e-6) * PIXEL


class PageFigure(Figure):
    """A figure that shows itself in notebooks, is saved as the command line saves it, and may be drawn many times.

    Raster renderers draw what stays once and copy its pixels from then on, until one of its artists is stale; vector
    formats are drawn as ever. The pixels are those of a figure drawn for the first time, under the rcParams `rc`.
    """

    def __init__(self, *args: Any, rc: dict[Any, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Put together, the cells of all panels would be resampled once more.
        self.suppressComposite = True
        self.rc = rc or {}
        self.changing: list[Artist] = []  # what may change, in the order of drawing; it lies on top of all that stays
        self._kept: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pixels, which a copy draws anew."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[misc]
        return state | {"_kept": None}

    def _repr_png_(self) -> bytes:
        """Show the figure as the value of a notebook's cell."""
        return render_figure(self, "png")

    def savefig(self, fname: str | os.PathLike[str] | IO[bytes], **options: Any) -> None:
        """Save the figure as the command line does: text as text in SVG, TrueType in PDF, the same bytes each time.

        The format is the ending of `fname` unless `format` says another; options are those of
        `matplotlib.figure.Figure.savefig`.
        """
        path = os.fspath(fname) if isinstance(fname, (str, os.PathLike)) else ""
        ending = os.path.splitext(path)[1]
        fmt = options.pop("format", None) or ending or mpl.rcParams["savefig.format"]
        data = save_figure(self, fmt, options)
        if isinstance(fname, (str, os.PathLike)):
            with open(path if ending else f"{path}.{fmt}", "wb") as file:
                file.write(data)
        else:
            fname.write(data)

    def draw(self, renderer: RendererBase) -> None:
        """Draw what stays, or copy it, and then what changes."""
        with mpl.rc_context(self.rc) if self.rc else contextlib.nullcontext():
            self._draw(renderer)

    def _draw(self, renderer: RendererBase) -> None:
        # Where layout is measured, a renderer is blinded by methods that do nothing.
        if not self.changing or not isinstance(renderer, RendererAgg) or "draw_path" in vars(renderer):
            super().draw(renderer)
            return
        state = renderer.width, renderer.height, renderer.dpi, self.get_facecolor(), self.get_edgecolor()
        if self._kept is None or self._kept[0] != state or any(a.stale for a in self._list_staying()):
            shown = [artist for artist in self.changing if artist.get_visible()]
            for artist in shown:
                artist.set_visible(False)
            try:
                super().draw(renderer)
            finally:
                for artist in shown:
                    artist.set_visible(True)
            page = Bbox.from_bounds(0, 0, renderer.width, renderer.height)
            self._kept = state, renderer.copy_from_bbox(page)
        else:
            renderer.restore_region(self._kept[1])  # type: ignore[no-untyped-call]
        for artist in self.changing:
            artist.draw(renderer)
        self.stale = False

    def _list_staying(self) -> Iterator[Artist]:
        """Yield the artists by whose `stale` it shows that pixels are out of date."""
        for ax in self.axes:
            if not ax.axison:
                shown = (ax.artists, ax.collections, ax.images, ax.lines, ax.patches, ax.texts)
                yield from (artist for kind in shown for artist in kind if artist not in self.changing)
            else:
                yield ax
        own = (self.artists, self.images, self.lines, self.patches, self.texts, self.legends, self.subfigs)
        yield from (artist for kind in own for artist in kind)


@dataclasses.dataclass(frozen=True)
class Head:
    """What stands above the room of a page, laid out for a page of some width; all lengths are points.

    Lines of heading and notes have their baselines so far below its top, bars a left end and the top of their name.
    """

    height: float
    headings: tuple[tuple[str, float], ...]
    lines: tuple[tuple[str, float], ...]
    bars: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """What a page says about its data: the model's name and the heading, notes, and scales with a colour bar each."""

    heading: str
    model_id: str = ""
    notes: Sequence[str] = ()
    bars: Sequence[Scale] = ()
    has_heading: bool = True
    has_notes: bool = True

    def lay_out(self, style: PageStyle, width: float) -> Head:
        """Lay the head of a page of so many points out."""
        outside = max([MARGIN, *(measure_bar_end(bar, style) for bar in self.bars)])
        slot = self._measure_slot(style)
        room = len(self.bars) * (slot + 2 * MARGIN)
        is_beside = bool(self.bars) and width - room >= 2 * BAR_WIDTH and (self.has_heading or self.has_notes)
        per_row = len(self.bars) if is_beside else max(1, int((width - MARGIN) // (slot + MARGIN)))
        text_width = width - 2 * MARGIN - room * is_beside
        headings = self._wrap_heading(style, text_width) if self.has_heading else []
        notes = [style.spell(note) for note in self.notes if note] if self.has_notes else []
        lines = wrap_phrases(notes, text_width * PIXELS, style.note, style)
        first = style.heading * LINE * len(headings)
        text_height = first + len(lines) * style.note * LINE
        bars_height = -(-len(self.bars) // per_row) * measure_bar(style) if self.bars else 0.0
        gap = MARGIN / 2 * bool(self.bars and text_height)
        height = max(text_height, bars_height) if is_beside else text_height + bars_height + gap
        places = []
        for i in range(len(self.bars)):
            left = (width - room + MARGIN if is_beside else MARGIN) + outside - MARGIN
            left += i % per_row * (slot + (2 if is_beside else 1) * MARGIN)
            places.append((left, (0 if is_beside else text_height + gap) + i // per_row * measure_bar(style)))
        return Head(
            height + MARGIN * bool(height),
            tuple((line, (i * LINE + 1) * style.heading) for i, line in enumerate(headings)),
            tuple((line, first + (i * LINE + 1) * style.note) for i, line in enumerate(lines)),
            tuple(places),
        )

    def _measure_slot(self, style: PageStyle) -> float:
        """Return the room that each colour bar takes: the numbers at its ends stand out beyond it."""
        outside = max([MARGIN, *(measure_bar_end(bar, style) for bar in self.bars)])
        widest = max([BAR_WIDTH, *(style.measure(bar.label, style.note)[0] for bar in self.bars)])
        return widest + 2 * outside - MARGIN + 2

    def measure_width(self, style: PageStyle) -> float:
        """Return the least width of a page with its margins, in points."""
        has_text = self.has_heading or (self.has_notes and self.notes)
        return max(self._measure_slot(style) + MARGIN if self.bars else 0.0, NARROWEST * bool(has_text))

    def _wrap_heading(self, style: PageStyle, room: float) -> list[str]:
        """Set the model's name and the heading in lines; nothing is left out but the middle of a word without room."""
        phrases = [style.spell(phrase) for phrase in (self.model_id, self.heading) if phrase]
        return wrap_phrases(phrases, room / BOLD, style.heading, style)


def measure_bar(style: PageStyle) -> float:
    """Return the height of a colour bar with its name and numbers, in points."""
    return style.note * LINE + BAR_HEIGHT + style.label * LINE + 4


def measure_bar_end(scale: Scale, style: PageStyle) -> float:
    """Return how far the numbers at the ends of a colour bar stand out, in points."""
    ends = (scale.norm.vmin or 0.0, scale.norm.vmax or 1.0)
    return max(style.measure(format_number(end), style.label)[0] / 2 for end in ends) + 1


def measure_gap(style: PageStyle) -> float:
    """Return how far the title's baseline is above a panel, in points: letters go a quarter of their size below it."""
    return max(3.5, style.title / 4)


def measure_title(style: PageStyle) -> float:
    """Return the height of the title above a panel, in points."""
    return style.title + measure_gap(style) + 1


def choose_resolution(width: float, height: float, style: PageStyle) -> int:
    """Return the dots per inch at which a page of so many points is drawn in raster formats."""
    wished = RESOLUTIONS if style.width is None else (PRINT_RESOLUTION, *RESOLUTIONS)
    return next((dpi for dpi in wished if width * height / 72**2 * dpi**2 <= MOST_PIXELS), RESOLUTIONS[-1])


def wrap_phrases(phrases: Sequence[str], width: float, size: float, style: PageStyle) -> list[str]:
    """Set phrases, divided by dots, in lines no wider than `width` points.

    One is broken, at spaces and after slashes, only if it does not fit on a line of its own, and what cannot be broken
    is shortened.
    """
    lines: list[str] = []

    def is_joined(text: str, divider: str) -> bool:
        longer = f"{lines[-1]}{divider}{text}" if lines else text
        fits = bool(lines) and style.measure(longer, size)[0] <= width
        if fits:
            lines[-1] = longer
        return fits

    for phrase in phrases:
        if is_joined(phrase, "  ·  "):
            continue
        first, *pieces = re.split(r"(?<=/)|(?= )", phrase)
        lines.append(style.shorten(first, width, size))
        for piece in pieces:
            lines += [] if is_joined(piece, "") else [style.shorten(piece.strip(), width, size)]
    return lines


class Page:
    """A page measured in points: heading, notes and colour bars on top, room for what it shows below them.

    The room is ``width`` × ``height`` points with its lower left corner at ``(MARGIN, MARGIN)``; the page is as large
    as that and the heading need. `axes` is the whole page, in points from the lower left corner. Fill it under `rc`.
    """

    def __init__(self, style: PageStyle, width: float, height: float, caption: Caption) -> None:
        self.style, self.caption = style, caption
        across = choose_width(style, max(width, caption.measure_width(style) - 2 * MARGIN))
        head = caption.lay_out(style, across)
        needed = snap(2 * MARGIN + height + head.height)
        check_height(style, needed)
        self.size = across, style.height if style.is_exact and style.height else needed
        # What is left over of a page of a given height is below.
        self.bottom = MARGIN + self.size[1] - needed
        self.rc = DRAWING | style.make_rc()
        with mpl.rc_context(self.rc):
            self.figure = PageFigure(
                figsize=(self.size[0] / 72, self.size[1] / 72),
                dpi=choose_resolution(*self.size, style),
                facecolor=style.palette.ground,
                rc=self.rc,
            )
            self.axes: Axes = self.figure.add_axes((0, 0, 1, 1), label="page")
            self.axes.set_axis_off()
            self.axes.set(xlim=(0, self.size[0]), ylim=(0, self.size[1]))
            self._write_head(head)

    def _write_head(self, head: Head) -> None:
        style, top = self.style, self.size[1] - MARGIN
        self.headings = [
            self.write_line(MARGIN, top - down, line, size=style.heading, **style.embolden(line))
            for line, down in head.headings
        ]
        self.notes = [
            self.write_line(MARGIN, top - down, line, size=style.note, color=style.palette.muted)
            for line, down in head.lines
        ]
        self.colorbars: list[Colorbar] = []
        for scale, (left, down) in zip(self.caption.bars, head.bars, strict=True):
            place = left, top - down - style.note * LINE - BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT
            self.colorbars.append(draw_colorbar(self.figure, place, scale, style))

    def set_heading(self, heading: str) -> None:
        """Say something else in the heading, in no more lines than it has."""
        caption = dataclasses.replace(self.caption, heading=heading)
        texts = [text for text, _ in caption.lay_out(self.style, self.size[0]).headings]
        for line, text in zip(self.headings, itertools.chain(texts, itertools.repeat("")), strict=False):
            line.set(text=text, **self.style.embolden(text))

    def write(self, x: float, y: float, text: str, **look: Any) -> Text:
        """Write a text, none of which is markup, at a place in points; `look` is as `matplotlib.text.Text` takes it."""
        return self.axes.text(x, y, text, parse_math=False, **look)

    def write_line(self, x: float, y: float, text: str, **look: Any) -> LineText:
        """Write a line that begins at its place, faster than `write`."""
        line = LineText(x, y, text, transform=self.axes.transData, parse_math=False, **look)
        self.axes.add_artist(line)
        return line

    def name_axis(self, x: float, y: float, text: str, **look: Any) -> Text:
        """Write the name of an axis around its middle."""
        return self.write(x, y, text, **self.style.axis_name, **look)

    def add_axes(self, x: float, y: float, width: float, height: float, label: str) -> Axes:
        """Add axes on a rectangle in points; `label` differs from that of all others."""
        across, up = self.size
        return self.figure.add_axes((x / across, y / up, width / across, height / up), label=label)


def choose_width(style: PageStyle, width: float) -> float:
    """Return the width of a page with so much on it, in points: that of the style where it has one."""
    needed, given = width + 2 * MARGIN, style.width
    if given is not None and needed > given + 1e-6:
        raise OptionError(
            f"this figure is at least {needed / 72:.2f} inches wide and the preset has {given / 72:.2f}; "
            "use columns=2, another preset or another width"
        )
    return needed if given is None else given


def check_height(style: PageStyle, needed: float) -> None:
    """Refuse a page that is higher than the style allows."""
    if style.height is not None and needed > style.height + PIXEL:
        raise PageSizeError(
            f"this figure is {needed / 72:.2f} inches high and the page has {style.height / 72:.2f}; choose fewer "
            "layers or heads, or give it more columns, or a height of its own (figsize)"
        )
