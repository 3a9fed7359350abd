import itertools

import numpy as np
import pytest
from conftest import try_examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure

from attn_viewer import plot_atlas
from attn_viewer.errors import OptionError
from attn_viewer.figures import draw_atlas
from attn_viewer.figures.formats import render_figure
from attn_viewer.figures.heads import arrange_scores
from attn_viewer.figures.options import AtlasLook
from attn_viewer.figures.scales import get_colormap, round_end

RNG = np.random.default_rng(0)


def get_panel(figure):
    (panel,) = [ax for ax in figure.axes if ax.get_label() == "heads"]
    return panel


def get_words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_layers_go_down_and_heads_across():
    scores = RNG.random((3, 5))
    figure = plot_atlas(scores, label="entropy (nats)", model_id="m", title="focus", notes=["two prompts"])
    page, bar, panel = figure.axes
    (image,) = panel.images
    np.testing.assert_array_equal(image.get_array().data, scores)
    assert not np.ma.getmaskarray(image.get_array()).any()
    assert (image.norm.vmin, image.norm.vmax) == (0, round_end(scores.max()))
    assert panel.get_ylim() == (2.5, -0.5)
    assert bar.get_title(loc="left") == "entropy (nats)"
    assert bar.get_xlim() == (0, image.norm.vmax)
    assert [t.get_text() for t in page.texts] == ["m  ·  focus", "two prompts", "layer", "head"]


def test_true_numbers_and_layers_of_different_width():
    figure = plot_atlas([[1, 2, 3], [4]], layers=[3, 7], heads=[[0, 2, 5], [2]])
    panel = get_panel(figure)
    shown = panel.images[0].get_array()
    assert shown.filled(-1).tolist() == [[1, 2, 3], [-1, 4, -1]]
    assert [t.get_text() for t in panel.get_yticklabels()] == ["3", "7"]
    assert [t.get_text() for t in panel.get_xticklabels()] == ["0", "2", "5"]
    assert tuple(panel.images[0].cmap(np.ma.masked)) == pytest.approx((*np.array([0xE7, 0xE2, 0xDF]) / 255, 1))


def test_scores_that_mean_nothing_are_neutral():
    grid, rows, columns = arrange_scores([[0.5, np.nan]], AtlasLook(layers=[4], heads=[1, 3]))
    assert grid.mask.tolist() == [[False, True]]
    assert (rows, columns) == ((4,), (1, 3))
    nothing = get_panel(plot_atlas([[np.nan, np.nan]])).images[0]
    assert nothing.get_array().mask.all()


def test_differences_are_centred_on_zero():
    figure = plot_atlas([[-3.0, 1.0]], diverging=True)
    image = get_panel(figure).images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-3, 3)
    assert image.cmap(image.norm(0.0)) == image.cmap(128)
    assert min(image.cmap(128)[:3]) > 0.93
    red, _, blue, _ = image.cmap(image.norm(-3.0))
    assert red > blue
    assert get_panel(plot_atlas([[-3.0, 1.0]], diverging=True, vmax=5)).images[0].norm.vmin == -5
    assert get_panel(plot_atlas([[0.0]], diverging=True)).images[0].norm.vmax == 1


def test_a_scale_takes_in_what_is_below_zero_and_what_is_constant():
    norms = [get_panel(plot_atlas(v)).images[0].norm for v in ([[-2.0, 1.0]], [[0.0, 0.0]], [[-1.0]], [[0.25]])]
    assert [(n.vmin, n.vmax) for n in norms] == [(-2, 1), (0, 1), (-1, 0), (0, 0.25)]


def test_chosen_heads_are_framed():
    figure = plot_atlas(np.ones((2, 3)), layers=[4, 9], marks=[(9, 0), (4, 2)])
    halo, frames = get_panel(figure).findobj(PatchCollection)
    boxes = [path.get_extents().bounds for path in frames.get_paths()]
    assert boxes == [(-0.5, 0.5, 1, 1), (1.5, -0.5, 1, 1)]
    assert halo.get_linewidth() > frames.get_linewidth()


def test_an_atlas_in_ones_own_axes():
    ax = Figure().add_subplot()
    assert draw_atlas([[0.1, 0.9]], ax=ax, cmap="viridis", norm="power", vmax=1) is ax
    assert ax.images[0].cmap.name == "viridis"
    assert ax.images[0].norm(0.25) == pytest.approx(0.5)


def test_an_unusual_scale_is_said():
    assert "square-root colour scale" in get_words(plot_atlas([[1.0]], norm="power"))
    assert "logarithmic colour scale" in get_words(plot_atlas([[1.0]], norm="log"))


