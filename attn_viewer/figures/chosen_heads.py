"""A page of chosen heads, of any layers and models."""

import dataclasses
import math
import operator
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import OptionError
from ..facts import WEIGHTINGS
from ..maps import AttentionMaps, require_maps
from .grids import choose_panel_scale, name_segments
from .heatmap import BAND, limit_cells, read_head
from .options import describe_data, split_options
from .page import Caption, PageFigure
from .panels import GridFitter, PanelPage, describe_sides
from .scales import Extent, measure_weights
from .style import shorten_label

Highlight = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Place:
    """A panel: which maps, which layer, and which head or None for the mean over heads."""

    which: int
    layer: int
    head: int | None


def plot_panels(
    maps: AttentionMaps | Sequence[AttentionMaps],
    heads: Sequence[tuple[int | None, ...]],
    *,
    letters: bool = True,
    columns: int | str | None = None,
    highlight: Highlight | Sequence[Highlight | None] | None = None,
    **options: Any,
) -> PageFigure:
    """Draw chosen heads of any layers and models on one page, all on one scale.

    Parameters
    ----------
    maps : AttentionMaps or sequence of AttentionMaps
        The weights of one model, or of several.
    heads : sequence of (int, int)
        Layer and head numbers, a panel each in this order; None for a head is the mean over heads. Of several maps each
        pair is drawn from all of them, side by side, and a triple ``(which, layer, head)`` from one, counted from 0.
    letters : bool
        Whether panels are called (a), (b), …
    columns : int or "auto", optional
        Panels side by side, as `num_figs_per_row` of other pages.
    highlight : dict or sequence of dict, optional
        What to frame in every panel, or in each: ``"rows"`` and ``"columns"``, numbers of tokens, and ``"cells"``,
        pairs of a query and a key.
    **options
        Options of `PanelLook` and `PageLook`; columns of a venue's page are those of `use_preset`.

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
    if columns is not None:
        if "num_figs_per_row" in options:
            raise OptionError("columns and num_figs_per_row are the same; give one of them")
        options = options | {"num_figs_per_row": columns}
    look, page_options = split_options(options, title="chosen heads")
    places = list_places(several, heads)
    shown = [read_head(several[p.which], p.layer, p.head, sink=look.sink) for p in places]
    frames = _match_highlights(highlight, len(places))
    described = [describe_sides(one, look.sink) for one in several]
    kinds_of = {sides: i for i, sides in enumerate(dict.fromkeys(sides for sides, _ in described))}
    all_sides = list(kinds_of)
    sides = [described[place.which][0] for place in places]
    extents = [measure_weights([one.cells.filled(0)], ~np.ma.getmaskarray(one.cells), look.norm) for one in shown]
    is_signed = any(several[p.which].signed for p in places)
    extent = Extent(max(e.end for e in extents), max(e.largest for e in extents), is_signed)
    segments = [phrase for one in several for phrase in name_segments(one)]
    names = list(dict.fromkeys(one.model_id for one in several))
    style = page_options.make_style().fit_fonts(
        [*(t for side in all_sides for t in side.texts), *names, *segments,
         page_options.title or "", *page_options.phrases]
    )  # fmt: skip
    labels = dict.fromkeys(WEIGHTINGS[one.weighting] for one in several)
    scale = look.make_scale(extent, style, ", ".join(labels))
    titles = [_name_panel(several, place, i, letters) for i, place in enumerate(places)]

    def make_caption(has_indices: bool, step: int) -> Caption:
        told = [
            describe_data(one, look, pooling, has_indices=has_indices, step=step, has_lines=True)
            for one, (_, pooling) in zip(several, described, strict=True)
        ]
        averaged = {several[p.which].averaged for p in places if p.head is None and not several[p.which].is_mean}
        notes = dict.fromkeys([*page_options.phrases, *averaged, *(note for part in told for note in part), *segments])
        return Caption(
            heading=page_options.title or "",
            model_id=names[0] if len(names) == 1 else "",
            notes=list(notes),
            bars=[scale] * (look.scale == "shared"),
            **page_options.shown,
        )

    wish = look.num_figs_per_row
    if wish is None and len(several) > 1 and len(places) % len(several) == 0:
        wish = len(several)
    grid = GridFitter(
        style=style,
        sides=all_sides,
        n_panels=len(places),
        wish=wish,
        title_width=max(style.measure(title, style.title)[0] for title in titles),
        measure_head=lambda *choice: make_caption(*choice).lay_out(style, style.width or math.inf).height,
        beside=(BAND + 0.5) * bool(segments),
        is_outer=style.width is not None and len(all_sides) == 1,
    ).fit()
    caption = make_caption(grid.has_indices, grid.step)
    panels = PanelPage(grid, sides, caption, [kinds_of[side] for side in sides])
    for i, (one, title) in enumerate(zip(shown, titles, strict=True)):
        own, title = choose_panel_scale(one.cells, scale, look, style.spell(title))
        panels.set_panel(i, limit_cells(one.cells)[0], own, title)
    for which, source in enumerate(several):
        mine = [i for i, place in enumerate(places) if place.which == which]
        panels.mark_segments(source, mine)
        panels.mark_completion(source, mine)
    for i, frame in enumerate(frames):
        if frame:
            panels.frame(i, shown[i], frame)
    return panels.figure


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
    head = "mean over heads" if place.head is None else f"head {place.head}"
    letter = string.ascii_lowercase[index % 26] * (index // 26 + 1)
    model = f"{shorten_label(several[place.which].model_id, 20)}, " if len(several) > 1 else ""
    return f"({letter}) " * letters + f"{model}layer {place.layer}, {head}"
