"""How much each word looks at the picture, at the prompt and at the completion, layer by layer."""

from typing import Any

import matplotlib as mpl
import numpy as np

from ..analysis.modalities import measure_modality_share
from ..declarations import takes_options
from ..maps import AttentionMaps
from ..options import ColormapOptions
from .heads import draw_means, measure_means
from .options import PageLook
from .page import BETWEEN, MARGIN, Page, PageFigure, measure_gap, measure_title
from .scales import Extent, make_scale
from .style import SMALLEST_LABEL, shorten_label

# Points of a cell, of a tick, and letters of a label.
WIDE, HIGH, TICK, LONGEST = 11.0, 7.0, 2.0, 16
ROW = 1.4
MEAN = "mean"


class ShareLook(ColormapOptions, PageLook):
    """How a page of shares looks."""


@takes_options(ShareLook)
def plot_modality_share(maps: AttentionMaps, *, options: ShareLook) -> PageFigure:
    """Draw the share of the weight of each word on pictures, sound, segments, prompt and completion, a panel each.

    A row is a layer, the first on top, and the mean over its heads; a column is a word of the completion with the
    weights of the token before, which chose it, or a query where nothing was generated. Bars are means over the words.

    Parameters
    ----------
    maps : AttentionMaps
        Of tokens, not pooled or grouped, not signed.
    **options
        Options of `ShareLook`.

    Returns
    -------
    PageFigure
        The page; each panel is axes named by what is looked at.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled, grouped or signed.
    """
    shares = measure_modality_share(maps)
    words = [shorten_label(word, LONGEST) for word in shares.words]
    style = options.make_style([maps.model_id, *words, *shares.names])
    scale = make_scale(Extent(1.0, 1.0), cmap=options.cmap, palette=style.palette, label="share of the weight")
    said = "each word: weights of the token before, which chose it" if "completion" in shares.names else "queries"
    notes = [said, maps.averaged, *maps.remarks]
    caption = options.make_caption("where words look", notes, model_id=maps.model_id, bars=[scale])
    size = SMALLEST_LABEL if style.width is None else style.label
    n_layers, n_words = shares.values.shape[1:]
    left = max(style.measure(f"{layer}", size)[0] for layer in maps.layers) + 2 * TICK + size * ROW
    below = max(style.measure(word, size)[0] for word in words) + 2 * TICK
    across = measure_means(scale, style, MEAN)
    beside = MARGIN + across
    wide = n_words * WIDE if style.width is None else style.width - 2 * MARGIN - left - beside
    high, title, gap = n_layers * max(HIGH, size), measure_title(style), measure_gap(style)
    down = high + title + BETWEEN / 2
    page = Page(style, left + wide + beside, len(shares.names) * down + below, caption)
    step = max(1, round(size * ROW * n_words / wide))
    with mpl.rc_context(page.rc):
        for i, (name, values) in enumerate(zip(shares.names, shares.values, strict=True)):
            x, y = MARGIN + left, page.bottom + below + (len(shares.names) - 1 - i) * down
            panel = page.add_axes(x, y, wide, high, name)
            panel.imshow(values, norm=scale.norm, cmap=scale.cmap, interpolation="nearest", aspect="auto")
            panel.set_yticks(range(n_layers), [str(layer) for layer in maps.layers])
            shown = range(0, n_words, step) if i == len(shares.names) - 1 else []
            panel.set_xticks(shown, [style.spell(words[at]) for at in shown], rotation=90, parse_math=False)
            panel.tick_params(labelsize=size, length=TICK, width=0.5, pad=1.5)
            panel.spines[:].set_visible(False)
            page.write(x, y + high + gap, f"{style.spell(name)}  {np.mean(values):.0%}", size=style.title)
            means = draw_means(page, (x + wide + MARGIN, y, across, high), scale, values.mean(axis=1), name)
            if i == 0:
                look: dict[str, Any] = {"size": style.axis, "color": style.palette.muted}
                page.write(x + wide + MARGIN, y + high + gap, MEAN, **look)
            if i < len(shares.names) - 1:
                means.set_xticks([])
            page.name_axis(MARGIN + size / 2, y + high / 2, "layer", rotation=90)
    return page.figure
