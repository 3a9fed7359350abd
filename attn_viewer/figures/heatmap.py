"""One heatmap in anybody's axes: cells, tokens as ticks, what is marked, colour bar."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, overload

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from numpy.typing import ArrayLike

from ..attentions import read_weights
from ..cells import choose_cell, pool_cells
from ..errors import OptionError
from ..facts import WEIGHTINGS, find_future
from ..hints import check_value
from ..maps import AttentionMaps
from .page import PageFigure
from .scales import Extent, Scale, make_scale, measure_weights, set_bar_ticks
from .sinks import count_hidden, treat_sink
from .style import BANDS, DARK, LIGHT, PageStyle, Palette
from .ticks import set_token_ticks

# A picture shows no more cells than this a side; larger maps are pooled to the largest weight of each cell, because
# single large weights are what people look for and averaging would hide them.
MOST_CELLS = 512
# How thick the band of a segment is, in points.
BAND = 1.6
HIGHLIGHTS = ("rows", "columns", "cells")
# What rounding may leave of a weight that is none.
NOTHING = 1e-6


def limit_cells(matrix: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Pool a matrix that has more cells than a picture can show.

    Parameters
    ----------
    matrix : numpy.ndarray
        Axes ``(n_query, n_key)``, masked or plain.

    Returns
    -------
    matrix : numpy.ndarray
        At most `MOST_CELLS` cells a side, each the largest over its block, or what is furthest from 0 below it.
    factors : tuple of int
        Rows and columns of a block; (1, 1) when nothing was pooled.
    """
    cell = choose_cell(matrix.shape[0], matrix.shape[1], MOST_CELLS)
    return pool_cells(matrix, cell), cell


@dataclasses.dataclass(frozen=True, eq=False)
class Heatmap:
    """What one heatmap shows, read from maps or from a matrix.

    Parameters
    ----------
    cells : numpy.ma.MaskedArray
        Axes ``(rows, columns)``; masked where no query may look.
    tokens_query, tokens_key : tuple of str or None
        Labels of the tokens along the sides; None where there are none.
    first : tuple of int
        Numbers of the first query and the first key that are shown.
    cell : tuple of int
        Query and key tokens of a cell.
    marks : dict
        ``segments`` and ``completion`` in numbers of tokens, and ``has_rows`` where queries are tokens of the keys.
    label : str
        Name of the quantity.
    is_signed : bool
        Whether the scale is centred on 0, whatever these numbers are.
    """

    cells: np.ma.MaskedArray
    tokens_query: tuple[str, ...] | None
    tokens_key: tuple[str, ...] | None
    first: tuple[int, int] = (0, 0)
    cell: tuple[int, int] = (1, 1)
    segments: tuple[tuple[str, int, int], ...] = ()
    completion: int | None = None
    is_self: bool = True
    label: str = ""
    is_signed: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """Query and key tokens that are shown."""
        sizes = [rows * cell for rows, cell in zip(self.cells.shape, self.cell, strict=True)]
        known = (self.tokens_query, self.tokens_key)
        return tuple(size if t is None else len(t) for t, size in zip(known, sizes, strict=True))  # type: ignore[return-value]


