import dataclasses

import numpy as np
import pytest
from conftest import PROMPT, make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps, capture_attention, compare_attention, load_model
from attn_viewer.errors import MapsMismatchError, UnsuitableMapsError


@given(st.integers(0, 50), st.integers(51, 99), st.integers(1, 8))
def test_distances_are_those_of_their_definition(seed, other, n_tokens):
    a, b = (make_maps(2, 3, n_tokens, seed=s) for s in (seed, other))
    comparison = compare_attention(a, b)
    for index, layer in enumerate(a.layers):
        difference = b.weights[index].astype(float) - a.weights[index]
        np.testing.assert_allclose(comparison.get_difference(layer), difference, atol=1e-6)
        expected = [[np.abs(row).sum() / 2 for row in head] for head in difference]
        np.testing.assert_allclose(comparison.distances[index], np.mean(expected, 1), atol=1e-6)
        assert (comparison.distances[index] >= 0).all()
        assert (comparison.distances[index] <= 1 + 1e-6).all()
    back = compare_attention(b, a)
    np.testing.assert_array_equal(np.stack(comparison.distances), np.stack(back.distances))
    assert not np.any(compare_attention(a, a).distances)


def test_nothing_in_common_is_a_distance_of_one():
    one, other = np.zeros((2, 1, 2, 2), np.float16)
    one[0, :, 0] = other[0, :, 1] = 1
    a, b = (AttentionMaps([w], ["x", "y"], causal=False) for w in (one, other))
    assert compare_attention(a, b).distances[0].tolist() == [1]


def test_a_sinks_share_counts_as_a_key_and_padding_not():
    one = np.array([[[0.5, 0.0], [0.0, 0.0]]], np.float32)
    other = np.array([[[1.0, 0.0], [0.0, 0.0]]], np.float32)
    a, b = (AttentionMaps([w], ["x", "y"], causal=False, has_sinks=True) for w in (one, other))
    assert compare_attention(a, b).distances[0].tolist() == [0.5]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_maps(tokens=["t0", "t1", "X", "t3", "t4"]), r"position 2 on \('t2' and 'X'"),
        (make_maps(n_tokens=4), r"position 4 on \('t4' and the end; 5 and 4 tokens\)"),
        (make_maps(layers=[0, 2]), "layers differ: 0-1 and 0, 2"),
        (make_maps(n_heads=4), "heads of layer 0 differ: 0-2 and 0-3"),
        (make_maps(heads=[[0, 1, 5]] * 2), "heads of layer 0 differ: 0-2 and 0-1, 5"),
        (make_maps(causal=False), "causal differs"),
        (make_maps(kind="encoder"), "kind differs"),
        (make_maps(n_heads=1), "heads of layer 0 differ"),
    ],
)
def test_maps_that_do_not_correspond(other, message):
    with pytest.raises(MapsMismatchError, match=message):
        compare_attention(make_maps(), other)


def test_models_of_another_shape_compare_by_their_means():
    a, b = make_maps(n_heads=2).average_heads(), make_maps(n_heads=4, seed=1).average_heads()
    assert [len(d) for d in compare_attention(a, b).distances] == [1, 1]
    single = dataclasses.replace(make_maps(n_heads=1), reduction="full")
    with pytest.raises(MapsMismatchError, match="reduction differs"):
        compare_attention(a, single)


def test_pooled_maps_are_refused():
    pooled = AttentionMaps([np.ones((1, 1, 1), np.float32)], list("ab"), reduction="pooled", cell=(2, 2), pooling="max")
    with pytest.raises(UnsuitableMapsError, match="pooled"):
        compare_attention(pooled, pooled)


def test_half_precision_changes_the_attention_of_smollm2_a_little(smollm2, smollm2_path):
    full = capture_attention(*smollm2, PROMPT)
    half = capture_attention(*load_model(smollm2_path, dtype="bfloat16"), PROMPT)
    distances = np.stack(compare_attention(full, half).distances)
    assert distances.shape == (30, 9)
    assert 1e-4 < distances.mean() < 0.02
    assert distances.max() < 0.1
