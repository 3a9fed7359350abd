"""Attention Viewer: see what the attention heads of transformer models look at.

Names are loaded when first used, so that importing this package imports neither torch nor matplotlib.
"""

import importlib

_HOMES = {
    "AttentionMaps": "maps",
    "AttnViewerError": "errors",
    "ExperimentRecord": "experiments",
    "HeadEffect": "effects",
    "HeadScores": "analysis.table",
    "ablate_heads": "capture.intervene",
    "accumulate_columns": "analysis.sinks",
    "activations_main": "pipeline.activations",
    "atlas_main": "pipeline.atlas",
    "attention_pattern": "analysis.patterns",
    "average_maps": "analysis.compare",
    "average_scores": "analysis.table",
    "capture_attention": "capture.prefill",
    "capture_attention_calls": "capture.calls",
    "capture_generation": "capture.generation",
    "capture_image_attention": "capture.vision",
    "compare_attention": "analysis.compare",
    "compute_activations": "pipeline.activations",
    "compute_attention_flow": "analysis.rollout",
    "compute_singular_values": "analysis.spectra",
    "draw_atlas": "figures.heads",
    "draw_heatmap": "figures.heatmap",
    "draw_overview": "overview",
    "experiment": "experiments",
    "export_html": "web.page",
    "figures_main": "pipeline.figures",
    "find_sinks": "analysis.sinks",
    "get_activations": "pipeline.activations",
    "get_all_figure_names": "figures.registry",
    "group_attention": "analysis.grouping",
    "list_experiments": "experiments",
    "load_activations": "storage.folder",
    "load_experiment": "experiments",
    "load_figure_funcs": "figures.registry",
    "load_image_model": "capture.loading",
    "load_model": "capture.loading",
    "load_prompt_maps": "storage.folder",
    "load_scores": "storage.pt",
    "load_text_data": "pipeline.prompts",
    "matplotlib_figure_saver": "figures.savers",
    "matplotlib_multifigure_saver": "figures.savers",
    "matrix2drgb_to_png_bytes": "figures.images",
    "matrix_as_svg": "figures.images",
    "matrix_to_image_preprocess": "figures.images",
    "measure_effect": "effects",
    "measure_similarity": "analysis.similarity",
    "measure_sink_heads": "analysis.sinks",
    "merge_heads": "capture.intervene",
    "overlay_attention": "figures.overlay",
    "plot_atlas": "figures.heads",
    "plot_birds_eye": "figures.thumbnails",
    "plot_comparison": "figures.compare",
    "plot_effect": "figures.effects",
    "plot_heads": "figures.grids",
    "plot_layer_averages": "figures.grids",
    "plot_lines": "figures.lines",
    "plot_panels": "figures.chosen_heads",
    "plot_running_text": "figures.running_text",
    "plot_similarity": "figures.clusters",
    "rank_heads_by_effect": "effects",
    "register_attn_figure_func": "figures.registry",
    "register_attn_figure_multifunc": "figures.registry",
    "render_completions": "web.completions",
    "repeated_tokens_prompt": "analysis.repeats",
    "roll_out_attention": "analysis.rollout",
    "run_figure_funcs": "figures.runner",
    "save_completions": "web.completions",
    "save_matrix_wrapper": "figures.savers",
    "save_scores": "storage.pt",
    "score_heads": "analysis.scores",
    "select_attn_figure_funcs": "figures.registry",
    "show_attention": "web.page",
    "top_attended": "analysis.patterns",
    "use_preset": "figures.venues",
    "view_attention": "core",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_HOMES])