def read_head(maps: AttentionMaps, layer: int | None, head: int | None, *, sink: str = "keep") -> Heatmap:
    """Read one head of maps, or the mean over the heads of a layer.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    layer : int or None
        True layer number; may be left out where there is one.
    head : int or None
        True head number; left out, the mean over heads.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token.

    Returns
    -------
    Heatmap
        The head, with the maps' mask, segments and completion.

    Raises
    ------
    OptionError
        If there is no such layer or head, or nothing is left of it.
    """
    if layer is None:
        if len(maps.layers) > 1:
            raise OptionError(f"these maps have {len(maps.layers)} layers; say which to draw: layer={maps.layers[0]}")
        layer = maps.layers[0]
    one = maps.select(layers=[layer], heads=None if head is None else [head])
    weights = one.weights[0][0] if len(one.weights[0]) == 1 else one.average_heads().weights[0][0]
    row, column = count_hidden(maps, sink)
    tokens_query, tokens_key = maps.tokens_query[row * maps.cell[0] :], maps.tokens_key[column * maps.cell[1] :]
    if not tokens_query or not tokens_key:
        raise OptionError("nothing is left of a prompt of one token without its first token; keep it")
    shown = treat_sink(weights, maps, sink)
    is_self = maps.kind != "cross"
    return Heatmap(
        np.ma.masked_array(shown, maps.future[row:, column:]),
        tuple(tokens_query),
        tuple(tokens_key),
        (maps.first_query + row * maps.cell[0], column * maps.cell[1]),
        maps.cell,
        maps.segments,
        maps.prompt_length if is_self and maps.prompt_length < len(maps.tokens_key) else None,
        is_self,
        WEIGHTINGS[maps.weighting],
        maps.signed,
    )


def read_matrix(
    matrix: ArrayLike, tokens_query: Sequence[str] | None, tokens_key: Sequence[str] | None, *, causal: bool
) -> Heatmap:
    """Read one matrix.

    Parameters
    ----------
    matrix : array_like
        Axes ``(n_query, n_key)``; NaN and masked cells are neutral.
    tokens_query, tokens_key : sequence of str or None
        Labels of rows and columns; keys are those of the queries when left out.
    causal : bool
        Whether to mask the keys that come after each query; queries that are fewer than the keys are the last ones.

    Returns
    -------
    Heatmap
        The matrix.

    Raises
    ------
    OptionError
        If it is no matrix of real numbers, labels do not fit it, or causal queries give weight to later keys.
    """
    if hasattr(matrix, "detach"):  # a tensor, perhaps with gradients, on a device or in bfloat16
        matrix = read_weights(matrix)
    try:
        values = np.ma.masked_invalid(np.ma.asarray(matrix).astype(np.result_type(np.ma.asarray(matrix), np.float32)))
    except (TypeError, ValueError) as error:
        raise OptionError(f"a heatmap needs a matrix of real numbers, got {matrix!r:.80}") from error
    if values.ndim != 2 or values.size == 0 or values.dtype.kind != "f":
        raise OptionError(
            f"a heatmap needs a matrix of real numbers (n_query, n_key), got {values.dtype} of shape {values.shape}"
        )
    n_query, n_key = values.shape
    tokens_key = tokens_query if tokens_key is None else tokens_key
    for tokens, size, what in ((tokens_query, n_query, "query"), (tokens_key, n_key, "key")):
        if tokens is not None and len(tokens) != size:
            raise OptionError(f"got {len(tokens)} {what} labels for {size} {what} positions; give one each")
    if causal and n_query > n_key:
        raise OptionError(f"queries of a causal map are among the keys, got {n_query} queries and {n_key} keys")
    if causal:
        future = find_future((n_query, n_key), (1, 1), n_key - n_query)
        seen = np.argwhere(future & (np.abs(values.filled(0)) > NOTHING))
        if len(seen):
            row, column = seen[0]
            raise OptionError(
                f"causal=True hides the keys after each query, but {len(seen)} of them hold weight: query {row} gives "
                f"key {column} {values[row, column]:.3g}; leave causal out, or clear them with np.tril"
            )
        values = np.ma.masked_array(values, np.ma.getmaskarray(values) | future)
    query, key = (None if tokens is None else tuple(map(str, tokens)) for tokens in (tokens_query, tokens_key))
    return Heatmap(values, query, key)


@overload
def draw_heatmap(
    weights: AttentionMaps,
    layer: int | None = None,
    head: int | None = None,
    *,
    ax: Axes | None = None,
    sink: str = "keep",
    norm: str | Normalize = "linear",
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cbar: bool | Axes = False,
    highlight: Mapping[str, Sequence[Any]] | None = None,
) -> Axes: ...


