import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from attn_viewer import draw_heatmap
from attn_viewer.errors import OptionError
from attn_viewer.figures.heatmap import MOST_CELLS, limit_cells
from attn_viewer.figures.style import PageStyle
from attn_viewer.figures.ticks import TickChoice, choose_step, label_axis


@given(st.integers(1, 1300), st.integers(1, 40))
def test_pooling_keeps_the_largest_weight_of_every_block(n_query, n_key):
    matrix = np.random.default_rng(0).random((n_query, n_key), np.float32)
    cells, (down, across) = limit_cells(matrix)
    assert max(cells.shape) <= MOST_CELLS
    assert (down, across) == (-(-n_query // MOST_CELLS), 1)
    for row in range(0, len(cells), 97):
        block = matrix[row * down : (row + 1) * down, :1]
        assert cells[row, 0] == block.max()
    assert cells.max() == matrix.max()


def test_pooling_leaves_masked_cells_out():
    matrix = np.ma.masked_array(np.ones((1024, 1024), np.float32), np.triu(np.ones((1024, 1024), bool), 1))
    cells, factors = limit_cells(matrix)
    assert factors == (2, 2)
    np.testing.assert_array_equal(cells.mask, np.triu(np.ones((512, 512), bool), 1))


@given(st.integers(1, 100_000))
def test_index_ticks_are_few_and_round(count):
    step = choose_step(count)
    assert -(-count // step) <= 8
    assert str(step).rstrip("0") in ("1", "2", "5")


def test_index_ticks_stand_on_their_tokens():
    indices = TickChoice(50, True, True)
    labels = label_axis(["x"] * 300, PageStyle(), indices, first=1)
    assert labels.is_index
    assert labels.texts == ("50", "100", "150", "200", "250", "300")
    assert labels.positions[0] == 49
    pooled = label_axis(["x"] * 300, PageStyle(), indices, cell=4)
    assert pooled.positions[1] == pytest.approx(50.5 / 4 - 0.5)


def test_a_heatmap_in_ones_own_axes():
    matrix = np.tril(np.full((3, 3), 0.25, np.float32))
    figure = Figure(figsize=(3, 3))
    ax = figure.add_subplot()
    assert draw_heatmap(matrix, ["a", "$x_{", "c"], ax=ax, causal=True, vmax=1) is ax
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown.mask, np.triu(np.ones((3, 3), bool), 1))
    assert ax.images[0].norm.vmax == 1
    figure.canvas.draw()
    for axis, is_key in ((ax.xaxis, True), (ax.yaxis, False)):
        labels = axis.get_ticklabels()
        assert [label.get_text().replace("\\$", "$") for label in labels] == ["a", "$x_{", "c"]
        boxes = [label.get_window_extent() for label in labels]
        assert all(box.y1 < ax.bbox.y0 if is_key else box.x1 < ax.bbox.x0 for box in boxes)


def test_wrong_shapes_are_refused():
    ax = Figure().add_subplot()
    with pytest.raises(OptionError, match="got 2 query labels for 3"):
        draw_heatmap(np.ones((3, 3)), ["a", "b"], ax=ax)
    with pytest.raises(OptionError, match=r"shape \(3,\)"):
        draw_heatmap(np.ones(3), ax=ax)
