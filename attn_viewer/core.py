"""The main job in one call: capture a prompt's attention, keep it, draw it."""

import dataclasses
import itertools
import logging
from pathlib import Path

from .errors import FigureError, OptionError
from .files import check_folder, check_model_id, make_folder, write_whole

_log = logging.getLogger(__name__)


def view_attention(
    model=None,
    model_id=None,
    tokenizer=None,
    prompt=None,
    save_attention_scores=False,
    save_attention_scores_path=None,
    load_attention_scores_path=None,
    save_fig_path=None,
    plot_figs_per_head=False,
    ignore_first_token=False,
    num_figs_per_row=4,
    *,
    figures=None,
    html_path=None,
    max_mb=25.0,
    fit="pool",
    fig_format="jpg",
    cmap=None,
    norm="linear",
    vmin=0.0,
    vmax=None,
    scale="shared",
    layers=None,
    heads=None,
    sink="keep",
    reduction="auto",
    max_cells=256,
    pooling="max",
    weighting="attention",
    queries=None,
    dtype="float32",
    kind=None,
    decoder_prompt=None,
    max_new_tokens=None,
    generate_options=None,
    group=None,
    group_summary="sum",
    text="text",
    preset=None,
    columns=1,
    parallel=1,
    progress=None,
):
    """Draw the attention weights of a prompt, from a model or from a cache.

    Writes ``{save_fig_path}/{model_id}/all_layers_avg.jpg`` (the mean over the heads of every layer) and, with
    `plot_figs_per_head`, ``layer_{i}.jpg`` for every layer; with `figures`,
    ``figures/L{layer}/H{head}/{name}.{format}`` for every head.

    Parameters
    ----------
    model : torch.nn.Module, optional
        A transformers model. It runs once, on its own attention, and is left as it was found.
    model_id : str, optional
        Name for titles, folder and cache; left out, the name of the model or the one in the cache.
    tokenizer : transformers tokenizer, optional
        The model's tokenizer.
    prompt : str, list of dict or list of int, optional
        Text, chat messages or token ids.
    save_attention_scores : bool
        Whether to write the cache ``{save_attention_scores_path}/{model_id}_attn_scores.pt``.
    save_attention_scores_path : path-like, optional
        Folder of the cache.
    load_attention_scores_path : path-like, optional
        A cache to draw from; then model, tokenizer and prompt are neither needed nor used.
    save_fig_path : path-like, optional
        Folder of the figures; left out, no figures are written.
    plot_figs_per_head : bool
        Whether to draw every head too.
    ignore_first_token : bool
        The same as ``sink="hide"``.
    num_figs_per_row : int
        Panels side by side.
    figures : str or collection of str, optional
        Registered figure functions to run on the weights of every head: names or glob patterns such as ``"svd*"``
        (see `figures.registry`). They get the weights as they are, whatever `sink` and the scale.
    html_path : path-like, optional
        An interactive page to write, one HTML file that needs no network.
    max_mb, fit
        Size of the page, and what happens past it; as `web.page.export_html` takes them.
    fig_format : {"jpg", "png", "pdf", "svg", "svgz"}
        Format of the pages; a figure function has its own.
    cmap : str, optional
        A matplotlib colour map; left out, the one of this package.
    norm : {"linear", "power", "log", "quantile"}
        Scale from weights to colours.
    vmin, vmax : float, optional
        Ends of the scale; left out, 0 and the largest weight on a page (on all pages of heads).
    scale : {"shared", "panel"}
        One scale for all panels or one for each.
    layers, heads : sequence of int, optional
        True numbers of those to capture and draw; left out, all.
    sink : {"keep", "hide", "renormalise"}
        What happens to the first token.
    reduction : {"auto", "full", "head_mean", "pooled"}
        What is kept of the weights: everything; the mean over the heads; each head on a coarse grid; or everything
        while that stays under `capture.reduction.FULL_BUDGET` bytes and the grid past that.
    max_cells : int
        Most cells a side of a pooled map.
    pooling : {"max", "mean"}
        What is kept of a cell.
    weighting : {"attention", "value_norm"}
        Weights as they are, or each times the norm of the projected value that it weighs; see `CaptureOptions`.
    queries : slice or int, optional
        Range of query tokens, or how many of the last ones; left out, all.
    dtype : {"float32", "float16"}
        Type in which weights are kept.
    kind : {"self", "encoder", "decoder", "cross"}, optional
        Which attention of an encoder-decoder; left out, the encoder's, or the cross attention with `max_new_tokens`.
    decoder_prompt : str or list of int, optional
        What an encoder-decoder has said so far.
    max_new_tokens : int, optional
        Generate up to so many tokens, and show the attention over prompt and completion.
    generate_options : dict, optional
        More arguments of `model.generate`.
    group : {"words", "sentences", "segments"} or sequence of (str, int, int), optional
        Draw the attention between groups of tokens, as `analysis.grouping.group_attention` makes them; the cache
        keeps the tokens.
    group_summary : {"sum", "max"}
        Sum over the keys of a group and mean over its queries, or the largest weight.
    text : {"text", "path"}
        Whether SVG holds text or its outlines, which look the same without the fonts.
    preset : str, optional
        A venue such as ``"icml2024"``: figures as wide as its columns, in its fonts and font sizes, with labels beside
        the outer panels alone. Needs `tueplots`.
    columns : {1, 2}
        Columns of the venue's page that a figure spans.
    parallel : bool or int
        Processes that draw the pages of heads, True for one a core; used where that takes less time, and the files are
        the same.
    progress : bool, optional
        Whether to show a bar on stderr; left out, only when stderr is a terminal.

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
    from .analysis.grouping import group_attention
    from .figures.pages import render_pages
    from .figures.venues import use_preset

    look, fmt = check_view_options(
        model_id=model_id,
        save_attention_scores=save_attention_scores,
        save_attention_scores_path=save_attention_scores_path,
        load_attention_scores_path=load_attention_scores_path,
        save_fig_path=save_fig_path,
        figures=figures,
        html_path=html_path,
        max_mb=max_mb,
        fit=fit,
        ignore_first_token=ignore_first_token,
        fig_format=fig_format,
        sink=sink,
        num_figs_per_row=num_figs_per_row,
        cmap=cmap,
        norm=norm,
        vmin=vmin,
        vmax=vmax,
        scale=scale,
        group=group,
        group_summary=group_summary,
        text=text,
        preset=preset,
        columns=columns,
        parallel=parallel,
    )
    if figures is not None:
        from .figures.registry import select_attn_figure_funcs
        from .figures.runner import check_full, run_figure_funcs

        if load_attention_scores_path is None:
            check_full("full" if reduction == "auto" else reduction, weighting)
    if load_attention_scores_path is not None:
        maps = _load_maps(load_attention_scores_path, model_id, layers, heads)
    else:
        if model is None:
            raise OptionError("view_attention needs a model and a prompt, or load_attention_scores_path")
        options = {
            "layers": layers,
            "heads": heads,
            "queries": queries,
            "reduction": reduction,
            "max_cells": max_cells,
            "pooling": pooling,
            "weighting": weighting,
            "dtype": dtype,
            "model_id": model_id,
            "kind": kind,
        }
        if max_new_tokens is None:
            from .capture.prefill import capture_attention

            maps = capture_attention(model, tokenizer, prompt, decoder_prompt=decoder_prompt, **options)
        else:
            from .capture.generation import capture_generation

            if kind is None:
                del options["kind"]
            maps = capture_generation(
                model,
                tokenizer,
                prompt,
                max_new_tokens=max_new_tokens,
                generate_options=generate_options,
                **options,
            )
        _log.info("%r, %.1f MB", maps, maps.nbytes / 2**20)
        check_model_id(maps.model_id)
    if figures is not None:
        check_full(maps.reduction, maps.weighting)
    drawn = maps if group is None else group_attention(maps, group, summary=group_summary)
    with use_preset(preset, columns=columns):
        pages = iter(())
        if save_fig_path is not None:
            pages = render_pages(
                drawn,
                look,
                fmt,
                has_heads=plot_figs_per_head,
                text_as_path=text == "path",
                parallel=parallel,
                progress=progress,
            )
        # What cannot be drawn is found out before anything is written.
        first = next(pages, None)
        written = []
        if save_attention_scores and load_attention_scores_path is None:
            from .storage.pt import save_scores

            written.append(save_scores(maps, save_attention_scores_path))
        if html_path is not None:
            from .web.page import export_html

            written += export_html(maps, html_path, max_mb=max_mb, fit=fit, progress=progress)
        for name, data in itertools.chain([first] * (first is not None), pages):
            folder = make_folder(Path(save_fig_path) / maps.model_id)
            written.append(write_whole(folder / f"{name}.{fmt}", data))
        if figures is None:
            return written
        folder = Path(save_fig_path) / maps.model_id / "figures"
        paths, failures = run_figure_funcs(maps, folder, select_attn_figure_funcs(figures), progress=progress)
    written += paths
    if failures:
        raise FigureError(written, failures)
    return written


def check_view_options(
    *,
    model_id=None,
    save_attention_scores=False,
    save_attention_scores_path=None,
    load_attention_scores_path=None,
    save_fig_path=None,
    figures=None,
    html_path=None,
    max_mb=25.0,
    fit="pool",
    ignore_first_token=False,
    fig_format="jpg",
    sink="keep",
    plot_figs_per_head=False,
    layers=None,
    heads=None,
    group=None,
    group_summary="sum",
    text="text",
    preset=None,
    columns=1,
    parallel=1,
    **look,
):
    """Check what can be known to be wrong before a model is loaded or a cache is read.

    Parameters
    ----------
    model_id, save_attention_scores, save_attention_scores_path, load_attention_scores_path, save_fig_path
        As `view_attention` takes them; so are the others.
    figures, html_path, max_mb, fit, ignore_first_token, fig_format, sink, plot_figs_per_head, layers, heads
        Likewise.
    group, group_summary, text, preset, columns, parallel
        Likewise.
    **look
        Fields of `figures.options.GridOptions`.

    Returns
    -------
    look : dict
        All fields of `GridOptions` that were given, `ignore_first_token` worked in.
    fmt : str
        The figure format, normalised.

    Raises
    ------
    OptionError, OutputError
        For the first option that cannot be used.
    """
    from .analysis.grouping import check_grouping
    from .figures.formats import check_format
    from .figures.options import GridOptions

    look["sink"] = "hide" if ignore_first_token and sink == "keep" else sink
    GridOptions(**look)
    if text not in ("text", "path"):
        raise OptionError(f"text in SVG is 'text' or 'path' (outlines), got {text!r}")
    if isinstance(parallel, float) or not (parallel is True or int(parallel) > 0):
        raise OptionError(f"parallel must be a number of processes from 1, or True for one a core, got {parallel!r}")
    if preset is not None:
        from .figures.venues import find_venue

        find_venue(preset, columns=columns)
    if group is not None:
        check_grouping(group, group_summary)
    if model_id is not None:
        check_model_id(model_id)
    if figures is not None:
        from .figures.registry import select_attn_figure_funcs

        if save_fig_path is None:
            raise OptionError("figures need save_fig_path, the folder for them")
        select_attn_figure_funcs(figures)
    if save_attention_scores:
        if save_attention_scores_path is None:
            raise OptionError("save_attention_scores needs save_attention_scores_path, the folder of the cache")
        check_folder(save_attention_scores_path)
    if html_path is not None:
        from .web.page import check_page_options

        check_page_options(html_path, max_mb=max_mb, fit=fit)
    if save_fig_path is not None:
        check_folder(save_fig_path)
    elif html_path is None and (not save_attention_scores or load_attention_scores_path is not None):
        raise OptionError("nothing would be written; give save_fig_path, html_path or save_attention_scores")
    return look, check_format(fig_format)


def _load_maps(path, model_id, layers, heads):
    from .storage.pt import load_scores

    maps = load_scores(path).select(layers=layers, heads=heads)
    if model_id is not None:
        maps = dataclasses.replace(maps, model_id=model_id)
    check_model_id(maps.model_id)
    return maps
