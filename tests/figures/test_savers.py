import gzip
import io
import os
import subprocess
import sys

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pytest
from conftest import make_maps
from matplotlib.figure import Figure
from PIL import Image
from scipy.linalg import svd

from attn_viewer import matplotlib_figure_saver, save_matrix_wrapper
from attn_viewer.errors import OptionError, OutputError
from attn_viewer.figures import matplotlib_multifigure_saver, matrix_to_image_preprocess, savers
from attn_viewer.figures.formats import FORMATS

PATTERN = make_maps(1, 1, 9).weights[0][0]


# pattern-lens's README example with its imports changed
@matplotlib_figure_saver(fmt="svgz")
def svd_spectra(attn_matrix, ax):
    _u, s, _vh = svd(attn_matrix)
    ax.plot(s, "o-")
    ax.set_yscale("log")
    ax.set_xlabel("Singular Value Index")
    ax.set_ylabel("Singular Value")
    ax.set_title("Singular Value Spectrum of Attention Matrix")


def test_the_example_of_pattern_lens_draws_all_it_says(tmp_path):
    assert svd_spectra(PATTERN, tmp_path) is None
    svg = gzip.decompress((tmp_path / "svd_spectra.svgz").read_bytes()).decode()
    for text in ("Singular Value Index", "Singular Value", "Singular Value Spectrum of Attention Matrix"):
        assert f">{text}</text>" in svg
    assert svd_spectra.figure_save_fmt == "svgz"
    assert svd_spectra.__name__ == "svd_spectra"


@pytest.mark.parametrize("fmt", FORMATS)
def test_any_function_of_axes_in_any_format(tmp_path, fmt):
    @matplotlib_figure_saver(fmt=fmt.upper())
    def shown(matrix, ax):
        ax.matshow(matrix, cmap="viridis")
        ax.axis("off")

    shown(PATTERN, str(tmp_path))
    (path,) = tmp_path.iterdir()
    assert path.name == f"shown.{fmt}"
    if fmt in ("jpg", "png"):
        picture = Image.open(io.BytesIO(path.read_bytes()))
        assert picture.size == (975, 660)  # 3.25 × 2.2 inches at 300 dpi
        np.testing.assert_allclose(picture.info["dpi"], 300, atol=1)


def test_saver_without_arguments_and_without_pyplot(tmp_path):
    def open_figures():
        return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []

    before = dict(mpl.rcParams), open_figures()

    @matplotlib_figure_saver
    def plain(matrix, ax):
        ax.plot(matrix)

    plain(PATTERN, tmp_path)
    assert (tmp_path / "plain.svgz").is_file()
    assert (dict(mpl.rcParams), open_figures()) == before


def draw_and_close(matrix, ax):
    from matplotlib import pyplot

    pyplot.subplots()[1].plot(matrix)
    pyplot.close()


