"""Figures that show a whole model at once: numbers of `analysis`, drawn by `figures`."""

import inspect
from typing import TYPE_CHECKING, Any, get_args

from .errors import OptionError
from .maps import AttentionMaps
from .options import FigurePageOptions, Overview

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = get_args(Overview)


def plot_overview(maps: AttentionMaps, kind: Overview, **look: Any) -> "Figure":
    """Draw one figure of all heads.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    kind : {"birds_eye", "last_token", "sinks", "similarity"}
        Every head as a thumbnail; what the last query looks at, layer by layer; the share of queries that look at the
        first token, with over 0.3 of their weight; which heads look alike.
    **look
        Of `sink`, `norm` and `cmap` (see `ColourOptions`) those that the figure uses, as `list_uses` names them; `norm`
        is ``"power"`` unless said otherwise, ``"linear"`` for signed maps. Options of a page, as `FigurePageOptions`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    OptionError
        If there is no such kind, or an option cannot be used.
    UnsuitableMapsError
        If the maps do not hold what the figure shows.
    """
    uses = [*list_uses(kind), *FigurePageOptions._fields]
    if unused := [name for name in look if name not in uses]:
        raise OptionError(f"the overview {kind!r} does not use {unused[0]}; it uses {', '.join(uses)}")
    figure: Figure = globals()[f"_draw_{kind}"](maps, **look)
    return figure


def list_uses(kind: Overview) -> list[str]:
    """Return the names of the options that an overview uses; `OptionError` if there is no such kind."""
    if kind not in KINDS:
        raise OptionError(f"there is no overview {kind!r}; there are {', '.join(KINDS)}")
    return [name for name in inspect.signature(globals()[f"_draw_{kind}"]).parameters if name not in ("maps", "page")]


def _draw_birds_eye(
    maps: "AttentionMaps", *, sink: str = "keep", norm: Any = None, cmap: Any = None, **page: Any
) -> "Figure":
    from .figures.thumbnails import plot_birds_eye

    return plot_birds_eye(maps, sink=sink, norm=norm, cmap=cmap, **page)


def _draw_last_token(
    maps: "AttentionMaps", *, sink: str = "keep", norm: Any = None, cmap: Any = None, **page: Any
) -> "Figure":
    from .figures.running_text import plot_running_text

    return plot_running_text(maps, sink=sink, norm=norm, cmap=cmap, **page)


def _draw_sinks(maps: "AttentionMaps", *, cmap: Any = None, **page: Any) -> "Figure":
    from .analysis.blocks import EPSILON
    from .analysis.scores import score_heads
    from .figures.heads import plot_atlas

    scores, n = score_heads(maps, ["sink_rate"], progress=False), len(maps.tokens_query)
    queries = f"{n} queries" if n > 1 else "1 query"
    return plot_atlas(
        scores.make_grid("sink_rate"),
        layers=scores.layers,
        heads=scores.heads,
        label=f"share of queries with over {EPSILON:g} on token 0",
        model_id=maps.model_id,
        cmap=cmap,
        vmax=1.0,
        layer_means=True,
        **{"title": "first-token sink"} | _add_notes(page, [queries, *maps.remarks]),
    )


def _draw_similarity(maps: "AttentionMaps", *, sink: str = "keep", cmap: Any = None, **page: Any) -> "Figure":
    from .analysis.similarity import measure_similarity
    from .figures.clusters import plot_similarity

    names = [f"{layer}.{head}" for layer, heads in zip(maps.layers, maps.heads, strict=True) for head in heads]
    n = len(maps.tokens_key)
    notes = [f"{n} {maps.unit}{'s' * (n > 1)}", "first token left out" if sink != "keep" else "first token kept"]
    notes += maps.remarks
    similarity = measure_similarity(maps, ignore_first_token=sink != "keep")
    return plot_similarity(similarity, names=names, model_id=maps.model_id, cmap=cmap, **_add_notes(page, notes))


def _add_notes(page: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return options of a page with these notes after the caller's, unless there are to be none."""
    asked = page.get("notes", True)
    if asked is not True and not isinstance(asked, (list, tuple)):
        return page
    return page | {"notes": [*(() if asked is True else asked), *notes]}
