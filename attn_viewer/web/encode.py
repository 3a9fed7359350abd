"""What the front end reads: facts as JSON and each head's weights as bytes, one encoder for all who serve it.

The contract stands at the top of ``static/viewer.js``. A head is its cells column by column, each column from the first
query that sees its key down to the last; cells that the causal mask hides are left out. Neighbours down a column look
alike (a key that one query looks at, the next looks at too), so that this order deflates better than rows or
differences (measured: 4.4, 4.6 and 5.1 MB for SmolLM2 on 256 tokens).

Weights are stored as they are (float32), or as 8-bit codes c of weights ``scale · (c / 255)^POWER``. With the power 3/2
the error is at most ``0.75 · scale / 255`` for the largest weights and falls for smaller ones; what becomes 0 is under
``1e-4 · scale``, where the logarithmic colour scale ends. Of maps with a sign, codes count from `ZERO` to both sides,
with twice the error.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.scores import SCORES, score_heads
from ..errors import InvalidMapsError, UnsuitableMapsError
from ..facts import MapFacts
from ..figures.scales import get_colormap
from ..figures.style import DARK, LIGHT
from ..maps import AttentionMaps
from ..tokens import SPACE, show_text

VERSION = 2
Meta = dict[str, Any]
# Numbers about heads by name, one list a layer.
Scores = Mapping[str, Sequence[Sequence[float]]]
POWER = 1.5
# The code of 0 where weights have a sign.
ZERO = 127
LABELS = ("tokens_key", "tokens_query")
# What heads can be sorted by; all of them quick to measure.
DISPLAY_SCORES = ("previous_token", "duplicate_token", "induction", "sink_mass", "relative_entropy", "mean_distance")


def _name_patches(facts: MapFacts, labels: dict[str, list[str]]) -> None:
    """Write rows and columns where tokens stand for patches of pictures, all of which have the same label."""
    offsets = {"tokens_key": 0} | ({} if facts.kind == "cross" else {"tokens_query": facts.first_query})
    for span in facts.spans:
        if span.sense == "audio":
            continue
        picture = f"{span.number}: " * (span.number > 0) + f"{span.part} " * (span.part != "whole")
        for row, column in np.ndindex(span.rows, span.columns):
            for name, offset in offsets.items():
                place = int(span.positions[row, column]) - offset
                if 0 <= place < len(labels.get(name, ())):
                    labels[name][place] = f"{picture}{row},{column}"


def describe_facts(
    facts: MapFacts,
    *,
    scale: float = 1.0,
    exact: bool = False,
    maxima: Sequence[Sequence[tuple[float, float]]] | None = None,
    scores: Scores | None = None,
    notes: Sequence[str] = (),
) -> Meta:
    """Describe weights that need not be in memory, as the front end's ``source.meta``: plain types that `json` writes.

    No weight is larger than `scale`. They are stored as float32 if `exact`, else as 8-bit codes. `maxima` are the
    largest weight of each head, with the first token and without it; left out, the front end finds them as it loads
    heads, and the scale that heads share ends at `scale`. `scores` are numbers about heads by name, one list a layer,
    NaN where a head has none. `notes` are sentences that a reader must see. Labels are only ever shown as text.
    """
    plain = facts.to_plain()
    labels = {name: [token.replace(" ", SPACE) for token in plain[name]] for name in LABELS if name in plain}
    _name_patches(facts, labels)
    rows, columns = facts.shape
    colours = {"palette": spell_palette(facts.signed, LIGHT)}
    if facts.signed:
        colours["palette_dark"] = spell_palette(True, DARK)
        notes = ["Numbers may be below 0: colours show which; lines and strips under tokens show sizes.", *notes]
    codes = {"type": "uint8", "power": POWER, "scale": float(scale), "zero": ZERO if facts.signed else 0}
    return (
        plain
        | labels
        | colours
        | {
            "version": VERSION,
            "rows": rows,
            "columns": columns,
            "segments": [[show_text(name).replace(SPACE, " "), start, stop] for name, start, stop in facts.segments],
            "unit": facts.unit,
            "sentence_b_start": facts.sentence_b_start,
            "averaged": facts.averaged if facts.is_mean else None,
            "encoding": {"type": "float32"} if exact else codes,
            "maxima": None if maxima is None else [[[_round(v) for v in pair] for pair in row] for row in maxima],
            "scores": [{"name": name, "values": round_scores(rows)} for name, rows in (scores or {}).items()],
            "notes": [*(f"{words[0].upper()}{words[1:]}." for words in facts.remarks), *notes],
            "masked": [LIGHT.masked, DARK.masked],
        }
    )


def round_scores(rows: Iterable[Iterable[float]]) -> list[list[float | None]]:
    """Return numbers about heads, one list a layer, as JSON can hold them: six figures, None for NaN."""
    return [[_round(value) for value in row] for row in rows]


def _round(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def spell_palette(is_signed: bool, palette: Any) -> str:
    """Return the 256 colours of a palette of `figures.style`, one that diverges for signed weights, as hex digits."""
    colours = get_colormap(diverging=is_signed, palette=palette)
    rgb = np.rint(np.asarray(colours(np.linspace(0, 1, 256)))[:, :3] * 255).astype(np.uint8)
    return bytes(rgb).hex()


def describe_maps(
    maps: AttentionMaps, *, exact: bool = False, scores: Scores | None = None, notes: Sequence[str] = ()
) -> Meta:
    """Describe attention maps as `describe_facts` does, which takes the options."""
    maxima = [[find_maxima(head, maps) for head in weights] for weights in maps.weights]
    scale = max(kept for layer in maxima for kept, _ in layer) or 1.0
    return describe_facts(maps, scale=scale, exact=exact, maxima=maxima, scores=scores, notes=notes)


def find_maxima(head: NDArray[Any], facts: MapFacts) -> tuple[float, float]:
    """Return the largest size of a head's weights, and the largest without the first token; each is looked at once."""
    row, column = count_hidden(facts)
    head = np.abs(head) if head.min() < 0 else head
    rest = head[row:, column:].max(initial=0)
    return float(max(rest, head[:row].max(initial=0), head[:, :column].max(initial=0))), float(rest)


