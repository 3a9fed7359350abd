"""`HeadScores`, a table with a row a head."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..files import expand_home, make_folder, write_whole
from ..hints import check_value
from .blocks import divide


class RankedHead(NamedTuple):
    """A head and one of its scores."""

    layer: int
    head: int
    value: float


@dataclasses.dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of heads, all columns of axes ``(n_heads,)`` over all layers together.

    Parameters
    ----------
    layer, head : numpy.ndarray
        True numbers of each head, by layer, then head.
    columns : mapping of str to numpy.ndarray
        The scores by name, float64; NaN where one could not be measured.
    model_id, about : str
        Name of the model, and what they were measured on, for figures.
    """

    layer: NDArray[np.int64]
    head: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]
    model_id: str = "model"
    about: str = ""

    def __len__(self) -> int:
        """Return the number of heads."""
        return len(self.layer)

    def __repr__(self) -> str:
        """Say what is inside without the numbers."""
        return f"HeadScores({self.model_id!r}, {len(self)} heads: {', '.join(self.columns)})"

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Return the column of a score, axes ``(n_heads,)``."""
        if name not in self.columns:
            raise OptionError(f"there is no score {name!r} in the table; there are {', '.join(self.columns)}")
        return self.columns[name]

    @property
    def layers(self) -> tuple[int, ...]:
        """True numbers of the layers, ascending: the rows of `make_grid`."""
        return tuple(np.unique(self.layer).tolist())

    @property
    def heads(self) -> tuple[int, ...]:
        """True numbers of the heads of all layers, ascending: the columns of `make_grid`."""
        return tuple(np.unique(self.head).tolist())

    def make_grid(self, name: str) -> NDArray[np.float64]:
        """Lay a score out as an atlas: axes ``(n_layers, n_heads)``, numbered by `layers` and `heads`.

        NaN where a layer has no such head. Raises `OptionError` if there is no such score.
        """
        grid = np.full((len(self.layers), len(self.heads)), np.nan)
        grid[np.searchsorted(self.layers, self.layer), np.searchsorted(self.heads, self.head)] = self[name]
        return grid

    def top(self, name: str, k: int = 5, *, lowest: bool = False) -> list[RankedHead]:
        """Return the heads that score highest, or lowest.

        Returns
        -------
        list of RankedHead
            At most `k` of ``(layer, head, value)``, best first, the earlier head first among equals; heads without a
            value never.

        Raises
        ------
        OptionError
            If there is no such score or `k` is not a whole number from 1.
        """
        check_value("k", k, int, at_least=1)
        values = self[name]
        order = np.argsort(values if lowest else -values, kind="stable")  # NaN comes last
        order = order[~np.isnan(values[order])][:k]
        return [RankedHead(int(self.layer[i]), int(self.head[i]), float(values[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Return the table in plain types, by column.

        ``model_id`` and ``about``, ``layer`` and ``head`` (lists of int), ``scores`` (by name, a list of float with
        None for NaN).
        """
        return {
            "model_id": self.model_id,
            "about": self.about,
            "layer": self.layer.tolist(),
            "head": self.head.tolist(),
            "scores": {
                name: [None if np.isnan(value) else value for value in column.tolist()]
                for name, column in self.columns.items()
            },
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` as a JSON file, whose folder is created if missing; `OutputError` if that cannot be."""
        return _write_text(path, json.dumps(self.to_dict(), allow_nan=False) + "\n")

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as a CSV file, ``layer,head,score…``, as `to_json`; NaN is an empty field."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["layer", "head", *self.columns])
        table = self.to_dict()
        rows.writerows(zip(table["layer"], table["head"], *table["scores"].values(), strict=True))
        return _write_text(path, text.getvalue())


def _write_text(path: str | os.PathLike[str], text: str) -> Path:
    path = expand_home(path)
    make_folder(path.parent)
    return write_whole(path, text.encode())


def average_scores(tables: Iterable[HeadScores]) -> HeadScores:
    """Average the scores of several prompts; of a head, prompts without a value are left out.

    Raises
    ------
    OptionError
        If there are no tables, or their heads or scores differ.
    """
    tables = list(tables)
    if not tables:
        raise OptionError("average_scores needs at least one table of scores")
    first = tables[0]
    for table in tables[1:]:
        if (
            list(table.columns) != list(first.columns)
            or not np.array_equal(table.layer, first.layer)
            or not np.array_equal(table.head, first.head)
        ):
            raise OptionError(f"tables must hold the same heads and scores, got {first!r} and {table!r}")
    columns = {}
    for name in first.columns:
        values = np.stack([table[name] for table in tables])
        columns[name] = divide(np.nansum(values, 0), (~np.isnan(values)).sum(0))
    return HeadScores(first.layer, first.head, columns, first.model_id, f"mean over {len(tables)} prompts")
