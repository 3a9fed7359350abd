import copy
import dataclasses
import io
import itertools
import pickle

import matplotlib as mpl
import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import Affine2D, Bbox
from PIL import Image
from test_venues import list_pages

from attn_viewer import (
    plot_birds_eye,
    plot_comparison,
    plot_heads,
    plot_layer_averages,
    plot_lines,
    plot_panels,
    plot_running_text,
)
from attn_viewer.errors import OptionError
from attn_viewer.figures.formats import FORMATS, render_figure
from attn_viewer.figures.grids import iterate_head_pages
from attn_viewer.figures.page import MARGIN, Caption, Page, PageFigure, wrap_phrases
from attn_viewer.figures.panels import CellImage
from attn_viewer.figures.scales import Scale, get_colormap, make_norm
from attn_viewer.figures.style import PageStyle


def get_pixels(figure):
    return np.asarray(Image.open(io.BytesIO(render_figure(figure, "png"))))


@pytest.mark.parametrize(
    "fmt", [pytest.param(fmt, marks=[pytest.mark.slow] * (fmt not in ("png", "svg"))) for fmt in FORMATS]
)
@pytest.mark.parametrize("scale", ["shared", "panel"])
def test_a_page_drawn_after_others_has_the_bytes_of_a_fresh_one(demo_maps, fmt, scale):
    options = {"scale": scale, "sink": "hide"} | ({"vmax": 0.8} if scale == "shared" else {})
    pages = {layer: render_figure(figure, fmt) for layer, figure in iterate_head_pages(demo_maps, **options)}
    assert len(set(pages.values())) == len(demo_maps.layers)
    for layer in demo_maps.layers:
        assert pages[f"layer_{layer}"] == render_figure(plot_heads(demo_maps, layer, **options), fmt)


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
    figure.axes[0].texts[-1].set_text("another name")
    changed = get_pixels(figure)
    assert not np.array_equal(changed, before)
    figure.text(0.5, 0.5, "over all")
    assert not np.array_equal(get_pixels(figure), changed)


def test_a_copy_of_a_page_that_was_drawn_is_the_page():
    figure = plot_heads(make_maps(1, 2, 5), 0)
    before = figure._repr_png_()
    assert pickle.loads(pickle.dumps(figure))._repr_png_() == copy.deepcopy(figure)._repr_png_() == before


# Each of them turns, moves, crosses out or cuts something in figures that read it.
SETTINGS = {
    "axes.autolimit_mode": "round_numbers",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.titlelocation": "right",
    "axes.xmargin": 0.2,
    "figure.autolayout": True,
    "figure.dpi": 50,
    "font.weight": "bold",
    "image.aspect": "equal",
    "image.interpolation": "bicubic",
    "image.origin": "lower",
    "lines.marker": "o",
    "patch.antialiased": False,
    "path.sketch": (1, 100, 2),
    "savefig.bbox": "tight",
    "savefig.facecolor": "pink",
    "savefig.transparent": True,
    "text.antialiased": False,
    "xtick.labelsize": 20,
    "xtick.labeltop": True,
    "xtick.minor.visible": True,
}


@pytest.mark.parametrize("fmt", ["png", "svg", "pdf"])
def test_pages_are_the_same_whatever_a_person_has_set(fmt):
    for draw in list_pages(make_maps(4, 3, 6)):
        plain = draw()
        with mpl.rc_context(SETTINGS):
            assert render_figure(draw(), fmt) == render_figure(plain, fmt)


def test_a_measured_layout_leaves_no_empty_page():
    figure = plot_heads(make_maps(1, 2, 5), 0)
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")
    after = get_pixels(figure)
    assert np.array_equal(after, get_pixels(plot_heads(make_maps(1, 2, 5), 0)))


@pytest.mark.skipif(mpl.__version_info__ < (3, 10), reason="older ones place cells less exactly")
@given(st.integers(1, 40), st.integers(1, 40), st.floats(120, 200), st.floats(120, 200), st.floats(0, 9))
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
    x, y = ((np.arange(216) + 0.5 - offset) * n / size for n, size in ((n_columns, width), (n_rows, height)))
    on_border = np.add.outer(np.abs(y - y.round()) < 0.05, np.abs(x - x.round()) < 0.05)[::-1]
    differs = (drawn[0] != drawn[1]).any(-1) & ~on_border
    assert differs.mean() < 0.02


def test_a_figure_of_nothing_that_changes_is_a_figure():
    figure = PageFigure(figsize=(1, 1), dpi=50)
    figure.text(0.1, 0.1, "a")
    assert (get_pixels(figure) < 128).any()


