"""The figure of what an intervention did."""

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from ..declarations import takes_options
from .heads import arrange_scores, draw_scores, fit_cells, label_numbers, make_score_scale
from .labels import GAP, TICK
from .options import AtlasLook, PageLook
from .page import LINE, MARGIN, Caption, Page, PageFigure
from .scales import round_end
from .style import SMALLEST_LABEL, PageStyle, shorten_label

if TYPE_CHECKING:
    from ..interventions.head_effects import HeadEffect

BAR, TRACE, SHORTEST_TRACE, BAR_SPACE, LONGEST = 70.0, 330.0, 130.0, 9.0, 14
# So that a column is no longer than a page of a paper.
STACKED_BAR, STACKED_HEADS = 50.0, 200.0


@takes_options(PageLook)
def plot_effect(effect: "HeadEffect", *, options: PageLook) -> PageFigure:
    """Draw what an intervention did: to each token's prediction, to the next token, and to the patterns of all heads.

    Parameters
    ----------
    effect : HeadEffect
        What `measure_effect` returned.
    **options
        Options of `PageLook`.

    Returns
    -------
    PageFigure
        The page; its axes are the page, the colour bar, ``"tokens"``, ``"next"`` and ``"heads"``.
    """
    table = effect.pattern_change
    look = AtlasLook(layers=table.layers, heads=table.heads, marks=list(effect.changed))
    grid, rows, columns = arrange_scores(table.make_grid("total_variation"), look)
    others = [value for *pair, value in zip(table.layer, table.head, table["total_variation"], strict=True)
              if tuple(pair) not in effect.changed]  # fmt: skip
    likeliest = {label: pair for label, *pair in (*effect.top_before, *effect.top_after)}
    likeliest = dict(sorted(likeliest.items(), key=lambda item: -max(item[1])))
    notes = [
        effect.description,
        f"loss {effect.loss_before.mean():.3f} → {effect.loss_after.mean():.3f} nats a token",
        f"mean KL {effect.divergence.mean():.3f} nats",
        "changed heads framed, colours end at the largest change of another",
    ]
    labels, names = ([shorten_label(label, LONGEST) for label in part] for part in (effect.tokens, likeliest))
    style = options.make_style([*labels, *names, effect.model_id, *notes])
    labels, names = ([style.spell(label) for label in part] for part in (labels, names))
    limited = AtlasLook(vmax=round_end(max(others, default=0) or 1.0))
    scale = make_score_scale(grid, limited, style.palette, "total variation, mean over queries")
    caption = options.make_caption("what the intervention did", notes, model_id=effect.model_id, bars=[scale])
    page = _EffectPage(style, caption, grid.shape, labels, names)
    with mpl.rc_context(page.rc):
        ax = page.add_part("divergence", "KL from the plain model, by position (nats)")
        _draw_tokens(ax, effect.divergence, [], page.step, style)
        ax = page.add_part("tokens", "change of each token's loss (nats)")
        _draw_tokens(ax, np.r_[np.nan, effect.loss_after - effect.loss_before], labels, page.step, style)
        ax = page.add_part("next", "probability of the next token")
        _draw_next(ax, names, np.array(list(likeliest.values())), style)
        ax = page.add_part("heads", "change of each head's pattern")
        draw_scores(ax, grid, rows, columns, scale, look.marks, style.palette.accent)
        label_numbers(ax, rows, columns, style)
        x, y, width, height = page.places["heads"]
        page.name_axis(x - style.axis - 16, y + height / 2, "layer", rotation=90)
        page.name_axis(x + width / 2, y - page.low + style.axis / 2, "head")
    return page.figure


