"""Heads as points: two of their scores as axes, a third as colour, names of those that stand out."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..analysis.scores import SCORES
from ..analysis.table import HeadScores
from ..declarations import option, takes_options
from ..errors import OptionError
from ..options import ColormapOptions
from .heads import make_score_scale, measure_column_numbers
from .labels import GAP, TICK
from .options import AtlasLook, PageLook
from .page import LINE, MARGIN, Page, PageFigure, check_height, choose_width
from .scales import format_number
from .style import PageStyle

# Points: the panel where no width is given, its least height, and a dot; steps from tick to tick, at most.
SIDE, LOWEST, RADIUS, MOST_STEPS = 216.0, 60.0, 2.2, 5


class ScatterLook(ColormapOptions, PageLook):
    """How a page of heads as points looks."""

    named: int = option(5, "heads furthest along each axis that are named, where there is room", at_least=0)


@takes_options(ScatterLook)
def plot_head_scatter(
    scores: HeadScores, x: str, y: str, color: str | None = None, *, options: ScatterLook
) -> PageFigure:
    """Draw every head as a point at two of its scores, in the colour of a third.

    Parameters
    ----------
    scores
        As `score_heads` returns them, or the mean over many prompts.
    x, y, color
        Names of scores. Heads without a value on an axis are left out, which the page says; without one for the colour
        they are grey.
    **options
        Options of `ScatterLook`.

    Returns
    -------
    PageFigure
        The page; its axes are the page, the colour bar if there is one, and ``"heads"``.

    Raises
    ------
    OptionError
        If there is no such score, or no head has a value on both axes.
    PageSizeError
        If it does not fit the page.
    """
    columns = [scores[name] for name in (x, y, *([] if color is None else [color]))]
    shown = np.isfinite(columns[0]) & np.isfinite(columns[1])
    if not shown.any():
        raise OptionError(f"no head has both {x} and {y}")
    labels = [SCORES[name].label if name in SCORES else name.replace("_", " ") for name in (x, y, color) if name]
    left_out = int((~shown).sum())
    notes = [scores.about, *([f"heads left out, without a value: {left_out}"] if left_out else [])]
    style = options.make_style([scores.model_id, *labels, *notes])
    places = np.stack(columns[:2])[:, shown]
    values = np.ma.masked_invalid(columns[-1][shown])
    scale = make_score_scale(values, AtlasLook(cmap=options.cmap), style.palette, style.spell(labels[-1]))
    bars = [] if color is None else [scale]
    caption = options.make_caption("heads by score", notes, model_id=scores.model_id, bars=bars)
    ticks = [MaxNLocator(MOST_STEPS).tick_values(axis.min(), axis.max()) for axis in places]
    left = style.axis * LINE + max(style.measure(format_number(t), style.label)[0] for t in ticks[1]) + GAP + TICK
    below = measure_column_numbers(style)
    width = choose_width(style, left + SIDE if style.width is None else left)
    height = 0.75 * (width - 2 * MARGIN - left)
    if style.height is not None:
        rest = style.height - caption.lay_out(style, width).height - 2 * MARGIN - below - 1
        check_height(style, style.height + LOWEST - min(rest, LOWEST))
        height = min(height, rest)
    page = Page(style, width - 2 * MARGIN, below + height, caption)
    with mpl.rc_context(page.rc):
        panel = page.add_axes(MARGIN + left, page.bottom + below, page.size[0] - 2 * MARGIN - left, height, "heads")
        order = np.argsort(values.filled(-np.inf), kind="stable")  # the highest on top
        look: dict[str, Any] = {"s": (2 * RADIUS) ** 2, "linewidths": 0.4, "edgecolors": style.palette.muted}
        plain, masked = mpl.colors.to_rgba_array([style.palette.accent, style.palette.masked])
        colours = scale.make_mappable().to_rgba(values) if bars else plain
        colours = np.where(np.ma.getmaskarray(values)[:, None], masked, colours)
        across, up = places[:, order]
        panel.scatter(across, up, c=colours[order], clip_on=False, **look)
        panel.spines[["top", "right"]].set_visible(False)
        for axis, at in zip((panel.xaxis, panel.yaxis), ticks, strict=True):
            axis.set_ticks(at, [format_number(tick) for tick in at])
            axis.set_tick_params(length=TICK, width=0.5, pad=1.5, labelsize=style.label)
        panel.set(xlim=(ticks[0][0], ticks[0][-1]), ylim=(ticks[1][0], ticks[1][-1]))
        names = [f"{layer}.{head}" for layer, head in zip(scores.layer[shown], scores.head[shown], strict=True)]
        _name_heads(panel, places, names, options.named, style)
        page.name_axis((page.size[0] + left) / 2, page.bottom + style.axis / 2, labels[0])
        page.name_axis(MARGIN + style.axis / 2, page.bottom + below + height / 2, labels[1], rotation=90)
    return page.figure


def _name_heads(ax: Axes, places: np.ndarray, names: list[str], most: int, style: PageStyle) -> None:
    """Write names beside the dots furthest along each axis, where neither dots nor other names stand."""
    dots = ax.transData.transform(places.T) * 72 / ax.figure.dpi
    edges = np.array(ax.bbox.extents) * 72 / ax.figure.dpi + np.array((1, 0, MARGIN, MARGIN))
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in dots]
    furthest = [np.argsort(-axis, kind="stable")[:most] for axis in places[::-1]]
    for i in dict.fromkeys(np.concatenate(furthest).tolist()):
        width, height = style.measure(names[i], style.label)
        x, y = dots[i]
        # Right of the dot, at five heights; left of it; above and below.
        room = [(RADIUS + 2, height * up) for up in (-0.5, 0.0, -1.0, 0.5, -1.5)]
        room += [(-RADIUS - 2 - width, -height / 2), (-width / 2, RADIUS + 2), (-width / 2, -RADIUS - 2 - height)]
        for right, above in room:
            box = x + right, y + above, x + right + width, y + above + height
            is_inside = (edges[:2] <= box[:2]).all() and (box[2:] <= edges[2:]).all()
            if is_inside and not any(
                box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken
            ):
                taken.append(box)
                where: dict[str, Any] = {
                    "xytext": (right, above),
                    "textcoords": "offset points",
                    "ha": "left",
                    "va": "bottom",
                }
                ax.annotate(names[i], tuple(places[:, i]), size=style.label, **where)
                break
