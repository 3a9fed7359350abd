import numpy as np
import pytest
from conftest import make_maps
from matplotlib.collections import LineCollection

from attn_viewer import AttentionMaps, plot_lines
from attn_viewer.errors import OptionError, UnsuitableMapsError
from attn_viewer.figures.lines import FAINTEST


def read_lines(figure):
    """Return for each head a dictionary from (left text, right text) heights to opacity."""
    return [
        {
            (round(a[1], 2), round(b[1], 2)): color[3]
            for (a, b), color in zip(lines.get_segments(), lines.get_colors(), strict=True)
        }
        for lines in figure.axes[0].findobj(LineCollection)
    ]


def get_heights(figure, tokens):
    """Return the height of each token."""
    texts = {text.get_text(): round(text.get_position()[1], 2) for text in figure.axes[0].texts}
    return [texts[token] for token in tokens]


def test_a_line_for_each_weight_as_strong_as_it_is():
    maps = make_maps(2, 3, 5, layers=[1, 4])
    figure = plot_lines(maps, 4, heads=[0, 2])
    heights = get_heights(figure, maps.tokens_key)
    heads = read_lines(figure)
    weights = maps.get_layer(4)[[0, 2]]
    assert len(heads) == 2
    for lines, head in zip(heads, weights, strict=True):
        expected = {
            (heights[q], heights[k]): head[q, k] / weights.max()
            for q, k in np.argwhere(head > FAINTEST * weights.max())
        }
        assert lines == pytest.approx(expected, rel=1e-5)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"head 0", "head 2", "query", "key", "random  ·  layer 4"} < set(words)


def test_one_query_alone_and_a_hidden_first_token():
    maps = make_maps(1, 2, 5)
    figure = plot_lines(maps, 0, query=3, sink="hide")
    heights = get_heights(figure, maps.tokens_key[1:])
    assert {start for lines in read_lines(figure) for start, _ in lines} == {heights[2]}
    assert "t0" not in {text.get_text() for text in figure.axes[0].texts}
    for query in (0, 5):
        with pytest.raises(OptionError, match="no query"):
            plot_lines(maps, 0, query=query, sink="hide")


def test_cross_attention_and_one_sentence_to_another():
    weights = [np.full((2, 3, 5), 0.2, np.float32)]
    cross = AttentionMaps(weights, list("abcde"), tokens_query=list("xyz"), kind="cross", causal=False)
    assert sum(map(len, read_lines(plot_lines(cross, 0)))) == 2 * 15
    pair = make_maps(1, 1, 6, causal=False, segments=[("A", 0, 2), ("B", 2, 6)])
    figure = plot_lines(pair, 0, segments=("A", "B"))
    words = [text.get_text() for text in figure.axes[0].texts]
    assert [word for word in words if word.startswith("t") and word[1:].isdigit()] == [f"t{i}" for i in range(6)]
    largest = pair.weights[0][0, :2, 2:].max()
    assert len(read_lines(figure)[0]) == (pair.weights[0][0, :2, 2:] > FAINTEST * largest).sum()
    with pytest.raises(OptionError, match="segments are two names of A, B"):
        plot_lines(pair, 0, segments=("A", "C"))


def test_what_has_no_lines():
    pooled = AttentionMaps(
        [np.full((1, 2, 2), 0.5, np.float32)], ["t"] * 8, reduction="pooled", cell=(4, 4), pooling="max"
    )
    with pytest.raises(UnsuitableMapsError, match="pooled"):
        plot_lines(pooled, 0)
    with pytest.raises(OptionError, match="no head"):
        plot_lines(make_maps(), 0, heads=[9])
