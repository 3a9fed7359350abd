"""Decorators that make figure functions, and matrices as pictures; a wide matrix makes a wide SVG."""

import functools
from typing import Any

from ...errors import OptionError
from ...figures import images
from ...figures.savers import matplotlib_figure_saver as matplotlib_figure_saver
from ...figures.savers import matplotlib_multifigure_saver as matplotlib_multifigure_saver
from ...figures.savers import save_matrix_wrapper as save_matrix_wrapper
from .consts import CallError

MATPLOTLIB_FIGURE_FMT = MATRIX_SAVE_FMT = "svgz"


def _assert(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except OptionError as error:
            raise CallError(str(error)) from error

    return call


matrix2drgb_to_png_bytes = _assert(images.matrix2drgb_to_png_bytes)
matrix_as_svg = _assert(images.matrix_as_svg)
matrix_to_image_preprocess = _assert(images.matrix_to_image_preprocess)
