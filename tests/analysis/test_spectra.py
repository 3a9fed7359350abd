import numpy as np
import pytest
import transformers
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps, capture_attention, load_scores, roll_out_attention, save_scores, score_heads
from attn_viewer.analysis import compute_singular_values
from attn_viewer.analysis.spectra import compute_effective_rank
from attn_viewer.errors import UnsuitableMapsError


@given(st.integers(0, 999), st.integers(1, 9))
def test_squares_are_the_eigenvalues_of_the_gram_matrix(seed, n):
    maps = make_maps(2, 2, n, seed=seed)
    for values, weights in zip(compute_singular_values(maps), maps.weights, strict=True):
        gram = weights.astype(float) @ weights.astype(float).swapaxes(1, 2)
        np.testing.assert_allclose(values**2, np.linalg.eigvalsh(gram)[:, ::-1], atol=1e-9)
        np.testing.assert_allclose((values**2).sum(1), (weights.astype(float) ** 2).sum((1, 2)))


@given(st.integers(1, 20), st.floats(1e-3, 1e3))
def test_equal_values_count_fully_and_scale_does_not_matter(n, scale):
    assert compute_effective_rank(np.full((1, n), scale))[0] == pytest.approx(n)
    assert compute_effective_rank(np.eye(1, n) * scale)[0] == pytest.approx(1)


def test_a_spectrum_needs_all_query_rows():
    part = AttentionMaps([np.ones((1, 1, 2), np.float32) / 2], list("ab"), tokens_query=["b"], first_query=1)
    with pytest.raises(UnsuitableMapsError, match="all query rows"):
        compute_singular_values(part)
    cross = AttentionMaps([part.weights[0]], list("ab"), tokens_query=["x"], kind="cross", causal=False)
    assert compute_singular_values(cross)[0].shape == (1, 1)
    with pytest.raises(UnsuitableMapsError, match="reduced"):
        compute_singular_values(make_maps().average_heads())


def test_cross_maps_know_whether_later_queries_are_there(tmp_path):
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    whole, part = (
        capture_attention(model, None, [3, 4, 5], decoder_prompt=[0, 6, 7], kind="cross", queries=queries)
        for queries in (None, slice(0, 2))
    )
    assert score_heads(whole, "effective_rank").columns["effective_rank"].min() >= 1
    for maps in (part, load_scores(save_scores(part, tmp_path))):
        with pytest.raises(UnsuitableMapsError, match="all query rows"):
            compute_singular_values(maps)
        with pytest.raises(UnsuitableMapsError, match="needs all query rows, but these maps hold 2"):
            score_heads(maps, "effective_rank")
        assert "nuclear_norm" not in score_heads(maps).columns
    with pytest.raises(UnsuitableMapsError, match="capture with kind='encoder' or 'decoder'"):
        roll_out_attention(whole)
