"""What a figure does with the first token, which often takes most of the weight."""

import numpy as np

from ..errors import OptionError
from ..maps import AttentionMaps

SINKS = ("keep", "hide", "renormalise")


def count_hidden(maps: AttentionMaps, sink: str) -> tuple[int, int]:
    """Return rows and columns of cells that are left out: the first token's column, and its row if that is its own.

    Raises
    ------
    OptionError
        If there is no such way, or nothing is left.
    """
    if sink not in SINKS:
        raise OptionError(f"sink must be one of {', '.join(SINKS)}, got {sink!r}")
    if sink == "keep":
        return 0, 0
    if sink == "renormalise" and maps.reduction == "pooled":
        raise OptionError("rows of pooled maps cannot be renormalised; hide the first cells (sink='hide') or keep them")
    row = int(maps.kind != "cross" and maps.first_query == 0 and maps.cell[0] == 1)
    if maps.shape[0] == row or maps.shape[1] == 1:
        raise OptionError("nothing is left of a prompt of one token without its first token; keep it")
    return row, 1


def treat_mask(maps: AttentionMaps, sink: str) -> np.ndarray:
    """Return the cells of a head that no query may see, without those of the first token if that is wished."""
    row, column = count_hidden(maps, sink)
    return maps.future[row:, column:]


def treat_sink(weights: np.ndarray, maps: AttentionMaps, sink: str) -> np.ndarray:
    """Return weights of maps, axes ``(..., n_query, n_key)``, without the first token if that is wished.

    To renormalise is to divide each row by what is left of it; rows of which nothing is left stay 0.
    """
    row, column = count_hidden(maps, sink)
    if sink == "keep":
        return weights
    rest = weights[..., row:, column:]
    if sink != "renormalise":
        return rest
    total = rest.sum(axis=-1, keepdims=True, dtype=np.float32)
    shares: np.ndarray = np.divide(rest, total, out=np.zeros(rest.shape, np.float32), where=total > 0)
    return shares
