import functools

import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import (
    AttentionMaps,
    capture_attention,
    load_scores,
    plot_birds_eye,
    plot_comparison,
    plot_heads,
    plot_layer_averages,
    plot_running_text,
    roll_out_attention,
    save_scores,
)
from attn_viewer.errors import InvalidMapsError, OptionError
from attn_viewer.selections import choose_numbers, describe_numbers
from attn_viewer.web.encode import describe_maps


def test_maps_are_frozen_and_complete():
    maps = make_maps(2, 3, 4)
    assert maps.shape == (4, 4)
    assert maps.n_heads == (3, 3)
    assert maps.layers == (0, 1)
    assert maps.heads == ((0, 1, 2), (0, 1, 2))
    assert maps.tokens_query is maps.tokens_key
    assert maps.prompt_length == 4
    assert maps.nbytes == 2 * 3 * 4 * 4 * 4
    with pytest.raises(AttributeError):
        maps.causal = False
    with pytest.raises(ValueError, match="read-only"):
        maps.weights[0][0, 0, 0] = 1
    assert repr(maps) == "AttentionMaps('random', self, 2 layers × 3 heads, 4 queries × 4 keys, full)"


def test_the_callers_array_stays_writable():
    weights = np.ones((1, 1, 1), np.float32)
    AttentionMaps([weights], ["a"])
    weights[0] = 0.5


@pytest.mark.parametrize(
    ("weights", "tokens", "facts", "words"),
    [
        ([], ["a"], {}, "no layers"),
        ([np.ones((1, 1, 1))], ["a"], {}, "float64"),
        ([np.ones((1, 1), np.float32)], ["a"], {}, r"shape \(1, 1\)"),
        ([np.full((1, 1, 1), np.nan, np.float32)], ["a"], {}, "nan"),
        ([np.full((1, 1, 1), -1, np.float32)], ["a"], {}, "before the softmax"),
        ([np.full((1, 1, 1), np.inf, np.float32)], ["a"], {}, "finite"),
        ([np.ones((1, 2, 2), np.float32)], ["a"], {}, "layer 0 has 2 × 2 weights where 1 query and 1 key"),
        ([np.ones((1, 1, 1), np.float32)] * 2, ["a"], {"layers": [3, 1]}, "ascending"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"heads": [[0, 1]]}, "one number a head"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"kind": "other"}, "kind"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"cell": (2, 2)}, "cell must be"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"reduction": "pooled", "cell": (2, 2)}, "pooling"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"prompt_length": 2}, "prompt_length"),
        ([np.ones((1, 1, 1), np.float32)], [7], {}, "tokens_key must be str, got 7"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"ids_key": [1, 2]}, "ids_key must be 1 numbers"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"ids_key": [-1]}, "whole number from 0 .* got -1"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"ids_key": []}, "ids_key must be 1 numbers"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"segments": [("user", 0, 2)]}, "within 1 tokens"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"segments": [("user", 0, 0)]}, "ascending"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"segments": [("user", 0)]}, "segments must be 3 values"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"segments": [(0, 0, 1)]}, "segments must be str, got 0"),
        ([np.ones((1, 1, 1), np.float32)], ["a"], {"grouping": ["words"]}, "grouping"),
    ],
)
def test_what_does_not_fit_is_refused(weights, tokens, facts, words):
    with pytest.raises(InvalidMapsError, match=words):
        AttentionMaps(weights, tokens, **facts)


def test_select_keeps_true_numbers():
    maps = make_maps(4, 3, 2, layers=[2, 5, 6, 9])
    some = maps.select(layers=[9, 5], heads=[2, 0])
    assert some.layers == (5, 9)
    assert some.heads == ((0, 2), (0, 2))
    np.testing.assert_array_equal(some.get_layer(9), maps.weights[3][[0, 2]])
    again = some.select(heads=[2])
    np.testing.assert_array_equal(again.get_layer(5)[0], maps.weights[1][2])


def test_heads_side_by_side_are_selected_without_a_copy(demo_maps):
    some = demo_maps.select(heads=[1, 2])
    assert np.shares_memory(some.weights[0], demo_maps.weights[0])
    np.testing.assert_array_equal(some.weights[1], demo_maps.weights[1][[1, 2]])
    np.testing.assert_array_equal(demo_maps.select(heads=[0, 2]).weights[1], demo_maps.weights[1][[0, 2]])
    turned = AttentionMaps([demo_maps.weights[0][:4]], demo_maps.tokens_key, heads=[[1, 5, 3, 0]])
    np.testing.assert_array_equal(turned.select(heads=[0, 3]).weights[0], demo_maps.weights[0][[3, 2]])


def test_select_refuses_what_is_not_there():
    maps = make_maps(4, 3, 2, layers=[2, 5, 6, 9])
    with pytest.raises(OptionError, match="there is no layer 3; there are 2, 5-6, 9"):
        maps.select(layers=[3])
    with pytest.raises(OptionError, match="there is no head 3 in layer 2; there are 0-2"):
        maps.select(heads=[3])
    with pytest.raises(OptionError, match="an empty choice of layers; there are 2, 5-6, 9"):
        maps.select(layers=[])


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_average_is_the_mean_over_heads(n_layers, n_heads, n_tokens):
    maps = make_maps(n_layers, n_heads, n_tokens)
    means = maps.average_heads()
    assert means.reduction == "head_mean"
    assert means.average_heads() is means
    for layer, mean in zip(maps.weights, means.weights, strict=True):
        np.testing.assert_allclose(mean[0], layer.astype(np.float64).mean(0), atol=1e-6)
        np.testing.assert_allclose(mean.sum(-1), 1, atol=1e-5)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_described_numbers_say_the_same_set(numbers):
    said = set()
    for part in describe_numbers(numbers).split(", "):
        first, _, last = part.partition("-")
        said |= set(range(int(first), int(last or first) + 1))
    assert said == numbers


