"""What one query looks at, layer by layer, as coloured running text."""

import dataclasses
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import Rectangle

from ..declarations import takes_options
from ..errors import OptionError, UnsuitableMapsError
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps
from ..tokens import NEWLINE, SPACE, name_bytes
from .options import OverviewLook, describe_data
from .page import LINE, MARGIN, Caption, Page, PageFigure
from .scales import Extent, Scale, measure_weights
from .sinks import count_hidden, treat_sink
from .style import DARK, LIGHT, PageStyle, shorten_label

# Room for a line in points: a paper's column where the text fits on two lines, else its page.
COLUMN, PAGE = 190.0, 450.0
BETWEEN = 4.0
LONGEST_LABEL = 40
# How far the baseline is below the top of a line, as a share of its height.
BASELINE = 0.72
# Past so many words a page is nothing to read; it then shows fewer layers, evenly spaced.
MOST_WORDS = 6000


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a token that stands on one line, written `indent` points from its left end, and `width` wide with it.

    It `ends_line` where a line of the text ends.
    """

    token: int
    text: str
    indent: float
    width: float
    ends_line: bool

    def shorten(self, room: float, style: PageStyle) -> "Piece":
        """Return the piece with the middle cut out, no wider than `room` points."""
        text = style.shorten(self.text, room - self.indent, style.label)
        return dataclasses.replace(self, text=text, width=measure_advance(text, style) + self.indent)


def cut_pieces(tokens: Sequence[str], style: PageStyle) -> list[Piece]:
    """Cut labels of tokens after their line breaks (``⏎``), and turn spaces (``␣``) before words into white.

    No token is lost, and signs that stand alone are seen.
    """
    pieces = []
    for token, label in enumerate(name_bytes(tokens)):
        word = shorten_label(style.spell(label), LONGEST_LABEL)
        parts = re.findall(f"[^{NEWLINE}]*{NEWLINE}+|[^{NEWLINE}]+", word) or [" "]
        for part in parts:
            # One space before a word is white as in any text; more of them, or one alone, are signs.
            is_white = part.startswith(SPACE) and part.strip(SPACE + NEWLINE) != "" and not part.startswith(SPACE * 2)
            text = part.removeprefix(SPACE) if is_white else part
            indent = measure_advance(" ", style) if is_white else 0.0
            pieces.append(Piece(token, text, indent, measure_advance(text, style) + indent, part.endswith(NEWLINE)))
    return pieces


def measure_advance(text: str, style: PageStyle) -> float:
    """Return how far a text moves the pen, in points; its ink alone may be narrower."""
    return style.measure(f"|{text}|", style.label)[0] - style.measure("||", style.label)[0]


@takes_options(OverviewLook)
def plot_running_text(maps: AttentionMaps, *, query: int = -1, options: OverviewLook) -> PageFigure:
    """Write the prompt once a layer, each token coloured by the weight that one query gives it.

    Parameters
    ----------
    maps : AttentionMaps
        Every weight of each head, or the mean over them; captured with ``queries=1`` they need little memory.
    query : int
        Position among the queries of the maps; -1 is the last, from which the next token comes.
    **options
        Options of `OverviewLook`.

    Returns
    -------
    PageFigure
        A page with a paragraph a layer, the mean over its heads. Pages that would be too long to read, or longer than
        the venue's, show fewer layers, and say so.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled, so that tokens have no weights of their own.
    OptionError
        If there is no such query, or the text is too long for a page.
    """
    look = options.choose_norm(maps)
    _check_text(maps, query)
    query %= len(maps.tokens_query)
    style = look.make_style([*name_bytes(maps.tokens_key), *maps.tokens_query, maps.model_id])
    left = style.axis * LINE + style.measure(str(max(maps.layers)), style.label)[0] + 4
    text = _Text.set(maps.tokens_key, style, left)
    is_panel = look.scale == "panel"
    name = "share of the end of each layer's scale" if is_panel else WEIGHTINGS[maps.weighting]
    likely = look.make_scale(Extent(1.0, 1.0, maps.signed), style, name)
    caption = _make_caption(maps, query, look, likely, 1)
    head = caption.lay_out(style, style.width or text.left + text.room + 2 * MARGIN)
    limit = (style.height or math.inf) - head.height - 2 * MARGIN - 1
    count = min(len(maps.layers), max(1, MOST_WORDS // len(maps.tokens_key)))
    count = max(1, int(min(count, (limit + BETWEEN) // text.height)))
    layers, shown = _gather_rows(maps, query, look, count)
    seen = ~np.ma.getmaskarray(shown)
    scaled = dataclasses.replace(look, vmax=1.0) if is_panel else look
    if is_panel:
        ends = [measure_weights([row[None]], seen[:1], look.norm).end for row in shown.filled(0)]
        shown = shown / np.array(ends, np.float32)[:, None]
    extent = dataclasses.replace(measure_weights([shown.filled(0)], seen, look.norm), is_signed=maps.signed)
    scale = scaled.make_scale(extent, style, name)
    body = text.height * len(layers) - BETWEEN
    page = Page(style, text.left + text.room, body, _make_caption(maps, query, look, scale, len(layers)))
    is_self = maps.kind != "cross"
    marks = (maps.first_query + query, maps.prompt_length) if is_self else (None, len(maps.tokens_key))
    with mpl.rc_context(page.rc):
        page.name_axis(MARGIN + style.axis / 2, page.bottom + body / 2, "layer", rotation=90)
        for i, (layer, row) in enumerate(zip(layers, scale.make_mappable().to_rgba(shown), strict=True)):
            top = page.bottom + text.height * (len(layers) - i) - BETWEEN
            number = {"ha": "right", "size": style.label, "color": style.palette.muted}
            page.write(MARGIN + text.left - 4, top - measure_line(style) * BASELINE, str(layer), **number)
            text.write(page, MARGIN + text.left, top, row, *marks)
    return page.figure


def _make_caption(maps: AttentionMaps, query: int, look: OverviewLook, scale: Scale, n_layers: int) -> Caption:
    position, label = maps.first_query + query, shorten_label(maps.tokens_query[query])
    notes = [
        f"attention of token {position} ({label}{', framed' * (maps.kind != 'cross')})",
        maps.averaged,
        *describe_data(maps, look, has_lines=True),
    ]
    if n_layers < len(maps.layers):
        notes.append(f"{n_layers} of {len(maps.layers)} layers, evenly spaced")
    heading = "last token" if query == len(maps.tokens_query) - 1 else f"token {position}"
    return look.make_caption(heading, notes, model_id=maps.model_id, bars=[scale])


def _check_text(maps: AttentionMaps, query: int) -> None:
    if maps.reduction == "pooled":
        raise UnsuitableMapsError(
            "running text needs a weight for every token, but these maps are pooled; capture the last query alone "
            "(queries=1, reduction='full')"
        )
    n_query, n_key = len(maps.tokens_query), len(maps.tokens_key)
    if not isinstance(query, (int, np.integer)) or not -n_query <= query < n_query:
        raise OptionError(f"there is no query {query!r}; there are {n_query}, counted from 0, or back from -1")
    if n_key > MOST_WORDS:
        raise OptionError(f"a text of {n_key} tokens is too long for a page of at most {MOST_WORDS}; draw heatmaps")


def _gather_rows(
    maps: AttentionMaps, query: int, look: OverviewLook, count: int
) -> tuple[list[int], np.ma.MaskedArray]:
    """Return numbers of `count` layers and the mean over heads of their row of one query: axes ``(count, n_key)``.

    Masked are the first key where it is hidden, and later ones where no query sees those.
    """
    chosen = np.unique(np.linspace(0, len(maps.layers) - 1, count).round().astype(int))
    skipped, hidden = count_hidden(maps, look.sink)
    rows = []
    for index in chosen:
        row = maps.weights[index][:, query : query + 1].mean(axis=0, dtype=np.float32)
        # A row of its own is left out with the first token only when it is the first token's.
        kept = treat_sink(np.concatenate([row] * (1 + skipped)), maps, look.sink)
        rows.append(np.zeros_like(kept[0]) if skipped and query == 0 else kept[0])
    shown = np.ma.array(np.zeros((len(rows), len(maps.tokens_key)), np.float32), mask=True)
    shown[:, hidden:] = np.stack(rows)
    shown[:, maps.first_query + query + 1 if maps.causal else len(maps.tokens_key) :] = np.ma.masked
    return [maps.layers[index] for index in chosen], shown


def measure_line(style: PageStyle) -> float:
    """Return the height of a line of words, in points."""
    return style.label * 20 / 13


def flow_words(
    widths: Sequence[float], room: float, breaks: Collection[int] = ()
) -> tuple[list[tuple[int, float]], int]:
    """Return line and left end of each word, set as full as it gets, and the number of lines.

    A line ends after `breaks`, or a word that is too long.
    """
    places: list[tuple[int, float]] = []
    line, x = 0, 0.0
    for i, width in enumerate(widths):
        if x and (x + width > room or i - 1 in breaks):
            line, x = line + 1, 0.0
        places.append((line, x))
        x += width
    return places, line + 1


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text that was set in lines of `room` points, right of `left` points; `height` is that of the whole."""

    pieces: Sequence[Piece]
    places: Sequence[tuple[int, float]]
    left: float
    room: float
    height: float

    @classmethod
    def set(cls, tokens: Sequence[str], style: PageStyle, left: float) -> "_Text":
        """Set tokens for a page of this style."""
        pieces = cut_pieces(tokens, style)
        is_short = sum(piece.width for piece in pieces) <= 2 * COLUMN
        room = (COLUMN if is_short else PAGE) if style.width is None else style.width - 2 * MARGIN - left
        pieces = [piece if piece.width <= room else piece.shorten(room, style) for piece in pieces]
        breaks = {i for i, piece in enumerate(pieces) if piece.ends_line}
        places, n_lines = flow_words([piece.width for piece in pieces], room, breaks)
        return cls(pieces, places, left, room, n_lines * measure_line(style) + BETWEEN)

    def write(self, page: Page, left: float, top: float, colours: np.ndarray, own: int | None, generated: int) -> None:
        """Write the text from an upper left corner, one colour a token; frame one, and mark where others begin."""
        palette, high = page.style.palette, measure_line(page.style)
        tokens = [piece.token for piece in self.pieces]
        boxes = [
            Rectangle((left + x, top - (line + 1) * high + 0.5), piece.width, high - 1)
            for (line, x), piece in zip(self.places, self.pieces, strict=True)
        ]
        fills = colours[tokens]
        page.axes.add_collection(PatchCollection(boxes, facecolor=fills, edgecolor="none"))
        framed = [box for box, token in zip(boxes, tokens, strict=True) if token == own]
        if framed:
            look: dict[str, Any] = {"facecolor": "none", "edgecolor": palette.accent, "linewidth": 0.9, "zorder": 2}
            page.axes.add_collection(PatchCollection(framed, **look))
        if generated in tokens:
            box = boxes[tokens.index(generated)]
            edge = [[box.get_xy(), (box.get_x(), box.get_y() + box.get_height())]]
            for color, width, dashes in ((palette.ground, 2.4, "solid"), (palette.accent, 1.0, (0, (2, 1)))):
                look = {"colors": color, "linewidths": width, "linestyles": dashes, "capstyle": "butt", "zorder": 2}
                page.axes.add_collection(LineCollection(edge, **look))
        # Relative luminance of ITU-R BT.709, near enough to tell light from dark.
        is_dark = fills[:, :3] @ [0.2126, 0.7152, 0.0722] < 0.52
        for piece, (number, x), dark in zip(self.pieces, self.places, is_dark, strict=True):
            ink = DARK.ink if dark else LIGHT.ink
            baseline = top - number * high - high * BASELINE
            page.write(left + x + piece.indent, baseline, piece.text, size=page.style.label, color=ink)
