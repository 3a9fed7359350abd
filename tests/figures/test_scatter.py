import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_viewer.analysis import HeadScores
from attn_viewer.errors import OptionError
from attn_viewer.figures import plot_head_scatter
from attn_viewer.figures.style import LIGHT


def make_scores(x, y, colour=None):
    n = len(x)
    columns = {"previous_token": x, "induction": y, "effort": np.zeros(n) if colour is None else colour}
    columns = {name: np.array(values, np.float64) for name, values in columns.items()}
    return HeadScores(np.arange(n) // 4, np.arange(n) % 4, columns, "m", "9 tokens")


def get_panel(figure):
    (panel,) = [ax for ax in figure.axes if ax.get_label() == "heads"]
    return panel


def test_heads_stand_at_their_scores_in_the_colour_of_a_third():
    scores = make_scores([0.1, 0.9, 0.5, np.nan, 0.2], [0.8, 0.1, 0.4, 0.3, 0.2], [0.5, 0.1, np.nan, 0.2, 0.9])
    figure = plot_head_scatter(scores, "previous_token", "induction", "effort", named=1)
    panel = get_panel(figure)
    (dots,) = panel.collections
    order = [2, 1, 0, 4]  # the highest last, on top; the one without a value first
    x, y = scores["previous_token"], scores["induction"]
    np.testing.assert_array_equal(dots.get_offsets(), np.stack([x, y], 1)[order])
    grey, *colours = dots.get_facecolors()
    assert mpl.colors.to_hex(grey) == LIGHT.masked
    brightness = np.array(colours)[:, :3].sum(1)
    assert list(brightness) == sorted(brightness, reverse=True)
    assert len({tuple(colour) for colour in colours}) == 3
    assert [text.get_text() for text in panel.texts] == ["0.0", "0.1"]  # furthest up, furthest across
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said[0] == "m  ·  heads by score"
    assert "heads left out, without a value: 1" in " ".join(said)
    assert {"previous token", "induction"} <= set(said)


def test_names_keep_clear_of_dots_of_each_other_and_of_the_edges():
    x, y = np.random.default_rng(0).random((2, 60)) ** 3
    x[:6], y[:6] = 0.0, 1.0  # heads that do the same, at the left edge
    figure = plot_head_scatter(make_scores(x, y), "previous_token", "induction", named=9)
    panel, canvas = get_panel(figure), FigureCanvasAgg(figure)
    canvas.draw()
    assert len(figure.axes) == 2  # no colour, no bar
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in panel.texts]
    assert len(boxes) > 9
    dots = panel.transData.transform(panel.collections[0].get_offsets())
    for i, box in enumerate(boxes):
        assert panel.bbox.x0 <= box.x0
        assert box.x1 < figure.bbox.x1
        assert not any(box.x0 < left < box.x1 and box.y0 < up < box.y1 for left, up in dots)
        centre = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        assert not any(other.contains(*centre) for other in boxes[:i])


@pytest.mark.parametrize("factor", [1e-3, 1, 137.0])
def test_names_and_numbers_suit_scores_of_any_size(factor):
    x, y = np.random.default_rng(1).random((2, 20)) * factor
    figure = plot_head_scatter(make_scores(x, y), "previous_token", "induction", named=4)
    panel, canvas = get_panel(figure), FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    order = np.argsort(-y)[:4]
    assert {f"{i // 4}.{i % 4}" for i in order} <= {text.get_text() for text in panel.texts}
    (low, high), numbers = panel.get_ylim(), panel.get_yticks()
    assert (low, high) == (numbers[0], numbers[-1])
    (name,) = [text for text in figure.axes[0].texts if text.get_text() == "induction"]
    widest = min(label.get_window_extent(renderer).x0 for label in panel.get_yticklabels())
    assert name.get_window_extent(renderer).x1 < widest


@pytest.mark.parametrize("axes", [("previous_token", "nothing"), ("nothing", "induction")])
def test_scores_that_are_not_there(axes):
    with pytest.raises(OptionError, match="'nothing'"):
        plot_head_scatter(make_scores([0.1], [0.2]), *axes)


def test_no_head_has_both():
    with pytest.raises(OptionError, match="no head has both previous_token and induction"):
        plot_head_scatter(make_scores([0.1, np.nan], [np.nan, 0.2]), "previous_token", "induction")
