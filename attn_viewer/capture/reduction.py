"""What is kept of a layer's attention weights while they stream by."""

import numpy as np


class FullReduction:
    """Keep every weight of the chosen heads.

    Parameters
    ----------
    n_query, n_key : int
        Numbers of query rows and key columns.
    heads : sequence of int
        Head numbers to keep.
    dtype : numpy dtype
        float16 or float32.
    """

    def __init__(self, n_query, n_key, heads, dtype):
        self.heads = list(heads)
        self.weights = np.empty((len(self.heads), n_query, n_key), dtype)

    def add(self, start, block):
        """Take a block of query rows.

        Parameters
        ----------
        start : int
            Number of its first row.
        block : torch.Tensor
            float32 weights of all heads, axes ``(n_heads, rows, n_key)``.
        """
        if len(self.heads) < len(block):
            block = block[self.heads]
        self.weights[:, start : start + block.shape[1]] = block.cpu().numpy()

    def result(self):
        """Return what was kept.

        Returns
        -------
        numpy.ndarray
            Axes ``(n_kept_heads, n_query, n_key)``.
        """
        return self.weights