@overload
def draw_heatmap(
    weights: ArrayLike,
    tokens_query: Sequence[str] | None = None,
    tokens_key: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    causal: bool = False,
    norm: str | Normalize = "linear",
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cbar: bool | Axes = False,
    highlight: Mapping[str, Sequence[Any]] | None = None,
) -> Axes: ...


def draw_heatmap(
    weights: Any,
    *which: Any,
    ax: Axes | None = None,
    norm: str | Normalize = "linear",
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cbar: bool | Axes = False,
    highlight: Mapping[str, Sequence[Any]] | None = None,
    **options: Any,
) -> Axes:
    """Draw one attention pattern into any axes: ``draw_heatmap(maps, layer, head)``, ``draw_heatmap(matrix, tokens)``.

    Cells and tick labels are those of the axes: a token stands at its number, queries down and keys across, and layout
    engines, style sheets and rcParams act on them as in any other plot. Labels that do not fit give way to every n-th
    one, then to token numbers, anew at each drawing.

    Parameters
    ----------
    weights : AttentionMaps or array_like
        Maps, or a matrix of axes ``(n_query, n_key)``; NaN and masked cells are neutral. A matrix with numbers below 0
        is drawn on a diverging scale around 0.
    layer, head : int, optional
        Of maps: true numbers; without `head` the mean over heads, without `layer` the only one.
    tokens_query, tokens_key : sequence of str, optional
        Of a matrix: labels of rows and columns; keys are those of the queries when left out, none when both are.
    causal : bool
        Of a matrix: whether to mask the keys that come after each query; queries that are fewer than the keys are the
        last ones. Maps know it.
    sink : {"keep", "hide", "renormalise"}
        Of maps: what happens to the first token.
    ax : matplotlib.axes.Axes, optional
        Where to draw; left out, in a figure of its own, ``draw_heatmap(…).figure``.
    norm : {"linear", "power", "log", "quantile"} or matplotlib.colors.Normalize
        Scale from weights to colours.
    cmap : str or matplotlib.colors.Colormap, optional
        Colour map; left out, the one of this package.
    vmin, vmax : float, optional
        Ends of the scale; left out, 0 and a round number from the largest weight up, not counting queries that see
        almost no keys.
    cbar : bool or matplotlib.axes.Axes
        Whether to draw a colour bar, or the axes for it.
    highlight : dict, optional
        ``"rows"`` and ``"columns"``, numbers of tokens, and ``"cells"``, pairs of a query and a key, to frame.

    Returns
    -------
    matplotlib.axes.Axes
        `ax`; the cells are ``ax.images[-1]``, ready for ``figure.colorbar``.

    Raises
    ------
    OptionError
        If an option or the weights cannot be used.
    """
    shown = _read(weights, which, options)
    if ax is None:
        ax = PageFigure(layout="constrained").add_subplot()
        ax.set(xlabel="key", ylabel="query")
    if ax.name != "rectilinear" or {ax.get_xscale(), ax.get_yscale()} != {"linear"}:
        raise OptionError(
            f"a heatmap stands in axes of two linear scales, got {ax.name} axes, {ax.get_xscale()} by {ax.get_yscale()}"
        )
    scale = _choose_scale(shown, norm, cmap, vmin, vmax, _find_palette(ax))
    draw_cells(ax, shown, scale)
    if highlight:
        frame_cells(ax, shown, highlight)
    if cbar is not False:
        place: dict[str, Any] = {"cax": cbar} if isinstance(cbar, Axes) else {"ax": ax}
        bar = ax.figure.colorbar(ax.images[-1], label=scale.label, extend=scale.extend, **place)
        set_bar_ticks(bar, scale, 100.0, PageStyle())
    return ax


