import math

import matplotlib as mpl
import numpy as np
import pytest
from conftest import try_examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.figure import Figure
from PIL import Image

from attn_viewer.errors import OptionError
from attn_viewer.figures import builtin, get_all_figure_names, run_figure_funcs, savers, select_attn_figure_funcs
from attn_viewer.figures.images import make_palette
from attn_viewer.figures.small_figures import POINTS, render_small_figure
from attn_viewer.figures.style import LIGHT

NAMES = ["raw", "svd_spectra", "entropy_by_query", "attention_by_distance", "column_mass", "cumulative_mass"]
DRAWN = [getattr(builtin, name) for name in NAMES[1:]]


def draw(func, pattern):
    ax = Figure((3.25, 2.2), dpi=POINTS).add_subplot()
    func.__wrapped__(np.asarray(pattern, np.float32), ax)
    return ax


def get_line(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line.get_xydata()


UNIFORM = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]


def test_all_are_registered_first_and_in_order():
    assert get_all_figure_names()[: len(NAMES)] == NAMES


def test_effective_rank():
    assert "effective rank 5.0 of 5" in draw(builtin.svd_spectra, np.eye(5)).get_title("left")
    one = draw(builtin.svd_spectra, np.full((5, 5), 0.2))
    assert "effective rank 1.0 of 5" in one.get_title("left")
    values = one.lines[1].get_ydata()
    assert values[0] == pytest.approx(1)
    assert np.isnan(values[1:]).all()  # float32 cannot tell them from 0
    two = draw(builtin.svd_spectra, np.diag([0.75, 0.25]))
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert two.lines[0].get_xdata()[0] == pytest.approx(expected)


def test_entropy_of_known_rows():
    ax = draw(builtin.entropy_by_query, UNIFORM)
    np.testing.assert_allclose(get_line(ax, "this head"), get_line(ax, "uniform"), atol=1e-6)
    np.testing.assert_allclose(get_line(ax, "uniform")[:, 1], np.log2([1, 2, 3, 4]))
    ax = draw(builtin.entropy_by_query, np.eye(4))
    assert (get_line(ax, "this head")[:, 1] == 0).all()
    ax = draw(builtin.entropy_by_query, np.full((3, 8), 1 / 8))  # not causal
    np.testing.assert_allclose(get_line(ax, "uniform")[:, 1], 3)


def test_distance_of_a_head_that_looks_one_back():
    pattern = np.eye(6, k=-1)
    pattern[0, 0] = 1
    ax = draw(builtin.attention_by_distance, pattern)
    np.testing.assert_allclose(get_line(ax, "all keys"), [[0, 1 / 6], [1, 1]])
    np.testing.assert_allclose(get_line(ax, "without the first key"), [[1, 1]])
    last = draw(builtin.attention_by_distance, pattern[-2:])  # queries are the last tokens
    np.testing.assert_allclose(get_line(last, "all keys"), [[1, 1]])
    with pytest.raises(OptionError, match="got 6 queries and 2 keys"):
        draw(builtin.attention_by_distance, pattern[:, :2])


def test_mass_of_known_columns():
    ax = draw(builtin.column_mass, UNIFORM)
    expected = [(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 / 2 + 1 / 3 + 1 / 4) / 3, (1 / 3 + 1 / 4) / 2, 1 / 4]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected, rtol=1e-6)
    assert "key 0 (red) has 52 % of all" in ax.get_title("left")


def test_keys_that_hold_the_weight():
    rows = np.tile([0.5, 0.01, 0.44, 0.05], (3, 1))
    ax = draw(builtin.cumulative_mass, rows)
    np.testing.assert_allclose(get_line(ax, "median query")[:, 1], [0.5, 0.94, 0.99, 1], rtol=1e-6)
    assert ax.get_title("left").startswith("90, 95, 99 % of weight in 2, 3, 3 keys")
    ax = draw(builtin.cumulative_mass, rows / 2)  # a learned sink took half
    assert "2, 3, 3 keys" in ax.get_title("left")


def test_raw_shows_future_keys_in_a_colour_of_their_own(tmp_path):
    builtin.raw(UNIFORM, tmp_path)
    picture = np.asarray(Image.open(tmp_path / "raw.png").convert("RGB"))
    assert picture.shape == (4, 4, 3)
    masked = make_palette()[-1]
    np.testing.assert_array_equal((picture == masked).all(-1), np.triu(np.ones((4, 4), bool), 1))
    assert tuple(masked) == tuple(int(LIGHT.masked[i : i + 2], 16) for i in (1, 3, 5))
    builtin.raw(np.full((4, 4), 0.25), tmp_path)
    assert not (np.asarray(Image.open(tmp_path / "raw.png").convert("RGB")) == masked).all(-1).any()


@pytest.mark.parametrize("func", [*DRAWN[:1], *DRAWN[2:]], ids=lambda func: func.__name__)
def test_a_head_without_weight_says_so(func):
    ax = draw(func, np.zeros((3, 3)))
    assert [text.get_text() for text in ax.texts] == ["all weights are 0"]
    assert ax.get_title("left")
    assert not ax.lines


@pytest.mark.parametrize("func", DRAWN, ids=lambda func: func.__name__)
@try_examples(0.2)
@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(0, 1, width=32)),
       st.booleans())  # fmt: skip
def test_any_pattern_is_drawn_on_the_page(func, pattern, causal):
    if causal:
        pattern = np.tril(pattern)
    if pattern.shape[0] > pattern.shape[1] or not pattern.any():
        return
    with mpl.rc_context(savers.make_rc()):
        ax = draw(func, pattern)
        render_small_figure(ax.figure, "svg")
        box = ax.get_tightbbox()
    assert min(box.x0, box.y0) > 0
    assert box.x1 < ax.figure.bbox.width
    assert box.y1 < ax.figure.bbox.height


def test_heads_of_smollm2(smollm2, tmp_path):
    from attn_viewer import capture_attention

    maps = capture_attention(*smollm2, "The cat sat. The dog sat. The cat", layers=[0, 20], heads=[5])
    paths, failures = run_figure_funcs(maps, tmp_path, select_attn_figure_funcs(set(NAMES)))
    assert failures == []
    assert [path.name.split(".")[0] for path in paths] == NAMES * 2
    first, later = (draw(builtin.column_mass, layer[0]) for layer in maps.weights)
    assert "key 0 (red)" in later.get_title("left")  # the first token is the sink of later layers
    entropies = [get_line(draw(builtin.entropy_by_query, layer[0]), "this head")[:, 1] for layer in maps.weights]
    assert entropies[0].mean() > entropies[1].mean() > 0
    assert first.get_title("left") != later.get_title("left")
