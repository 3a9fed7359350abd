"""A page of chosen heads, of any layers and models."""

import operator
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..declarations import takes_options
from ..errors import OptionError
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps, require_maps
from .grids import name_segments
from .heatmap import name_outstanding, read_head
from .options import ChosenLook, Highlight, describe_data
from .page import Caption, PageFigure
from .panels import PanelPage, reserve_scale
from .scales import Extent
from .style import shorten_label


class Place(NamedTuple):
    """A panel: which maps, which layer, and which head or None for the mean over heads."""

    which: int
    layer: int
    head: int | None


@takes_options(ChosenLook)
def plot_panels(
    maps: AttentionMaps | Sequence[AttentionMaps], heads: Sequence[tuple[int | None, ...]], *, options: ChosenLook
) -> PageFigure:
    """Draw chosen heads of any layers and models on one page, all on one scale.

    Parameters
    ----------
    maps : AttentionMaps or sequence of AttentionMaps
        The weights of one model, or of several.
    heads : sequence of (int, int)
        Layer and head numbers, a panel each in this order; None for a head is the mean over heads. Of several maps each
        pair is drawn from all of them, side by side, and a triple ``(which, layer, head)`` from one, counted from 0.
    **options
        Options of `ChosenLook`.

    Returns
    -------
    PageFigure
        A page with a panel a head.

    Raises
    ------
    OptionError
        If a head is not there, or an option cannot be used.
    PageSizeError
        If the panels do not fit the page.
    """
    several = [require_maps(one, "plot_panels") for one in (maps if isinstance(maps, (list, tuple)) else [maps])]
    places = list_places(several, heads)
    frames = _match_highlights(options.highlight, len(places))
    shown = [read_head(several[place.which], place.layer, place.head, sink=options.sink) for place in places]
    sides, poolings = zip(*(one.sides.pool() for one in shown), strict=True)
    extents = [one.measure(options.norm) for one in shown]
    is_signed = any(one.is_signed for one in shown)
    extent = Extent(max(e.end for e in extents), max(e.largest for e in extents), is_signed)
    segments = [phrase for one in several for phrase in name_segments(one)]
    names = list(dict.fromkeys(one.model_id for one in several))
    style = options.make_style([*(text for side in sides for text in side.texts), *names, *segments])
    labels = dict.fromkeys(WEIGHTINGS[one.weighting] for one in several)
    scale = options.make_scale(extent, style, ", ".join(labels))
    titles = [_name_panel(several, place, i, options.letters) for i, place in enumerate(places)]
    named = []
    for which in sorted({place.which for place in places}):
        first, *others = (one for one, place in zip(shown, places, strict=True) if place.which == which)
        every = (one.cells.filled(0) for one in (first, *others))
        named += name_outstanding(first.sides, every, ~np.ma.getmaskarray(first.cells))

    def make_caption(has_indices: bool, step: int) -> Caption:
        averaged = {several[p.which].averaged for p in places if p.head is None and not several[p.which].is_mean}
        told = [
            note
            for which, pooling in sorted({place.which: poolings[i] for i, place in enumerate(places)}.items())
            for note in describe_data(
                several[which], options, pooling, has_indices=has_indices, step=step, has_lines=True
            )
        ]
        return options.make_caption(
            "chosen heads",
            dict.fromkeys([*averaged, *told, *named * (has_indices or step > 1), *segments]),
            model_id=names[0] if len(names) == 1 else "",
            bars=[scale] * (options.scale == "shared"),
        )

    wish = options.num_figs_per_row or options.columns
    if wish is None and len(several) > 1 and len(places) % len(several) == 0:
        wish = len(several)
    page = PanelPage(style, sides, [reserve_scale(t, options) for t in titles], make_caption, wish=wish)
    for i, (one, title, frame) in enumerate(zip(shown, titles, frames, strict=True)):
        page.set_weights(i, one.cells, scale, style.spell(title), look=options)
        if frame:
            page.frame(i, frame)
    return page.figure


def list_places(several: Sequence[AttentionMaps], heads: Sequence[tuple[int | None, ...]]) -> list[Place]:
    """Read which heads are to be drawn; as `plot_panels` takes them.

    Raises
    ------
    OptionError
        If they are no pairs or triples, or there are none.
    """
    expected = "heads are chosen as (layer, head) pairs, of several maps also as (which, layer, head)"
    places: list[Place] = []
    try:
        for one in heads:
            *first, layer, head = (None if number is None else operator.index(number) for number in one)
            chosen = [which for which in range(len(several)) if first in ([], [which])]
            if layer is None or not chosen:
                raise OptionError(f"{expected}; got {one!r} for {len(several)} maps")
            places += [Place(which, layer, head) for which in chosen]
    except OptionError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(f"{expected}; got {heads!r}") from error
    if not places:
        raise OptionError(f"{expected}; got {heads!r}")
    return places


def _match_highlights(
    highlight: Highlight | Sequence[Highlight | None] | None, count: int
) -> Sequence[Highlight | None]:
    if highlight is None or isinstance(highlight, Mapping):
        return [highlight] * count
    if len(highlight) != count:
        raise OptionError(f"highlight is one for all panels, or one for each of {count}; got {len(highlight)}")
    return highlight


def _name_panel(several: Sequence[AttentionMaps], place: Place, index: int, letters: bool) -> str:
    head = "mean" if place.head is None else f"head {place.head}"
    letter = string.ascii_lowercase[index % 26] * (index // 26 + 1)
    model = f"{shorten_label(several[place.which].model_id, 20)}, " if len(several) > 1 else ""
    return f"({letter}) " * letters + f"{model}layer {place.layer}, {head}"
