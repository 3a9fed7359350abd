import itertools

import numpy as np
import pytest
from conftest import make_maps, try_examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_viewer import AttentionMaps, plot_heads, plot_layer_averages
from attn_viewer.errors import OptionError
from attn_viewer.figures.grids import iterate_head_pages
from attn_viewer.figures.labels import LineText, TokenStamps
from attn_viewer.figures.scales import round_end


def get_stamps(figure):
    (stamps,) = figure.findobj(TokenStamps)
    return stamps


def get_words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_page_of_layer_averages():
    maps = make_maps(5, 3, 6, layers=[0, 1, 4, 8, 9])
    figure = plot_layer_averages(maps)
    page, bar = figure.axes
    assert len(page.images) == 5
    for image, layer in zip(page.images, maps.weights, strict=True):
        shown = image.get_array()
        np.testing.assert_allclose(shown.data, layer.mean(0), rtol=1e-6)
        np.testing.assert_array_equal(shown.mask, np.triu(np.ones((6, 6), bool), 1))
        assert image.norm is page.images[0].norm
    assert page.images[0].norm.vmin == 0
    largest = max(layer.mean(0)[1:].max() for layer in maps.weights)
    assert page.images[0].norm.vmax == round_end(largest) >= largest
    words = get_words(figure)
    assert [word for word in words if word in {f"layer {i}" for i in range(10)}] == [f"layer {i}" for i in maps.layers]
    assert "random  ·  layer averages" in words
    assert "mean over 3 heads  ·  6 tokens" in words
    assert words.count("query") == 2
    assert words.count("key") == 1
    assert bar.get_title(loc="left") == "attention weight"
    stamps = get_stamps(figure)
    assert stamps.queries.texts == stamps.keys.texts == maps.tokens_key
    assert len(stamps.label_boxes()) == 5 * 2 * 6


def test_a_page_of_heads_shares_its_scale_with_the_other_pages():
    maps = make_maps(3, 2, 4)
    limits = [figure.axes[0].images[0].norm.vmax for _, figure in iterate_head_pages(maps, sink="hide")]
    hidden = [layer[:, 1:, 1:] for layer in maps.weights]
    assert limits == [round_end(max(layer[:, 1:].max() for layer in hidden))] * 3
    pages = [[image.get_array().data for image in f.axes[0].images] for _, f in iterate_head_pages(maps, sink="hide")]
    np.testing.assert_allclose(pages[2][1], hidden[2][1])
    figure = plot_heads(maps, 1)
    assert {"head 0", "head 1"} < set(get_words(figure))
    np.testing.assert_allclose(figure.axes[0].images[1].get_array().data, maps.weights[1][1])


def test_layers_with_different_numbers_of_heads():
    weights = [np.full((n, 2, 2), 0.5, np.float32) for n in (1, 3)]
    maps = AttentionMaps(weights, ["a", "b"], causal=False)
    counts = [len(figure.axes[0].images) for _, figure in iterate_head_pages(maps)]
    assert counts == [1, 3]
    assert "mean over heads  ·  2 tokens" in get_words(plot_layer_averages(maps))


def test_a_mean_that_came_in_is_said():
    words = get_words(plot_layer_averages(make_maps(2, 3, 4).average_heads()))
    assert "mean over 3 heads  ·  4 tokens" in words
    assert "random  ·  layer averages" in words


def test_the_first_token_is_hidden_or_rows_renormalised():
    maps = make_maps(1, 1, 5)
    whole = maps.weights[0][0]
    hidden = plot_heads(maps, 0, sink="hide")
    np.testing.assert_allclose(hidden.axes[0].images[0].get_array().data, whole[1:, 1:])
    assert get_stamps(hidden).queries.texts == maps.tokens_key[1:]
    assert "5 tokens  ·  first token hidden" in " ".join(get_words(hidden))
    again = plot_heads(maps, 0, sink="renormalise")
    np.testing.assert_allclose(again.axes[0].images[0].get_array().data.sum(-1), 1, rtol=1e-5)
    assert "rows renormalised" in " ".join(get_words(again))


def test_rows_without_other_weight_renormalise_to_nothing():
    weights = np.zeros((1, 3, 3), np.float32)
    weights[..., 0] = 1
    figure = plot_heads(AttentionMaps([weights], list("abc")), 0, sink="renormalise")
    assert figure.axes[0].images[0].get_array().data.tolist() == [[0, 0], [0, 0]]


def test_nothing_is_masked_without_causality():
    figure = plot_layer_averages(make_maps(2, 2, 4, causal=False))
    assert not np.ma.getmaskarray(figure.axes[0].images[0].get_array()).any()


def test_cross_attention_keeps_both_token_lists():
    weights = [np.full((2, 3, 5), 0.2, np.float32)]
    maps = AttentionMaps(weights, list("abcde"), tokens_query=list("xyz"), kind="cross", causal=False)
    figure = plot_layer_averages(maps, sink="hide")
    assert get_stamps(figure).queries.texts == tuple("xyz")
    assert get_stamps(figure).keys.texts == tuple("bcde")
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left) / 4 == pytest.approx((top - bottom) / 3)
    assert "3 query and 5 key tokens" in " ".join(get_words(figure))


