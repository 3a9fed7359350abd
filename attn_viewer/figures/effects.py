"""The figure of what an intervention did."""

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from .heads import arrange_scores, draw_scores, fit_cells, label_numbers, make_score_scale
from .labels import GAP, TICK
from .options import PageLook
from .page import LINE, MARGIN, Caption, Page, PageFigure
from .scales import round_end
from .style import SMALLEST_LABEL, PageStyle, shorten_label

if TYPE_CHECKING:
    from ..interventions.head_effects import HeadEffect

BAR, TRACE, SHORTEST_TRACE, BAR_SPACE, LONGEST = 70.0, 330.0, 130.0, 9.0, 14
# So that a column is no longer than a page of a paper.
STACKED_BAR, STACKED_HEADS = 50.0, 200.0


def plot_effect(effect: "HeadEffect", **options: Any) -> PageFigure:
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
    grid, rows, columns = arrange_scores(table.make_grid("total_variation"), layers=table.layers, heads=table.heads)
    others = [value for *pair, value in zip(table.layer, table.head, table["total_variation"], strict=True)
              if tuple(pair) not in effect.changed]  # fmt: skip
    limit = round_end(max(others, default=0) or 1.0)
    likeliest = {label: pair for label, *pair in (*effect.top_before, *effect.top_after)}
    likeliest = dict(sorted(likeliest.items(), key=lambda item: -max(item[1])))
    notes = [
        effect.description,
        f"loss {effect.loss_before.mean():.3f} → {effect.loss_after.mean():.3f} nats a token",
        f"mean KL {effect.divergence.mean():.3f} nats",
        "changed heads framed, colours end at the largest change of another",
    ]
    page_options = PageLook(**options)
    labels = [shorten_label(label, LONGEST) for label in effect.tokens]
    names = [shorten_label(label, LONGEST) for label in likeliest]
    style = page_options.make_style().fit_fonts(
        [*labels, *names, effect.model_id, *notes, page_options.title or "", *page_options.phrases]
    )
    labels, names = ([style.spell(label) for label in part] for part in (labels, names))
    name_width = max(style.measure(name, style.label)[0] for name in names) + 2 * GAP
    scale = make_score_scale(grid, vmax=limit, palette=style.palette, label="total variation, mean over queries")
    caption = Caption(
        heading=page_options.title or "what the intervention did",
        model_id=effect.model_id,
        notes=[*page_options.phrases, *notes],
        bars=[scale],
        **page_options.shown,
    )
    wide, high = fit_cells(*grid.shape)
    left = max(style.axis * LINE + 22, name_width)
    between = 3 * MARGIN + style.axis * LINE + 14
    trace, is_stacked = TRACE, False
    if style.width is not None:
        room = style.width - 2 * MARGIN - left
        is_stacked = room - between - wide < SHORTEST_TRACE
        trace = max(room, SHORTEST_TRACE) if is_stacked else room - between - wide
        wide = min(wide, trace)
        high = min(high, STACKED_HEADS) if is_stacked else high
    step = trace / len(labels)
    has_labels = step >= SMALLEST_LABEL * 1.15
    below = style.label * LINE + 2 * GAP
    if has_labels:
        below = max(style.measure(label, style.label)[0] for label in labels) + 2 * GAP
    tail = 0 if has_labels else style.axis * LINE  # the name of the axis
    foot = style.label + GAP + TICK
    low = style.axis * LINE + foot
    next_height = BAR_SPACE * 1.6 * len(names)
    atlas_left = MARGIN + left + (0 if is_stacked else trace + between)
    head, bar = style.title * LINE + GAP, STACKED_BAR if is_stacked else BAR
    column = foot + next_height + head + MARGIN + below + tail + 2 * bar + 2 * head + MARGIN
    column = max(column, 0 if is_stacked else low + high + head)
    # In a narrow column the heads stand below the rest.
    lift = (low + high + head + MARGIN) * is_stacked
    sheet = Page(style, left + trace if is_stacked else atlas_left - MARGIN + wide, lift + column, caption)
    with mpl.rc_context(sheet.rc):
        top, bottom = sheet.bottom + lift + column - head, sheet.bottom + lift + foot

        def write_title(x: float, y: float, text: str, width: float) -> None:
            """Write a title above axes, further left where it would run past their right end."""
            x = max(min(x, x + width - style.measure(text, style.title)[0]), MARGIN)
            sheet.write(x, y + GAP, text, size=style.title, color=style.palette.ink)

        trace_low = bottom + next_height + head + MARGIN + below + tail
        height = (top - trace_low - head - MARGIN) / 2
        for i, (name, text, values) in enumerate(
            (
                ("divergence", "KL from the plain model, by position (nats)", effect.divergence),
                ("tokens", "change of each token's loss (nats)", np.r_[np.nan, effect.loss_after - effect.loss_before]),
            )
        ):
            y = top - height - i * (height + head + MARGIN)
            ax = sheet.add_axes(MARGIN + left, y, trace, height, name)
            write_title(MARGIN + left, y + height, text, trace)
            _draw_tokens(ax, values, labels if i else [], step, style)
        ax = sheet.add_axes(MARGIN + left, bottom, trace, next_height, "next")
        write_title(MARGIN + left, bottom + next_height, "probability of the next token", trace)
        _draw_next(ax, names, np.array(list(likeliest.values())), style)
        top = sheet.bottom + low + high if is_stacked else top
        ax = sheet.add_axes(atlas_left, top - high, wide, high, "heads")
        draw_scores(ax, grid, rows, columns, scale, marks=effect.changed, accent=style.palette.accent)
        label_numbers(ax, rows, columns, style)
        write_title(atlas_left, top, "change of each head's pattern", wide)
        sheet.name_axis(atlas_left - style.axis - 16, top - high / 2, "layer", rotation=90)
        sheet.name_axis(atlas_left + wide / 2, top - high - low + style.axis / 2, "head")
    return sheet.figure


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