NOTHING = {
    "nothing": lambda matrix, ax: None,
    "a figure closed since": draw_and_close,
    "a figure of its own": lambda matrix, ax: Figure().add_subplot().plot(matrix),
    "cleared": lambda matrix, ax: (ax.plot(matrix), ax.figure.clear()),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_page_on_which_nothing_is_drawn_is_refused(tmp_path, name):
    with pytest.raises(OptionError, match="drew nothing into the axes that it is given; a figure of its own"):
        matplotlib_figure_saver(fmt="png")(NOTHING[name])(PATTERN, tmp_path)

    @matplotlib_multifigure_saver(["left", "right"], fmt="png")
    def half(matrix, axes):
        axes["left"].plot(matrix)
        NOTHING[name](matrix, axes["right"])

    with pytest.raises(OptionError, match="nothing into the axes 'right'"):
        half(PATTERN, tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("draw", ["subplot", "add_subplot", "subplots", "twinx"])
def test_axes_under_others_are_taken_away_but_not_those_that_share(tmp_path, draw, monkeypatch):
    from matplotlib import pyplot

    figures = []
    render = savers.render_small_figure
    monkeypatch.setattr(
        savers, "render_small_figure", lambda figure, fmt: figures.append(figure) or render(figure, fmt)
    )

    @matplotlib_figure_saver(fmt="svg")
    def halves(matrix, ax):
        if draw == "twinx":
            ax.twinx().plot(matrix)
        elif draw == "subplots":
            ax.figure.subplots(1, 2)[0].imshow(matrix)
        else:
            add = pyplot.subplot if draw == "subplot" else ax.figure.add_subplot
            add(1, 2, 1).imshow(matrix)
            add(1, 2, 2).plot(matrix)

    halves(PATTERN, tmp_path)
    (figure,) = figures
    assert len(figure.axes) == 2
    left, right = (ax.get_position() for ax in figure.axes)
    assert (left.x1 < right.x0) == (draw != "twinx")


def test_a_dark_style_sheet_draws_nothing_white_on_the_white_page(tmp_path):
    def boxes(matrix, ax):
        ax.boxplot(matrix, widths=0.9)
        ax.fill_between([1, 2, 3], [0, 1, 2])

    files = []
    for style in ({}, mpl.style.library["dark_background"]):
        with mpl.rc_context(style):
            matplotlib_figure_saver(fmt="png")(boxes)(PATTERN, tmp_path)
        files.append((tmp_path / "boxes.png").read_bytes())
    assert files[0] == files[1]


def test_several_figures_or_none(tmp_path):
    @matplotlib_multifigure_saver(["left", "right side"], fmt="svg")
    def both(matrix, axes):
        assert [*axes] == ["left", "right side"]
        axes["left"].set_title("L")
        if matrix.shape == (1, 1):
            raise ValueError("too small")
        axes["right side"].set_title("R")

    with pytest.raises(ValueError, match="too small"):
        both(np.ones((1, 1)), tmp_path)
    assert [*tmp_path.iterdir()] == []
    both(PATTERN, tmp_path)
    assert ">L</text>" in (tmp_path / "both.left.svg").read_text()
    assert ">R</text>" in (tmp_path / "both.right side.svg").read_text()


@pytest.mark.parametrize("fmt", ["png", "svg", "svgz"])
def test_a_matrix_is_saved_cell_by_cell(tmp_path, fmt):
    @save_matrix_wrapper(fmt=fmt, normalize=True, cmap="Blues")
    def doubled(matrix):
        return matrix * 2

    doubled(PATTERN, tmp_path)
    data = (tmp_path / f"doubled.{fmt}").read_bytes()
    assert doubled.figure_save_fmt == fmt
    if fmt == "png":
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(picture, matrix_to_image_preprocess(PATTERN, normalize=True, cmap="Blues"))
    else:
        assert (gzip.decompress(data) if fmt == "svgz" else data).startswith(b"<svg ")


def test_a_matrix_may_be_of_any_shape(tmp_path):
    @save_matrix_wrapper
    def mean_row(matrix):
        return matrix.mean(axis=0, keepdims=True)

    mean_row(PATTERN, tmp_path)
    assert b'width="9" height="1"' in gzip.decompress((tmp_path / "mean_row.svgz").read_bytes())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: matplotlib_figure_saver(fmt="gif"), "'gif'"),
        (lambda: matplotlib_multifigure_saver(["a"], fmt="gif"), "'gif'"),
        (lambda: matplotlib_multifigure_saver(["a", "a"]), "distinct"),
        (lambda: save_matrix_wrapper(fmt="pdf"), "png, svg, svgz, got 'pdf'"),
        (lambda: save_matrix_wrapper(cmap="none"), "no colour map"),
        (lambda: save_matrix_wrapper(normalize_min=0), "goes with normalize=True"),
    ],
)
def test_options_are_checked_at_once(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        svd_spectra(PATTERN, tmp_path / "none")


SCRIPT = """
import sys
sys.path.insert(0, "tests")
from conftest import make_maps
from attn_viewer import matplotlib_figure_saver, save_matrix_wrapper
from attn_viewer.figures import select_attn_figure_funcs

def lines(matrix, ax):
    ax.plot(matrix)
    ax.set_yscale("log")
    ax.fill_between(range(9), matrix[-1], clip_on=True)
    ax.figure.colorbar(ax.imshow(matrix))

for func in select_attn_figure_funcs():
    func(make_maps(1, 1, 9).weights[0][0], sys.argv[1])
for fmt in ("jpg", "png", "pdf", "svg", "svgz"):
    matplotlib_figure_saver(fmt=fmt)(lines)(make_maps(1, 1, 9).weights[0][0], sys.argv[1])
def cells(matrix):
    return matrix
for fmt in ("png", "svg", "svgz"):
    save_matrix_wrapper(fmt=fmt)(cells)(make_maps(1, 1, 9).weights[0][0], sys.argv[1])
"""


@pytest.mark.slow  # test_formats.py compares pages with those of another process
def test_the_same_bytes_in_two_processes_for_all_formats(tmp_path):
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / name)], check=True)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert len(files[0]) == 6 + 5 + 3
    assert files[0] == files[1]