def _read(weights: Any, which: tuple[Any, ...], options: dict[str, Any]) -> Heatmap:
    is_maps = isinstance(weights, AttentionMaps)
    names = ("layer", "head") if is_maps else ("tokens_query", "tokens_key")
    known = (*names, "sink") if is_maps else (*names, "causal")
    given = dict(zip(names, which, strict=False)) | options
    wrong = [name for name in options if name not in known] or ["more positions"] * (len(which) > len(names))
    if wrong:
        what = "maps" if is_maps else "a matrix"
        raise OptionError(f"of {what}, draw_heatmap takes {', '.join(known)}; got {', '.join(wrong)}")
    if is_maps:
        return read_head(weights, given.get("layer"), given.get("head"), sink=given.get("sink", "keep"))
    causal = given.get("causal", False)
    check_value("causal", causal, bool)
    return read_matrix(weights, given.get("tokens_query"), given.get("tokens_key"), causal=causal)


def _find_palette(ax: Axes) -> Palette:
    """Return the palette for the ground on which axes stand."""
    for colour in (ax.get_facecolor(), ax.figure.get_facecolor()):
        if to_rgba(colour)[3] > 0.5:
            # Relative luminance of ITU-R BT.709, near enough to tell light from dark.
            return DARK if np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) < 0.4 else LIGHT
    return LIGHT


def _choose_scale(
    shown: Heatmap,
    norm: str | Normalize,
    cmap: str | Colormap | None,
    vmin: float | None,
    vmax: float | None,
    palette: Palette,
) -> Scale:
    cells = shown.cells
    extent = measure_weights([cells.filled(0)], ~np.ma.getmaskarray(cells), norm) if cells.count() else Extent(1.0, 1.0)
    extent = dataclasses.replace(extent, is_signed=vmin is None and (extent.is_signed or shown.is_signed))
    look: dict[str, Any] = {"norm": norm, "cmap": cmap, "palette": palette, "label": shown.label}
    return make_scale(extent, vmin=vmin or 0.0, vmax=vmax, **look)


def draw_cells(ax: Axes, shown: Heatmap, scale: Scale) -> None:
    """Draw a heatmap with token ticks, bands of segments and lines where the completion begins.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    shown : Heatmap
        What to draw.
    scale : Scale
        Its colours.
    """
    cells, (down, across) = limit_cells(shown.cells)
    (first_query, first_key), (n_query, n_key) = shown.first, shown.counts
    right = first_key + cells.shape[1] * across * shown.cell[1] - 0.5
    end = first_query + cells.shape[0] * down * shown.cell[0] - 0.5
    ax.imshow(
        cells,
        norm=scale.norm,
        cmap=scale.cmap,
        interpolation="nearest",
        origin="upper",
        extent=(first_key - 0.5, right, end, first_query - 0.5),
    )
    ax.grid(visible=False, which="both")  # lines of a style sheet would cross out cells
    ax.set(
        xlim=(first_key - 0.5, first_key + n_key - 0.5),
        ylim=(first_query + n_query - 0.5, first_query - 0.5),
    )
    has_cells = shown.cell == (1, 1) and (down, across) == (1, 1)
    for axis, tokens, first, count, is_key in (
        (ax.yaxis, shown.tokens_query, first_query, n_query, False),
        (ax.xaxis, shown.tokens_key, first_key, n_key, True),
    ):
        set_token_ticks(axis, tokens if has_cells else None, first, count, is_key=is_key)
    _draw_segments(ax, shown)
    if shown.completion is not None:
        look: dict[str, Any] = {
            "color": _find_palette(ax).accent,
            "linewidth": 0.8,
            "linestyle": (0, (3, 2)),
            "zorder": 2,
        }
        if shown.completion > first_key:
            ax.axvline(shown.completion - 0.5, **look)
        if first_query < shown.completion < first_query + n_query:
            ax.axhline(shown.completion - 0.5, **look)


