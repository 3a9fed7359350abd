"""``attn-viewer overview``: figures that show a whole model at once."""

import argparse

from ..overview import KINDS
from ..words import (
    add_model_arguments,
    add_prompt_arguments,
    add_venue_arguments,
    load_model,
    parse_numbers,
    read_prompt,
    read_sampling,
    show_messages,
)

HELP = "draw all heads at once: thumbnails, last token's text, first-token sinks, similarity"


def _parse_kinds(text):
    kinds = list(dict.fromkeys(text.split(",")))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no overview {unknown[0]!r}; there are {', '.join(KINDS)}")
    return kinds


def add_arguments(parser):
    """Declare the words of ``attn-viewer overview``."""
    add_model_arguments(parser)
    add_prompt_arguments(parser)
    parser.add_argument("--load_attention_scores_path", metavar="FILE", help="draw from a .pt cache, without a model")
    parser.add_argument("--layers", type=parse_numbers, metavar="0,4-7", help="layers to show (all)")
    parser.add_argument("--heads", type=parse_numbers, metavar="0,4-7", help="heads to show (all)")
    figures = parser.add_argument_group("figures")
    figures.add_argument(
        "--kinds", type=_parse_kinds, default=list(KINDS), metavar="A,B", help=f"{', '.join(KINDS)} (all)"
    )
    figures.add_argument("--save_fig_path", default="./vis", metavar="DIR", help="output folder (%(default)s)")
    figures.add_argument("--sink", default="keep", choices=("keep", "hide", "renormalise"), help="the first token")
    figures.add_argument("--fig_format", default="jpg", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    figures.add_argument(
        "--norm", default="power", choices=("linear", "power", "log"), help="colour scale (%(default)s)"
    )
    add_venue_arguments(figures)
    figures.add_argument("--cmap", metavar="NAME", help="a matplotlib colour map")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and messages on stderr")


def run(args):
    """Draw what `args` ask for and print the paths of what was written."""
    from ..figures.venues import use_preset

    with use_preset(args.preset, columns=args.columns):
        _draw(args)


def _draw(args):
    import dataclasses
    from pathlib import Path

    from ..figures.formats import check_format, render_figure
    from ..figures.scales import get_colormap
    from ..files import check_folder, check_model_id, make_folder, write_whole
    from ..overview import draw_overview

    fmt = check_format(args.fig_format)
    get_colormap(args.cmap)
    check_folder(args.save_fig_path)
    if args.model_id is not None:
        check_model_id(args.model_id)
    if args.load_attention_scores_path is not None:
        from ..storage.pt import load_scores

        maps = load_scores(args.load_attention_scores_path).select(layers=args.layers, heads=args.heads)
        maps = maps if args.model_id is None else dataclasses.replace(maps, model_id=args.model_id)
    else:
        maps = _capture(args)
    folder = Path(args.save_fig_path) / check_model_id(maps.model_id)
    look = {"sink": args.sink, "norm": args.norm, "cmap": args.cmap}
    # What cannot be drawn is found out before anything is written.
    contents = {kind: render_figure(draw_overview(maps, kind, **look), fmt) for kind in args.kinds}
    make_folder(folder)
    for kind, data in contents.items():
        print(write_whole(folder / f"{kind}.{fmt}", data))


def _capture(args):
    prompt, sampling = read_prompt(args), read_sampling(args)
    model, tokenizer = load_model(args, False if args.quiet else None)
    options = {"layers": args.layers, "heads": args.heads, "model_id": args.model_id}
    with show_messages(args.quiet):
        if args.max_new_tokens is not None:
            from ..capture.generation import capture_generation

            return capture_generation(
                model, tokenizer, prompt, max_new_tokens=args.max_new_tokens, generate_options=sampling, **options
            )
        from ..capture.prefill import capture_attention

        if args.kinds == ["last_token"]:
            options["queries"] = 1
        return capture_attention(model, tokenizer, prompt, decoder_prompt=args.decoder_prompt, **options)
