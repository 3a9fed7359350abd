"""What a figure does with the first token, which often takes most of the weight."""

import numpy as np

from ..errors import OptionError
from ..maps import AttentionMaps

SINKS = ("keep", "hide", "renormalise")


def count_hidden(maps: AttentionMaps, sink: str) -> tuple[int, int]:
    """Return how much of a head is left out with the first token: its column, and its row if that is its own.

    Parameters
    ----------
    maps : AttentionMaps
        The weights.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token.

    Returns
    -------
    rows, columns : int
        Rows and columns of cells.

    Raises
    ------
    OptionError
        If the wish is unknown or cannot be had from pooled maps.
    """
    if sink not in SINKS:
        raise OptionError(f"sink must be one of {', '.join(SINKS)}, got {sink!r}")
    if sink == "keep":
        return 0, 0
    if sink == "renormalise" and maps.reduction == "pooled":
        raise OptionError("rows of pooled maps cannot be renormalised; hide the first cells (sink='hide') or keep them")
    return int(maps.kind != "cross" and maps.first_query == 0 and maps.cell[0] == 1), 1


def treat_sink(weights: np.ndarray, maps: AttentionMaps, sink: str) -> np.ndarray:
    """Return weights without the first token, if that is wished.

    Parameters
    ----------
    weights : numpy.ndarray
        Axes ``(..., n_query, n_key)``, as they stand in the maps.
    maps : AttentionMaps
        Where they are from.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token: nothing; its column and its own row are left out; the same, and each row is
        divided by what is left of it.

    Returns
    -------
    numpy.ndarray
        Axes as before, with fewer rows and columns; rows of which nothing is left stay 0.

    Raises
    ------
    OptionError
        If the wish is unknown or cannot be had from pooled maps.
    """
    row, column = count_hidden(maps, sink)
    if sink == "keep":
        return weights
    rest = weights[..., row:, column:]
    if sink == "hide":
        return rest
    total = rest.sum(axis=-1, keepdims=True, dtype=np.float32)
    shares: np.ndarray = np.divide(rest, total, out=np.zeros(rest.shape, np.float32), where=total > 0)
    return shares