def _draw_segments(ax: Axes, shown: Heatmap) -> None:
    """Draw a band beside the axes for each segment, one colour a name, and move labels aside."""
    names = list(dict.fromkeys(name for name, *_ in shown.segments))
    point = ax.figure.dpi_scale_trans
    below = blended_transform_factory(ax.transData, ax.transAxes) + ScaledTranslation(0, -(BAND / 2 + 0.5) / 72, point)
    left = blended_transform_factory(ax.transAxes, ax.transData) + ScaledTranslation(-(BAND / 2 + 0.5) / 72, 0, point)
    (first_query, first_key), (n_query, n_key) = shown.first, shown.counts
    for name, start, stop in shown.segments:
        look: dict[str, Any] = {
            "color": BANDS[names.index(name) % len(BANDS)],
            "linewidth": BAND,
            "solid_capstyle": "butt",
        }
        for axis_first, count, transform, is_key in (
            (first_key, n_key, below, True),
            *([(first_query, n_query, left, False)] if shown.is_self else []),
        ):
            ends = [min(max(edge, axis_first), axis_first + count) - 0.5 for edge in (start, stop)]
            if ends[0] < ends[1]:
                line = Line2D(*((ends, [0, 0]) if is_key else ([0, 0], ends)), transform=transform, zorder=2.5, **look)
                ax.add_artist(line)
                # It lies outside, and ends where the axes do when they show a part.
                corner = (0, -1) if is_key else (-1, 0)
                line.set_clip_path(Rectangle(corner, 1, 1, transform=ax.transAxes))
    if shown.segments:
        pads = mpl.rcParams["xtick.major.pad"], mpl.rcParams["ytick.major.pad"]
        for axis, pad in zip((ax.xaxis, ax.yaxis), pads, strict=True):
            axis.set_tick_params(which="major", pad=pad + BAND + 0.5)


def frame_cells(ax: Axes, shown: Heatmap, highlight: Mapping[str, Sequence[Any]]) -> None:
    """Frame rows, columns and cells.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes of `draw_cells`.
    shown : Heatmap
        What they show.
    highlight : dict
        ``"rows"`` and ``"columns"``, numbers of tokens, and ``"cells"``, pairs of a query and a key.

    Raises
    ------
    OptionError
        If it names something else, or what is not shown.
    """
    for x, y, width, height in find_frames(shown, highlight):
        ax.add_patch(
            Rectangle((x, y), width, height, fill=False, edgecolor=_find_palette(ax).accent, linewidth=1.2, zorder=3)
        )


def find_frames(shown: Heatmap, highlight: Mapping[str, Sequence[Any]]) -> list[tuple[float, float, float, float]]:
    """Return left, top, width and height in tokens of what is to be framed; as `frame_cells` takes it."""
    unknown = [name for name in highlight if name not in HIGHLIGHTS]
    if unknown:
        raise OptionError(f"highlight has {', '.join(HIGHLIGHTS)}; got {', '.join(map(str, unknown))}")
    (first_query, first_key), (n_query, n_key) = shown.first, shown.counts
    queries, keys = range(first_query, first_query + n_query), range(first_key, first_key + n_key)
    frames = []
    try:
        places = [(row, None) for row in highlight.get("rows", ())]
        places += [(None, column) for column in highlight.get("columns", ())]
        places += [(row, column) for row, column in highlight.get("cells", ())]
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"highlight needs token numbers for rows and columns, (query, key) for cells; got {dict(highlight)!r}"
        ) from error
    for row, column in places:
        if (row is not None and row not in queries) or (column is not None and column not in keys):
            raise OptionError(
                f"cannot highlight query {row}, key {column}: queries {queries[0]} to {queries[-1]} and keys {keys[0]} "
                f"to {keys[-1]} are shown"
            )
        x, width = (keys[0], n_key) if column is None else (column, 1)
        y, height = (queries[0], n_query) if row is None else (row, 1)
        frames.append((x - 0.5, y - 0.5, float(width), float(height)))
    return frames
