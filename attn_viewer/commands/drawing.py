"""``attn-viewer view``, ``html``, ``overview`` and ``overlay``: from a prompt, an image or a cache to pictures."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from ..capture_options import PictureOptions, captured
from ..declarations import option
from ..errors import FigureError, OptionError
from ..options import (
    CacheOptions,
    ColourOptions,
    FigureOptions,
    OverlayOptions,
    Overview,
    PageOptions,
    ViewOptions,
)
from ..selections import parse_names
from .arguments import (
    FAILED,
    Command,
    LoadOptions,
    NameOptions,
    PromptOptions,
    QuietOptions,
    SamplingOptions,
    check_output,
    get_maps,
    load_model,
    prepare_generation,
    read_prompt,
    show_messages,
    write_figures,
)

if TYPE_CHECKING:
    from ..maps import AttentionMaps


class ViewWords(
    LoadOptions,
    PromptOptions,
    SamplingOptions,
    ViewOptions,
    QuietOptions,
    save_fig_path="./vis",
    save_attention_scores_path="./attn_scores",
):
    """More figures."""

    figures_from: str | None = option(
        None,
        "Python file that registers figure functions; it is run, and all of its run without --figures",
        metavar="FILE",
    )


def _view(asked: ViewWords) -> int:
    options = ViewOptions.pick(asked)
    if asked.figures_from is not None:
        from ..figures.registry import load_figure_funcs

        loaded = load_figure_funcs(asked.figures_from)
        options = dataclasses.replace(options, figures=loaded if asked.figures is None else asked.figures)
    if not asked.save_attention_scores:
        options = dataclasses.replace(options, save_attention_scores_path=None)
    return _view_prompt(asked, options)


def _view_prompt(asked: Any, options: ViewOptions) -> int:
    """Call `view_attention` and print what it wrote, also where figure functions failed; return the exit status."""
    from ..core import check_view, view_attention

    check_view(options, asked.model_id)  # before minutes are spent on loading
    model = tokenizer = prompt = None
    if asked.load_attention_scores_path is None:
        prompt = read_prompt(asked)
        options = dataclasses.replace(options, generate_options=prepare_generation(asked).generate_options)
        default = None
        if asked.image is not None:
            from ..capture.loading import DEMO_MODELS
            from ..inputs.pictures import read_picture

            options = dataclasses.replace(options, image=read_picture(asked.image))
            default = DEMO_MODELS[1]
        model, tokenizer = load_model(asked, asked.bars, default)
    failure = None
    with show_messages(asked.quiet):
        try:
            paths = view_attention(model, asked.model_id, tokenizer, prompt, options=options, progress=asked.bars)
        except FigureError as error:
            paths, failure = list(error.paths), error
    for path in paths:
        print(path)
    if failure is None:
        return 0
    print(failure, file=sys.stderr)
    return FAILED


view = Command(ViewWords, _view)


class HtmlWords(LoadOptions, PromptOptions, PictureOptions, SamplingOptions, CacheOptions, PageOptions, QuietOptions):
    """The page."""

    output: str = option("attention.html", "the file", metavar="FILE")


def _html(asked: HtmlWords) -> int:
    return _view_prompt(asked, dataclasses.replace(ViewOptions.pick(asked), html_path=asked.output))


html = Command(HtmlWords, _html)


class OverviewWords(
    LoadOptions,
    PromptOptions,
    SamplingOptions,
    CacheOptions,
    ColourOptions,
    FigureOptions,
    QuietOptions,
    save_fig_path="./vis",
    norm="power",
):
    """The figures."""

    kinds: Sequence[Overview] = option(
        get_args(Overview),
        "figures to draw: thumbnails, what the last token looks at as text, first-token sinks, heads alike",
        metavar="A,B",
        parse=lambda text: list(dict.fromkeys(parse_names(text))),
    )


def _overview(asked: OverviewWords) -> None:
    from ..figures.scales import get_colormap
    from ..figures.venues import use_preset
    from ..overview import list_uses, plot_overview

    get_colormap(asked.cmap)
    check_output(asked)
    uses = {name for kind in asked.kinds for name in list_uses(kind)}
    if unused := [name for name in asked.changes() if name in ColourOptions._fields and name not in uses]:
        raise OptionError(f"{unused[0]} has no use for {', '.join(asked.kinds)}")
    with use_preset(asked.preset, columns=asked.columns), show_messages(asked.quiet):
        alone = list(asked.kinds) == ["last_token"] and asked.queries is None and asked.max_new_tokens is None
        maps = get_maps(dataclasses.replace(asked, queries=1) if alone else asked)
        given = asked.changes()
        figures = {
            str(kind): plot_overview(maps, kind, **{name: given[name] for name in list_uses(kind) if name in given})
            for kind in asked.kinds
        }
        for path in write_figures(asked, maps.model_id, figures):
            print(path)


overview = Command(OverviewWords, _overview)


class OverlayWords(NameOptions, CacheOptions, OverlayOptions, FigureOptions, QuietOptions, save_fig_path="./vis"):
    """The image and its model."""

    image: str = option(help="picture file that Pillow reads", metavar="IMAGE")
    model_path: str | None = captured(None, "folder or hub name of a vision encoder with its processor", metavar="PATH")


def _overlay(asked: OverlayWords) -> None:
    from ..figures.overlay import overlay_attention
    from ..figures.scales import get_colormap
    from ..figures.venues import use_preset
    from ..inputs.pictures import read_picture

    get_colormap(asked.cmap)
    check_output(asked)
    image = read_picture(asked.image)
    maps = _get_image_maps(asked, image)
    maps = maps if asked.model_id is None else dataclasses.replace(maps, model_id=asked.model_id)
    with use_preset(asked.preset, columns=asked.columns):
        figure = overlay_attention(maps, image, options=OverlayOptions.pick(asked))
        for path in write_figures(asked, maps.model_id, {"overlay": figure}):
            print(path)


def _get_image_maps(asked: OverlayWords, image: Any) -> "AttentionMaps":
    if asked.load_attention_scores_path is not None:
        from ..storage.pt import load_scores

        return load_scores(asked.load_attention_scores_path)
    if asked.model_path is None:
        raise OptionError("overlay needs model_path, a vision encoder, or load_attention_scores_path")
    from ..capture.loading import load_image_model
    from ..capture.vision import capture_image_attention

    model, processor = load_image_model(asked.model_path, progress=asked.bars)
    return capture_image_attention(model, image, processor)


overlay = Command(OverlayWords, _overlay)
