import numpy as np
import pytest
from conftest import make_maps, try_examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from attn_viewer import AttentionMaps, plot_birds_eye
from attn_viewer.errors import OptionError
from attn_viewer.figures.thumbnails import MOST_PIXELS, fold_layers, tile_heads


def get_panel(figure):
    (panel,) = [ax for ax in figure.axes if ax.get_label() == "heads"]
    return panel


@try_examples(0.4)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 130))
def test_every_head_stands_in_its_place(n_layers, n_heads, n_tokens):
    maps = make_maps(n_layers, n_heads, n_tokens)
    picture, is_gap, _ = tile_heads(maps)
    assert np.ma.getmaskarray(picture)[is_gap].all()
    # Cut at the gaps, which go through from edge to edge.
    rows, columns = (np.flatnonzero(~is_gap.all(axis=axis)) for axis in (1, 0))
    for weights, down in zip(maps.weights, np.array_split(rows, n_layers), strict=True):
        for head, across in zip(weights, np.array_split(columns, n_heads), strict=True):
            assert picture[np.ix_(down, across)].max() == head.max()


def test_small_heads_are_magnified_cell_by_cell():
    maps = make_maps(1, 1, 3)
    picture, is_gap, pooling = tile_heads(maps)
    zoom = picture.shape[0] // 3
    assert picture.shape == (48, 48)
    assert pooling == (1, 1)
    assert not is_gap.any()
    middles = picture[zoom // 2 :: zoom, zoom // 2 :: zoom]
    np.testing.assert_array_equal(middles.filled(0), maps.weights[0][0])
    np.testing.assert_array_equal(middles.mask, np.triu(np.ones((3, 3), bool), 1))


def test_large_heads_keep_the_largest_of_each_block():
    maps = make_maps(1, 2, 100, causal=False)
    picture, is_gap, pooling = tile_heads(maps)
    assert pooling == (3, 3)
    side = -(-100 // 3)
    second = picture[:, -side:]
    assert second[0, 0] == maps.weights[0][1, :3, :3].max()
    assert second[-1, -1] == maps.weights[0][1, 99:, 99:].max()
    assert is_gap.any(axis=0).sum() == picture.shape[1] - 2 * side


def test_a_layer_with_fewer_heads_leaves_a_gap():
    weights = [np.full((n, 2, 2), 0.5, np.float32) for n in (1, 3)]
    picture, is_gap, _ = tile_heads(AttentionMaps(weights, ["a", "b"], causal=False, heads=[[2], [0, 2, 4]]))
    top = ~is_gap[:48]
    assert top.any(axis=0).sum() == 48
    assert top[:, picture.shape[1] // 2].all()


def test_own_scales_and_hidden_sinks():
    maps = make_maps(2, 2, 6)
    even = np.tri(6, dtype=np.float32) / np.arange(1, 7, dtype=np.float32)[:, None]
    picture, _, _ = tile_heads(AttentionMaps([even[None]], ["t"] * 6), own_norm="linear")
    assert picture.max() == 2  # the first query, which sees one key, sets no scale
    assert picture[-1, 0] == pytest.approx(1 / 3)
    figure = plot_birds_eye(maps, sink="hide", scale="panel")
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "first token hidden" in words
    assert figure.axes[1].get_title(loc="left") == "share of the end of each head's scale"


def test_one_picture_with_gaps_and_true_numbers():
    maps = make_maps(3, 4, 5, layers=[2, 5, 9])
    figure = plot_birds_eye(maps, cmap="viridis", vmax=1)
    panel = get_panel(figure)
    (image,) = panel.images
    _, is_gap, _ = tile_heads(maps)
    assert (image.get_array()[is_gap] == 0).all()  # and so is their opacity: the page is seen
    assert [t.get_text() for t in panel.get_yticklabels()] == ["2", "5", "9"]
    assert figure.axes[1].get_xlim() == (0, 1)


def test_a_mean_is_no_head_0():
    maps = make_maps(2, 3, 6)
    for each, numbers in ((maps, ["0", "1", "2"]), (maps.average_heads(), [])):
        figure = plot_birds_eye(each)
        assert [t.get_text() for t in get_panel(figure).get_xticklabels()] == numbers
        names = [text.get_text() for text in figure.findobj(Text)]
        assert ("head" in names, "layer" in names) == (bool(numbers), True)


def test_a_huge_model_stays_one_picture_one_can_open():
    weights = [np.full((128, 4, 4), 0.25, np.float32)] * 126
    picture, _, _ = tile_heads(AttentionMaps(weights, list("abcd"), causal=False))
    assert max(picture.shape) <= 1.1 * MOST_PIXELS
    with pytest.raises(OptionError, match="sink"):
        plot_birds_eye(make_maps(), sink="drop")


def test_a_map_a_layer_makes_a_page_about_as_high_as_wide():
    maps = make_maps(48, 1, 9)
    figure = plot_birds_eye(maps)
    panel = get_panel(figure)
    assert 0.7 <= panel.bbox.width / panel.bbox.height <= 1.4
    assert [t.get_text() for t in panel.get_yticklabels()] == ["0", "7", "14", "21", "28", "35", "42"]
    assert [t.get_text() for t in panel.get_xticklabels()] == ["0", "1", "2", "3", "4", "5", "6"]
    assert "+ layers" in [text.get_text() for text in figure.findobj(Text)]
    folded = fold_layers(maps)
    assert folded.heads[-1] == (0, 1, 2, 3, 4, 5)
    np.testing.assert_array_equal(folded.weights[2][3], maps.weights[17][0])
    some = maps.select(layers=[*range(0, 48, 4)])
    assert fold_layers(some).heads[0] == (0, 4, 8, 12)
    uneven = maps.select(layers=[*range(9), 20])
    assert fold_layers(uneven) is uneven
    assert fold_layers(maps.average_heads()).layers == folded.layers


@pytest.mark.parametrize("shape", [(2, 120), (120, 2)])
def test_few_queries_are_no_hairlines(shape):
    weights = np.full((6, *shape), 1 / shape[1], np.float32)
    maps = AttentionMaps([weights] * 4, ["k"] * shape[1], tokens_query=["q"] * shape[0], kind="cross", causal=False)
    _, is_gap, _ = tile_heads(maps)
    down, across = ((~is_gap.all(axis=axis)).sum() / n for axis, n in ((1, 4), (0, 6)))
    assert max(down, across) / min(down, across) <= 3.1
    panel = get_panel(plot_birds_eye(maps))
    assert 0.3 <= panel.bbox.width / panel.bbox.height <= 5
