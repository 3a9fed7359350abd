import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps, score_heads
from attn_viewer.analysis import accumulate_columns, find_sinks, measure_sink_heads
from attn_viewer.errors import OptionError, UnsuitableMapsError

N = 20
TOKENS = [f"t{i}" for i in range(N)]


def make_sink(key):
    pattern = np.eye(N, dtype=np.float32)
    pattern[key:] = np.eye(N)[key]
    return pattern


def test_sinks_are_found_where_they_are():
    weights = [np.stack([make_sink(0), make_sink(6)]), np.stack([make_sink(15), np.eye(N, dtype=np.float32)])]
    maps = AttentionMaps(weights, TOKENS, layers=[3, 8], heads=[[0, 1], [0, 2]])
    # Key 15 is seen by five queries only, too few to tell; nobody looks away from itself in the last head.
    assert find_sinks(maps) == [(3, 0, 0, "t0", 1.0), (3, 1, 6, "t6", 1.0)]
    np.testing.assert_array_equal(measure_sink_heads(maps), [0.5, 0])


@given(st.integers(0, 999), st.booleans(), st.floats(0, 0.9))
def test_sinks_agree_with_the_scores(seed, causal, epsilon):
    maps = make_maps(2, 3, 12, seed=seed, causal=causal)
    scores, sinks = score_heads(maps), find_sinks(maps, epsilon=epsilon)
    first = {(s.layer, s.head) for s in sinks if s.position == 0}
    others = {(s.layer, s.head) for s in sinks if s.position > 0}
    for i, head in enumerate(zip(scores.layer.tolist(), scores.head.tolist(), strict=True)):
        assert (head in first) == (scores["sink_mass"][i] > epsilon)
        assert (head in others) == (scores["other_sink_mass"][i] > epsilon)
    shares = measure_sink_heads(maps, epsilon=epsilon)
    np.testing.assert_allclose(shares, [sum(layer == n for layer, _ in first) / 3 for n in maps.layers])


def test_columns_add_up_to_the_queries():
    maps = make_maps(2, 3, 12)
    for columns, weights in zip(accumulate_columns(maps), maps.weights, strict=True):
        assert columns.shape == (3, 12)
        np.testing.assert_allclose(columns.sum(1), 12, rtol=1e-6)
        np.testing.assert_allclose(columns[1, 4], sum(float(w) for w in weights[1, :, 4]), rtol=1e-6)


def test_what_would_mean_nothing_is_refused():
    for ask in (find_sinks, measure_sink_heads, accumulate_columns):
        with pytest.raises(UnsuitableMapsError, match="reduced"):
            ask(make_maps().average_heads())
    for ask in (find_sinks, measure_sink_heads):
        with pytest.raises(OptionError, match="epsilon"):
            ask(make_maps(), epsilon=float("nan"))
        with pytest.raises(UnsuitableMapsError, match="2 key tokens"):
            ask(make_maps(1, 1, 1))
