"""Where the parts of a page of heatmaps go; numbers only, in points from the lower left corner."""

import dataclasses
import math

from . import style
from .labels import measure_text

MARGIN = 9.0
BETWEEN = 11.0
TITLE_HEIGHT = 12.0
LINE = 1.4
BAR_WIDTH, BAR_HEIGHT = 130.0, 6.0
NARROWEST = 200.0
BAR_ROOM = style.NOTE_SIZE * LINE + BAR_HEIGHT + style.LABEL_SIZE * LINE + 4
# A pixel at 100 dots per inch, two at 200: lengths that are multiples keep cells sharp and labels in step.
PIXEL = 0.72

SMALLEST_PANEL, LARGEST_PANEL, LARGEST_LONE_PANEL, INDEX_PANEL = 100.0, 400.0, 640.0, 201.6
THINNEST_PANEL = 72.0
ROW_HEIGHT = 1.2

# Raster pages get the finest of these resolutions (dots per inch) at which they still open quickly.
RESOLUTIONS, MOST_PIXELS = (200, 150, 100), 24e6


@dataclasses.dataclass(frozen=True)
class PageLayout:
    """Positions of everything on a page.

    Parameters
    ----------
    size : tuple of float
        Width and height of the page.
    panels : tuple of tuple of float
        ``(left, bottom, width, height)`` of each heatmap.
    heading : tuple of float
        Left end of the heading's baseline.
    notes : tuple of (str, float)
        Lines below the heading and their baselines.
    bar : tuple of float or None
        The colour bar, None for none.
    queries, keys : tuple of tuple of float
        Middles of the axis names, one a row and one a column of the last row.
    """

    size: tuple
    panels: tuple
    heading: tuple
    notes: tuple
    bar: tuple | None
    queries: tuple
    keys: tuple

    @property
    def resolution(self):
        """Dots per inch for raster formats."""
        area = self.size[0] * self.size[1] / 72**2
        return next((dpi for dpi in RESOLUTIONS if area * dpi**2 <= MOST_PIXELS), RESOLUTIONS[-1])


def snap(length):
    """Round a length up to whole pixels."""
    return math.ceil(length / PIXEL - 1e-6) * PIXEL


def fit_panel(n_query, n_key, *, is_lone=False, has_tokens=True):
    """Find the size of a panel, and of token labels if they fit beside it.

    Parameters
    ----------
    n_query, n_key : int
        Rows and columns of the panel, in cells.
    is_lone : bool
        Whether the page has no other panel, so that this one may be large.
    has_tokens : bool
        Whether each cell is one token; else there is nothing to label but indices.

    Returns
    -------
    width, height : float
        Size of the panel.
    label_size : float or None
        Font size of token labels; None where index ticks must do.
    """
    longest, largest = max(n_query, n_key), LARGEST_LONE_PANEL if is_lone else LARGEST_PANEL
    label_size = min(style.LABEL_SIZE, largest / longest / ROW_HEIGHT)
    if has_tokens and label_size >= style.SMALLEST_LABEL:
        cell = snap(max(SMALLEST_PANEL / longest, label_size * ROW_HEIGHT))
        return cell * n_key, cell * n_query, label_size
    side = largest if is_lone else INDEX_PANEL
    # A few queries over many keys would be a hairline if their cells were square.
    return (*(snap(max(side * n / longest, min(n * style.LABEL_SIZE, THINNEST_PANEL))) for n in (n_key, n_query)), None)


def lay_out_page(n_panels, columns, panel, *, label_width, label_depth, notes, has_bar):
    """Place panels in rows under a heading.

    Parameters
    ----------
    n_panels : int
        Number of panels.
    columns : int
        Most panels side by side.
    panel : tuple of float
        Width and height of each.
    label_width, label_depth : float
        Room for labels left of and below each panel.
    notes : sequence of str
        What the page says about its data, in phrases.
    has_bar : bool
        Whether there is a colour bar.

    Returns
    -------
    PageLayout
        A page without empty places.
    """
    columns = min(n_panels, columns)
    rows = math.ceil(n_panels / columns)
    axis_name = style.NOTE_SIZE * LINE
    left = snap(MARGIN + axis_name + label_width)
    across = snap(panel[0] + BETWEEN + label_width)
    down = snap(TITLE_HEIGHT + panel[1] + label_depth + BETWEEN)
    width = max(left + (columns - 1) * across + panel[0] + MARGIN, NARROWEST)
    is_beside = has_bar and width >= 3 * BAR_WIDTH
    lines = wrap_phrases(notes, width - 2 * MARGIN - (BAR_WIDTH + 2 * MARGIN if is_beside else 0))
    text_height = style.HEADING_SIZE * LINE + len(lines) * style.NOTE_SIZE * LINE
    stacked = text_height + (MARGIN / 2 + BAR_ROOM if has_bar else 0)
    head = MARGIN + (max(text_height, BAR_ROOM) if is_beside else stacked) + MARGIN / 2
    bottom = snap(MARGIN + axis_name + label_depth)
    height = snap(bottom + (rows - 1) * down + panel[1] + TITLE_HEIGHT + head)
    top = height - MARGIN
    bar_top = top - (0 if is_beside else text_height + MARGIN / 2)
    bar_left = width - MARGIN - BAR_WIDTH if is_beside else MARGIN
    panels = tuple(
        (left + (i % columns) * across, bottom + (rows - 1 - i // columns) * down, *panel) for i in range(n_panels)
    )
    return PageLayout(
        size=(width, height),
        panels=panels,
        heading=(MARGIN, top - style.HEADING_SIZE),
        notes=tuple(
            (line, top - style.HEADING_SIZE * LINE - (i * LINE + 1) * style.NOTE_SIZE) for i, line in enumerate(lines)
        ),
        bar=(bar_left, bar_top - style.NOTE_SIZE * LINE - BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT) if has_bar else None,
        queries=tuple((MARGIN + style.NOTE_SIZE / 2, y + panel[1] / 2) for _, y, *_ in panels[::columns]),
        keys=tuple((x + panel[0] / 2, MARGIN + style.NOTE_SIZE / 2) for x, *_ in panels[(rows - 1) * columns :]),
    )


def wrap_phrases(phrases, width):
    """Set phrases, divided by dots, in lines no wider than `width` points.

    Parameters
    ----------
    phrases : sequence of str
        Phrases, none of which is broken.
    width : float
        Room for a line.

    Returns
    -------
    list of str
        The lines.
    """
    lines = []
    for phrase in phrases:
        longer = f"{lines[-1]}  ·  {phrase}" if lines else phrase
        if lines and measure_text(longer, style.NOTE_SIZE)[0] <= width:
            lines[-1] = longer
        else:
            lines.append(phrase)
    return lines