def test_long_prompts_get_index_ticks_and_say_so():
    figure = plot_layer_averages(make_maps(2, 1, 300))
    stamps = get_stamps(figure)
    assert stamps.keys.texts == ("0", "50", "100", "150", "200", "250")
    assert "axes count tokens from 0" in " ".join(get_words(figure))


def test_more_cells_than_a_picture_shows_are_pooled_and_said():
    figure = plot_layer_averages(make_maps(1, 1, 700))
    assert figure.axes[0].images[0].get_array().shape == (350, 350)
    assert "drawn as the max over 2 × 2 tokens" in " ".join(get_words(figure))


def test_pooled_maps_say_what_a_cell_is():
    weights = [np.full((1, 3, 3), 0.5, np.float32)]
    maps = AttentionMaps(weights, ["t"] * 10, reduction="pooled", cell=(4, 4), pooling="max")
    figure = plot_heads(maps, 0)
    assert "each cell the max over 4 × 4 tokens" in " ".join(get_words(figure))
    assert get_stamps(figure).keys.is_index
    with pytest.raises(OptionError, match="pooled"):
        plot_heads(maps, 0, sink="renormalise")
    hidden = plot_heads(maps, 0, sink="hide")
    assert hidden.axes[0].images[0].get_array().shape == (3, 2)
    assert get_stamps(hidden).keys.texts[0] == "4"
    assert "first 4 keys hidden" in " ".join(get_words(hidden))


def test_a_completion_is_marked():
    maps = make_maps(1, 2, 6, prompt_length=4)
    figure = plot_heads(maps, 0)
    assert "dashed lines: generated from token 4 on" in " ".join(get_words(figure))
    _frames, lines = figure.axes[0].collections
    assert len(lines.get_segments()) == 2 * 2
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    row, column = lines.get_segments()[:2]
    np.testing.assert_allclose(row[:, 1], top - (top - bottom) * 4 / 6)
    np.testing.assert_allclose(column[:, 0], left + (right - left) * 4 / 6)


def test_a_few_queries_keep_their_place():
    whole = make_maps(1, 1, 6)
    maps = AttentionMaps([whole.weights[0][:, 4:]], whole.tokens_key, tokens_query=["t4", "t5"], first_query=4)
    shown = plot_heads(maps, 0).axes[0].images[0].get_array()
    assert np.ma.getmaskarray(shown).tolist() == [[False] * 5 + [True], [False] * 6]
    hidden = plot_heads(maps, 0, sink="hide")
    assert get_stamps(hidden).queries.texts == ("t4", "t5")


def test_learned_sinks_are_said():
    assert "learned sinks" in " ".join(get_words(plot_heads(make_maps(has_sinks=True), 0)))


def test_a_scale_for_each_panel_has_no_colour_bar():
    maps = make_maps(3, 2, 4)
    figure = plot_layer_averages(maps, scale="panel", sink="hide")
    assert len(figure.axes) == 1
    limits = [image.norm.vmax for image in figure.axes[0].images]
    # The first row that is left sees one key.
    assert limits == [pytest.approx(layer.mean(0)[2:, 1:].max()) for layer in maps.weights]
    assert f"layer 0   (to {limits[0]:.2g})" in get_words(figure)


@pytest.mark.parametrize(
    "options",
    [
        {"num_figs_per_row": 0},
        {"num_figs_per_row": 2.5},
        {"sink": "drop"},
        {"norm": "cubic"},
        {"cmap": "nope"},
        {"scale": "row"},
        {"vmin": 1, "vmax": 0.5},
    ],
)
def test_options_that_cannot_be_used(options):
    with pytest.raises(OptionError):
        plot_layer_averages(make_maps(), **options)


def test_hiding_the_only_token_is_refused():
    with pytest.raises(OptionError, match="one token"):
        plot_layer_averages(make_maps(1, 1, 1), sink="hide")


def test_only_true_layers_are_drawn():
    with pytest.raises(OptionError, match="no layer 2"):
        plot_heads(make_maps(2), 2)


def test_a_long_model_name_is_cut_and_takes_no_other_words_with_it():
    figure = plot_layer_averages(make_maps(model_id="a-very-long-model-name" * 6))
    renderer = FigureCanvasAgg(figure).get_renderer()
    name, heading = figure.axes[0].texts[:2]
    assert name.get_text().startswith("a-very-long")
    assert "…" in name.get_text()
    assert heading.get_text() == "layer averages"
    assert all(text.get_window_extent(renderer).x1 < figure.bbox.x1 for text in (name, heading))


