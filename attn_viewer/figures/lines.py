"""Which keys a query looks at, as lines from token to token: the head view of bertviz, for paper."""

import colorsys
import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Rectangle

from ..analysis.blocks import require_unsigned
from ..errors import OptionError, UnsuitableMapsError
from ..maps import AttentionMaps, takes_maps
from .options import PageLook
from .page import LINE, MARGIN, Caption, Page, PageFigure, check_height
from .sinks import count_hidden, treat_sink
from .style import BANDS, PageStyle, shorten_label

# Points between the columns of tokens, and how wide the square of a head is.
SPAN, SQUARE = 110.0, 6.0
# Fainter lines than this share of the largest weight are not seen and not drawn.
FAINTEST = 0.02
MOST_TOKENS = 400


@dataclasses.dataclass(frozen=True)
class Side:
    """A column of tokens: their numbers and their labels."""

    numbers: tuple[int, ...]
    labels: tuple[str, ...]


@takes_maps
def plot_lines(
    maps: AttentionMaps,
    layer: int,
    *,
    heads: Sequence[int] | None = None,
    query: int | None = None,
    segments: tuple[str, str] | None = None,
    sink: str = "keep",
    **options: Any,
) -> PageFigure:
    """Draw attention as lines from the queries on the left to the keys on the right, the stronger the more it is.

    Parameters
    ----------
    maps : AttentionMaps
        The weights; self or cross attention, not pooled.
    layer : int
        True layer number.
    heads : sequence of int, optional
        True head numbers, a colour each; left out, all.
    query : int, optional
        The one query whose lines are drawn, by its token number; left out, all.
    segments : (str, str), optional
        Names of segments of the prompt, such as ``("A", "B")``: queries of the first and keys of the second alone.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token.
    **options
        Options of `PageLook`.

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
    page_options = PageLook(**options)
    one = maps.select(layers=[layer], heads=heads)
    left, right = _choose_sides(one, segments, sink)
    if max(len(left.labels), len(right.labels)) > MOST_TOKENS:
        raise OptionError(
            f"lines between more than {MOST_TOKENS} tokens are not seen; choose segments or fewer queries"
        )
    weights = _take_weights(one, left, right, sink)
    if query is not None:
        if query not in left.numbers:
            raise OptionError(f"there is no query {query!r}; there are {left.numbers[0]} to {left.numbers[-1]}")
        weights = weights * (np.array(left.numbers) == query)[:, None]
    style = page_options.make_style().fit_fonts(
        [*left.labels, *right.labels, one.model_id, page_options.title or "", *page_options.phrases]
    )
    names = [one.averaged] if one.is_mean else [f"head {number}" for number in one.heads[0]]
    caption = Caption(
        heading=page_options.title or f"layer {layer}",
        model_id=one.model_id,
        notes=[*page_options.phrases, *_describe(one, query, segments, sink)],
        **page_options.shown,
    )
    return _draw(style, caption, left, right, weights, names, query)


def _choose_sides(maps: AttentionMaps, segments: tuple[str, str] | None, sink: str) -> tuple[Side, Side]:
    row, column = count_hidden(maps, sink)
    queries = range(maps.first_query + row, maps.first_query + len(maps.tokens_query))
    keys = range(column, len(maps.tokens_key))
    if segments is not None:
        known = {name: range(start, stop) for name, start, stop in maps.segments}
        if len(segments) != 2 or any(name not in known for name in segments):
            raise OptionError(
                f"segments are two names of {', '.join(known) or 'none, for these maps have no segments'}; "
                f"got {segments!r}"
            )
        if maps.kind != "cross":
            queries = range(max(queries.start, known[segments[0]].start), min(queries.stop, known[segments[0]].stop))
        keys = range(max(keys.start, known[segments[1]].start), min(keys.stop, known[segments[1]].stop))
    if not queries or not keys:
        raise OptionError("no query or no key is left; choose other segments, or keep the first token")
    labels = [shorten_label(maps.tokens_query[i - maps.first_query]) for i in queries]
    return Side(tuple(queries), tuple(labels)), Side(
        tuple(keys), tuple(shorten_label(maps.tokens_key[i]) for i in keys)
    )


def _take_weights(maps: AttentionMaps, left: Side, right: Side, sink: str) -> np.ndarray:
    """Return weights of axes ``(n_heads, n_query, n_key)`` of the tokens of both sides."""
    row, column = count_hidden(maps, sink)
    weights = treat_sink(maps.weights[0], maps, sink)
    rows = np.array(left.numbers) - maps.first_query - row
    return np.asarray(weights[:, rows][:, :, np.array(right.numbers) - column], np.float32)


def _describe(maps: AttentionMaps, query: int | None, segments: tuple[str, str] | None, sink: str) -> list[str]:
    notes = ["cross attention"] * (maps.kind == "cross")
    notes += [f"{segments[0]} → {segments[1]} alone"] if segments else []
    if query is not None:
        notes.append(f"query {query} ({maps.tokens_query[query - maps.first_query]})")
    notes += {"keep": [], "hide": ["first token hidden"], "renormalise": ["first token hidden, rows renormalised"]}[
        sink
    ]
    return [*notes, "opacity is weight", *maps.remarks]


def _draw(
    style: PageStyle,
    caption: Caption,
    left: Side,
    right: Side,
    weights: np.ndarray,
    names: Sequence[str],
    query: int | None,
) -> PageFigure:
    texts = [[style.spell(label) for label in side.labels] for side in (left, right)]
    widths = [max(style.measure(text, style.label)[0] for text in part) + 2 * SQUARE for part in texts]
    n_rows = max(len(left.labels), len(right.labels))
    legend = _wrap_names(names, style, (style.width or sum(widths) + SPAN + 2 * MARGIN) - 2 * MARGIN)
    low = style.axis * LINE + 4
    high = style.label * 1.45
    if style.height is not None:
        head = caption.lay_out(style, style.width or sum(widths) + SPAN + 2 * MARGIN).height
        room = style.height - head - 2 * MARGIN - low - len(legend) * style.note * LINE - 1
        high = min(high, room / n_rows)
        if high < style.label * 1.05:
            check_height(style, style.height + n_rows * (style.label * 1.05 - high) + 1)
    body = n_rows * high
    span = SPAN if style.width is None else max(style.width - 2 * MARGIN - sum(widths), 30.0)
    page = Page(style, sum(widths) + span, body + low + len(legend) * style.note * LINE + 4, caption)
    with mpl.rc_context(page.rc):
        top = page.bottom + low + body
        starts = [top - (i + 0.5) * high for i in range(n_rows)]
        x0, x1 = MARGIN + widths[0], MARGIN + widths[0] + span
        colours = choose_colours(len(names))
        largest = float(weights.max()) or 1.0
        for colour, head_weights in zip(colours, weights, strict=True):
            rows, columns = np.nonzero(head_weights > FAINTEST * largest)
            lines = [[(x0, starts[i]), (x1, starts[j])] for i, j in zip(rows, columns, strict=True)]
            shares = head_weights[rows, columns] / largest
            page.axes.add_collection(
                LineCollection(
                    lines,
                    colors=[to_rgba(colour, float(share)) for share in shares],
                    linewidths=0.4 + 1.4 * shares,
                    capstyle="butt",
                )
            )
        for part, x, align, shift in ((texts[0], x0, "right", -2.0), (texts[1], x1, "left", 2.0)):
            for i, text in enumerate(part):
                is_query = align == "right" and query is not None and left.numbers[i] == query
                ink = style.palette.accent if is_query else style.palette.ink
                page.write(x + shift, starts[i], text, size=style.label, ha=align, va="center_baseline", color=ink)
        page.name_axis(x0 - widths[0] / 2, page.bottom + style.axis / 2, "query")
        page.name_axis(x1 + widths[1] / 2, page.bottom + style.axis / 2, "key")
        for i, line in enumerate(legend):
            y = top + 4 + (len(legend) - 1 - i + 0.25) * style.note * LINE
            for x, index in line:
                page.axes.add_patch(Rectangle((MARGIN + x, y), SQUARE, SQUARE, facecolor=colours[index], linewidth=0))
                page.write_line(MARGIN + x + SQUARE + 2, y, names[index], size=style.note)
    return page.figure


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