@given(st.lists(st.integers(0, 20)), st.sets(st.integers(0, 20), min_size=1))
def test_chosen_numbers_are_present_or_refused(wanted, present):
    present = sorted(present)
    if wanted and set(wanted) <= set(present):
        assert choose_numbers(wanted, present, "layer") == tuple(sorted(set(wanted)))
    else:
        with pytest.raises(OptionError):
            choose_numbers(wanted, present, "layer")


def test_a_mean_names_the_heads_that_were_chosen(demo, demo_maps, tmp_path):
    model, tokenizer = demo
    chosen = demo_maps.select(heads=[0, 3])
    means = (
        chosen.average_heads(),
        capture_attention(model, tokenizer, "Summer is warm.", heads=[0, 3], reduction="head_mean"),
    )
    rolled = roll_out_attention(means[0])
    assert [maps.averaged for maps in (chosen, *means)] == ["mean over heads 0, 3"] * 3
    assert rolled.averaged == "rollout of the mean over heads 0, 3"
    assert roll_out_attention(demo_maps.select(heads=[3])).averaged == "rollout of head 3"
    assert demo_maps.averaged == demo_maps.average_heads().averaged == "mean over 8 heads"
    assert load_scores(save_scores(rolled, tmp_path)).averaged == rolled.averaged
    for figure in (plot_layer_averages(means[1]), plot_heads(means[1], 1), plot_running_text(chosen)):
        words = " ".join(text.get_text() for ax in figure.axes for text in ax.texts)
        assert "mean over heads 0, 3" in words
    assert describe_maps(means[0])["averaged"] == "mean over heads 0, 3"
    figure = plot_comparison(means[0], demo_maps.average_heads())
    words = " ".join(text.get_text() for ax in figure.axes for text in ax.texts).replace("\n", " ")
    assert "A: mean over heads 0, 3, B: mean over 8 heads" in words


def test_a_mean_of_unlike_layers_names_no_heads():
    maps = AttentionMaps([np.full((n, 2, 2), 0.5, np.float32) for n in (1, 3)], ["a", "b"], causal=False)
    assert maps.averaged == maps.average_heads().averaged == "mean over heads"
    for numbers in ([], [1, 1]):
        with pytest.raises(InvalidMapsError, match="averaged_heads"):
            AttentionMaps([np.ones((1, 1, 1), np.float32)], ["a"], averaged_heads=numbers)


@pytest.mark.parametrize("facts", [{"reduction": "head_mean"}, {"averaged_heads": [0, 1]}])
def test_several_heads_are_no_mean(facts):
    """A figure would show the first of them as the mean."""
    with pytest.raises(InvalidMapsError, match=r"one map a layer, got \(2,\) heads"):
        AttentionMaps([np.ones((2, 1, 1), np.float32)], ["a"], **facts)


@pytest.mark.parametrize("wanted", [3, "3", ["3"], [1.5], object()])
def test_numbers_that_are_none_are_named(demo, demo_maps, wanted):
    model, tokenizer = demo
    for name in ("layers", "heads"):
        for choose in (demo_maps.select, functools.partial(capture_attention, model, tokenizer, "Hi.")):
            with pytest.raises(OptionError, match=f"to choose a {name[:-1]}.* such as") as caught:
                choose(**{name: wanted})
            assert repr(wanted) in str(caught.value)


def test_numbers_of_numpy_and_ranges_are_numbers(demo_maps):
    assert demo_maps.select(layers=np.arange(2), heads=range(3)).heads == ((0, 1, 2),) * 2
    assert demo_maps.get_layer(np.int64(1)) is demo_maps.weights[1]


def test_a_mean_of_pooled_maps_is_no_head(demo):
    maps = capture_attention(*demo, [*range(90, 120)], reduction="pooled", max_cells=10).average_heads()
    assert maps.average_heads() is maps
    for figure in (plot_heads(maps, 1), plot_birds_eye(maps), plot_layer_averages(maps)):
        words = " ".join(text.get_text() for ax in figure.axes for text in ax.texts)
        assert "mean over 8 heads" in words
        assert "head 0" not in words
    assert describe_maps(maps)["averaged"] == "mean over 8 heads"


def test_queries_are_where_their_labels_stand():
    weights = np.tril(np.ones((6, 6), np.float32))
    weights /= weights.sum(-1, keepdims=True)
    keys = ["a", "b", "c", "d", "e", "e"]
    for first, count in ((0, 2), (2, 2), (3, 1), (5, 1)):
        maps = AttentionMaps([weights[None, first : first + count]], keys, tokens_query=keys[first : first + count])
        assert (maps.causal, maps.first_query) == (True, first)
    sink = AttentionMaps([weights[None, :1]], keys, tokens_query=["d"])  # all weight on the first token
    assert (sink.causal, sink.first_query) == (True, 3)
    named = AttentionMaps([weights[None, 4:]], keys, tokens_query=["x", "y"])
    assert (named.causal, named.first_query) == (True, 4)