class _EffectPage(Page):
    """A page with traces over tokens, bars of next tokens below, and heads beside them, or in a narrow column below.

    `places` are left, bottom, width and height of the parts in points; `step` is the width of a token, and `low` the
    room below the heads.
    """

    def __init__(
        self, style: PageStyle, caption: Caption, shape: tuple[int, ...], labels: list[str], names: list[str]
    ) -> None:
        wide, high = fit_cells(*shape)
        left = max(style.axis * LINE + 22, max(style.measure(name, style.label)[0] for name in names) + 2 * GAP)
        between = 3 * MARGIN + style.axis * LINE + 14
        trace, is_stacked = TRACE, False
        if style.width is not None:
            room = style.width - 2 * MARGIN - left
            is_stacked = room - between - wide < SHORTEST_TRACE
            trace = max(room, SHORTEST_TRACE) if is_stacked else room - between - wide
            wide = min(wide, trace)
            high = min(high, STACKED_HEADS) if is_stacked else high
        self.step = trace / len(labels)
        below = style.label * LINE + 2 * GAP + style.axis * LINE  # with the name of the axis
        if self.step >= SMALLEST_LABEL * 1.15:
            below = max(style.measure(label, style.label)[0] for label in labels) + 2 * GAP
        foot, head = style.label + GAP + TICK, style.title * LINE + GAP
        self.low = style.axis * LINE + foot
        next_height, bar = BAR_SPACE * 1.6 * len(names), STACKED_BAR if is_stacked else BAR
        column = foot + next_height + head + MARGIN + below + 2 * bar + 2 * head + MARGIN
        column = max(column, 0 if is_stacked else self.low + high + head)
        lift = (self.low + high + head + MARGIN) * is_stacked
        beside = 0 if is_stacked else trace + between
        super().__init__(style, left + (trace if is_stacked else beside + wide), lift + column, caption)
        x, top, bottom = MARGIN + left, self.bottom + lift + column - head, self.bottom + lift + foot
        lowest = bottom + next_height + head + MARGIN + below
        height = (top - lowest - head - MARGIN) / 2
        heads_top = self.bottom + self.low + high if is_stacked else top
        self.places = {
            "divergence": (x, top - height, trace, height),
            "tokens": (x, top - height - (height + head + MARGIN), trace, height),
            "next": (x, bottom, trace, next_height),
            "heads": (x + beside, heads_top - high, wide, high),
        }

    def add_part(self, name: str, title: str) -> Axes:
        """Add the axes of a part and the title above them, further left where it would run past their right end."""
        x, y, width, height = self.places[name]
        start = max(min(x, x + width - self.style.measure(title, self.style.title)[0]), MARGIN)
        self.write(start, y + height + GAP, title, size=self.style.title, color=self.style.palette.ink)
        return self.add_axes(x, y, width, height, name)


def _draw_tokens(ax: Axes, values: np.ndarray, labels: list[str], step: float, style: PageStyle) -> None:
    places = np.arange(len(values))
    ax.bar(places, np.nan_to_num(values), width=0.8, color=style.palette.accent)
    ax.axhline(0, color=style.palette.frame, linewidth=0.5)
    ax.set_xlim(-0.6, len(values) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=style.label, length=TICK, width=0.5)
    ax.set_xticks([])
    if not labels:
        return
    if step >= SMALLEST_LABEL * 1.15:
        ax.set_xticks(places, labels, rotation=90, fontsize=min(style.label, step / 1.15), parse_math=False)
    else:
        every = int(np.ceil(30 / step / 5) * 5)
        ax.set_xticks(places[::every], [str(i) for i in places[::every]])
        ax.set_xlabel("position", color=style.palette.muted, labelpad=2)


def _draw_next(ax: Axes, names: list[str], pairs: np.ndarray, style: PageStyle) -> None:
    places = np.arange(len(names))
    for shift, column, color, label in (
        (-0.2, 0, style.palette.frame, "before"),
        (0.2, 1, style.palette.accent, "after"),
    ):
        ax.barh(places + shift, pairs[:, column], height=0.38, color=color, label=label)
    ax.set_yticks(places, names, fontsize=style.label, parse_math=False)
    ax.invert_yaxis()
    ax.set_xlim(0, max(1e-6, pairs.max()) * 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=style.label, length=TICK, width=0.5)
    ax.legend(loc="lower right", frameon=False, fontsize=style.label, handlelength=1)
