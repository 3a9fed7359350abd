"""A census of heads as files: whole, to go on from, and as the entries that a page reads."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.census import UNIT, Census, PromptRecord
from ..analysis.scores import CURVES, SCORES
from ..errors import ActivationsDamagedError
from ..storage.arrays import read_npz, write_npz
from ..storage.atlas_files import ATLAS, AtlasIndex, Example, Group, HeadEntry, PromptEntries
from ..storage.folder import Model

CENSUS = "census.npz"
_TALLIES = ("tokens", "classes", "curves")
# Bins of a histogram, points of a curve, examples of highest value, tokens of a list, prompts of a file.
N_BINS, N_POINTS, N_STRONGEST, N_TOKENS, PART = 24, 120, 5, 24, 100


def save_census(census: Census, model: Model) -> None:
    """Write a census whole, the same bytes whatever order its prompts came in."""
    records = dict(sorted(census.prompts.items()))
    facts = {
        "model_id": census.model_id,
        "heads": census.heads,
        "names": census.names,
        "asked": census.asked,
        "prompts": {name: record.tokens for name, record in records.items()},
    } | {kind: sorted(getattr(census, kind)) for kind in _TALLIES}
    arrays = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    for part in ("scores", "peaks", "weights"):
        arrays[part] = np.stack([getattr(record, part) for record in records.values()])
    for kind in _TALLIES:
        arrays[kind] = np.stack([tally for _, tally in sorted(getattr(census, kind).items())])
    write_npz(model.path / ATLAS / CENSUS, arrays)


def load_census(model: Model) -> Census:
    """Read a census, or raise `GetActivationsError`."""
    name = f"{ATLAS}/{CENSUS}"
    with model.folder.open(model.name, ATLAS, CENSUS) as file:
        arrays = read_npz(file, repr(name))
    try:
        facts = json.loads(arrays["facts"].tobytes())
        parts = zip(arrays["scores"], arrays["peaks"], arrays["weights"], strict=True)
        return Census(
            facts["model_id"],
            tuple((int(layer), int(head)) for layer, head in facts["heads"]),
            tuple(facts["names"]),
            facts["asked"],
            {
                key: PromptRecord(tuple(tokens), *part)
                for (key, tokens), part in zip(facts["prompts"].items(), parts, strict=True)
            },
            *(dict(zip(facts[kind], arrays[kind], strict=True)) for kind in _TALLIES),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ActivationsDamagedError(f"{name!r} is no census of heads ({error}); run again with --force") from error


def make_entries(
    census: Census, *, is_stored: bool, circuits: Any, remark: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and content of each file that a page reads.

    `circuits` is what `HeadEntry` holds under that name, by ``(layer, head)``; `remark` is why there are none, or what
    they leave out.
    """
    records = [record for _, record in sorted(census.prompts.items())]
    mean = census.average()
    scores = [(name, SCORES[name].label, round_all(mean[name])) for name in census.names]
    index = AtlasIndex(heads=census.heads, scores=scores, n_prompts=len(records), part=PART, is_stored=is_stored)
    yield "atlas", index.to_plain()
    named = [(key, record.tokens) for key, record in sorted(census.prompts.items())]
    for number, start in enumerate(range(0, len(named), PART)):
        yield f"prompts-{number}", PromptEntries(prompts=named[start : start + PART]).to_plain()
    values = np.stack([record.scores for record in records])  # (n_prompts, n_scores, n_heads)
    tops = [
        SCORES[name].upper or float(np.nanmax(values[:, i], initial=0)) or 1.0 for i, name in enumerate(census.names)
    ]
    for number, (layer, head) in enumerate(census.heads):
        columns = {name: values[:, i, number] for i, name in enumerate(census.names)}
        orders = {
            name: np.argsort(column, kind="stable")[: np.isfinite(column).sum()] for name, column in columns.items()
        }

        def pick(places: str, orders: Any = orders, columns: Any = columns, number: int = number) -> Any:
            return [
                (name, [_make_example(records, name, columns[name], int(i), number) for i in _PLACES[places](order)])
                for name, order in orders.items()
            ]

        entry = HeadEntry(
            distributions=[
                (
                    name,
                    0.0,
                    top,
                    np.histogram(column[orders[name]], N_BINS, (0, top))[0].tolist(),
                    len(column) - len(orders[name]),
                )
                for (name, column), top in zip(columns.items(), tops, strict=True)
            ],
            strongest=pick("strongest"),
            deciles=pick("deciles"),
            looks_from=_list_groups(census.tokens, 0, number, N_TOKENS),
            looks_to=_list_groups(census.tokens, 1, number, N_TOKENS),
            classes_from=_list_groups(census.classes, 0, number),
            classes_to=_list_groups(census.classes, 1, number),
            curves=[(name, *_pool_curve(tally[0], tally[1 + number])) for name, tally in sorted(census.curves.items())],
            circuits=circuits.get((layer, head), ()),
            remark=remark,
        )
        yield f"L{layer}H{head}", entry.to_plain()


def _find_deciles(order: NDArray[np.int64]) -> NDArray[np.int64]:
    return order[np.unique(np.rint(np.linspace(0, len(order) - 1, 11)).astype(int))] if len(order) else order


_PLACES = {"strongest": lambda order: order[: -1 - N_STRONGEST : -1], "deciles": _find_deciles}


def _make_example(
    records: Sequence[PromptRecord], score: str, values: NDArray[np.float32], place: int, head: int
) -> Example:
    peak = 1 + list(CURVES).index(score) if score in CURVES else 0
    query, *keys = records[place].peaks[peak, head].tolist()
    weights = records[place].weights[peak, head].tolist()
    shown = [(key, _round(weight)) for key, weight in zip(keys, weights, strict=True) if key >= 0]
    return place, _round(values[place]), query, [key for key, _ in shown], [weight for _, weight in shown]


def _list_groups(tallies: dict[str, NDArray[np.int64]], side: int, head: int, most: int | None = None) -> list[Group]:
    """Return groups of tokens, those that send (side 0) or get (1) most first."""
    found = [(name, int(tally[side, 0]), int(tally[side, 1 + head])) for name, tally in tallies.items()]
    found.sort(key=lambda group: (-group[2], group[0]))
    return [(name, count, _round(sum_ * UNIT)) for name, count, sum_ in found[:most]]


def _pool_curve(counts: NDArray[np.int64], sums: NDArray[np.int64]) -> tuple[int, list[float | None]]:
    """Return how many positions a point stands for, and the mean at each point."""
    step = -(-len(counts) // N_POINTS)
    edges = range(0, len(counts), step)
    totals = zip(np.add.reduceat(sums, edges), np.add.reduceat(counts, edges), strict=True)
    return step, [_round(total * UNIT / count) if count else None for total, count in totals]


def round_all(values: Iterable[float]) -> list[float | None]:
    """Return numbers to five figures, None for NaN."""
    return [None if np.isnan(value) else _round(value) for value in values]


def _round(value: float) -> float:
    return float(f"{value:.5g}")
