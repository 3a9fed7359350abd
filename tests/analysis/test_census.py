"""The census of heads: classes of tokens, and sums that no order changes."""

import copy

import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.analysis.blocks import Frame
from attn_viewer.analysis.census import CLASSES, N_KEYS, UNIT, classify_tokens, take_census
from attn_viewer.errors import UnsuitableMapsError


def test_classes_of_tokens():
    tokens = ["<s>", "The", "␣sea", "⏎", "␣12", ".", "␣sea", "!?", "␣"]
    found = classify_tokens(Frame(make_maps(n_tokens=9, tokens=tokens)))
    assert found == {
        "newline": [3], "punctuation": [5, 7], "digits": [4], "capitalised": [1], "first token": [0], "repeated": [6],
        "other": [2, 8],
    }  # fmt: skip
    assert found.keys() == set(CLASSES)


@given(st.lists(st.integers(2, 9), min_size=2, max_size=4), st.randoms())
def test_no_order_changes_a_sum(lengths, random):
    parts = [take_census(make_maps(n_tokens=n, seed=i), f"p{i}") for i, n in enumerate(lengths)]
    totals = []
    for _ in range(2):
        random.shuffle(parts)
        total = copy.deepcopy(parts[0])
        for part in parts[1:]:
            total.add(part)
        totals.append(total)
    for kind in ("tokens", "classes", "curves"):
        one, other = (getattr(total, kind) for total in totals)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert len(totals[0].prompts) == len(lengths)


def test_sums_are_those_of_the_weights():
    maps = make_maps(n_tokens=6)
    census = take_census(maps, "p", ["entropy"])
    weights = np.concatenate(maps.weights)
    total = sum(tally[1, 1:] for tally in census.tokens.values()) * UNIT
    np.testing.assert_allclose(total, weights[:, :, 1:].sum((1, 2)), atol=1e-4)
    np.testing.assert_allclose(census.curves["sink_mass"][1:] * UNIT, weights[:, :, 0], atol=1e-6)
    record = census.prompts["p"]
    assert record.peaks.shape == (4, 6, 1 + N_KEYS)
    query = record.peaks[1, :, 0]  # the one that looks hardest at the token before it
    before = np.stack([head[np.arange(1, 6), np.arange(5)] * np.log(np.arange(2, 7)) for head in weights])
    assert np.array_equal(query, before.argmax(1) + 1)


@pytest.mark.parametrize("maps", [make_maps(n_tokens=1), make_maps(n_tokens=4, reduction="pooled", pooling="max")])
def test_maps_that_show_no_heads(maps):
    with pytest.raises(UnsuitableMapsError):
        take_census(maps, "p")
