"""Public names of this room, and the modules that they come from."""

from .clusters import plot_similarity as plot_similarity
from .heads import draw_atlas as draw_atlas
from .images import (
    matrix2drgb_to_png_bytes as matrix2drgb_to_png_bytes,
    matrix_as_svg as matrix_as_svg,
    matrix_to_image_preprocess as matrix_to_image_preprocess,
)
from .registry import (
    get_all_figure_names as get_all_figure_names,
    load_figure_funcs as load_figure_funcs,
    register_attn_figure_multifunc as register_attn_figure_multifunc,
    select_attn_figure_funcs as select_attn_figure_funcs,
)
from .runner import run_figure_funcs as run_figure_funcs
from .savers import matplotlib_multifigure_saver as matplotlib_multifigure_saver
from .scatter import plot_head_scatter as plot_head_scatter
from .shares import plot_modality_share as plot_modality_share
