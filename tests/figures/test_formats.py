import gzip
import io
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_maps
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from PIL import Image

from attn_viewer import plot_birds_eye, plot_layer_averages, plot_lines
from attn_viewer.errors import OptionError, PageSizeError
from attn_viewer.figures.formats import FORMATS, check_format, render_figure

MAGIC = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "svgz": b"\x1f\x8b"}


@pytest.fixture(scope="module")
def elsewhere():
    """The figure in each format, from another process."""
    script = (
        "import pickle, sys; sys.path.insert(0, 'tests'); from conftest import make_maps\n"
        "from attn_viewer import plot_layer_averages\n"
        "from attn_viewer.figures.formats import FORMATS, render_figure\n"
        "made = {fmt: render_figure(plot_layer_averages(make_maps(3, 2, 5)), fmt) for fmt in FORMATS}\n"
        "sys.stdout.buffer.write(pickle.dumps(made))"
    )
    return pickle.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_same_figure_gives_the_same_bytes(fmt, elsewhere):
    maps = make_maps(3, 2, 5)
    data = render_figure(plot_layer_averages(maps), fmt)
    assert data.startswith(MAGIC[fmt])
    assert render_figure(plot_layer_averages(maps), fmt) == data == elsewhere[fmt]


def test_raster_pictures_show_the_weights():
    maps = make_maps(1, 1, 4)
    figure = plot_layer_averages(maps)
    picture = np.asarray(Image.open(io.BytesIO(render_figure(figure, "png"))).convert("RGB"))
    image = figure.axes[0].images[0]
    box = image.get_window_extent()
    for row in range(4):
        for column in range(row + 1):
            x = int(box.x0 + (column + 0.5) * box.width / 4)
            y = int(picture.shape[0] - box.y1 + (row + 0.5) * box.height / 4)
            expected = np.array(image.cmap(image.norm(maps.weights[0][0, row, column]))[:3]) * 255
            np.testing.assert_allclose(picture[y, x], expected, atol=2)


def test_svgz_is_svg_without_a_date():
    data = render_figure(plot_layer_averages(make_maps()), "svgz")
    text = gzip.decompress(data)
    assert b"<svg" in text
    assert b"<dc:date>" not in text
    assert data[4:8] == b"\0\0\0\0"


@pytest.mark.parametrize(("given", "name"), [("JPG", "jpg"), (".png", "png"), ("jpeg", "jpg")])
def test_names_of_formats(given, name):
    assert check_format(given) == name


def test_an_unknown_format_is_named():
    with pytest.raises(OptionError, match="'gif'"):
        check_format("gif")


def test_eps_has_no_date_and_pgf_is_refused():
    figure, buffer = plot_layer_averages(make_maps()), io.BytesIO()
    figure.savefig(buffer, format="eps")
    assert buffer.getvalue().startswith(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert b"CreationDate" not in buffer.getvalue()
    with pytest.raises(OptionError, match="write PDF or EPS"):
        figure.savefig(io.BytesIO(), format="pgf")


def read_eps(figure):
    """Return the colours that an EPS file of a figure draws with, and the pixels of its pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="eps")
    text = buffer.getvalue().decode("latin-1")
    colours = {tuple(map(float, found)) for found in re.findall(r"^([\d.]+) ([\d.]+) ([\d.]+) setrgbcolor", text, re.M)}
    pictures = re.findall(r"false 3 colorimage\n([0-9a-f\s]+)", text)
    return colours, [np.frombuffer(bytes.fromhex(pixels), np.uint8).reshape(-1, 3) for pixels in pictures]


def test_what_is_transparent_lies_on_the_page_in_eps_which_knows_no_transparency():
    maps = make_maps(1, 1, 4)
    figure = plot_lines(maps, 0, dark=True)
    (lines,) = figure.findobj(LineCollection)
    before, ground = lines.get_colors(), np.array(to_rgb(figure.get_facecolor()))
    colours, _ = read_eps(figure)
    for *colour, alpha in before:
        blended = np.array(colour) * alpha + ground * (1 - alpha)
        assert np.abs(np.array([*colours]) - blended).max(axis=1).min() < 2e-3
    np.testing.assert_array_equal(lines.get_colors(), before)
    figure = plot_birds_eye(make_maps(2, 2, 4))
    _, pictures = read_eps(figure)
    assert not (pictures[-1] == 0).all(axis=1).any()  # gaps are white
    assert (figure.axes[-1].images[0].get_array()[..., 3] == 0).any()


def test_cells_go_into_eps_one_by_one():
    maps = make_maps(2, 3, 7)
    figure = plot_layer_averages(maps)
    _, pictures = read_eps(figure)
    assert [len(picture) for picture in pictures].count(7 * 7) == 2
    assert {image.get_interpolation() for image in figure.axes[0].images} == {"nearest"}


@pytest.mark.parametrize(("options", "size"), [({}, (900, 5)), ({}, (100, 90)), ({"dpi": 30000}, (3, 2))])
def test_pictures_past_what_files_hold_are_refused_before_they_are_drawn(options, size):
    figure = plot_layer_averages(make_maps(1, 1, 4))
    figure.set_size_inches(*size)
    for fmt in ("png", "jpg", "tif"):
        with pytest.raises(PageSizeError, match=r"pixels are more than a picture has .*write PDF"):
            figure.savefig(io.BytesIO(), format=fmt, **options)


def test_formats_that_matplotlib_does_not_write_are_named():
    with pytest.raises(OptionError, match=r"matplotlib writes .*eps, .*, got format 'bmp'"):
        plot_layer_averages(make_maps(1, 1, 4)).savefig("none.bmp")
