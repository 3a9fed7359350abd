"""The main job in one call: capture a prompt's attention, keep it, draw it."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .capture_options import GenerationOptions, PassOptions, SelectionOptions
from .declarations import takes_options
from .errors import FigureError, OptionError
from .files import check_folder, check_model_id, expand_home, make_folder, write_whole
from .options import MOST_PANELS, ExportOptions, FilePath, ViewOptions

if TYPE_CHECKING:
    import torch

    from .maps import AttentionMaps

_log = logging.getLogger(__name__)


@takes_options(
    ViewOptions,
    "save_attention_scores",
    "save_attention_scores_path",
    "load_attention_scores_path",
    "save_fig_path",
    "plot_figs_per_head",
    "ignore_first_token",
    "num_figs_per_row",
)
def view_attention(
    model: "torch.nn.Module | None" = None,
    model_id: str | None = None,
    tokenizer: Any = None,
    prompt: Any = None,
    *,
    options: ViewOptions,
) -> list[Path]:
    """Draw the attention weights of a prompt, from a model or from a cache.

    Writes ``{save_fig_path}/{model_id}/all_layers_avg.jpg`` (the mean over the heads of every layer) and, with
    `plot_figs_per_head`, ``layer_{i}.jpg`` for every layer; with `figures`,
    ``figures/L{layer}/H{head}/{name}.{format}`` for every head.

    Parameters
    ----------
    model : torch.nn.Module, optional
        A transformers model. It runs once, on its own attention, and is left as it was found. Model, tokenizer and
        prompt are not needed, nor used, where a cache is loaded.
    model_id : str, optional
        Name for titles, folder and cache; left out, the name of the model or the one in the cache.
    tokenizer : transformers tokenizer or processor, optional
        The model's.
    prompt : str, tuple of str, list of dict, token ids or mapping, optional
        Text, a pair of texts, chat messages, token ids, or model inputs; as `capture_attention` takes it.
    **options
        As `ViewOptions` declares them.

    Returns
    -------
    list of pathlib.Path
        The files written: the cache first, then the page, then the figures.

    Raises
    ------
    AttnViewerError
        Of the type that says what was wrong; see `attn_viewer.errors`. Options are checked before the model runs.
    FigureError
        At the end, when figure functions raised; all else is written.
    """
    from .figures.venues import use_preset

    check_view(options, model_id)
    if options.load_attention_scores_path is None and model is None:
        raise OptionError("view_attention needs a model and a prompt, or load_attention_scores_path")
    picture = None
    if options.image is not None:
        from .inputs.pictures import ask_about, read_picture

        picture = read_picture(options.image)
        prompt = ask_about(picture, prompt)
    maps = _get_maps(model, model_id, tokenizer, prompt, options)
    if options.figures is not None:
        from .figures.runner import check_full

        check_full(maps.reduction, maps.weighting)
    with use_preset(options.preset, columns=options.columns):
        pages = _render_pages(maps, options)
        if picture is not None and options.save_fig_path is not None:
            pages = itertools.chain(_render_picture_pages(maps, picture, options), pages)
        # What cannot be drawn is found out before anything is written.
        first = next(pages, None)
        written = _write_maps(maps, picture, options)
        if options.save_fig_path is None:
            return written
        folder = expand_home(options.save_fig_path) / maps.model_id
        for name, data in itertools.chain([] if first is None else [first], pages):
            written.append(write_whole(make_folder(folder) / f"{name}.{options.fig_format}", data))
        if options.figures is None:
            return written
        return written + _run_functions(maps, folder / "figures", written, options)


def check_view(options: ViewOptions, model_id: str | None = None) -> None:
    """Raise for the first option that is known to be wrong before a model is loaded or a cache is read."""
    from .figures.options import PanelLook

    options.check_single()
    if options.image is not None and options.save_fig_path and (options.max_new_tokens or 0) > MOST_PANELS:
        raise OptionError(
            f"a page over the image holds {MOST_PANELS} words; max_new_tokens must be {MOST_PANELS} at most"
        )
    if model_id is not None:
        check_model_id(model_id)
    PanelLook.pick(options)
    if options.preset is not None:
        from .figures.venues import find_venue

        find_venue(options.preset, columns=options.columns)
    if options.group is not None:
        from .analysis.grouping import check_grouping

        check_grouping(options.group, options.group_summary)
    if options.figures is not None:
        from .figures.registry import select_attn_figure_funcs
        from .figures.runner import check_full

        select_attn_figure_funcs(options.figures)
        if options.load_attention_scores_path is None:
            check_full("full" if options.reduction == "auto" else options.reduction, options.weighting)
    if options.save_attention_scores and options.save_attention_scores_path is not None:
        check_folder(options.save_attention_scores_path)
    if options.html_path is not None:
        from .web.page import check_page_path

        check_page_path(options.html_path)
    if options.save_fig_path is not None:
        check_folder(options.save_fig_path)
    elif options.html_path is None and not options.save_attention_scores:
        raise OptionError("nothing would be written; give save_fig_path, html_path or save_attention_scores")


def _get_maps(
    model: "torch.nn.Module | None", model_id: str | None, tokenizer: Any, prompt: Any, options: ViewOptions
) -> "AttentionMaps":
    if options.load_attention_scores_path is not None:
        maps = load_cache(options.load_attention_scores_path, options, model_id)
    else:
        maps = capture_prompt(model, model_id, tokenizer, prompt, GenerationOptions.pick(options))
        _log.info("%r, %.1f MB", maps, maps.nbytes / 2**20)
    check_model_id(maps.model_id)
    return maps


def load_cache(path: FilePath, options: SelectionOptions, model_id: str | None) -> "AttentionMaps":
    """Return the chosen layers and heads of a cache, under another name where one is given."""
    from .storage.pt import load_scores

    maps = load_scores(path).select(layers=options.layers, heads=options.heads)
    return maps if model_id is None else dataclasses.replace(maps, model_id=model_id)


def capture_prompt(
    model: Any, model_id: str | None, tokenizer: Any, prompt: Any, options: GenerationOptions
) -> "AttentionMaps":
    """Capture a prompt, and what is generated after it where `max_new_tokens` asks for that."""
    maps: AttentionMaps
    if options.max_new_tokens is None:
        from .capture.prefill import capture_attention

        maps = capture_attention(model, tokenizer, prompt, model_id=model_id, options=PassOptions.pick(options))
    else:
        from .capture.generation import capture_generation

        maps = capture_generation(model, tokenizer, prompt, model_id=model_id, options=options)
    return maps


def _render_pages(maps: "AttentionMaps", options: ViewOptions) -> Iterator[tuple[str, bytes]]:
    from .analysis.grouping import group_attention
    from .figures.options import PanelLook
    from .figures.pages import render_pages

    if options.save_fig_path is None:
        return iter(())
    sink = "hide" if options.ignore_first_token and options.sink == "keep" else options.sink
    # The pages are drawn inside of `use_preset`, as figure functions are.
    look = dataclasses.replace(PanelLook.pick(options), preset=None, columns=1, sink=sink)
    drawn = maps if options.group is None else group_attention(maps, options.group, summary=options.group_summary)
    return render_pages(
        drawn,
        look,
        options.fig_format,
        panels=options.panels,
        has_heads=options.plot_figs_per_head,
        text_as_path=options.text == "path",
        parallel=options.parallel,
        progress=options.progress,
    )


def _render_picture_pages(maps: "AttentionMaps", picture: Any, options: ViewOptions) -> Iterator[tuple[str, bytes]]:
    """Draw where each word of the completion looks in the picture, or else the last token, and how much at all."""
    from .analysis.modalities import COMPLETION
    from .figures.formats import render_figure
    from .figures.overlay import OverlayLook, overlay_attention
    from .figures.shares import ShareLook, plot_modality_share

    query = None if options.max_new_tokens is None or maps.kind == "cross" else COMPLETION
    plain: dict[str, Any] = {"preset": None, "columns": 1}
    look = dataclasses.replace(OverlayLook.pick(options), query=query, layers=None, **plain)
    shares = dataclasses.replace(ShareLook.pick(options), **plain)
    figures = {
        "overlay": overlay_attention(maps, picture, options=look),
        "modality_share": plot_modality_share(maps, options=shares),
    }
    for name, figure in figures.items():
        yield name, render_figure(figure, options.fig_format, text_as_path=options.text == "path")


def _write_maps(maps: "AttentionMaps", picture: Any, options: ViewOptions) -> list[Path]:
    written = []
    if options.save_attention_scores and options.save_attention_scores_path is not None:
        from .storage.pt import save_scores

        written.append(save_scores(maps, options.save_attention_scores_path))
    if options.html_path is not None:
        from .web.page import export_html

        written += export_html(
            maps, options.html_path, image=picture if maps.spans else None, options=ExportOptions.pick(options)
        )
    return written


def _run_functions(maps: "AttentionMaps", folder: Path, written: list[Path], options: ViewOptions) -> list[Path]:
    from .figures.registry import select_attn_figure_funcs
    from .figures.runner import run_figure_funcs

    chosen = select_attn_figure_funcs(options.figures)
    paths, failures = run_figure_funcs(maps, folder, chosen, progress=options.progress)
    if failures:
        raise FigureError(written + paths, failures)
    return list(paths)