def collect_boxes(figure):
    """Draw and return the boxes of all words and of the labels of one panel after another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    words = [t.get_window_extent(renderer) for t in figure.axes[0].texts if t.get_text()]
    return words, get_stamps(figure).label_boxes()


def assert_apart(boxes):
    """No two of these boxes overlap by more than a rounding of pixels."""
    x0, y0, x1, y1 = np.array([box.extents for box in boxes]).T
    wide = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    high = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    overlaps = (wide > 0.6) & (high > 0.6)
    np.fill_diagonal(overlaps, False)
    assert not overlaps.any()


@try_examples(0.5)
@given(
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(1, 400),
    st.lists(
        st.text(max_size=12) | st.sampled_from(["", "$x_{", "\\frac", "%", "^_", "中文", "م", "😀", "\u200b"]),
        min_size=1,
        max_size=80,
    ),
    st.booleans(),
)
def test_any_tokens_are_drawn_without_overlap(n_panels, columns, n_tokens, tokens, is_raw):
    from attn_viewer.tokens import show_text

    tokens = [*itertools.islice(itertools.cycle(tokens), n_tokens)]
    tokens = tokens if is_raw else [show_text(token) for token in tokens]
    weights = np.broadcast_to(np.tri(n_tokens, dtype=np.float32), (n_panels, n_tokens, n_tokens))
    figure = plot_heads(AttentionMaps([weights], tokens), 0, num_figs_per_row=columns)
    words, labels = collect_boxes(figure)
    stamps = get_stamps(figure)
    rows, columns_ = len(stamps.queries.texts), len(stamps.keys.texts)
    assert len(labels) == n_panels * (rows + columns_)
    for axis in (stamps.queries, stamps.keys):
        assert axis.is_index or len(axis.texts) == n_tokens
    assert stamps.queries.is_index == ("axes count tokens from 0" in " ".join(get_words(figure)))
    assert_apart(labels[: rows + columns_])
    page = figure.bbox
    for box in [*words, *labels]:
        assert page.x0 <= box.x0 + 0.6
        assert box.x1 <= page.x1 + 0.6
        assert page.y0 <= box.y0 + 0.6
        assert box.y1 <= page.y1 + 0.6


def test_segments_are_bands_beside_both_axes():
    maps = make_maps(1, 2, 6, segments=[("system", 0, 2), ("user", 2, 5)])
    figure = plot_heads(maps, 0)
    assert "bands, in order: system, user" in " ".join(get_words(figure))
    bands = figure.axes[0].collections[-1]
    boxes = [path.get_extents() for path in bands.get_paths()]
    assert len(boxes) == 2 * 2 * 2
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    key, query = boxes[2:4]
    np.testing.assert_allclose([key.x0, key.x1], [left + (right - left) * part / 6 for part in (2, 5)])
    np.testing.assert_allclose([query.y1, query.y0], [top - (top - bottom) * part / 6 for part in (2, 5)])
    assert key.y1 < bottom
    assert query.x1 < left
    hidden = plot_heads(maps, 0, sink="hide").axes[0]
    left, right, _, _ = hidden.images[0].get_extent()
    assert hidden.collections[-1].get_paths()[0].get_extents().width == pytest.approx((right - left) / 5)


def test_a_short_name_is_in_the_heading():
    assert "ab  ·  layer averages" in get_words(plot_layer_averages(make_maps(1, 1, 3, model_id="ab")))


def test_a_scale_that_ends_at_a_quantile_says_so():
    maps = make_maps(2, 2, 20)
    chosen = ~maps.future & (np.arange(20) > 0)[:, None]
    end = round_end(np.quantile(np.concatenate([layer[:, chosen].ravel() for layer in maps.weights]), 0.99))
    figure = plot_heads(maps, 0, norm="quantile")
    assert figure.axes[0].images[0].norm.vmax <= 1
    assert "colours end at the 99 % quantile" in " ".join(get_words(figure))
    _, page = next(iterate_head_pages(maps, norm="quantile"))
    assert page.axes[0].images[0].norm.vmax == end


@pytest.mark.parametrize("n_tokens", [1, 2, 30, 66, 67, 116, 117, 300])
@pytest.mark.parametrize("n_panels", [1, 13])
def test_pages_have_a_size_one_can_open(n_tokens, n_panels):
    figure = plot_heads(make_maps(1, n_panels, n_tokens), 0)
    width, height = figure.get_size_inches() * figure.dpi
    assert width * height < 4e7
    assert 90 <= figure.dpi <= 200


@pytest.mark.parametrize("size", [8, 30, 72])
def test_titles_in_large_letters_stand_clear_of_their_panels(size):
    figure = plot_layer_averages(make_maps(2, 1, 5), fontsize=size)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [image.get_window_extent() for image in figure.axes[0].images]
    titles = [text for text in figure.axes[0].findobj(LineText) if text.get_text() in ("layer 0", "layer 1")]
    assert len(titles) == len(boxes) == 2
    for title, box in zip(titles, boxes, strict=True):
        assert title.get_window_extent(renderer).y0 >= box.y1
