import numpy as np
import pytest
import torch
from architectures import build_model, make_ids
from coloured_shapes import draw_scene

from attn_viewer import capture_attention
from attn_viewer.capture import collector
from attn_viewer.capture.reduction import pool_matrix
from attn_viewer.cells import choose_cell
from attn_viewer.errors import OptionError

N = 40


@pytest.fixture(scope="module", params=["llama", "gpt_oss", "mistral", "bert"])
def captured(request):
    """A model (watched, eager, with a window, without causality), ids, and its full maps."""
    model, ids = build_model(request.param), make_ids(N)
    return model, ids, capture_attention(model, prompt=ids)


def test_the_head_mean_is_the_mean_of_the_heads(captured):
    model, ids, whole = captured
    mean = capture_attention(model, prompt=ids, reduction="head_mean")
    assert mean.reduction == "head_mean"
    assert mean.n_heads == (1, 1, 1)
    for ours, theirs in zip(mean.weights, whole.weights, strict=True):
        np.testing.assert_allclose(ours[0], theirs.mean(0), atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("max_cells", [1, 7, 13, 39])
def test_pooled_is_the_pooling_of_the_whole(captured, pooling, max_cells):
    model, ids, whole = captured
    pooled = capture_attention(model, prompt=ids, reduction="pooled", max_cells=max_cells, pooling=pooling)
    assert pooled.cell == choose_cell(N, N, max_cells)
    assert max(pooled.shape) <= max_cells
    assert pooled.pooling == pooling
    assert pooled.causal == whole.causal
    for ours, theirs in zip(pooled.weights, whole.weights, strict=True):
        expected = pool_matrix(torch.from_numpy(theirs.copy()), pooled.cell, pooling).numpy()
        np.testing.assert_allclose(ours, expected, atol=5e-6)
        assert not ours[:, pooled.future].any()


def test_a_grid_that_holds_every_token_pools_nothing(captured):
    model, ids, whole = captured
    same = capture_attention(model, prompt=ids, reduction="pooled", max_cells=N)
    assert same.reduction == "full"
    np.testing.assert_array_equal(same.weights[1], whole.weights[1])


@pytest.mark.parametrize(
    ("queries", "rows"), [(3, slice(37, 40)), (slice(5, 20), slice(5, 20)), (slice(-4, -1), slice(36, 39))]
)
@pytest.mark.parametrize("reduction", ["full", "head_mean", "pooled"])
def test_chosen_queries_are_rows_of_the_whole(captured, queries, rows, reduction):
    model, ids, whole = captured
    options = {"max_cells": 10} if reduction == "pooled" else {}
    some = capture_attention(
        model, prompt=ids, queries=queries, reduction=reduction, layers=[0, 2], heads=[1, 3], **options
    )
    assert some.layers == (0, 2)
    assert some.first_query == rows.start
    assert some.tokens_query == whole.tokens_query[rows]
    assert some.tokens_key == whole.tokens_key
    for layer in (0, 2):
        expected = whole.get_layer(layer)[[1, 3]][:, rows]
        if reduction == "head_mean":
            expected = expected.mean(0, keepdims=True)
        elif reduction == "pooled":
            expected = pool_matrix(torch.from_numpy(expected), some.cell, "max").numpy()
        np.testing.assert_allclose(some.get_layer(layer), expected, atol=5e-6)


def test_auto_keeps_everything_until_the_budget_is_spent(monkeypatch):
    model, ids = build_model("llama"), make_ids(N)
    assert capture_attention(model, prompt=ids, reduction="auto", max_cells=8).reduction == "full"
    full = 3 * 4 * N * N * 4
    monkeypatch.setattr(collector, "FULL_BUDGET", full)
    assert capture_attention(model, prompt=ids, reduction="auto", max_cells=8).reduction == "full"
    monkeypatch.setattr(collector, "FULL_BUDGET", full - 1)
    pooled = capture_attention(model, prompt=ids, reduction="auto", max_cells=8)
    assert pooled.reduction == "pooled"
    assert pooled.cell == (5, 5)
    assert capture_attention(model, prompt=ids, reduction="auto", layers=[1]).reduction == "full"
    assert capture_attention(model, prompt=ids, reduction="auto", dtype="float16").reduction == "full"


def test_auto_keeps_patches_of_pictures_apart(monkeypatch, demo_vision):
    """Pooled cells would mix them, so the mean over heads comes first where it fits."""
    model, processor = demo_vision
    inputs = processor(text=f"{processor.image_token} what is red?", images=draw_scene(0)[0], return_tensors="pt")
    whole = capture_attention(model, prompt=inputs, reduction="auto")
    size = sum(weights.nbytes for weights in whole.weights)
    reductions = []
    for budget in (size, size - 1, size // 6, size // 6 - 1):
        monkeypatch.setattr(collector, "FULL_BUDGET", budget)
        maps = capture_attention(model, prompt=inputs, reduction="auto", max_cells=20)
        reductions.append(maps.reduction)
        if maps.reduction == "head_mean":
            np.testing.assert_allclose(maps.weights[1][0], whole.weights[1].mean(0), atol=1e-6)
    assert reductions == ["full", "head_mean", "head_mean", "pooled"]


def test_no_full_tensor_exists_when_pooling(monkeypatch):
    """The largest tensor that pooling makes stays far below (n_heads, n, n)."""
    from attn_viewer.capture import kernels

    sizes = []
    multiply = kernels._multiply
    monkeypatch.setattr(kernels, "_multiply", lambda *a: sizes.append((tile := multiply(*a)).numel()) or tile)
    model = build_model("llama")
    model.config.max_position_embeddings = 4096
    n = 3000
    capture_attention(model, prompt=make_ids(n), reduction="pooled", max_cells=100, layers=[1])
    assert 0 < max(sizes) < 4 * n * n / 15


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "none"},
        {"pooling": "median"},
        {"max_cells": 0},
        {"max_cells": 2.5},
        {"queries": 0},
        {"queries": slice(0, 5, 2)},
        {"queries": slice(50, 60)},
        {"queries": "last"},
        {"queries": True},
        {"dtype": "bfloat16"},
    ],
)
def test_options_that_cannot_be_used(options):
    with pytest.raises(OptionError):
        capture_attention(build_model("llama"), prompt=make_ids(N), **options)
