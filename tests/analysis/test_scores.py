import math
from collections import Counter

import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps, score_heads
from attn_viewer.analysis.blocks import BLOCK_BYTES, LEAST_QUERIES
from attn_viewer.analysis.scores import SCORES
from attn_viewer.errors import OptionError, UnsuitableMapsError

POSITIONAL = ("previous_token", "duplicate_token", "induction", "mean_distance", "local_mass")


def make_pattern(rows, **facts):
    """Return maps of one head whose pattern is given."""
    rows = np.asarray(rows, np.float32)
    facts = {"ids_key": range(rows.shape[1])} | facts
    return AttentionMaps([rows[None]], [f"t{i}" for i in range(rows.shape[1])], **facts)


def score(maps, name, **options):
    return score_heads(maps, [name], **options)[name]


def compute_by_hand(a, ids, name, *, causal, first=0, has_sinks=False, window=8, epsilon=0.3):
    """Compute a score of one pattern as its definition reads, one weight at a time."""
    a = [[float(w) for w in row] for row in a]
    n_key = len(a[0])
    rows = [(first + q, row) for q, row in enumerate(a) if sum(row) > 0]
    sees = {i: [j for j in range(n_key) if not causal or j <= i] for i, _ in rows}
    total = sum(sum(row) for _, row in rows)
    earlier = {i: [j for j in range(i) if ids[j] == ids[i]] for i, _ in rows}
    behind = {i: [j + 1 for j in earlier[i] if j + 1 < i] for i, _ in rows}
    columns = [[row[j] for i, row in rows if j in sees[i]] for j in range(n_key)]

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else math.nan

    def entropy(row):
        row = [*row, max(0.0, 1 - sum(row))] if has_sinks else row
        return -sum(w * math.log(w) for w in row if w > 0)

    def count_keys(row, share):
        mass, n = 0.0, 0
        for w in sorted(row, reverse=True):
            mass, n = mass + w, n + 1
            if mass >= (share - 1e-6) * sum(row):
                return n
        return n

    if name.startswith("keys_"):
        return mean(count_keys(row, int(name[-2:]) / 100) for _, row in rows)
    sigma = np.sqrt(np.clip(np.linalg.eigvalsh(np.array(a) @ np.array(a).T), 0, None))
    shares = [s / sigma.sum() for s in sigma if s > 1e-9]
    return {
        "previous_token": lambda: mean(row[i - 1] for i, row in rows if i > 0),
        "duplicate_token": lambda: mean(sum(row[j] for j in earlier[i]) for i, row in rows if earlier[i]),
        "induction": lambda: mean(sum(row[j] for j in behind[i]) for i, row in rows if behind[i]),
        "sink_mass": lambda: mean(row[0] for _, row in rows),
        "sink_rate": lambda: mean(row[0] > epsilon for _, row in rows),
        "other_sink_mass": lambda: max((mean(c) for c in columns[1:] if len(c) >= LEAST_QUERIES), default=math.nan),
        "entropy": lambda: mean(entropy(row) for _, row in rows),
        "relative_entropy": lambda: mean(
            entropy(row) / math.log(len(sees[i]) + has_sinks) for i, row in rows if len(sees[i]) + has_sinks > 1
        ),
        "mean_distance": lambda: sum(w * abs(i - j) for i, row in rows for j, w in enumerate(row)) / total,
        "local_mass": lambda: mean(
            sum(w for j, w in enumerate(row) if abs(i - j) <= window)
            for i, row in rows
            if any(abs(i - j) > window for j in sees[i])
        ),
        "heaviest_column": lambda: max(sum(row[j] for _, row in rows) for j in range(n_key)) / total,
        "effective_rank": lambda: math.exp(-sum(s * math.log(s) for s in shares)),
        "nuclear_norm": lambda: sigma.sum(),
    }[name]()


shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "n": st.integers(2, 14),
        "first": st.integers(0, 12),
        "causal": st.booleans(),
        "has_sinks": st.booleans(),
        "n_padding": st.integers(0, 2),
        "dtype": st.sampled_from(["float16", "float32"]),
        "n_words": st.integers(1, 20),
        "window": st.integers(1, 5),
    }
)


def make_random(shape):
    """Return maps with all that scores must mind: late queries, padding, learned sinks, half precision."""
    n, first = shape["n"], min(shape["first"], shape["n"] - 1)
    rng = np.random.default_rng(shape["seed"])
    weights = np.array(make_maps(1, 3, n, seed=shape["seed"], causal=shape["causal"]).weights[0])
    if shape["has_sinks"]:
        weights *= rng.random((3, n, 1), np.float32)
    weights[:, : min(shape["n_padding"], n - 1)] = 0
    facts = {"causal": shape["causal"], "has_sinks": shape["has_sinks"], "first_query": first}
    tokens = [f"t{i}" for i in range(n)]
    return AttentionMaps(
        [weights[:, first:].astype(shape["dtype"])],
        tokens,
        tokens_query=tokens[first:],
        ids_key=rng.integers(0, shape["n_words"], n),
        **facts,
    )


