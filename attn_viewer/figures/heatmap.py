"""One heatmap in anybody's axes: cells, tokens as ticks, what is marked, colour bar."""

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from numpy.typing import ArrayLike

from ..attentions import read_weights
from ..cells import choose_cell, pool_cells
from ..declarations import takes_options
from ..errors import OptionError
from ..facts import WEIGHTINGS, find_future
from ..maps import AttentionMaps
from ..tokens import name_bytes, show_label
from .options import HeatmapLook, Highlight
from .page import PageFigure
from .scales import Extent, make_scale, measure_weights, set_bar_ticks
from .sinks import count_hidden, treat_mask, treat_sink
from .style import BANDS, DARK, LIGHT, PageStyle, Palette, shorten_label
from .ticks import set_token_ticks

# A picture shows no more cells than this a side; larger maps are pooled to the largest weight of each cell, because
# single large weights are what people look for and averaging would hide them.
MOST_CELLS = 512
# How thick the band of a segment is, in points.
BAND = 1.6
HIGHLIGHTS = ("rows", "columns", "cells", "diagonals", "segments")
# Frames around thinner cells, in points, would cover them.
LEAST_FRAME = 3.0
# Of a row or column, how many times the usual mean weight stands out, and how many are named.
OUTSTANDING, MOST_NAMED = 4.0, 6
# What rounding may leave of a weight that is none.
NOTHING = 1e-6


