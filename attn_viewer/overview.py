"""Figures that show a whole model at once: numbers of `analysis`, drawn by `figures`."""

from .errors import OptionError

KINDS = ("birds_eye", "last_token", "sinks", "similarity")


def draw_overview(maps, kind, *, sink="keep", norm="power", cmap=None):
    """Draw one figure of all heads.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    kind : {"birds_eye", "last_token", "sinks", "similarity"}
        Every head as a thumbnail; what the last query looks at, layer by layer; the share of queries that look at the
        first token, with over 0.3 of their weight; which heads look alike.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token; the figure of sinks shows it always.
    norm : {"linear", "power", "log"}
        Scale from weights to colours, where weights are shown.
    cmap : str, optional
        A matplotlib colour map; left out, the one of this package.

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
    if kind not in KINDS:
        raise OptionError(f"there is no overview {kind!r}; there are {', '.join(KINDS)}")
    return globals()[f"_draw_{kind}"](maps, sink=sink, norm=norm, cmap=cmap)


def _draw_birds_eye(maps, **look):
    from .figures.thumbnails import plot_birds_eye

    return plot_birds_eye(maps, **look)


def _draw_last_token(maps, **look):
    from .figures.running_text import plot_running_text

    return plot_running_text(maps, **look)


def _draw_sinks(maps, *, cmap, **_):
    from .analysis.scores import EPSILON, score_heads
    from .figures.heads import plot_atlas

    scores = score_heads(maps, ["sink_rate"], progress=False)
    return plot_atlas(
        scores.make_grid("sink_rate"),
        layers=scores.layers,
        heads=scores.heads,
        label=f"share of queries with over {EPSILON:g} on token 0",
        title="first-token sink",
        model_id=maps.model_id,
        notes=[f"{len(maps.tokens_query)} queries", *maps.remarks],
        cmap=cmap,
        vmax=1.0,
        layer_means=True,
    )


def _draw_similarity(maps, *, sink, cmap, **_):
    from .analysis.similarity import measure_similarity
    from .figures.clusters import plot_similarity

    names = [f"{layer}.{head}" for layer, heads in zip(maps.layers, maps.heads, strict=True) for head in heads]
    notes = [f"{len(maps.tokens_key)} tokens", "first token left out" if sink != "keep" else "first token kept"]
    notes += maps.remarks
    similarity = measure_similarity(maps, ignore_first_token=sink != "keep")
    return plot_similarity(similarity, names=names, model_id=maps.model_id, notes=notes, cmap=cmap)