@pytest.mark.parametrize(
    "width", [10, pytest.param(130, marks=pytest.mark.slow), 200, pytest.param(450, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("n_bars", [0, 1, 2])
@pytest.mark.parametrize("shown", [(True, True), (False, True), (True, False), (False, False)])
def test_nothing_overlaps_and_nothing_leaves_the_page(width, n_bars, shown):
    signed = Scale(make_norm("linear", -0.005, 0.005), get_colormap(diverging=True), "a quantity with a name", 1.0)
    caption = Caption(
        heading="heads",
        model_id="a-model-of-a-long-name" * 4,
        notes=[f"phrase number {i}" for i in range(9)],
        bars=[signed, signed][:n_bars],
        has_heading=shown[0],
        has_notes=shown[1],
    )
    page = Page(PageStyle(), width, 50, caption)
    canvas = FigureCanvasAgg(page.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    point = page.figure.dpi / 72
    texts = [text for text in page.axes.texts if text.get_text()]
    assert any("phrase" in text.get_text() for text in texts) == shown[1]
    assert any("heads" in text.get_text() for text in texts) == shown[0]
    frames = [bar.ax.get_tightbbox(renderer) for bar in page.colorbars]
    boxes = [*(text.get_window_extent(renderer) for text in texts), *frames]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= page.figure.bbox.x1 + 0.6
        assert box.y1 <= page.figure.bbox.y1 + 0.6
        assert box.y0 >= (MARGIN + 50) * point - 0.6
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    for bar in page.colorbars:
        labels = [t.get_window_extent(renderer) for t in bar.ax.get_xticklabels() if t.get_text()]
        assert not any(one.overlaps(other) for i, one in enumerate(labels) for other in labels[i + 1 :])


def test_phrases_are_set_in_lines():
    style = PageStyle()
    assert wrap_phrases(["one", "two", "three"], 1000, 7, style) == ["one  ·  two  ·  three"]
    assert wrap_phrases(["one", "two", "three"], 20, 7, style) == ["one", "two", "three"]
    assert wrap_phrases(["one two"], 20, 7, style) == ["one", "two"]
    assert wrap_phrases(["long/er word"], 20, 7, style) == ["long/", "er", "word"]
    assert wrap_phrases([], 100, 7, style) == []
    (word,) = wrap_phrases(["w" * 100], 50, 7, style)
    assert "…" in word
    assert style.measure(word, 7)[0] <= 50


@pytest.mark.parametrize("width", [2.2, 3.25])
def test_a_heading_on_a_narrow_page_says_all_its_words(width):
    name, title = "organisation/model-7B-chat", "what all of the heads of this layer look at"
    figure = plot_heads(dataclasses.replace(make_maps(1, 2, 5), model_id=name), 0, width=width, title=title)
    page = next(ax for ax in figure.axes if ax.get_label() == "page")
    said = "".join(text.get_text() for text in page.texts).replace("·", "").replace(" ", "")
    assert f"{name}{title}".replace(" ", "") in said


def test_what_changes_in_a_heading_of_several_lines_is_drawn():
    maps = dataclasses.replace(make_maps(3, 2, 5), model_id="a model with a name of many words")
    pages = {layer: get_pixels(figure) for layer, figure in iterate_head_pages(maps, width=2.2)}
    assert len(next(iter(iterate_head_pages(maps, width=2.2)))[1].changing) == 5
    assert np.array_equal(pages["layer_2"], get_pixels(plot_heads(maps, 2, width=2.2)))


class Recorder(RendererBase):
    """Notes the box of each text in points, from the lower left corner."""

    def __init__(self, size):
        super().__init__()
        self.size, self.boxes = size, []

    def flipy(self):
        return False

    def get_canvas_width_height(self):
        return self.size

    def points_to_pixels(self, points):
        return points

    def draw_image(self, *args, **kwargs): ...

    def draw_path(self, *args, **kwargs): ...

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        box = Bbox.from_extents(0, -descent, width, height - descent)
        if s.strip():
            self.boxes.append((s, Affine2D().rotate_deg(angle).translate(x, y).transform_bbox(box)))


def find_boxes(figure):
    """Return all that is written on a page, with the box of each, and the size of the page, in points."""
    figure.dpi = 72
    recorder = Recorder(figure.bbox.size)
    figure.draw(recorder)
    return recorder.boxes, recorder.size


WRITTEN = {
    "heads": lambda maps, look: plot_heads(maps, 1, **look),
    "layers": lambda maps, look: plot_layer_averages(maps, **look),
    "chosen": lambda maps, look: plot_panels(maps, [(0, 1), (1, 2), (1, None)], **look),
    "running": lambda maps, look: plot_running_text(maps, **look),
    "thumbnails": lambda maps, look: plot_birds_eye(maps, **look),
    "two models": lambda maps, look: plot_comparison(maps, maps, **look),
    "lines": lambda maps, look: plot_lines(maps, 1, **look),
}
TEXTS = {
    "one token": ["a"],
    "chat": ["<|im_start|>", "user", "\n", " $x$", "<0xE2>", "\t", "  "],
    "long words": ["a" * 200, "b " * 100, "c"],
    "no font": list("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u4e2d\u6587"),
    "many": [f"w{i}" for i in range(60)],
}
SIZES = (
    {},
    {"fontsize": 14},
    {"fontsize": 30},
    {"width": 3.0},
    {"figsize": (2.2, 2.0)},
    {"scale": "panel", "width": 5.0},
)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("text", TEXTS)
def test_all_that_is_written_is_on_the_page_and_apart(name, text):
    maps = make_maps(2, 3, len(TEXTS[text]), tokens=TEXTS[text])
    drawn = 0
    for look in SIZES:
        if name in ("two models", "lines"):
            look = {key: value for key, value in look.items() if key != "scale"}
        try:
            boxes, size = find_boxes(WRITTEN[name](maps, look))
        except OptionError:  # no room, which is said
            continue
        drawn += 1
        for what, box in boxes:
            assert min(box.p0) > -1, (look, what)
            assert (box.p1 < np.add(size, 1)).all(), (look, what)
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            assert np.min(np.minimum(a.p1, b.p1) - np.maximum(a.p0, b.p0)) < 1.2, (look, one, other)
    assert drawn > 2


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_left_of_one_token_without_the_first(name):
    with pytest.raises(OptionError, match="nothing is left of a prompt of one token"):
        WRITTEN[name](make_maps(2, 3, 1), {"sink": "hide"})
