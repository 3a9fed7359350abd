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

from ..errors import OptionError, UnsuitableMapsError
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps, takes_maps
from ..tokens import NEWLINE, SPACE, name_bytes
from .options import PanelLook, describe_data, split_options
from .page import LINE, MARGIN, Caption, Page, PageFigure
from .scales import Extent, Scale, measure_weights
from .sinks import count_hidden, treat_sink
from .style import DARK, LIGHT, PageStyle, shorten_label

# Room for a line in points: a paper's column where the text fits on two lines, else its page.
COLUMN, PAGE = 190.0, 450.0
BETWEEN = 4.0
LONGEST_LABEL = 40
# Past so many words a page is nothing to read; it then shows fewer layers, evenly spaced.
MOST_WORDS = 6000


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a token that stands on one line.

    Parameters
    ----------
    token : int
        Number of the token.
    text : str
        What is written, without a leading space.
    indent : float
        Width of the leading space in points.
    width : float
        Its width with the space, in points.
    ends_line : bool
        Whether it ends with a line break of the text.
    """

    token: int
    text: str
    indent: float
    width: float
    ends_line: bool


def cut_pieces(tokens: Sequence[str], style: PageStyle) -> list[Piece]:
    """Cut tokens after their line breaks, and turn spaces before words into white.

    Parameters
    ----------
    tokens : sequence of str
        Labels, in which ``␣`` is a space and ``⏎`` a line break.
    style : PageStyle
        The look of the page.

    Returns
    -------
    list of Piece
        In the order of the text; no token is lost, and signs that stand alone are seen.
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


