"""What one query looks at, layer by layer, as coloured running text."""

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from ..errors import OptionError, UnsuitableMapsError
from ..facts import WEIGHTINGS
from ..tokens import SPACE
from . import style
from .labels import measure_text
from .layout import LINE, MARGIN
from .options import GridOptions, describe_data
from .sheet import Sheet
from .sinks import count_hidden, treat_sink
from .venues import get_venue

# Room for a line in points: a paper's column where the text fits on two lines, else its page.
COLUMN, PAGE = 190.0, 450.0
BETWEEN = 4.0
LONGEST_LABEL = 40
# Past so many words a page is nothing to read; it then shows fewer layers, evenly spaced.
MOST_WORDS = 6000


def plot_running_text(maps, *, query=-1, **options):
    """Write the prompt once a layer, each token coloured by the weight that one query gives it.

    Parameters
    ----------
    maps : AttentionMaps
        Every weight of each head, or the mean over them; captured with ``queries=1`` they need little memory.
    query : int
        Position among the queries of the maps; -1 is the last, from which the next token comes.
    **options
        Fields of `GridOptions`; `norm` is ``"power"`` unless said otherwise, and panels are not set in rows.

    Returns
    -------
    matplotlib.figure.Figure
        A page with a paragraph a layer, the mean over its heads. Pages that would be too long to read show fewer
        layers, and say so.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled, so that tokens have no weights of their own.
    OptionError
        If there is no such query, or the text is too long for a page.
    """
    look = GridOptions(**{"norm": "power", **options})
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
    layers, weights = _gather_rows(maps, query % n_query, look)
    hidden = count_hidden(maps, look.sink)[1]
    family, missing = style.choose_fonts([*maps.tokens_key, maps.model_id])
    words = [style.shorten_label(style.spell_missing(token, missing), LONGEST_LABEL) for token in maps.tokens_key]
    space = measure_text("n", get_venue().label, family)[0] / 2
    indents = [space * word.startswith(SPACE) for word in words]
    words = [word.removeprefix(SPACE) or " " for word in words]
    widths = [
        measure_text(word, get_venue().label, family)[0] + indent + 1.6
        for word, indent in zip(words, indents, strict=True)
    ]
    number = measure_text(str(max(layers)), get_venue().label)[0] + 4
    left = get_venue().axis * LINE + number
    room = COLUMN if sum(widths) <= 2 * COLUMN else PAGE
    if get_venue().width is not None:
        room = get_venue().width - 2 * MARGIN - left
    places, n_lines = flow_words(widths, room)
    paragraph = n_lines * measure_line() + BETWEEN
    norm = style.make_norm(look.norm, look.vmin, (float(weights.max()) or 1.0) if look.vmax is None else look.vmax)
    if look.scale == "panel":
        weights = weights / np.maximum(weights.max(axis=1, keepdims=True), np.float32(1e-30))
        norm = style.make_norm(look.norm, look.vmin, 1.0)
    colors = mpl.cm.ScalarMappable(norm, style.get_colormap(look.cmap))
    position = maps.first_query + query % n_query
    label = style.shorten_label(style.spell_missing(maps.tokens_query[query], missing))
    framed = ", framed" * (maps.kind != "cross")
    notes = [
        f"attention of token {position} ({label}{framed})",
        maps.averaged,
        *describe_data(maps, look, has_lines=True),
    ]
    if len(layers) < len(maps.layers):
        notes.append(f"{len(layers)} of {len(maps.layers)} layers, evenly spaced")
    name = "share of the layer's largest weight" if look.scale == "panel" else WEIGHTINGS[maps.weighting]
    with mpl.rc_context(style.make_rc(family=family)):
        page = Sheet(
            left + room,
            paragraph * len(layers) - BETWEEN,
            "last token" if query % n_query == n_query - 1 else f"token {position}",
            model_id=maps.model_id,
            notes=notes,
            bars=[(colors, name)],
            family=family,
        )
        centre = MARGIN + paragraph * len(layers) / 2
        page.write(
            MARGIN + get_venue().axis / 2,
            centre,
            "layer",
            rotation=90,
            **style.describe_axis_name(),
        )
        shown = np.ma.masked_all((len(layers), n_key))
        shown[:, hidden:] = weights
        if maps.causal:
            shown[:, position + 1 :] = np.ma.masked
        own, generated = (position, maps.prompt_length) if maps.kind != "cross" else (None, n_key)
        for i, (layer, row) in enumerate(zip(layers, colors.to_rgba(shown), strict=True)):
            top = MARGIN + paragraph * (len(layers) - i) - BETWEEN
            baseline = top - measure_line() * 0.72
            page.write(MARGIN + left - 4, baseline, str(layer), ha="right", size=get_venue().label, color=style.MUTED)
            _write_paragraph(page, MARGIN + left, top, words, indents, widths, places, row, own, generated)
    return page.figure