def score_for_display(maps: AttentionMaps) -> dict[str, list[list[float]]]:
    """Measure what the front end sorts heads by: the scores that such maps can have, one list a layer."""
    plain = [name for name in DISPLAY_SCORES if "positions" not in SCORES[name].needs]
    for names in (DISPLAY_SCORES, plain):
        try:
            table = score_heads(maps, names, progress=False)
        except UnsuitableMapsError:
            continue
        return {name: [table[name][table.layer == layer].tolist() for layer in maps.layers] for name in names}
    return {}


def count_hidden(maps: MapFacts) -> tuple[int, int]:
    """Return how many rows and columns of cells go when the first token is hidden: its row only if that is its own."""
    return int(maps.kind != "cross" and maps.first_query == 0 and maps.cell[0] == 1), 1


def count_cells(meta: Meta) -> int:
    """Return the number of cells of a head that the causal mask leaves."""
    return int((meta["rows"] - _find_first_rows(meta)).sum())


def _find_first_rows(meta: Meta) -> NDArray[np.int64]:
    """Return the first row that sees each column, `rows` where none does; axes ``(columns,)``."""
    columns = np.arange(meta["columns"])
    if not meta["causal"]:
        return np.zeros_like(columns)
    down, across = meta["cell"]
    first = -((meta["first_query"] - columns * across - 1) // down) - 1
    rows: NDArray[np.int64] = np.clip(first, 0, meta["rows"])
    return rows


def encode_head(weights: NDArray[Any], meta: Meta) -> bytes:
    """Return the bytes of one head, axes ``(rows, columns)``, as `meta` of `describe_facts` says.

    Little-endian float32 or one byte a cell, column by column, without what the causal mask hides. Raises
    `InvalidMapsError` if the shape or the numbers are not what `meta` says.
    """
    rows, columns = meta["rows"], meta["columns"]
    if weights.shape != (rows, columns):
        raise InvalidMapsError(f"a head has {weights.shape} weights where its tokens make ({rows}, {columns})")
    seen = np.arange(rows) >= _find_first_rows(meta)[:, None]
    cells = np.asarray(weights, np.float32).T[seen]
    if not np.isfinite(cells).all():
        raise InvalidMapsError("a head has weights that are not finite, which no page shows")
    if meta["encoding"]["type"] == "float32":
        return bytes(cells.astype("<f4"))
    scale = meta["encoding"]["scale"]
    zero = meta["encoding"]["zero"]
    low = -scale if zero else 0
    if not (cells.min(initial=0) >= low * (1 + 1e-3) and cells.max(initial=0) <= scale * (1 + 1e-3)):
        raise InvalidMapsError(f"weights must be from {low:g} to {scale:g}, got {cells.min():g} to {cells.max():g}")
    steps = np.rint((np.minimum(np.abs(cells), scale) / scale) ** (1 / POWER) * (zero or 255))
    return bytes((zero + np.copysign(steps, cells)).astype(np.uint8))


def decode_head(data: bytes, meta: Meta) -> NDArray[np.float32]:
    """Return the weights that the front end shows for the bytes of a head; 0 where the causal mask hides a cell."""
    encoding = meta["encoding"]
    if encoding["type"] == "float32":
        cells = np.frombuffer(data, "<f4")
    else:
        steps = (np.arange(256) - encoding["zero"]) / (encoding["zero"] or 255)
        table = encoding["scale"] * np.copysign(np.abs(steps) ** encoding["power"], steps)
        cells = table[np.frombuffer(data, np.uint8)]
    weights = np.zeros((meta["columns"], meta["rows"]), np.float32)
    weights[np.arange(meta["rows"]) >= _find_first_rows(meta)[:, None]] = cells
    head: NDArray[np.float32] = weights.T
    return head