def test_texts_are_no_markup_and_any_script():
    figure = plot_atlas([[1.0]], label="$x_{", title="\\frac%", model_id="模型", notes=["^_{}"])
    assert render_figure(figure, "svg") == render_figure(figure, "svg")
    assert "^_{}" in get_words(figure)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, r"\(n_layers, n_heads\)"),
        ([[]], {}, r"\(n_layers, n_heads\)"),
        (np.ones((2, 3, 4)), {}, r"\(3, 4\)"),
        (3.0, {}, "3.0"),
        ([["a"]], {}, "real numbers"),
        ([[1j]], {}, "real numbers"),
        ([[np.inf]], {}, "finite"),
        ([[1.0]], {"layers": [1, 2]}, "1 different numbers"),
        ([[1.0], [2.0]], {"layers": [1, 1]}, "different numbers"),
        ([[1.0, 2.0]], {"heads": [1, 1]}, "different numbers"),
        ([[1.0, 2.0]], {"heads": [[1], [2]]}, "heads must be"),
        ([[1.0]], {"marks": [(0, 1)]}, r"\(0, 1\)"),
        ([[1.0]], {"marks": [3]}, "marks must be"),
        ([[np.nan]], {"marks": [(0, 0)]}, "no score to mark"),
        ([[1.0]], {"diverging": True, "norm": "log"}, "linear around 0"),
        ([[1.0]], {"diverging": True, "vmin": 0}, "centred on 0"),
        ([[-1.0]], {"norm": "log"}, "below 0"),
        ([[1.0]], {"cmap": "jett"}, "colour map"),
        ([[1.0]], {"vmin": 2.0, "vmax": 1.0}, "end above its start"),
    ],
)
def test_what_cannot_be_drawn(values, options, message):
    with pytest.raises(OptionError, match=message):
        plot_atlas(values, **options)


@try_examples(0.25)
@given(st.integers(1, 130), st.integers(1, 130), st.integers(0, 3000))
def test_no_two_numbers_overlap_and_all_are_on_the_page(n_layers, n_heads, first):
    figure = plot_atlas(np.ones((n_layers, n_heads)), layers=range(first, first + n_layers), model_id="a model")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, panel = canvas.get_renderer(), get_panel(figure)
    for labels, low, high in ((panel.get_xticklabels(), "x0", "x1"), (panel.get_yticklabels(), "y0", "y1")):
        boxes = sorted((label.get_window_extent(renderer) for label in labels), key=lambda b: getattr(b, low))
        assert boxes
        assert all(getattr(a, high) <= getattr(b, low) for a, b in itertools.pairwise(boxes))
        assert len(boxes) <= max(n_layers, n_heads)
        words = [t.get_window_extent(renderer) for t in figure.axes[0].texts]
        assert not any(word.overlaps(box) for word in words for box in boxes)
        for box in [*boxes, *words]:
            assert figure.bbox.x0 <= box.x0 + 0.6 < box.x1 <= figure.bbox.x1 + 0.6
            assert figure.bbox.y0 <= box.y0 + 0.6 < box.y1 <= figure.bbox.y1 + 0.6


def test_page_stays_within_the_column_of_a_paper():
    width, _ = plot_atlas(np.ones((32, 32))).get_size_inches()
    assert width < 3.35
    assert get_colormap(diverging=True).N % 2 == 1


def test_scores_below_zero_are_told_apart():
    page = plot_atlas([[-5.0, -3.0], [-2.0, -1.0]])
    (image,) = page.axes[2].images
    assert (image.norm.vmin, image.norm.vmax) == (-5, 0)
    assert len({tuple(colour) for colour in image.to_rgba(image.get_array()).reshape(4, 4)}) == 4


@pytest.mark.parametrize("largest", [1e-9, 0.3, 2.5e5])
@pytest.mark.parametrize("fontsize", [None, 14])
def test_means_have_room_for_their_name_and_numbers(largest, fontsize):
    page = plot_atlas(np.array([[-1.0], [1.0]]) * largest, layer_means=True, fontsize=fontsize)
    page.dpi = 72
    page.draw_without_rendering()
    first, last = (label.get_window_extent() for label in page.axes[3].get_xticklabels())
    assert first.x1 < last.x0
    (name,) = (text.get_window_extent() for text in page.axes[0].texts if text.get_text() == "layer mean")
    assert name.x1 < page.bbox.x1
    assert name.x0 > page.axes[2].bbox.x1
