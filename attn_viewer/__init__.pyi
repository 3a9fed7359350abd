"""Public names, and the modules that they come from: `lazy_loader` reads this file too."""

from .analysis.compare import average_maps as average_maps, compare_attention as compare_attention
from .analysis.grouping import group_attention as group_attention
from .analysis.patterns import attention_pattern as attention_pattern, top_attended as top_attended
from .analysis.repeats import repeated_tokens_prompt as repeated_tokens_prompt
from .analysis.rollout import compute_attention_flow as compute_attention_flow, roll_out_attention as roll_out_attention
from .analysis.scores import score_heads as score_heads
from .analysis.similarity import measure_similarity as measure_similarity
from .analysis.sinks import (
    accumulate_columns as accumulate_columns,
    find_sinks as find_sinks,
    measure_sink_heads as measure_sink_heads,
)
from .analysis.spectra import compute_singular_values as compute_singular_values
from .analysis.table import HeadScores as HeadScores, average_scores as average_scores
from .capture.calls import capture_attention_calls as capture_attention_calls
from .capture.generation import capture_generation as capture_generation
from .capture.loading import load_image_model as load_image_model, load_model as load_model
from .capture.prefill import capture_attention as capture_attention
from .capture.vision import capture_image_attention as capture_image_attention
from .core import view_attention as view_attention
from .errors import AttnViewerError as AttnViewerError
from .experiments import (
    ExperimentRecord as ExperimentRecord,
    experiment as experiment,
    list_experiments as list_experiments,
    load_experiment as load_experiment,
)
from .figures.chosen_heads import plot_panels as plot_panels
from .figures.clusters import plot_similarity as plot_similarity
from .figures.compare import plot_comparison as plot_comparison
from .figures.effects import plot_effect as plot_effect
from .figures.grids import plot_heads as plot_heads, plot_layer_averages as plot_layer_averages
from .figures.heads import draw_atlas as draw_atlas, plot_atlas as plot_atlas
from .figures.heatmap import draw_heatmap as draw_heatmap
from .figures.images import (
    matrix2drgb_to_png_bytes as matrix2drgb_to_png_bytes,
    matrix_as_svg as matrix_as_svg,
    matrix_to_image_preprocess as matrix_to_image_preprocess,
)
from .figures.lines import plot_lines as plot_lines
from .figures.overlay import overlay_attention as overlay_attention
from .figures.registry import (
    get_all_figure_names as get_all_figure_names,
    load_figure_funcs as load_figure_funcs,
    register_attn_figure_func as register_attn_figure_func,
    register_attn_figure_multifunc as register_attn_figure_multifunc,
    select_attn_figure_funcs as select_attn_figure_funcs,
)
from .figures.runner import run_figure_funcs as run_figure_funcs
from .figures.running_text import plot_running_text as plot_running_text
from .figures.savers import (
    matplotlib_figure_saver as matplotlib_figure_saver,
    matplotlib_multifigure_saver as matplotlib_multifigure_saver,
    save_matrix_wrapper as save_matrix_wrapper,
)
from .figures.thumbnails import plot_birds_eye as plot_birds_eye
from .figures.venues import use_preset as use_preset
from .interventions.changed_heads import ablate_heads as ablate_heads, merge_heads as merge_heads
from .interventions.head_effects import (
    HeadEffect as HeadEffect,
    measure_effect as measure_effect,
    rank_heads_by_effect as rank_heads_by_effect,
)
from .maps import AttentionMaps as AttentionMaps
from .options import (
    CaptureOptions as CaptureOptions,
    GenerationOptions as GenerationOptions,
    LookOptions as LookOptions,
    PageOptions as PageOptions,
    PanelOptions as PanelOptions,
    PassOptions as PassOptions,
    RunOptions as RunOptions,
    ViewOptions as ViewOptions,
)
from .overview import draw_overview as draw_overview
from .pipeline.activations import (
    activations_main as activations_main,
    compute_activations as compute_activations,
    get_activations as get_activations,
)
from .pipeline.atlas import atlas_main as atlas_main
from .pipeline.figures import figures_main as figures_main
from .pipeline.prompts import load_text_data as load_text_data
from .storage.folder import load_activations as load_activations, load_prompt_maps as load_prompt_maps
from .storage.pt import load_scores as load_scores, save_scores as save_scores
from .web.completions import render_completions as render_completions, save_completions as save_completions
from .web.page import export_html as export_html, show_attention as show_attention

__version__: str
