import networkx
import numpy as np
import pytest
from conftest import make_maps, try_examples
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from attn_viewer import AttentionMaps, roll_out_attention
from attn_viewer.analysis import compute_attention_flow, rollout
from attn_viewer.errors import OptionError, UnsuitableMapsError

FIRST = np.float32([[[1, 0], [0.5, 0.5]], [[1, 0], [0.1, 0.9]]])
SECOND = np.float32([[[1, 0], [0.8, 0.2]], [[1, 0], [0.6, 0.4]]])
TWO_LAYERS = AttentionMaps([FIRST, SECOND], ["a", "b"])


def test_two_layers_by_hand():
    # Means of the second row: (0.3, 0.7) and (0.7, 0.3); with the residual (0.15, 0.85) and (0.35, 0.65).
    rolled = roll_out_attention(TWO_LAYERS)
    np.testing.assert_allclose(rolled.weights[0][0], [[1, 0], [0.15, 0.85]], rtol=1e-6)
    np.testing.assert_allclose(rolled.weights[1][0], [[1, 0], [0.35 + 0.65 * 0.15, 0.65 * 0.85]], rtol=1e-6)
    assert rolled.reduction == "head_mean"


def test_flow_of_two_layers_by_hand():
    # To a: 0.35 through a and, of the 0.65 through b, no more than 0.15; to b: 0.65 through b.
    flow = compute_attention_flow(TWO_LAYERS).weights[0][0]
    np.testing.assert_allclose(flow, [[1, 0], [0.5 / 1.15, 0.65 / 1.15]], rtol=1e-6)


@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 7), st.booleans(), st.floats(0, 0.9))
def test_rollout_is_the_product_and_keeps_the_mass(seed, n_layers, n, causal, residual):
    maps = make_maps(n_layers, 2, n, seed=seed, causal=causal)
    rolled = roll_out_attention(maps, residual=residual)
    product = np.eye(n)
    for weights, ours in zip(maps.weights, rolled.weights, strict=True):
        mixed = [
            [(1 - residual) * (weights[0, i, j] + weights[1, i, j]) / 2 + residual * (i == j) for j in range(n)]
            for i in range(n)
        ]
        product = np.array(mixed) @ product
        np.testing.assert_allclose(ours[0], product, atol=1e-6)
        np.testing.assert_allclose(ours[0].sum(-1), 1, atol=1e-5)
    assert not causal or not np.triu(rolled.weights[-1][0], 1).any()
    mean = roll_out_attention(maps.average_heads(), residual=residual)
    np.testing.assert_allclose(mean.weights[-1], rolled.weights[-1], atol=1e-6)


@try_examples(0.15)
@given(st.integers(0, 999), st.booleans())
def test_flow_is_that_of_another_solver(seed, causal):
    n, maps = 4, make_maps(3, 2, 4, seed=seed, causal=causal)
    graph = networkx.DiGraph()
    for layer, weights in enumerate(maps.weights):
        for i in range(n):
            for j in range(n):
                capacity = 0.5 * float(weights[:, i, j].mean()) + 0.5 * (i == j)
                graph.add_edge((layer + 1, i), (layer, j), capacity=capacity)
    for layer in (0, 2):
        flow = compute_attention_flow(maps, layers=[layer]).weights[0][0]
        expected = [[networkx.maximum_flow_value(graph, (layer + 1, i), (0, j)) for j in range(n)] for i in range(n)]
        expected = np.array(expected)
        np.testing.assert_allclose(flow, expected / expected.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("edges", [1, 500, 2**16])
def test_flow_is_that_of_each_pair_in_the_whole_network(demo_maps, edges, monkeypatch):
    monkeypatch.setattr(rollout, "EDGES", edges)
    for maps, layer in ((demo_maps, 3), (demo_maps, 0), (make_maps(3, 2, 6, causal=False), 2)):
        n = len(maps.tokens_key)
        capacities = np.zeros(((layer + 2) * n,) * 2)
        for i, weights in enumerate(maps.weights[: layer + 1]):
            mixed = 0.5 * weights.mean(0, dtype=np.float64) + 0.5 * np.eye(n)
            capacities[(i + 1) * n : (i + 2) * n, i * n : (i + 1) * n] = mixed * rollout.UNITS
        network = csr_array(np.rint(capacities).astype(np.int32))
        expected = np.array(
            [[maximum_flow(network, (layer + 1) * n + i, j).flow_value for j in range(n)] for i in range(n)]
        )
        expected = (expected / expected.sum(1, keepdims=True)).astype(np.float32)
        np.testing.assert_array_equal(compute_attention_flow(maps, layers=[layer]).weights[0][0], expected)


def test_a_learned_sink_loses_mass():
    rolled = roll_out_attention(AttentionMaps([np.float32([[[0.5]]])] * 2, ["a"], has_sinks=True))
    assert rolled.weights[1][0, 0, 0] == pytest.approx(0.75**2)


def test_rollout_and_flow_of_the_demo_model(demo_maps):
    rolled = roll_out_attention(demo_maps)
    flow = compute_attention_flow(demo_maps)
    assert rolled.layers == demo_maps.layers
    assert flow.layers == demo_maps.layers[-1:]
    np.testing.assert_allclose(flow.weights[0][0].sum(-1), 1, atol=1e-5)
    a, b = rolled.weights[-1][0], flow.weights[0][0]
    assert np.corrcoef(a[np.tril_indices_from(a)], b[np.tril_indices_from(b)])[0, 1] > 0.5


@pytest.mark.parametrize(
    "maps",
    [
        make_maps(2, 1, 3, layers=[1, 2]),
        make_maps(2, 1, 3, layers=[0, 2]),
        AttentionMaps([np.ones((1, 1, 2), np.float32) / 2], list("ab"), tokens_query=["b"], first_query=1),
        AttentionMaps([np.ones((1, 2, 2), np.float32) / 2], list("ab"), kind="cross", causal=False),
        AttentionMaps([np.ones((1, 2, 2), np.float32)], list("abcd"), reduction="pooled", cell=(2, 2), pooling="max"),
    ],
)
def test_what_would_mean_nothing_is_refused(maps):
    for compute in (roll_out_attention, compute_attention_flow):
        with pytest.raises(UnsuitableMapsError, match="rollout and flow need"):
            compute(maps)


@pytest.mark.parametrize("residual", [-0.1, 1, float("nan"), "half", None, True])
def test_residuals_are_shares(residual):
    for compute in (roll_out_attention, compute_attention_flow):
        with pytest.raises(OptionError, match="residual"):
            compute(TWO_LAYERS, residual=residual)
    with pytest.raises(OptionError, match="no layer 7"):
        compute_attention_flow(TWO_LAYERS, layers=[7])
