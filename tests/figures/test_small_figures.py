import gzip
import io
import itertools
import re

import matplotlib as mpl
import numpy as np
import pytest
from conftest import make_maps
from matplotlib.figure import Figure
from matplotlib.text import Text

from attn_viewer.figures import savers
from attn_viewer.figures.builtin import attention_by_distance, svd_spectra
from attn_viewer.figures.small_figures import POINTS, RASTER_DPI, SIDES, render_small_figure, write_plainly
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


def label_in(ax):
    """Write labels along all sides that are written along as a rule."""
    ax.plot(np.arange(40), "o-")
    ax.set_title("A title")
    ax.set_xlabel("key")
    ax.set_ylabel("weight")


# What people say about axes, by its name.
HABITS = {
    "name on top": lambda ax: ax.xaxis.set_label_position("top"),
    "name upright": lambda ax: ax.set_ylabel("weight", rotation=0, ha="right"),
    "name in another place": lambda ax: ax.yaxis.set_label_coords(0.5, 0.4),
    "name hanging": lambda ax: ax.set_xlabel("key", va="bottom", labelpad=12),
    "large names": lambda ax: [axis.label.set_fontsize(18) for axis in (ax.xaxis, ax.yaxis)],
    "boxed name": lambda ax: ax.set_ylabel("weight", bbox={"pad": 12}),
    "large title": lambda ax: ax.set_title("A title", fontsize=24),
    "title made larger": lambda ax: ax.title.set_fontsize(20),
    "title far up": lambda ax: ax.set_title("A title", pad=20),
    "title higher": lambda ax: ax.set_title("A title", y=1.1),
    "title below": lambda ax: ax.set_title("A title", y=-0.4),
    "turned title": lambda ax: ax.set_title("A title", rotation=30),
    "three titles": lambda ax: [ax.set_title(f"at the {side}", fontsize=11, loc=side) for side in ("left", "right")],
    "long ticks": lambda ax: ax.tick_params(length=15),
    "long minor ticks": lambda ax: (ax.minorticks_on(), ax.tick_params(which="minor", length=15)),
    "numbers far off": lambda ax: ax.tick_params(pad=14),
    "large numbers": lambda ax: ax.tick_params(labelsize=16),
    "numbers of minor ticks": lambda ax: ax.set_xticks([5, 15], ["two\nlines", "two\nlines"], minor=True),
    "spines outside": lambda ax: [ax.spines[side].set_position(("outward", 20)) for side in ("left", "bottom")],
    "square cells": lambda ax: ax.set_aspect("equal"),
    "square": lambda ax: ax.set_box_aspect(1),
    "place of its own": lambda ax: ax.set_position((0.4, 0.4, 0.3, 0.3)),
    "many powers of ten": lambda ax: (ax.set_xscale("log"), ax.set_xlim(1e-9, 1e9)),
    "long names": lambda ax: ax.set_yticks([0, 20], ["the very long name of a token", "another name as long as that"]),
    "text at the edge": lambda ax: ax.text(1.02, 0.5, "beside", transform=ax.transAxes),
}


def find_labels(ax):
    """Return the boxes of all that is written along the sides of axes, pixels, by text and number."""
    texts = [*ax.texts, ax.xaxis.label, ax.yaxis.label]
    texts += [child for child in ax.get_children() if isinstance(child, Text) and child not in ax.texts]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            texts += [tick.label1, tick.label2] if low <= tick.get_loc() <= high else []
    return {(n, text.get_text()): text.get_window_extent() for n, text in enumerate(texts) if text.get_text()}


def check_boxes(boxes, figure):
    """Assert that texts, by name, are on the page and not over one another."""
    for name, box in boxes.items():
        assert min(box.p0) > -1, name
        assert (box.p1 < figure.bbox.size + 1).all(), name
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        shared = np.minimum(a.p1, b.p1) - np.maximum(a.p0, b.p0)
        assert shared.min() < 1.5, (one, other)


@pytest.mark.parametrize("habit", HABITS)
def test_what_people_say_about_axes_is_on_the_page_and_apart(habit):
    with mpl.rc_context(savers.make_rc()):
        figure = Figure(savers.SIZE, dpi=POINTS)
        figure.subplots_adjust(**SIDES)
        ax = figure.add_subplot()
        label_in(ax)
        HABITS[habit](ax)
        render_small_figure(figure, "png")
        figure.dpi = POINTS
        figure.draw_without_rendering()
        boxes = find_labels(ax)
    assert {"A title", "key", "weight"} <= {text for _, text in boxes}
    check_boxes(boxes, figure)


