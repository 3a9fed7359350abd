import io

import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from attn_viewer import plot_heads
from attn_viewer.figures.formats import FORMATS, render_figure
from attn_viewer.figures.grids import iterate_head_pages
from attn_viewer.figures.repeat import CellImage, RepeatedFigure


def get_pixels(figure):
    return np.asarray(Image.open(io.BytesIO(render_figure(figure, "png"))))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("scale", ["shared", "panel"])
def test_a_page_drawn_after_others_has_the_bytes_of_a_fresh_one(demo_maps, fmt, scale):
    options = {"scale": scale, "sink": "hide", "vmax": 0.8}
    pages = {layer: render_figure(figure, fmt) for layer, figure in iterate_head_pages(demo_maps, **options)}
    assert len(set(pages.values())) == len(demo_maps.layers)
    for layer in demo_maps.layers:
        assert pages[layer] == render_figure(plot_heads(demo_maps, layer, **options), fmt)


def test_what_stays_is_drawn_once(monkeypatch):
    drawn = []
    original = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: (drawn.append(figure), original(figure, renderer)))
    for _, figure in iterate_head_pages(make_maps(4, 2, 5)):
        render_figure(figure, "jpg")
    assert len(drawn) == 1


def test_changes_of_what_stays_are_seen():
    figure = plot_heads(make_maps(1, 2, 5), 0)
    before = get_pixels(figure)
    assert np.array_equal(get_pixels(figure), before)
    figure.axes[0].texts[0].set_text("another title")
    changed = get_pixels(figure)
    assert not np.array_equal(changed, before)
    figure.text(0.5, 0.5, "over all")
    assert not np.array_equal(get_pixels(figure), changed)


def test_a_measured_layout_leaves_no_empty_page():
    figure = plot_heads(make_maps(1, 2, 5), 0)
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")
    after = get_pixels(figure)
    assert np.array_equal(after, get_pixels(plot_heads(make_maps(1, 2, 5), 0)))


@given(st.integers(1, 40), st.integers(1, 40), st.floats(20, 200), st.floats(20, 200), st.floats(0, 9))
def test_cells_have_the_pixels_that_matplotlib_gives_them(n_rows, n_columns, width, height, offset):
    rng = np.random.default_rng(0)
    matrix = np.ma.masked_less(rng.random((n_rows, n_columns), np.float32), 0.1)
    drawn = []
    for kind in (CellImage, AxesImage):
        figure = Figure(figsize=(3, 3), dpi=72)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        image = kind(ax, extent=(offset, offset + width, offset, offset + height), interpolation="nearest",
                     origin="upper")  # fmt: skip
        image.set_data(matrix)
        ax.add_image(image)
        ax.set(xlim=(0, 216), ylim=(0, 216))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba()).astype(int))
    # A pixel whose middle lies on a border of cells may go to either.
    differs = (drawn[0] != drawn[1]).any(-1)
    assert differs.mean() < 0.02


def test_a_figure_of_nothing_that_changes_is_a_figure():
    figure = RepeatedFigure(figsize=(1, 1), dpi=50)
    figure.text(0.1, 0.1, "a")
    assert (get_pixels(figure) < 128).any()
