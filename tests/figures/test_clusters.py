import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_viewer.errors import OptionError
from attn_viewer.figures import plot_similarity
from attn_viewer.figures.formats import render_figure

# Two pairs, told apart.
PAIRS = np.array([[1, 0.1, 0.9, 0.1], [0.1, 1, 0.1, 0.8], [0.9, 0.1, 1, 0.1], [0.1, 0.8, 0.1, 1]])


def test_heads_alike_stand_side_by_side():
    before = pyplot.get_fignums(), dict(pyplot.rcParams)
    figure = plot_similarity(PAIRS, names=["0.0", "0.1", "3.0", "3.1"], model_id="m", notes=["9 tokens"])
    assert (pyplot.get_fignums(), dict(pyplot.rcParams)) == before
    (panel,) = [ax for ax in figure.axes if ax.get_label() == "heads"]
    names = [t.get_text() for t in panel.get_yticklabels()]
    assert {frozenset(names[:2]), frozenset(names[2:])} == {frozenset(["0.0", "3.0"]), frozenset(["0.1", "3.1"])}
    assert names == [t.get_text() for t in panel.get_xticklabels()]
    order = [["0.0", "0.1", "3.0", "3.1"].index(name) for name in names]
    np.testing.assert_allclose(panel.images[0].get_array(), PAIRS[np.ix_(order, order)])
    assert panel.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in figure.axes[0].texts] == ["m  ·  heads alike", "9 tokens"]
    trees = {ax.get_label(): ax.collections[0].get_segments() for ax in figure.axes if "tree" in ax.get_label()}
    for across, up in zip(trees["tree of columns"], trees["tree of rows"], strict=True):
        np.testing.assert_allclose(across, up[:, ::-1])
    heights = sorted(segment[:, 1].max() for segment in trees["tree of columns"])
    np.testing.assert_allclose(np.array(heights) / heights[-1], np.array([0.1, 0.2, 0.9]) / 0.9)
    assert render_figure(figure, "png") == render_figure(plot_similarity(
        PAIRS, names=["0.0", "0.1", "3.0", "3.1"], model_id="m", notes=["9 tokens"]), "png")  # fmt: skip


def test_names_are_thinned_and_that_is_said():
    values = np.eye(100)
    figure = plot_similarity(values, names=[str(i) for i in range(100)], model_id="$x_{" * 9)
    assert any("one head in 4 named" in t.get_text() for t in figure.axes[0].texts)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for text in figure.axes[0].texts:
        assert text.get_window_extent(canvas.get_renderer()).x1 < figure.bbox.x1


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.ones((2, 3)), ["a", "b"]),
        (np.ones((1, 1)), ["a"]),
        (PAIRS, ["a"]),
        (np.array([[1, np.nan], [np.nan, 1]]), ["a", "b"]),
        (np.array([[1, 0.5], [0.1, 1]]), ["a", "b"]),
    ],
)
def test_what_is_no_similarity(values, names):
    with pytest.raises(OptionError, match="similarities must be"):
        plot_similarity(values, names=names)
