"""Public names, and the modules that they come from: `lazy_loader` reads this file too."""

from . import (
    analysis as analysis,
    experiments as experiments,
    figures as figures,
    interventions as interventions,
    options as options,
    pipeline as pipeline,
    storage as storage,
)
from .analysis.compare import average_maps as average_maps, compare_attention as compare_attention
from .analysis.grouping import group_attention as group_attention
from .analysis.patterns import top_attended as top_attended
from .analysis.rollout import roll_out_attention as roll_out_attention
from .analysis.scores import score_heads as score_heads
from .capture.calls import capture_attention_calls as capture_attention_calls
from .capture.circuits import measure_circuits as measure_circuits
from .capture.generation import capture_generation as capture_generation
from .capture.loading import load_image_model as load_image_model, load_model as load_model
from .capture.numbering import register_attention as register_attention
from .capture.prefill import capture_attention as capture_attention
from .capture.vision import capture_image_attention as capture_image_attention
from .core import view_attention as view_attention
from .errors import AttnViewerError as AttnViewerError
from .experiments import experiment as experiment
from .figures.chosen_heads import plot_panels as plot_panels
from .figures.compare import plot_comparison as plot_comparison
from .figures.effects import plot_effect as plot_effect
from .figures.grids import plot_heads as plot_heads, plot_layer_averages as plot_layer_averages
from .figures.heads import plot_atlas as plot_atlas
from .figures.heatmap import draw_heatmap as draw_heatmap
from .figures.lines import plot_lines as plot_lines
from .figures.overlay import overlay_attention as overlay_attention
from .figures.registry import register_attn_figure_func as register_attn_figure_func
from .figures.running_text import plot_running_text as plot_running_text
from .figures.savers import (
    matplotlib_figure_saver as matplotlib_figure_saver,
    save_matrix_wrapper as save_matrix_wrapper,
)
from .figures.thumbnails import plot_birds_eye as plot_birds_eye
from .figures.venues import use_preset as use_preset
from .interventions.changed_heads import ablate_heads as ablate_heads, merge_heads as merge_heads
from .interventions.head_effects import measure_effect as measure_effect, rank_heads_by_effect as rank_heads_by_effect
from .maps import AttentionMaps as AttentionMaps
from .options import ViewOptions as ViewOptions
from .overview import plot_overview as plot_overview
from .pipeline.activations import activations_main as activations_main
from .pipeline.atlas import atlas_main as atlas_main
from .pipeline.figures import figures_main as figures_main
from .storage.pt import load_scores as load_scores, save_scores as save_scores
from .web.completions import render_completions as render_completions, save_completions as save_completions
from .web.page import export_html as export_html, show_attention as show_attention
from .web.site import write_site as write_site

__version__: str
