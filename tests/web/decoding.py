"""The bytes of a head read as the front end reads them."""

import numpy as np

from attn_viewer.web.encode import find_first_rows


def decode_head(data, meta):
    """Return the weights, axes ``(rows, columns)``; 0 where the causal mask hides a cell."""
    encoding = meta["encoding"]
    if encoding["type"] == "float32":
        cells = np.frombuffer(data, "<f4")
    else:
        steps = (np.arange(256) - encoding["zero"]) / (encoding["zero"] or 255)
        table = encoding["scale"] * np.copysign(np.abs(steps) ** encoding["power"], steps)
        cells = table[np.frombuffer(data, np.uint8)]
    weights = np.zeros((meta["columns"], meta["rows"]), np.float32)
    weights[np.arange(meta["rows"]) >= find_first_rows(meta)[:, None]] = cells
    return weights.T