def limit_cells(matrix: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a matrix of at most `MOST_CELLS` cells a side, and how many rows and columns of the old one a cell is."""
    cell = choose_cell(matrix.shape[0], matrix.shape[1], MOST_CELLS)
    return pool_cells(matrix, cell), cell


@dataclasses.dataclass(frozen=True)
class Sides:
    """What stands along the sides of a heatmap, queries before keys.

    A cell is so many query and key tokens, counted from the numbers `first`. Segments, and where the completion begins,
    are numbers of tokens; `is_self` says that queries are tokens of the keys.
    """

    shape: tuple[int, ...]
    tokens_query: tuple[str, ...] | None = None
    tokens_key: tuple[str, ...] | None = None
    first: tuple[int, int] = (0, 0)
    cell: tuple[int, ...] = (1, 1)
    segments: tuple[tuple[str, int, int], ...] = ()
    completion: int | None = None
    is_self: bool = True

    @property
    def texts(self) -> list[str]:
        """All that labels may say, to find fonts for."""
        return [*name_bytes(self.tokens_query or ()), *name_bytes(self.tokens_key or ())]

    @property
    def counts(self) -> tuple[int, int]:
        """Query and key tokens that are shown."""
        known = self.tokens_query, self.tokens_key
        sizes = zip(known, self.shape, self.cell, strict=True)
        n_query, n_key = (n * cell if tokens is None else len(tokens) for tokens, n, cell in sizes)
        return n_query, n_key

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, lower and upper edge of the cells, in numbers of tokens."""
        (row, column), (rows, columns) = self.first, self.shape
        return column - 0.5, column + columns * self.cell[1] - 0.5, row + rows * self.cell[0] - 0.5, row - 0.5

    @property
    def edges(self) -> tuple[float | None, float | None]:
        """Row and column at which the completion begins, where that is shown."""
        begin, (row, column) = self.completion, self.first
        if begin is None:
            return None, None
        return begin - 0.5 if row < begin < row + self.counts[0] else None, begin - 0.5 if begin > column else None

    def pool(self) -> tuple["Sides", tuple[int, int]]:
        """Return the sides of what `limit_cells` leaves, and rows and columns of a cell."""
        pooling = choose_cell(self.shape[0], self.shape[1], MOST_CELLS)
        shape = tuple(-(-n // size) for n, size in zip(self.shape, pooling, strict=True))
        cell = tuple(n * size for n, size in zip(self.cell, pooling, strict=True))
        return dataclasses.replace(self, shape=shape, cell=cell), pooling

    def list_bands(self) -> Iterator[tuple[str, bool, float, float]]:
        """Yield colour, whether it lies along the keys, and ends of the band of each segment; one colour a name."""
        names = list(dict.fromkeys(name for name, *_ in self.segments))
        for name, *ends in self.segments:
            for is_key in (True, False)[: 1 + self.is_self]:
                first, count = self.first[is_key], self.counts[is_key]
                start, stop = (min(max(edge, first), first + count) - 0.5 for edge in ends)
                if start < stop:
                    yield BANDS[names.index(name) % len(BANDS)], is_key, start, stop

    def list_frames(self, highlight: Highlight, size: tuple[float, float]) -> Iterator[np.ndarray]:
        """Yield the corners, in tokens, axes ``(corners, 2)``, of what is to be framed.

        Frames are no narrower than `LEAST_FRAME`, on cells of a panel of a `size`, width and height, in points.

        Raises
        ------
        OptionError
            If it names what is not shown.
        """
        unknown = [name for name in highlight if name not in HIGHLIGHTS]
        if unknown:
            raise OptionError(f"highlight has {', '.join(HIGHLIGHTS)}; got {', '.join(map(str, unknown))}")
        queries, keys = (range(first, first + n) for first, n in zip(self.first, self.counts, strict=True))
        margin = [max(0.5, LEAST_FRAME / 2 * n / side) for n, side in zip((len(keys), len(queries)), size, strict=True)]
        shown = f"queries {queries[0]} to {queries[-1]} and keys {keys[0]} to {keys[-1]} are shown"
        try:
            places = [(row, None) for row in highlight.get("rows", ())]
            places += [(None, column) for column in highlight.get("columns", ())]
            places += [(row, column) for row, column in highlight.get("cells", ())]
            diagonals = [operator.index(offset) for offset in highlight.get("diagonals", ())]
        except (TypeError, ValueError) as error:
            raise OptionError(
                "highlight needs token numbers for rows and columns, (query, key) for cells, query less key for "
                f"diagonals; got {dict(highlight)!r}"
            ) from error
        for row, column in places:
            if (row is not None and row not in queries) or (column is not None and column not in keys):
                raise OptionError(f"cannot highlight query {row}, key {column}: {shown}")
            rows, columns = (every if at is None else [at] for at, every in ((row, queries), (column, keys)))
            yield _frame_cells((rows[0], columns[0]), (rows[-1], columns[-1]), margin)
        for offset in diagonals:
            start, stop = max(queries[0], keys[0] + offset), min(queries[-1], keys[-1] + offset)
            if start > stop:
                raise OptionError(f"cannot highlight the diagonal of keys {offset} before their query: {shown}")
            yield _frame_cells((start, start - offset), (stop, stop - offset), margin)
        for name in highlight.get("segments", ()):
            parts = [range(start, stop) for known, start, stop in self.segments if known == name]
            if not parts:
                known_names = ", ".join(dict.fromkeys(known for known, *_ in self.segments)) or "none"
                raise OptionError(f"cannot highlight segment {name!r}; there are {known_names}")
            for part in parts:
                rows, columns = ([i for i in part if i in every] for every in (queries, keys))
                if columns and (rows or not self.is_self):
                    (left, top), (right, low) = (columns[0], (rows or queries)[0]), (columns[-1], (rows or queries)[-1])
                    yield np.array([(left, top), (right + 1, top), (right + 1, low + 1), (left, low + 1)]) - 0.5


def _frame_cells(first: tuple[int, int], last: tuple[int, int], margin: Sequence[float]) -> np.ndarray:
    """Return the corners of a frame so far around the middles of a line of cells, from one (query, key) to another."""
    (top, left), (low, right), (x, y) = first, last, margin
    upper = [(left - x, top + y), (left - x, top - y), (left + x, top - y)]
    lower = [(right + x, low - y), (right + x, low + y), (right - x, low + y)]
    return np.array([*upper, *lower])


def read_sides(maps: AttentionMaps, sink: str) -> Sides:
    """Return what stands along the sides of a head of these maps.

    Raises
    ------
    OptionError
        If nothing is left without the first token.
    """
    row, column = count_hidden(maps, sink)
    tokens_query, tokens_key = maps.tokens_query[row:], maps.tokens_key[column * maps.cell[1] :]
    is_self = maps.kind != "cross"
    return Sides(
        (maps.shape[0] - row, maps.shape[1] - column),
        tuple(tokens_query),
        tuple(tokens_key),
        (maps.first_query + row, column * maps.cell[1]),
        maps.cell,
        maps.segments,
        maps.prompt_length if is_self and maps.prompt_length < len(maps.tokens_key) else None,
        is_self,
    )


def find_outstanding(weights: Iterable[np.ndarray], seen: np.ndarray) -> tuple[list[int], list[int]]:
    """Return rows and columns of cells, strongest first, whose mean weight is `OUTSTANDING` times the usual one.

    Weights have axes ``(..., n_query, n_key)``. Means are over the cells that are `seen`; what has few of them counts
    not, for it has large weights for want of choice.
    """
    total = np.zeros(seen.shape)
    for array in weights:
        total += np.abs(array).reshape(-1, *seen.shape).sum(axis=0, dtype=np.float32)
    found = []
    for axis in (1, 0):
        counts = seen.sum(axis=axis)
        means = np.where(seen, total, 0).sum(axis=axis) / np.maximum(counts, 1)
        is_fair = counts >= max(2, seen.shape[axis] // 4)
        usual = np.median(means[is_fair]) if is_fair.any() else 0.0
        places = np.flatnonzero(is_fair & (means > max(OUTSTANDING * usual, NOTHING)))
        found.append(places[np.argsort(-means[places], kind="stable")][:MOST_NAMED].tolist())
    rows, columns = found
    return rows, columns


def _name_token(number: int, label: str) -> str:
    return label if label == str(number) else f"{number} {shorten_label(label)}"


def name_outstanding(sides: Sides, weights: Iterable[np.ndarray], seen: np.ndarray) -> list[str]:
    """Return phrases that name tokens that stand out, for pages on which not all are; none where cells are larger."""
    if sides.cell != (1, 1):
        return []
    every = zip(("queries", "keys"), find_outstanding(weights, seen), sides.first, strict=True)
    tokens = sides.tokens_query or (), sides.tokens_key or ()
    return [
        f"{what} with much weight: " + ", ".join(_name_token(first + i, words[i]) for i in places)
        for (what, places, first), words in zip(every, tokens, strict=True)
        if places
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Heatmap:
    """The numbers of one heatmap, masked where no query may look, and what they are; also where all are above 0."""

    cells: np.ma.MaskedArray
    sides: Sides
    label: str = ""
    is_signed: bool = False

    def measure(self, norm: Any) -> Extent:
        """Find where a scale of these numbers ends."""
        return measure_weights([self.cells.filled(0)], ~np.ma.getmaskarray(self.cells), norm)


def read_head(maps: AttentionMaps, layer: int | None, head: int | None, *, sink: str = "keep") -> Heatmap:
    """Read one head of maps by its true number, or the mean over the heads of a layer; `layer` may be the only one.

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
    cells = np.ma.masked_array(treat_sink(weights, maps, sink), treat_mask(maps, sink))
    return Heatmap(cells, read_sides(maps, sink), WEIGHTINGS[maps.weighting], maps.signed)


def read_matrix(
    matrix: ArrayLike, tokens_query: Sequence[Any] | None, tokens_key: Sequence[Any] | None, *, causal: bool
) -> Heatmap:
    """Read one matrix; as `draw_heatmap` takes it.

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
    query, key = (
        None if tokens is None else tuple(show_label(str(t)) for t in tokens) for tokens in (tokens_query, tokens_key)
    )
    return Heatmap(values, Sides(values.shape, query, key))


@takes_options(HeatmapLook)
def draw_heatmap(weights: Any, *which: Any, ax: Axes | None = None, options: HeatmapLook) -> Axes:
    """Draw one attention pattern into any axes: ``draw_heatmap(maps, layer, head)``, ``draw_heatmap(matrix, tokens)``.

    Cells and tick labels are those of the axes: a token stands at its number, queries down and keys across, and layout
    engines, style sheets and rcParams act on them as in any other plot. Labels that do not fit give way to every n-th
    one, then to token numbers, anew at each drawing.

    Parameters
    ----------
    weights : AttentionMaps or array_like
        Maps, or a matrix of axes ``(n_query, n_key)``; NaN and masked cells are neutral. A matrix with numbers below 0
        is drawn on a diverging scale around 0.
    *which
        Of maps, `layer` and `head`; of a matrix, `tokens_query` and `tokens_key`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; left out, in a figure of its own, ``draw_heatmap(…).figure``.
    **options
        Options of `HeatmapLook`.

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
    palette = _find_palette(ax)
    extent = shown.measure(options.norm) if shown.cells.count() else Extent(1.0, 1.0)
    extent = dataclasses.replace(extent, is_signed=options.vmin is None and (extent.is_signed or shown.is_signed))
    look: dict[str, Any] = {"norm": options.norm, "vmin": options.vmin or 0.0, "vmax": options.vmax}
    scale = make_scale(extent, **look, cmap=options.cmap, palette=palette, label=shown.label)
    sides = shown.sides.pool()[0]
    _draw_sides(ax, sides, palette, find_outstanding([shown.cells.filled(0)], ~np.ma.getmaskarray(shown.cells)))
    ax.imshow(
        limit_cells(shown.cells)[0],
        norm=scale.norm,
        cmap=scale.cmap,
        interpolation="nearest",
        origin="upper",
        extent=sides.extent,
    )
    ax.grid(visible=False, which="both")  # lines of a style sheet would cross out cells
    size = ax.bbox.width * 72 / ax.figure.dpi, ax.bbox.height * 72 / ax.figure.dpi
    for corners in sides.list_frames(options.highlight or {}, size):
        ax.add_patch(Polygon(corners, fill=False, edgecolor=palette.accent, linewidth=1.2, zorder=3))
    if options.cbar is not False:
        place: dict[str, Any] = {"cax": options.cbar} if isinstance(options.cbar, Axes) else {"ax": ax}
        bar = ax.figure.colorbar(ax.images[-1], label=scale.label, extend=scale.extend, **place)
        set_bar_ticks(bar, scale, 100.0, PageStyle())
    return ax


def _read(weights: Any, which: tuple[Any, ...], options: HeatmapLook) -> Heatmap:
    of_maps, of_matrix = ("layer", "head", "sink"), ("tokens_query", "tokens_key", "causal")
    is_maps = isinstance(weights, AttentionMaps)
    known, others = (of_maps, of_matrix) if is_maps else (of_matrix, of_maps)
    wrong = [name for name in options.changes() if name in others] or ["more positions"] * (len(which) > 2)
    if wrong:
        what = "maps" if is_maps else "a matrix"
        raise OptionError(f"of {what}, draw_heatmap takes {', '.join(known)}; got {', '.join(wrong)}")
    options = dataclasses.replace(options, **dict(zip(known, which, strict=False)))
    if is_maps:
        return read_head(weights, options.layer, options.head, sink=options.sink)
    return read_matrix(weights, options.tokens_query, options.tokens_key, causal=options.causal)


def _find_palette(ax: Axes) -> Palette:
    """Return the palette for the ground on which axes stand."""
    for colour in (ax.get_facecolor(), ax.figure.get_facecolor()):
        if to_rgba(colour)[3] > 0.5:
            # Relative luminance of ITU-R BT.709, near enough to tell light from dark.
            return DARK if np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) < 0.4 else LIGHT
    return LIGHT


def _draw_sides(ax: Axes, sides: Sides, palette: Palette, outstanding: tuple[list[int], list[int]]) -> None:
    """Show the tokens as ticks, a band beside the axes for each segment, and lines where the completion begins."""
    (row, column), (n_query, n_key) = sides.first, sides.counts
    for is_key, (axis, tokens) in enumerate(((ax.yaxis, sides.tokens_query), (ax.xaxis, sides.tokens_key))):
        shown = tokens if sides.cell == (1, 1) else None
        set_token_ticks(
            axis, shown, sides.first[is_key], sides.counts[is_key], is_key=bool(is_key), named=outstanding[is_key]
        )
    ax.set(xlim=(column - 0.5, column + n_key - 0.5), ylim=(row + n_query - 0.5, row - 0.5))
    point, shift = ax.figure.dpi_scale_trans, -(BAND / 2 + 0.5) / 72
    below = blended_transform_factory(ax.transData, ax.transAxes) + ScaledTranslation(0, shift, point)
    left = blended_transform_factory(ax.transAxes, ax.transData) + ScaledTranslation(shift, 0, point)
    for colour, is_key, *ends in sides.list_bands():
        place, corner, transform = ((ends, [0, 0]), (0, -1), below) if is_key else (([0, 0], ends), (-1, 0), left)
        look: dict[str, Any] = {"color": colour, "linewidth": BAND, "solid_capstyle": "butt", "zorder": 2.5}
        band = Line2D(*place, transform=transform, **look)
        ax.add_artist(band)
        # It lies outside, and ends where the axes do when they show a part.
        band.set_clip_path(Rectangle(corner, 1, 1, transform=ax.transAxes))
    if sides.segments:  # labels move aside
        pads = mpl.rcParams["xtick.major.pad"], mpl.rcParams["ytick.major.pad"]
        for axis, pad in zip((ax.xaxis, ax.yaxis), pads, strict=True):
            axis.set_tick_params(which="major", pad=pad + BAND + 0.5)
    dashed: dict[str, Any] = {"color": palette.accent, "linewidth": 0.8, "linestyle": (0, (3, 2)), "zorder": 2}
    row_edge, column_edge = sides.edges
    if column_edge is not None:
        ax.axvline(column_edge, **dashed)
    if row_edge is not None:
        ax.axhline(row_edge, **dashed)