def list_boxes(figure):
    """Return the boxes of all that is written in a figure, points, by text and number."""
    figure.dpi = POINTS
    figure.draw_without_rendering()
    boxes = {(-n, text.get_text()): text.get_window_extent() for n, text in enumerate(figure.texts, 1)}
    for n, ax in enumerate(figure.axes):
        boxes |= {(100 * n + i, text): box for (i, text), box in find_labels(ax).items()}
    return boxes


def draw_four(figure, **look):
    for ax in figure.subplots(2, 2, **look).flat:
        ax.imshow(PATTERN)
        ax.set(title="head", xlabel="key", ylabel="query")


LONG = "a name so long that it goes on and on, longer than any page of a column, be it upright or turned, and further"
# What people write beside axes, and axes side by side.
PAGES = {
    "four": draw_four,
    "four under a title": lambda figure: (draw_four(figure), figure.suptitle("all"), figure.supylabel("heads")),
    "four and a bar": lambda figure: (draw_four(figure), figure.colorbar(figure.axes[0].images[0], ax=figure.axes)),
    "stacked": lambda figure: [label_in(ax) for ax in figure.subplots(2)],
    "note below": lambda figure: (label_in(figure.add_subplot()), figure.text(0.5, 0.01, "a note", ha="center")),
    "note beside": lambda figure: (label_in(figure.add_subplot()), figure.text(0.01, 0.5, "note", rotation=90)),
    "names of all": lambda figure: (label_in(figure.add_subplot()), figure.supxlabel("x"), figure.supylabel("y")),
    "long title": lambda figure: figure.add_subplot().set_title(LONG),
    "long title from the left": lambda figure: figure.add_subplot().set_title(LONG, loc="left"),
    "long names": lambda figure: figure.add_subplot().set(xlabel=LONG, ylabel=LONG),
    "long title of all": lambda figure: (label_in(figure.add_subplot()), figure.suptitle(LONG)),
    "one long word": lambda figure: figure.add_subplot().set_title("unbreakable" * 20),
    "parts": lambda figure: [label_in(part.add_subplot()) for part in figure.subfigures(1, 2)],
}


@pytest.mark.parametrize("name", PAGES)
def test_axes_side_by_side_and_words_beside_them_are_on_the_page_and_apart(name):
    with mpl.rc_context(savers.make_rc()):
        figure = Figure(savers.SIZE, dpi=POINTS)
        figure.subplots_adjust(**SIDES)
        PAGES[name](figure)
        words = "".join(text for _, text in list_boxes(figure))
        render_small_figure(figure, "png")
        boxes = list_boxes(figure)
    shown = re.sub(r"\s", "", "".join(text for _, text in boxes))
    if "word" not in name:  # numbers of ticks may be others
        assert sorted(filter(str.isalpha, shown)) == sorted(filter(str.isalpha, re.sub(r"\s", "", words)))
    check_boxes(boxes, figure)


def test_a_distance_that_somebody_chose_is_kept():
    with mpl.rc_context(savers.make_rc()):
        figure = Figure(savers.SIZE, dpi=POINTS)
        upper, lower = figure.subplots(2, sharex=True, gridspec_kw={"hspace": 0})
        upper.plot(PATTERN[-1])
        lower.set_xlabel("key")
        render_small_figure(figure, "svg")
    assert upper.get_position().y0 == pytest.approx(lower.get_position().y1)


@pytest.mark.parametrize("values", [[2, 5, 8], [1e-3, 1e3]], ids=str)
def test_a_logarithmic_axis_has_two_numbers_at_least(values):
    with mpl.rc_context(savers.make_rc()):
        figure = make_figure(lambda _, ax: ax.semilogy(values))
        render_small_figure(figure, "svg")
        ax = figure.axes[0]
        low, high = ax.get_ylim()
        ticks = [*ax.yaxis.get_major_ticks(), *ax.yaxis.get_minor_ticks()]
        assert sum(low <= tick.get_loc() <= high and bool(tick.label1.get_text()) for tick in ticks) >= 2


@pytest.mark.parametrize("draw", FUNCS[:5], ids=lambda draw: draw.__name__)
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
