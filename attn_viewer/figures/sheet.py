"""A page measured in points: heading, notes and colour bars on top, free room below them."""

import math

from matplotlib.figure import Figure

from ..errors import OptionError
from . import style
from .heatmap import draw_colorbar
from .labels import measure_text
from .layout import BAR_HEIGHT, BAR_WIDTH, LINE, MARGIN, choose_resolution, measure_bar, wrap_phrases
from .venues import get_venue

# Bold is up to a sixth wider than the regular face that is measured.
BOLD = 7 / 6


def choose_width(width):
    """Return the width of a page with so much on it, in points: that of the venue where it has one.

    Raises
    ------
    OptionError
        If that is too narrow.
    """
    needed, given = width + 2 * MARGIN, get_venue().width
    if given is not None and needed > given + 1e-6:
        raise OptionError(
            f"this figure is at least {needed / 72:.2f} inches wide and the preset has {given / 72:.2f}; "
            "use columns=2 or another preset"
        )
    return needed if given is None else given


def _measure_end(norm):
    """Return how far the number at the lower end of a colour bar stands out, in points."""
    decimals = max(0, 2 - math.floor(math.log10(norm.vmax - norm.vmin)))
    text = "−0.0000" if norm.vmin < 0 else f"{0:.{decimals}f}"
    return measure_text(text, get_venue().label)[0] / 2


class Sheet:
    """A page with one heading, to be filled below it.

    The room is ``width`` × ``height`` points with its lower left corner at ``(MARGIN, MARGIN)``; the page is as large
    as that and the heading need. Make and fill it under `style.make_rc`.

    Parameters
    ----------
    width, height : float
        Room for what the page shows, in points.
    heading : str
        What the page shows.
    model_id : str
        Name of the model, which goes before the heading, cut where it would run out of the page.
    notes : sequence of str
        What was done to the data, in phrases.
    bars : sequence of (matplotlib.cm.ScalarMappable, str)
        Colour bars and their names, side by side where they fit.
    family : sequence of str, optional
        Font families; left out, those of the venue.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        The page.
    axes : matplotlib.axes.Axes
        The whole page, in points from the lower left corner.
    colorbars : list of matplotlib.colorbar.Colorbar
        One a bar.
    """

    def __init__(self, width, height, heading, *, model_id="", notes=(), bars=(), family=None):
        # The numbers at the ends of a bar, signed ones above all, stand out beyond it.
        outside = max([MARGIN, *(_measure_end(bar.norm) for bar, _ in bars)])
        widest = max([BAR_WIDTH, *(measure_text(label, get_venue().note, family)[0] for _, label in bars)])
        slot = widest + 2 * outside - MARGIN + 2
        across = choose_width(max(width, slot))
        room = len(bars) * (slot + 2 * MARGIN)
        is_beside = across - room >= 2 * BAR_WIDTH
        per_row = len(bars) if is_beside else max(1, int((across - MARGIN) // (slot + MARGIN)))
        text_width = across - 2 * MARGIN - room * is_beside
        # Letters on whole pixels take a little more room than measured.
        lines = wrap_phrases([note for note in notes if note], text_width * 0.96, family)
        text_height = get_venue().heading * LINE + len(lines) * get_venue().note * LINE
        bars_height = -(-len(bars) // per_row) * measure_bar() if bars else 0
        head = max(text_height, bars_height) if is_beside else text_height + bars_height + MARGIN / 2 * bool(bars)
        self.size = across, MARGIN + height + MARGIN + head + MARGIN
        top = self.size[1] - MARGIN
        self.figure = Figure(figsize=(self.size[0] / 72, self.size[1] / 72), dpi=choose_resolution(*self.size))
        self.axes = self.figure.add_axes((0, 0, 1, 1), label="page")
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, self.size[0]), ylim=(0, self.size[1]))
        self._write_heading(top, heading, model_id, text_width, family)
        for i, line in enumerate(lines):
            y = top - get_venue().heading * LINE - (i * LINE + 1) * get_venue().note
            self.write(MARGIN, y, line, size=get_venue().note, color=style.MUTED)
        self.colorbars = []
        for i, (mappable, label) in enumerate(bars):
            left = MARGIN if not is_beside else across - room + MARGIN
            left += i % per_row * (slot + (2 if is_beside else 1) * MARGIN) + outside - MARGIN
            upper = top - (0 if is_beside else text_height + MARGIN / 2) - i // per_row * measure_bar()
            place = left, upper - get_venue().note * LINE - BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT
            self.colorbars.append(draw_colorbar(self.figure, place, mappable, label))

    def _write_heading(self, top, heading, model_id, room, family):
        # A fallback font seldom comes in bold, and matplotlib complains about it aloud.
        needed, missing = style.choose_fonts([model_id])
        is_plain = needed == get_venue().family
        look = {"weight": "bold", "fontfamily": list(needed)} if is_plain else {"weight": "normal"}
        name, text = style.spell_missing(model_id, missing), heading
        for longest in range(max(len(name), 4), 3, -1) if name else ():
            text = f"{style.shorten_label(name, longest)}  ·  {heading}"
            if measure_text(text, get_venue().heading, family)[0] * BOLD <= room:
                break
            text = heading
        self.write(MARGIN, top - get_venue().heading, text, size=get_venue().heading, **look)

    def write(self, x, y, text, **look):
        """Write a text, none of which is markup.

        Parameters
        ----------
        x, y : float
            Its place in points.
        text : str
            What it says.
        **look
            Properties of `matplotlib.text.Text`.

        Returns
        -------
        matplotlib.text.Text
            The text.
        """
        return self.axes.text(x, y, text, parse_math=False, **look)

    def add_axes(self, x, y, width, height, label):
        """Add axes on a rectangle in points.

        Parameters
        ----------
        x, y, width, height : float
            Left, bottom, width and height.
        label : str
            Name of the axes; must differ from that of others.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        across, up = self.size
        return self.figure.add_axes((x / across, y / up, width / across, height / up), label=label)