def test_a_figure_does_not_depend_on_those_before_it(tmp_path):
    @matplotlib_figure_saver(fmt="svg")
    def wild(matrix, ax):
        ax.set_xscale("log")
        ax.tick_params(axis="both", which="both", rotation=40, length=9, labelcolor="red")
        ax.figure.set_size_inches(1, 5)
        ax.figure.suptitle("wild")
        for label in ax.get_yticklabels():
            label.set_fontsize(20)

    svd_spectra(PATTERN, tmp_path)
    first = (tmp_path / "svd_spectra.svgz").read_bytes()
    wild(PATTERN, tmp_path)
    svd_spectra(PATTERN, tmp_path)
    assert (tmp_path / "svd_spectra.svgz").read_bytes() == first


def test_savers_leave_no_figure_behind(tmp_path):
    import gc

    svd_spectra(PATTERN, tmp_path)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Figure) and thing.get_axes()
                and thing.axes[0].get_ylabel() == "Singular Value"]  # fmt: skip


def test_pyplot_draws_into_the_axes_and_keeps_nothing(tmp_path):
    from matplotlib import pyplot

    mine = [pyplot.figure(), pyplot.figure()]
    pyplot.figure(mine[0].number)
    mine[0].gca().set_title("mine")

    @matplotlib_figure_saver(fmt="svg")
    def drawn(matrix, ax):
        assert pyplot.gca() is ax
        pyplot.plot(matrix[0])
        pyplot.xlabel("of pyplot")
        pyplot.title("titled")
        pyplot.close()

    @matplotlib_multifigure_saver(["one", "two"], fmt="svg")
    def several(matrix, axes):
        pyplot.title("first")
        pyplot.sca(axes["two"])
        pyplot.title("second")

    @matplotlib_figure_saver
    def elsewhere(matrix, ax):
        pyplot.subplots()[1].plot(matrix)

    @matplotlib_figure_saver
    def fails(matrix, ax):
        pyplot.figure()
        raise KeyError("on purpose")

    try:
        pattern = np.tri(4)
        drawn(pattern, tmp_path)
        several(pattern, tmp_path)
        with pytest.raises(OptionError, match="figure of its own"):
            elsewhere(pattern, tmp_path)
        with pytest.raises(KeyError):
            fails(pattern, tmp_path)
        text = (tmp_path / "drawn.svg").read_text()
        assert "of pyplot" in text
        assert "titled" in text
        assert "first" in (tmp_path / "several.one.svg").read_text()
        assert "second" in (tmp_path / "several.two.svg").read_text()
        assert pyplot.get_fignums() == [figure.number for figure in sorted(mine, key=lambda f: f.number)]
        assert pyplot.gcf() is mine[0]
        assert pyplot.gca().get_title() == "mine"
    finally:
        pyplot.close("all")
    assert sorted(os.listdir(tmp_path)) == ["drawn.svg", "several.one.svg", "several.two.svg"]
