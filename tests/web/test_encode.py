import json

import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps
from attn_viewer.errors import InvalidMapsError
from attn_viewer.facts import MapFacts
from attn_viewer.spans import Span
from attn_viewer.web.encode import (
    count_cells,
    decode_head,
    describe_facts,
    describe_maps,
    encode_head,
    score_for_display,
)


def make_facts(*tokens):
    return MapFacts(tokens, layers=[0], heads=[[0]])


def test_a_head_comes_back_within_its_error(demo_maps):
    meta = describe_maps(demo_maps)
    scale = meta["encoding"]["scale"]
    for layer in demo_maps.weights:
        for head in layer:
            data = encode_head(head, meta)
            assert len(data) == count_cells(meta) == len(head) * (len(head) + 1) // 2
            error = np.abs(decode_head(data, meta) - head)
            assert error.max() <= 0.7501 * scale / 255
            assert error[head < 1e-3].max() < 1e-3


def test_float32_is_exact(demo_maps):
    meta = describe_maps(demo_maps, exact=True)
    for layer in demo_maps.weights:
        for head in layer:
            np.testing.assert_array_equal(decode_head(encode_head(head, meta), meta), head)


@given(
    st.integers(1, 20), st.integers(0, 6), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4), st.booleans(),
    st.integers(0, 9),
)  # fmt: skip
def test_every_shape(n_query, first, more, down, across, causal, seed):
    n_key = first + n_query + more - 1
    shape = (-(-n_query // down), -(-n_key // across))
    weights = np.random.default_rng(seed).random((1, *shape), np.float32)
    facts = {"tokens_query": ["q"] * n_query, "first_query": first, "causal": causal}
    if (down, across) != (1, 1):
        facts |= {"reduction": "pooled", "cell": (down, across), "pooling": "max"}
    maps = AttentionMaps([weights], ["k"] * n_key, **facts)
    meta = json.loads(json.dumps(describe_maps(maps, exact=True)))
    assert (meta["rows"], meta["columns"]) == shape
    shown = decode_head(encode_head(weights[0], meta), meta)
    np.testing.assert_array_equal(shown, np.where(maps.future, 0, weights[0]))


def test_maxima_and_scores_are_the_maps(demo_maps):
    scores = score_for_display(demo_maps)
    meta = describe_maps(demo_maps, scores=scores)
    assert meta["scores"][0]["name"] == "previous_token"
    for i, layer in enumerate(demo_maps.weights):
        np.testing.assert_allclose([pair[0] for pair in meta["maxima"][i]], layer.max((1, 2)), rtol=1e-5)
        np.testing.assert_allclose([pair[1] for pair in meta["maxima"][i]], layer[:, 1:, 1:].max((1, 2)), rtol=1e-5)
        sinks = scores["sink_mass"][i]
        assert len(sinks) == len(layer)
        assert all(0 <= value <= 1 for value in sinks)


def test_reduced_and_cross_maps_have_the_scores_that_they_can_have(demo_maps):
    assert score_for_display(demo_maps.average_heads()) == {}
    cross = make_maps(causal=False, kind="cross", tokens_query=[f"q{i}" for i in range(5)])
    assert "previous_token" not in score_for_display(cross)
    assert score_for_display(make_maps(n_tokens=1)) == {}


def test_labels_are_made_visible():
    meta = describe_facts(make_facts("a\0", "b\u202e", " c"))
    assert meta["tokens_key"] == ["a<U+0000>", "b<U+202E>", "␣c"]
    assert describe_facts(make_facts(*meta["tokens_key"]))["tokens_key"] == meta["tokens_key"]


@pytest.mark.parametrize("weights", [np.ones((3, 2)), np.full((3, 3), 2.0), np.full((3, 3), np.nan)])
@pytest.mark.parametrize("exact", [False, True])
def test_what_does_not_fit_the_description(weights, exact):
    if exact and weights.max() == 2:
        return  # which float32 holds
    meta = describe_facts(make_facts("a", "b", "c"), exact=exact)
    with pytest.raises(InvalidMapsError, match="weights"):
        encode_head(weights, meta)


def test_patches_are_called_by_row_and_column():
    """Their tokens all have one label; newline tokens between rows, and sound, keep theirs."""
    spans = [
        Span("image", 0, "whole", 1, 2, 2, 3, 0.0), Span("image", 1, "tile 0,1", 7, 1, 2, 2, 0.0),
        Span("audio", 0, "whole", 9, 1, 1, 1, 0.02),
    ]  # fmt: skip
    weights = np.tril(np.ones((1, 1, 11, 11), np.float32))[:, :, 4:]
    tokens = ["<s>", *["<image>"] * 8, "<audio>", "what"]
    maps = AttentionMaps(list(weights / 11), tokens, tokens_query=tokens[4:], spans=spans, first_query=4)
    meta = describe_facts(maps)
    expected = ["<s>", "0,0", "0,1", "<image>", "1,0", "1,1", "<image>", "1: tile 0,1 0,0", "1: tile 0,1 0,1"]
    assert meta["tokens_key"] == [*expected, "<audio>", "what"]
    assert meta["tokens_query"] == meta["tokens_key"][4:]
