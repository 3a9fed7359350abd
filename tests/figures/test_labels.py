import io

import numpy as np
import pytest
from conftest import make_maps
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_viewer import plot_heads
from attn_viewer.figures.labels import AxisLabels, TokenStamps
from attn_viewer.figures.style import PageStyle, measure_text


def draw_pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def test_every_panel_gets_the_same_labels_at_the_same_place():
    figure = plot_heads(make_maps(1, 4, 6, tokens=["<s>", "␣Summer", "g", "$x_{", "W", "⏎"]), 0)
    pixels, height = draw_pixels(figure), figure.bbox.height
    image = figure.axes[0].images
    (stamps,) = figure.findobj(TokenStamps)
    strips = []
    for panel in image:
        box = panel.get_window_extent()
        right = round(box.x0) - 2
        left = right - int(stamps.queries.width * figure.dpi / 72)
        strips.append(pixels[round(height - box.y1) : round(height - box.y0), left:right])
    assert (strips[0] < 128).sum() > 300  # there is ink
    for strip in strips[1:]:
        np.testing.assert_array_equal(strip, strips[0])


def test_stamped_labels_lie_where_written_ones_would():
    """The copied picture equals text drawn straight onto the page, but for hinting at the edges."""
    maps = make_maps(1, 3, 6, tokens=["<s>", "␣Summer", "g", "$x_{", "W", "⏎"])
    stamped = draw_pixels(plot_heads(maps, 0))
    figure = plot_heads(maps, 0)
    (stamps,) = figure.findobj(TokenStamps)
    for side in stamps._sides:
        side.stamp = lambda panels, renderer, side=side: [side.write([anchors], renderer) for anchors in panels]
    written = draw_pixels(figure)
    assert (stamped < 128).sum() == pytest.approx((written < 128).sum(), rel=0.02)
    assert (np.abs(stamped - written) > 60).mean() < 0.002


def test_labels_move_with_the_figure():
    figure = plot_heads(make_maps(1, 2, 3), 0)
    before = draw_pixels(figure)
    figure.dpi = figure.dpi / 2
    half = draw_pixels(figure)
    assert half.shape[0] * 2 == pytest.approx(before.shape[0], abs=2)
    assert (half < 128).any()


@pytest.mark.parametrize("fmt", ["svg", "pdf"])
def test_vector_formats_hold_every_label_as_text(fmt):
    figure = plot_heads(make_maps(1, 3, 4, tokens=["alpha", "b<&>", "$x_{", "d"]), 0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=fmt)
    data = buffer.getvalue()
    if fmt == "svg":
        assert data.count(b">alpha<") == 6
        assert data.count(b">b&lt;&amp;&gt;<") == 6
        assert data.count(b">$x_{<") == 6
    else:
        assert data.count(b"/Font") > 0


def test_index_ticks_stand_upright_with_marks():
    labels = AxisLabels((0.0, 10.0), ("0", "10"), PageStyle(), 6.5, is_index=True, is_upright=True)
    tokens = AxisLabels((0.0, 10.0), ("0", "10000"), PageStyle(), 6.5)
    assert labels.depth < tokens.depth
    assert labels.gap > tokens.gap


def test_measured_text_grows_with_size_and_letters():
    family = ("DejaVu Sans",)
    widths = [measure_text(text, size, family)[0] for text, size in (("ab", 6), ("abc", 6), ("abc", 7))]
    assert widths == sorted(set(widths))
    assert measure_text("", 6, family) == (0, 6)
