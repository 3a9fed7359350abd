"""Which keys a query looks at, as lines from token to token: the head view of bertviz, for paper."""

import colorsys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, SupportsInt

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Rectangle

from ..analysis.blocks import require_unsigned
from ..declarations import option, takes_options
from ..errors import OptionError, UnsuitableMapsError
from ..maps import AttentionMaps
from ..options import SinkOptions
from ..tokens import name_bytes
from .options import PageLook
from .page import LINE, MARGIN, Caption, Page, PageFigure, check_height
from .sinks import count_hidden, treat_sink
from .style import BANDS, PageStyle
from .ticks import write_labels

# Points between the columns of tokens, and how wide the square of a head is.
SPAN, SQUARE = 110.0, 6.0
SIDES = "query", "key"
# Fainter lines than this share of the largest weight are not seen and not drawn.
FAINTEST = 0.02
MOST_TOKENS = 400


class Side(NamedTuple):
    """A column of tokens."""

    numbers: Sequence[int]
    labels: Sequence[str]


class LinesLook(SinkOptions, PageLook):
    """How a page of lines looks, and what it shows."""

    heads: Sequence[int] | None = option(None, "true head numbers, a colour each; left out, all")
    query: int | None = option(None, "the one query whose lines are drawn, by its token number; left out, all")
    segments: tuple[str, str] | None = option(
        None,
        'names of segments of the prompt, such as ("sentence A", "sentence B"): queries of the first and keys of the '
        "second alone",
    )


@takes_options(LinesLook)
def plot_lines(maps: AttentionMaps, layer: int, *, options: LinesLook) -> PageFigure:
    """Draw attention as lines from the queries on the left to the keys on the right, the stronger the more it is.

    Parameters
    ----------
    maps : AttentionMaps
        The weights; self or cross attention, not pooled.
    layer : int
        True layer number.
    **options
        Options of `LinesLook`.

    Returns
    -------
    PageFigure
        A page with two columns of tokens, one line a weight and head.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled.
    OptionError
        If there is no such layer, head, query or segment.
    PageSizeError
        If the tokens do not fit the page.
    """
    require_unsigned(maps, "a line whose strength is a weight")
    if maps.reduction == "pooled":
        raise UnsuitableMapsError("lines need a weight for every pair of tokens, but these maps are pooled")
    query, segments = options.query, options.segments
    one = maps.select(layers=[layer], heads=options.heads)
    left, right = _choose_sides(one, segments, options.sink)
    if max(len(left.labels), len(right.labels)) > MOST_TOKENS:
        raise OptionError(
            f"lines between more than {MOST_TOKENS} tokens are not seen; choose segments or fewer queries"
        )
    row, column = count_hidden(one, options.sink)
    rows, columns = np.array(left.numbers) - one.first_query - row, np.array(right.numbers) - column
    weights = np.asarray(treat_sink(one.weights[0], one, options.sink)[:, rows][:, :, columns], np.float32)
    if query is not None:
        if query not in left.numbers:
            raise OptionError(f"there is no query {query!r}; there are {left.numbers[0]} to {left.numbers[-1]}")
        weights = weights * (np.array(left.numbers) == query)[:, None]
    style = options.make_style([*name_bytes(left.labels), *name_bytes(right.labels), one.model_id])
    caption = options.make_caption(f"layer {layer}", _describe(one, options), model_id=one.model_id)
    names = [one.averaged] if one.is_mean else [f"head {number}" for number in one.heads[0]]
    page = _LinesPage(style, caption, [write_labels(side.labels, style) for side in (left, right)], names)
    with mpl.rc_context(page.rc):
        page.draw_lines(weights)
        page.write_tokens(None if query is None else left.numbers.index(query))
        page.write_legend()
    return page.figure


def _choose_sides(maps: AttentionMaps, segments: tuple[str, str] | None, sink: str) -> tuple[Side, Side]:
    row, column = count_hidden(maps, sink)
    queries = range(maps.first_query + row, maps.first_query + len(maps.tokens_query))
    keys = range(column, len(maps.tokens_key))
    if segments is not None:
        known = {name: range(start, stop) for name, start, stop in maps.segments}
        if any(name not in known for name in segments):
            raise OptionError(
                f"segments are two names of {', '.join(known) or 'none, for these maps have no segments'}; "
                f"got {segments!r}"
            )
        if maps.kind != "cross":
            queries = range(max(queries.start, known[segments[0]].start), min(queries.stop, known[segments[0]].stop))
        keys = range(max(keys.start, known[segments[1]].start), min(keys.stop, known[segments[1]].stop))
    if not queries or not keys:
        raise OptionError("no query or no key is left; choose other segments, or keep the first token")
    return (
        Side(queries, [maps.tokens_query[i - maps.first_query] for i in queries]),
        Side(keys, [maps.tokens_key[i] for i in keys]),
    )


