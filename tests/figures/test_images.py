import base64
import io
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from attn_viewer.errors import OptionError
from attn_viewer.figures import matrix2drgb_to_png_bytes, matrix_as_svg, matrix_to_image_preprocess
from attn_viewer.figures.images import LAST_COLOUR, MISSING, encode_indices, index_matrix, make_palette
from attn_viewer.figures.scales import get_colormap


def get_colour(share, cmap=None, diverging=False):
    cmap = get_colormap(cmap, diverging=diverging)
    return np.rint(np.array(cmap(float(share))[:3]) * 255).astype(int)


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e6, 1e6)))
def test_normalised_numbers_span_the_colours(matrix):
    indices = index_matrix(matrix, normalize=True)
    low, high = matrix.min(), matrix.max()
    if low == high:
        assert (indices == 0).all()
    else:
        np.testing.assert_array_equal(indices[matrix == low], 0)
        np.testing.assert_array_equal(indices[matrix == high], LAST_COLOUR)
        shares = (matrix - low) / (high - low)
        np.testing.assert_allclose(indices / LAST_COLOUR, shares, atol=0.51 / LAST_COLOUR)


@given(arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32)), st.booleans())
def test_zero_is_in_the_middle_of_a_diverging_map_normalised_or_not(matrix, normalize):
    matrix[1, 2] = 0
    options = {"normalize": normalize, "diverging_colormap": True}
    assert index_matrix(matrix, **options)[1, 2] == LAST_COLOUR // 2
    picture = matrix_to_image_preprocess(matrix, cmap="RdBu", **options)
    np.testing.assert_allclose(picture[1, 2], get_colour(0.5, "RdBu"), atol=1)
    mirrored = index_matrix(-matrix, **options).astype(int)
    np.testing.assert_allclose(mirrored + index_matrix(matrix, **options), LAST_COLOUR, atol=1)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bool"])
def test_tensors_are_coloured_as_arrays_are(kind):
    matrix = torch.eye(3).to(getattr(torch, kind))
    matrix = matrix.requires_grad_() if kind != "bool" else matrix
    np.testing.assert_array_equal(matrix_to_image_preprocess(matrix), matrix_to_image_preprocess(np.eye(3)))


def test_colours_are_those_of_the_map():
    matrix = np.array([[0.0, 0.25], [0.5, 1.0]])
    for cmap, given_ in ((None, None), ("viridis", "viridis"), ("viridis", mpl.colormaps["viridis"])):
        picture = matrix_to_image_preprocess(matrix, cmap=given_)
        assert (picture.dtype, picture.shape) == (np.uint8, (2, 2, 3))
        for where in np.ndindex(2, 2):
            np.testing.assert_allclose(picture[where], get_colour(matrix[where], cmap), atol=3)


@pytest.mark.parametrize(
    ("matrix", "options", "expected"),
    [
        ([[0.2, 0.2]], {"normalize": True}, [[0, 0]]),
        ([[0.0, 0.0]], {"normalize": True}, [[0, 0]]),
        ([[0.0, 0.0]], {"normalize": True, "diverging_colormap": True}, [[127, 127]]),
        ([[3.0, 3.0]], {"normalize": True, "normalize_min": 0}, [[254, 254]]),
        ([[0.0, 0.0]], {"normalize": True, "normalize_min": 0}, [[0, 0]]),
        ([[1.0, 2.0]], {"normalize": True, "normalize_min": 0}, [[127, 254]]),
        ([[-1.0, 2.0]], {"normalize": True, "normalize_min": 0}, [[0, 254]]),
        ([[np.nan, 1.0]], {}, [[MISSING, 254]]),
        ([[np.nan, np.nan]], {"normalize": True}, [[MISSING, MISSING]]),
        (np.ma.masked_array([[0, 1]], [[True, False]]), {}, [[MISSING, 254]]),
        ([[0, 1]], {}, [[0, 254]]),
        ([[True, False]], {}, [[254, 0]]),
        (np.array([[1e-7, 65504]], np.float16), {"normalize": True}, [[0, 254]]),
    ],
)
def test_corners(matrix, options, expected):
    np.testing.assert_array_equal(index_matrix(matrix, **options), expected)


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.zeros(3), {}, r"shape \(3,\)"),
        (np.zeros((0, 3)), {}, r"shape \(0, 3\)"),
        ([["a"]], {}, "real numbers"),
        ([[1j]], {}, "real numbers"),
        (None, {}, "real numbers"),
        ([[1], [1, 2]], {}, "real numbers"),
        ([[1.5]], {}, r"range \[0, 1\], or normalize must be True; got 1.5 to 1.5"),
        ([[-0.1]], {}, r"range \[0, 1\]"),
        ([[-1.1]], {"diverging_colormap": True}, r"range \[-1, 1\]"),
        ([[np.inf]], {"normalize": True}, "finite"),
        ([[0.5]], {"normalize_min": 0.0}, "goes with normalize=True"),
        ([[0.5]], {"normalize": True, "diverging_colormap": True, "normalize_min": 0.0}, "goes with"),
        ([[0.5]], {"normalize": True, "normalize_min": 0.6}, "must not be above the largest number"),
        ([[0.5]], {"cmap": "none"}, "no colour map 'none'"),
        ([[0.5]], {"cmap": 7}, "cmap must be text or Colormap, got 7"),
    ],
)
def test_what_cannot_be_coloured(matrix, options, message):
    with pytest.raises(OptionError, match=message):
        matrix_to_image_preprocess(matrix, **options)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_holds_the_pixels(picture):
    data = matrix2drgb_to_png_bytes(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    buffer = io.BytesIO()
    assert matrix2drgb_to_png_bytes(picture, buffer) is None
    assert buffer.getvalue() == data


def test_a_real_pattern_as_png_is_a_column_wide(demo_maps):
    pattern = demo_maps.weights[0][0]
    indices, palette = index_matrix(pattern), make_palette()
    picture = Image.open(io.BytesIO(encode_indices(indices, palette)))
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), matrix_to_image_preprocess(pattern))
    assert len(pattern) / picture.info["dpi"][0] == pytest.approx(3.25, rel=0.1)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3)),
                                   np.zeros((0, 2, 3), np.uint8), [[1]], None])  # fmt: skip
def test_what_is_no_picture(wrong):
    with pytest.raises(OptionError, match="RGB picture"):
        matrix2drgb_to_png_bytes(wrong)


def test_svg_has_width_and_height_in_order():
    matrix = np.linspace(0, 1, 6).reshape(2, 3)
    svg = matrix_as_svg(matrix)
    assert re.findall(r'viewBox="([^"]*)"', svg) == ["0 0 3 2"]
    assert re.findall(r'width="(\d+)" height="(\d+)"', svg) == [("3", "2")] * 2
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", svg)[1])))
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), matrix_to_image_preprocess(matrix))


def test_palettes_are_not_changed_by_anyone():
    with pytest.raises(ValueError, match="read-only"):
        make_palette()[0] = 0


def test_no_drawing_is_loaded():
    code = "import sys, attn_viewer\nattn_viewer.figures.matrix_as_svg([[0.5]])\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "matplotlib.pyplot", "matplotlib.figure"} & set(out.split())
