import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_viewer.figures import style
from attn_viewer.figures.layout import MARGIN
from attn_viewer.figures.sheet import Sheet


@pytest.mark.parametrize("width", [10, 130, 200, 450])
@pytest.mark.parametrize("n_bars", [0, 1, 2])
def test_nothing_overlaps_and_nothing_leaves_the_page(width, n_bars):
    colors = mpl.cm.ScalarMappable(style.make_norm("linear", -0.005, 0.005), style.get_colormap(diverging=True))
    bars = [(colors, "a quantity with a name"), (colors, "b")][:n_bars]
    notes = [f"phrase number {i}" for i in range(9)]
    with mpl.rc_context(style.make_rc()):
        page = Sheet(width, 50, "heads", model_id="a-model-of-a-long-name" * 4, notes=notes, bars=bars)
    canvas = FigureCanvasAgg(page.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    point = page.figure.dpi / 72
    texts = [t.get_window_extent(renderer) for t in page.axes.texts]
    frames = [bar.ax.get_tightbbox(renderer) for bar in page.colorbars]
    boxes = [*texts, *frames]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= page.figure.bbox.x1 + 0.6
        assert box.y1 <= page.figure.bbox.y1 + 0.6
        assert box.y0 >= (MARGIN + 50) * point - 0.6
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    for bar in page.colorbars:
        labels = [t.get_window_extent(renderer) for t in bar.ax.get_xticklabels() if t.get_text()]
        assert not any(one.overlaps(other) for i, one in enumerate(labels) for other in labels[i + 1 :])
