"""Where the parts of a page of heatmaps go; numbers only, in points from the lower left corner."""

import dataclasses
import math

from .labels import measure_text
from .venues import SMALLEST_LABEL, get_venue

MARGIN = 9.0
BETWEEN = 11.0
LINE = 1.4
BAR_WIDTH, BAR_HEIGHT = 130.0, 6.0
NARROWEST = 200.0
# A pixel at 100 dots per inch, two at 200: lengths that are multiples keep cells sharp and labels in step.
PIXEL = 0.72

SMALLEST_PANEL, LARGEST_PANEL, LARGEST_LONE_PANEL, INDEX_PANEL = 100.0, 400.0, 640.0, 201.6
THINNEST_PANEL = 72.0
ROW_HEIGHT = 1.2

# Raster pages get the finest of these resolutions (dots per inch) at which they still open quickly.
RESOLUTIONS, MOST_PIXELS = (200, 150, 100), 24e6
# In print pixels show sooner.
PRINT_RESOLUTION = 300
# A page of a paper has room for so much, and less is no panel.
TALLEST_COLUMN, NARROWEST_PANEL = 648.0, 30.0


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
    columns : int
        Panels in a full row.
    """

    size: tuple
    panels: tuple
    heading: tuple
    notes: tuple
    bar: tuple | None
    queries: tuple
    keys: tuple
    columns: int

    @property
    def resolution(self):
        """Dots per inch for raster formats."""
        return choose_resolution(*self.size)


def choose_resolution(width, height):
    """Return the dots per inch at which a page of so many points is drawn in raster formats."""
    wished = RESOLUTIONS if get_venue().width is None else (PRINT_RESOLUTION, *RESOLUTIONS)
    return next((dpi for dpi in wished if width * height / 72**2 * dpi**2 <= MOST_PIXELS), RESOLUTIONS[-1])


def measure_title():
    """Return the height of the title above a panel."""
    return get_venue().title + 4.5


def measure_bar():
    """Return the height of a colour bar with its name and numbers."""
    return get_venue().note * LINE + BAR_HEIGHT + get_venue().label * LINE + 4


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
    label_size = min(get_venue().label, largest / longest / ROW_HEIGHT)
    if has_tokens and label_size >= SMALLEST_LABEL:
        cell = snap(max(SMALLEST_PANEL / longest, label_size * ROW_HEIGHT))
        return cell * n_key, cell * n_query, label_size
    side = largest if is_lone else INDEX_PANEL
    # A few queries over many keys would be a hairline if their cells were square.
    return (
        *(snap(max(side * n / longest, min(n * get_venue().label, THINNEST_PANEL))) for n in (n_key, n_query)),
        None,
    )


def fit_column(n_panels, columns, n_query, n_key, labels, *, title_width, fewest=1):
    """Find how many panels stand side by side on a page as wide as the venue says, and how large they are.

    Labels stand beside the outer panels alone, in the font size of the venue. If those of tokens fit beside their cells
    on a page that is not too tall, they do; else axes count tokens.

    Parameters
    ----------
    n_panels : int
        Number of panels.
    columns : int
        Most panels side by side.
    n_query, n_key : int
        Rows and columns of a panel, in cells.
    labels : sequence of (AxisLabels, AxisLabels)
        Labels of queries and keys, the preferred ones first.
    title_width : float
        Width of the widest panel title.
    fewest : int
        Fewest panels side by side.

    Returns
    -------
    columns : int
        Panels side by side.
    panel : tuple of float
        Width and height of each.
    labels : tuple of AxisLabels
        Labels of queries and keys.
    """
    for queries, keys in labels:
        for across in range(min(columns, n_panels), fewest - 1, -1):
            left = snap(MARGIN + get_venue().axis * LINE + queries.width)
            room = get_venue().width - MARGIN - left - (across - 1) * snap(BETWEEN)
            width = math.floor(room / across / PIXEL) * PIXEL
            cell = width / n_key
            height = cell * n_query
            if queries.is_index:
                height = max(min(height, TALLEST_COLUMN / 2), min(n_query * get_venue().label, THINNEST_PANEL, width))
                if width >= max(title_width, NARROWEST_PANEL) or across == fewest:
                    return across, (width, height), (queries, keys)
                continue
            rows = math.ceil(n_panels / across)
            tall = rows * (height + measure_title() + BETWEEN) + keys.depth
            if cell >= queries.size * ROW_HEIGHT and width >= title_width and tall <= TALLEST_COLUMN:
                return across, (width, height), (queries, keys)
    raise AssertionError("index ticks always fit")


def lay_out_page(n_panels, columns, panel, *, label_width, label_depth, notes, has_bar, family=None):
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
        Room for labels left of and below each panel; where a venue says how wide the page is, of the outer panels.
    notes : sequence of str
        What the page says about its data, in phrases.
    has_bar : bool
        Whether there is a colour bar.
    family : tuple of str, optional
        Font families of the notes.

    Returns
    -------
    PageLayout
        A page without empty places.
    """
    columns = min(n_panels, columns)
    rows = math.ceil(n_panels / columns)
    axis_name = get_venue().axis * LINE
    left = snap(MARGIN + axis_name + label_width)
    is_column = get_venue().width is not None
    across = snap(panel[0] + BETWEEN + label_width * (not is_column))
    down = snap(measure_title() + panel[1] + label_depth * (not is_column) + BETWEEN)
    width = get_venue().width if is_column else max(left + (columns - 1) * across + panel[0] + MARGIN, NARROWEST)
    is_beside = has_bar and width >= 3 * BAR_WIDTH
    # Letters on whole pixels take a little more room than measured.
    lines = wrap_phrases(notes, (width - 2 * MARGIN - (BAR_WIDTH + 2 * MARGIN) * is_beside) * 0.96, family)
    text_height = get_venue().heading * LINE + len(lines) * get_venue().note * LINE
    stacked = text_height + (MARGIN / 2 + measure_bar() if has_bar else 0)
    head = MARGIN + (max(text_height, measure_bar()) if is_beside else stacked) + MARGIN / 2
    bottom = snap(MARGIN + axis_name + label_depth)
    height = snap(bottom + (rows - 1) * down + panel[1] + measure_title() + head)
    top = height - MARGIN
    bar_top = top - (0 if is_beside else text_height + MARGIN / 2)
    bar_left = width - MARGIN - BAR_WIDTH if is_beside else MARGIN
    panels = tuple(
        (left + (i % columns) * across, bottom + (rows - 1 - i // columns) * down, *panel) for i in range(n_panels)
    )
    return PageLayout(
        size=(width, height),
        panels=panels,
        heading=(MARGIN, top - get_venue().heading),
        notes=tuple(
            (line, top - get_venue().heading * LINE - (i * LINE + 1) * get_venue().note) for i, line in enumerate(lines)
        ),
        bar=(bar_left, bar_top - get_venue().note * LINE - BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT) if has_bar else None,
        queries=tuple((MARGIN + get_venue().axis / 2, y + panel[1] / 2) for _, y, *_ in panels[::columns]),
        keys=tuple((x + panel[0] / 2, MARGIN + get_venue().axis / 2) for x, *_ in panels[(rows - 1) * columns :]),
        columns=columns,
    )


def wrap_phrases(phrases, width, family=None):
    """Set phrases, divided by dots, in lines no wider than `width` points.

    Parameters
    ----------
    phrases : sequence of str
        Phrases; one is broken only if it does not fit on a line of its own.
    width : float
        Room for a line.
    family : tuple of str, optional
        Font families; left out, those of the venue.

    Returns
    -------
    list of str
        The lines.
    """
    lines = []
    for phrase in phrases:
        longer = f"{lines[-1]}  ·  {phrase}" if lines else phrase
        if lines and measure_text(longer, get_venue().note, family)[0] <= width:
            lines[-1] = longer
            continue
        first, *words = phrase.split(" ")
        lines.append(first)
        for word in words:
            longer = f"{lines[-1]} {word}"
            if measure_text(longer, get_venue().note, family)[0] <= width:
                lines[-1] = longer
            else:
                lines.append(word)
    return lines