@takes_maps
def plot_running_text(maps: AttentionMaps, *, query: int = -1, **options: Any) -> PageFigure:
    """Write the prompt once a layer, each token coloured by the weight that one query gives it.

    Parameters
    ----------
    maps : AttentionMaps
        Every weight of each head, or the mean over them; captured with ``queries=1`` they need little memory.
    query : int
        Position among the queries of the maps; -1 is the last, from which the next token comes.
    **options
        Options of `PanelLook` and `PageLook`; `norm` is ``"power"`` unless said otherwise, and panels are not set
        in rows.

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
    look, page_options = split_options(options, norm="linear" if maps.signed else "power")
    _check_text(maps, query)
    query %= len(maps.tokens_query)
    style = page_options.make_style().fit_fonts(
        [
            *name_bytes(maps.tokens_key),
            *maps.tokens_query,
            maps.model_id,
            page_options.title or "",
            *page_options.phrases,
        ]
    )
    pieces = cut_pieces(maps.tokens_key, style)
    left = style.axis * LINE + style.measure(str(max(maps.layers)), style.label)[0] + 4
    is_short = sum(piece.width for piece in pieces) <= 2 * COLUMN
    room = (COLUMN if is_short else PAGE) if style.width is None else style.width - 2 * MARGIN - left
    places, n_lines = flow_words(
        [piece.width for piece in pieces], room, breaks={i for i, piece in enumerate(pieces) if piece.ends_line}
    )
    paragraph = n_lines * measure_line(style) + BETWEEN
    is_panel = look.scale == "panel"
    name = "share of the end of each layer's scale" if is_panel else WEIGHTINGS[maps.weighting]
    position = maps.first_query + query

    def make_caption(n_layers: int, scale: Scale) -> Caption:
        label = shorten_label(maps.tokens_query[query])
        notes = [
            *page_options.phrases,
            f"attention of token {position} ({label}{', framed' * (maps.kind != 'cross')})",
            maps.averaged,
            *describe_data(maps, look, has_lines=True),
        ]
        if n_layers < len(maps.layers):
            notes.append(f"{n_layers} of {len(maps.layers)} layers, evenly spaced")
        last = query == len(maps.tokens_query) - 1
        return Caption(
            heading=page_options.title or ("last token" if last else f"token {position}"),
            model_id=maps.model_id,
            notes=notes,
            bars=[scale],
            **page_options.shown,
        )

    count = min(len(maps.layers), max(1, MOST_WORDS // len(maps.tokens_key)))
    head = make_caption(1, look.make_scale(Extent(1.0, 1.0, maps.signed), style, name)).lay_out(
        style, style.width or left + room + 2 * MARGIN
    )
    limit = (style.height or math.inf) - head.height - 2 * MARGIN - 1
    count = max(1, int(min(count, (limit + BETWEEN) // paragraph)))
    layers, shown = _gather_rows(maps, query, look, count)
    seen = ~np.ma.getmaskarray(shown)
    if is_panel:
        ends = [measure_weights([row[None]], seen[:1], look.norm).end for row in shown.filled(0)]
        shown, look = shown / np.array(ends, np.float32)[:, None], dataclasses.replace(look, vmax=1.0)
    extent = dataclasses.replace(measure_weights([shown.filled(0)], seen, look.norm), is_signed=maps.signed)
    scale = look.make_scale(extent, style, name)
    page = Page(style, left + room, paragraph * len(layers) - BETWEEN, make_caption(len(layers), scale))
    is_self = maps.kind != "cross"
    own, generated = (position, maps.prompt_length) if is_self else (None, len(maps.tokens_key))
    writer = _Writer(page, pieces, places, own, generated)
    colours = scale.make_mappable().to_rgba(shown)
    with mpl.rc_context(page.rc):
        middle = page.bottom + (paragraph * len(layers) - BETWEEN) / 2
        page.name_axis(MARGIN + style.axis / 2, middle, "layer", rotation=90)
        for i, (layer, row) in enumerate(zip(layers, colours, strict=True)):
            top = page.bottom + paragraph * (len(layers) - i) - BETWEEN
            baseline = top - measure_line(style) * 0.72
            number = {"ha": "right", "size": style.label, "color": style.palette.muted}
            page.write(MARGIN + left - 4, baseline, str(layer), **number)
            writer.write(MARGIN + left, top, row)
    return page.figure


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


def _gather_rows(maps: AttentionMaps, query: int, look: PanelLook, count: int) -> tuple[list[int], np.ma.MaskedArray]:
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
    """Set words in lines, each as full as it gets.

    Parameters
    ----------
    widths : sequence of float
        Width of each word.
    room : float
        Width of a line; a longer word has a line of its own.
    breaks : collection of int
        Words after which a line ends.

    Returns
    -------
    places : list of (int, float)
        Line and left end of each word.
    n_lines : int
        Number of lines.
    """
    places: list[tuple[int, float]] = []
    line, x = 0, 0.0
    for i, width in enumerate(widths):
        if x and (x + width > room or i - 1 in breaks):
            line, x = line + 1, 0.0
        places.append((line, x))
        x += width
    return places, line + 1


class _Writer:
    """Writes the text once for each layer, in other colours."""

    def __init__(
        self,
        page: Page,
        pieces: Sequence[Piece],
        places: Sequence[tuple[int, float]],
        own: int | None,
        generated: int,
    ) -> None:
        self.page, self.pieces, self.places = page, pieces, places
        self.own, self.generated = own, generated

    def write(self, left: float, top: float, colours: np.ndarray) -> None:
        """Write the text from an upper left corner, one colour a token."""
        page, high = self.page, measure_line(self.page.style)
        tokens = [piece.token for piece in self.pieces]
        boxes = [
            Rectangle((left + x, top - (line + 1) * high + 0.5), piece.width, high - 1)
            for (line, x), piece in zip(self.places, self.pieces, strict=True)
        ]
        fills = colours[tokens]
        page.axes.add_collection(PatchCollection(boxes, facecolor=fills, edgecolor="none"))
        accent = page.style.palette.accent
        framed = [box for box, token in zip(boxes, tokens, strict=True) if token == self.own]
        if framed:
            page.axes.add_collection(
                PatchCollection(framed, facecolor="none", edgecolor=accent, linewidth=0.9, zorder=2)
            )
        if self.generated in tokens:
            box = boxes[tokens.index(self.generated)]
            line = [[box.get_xy(), (box.get_x(), box.get_y() + box.get_height())]]
            for color, width, dashes in ((page.style.palette.ground, 2.4, "solid"), (accent, 1.0, (0, (2, 1)))):
                page.axes.add_collection(
                    LineCollection(line, colors=color, linewidths=width, linestyles=dashes, capstyle="butt", zorder=2)
                )
        # Relative luminance of ITU-R BT.709, near enough to tell light from dark.
        is_dark = fills[:, :3] @ [0.2126, 0.7152, 0.0722] < 0.52
        for piece, (line_number, x), dark in zip(self.pieces, self.places, is_dark, strict=True):
            baseline = top - line_number * high - high * 0.72
            ink = DARK.ink if dark else LIGHT.ink
            page.write(left + x + piece.indent, baseline, piece.text, size=page.style.label, color=ink)