def _gather_rows(maps, query, look):
    """Return layer numbers and the mean over heads of their row of one query: axes ``(n_layers, n_key)``."""
    count = min(len(maps.layers), max(1, MOST_WORDS // len(maps.tokens_key)))
    chosen = np.unique(np.linspace(0, len(maps.layers) - 1, count).round().astype(int))
    skipped = count_hidden(maps, look.sink)[0]
    rows = []
    for index in chosen:
        row = maps.weights[index][:, query : query + 1].mean(axis=0, dtype=np.float32)
        # A row of its own is left out with the first token only when it is the first token's.
        kept = treat_sink(np.concatenate([row] * (1 + skipped)), maps, look.sink)
        rows.append(np.zeros_like(kept[0]) if skipped and query == 0 else kept[0])
    return [maps.layers[index] for index in chosen], np.stack(rows)


def measure_line():
    """Return the height of a line of words, in points."""
    return get_venue().label * 20 / 13


def flow_words(widths, room):
    """Set words in lines, each as full as it gets.

    Parameters
    ----------
    widths : sequence of float
        Width of each word.
    room : float
        Width of a line; a longer word has a line of its own.

    Returns
    -------
    places : list of (int, float)
        Line and left end of each word.
    n_lines : int
        Number of lines.
    """
    places, line, x = [], 0, 0.0
    for width in widths:
        if x and x + width > room:
            line, x = line + 1, 0.0
        places.append((line, x))
        x += width
    return places, line + 1


def _write_paragraph(page, left, top, words, indents, widths, places, colors, own, generated):
    boxes = [
        Rectangle((left + x, top - (line + 1) * measure_line() + 0.5), width, measure_line() - 1)
        for (line, x), width in zip(places, widths, strict=True)
    ]
    page.axes.add_collection(PatchCollection(boxes, facecolor=colors, edgecolor="none"))
    if own is not None:
        page.axes.add_collection(
            PatchCollection([boxes[own]], facecolor="none", edgecolor=style.ACCENT, linewidth=0.9, zorder=2)
        )
    for box in boxes[generated : generated + 1]:
        line = [[box.get_xy(), (box.get_x(), box.get_y() + box.get_height())]]
        for color, width, dashes in (("white", 2.4, "solid"), (style.ACCENT, 1.0, (0, (2, 1)))):
            page.axes.add_collection(
                LineCollection(line, colors=color, linewidths=width, linestyles=dashes, capstyle="butt", zorder=2)
            )
    # Relative luminance of ITU-R BT.709, near enough to tell light from dark.
    is_dark = colors[:, :3] @ [0.2126, 0.7152, 0.0722] < 0.52
    white, ink = to_rgb("white"), to_rgb(style.INK)
    for word, indent, (line, x), dark in zip(words, indents, places, is_dark, strict=True):
        baseline = top - line * measure_line() - measure_line() * 0.72
        page.write(left + x + 0.8 + indent, baseline, word, size=get_venue().label, color=white if dark else ink)
