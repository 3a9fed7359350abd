import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import AttentionMaps, plot_comparison
from attn_viewer.errors import OptionError
from attn_viewer.figures.formats import render_figure
from attn_viewer.figures.labels import TokenStamps
from attn_viewer.figures.scales import round_end


def get_panels(figure):
    return [image.get_array() for image in figure.axes[0].images]


def get_words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_row_a_layer_with_a_b_and_the_difference():
    a, b = make_maps(3, 2, 5, layers=[1, 4, 6], model_id="full"), make_maps(3, 2, 5, seed=1, layers=[1, 4, 6])
    figure = plot_comparison(a, b)
    panels = get_panels(figure)
    means = [[w.mean(0) for w in maps.weights] for maps in (a, b)]
    for index, (one, other) in enumerate(zip(*means, strict=True)):
        for panel, expected in zip(panels[3 * index :], (one, other, other - one), strict=False):
            np.testing.assert_allclose(panel.filled(0), np.tril(expected), atol=1e-6)
            np.testing.assert_array_equal(panel.mask, np.triu(np.ones((5, 5), bool), 1))
    images = figure.axes[0].images
    assert images[0].norm is images[1].norm is images[3].norm
    assert images[0].norm.vmax == round_end(max(w[1:].max() for maps in means for w in maps))
    limit = round_end(max(np.abs(other - one).max() for one, other in zip(*means, strict=True)))
    assert (-images[2].norm.vmin, images[2].norm.vmax) == (limit, limit)
    assert images[2].norm is images[5].norm
    words = get_words(figure)
    assert words[0] == "two models"
    assert "A: full  ·  B: random  ·  mean over 2 heads  ·  5 tokens" in " ".join(words)
    assert words.count("B − A") == 3
    assert [bar.get_title(loc="left") for bar in figure.axes[1:]] == ["attention weight", "B − A"]


def test_labels_stand_at_the_edges_only():
    figure = plot_comparison(make_maps(), make_maps(seed=1))
    rows, columns = figure.findobj(TokenStamps)
    assert (len(rows.panels), rows.keys.texts) == (2, ())
    assert (len(columns.panels), columns.queries.texts) == (3, ())
    assert rows.queries.texts == columns.keys.texts == tuple(f"t{i}" for i in range(5))
    for fmt in ("png", "svg", "pdf"):
        assert render_figure(figure, fmt) == render_figure(figure, fmt)


def test_the_first_token_is_left_out_before_the_difference():
    a, b = make_maps(1, 1, 4), make_maps(1, 1, 4, seed=1)
    panels = get_panels(plot_comparison(a, b, sink="renormalise"))
    rest = [m.weights[0][0, 1:, 1:] / m.weights[0][0, 1:, 1:].sum(-1, keepdims=True) for m in (a, b)]
    np.testing.assert_allclose(panels[2].filled(0), rest[1] - rest[0], atol=1e-6)
    with pytest.raises(OptionError, match="sink"):
        plot_comparison(a, b, sink="drop")


def test_equal_models_differ_nowhere():
    image = plot_comparison(make_maps(), make_maps()).axes[0].images[2]
    assert not image.get_array().any()
    assert image.norm.vmax == 1


def test_heads_that_were_zeroed_set_no_scale():
    even = np.tri(12, dtype=np.float32) / np.arange(1, 13, dtype=np.float32)[:, None]
    a, b = (AttentionMaps([np.stack(heads)], ["t"] * 12, causal=True) for heads in ((even, even), (even, 0 * even)))
    assert plot_comparison(a, b).axes[0].images[2].norm.vmax == 0.25


def test_large_differences_keep_their_sign_when_pooled():
    one, other = np.zeros((2, 1, 1, 1024), np.float32)
    one[..., 1], other[..., 2], other[..., 3] = 0.9, 0.2, 0.1
    one[..., 0], other[..., 0] = 0.1, 0.7
    a, b = (AttentionMaps([w], ["t"] * 1024, tokens_query=["q"], causal=False) for w in (one, other))
    difference = get_panels(plot_comparison(a, b))[2]
    assert difference.shape == (1, 512)
    np.testing.assert_allclose(difference[0, :3], [-0.9, 0.2, 0], atol=1e-6)


def test_what_was_changed_is_said_of_the_side_it_was_done_to():
    plain, changed = make_maps(2, 3, 5), make_maps(2, 3, 5, seed=1, interventions=["head 0.1 zeroed"])
    words = " ".join(text.get_text() for text in plot_comparison(plain, changed).axes[0].texts).replace("\n", " ")
    assert "B changed: head 0.1 zeroed" in words
    assert words.count("changed") == 1