@given(shapes)
def test_every_score_is_what_its_definition_says(shape):
    maps = make_random(shape)
    scores = score_heads(maps, window=shape["window"])
    left_out = {"effective_rank", "nuclear_norm"} if maps.first_query else set()
    assert set(scores.columns) == SCORES.keys() - left_out
    for name, column in scores.columns.items():
        expected = [
            compute_by_hand(
                pattern,
                maps.ids_key,
                name,
                causal=maps.causal,
                first=maps.first_query,
                has_sinks=maps.has_sinks,
                window=shape["window"],
            )
            for pattern in maps.weights[0]
        ]
        np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@given(shapes)
def test_scores_stay_within_their_bounds(shape):
    scores = score_heads(make_random(shape))
    tolerance = 2e-3 if shape["dtype"] == "float16" else 1e-5  # rows of half precision add up to 1 only so far
    for name, column in scores.columns.items():
        values = column[~np.isnan(column)]
        assert (values >= 0).all(), name
        assert SCORES[name].upper is None or (values <= SCORES[name].upper * (1 + tolerance)).all(), name
    n = shape["n"]
    assert (scores["keys_90"] <= scores["keys_95"]).all()
    assert (scores["keys_95"] <= scores["keys_99"]).all()
    assert (scores["keys_99"] <= n).all()
    assert (scores["entropy"] <= np.log(n + 1) + 1e-3).all()
    assert (scores["heaviest_column"] >= 1 / n - tolerance).all()
    if "effective_rank" in scores.columns:
        assert (scores["effective_rank"] >= 1 - 1e-9).all()
        assert (scores["effective_rank"] <= n + 1e-9).all()


@given(shapes, st.permutations(range(3)))
def test_heads_are_scored_one_by_one(shape, order):
    maps = make_random(shape)
    moved = AttentionMaps(
        [maps.weights[0][list(order)]],
        maps.tokens_key,
        tokens_query=maps.tokens_query,
        ids_key=maps.ids_key,
        causal=maps.causal,
        has_sinks=maps.has_sinks,
        first_query=maps.first_query,
    )
    here, there = score_heads(maps), score_heads(moved)
    for name in here.columns:
        np.testing.assert_allclose(there[name], here[name][list(order)], rtol=1e-9, err_msg=name)


@given(shapes)
def test_ids_matter_only_by_which_are_equal(shape):
    maps = make_random(shape)
    facts = {name: getattr(maps, name) for name in ("tokens_query", "causal", "has_sinks", "first_query")}
    renamed = AttentionMaps(maps.weights, maps.tokens_key, ids_key=[7 + 3 * i for i in maps.ids_key], **facts)
    facts["tokens_query"] = [f"w{i}" for i in maps.ids_key[maps.first_query :]]
    labelled = AttentionMaps(maps.weights, [f"w{i}" for i in maps.ids_key], **facts)
    for name in ("duplicate_token", "induction"):
        for other in (renamed, labelled):
            np.testing.assert_array_equal(score(other, name), score(maps, name))


N = 32
IDS = [*range(16), *range(16)]  # said twice
LOOKS_BACK = np.eye(N, k=-1)
LOOKS_BACK[0, 0] = 1
FIRST, LOOKS_AT_ITSELF = np.eye(N)[np.zeros(N, int)], np.eye(N)
UNIFORM = np.tril(np.ones((N, N))) / np.arange(1, N + 1)[:, None]
DUPLICATE, INDUCTION = np.eye(N), np.eye(N)
DUPLICATE[16:] = np.eye(N)[np.arange(16)]
INDUCTION[16:31] = np.eye(N)[np.arange(1, 16)]
INDUCTION[31] = np.eye(N)[16]  # behind the first time token 15 was said
LATE_SINK = np.eye(N)
LATE_SINK[5:] = np.eye(N)[5]


@pytest.mark.parametrize(
    ("pattern", "name", "value"),
    [
        (LOOKS_BACK, "previous_token", 1),
        (LOOKS_AT_ITSELF, "previous_token", 0),
        (UNIFORM, "previous_token", np.mean(1 / np.arange(2, N + 1))),
        (DUPLICATE, "duplicate_token", 1),
        (DUPLICATE, "induction", 0),
        (INDUCTION, "induction", 1),
        (INDUCTION, "duplicate_token", 0),
        (FIRST, "sink_mass", 1),
        (FIRST, "sink_rate", 1),
        (LOOKS_BACK, "sink_mass", 2 / N),
        (UNIFORM, "sink_rate", 3 / N),  # 1, 1/2 and 1/3 pass 0.3
        (LATE_SINK, "other_sink_mass", 1),
        (FIRST, "other_sink_mass", 0),
        (LOOKS_AT_ITSELF, "entropy", 0),
        (UNIFORM, "entropy", np.mean(np.log(np.arange(1, N + 1)))),
        (UNIFORM, "relative_entropy", 1),
        (LOOKS_BACK, "relative_entropy", 0),
        (FIRST, "mean_distance", np.mean(np.arange(N))),
        (LOOKS_BACK, "mean_distance", (N - 1) / N),
        (LOOKS_BACK, "local_mass", 1),
        (FIRST, "local_mass", 0),  # only queries past position 8 can look further
        (UNIFORM, "local_mass", np.mean(9 / np.arange(10, N + 1))),
        (FIRST, "heaviest_column", 1),
        (LOOKS_AT_ITSELF, "heaviest_column", 1 / N),
        (FIRST, "keys_99", 1),
        (UNIFORM, "keys_90", np.mean([math.ceil(0.9 * i - 1e-6 * i) for i in range(1, N + 1)])),
        (LOOKS_AT_ITSELF, "effective_rank", N),
        (FIRST, "effective_rank", 1),
        (LOOKS_AT_ITSELF, "nuclear_norm", N),
        (FIRST, "nuclear_norm", np.sqrt(N)),
    ],
)
def test_patterns_whose_scores_are_known(pattern, name, value):
    assert score(make_pattern(pattern, ids_key=IDS), name)[0] == pytest.approx(value, abs=1e-6)


