"""How alike heads look."""

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..maps import AttentionMaps
from .blocks import divide, require_unsigned

# Bytes of float32 weights that are multiplied at a time.
BLOCK_BYTES = 64 * 2**20


def measure_similarity(maps: AttentionMaps, *, ignore_first_token: bool = False) -> NDArray[np.float64]:
    """Measure the cosine similarity between the weights of every two heads.

    Kovaleva et al. 2019, "Revealing the Dark Secrets of BERT", compare flattened attention maps so.

    Parameters
    ----------
    maps : AttentionMaps
        The weights; of pooled maps the cells are compared.
    ignore_first_token : bool
        Whether to leave out the first key, on which sinks make all heads alike.

    Returns
    -------
    numpy.ndarray
        Float64 of axes ``(n_heads, n_heads)`` over the heads of all layers, by layer, then head; from 0 to 1. A head
        without any weight is like no other.

    Raises
    ------
    OptionError
        If nothing is left without the first token.
    """
    require_unsigned(maps, "the similarity of heads")
    first = int(ignore_first_token)
    n_rows, n_columns = maps.shape
    if n_columns <= first:
        raise OptionError("nothing is left of a prompt of one token without its first token; keep it")
    total = sum(maps.n_heads)
    products = np.zeros((total, total))
    step = max(1, BLOCK_BYTES // (4 * total * n_columns))
    for start in range(0, n_rows, step):
        rows = [layer[:, start : start + step, first:].reshape(len(layer), -1) for layer in maps.weights]
        flat = np.concatenate(rows).astype(np.float32, copy=False)
        products += flat @ flat.T
    norms = np.sqrt(np.diag(products))
    similarity = np.nan_to_num(divide(products, np.outer(norms, norms)))
    np.fill_diagonal(similarity, 1.0)
    return similarity.clip(0, 1)
