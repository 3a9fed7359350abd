import dataclasses

import numpy as np
import pytest
from conftest import PROMPT, make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import (
    AttentionMaps,
    average_maps,
    capture_attention,
    compare_attention,
    load_model,
    plot_heads,
)
from attn_viewer.errors import ArgumentError, MapsMismatchError, OptionError, UnsuitableMapsError
from attn_viewer.web.encode import describe_maps


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


def test_half_precision_changes_the_attention_of_smollm2_a_little(smollm2, smollm2_folder):
    full = capture_attention(*smollm2, PROMPT)
    half = capture_attention(*load_model(smollm2_folder, dtype="bfloat16"), PROMPT)
    distances = np.stack(compare_attention(full, half).distances)
    assert distances.shape == (30, 9)
    assert 1e-4 < distances.mean() < 0.02
    assert distances.max() < 0.1


def test_the_mean_over_prompts_is_by_position():
    one, other = (
        make_maps(seed=i, tokens=["<s>", *words], ids_key=range(5)) for i, words in enumerate(("abcd", "axyz"))
    )
    mean = average_maps(iter([one, other]))
    assert (mean.n_prompts, mean.tokens_key, mean.ids_key) == (2, ("<s>", "a", "2", "3", "4"), None)
    for layer, a, b in zip(mean.weights, one.weights, other.weights, strict=True):
        np.testing.assert_allclose(layer, (a.astype(np.float64) + b) / 2, atol=1e-7)
    # The mean of means counts prompts.
    again = average_maps([mean, make_maps(seed=2)])
    assert again.n_prompts == 3
    np.testing.assert_allclose(again.weights[0], (mean.weights[0] * 2 + make_maps(seed=2).weights[0]) / 3, atol=1e-6)
    assert mean.remarks == ("mean over 2 prompts",)
    words = " ".join(text.get_text() for ax in plot_heads(mean, 0).axes for text in ax.texts)
    assert "mean over 2 prompts" in words
    assert "Mean over 2 prompts." in describe_maps(mean)["notes"]


def test_prompts_are_cut_to_one_length():
    long, short = make_maps(n_tokens=7, prompt_length=6), make_maps(n_tokens=4, seed=1)
    mean = average_maps([long, short], length=4)
    assert (mean.shape, mean.prompt_length) == ((4, 4), 4)
    np.testing.assert_allclose(mean.weights[1].sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(mean.weights[0], (long.weights[0][:, :4, :4] + short.weights[0]) / 2, atol=1e-6)
    with pytest.raises(MapsMismatchError, match="length"):
        average_maps([long, short])
    with pytest.raises(UnsuitableMapsError, match="4 tokens cannot be cut to 5"):
        average_maps([long, short], length=5)
    with pytest.raises(UnsuitableMapsError, match="only causal maps"):
        average_maps([make_maps(causal=False)], length=3)


@pytest.mark.parametrize(
    ("maps", "length", "error"),
    [
        ([], None, OptionError),
        (make_maps(), None, OptionError),
        (3, None, OptionError),
        ([np.ones((1, 2, 2))], None, ArgumentError),
        ([make_maps()], 0, OptionError),
        ([make_maps()], True, OptionError),
        ([make_maps(), make_maps(n_layers=3)], None, MapsMismatchError),
        ([make_maps(), make_maps(n_heads=2)], None, MapsMismatchError),
        ([make_maps(), make_maps(causal=False)], None, MapsMismatchError),
        ([make_maps(), make_maps(model_id="other")], None, MapsMismatchError),
        ([make_maps(), make_maps().average_heads()], None, MapsMismatchError),
    ],
)
def test_what_cannot_be_averaged(maps, length, error):
    with pytest.raises(error):
        average_maps(maps, length=length)