def test_a_token_right_behind_its_duplicate_is_no_induction():
    maps = make_pattern(np.eye(3), ids_key=[5, 5, 5])
    # Query 2 has key 1 behind an earlier 5 (key 0); key 2 is itself.
    assert score(maps, "induction")[0] == 0
    assert np.isnan(score(make_pattern(np.eye(2), ids_key=[5, 5]), "induction")[0])


def test_ids_tell_apart_what_looks_alike():
    alike = ["a", "<0xF0>", "b", "<0xF0>"]
    weights = np.float32([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]])
    assert score(AttentionMaps([weights], alike), "induction")[0] == 1
    assert np.isnan(score(AttentionMaps([weights], alike, ids_key=[0, 1, 2, 3]), "induction")[0])


def test_a_learned_sink_counts_as_a_key_of_the_entropy():
    half = np.float32([[0.5, 0], [0.25, 0.25]])
    assert score(make_pattern(half, has_sinks=True), "entropy")[0] == pytest.approx(
        np.mean([np.log(2), 0.5 * np.log(2) + 0.5 * np.log(4)])
    )
    assert score(make_pattern(half, has_sinks=True), "sink_mass")[0] == pytest.approx(0.375)  # nothing renormalised


def test_large_maps_are_scored_in_blocks(monkeypatch):
    maps = make_maps(2, 5, 20)
    whole = score_heads(maps)
    monkeypatch.setattr("attn_viewer.analysis.blocks.BLOCK_BYTES", 2 * 8 * 20 * 20)
    parts = score_heads(maps)
    assert BLOCK_BYTES > 8 * 5 * 20 * 20
    for name in whole.columns:
        np.testing.assert_array_equal(parts[name], whole[name])


def test_cross_maps_have_the_scores_that_need_no_positions():
    weights = np.full((2, 3, 4), 0.25, np.float32)
    maps = AttentionMaps([weights], list("abcd"), tokens_query=list("xyz"), kind="cross", causal=False)
    scores = score_heads(maps)
    assert set(scores.columns) == SCORES.keys() - set(POSITIONAL)
    np.testing.assert_allclose(scores["entropy"], np.log(4))
    np.testing.assert_allclose(scores["effective_rank"], 1)
    with pytest.raises(UnsuitableMapsError, match="'induction' needs queries that are some of the key tokens"):
        score(maps, "induction")


@pytest.mark.parametrize(
    ("maps", "options", "error", "words"),
    [
        (make_maps().average_heads(), {}, UnsuitableMapsError, r"reduced \(head_mean\)"),
        (
            AttentionMaps(
                [np.ones((1, 2, 2), np.float32)], list("abcd"), reduction="pooled", cell=(2, 2), pooling="max"
            ),
            {},
            UnsuitableMapsError,
            r"reduced \(pooled\)",
        ),
        (make_pattern([[1]]), {}, UnsuitableMapsError, "at least 2 key tokens, got 1"),
        (
            AttentionMaps([np.ones((1, 1, 2), np.float32) / 2], list("ab"), tokens_query=["b"], first_query=1),
            {"scores": ["effective_rank"]},
            UnsuitableMapsError,
            "needs all query rows",
        ),
        (
            make_maps(),
            {"scores": ["inductoin"]},
            OptionError,
            "there is no score 'inductoin'; there are previous_token",
        ),
        (make_maps(), {"scores": []}, OptionError, "an empty choice"),
        (make_maps(), {"window": 0}, OptionError, "window"),
        (make_maps(), {"window": 2.5}, OptionError, "window"),
        (make_maps(), {"epsilon": 1}, OptionError, "epsilon"),
        (make_maps(), {"epsilon": "x"}, OptionError, "epsilon"),
    ],
)
def test_what_would_mean_nothing_is_refused(maps, options, error, words):
    with pytest.raises(error, match=words):
        score_heads(maps, **options)


def test_every_definition_is_documented():
    assert Counter(s.label for s in SCORES.values()).most_common(1)[0][1] == 1
    for score in SCORES.values():
        assert len(score.measure.__doc__) > 20
