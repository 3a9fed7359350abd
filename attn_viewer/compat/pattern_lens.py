"""The functions of pattern-lens under its names, so that a program changes its imports in one place.

``from attn_viewer.compat.pattern_lens import register_attn_figure_func, matplotlib_figure_saver``
"""

from .. import (
    activations_main,
    figures_main,
    matplotlib_figure_saver,
    register_attn_figure_func,
    save_matrix_wrapper,
)
from ..figures import (
    get_all_figure_names,
    matplotlib_multifigure_saver,
    matrix2drgb_to_png_bytes,
    matrix_as_svg,
    matrix_to_image_preprocess,
    register_attn_figure_multifunc,
)
from ..pipeline import compute_activations, get_activations, load_text_data
from ..storage import load_activations

__all__ = [
    "activations_main",
    "compute_activations",
    "figures_main",
    "get_activations",
    "get_all_figure_names",
    "load_activations",
    "load_text_data",
    "matplotlib_figure_saver",
    "matplotlib_multifigure_saver",
    "matrix2drgb_to_png_bytes",
    "matrix_as_svg",
    "matrix_to_image_preprocess",
    "register_attn_figure_func",
    "register_attn_figure_multifunc",
    "save_matrix_wrapper",
]
