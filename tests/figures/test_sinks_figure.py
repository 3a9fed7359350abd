import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.errors import OptionError
from attn_viewer.figures.sinks import SINKS, count_hidden, treat_sink


@given(st.integers(2, 9), st.integers(0, 99))
def test_what_is_left_is_a_distribution_again(n_tokens, seed):
    maps = make_maps(1, 3, n_tokens, seed=seed)
    hidden, again = (treat_sink(maps.weights[0], maps, sink) for sink in ("hide", "renormalise"))
    np.testing.assert_array_equal(hidden, maps.weights[0][:, 1:, 1:])
    np.testing.assert_allclose(again.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(again * hidden.sum(-1, keepdims=True), hidden, rtol=1e-5, atol=1e-7)
    assert treat_sink(maps.weights[0], maps, "keep") is maps.weights[0]


def test_an_unknown_wish_is_named():
    with pytest.raises(OptionError, match="'drop'"):
        count_hidden(make_maps(), "drop")
    assert count_hidden(make_maps(), SINKS[1]) == (1, 1)