def _describe(maps: AttentionMaps, options: LinesLook) -> Iterator[str]:
    if maps.kind == "cross":
        yield "cross attention"
    if options.segments:
        yield f"{options.segments[0]} → {options.segments[1]} alone"
    if options.query is not None:
        yield f"query {options.query} ({maps.tokens_query[options.query - maps.first_query]})"
    if options.sink != "keep":
        yield "first token hidden" + ", rows renormalised" * (options.sink == "renormalise")
    yield "opacity is weight"
    yield from maps.remarks


class _LinesPage(Page):
    """A page with two columns of texts, and a legend of heads above."""

    def __init__(
        self, style: PageStyle, caption: Caption, texts: Sequence[Sequence[str]], names: Sequence[str]
    ) -> None:
        self.texts, self.names, self.colours = texts, names, choose_colours(len(names))
        columns = zip(SIDES, texts, strict=True)
        self.widths = [
            max(
                style.measure(name, style.axis)[0],
                2 * SQUARE + max(style.measure(text, style.label)[0] for text in part),
            )
            for name, part in columns
        ]
        n_rows, width = max(map(len, texts)), style.width or sum(self.widths) + SPAN + 2 * MARGIN
        self.legend = _wrap_names(names, style, width - 2 * MARGIN)
        low, above = style.axis * LINE + 4, len(self.legend) * style.note * LINE
        self.high = style.label * 1.45
        if style.height is not None:
            room = style.height - caption.lay_out(style, width).height - 2 * MARGIN - low - above - 1
            self.high = min(self.high, room / n_rows)
            if self.high < style.label * 1.05:
                check_height(style, style.height + n_rows * (style.label * 1.05 - self.high) + 1)
        self.span = SPAN if style.width is None else max(style.width - 2 * MARGIN - sum(self.widths), 30.0)
        super().__init__(style, sum(self.widths) + self.span, n_rows * self.high + low + above + 4, caption)
        self.top = self.bottom + low + n_rows * self.high

    def _find_ends(self) -> tuple[float, float]:
        """Return where lines begin and end, across."""
        return MARGIN + self.widths[0], MARGIN + self.widths[0] + self.span

    def _find_row(self, index: SupportsInt) -> float:
        return self.top - (int(index) + 0.5) * self.high

    def draw_lines(self, weights: np.ndarray) -> None:
        """Draw weights of axes ``(n_heads, n_query, n_key)``."""
        x0, x1 = self._find_ends()
        largest = float(weights.max()) or 1.0
        for colour, head_weights in zip(self.colours, weights, strict=True):
            rows, columns = np.nonzero(head_weights > FAINTEST * largest)
            lines = [[(x0, self._find_row(i)), (x1, self._find_row(j))] for i, j in zip(rows, columns, strict=True)]
            shares = head_weights[rows, columns] / largest
            colors = [to_rgba(colour, float(share)) for share in shares]
            self.axes.add_collection(
                LineCollection(lines, colors=colors, linewidths=0.4 + 1.4 * shares, capstyle="butt")
            )

    def write_tokens(self, marked: int | None) -> None:
        """Write both columns, one of the queries marked, and their names."""
        style, (x0, x1) = self.style, self._find_ends()
        for part, x, align, shift in zip(self.texts, (x0, x1), ("right", "left"), (-2.0, 2.0), strict=True):
            for i, text in enumerate(part):
                ink = style.palette.accent if align == "right" and i == marked else style.palette.ink
                look = {"size": style.label, "ha": align, "va": "center_baseline", "color": ink}
                self.write(x + shift, self._find_row(i), text, **look)
        self.name_axis(x0 - self.widths[0] / 2, self.bottom + style.axis / 2, SIDES[0])
        self.name_axis(x1 + self.widths[1] / 2, self.bottom + style.axis / 2, SIDES[1])

    def write_legend(self) -> None:
        """Name the colours of the heads."""
        for i, line in enumerate(self.legend):
            y = self.top + 4 + (len(self.legend) - 1 - i + 0.25) * self.style.note * LINE
            for x, index in line:
                place = MARGIN + x, y
                square = Rectangle(place, SQUARE, SQUARE, facecolor=self.colours[index], linewidth=0)
                self.axes.add_patch(square)
                self.write_line(MARGIN + x + SQUARE + 2, y, self.names[index], size=self.style.note)


def choose_colours(count: int) -> list[tuple[float, float, float]]:
    """Return colours that are told apart: those of bands where they are enough, else evenly around the wheel."""
    if count <= len(BANDS):
        return [to_rgb(colour) for colour in BANDS[:count]]
    return [colorsys.hls_to_rgb(i / count, 0.45 if i % 2 else 0.6, 0.6) for i in range(count)]


def _wrap_names(names: Sequence[str], style: PageStyle, room: float) -> list[list[tuple[float, int]]]:
    """Set the legend in lines: left end and number of each head."""
    lines: list[list[tuple[float, int]]] = [[]]
    x = 0.0
    for index, name in enumerate(names):
        width = SQUARE + 2 + style.measure(name, style.note)[0] + 8
        if lines[-1] and x + width > room:
            lines.append([])
            x = 0.0
        lines[-1].append((x, index))
        x += width
    return lines
