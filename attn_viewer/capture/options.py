"""What a person can choose to keep of the weights."""

import dataclasses

from ..cells import choose_cell
from ..choices import check_numbers
from ..errors import OptionError
from ..facts import POOLINGS
from .reduction import AUTO, REDUCTIONS

DTYPES = ("float16", "float32")
CAPTURED = ("attention", "value_norm")  # the weightings that come from a pass of a model


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """What is kept of the weights.

    Parameters
    ----------
    layers, heads : sequence of int, optional
        True numbers of those to keep; left out, all.
    queries : slice or int, optional
        Range of query tokens to keep, or how many of the last ones; left out, all.
    reduction : {"full", "head_mean", "pooled", "auto"}
        Every weight; the mean over the heads; each head on a coarse grid; or full while all layers together stay
        under `reduction.FULL_BUDGET` bytes and pooled past that.
    max_cells : int
        Most cells a side when pooled.
    pooling : {"max", "mean"}
        What is kept of a cell when pooled.
    dtype : {"float32", "float16"}
        Type in which weights are kept. They are computed in float32.
    weighting : {"attention", "value_norm"}
        Weights as they are, or each times the norm of the value that it weighs, taken through its head's slice of the
        output projection: how much of a token a head really moves (Kobayashi et al. 2020, "Attention is Not Only a
        Weight"). Rows do not sum to 1 then. Only where attention runs on SDPA and feeds its projection directly.

    Raises
    ------
    OptionError
        If a value cannot be used.
    """

    layers: object = None
    heads: object = None
    queries: slice | int | None = None
    reduction: str = "full"
    max_cells: int = 256
    pooling: str = "max"
    dtype: str = "float32"
    weighting: str = "attention"

    def __post_init__(self):
        """Check all values before a model runs."""
        known = {"reduction": (*REDUCTIONS, AUTO), "pooling": POOLINGS, "dtype": DTYPES, "weighting": CAPTURED}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise OptionError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        for name in ("layers", "heads"):
            object.__setattr__(self, name, check_numbers(getattr(self, name), name.removesuffix("s")))
        choose_cell(1, 1, self.max_cells)
        queries = self.queries
        is_count = isinstance(queries, int) and not isinstance(queries, bool) and queries > 0
        is_range = isinstance(queries, slice) and queries.step in (None, 1)
        if queries is not None and not is_count and not is_range:
            raise OptionError(f"queries must be a slice with step 1 or how many of the last, got {queries!r}")

    def choose_rows(self, n_query):
        """Return the range of query rows to keep.

        Parameters
        ----------
        n_query : int
            Rows there are.

        Returns
        -------
        slice
            A range within them.

        Raises
        ------
        OptionError
            If it is empty.
        """
        rows = slice(-self.queries, None) if isinstance(self.queries, int) else self.queries or slice(None)
        start, stop, _ = rows.indices(n_query)
        if start >= stop:
            raise OptionError(f"queries={self.queries!r} keeps none of the {n_query} query tokens")
        return slice(start, stop)
