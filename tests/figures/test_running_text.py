import numpy as np
import pytest
from conftest import make_maps, try_examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_rgba

from attn_viewer import AttentionMaps, plot_running_text
from attn_viewer.errors import OptionError, UnsuitableMapsError
from attn_viewer.figures.running_text import flow_words
from attn_viewer.figures.scales import get_colormap
from attn_viewer.figures.style import LIGHT
from attn_viewer.tokens import show_text


def get_fills(figure):
    """Return one array (n_tokens, 4) of colours a paragraph, and the framed boxes."""
    patches = figure.axes[0].findobj(PatchCollection)
    fills = [p.get_facecolor() for p in patches if len(p.get_facecolor())]
    return fills, [p for p in patches if not len(p.get_facecolor())]


def get_words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_token_has_the_colour_of_its_weight():
    maps = make_maps(2, 3, 4, layers=[3, 8])
    figure = plot_running_text(maps, norm="linear", vmax=1)
    fills, frames = get_fills(figure)
    cmap = get_colormap()
    for fill, layer in zip(fills, maps.weights, strict=True):
        np.testing.assert_allclose(fill, cmap(layer[:, -1].mean(0).astype(float)), atol=1 / 200)
    assert len(frames) == 2
    words = get_words(figure)
    assert "random  ·  last token" in words
    assert words.count("t2") == 2
    assert {"3", "8"} <= set(words)


@pytest.mark.parametrize("scale", ["shared", "panel"])
def test_a_quantile_ends_the_scale(scale):
    weights = np.full((1, 1, 400), 1 / 400, np.float32)
    weights[..., 0] = 0.9
    maps = AttentionMaps([weights, weights * 2], ["t"] * 400, tokens_query=["q"], causal=False, weighting="value_norm")
    fills, _ = get_fills(plot_running_text(maps, norm="quantile", scale=scale))
    shades = get_colormap()([1.0 if scale == "panel" else 0.5, 1.0])
    np.testing.assert_allclose([fill[5] for fill in fills], shades, atol=1 / 100)


def test_later_tokens_and_a_hidden_first_one_are_neutral():
    maps = make_maps(1, 2, 6)
    fills, _ = get_fills(plot_running_text(maps, query=3, sink="hide"))
    is_neutral = (np.abs(fills[0] - to_rgba(LIGHT.masked)) < 1e-3).all(1)
    assert is_neutral.tolist() == [True, False, False, False, True, True]
    fills, _ = get_fills(plot_running_text(maps, query=0, sink="renormalise"))
    assert (np.abs(fills[0][[0, 1]] - to_rgba(LIGHT.masked)) < 1e-3).all()


def test_rows_without_the_first_token_may_sum_to_one_again():
    maps = make_maps(1, 2, 6)
    row = maps.weights[0][:, 4].mean(0)[1:5]
    fills, _ = get_fills(plot_running_text(maps, query=4, sink="renormalise", norm="linear", vmax=1))
    np.testing.assert_allclose(fills[0][1:5], get_colormap()((row / row.sum()).astype(float)), atol=1 / 100)


def test_cross_attention_marks_no_token_as_the_query():
    weights = [np.full((2, 3, 5), 0.2, np.float32)]
    maps = AttentionMaps(weights, list("abcde"), tokens_query=list("xyz"), kind="cross", causal=False)
    fills, frames = get_fills(plot_running_text(maps))
    assert not frames
    assert len(fills[0]) == 5


def test_a_line_stands_where_the_completion_begins():
    maps = make_maps(3, 2, 6, prompt_length=4)
    figure = plot_running_text(maps, norm="linear")
    lines = figure.axes[0].findobj(LineCollection)
    boxes = [p.get_paths() for p in figure.axes[0].findobj(PatchCollection) if len(p.get_facecolor())]
    assert len(lines) == 2 * len(boxes) == 6  # a white one behind each
    for line, paths in zip(lines[1::2], boxes, strict=True):
        (ends,) = line.get_segments()
        corners = paths[4].get_extents()
        np.testing.assert_allclose(ends, [[corners.x0, corners.y0], [corners.x0, corners.y1]])
    assert "dashed lines: generated from token 4 on" in " ".join(get_words(figure))
    assert not plot_running_text(make_maps(3, 2, 6)).axes[0].findobj(LineCollection)


def test_pages_too_long_to_read_show_fewer_layers_and_say_so():
    maps = make_maps(5, 1, 2)
    long = AttentionMaps(
        [np.full((1, 1, 2500), 4e-4, np.float32)] * 5, ["word"] * 2500, tokens_query=["x"], causal=False
    )
    assert "2 of 5 layers, evenly spaced" in " ".join(get_words(plot_running_text(long)))
    assert "evenly" not in " ".join(get_words(plot_running_text(maps)))


def test_what_has_no_text():
    pooled = AttentionMaps(
        [np.full((1, 2, 2), 0.5, np.float32)], ["t"] * 8, reduction="pooled", cell=(4, 4), pooling="max"
    )
    with pytest.raises(UnsuitableMapsError, match="queries=1"):
        plot_running_text(pooled)
    for query in (5, -6, 1.5, "x"):
        with pytest.raises(OptionError, match="query"):
            plot_running_text(make_maps(), query=query)
    endless = AttentionMaps([np.ones((1, 1, 7000), np.float32)], ["t"] * 7000, tokens_query=["t"], causal=False)
    with pytest.raises(OptionError, match="7000 tokens is too long"):
        plot_running_text(endless)


@given(st.lists(st.floats(0.5, 300), min_size=1, max_size=60))
def test_words_fill_lines_without_running_over(widths):
    places, n_lines = flow_words(widths, 200)
    assert places[-1][0] == n_lines - 1
    for (_, x), width in zip(places, widths, strict=True):
        assert x == 0 or x + width <= 200
    for (a, x), (b, y), width in zip(places, places[1:], widths, strict=False):
        assert (b == a and y == pytest.approx(x + width)) or (b == a + 1 and y == 0)


@try_examples(0.25)
@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["", "$x_{", "中文", "😀", "x" * 9999]), min_size=1, max_size=40)
)
def test_any_tokens_stay_on_the_page(tokens):
    figure = plot_running_text(make_maps(2, 1, len(tokens), tokens=[show_text(t) for t in tokens]))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.axes[0].texts:
        box = text.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0 + 0.6
        assert box.x1 <= figure.bbox.x1 + 0.6
