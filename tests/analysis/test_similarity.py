import dataclasses

import numpy as np
import pytest
from conftest import make_maps, try_examples
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.analysis import measure_similarity
from attn_viewer.analysis import similarity as module
from attn_viewer.errors import OptionError


@try_examples(0.33)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.booleans())
def test_it_is_the_cosine_of_flattened_heads(n_layers, n_heads, n_tokens, ignore):
    maps = make_maps(n_layers, n_heads, n_tokens)
    flat = np.stack([head[:, int(ignore) :].ravel() for layer in maps.weights for head in layer]).astype(float)
    norms = np.linalg.norm(flat, axis=1)
    expected = (flat @ flat.T) / np.outer(norms, norms)
    np.testing.assert_allclose(measure_similarity(maps, ignore_first_token=ignore), expected, atol=1e-5)


def test_blocks_of_rows_add_up(monkeypatch):
    maps = make_maps(2, 3, 20)
    whole = measure_similarity(maps)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    np.testing.assert_allclose(measure_similarity(maps), whole, atol=1e-6)


def test_a_head_of_nothing_is_like_no_other():
    maps = make_maps(1, 2, 2)
    only_first = np.array([[[1, 0], [1, 0]], [[1, 0], [0.5, 0.5]]], np.float32)
    maps = dataclasses.replace(maps, weights=[only_first])
    assert measure_similarity(maps, ignore_first_token=True).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(OptionError, match="one token"):
        measure_similarity(make_maps(n_tokens=1), ignore_first_token=True)
