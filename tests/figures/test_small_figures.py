import gzip
import io
import re

import matplotlib as mpl
import numpy as np
import pytest
from conftest import make_maps
from matplotlib.figure import Figure

from attn_viewer.figures import savers
from attn_viewer.figures.builtin import attention_by_distance, svd_spectra
from attn_viewer.figures.small_figures import POINTS, RASTER_DPI, render_small_figure, write_plainly
from attn_viewer.figures.style import make_file_rc

PATTERN = make_maps(1, 1, 40, seed=2).weights[0][0]


def log_both(matrix, ax):
    ax.loglog(np.arange(1, 41), matrix.sum(0), label="$x^2$ and text")
    ax.grid(which="both")
    ax.legend()


def own_ticks(matrix, ax):
    ax.plot(matrix[-1])
    ax.set_xticks([0, 20, 39], ["first", "the middle one", "last"], rotation=30)
    ax.tick_params(axis="y", which="minor", length=4, color="green")
    ax.minorticks_on()
    ax.get_yticklabels()[0].set_color("red")
    ax.get_yticklabels()[0].set_fontsize(9)


def picture_with_bar(matrix, ax):
    ax.figure.colorbar(ax.imshow(matrix))
    ax.set_title("A title\nof two lines")
    ax.twinx().set_ylabel("right")


def polar(matrix, ax):
    figure = ax.figure
    ax.remove()
    figure.add_subplot(projection="polar").plot(matrix[-1])


def page(matrix, ax):
    ax.figure.suptitle("over all")
    ax.figure.text(0.5, 0.5, "text")
    ax.set_visible(False)


def make_figure(draw):
    figure = Figure((3.25, 2.2), dpi=POINTS)
    draw(PATTERN, figure.add_subplot())
    return figure


def split_numbers(data):
    # Names of clip paths are hashes of their numbers.
    parts = re.split(rb"(-?\d+\.\d+)", re.sub(rb"\bp[0-9a-f]{10}\b", b"p", data))
    return parts[::2], [float(part) for part in parts[1::2]]


FUNCS = [svd_spectra.__wrapped__, attention_by_distance.__wrapped__, log_both, own_ticks, picture_with_bar, polar, page]


@pytest.mark.parametrize("draw", FUNCS, ids=lambda draw: draw.__name__)
def test_the_picture_is_the_one_of_matplotlib(draw):
    with mpl.rc_context(savers.make_rc() | make_file_rc()):
        figure = make_figure(draw)
        data = render_small_figure(figure, "svg")
        grid = figure.subplotpars
        plain = make_figure(draw)
        for ax in plain.axes:
            if ax.name == "rectilinear":
                write_plainly(ax.xaxis)
                write_plainly(ax.yaxis)
        plain.subplots_adjust(grid.left, grid.bottom, grid.right, grid.top)
        if draw in FUNCS[:2]:
            (ax,), (other,) = figure.axes, plain.axes
            figure.dpi = POINTS
            other.get_tightbbox()
            for axis, its in ((ax.xaxis, other.xaxis), (ax.yaxis, other.yaxis)):
                near, wanted = axis.label.get_window_extent().p0, its.label.get_window_extent().p0
                np.testing.assert_allclose(near, wanted, atol=3.5)
                its.set_label_coords(*axis.label.get_position())
        buffer = io.BytesIO()
        plain.savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    # Old versions of matplotlib round the last digit of what the layout moved.
    (ours, values), (theirs, expected) = map(split_numbers, (data, buffer.getvalue()))
    assert ours == theirs
    np.testing.assert_allclose(values, expected, atol=2e-5)


def name_on_top(matrix, ax):
    ax.plot(matrix[-1])
    ax.set_xlabel("key")
    ax.xaxis.set_label_position("top")


def name_upright(matrix, ax):
    ax.plot(matrix[-1])
    ax.set_ylabel("attention", rotation=0)


def name_of_its_own_place(matrix, ax):
    ax.plot(matrix[-1])
    ax.set_xlabel("key", va="bottom", labelpad=12)
    ax.set_ylabel("weight")
    ax.yaxis.set_label_coords(0.5, 0.4)


@pytest.mark.parametrize(
    "draw", [*FUNCS[:5], name_on_top, name_upright, name_of_its_own_place], ids=lambda draw: draw.__name__
)
def test_all_labels_are_on_the_page(draw):
    with mpl.rc_context(savers.make_rc()):
        figure = make_figure(draw)
        render_small_figure(figure, "svg")
        box = figure.get_tightbbox().extents * 72
    assert min(box) > 0
    assert box[2] < figure.bbox.width + 1
    assert box[3] < figure.bbox.height + 1


def test_a_layout_of_its_own_is_kept():
    with mpl.rc_context(savers.make_rc()):
        figure = make_figure(log_both)
        figure.set_layout_engine("constrained")
        before = figure.subplotpars.left
        assert gzip.decompress(render_small_figure(figure, "svgz")).startswith(b"<?xml")
    assert figure.subplotpars.left == before


def test_a_figure_without_axes_and_one_without_room():
    with mpl.rc_context(savers.make_rc()):
        assert render_small_figure(Figure(dpi=POINTS), "png").startswith(b"\x89PNG")
        figure = Figure((0.3, 0.3), dpi=POINTS)
        svd_spectra.__wrapped__(PATTERN, figure.add_subplot())
        assert render_small_figure(figure, "pdf").startswith(b"%PDF")
