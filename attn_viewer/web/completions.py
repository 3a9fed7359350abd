"""Completions captured where the model runs and looked at elsewhere, without it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..capture_options import GenerationOptions
from ..declarations import takes_options
from ..errors import CacheError, OptionError, shorten
from ..files import check_folder, check_model_id, describe_place, expand_home
from ..long_runs import show_bar
from ..maps import AttentionMaps
from ..options import CompletionPageOptions, ExportOptions, FilePath
from ..storage.pt import SUFFIX, load_scores, save_scores
from .page import check_page_path, export_html

if TYPE_CHECKING:
    import torch


@takes_options(GenerationOptions, "max_new_tokens")
def save_completions(
    model: "torch.nn.Module",
    prompts: Sequence[Any],
    prefixes: Sequence[FilePath],
    *,
    tokenizer: Any = None,
    prettify_tokens: bool = True,
    model_id: str | None = None,
    progress: bool | None = None,
    options: GenerationOptions,
) -> list[Path]:
    """Complete prompts and save the attention over prompt and completion, one file each.

    A file is a `.pt` cache of tensors and plain types, read without running code; nothing is unpickled.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model that can generate.
    prompts : sequence of prompts
        Each in any form that `capture_attention` takes.
    prefixes : sequence of path-like
        Where each goes: ``{prefix}_attn_scores.pt``.
    tokenizer : transformers tokenizer, optional
        The model's; not needed for token ids.
    prettify_tokens : bool
        Whether labels are text that a person reads; else the entries of the vocabulary, such as ``Ġcold``.
    model_id : str, optional
        The model's name for titles; left out, its own.
    progress : bool, optional
        Whether to show a bar on stderr; left out, only when stderr is a terminal.
    **options
        As `GenerationOptions` declares them; ``reduction="head_mean"`` keeps the mean over heads alone.

    Returns
    -------
    list of pathlib.Path
        The files, in the order of the prompts. Each is complete before the next prompt is taken up.

    Raises
    ------
    OptionError
        If there is not one distinct prefix a prompt, or raw labels are wanted without a tokenizer.
    OutputError
        If a file cannot be written; folders are checked before the model runs.
    """
    from ..capture.generation import capture_generation

    if options.max_new_tokens is None:
        raise OptionError("save_completions needs max_new_tokens, the most tokens to generate")
    options.check_single()
    if isinstance(prompts, str) or not prompts:
        raise OptionError(f"prompts must be a sequence of at least one prompt, got {prompts!r}")
    places = _split_prefixes(prefixes)
    if len(places) != len(prompts):
        raise OptionError(f"{len(prompts)} prompts need as many prefixes, got {len(places)}")
    if not prettify_tokens and tokenizer is None:
        raise OptionError("prettify_tokens=False shows entries of the vocabulary: pass the tokenizer")
    for folder, _ in places:
        check_folder(folder)
    written = []
    with show_bar("completing", "prompt", progress, total=len(places)) as bar:
        for prompt, (folder, name) in zip(prompts, places, strict=True):
            maps = capture_generation(model, tokenizer, prompt, model_id=model_id, options=options)
            written.append(save_scores(maps if prettify_tokens else _spell_raw(maps, tokenizer), folder, name=name))
            bar.update()
    return written


@takes_options(CompletionPageOptions)
def render_completions(
    prefixes: Sequence[FilePath],
    folder: FilePath | None = None,
    *,
    options: CompletionPageOptions,
) -> list[Path]:
    """Write a page for each completion of `save_completions`; neither model nor tokenizer is needed.

    Parameters
    ----------
    prefixes : sequence of path-like
        As `save_completions` took them.
    folder : path-like, optional
        Where the pages go, as ``{name}.html``; left out, each beside its file, as ``{prefix}.html``.
    **options
        As `CompletionPageOptions` declares them.

    Returns
    -------
    list of pathlib.Path
        The pages, in the order of the prefixes; after each, the further files that ``fit="split"`` makes.

    Raises
    ------
    CacheError
        If a file is missing, damaged or unsafe; what is missing is found before anything is written.
    OptionError
        If an option cannot be used, or two pages would have one name.
    OutputError
        If a page cannot be written.
    """
    places = _split_prefixes(prefixes)
    sources = [place / f"{name}{SUFFIX}" for place, name in places]
    pages = [expand_home(folder or place) / f"{name}.html" for place, name in places]
    if len(set(pages)) < len(pages):
        raise OptionError(f"pages in one folder need distinct names, got {[name for _, name in places]}")
    for source in sources:
        if (what := describe_place(source)) != "is a file":
            raise CacheError(f"completion {shorten(str(source))} {what}; make it with save_completions")
    for page in pages:
        check_page_path(page)
    if options.zero_first_token:
        options = dataclasses.replace(options, state="&".join(part for part in (options.state, "first=hide") if part))
    written = []
    for source, page in zip(sources, pages, strict=True):
        maps = load_scores(source)
        maps = maps.average_heads() if options.average_heads else maps
        written += export_html(maps, page, options=ExportOptions.pick(options))
    return written


def _split_prefixes(prefixes: Sequence[FilePath]) -> list[tuple[Path, str]]:
    """Return folder and name of each prefix."""
    if isinstance(prefixes, (str, os.PathLike)) or not prefixes:
        raise OptionError(f"prefixes must be a sequence of at least one path without ending, got {prefixes!r}")
    paths = [expand_home(prefix) for prefix in prefixes]
    if len(set(paths)) < len(paths):
        raise OptionError(f"prefixes must be distinct, got {[str(path) for path in paths]}")
    return [(path.parent, check_model_id(path.name)) for path in paths]


def _spell_raw(maps: AttentionMaps, tokenizer: Any) -> AttentionMaps:
    if maps.ids_key is None or maps.tokens_query != maps.tokens_key:
        raise OptionError("prettify_tokens=False needs a model whose queries are its keys; leave it out for this one")
    raw = tokenizer.convert_ids_to_tokens(list(maps.ids_key))
    labels = tuple(str(token) for token in raw)
    return dataclasses.replace(maps, tokens_key=labels, tokens_query=labels)
