"""``attn-viewer view``: capture a prompt's attention and draw it."""

import sys

from ..words import (
    add_model_arguments,
    add_prompt_arguments,
    add_venue_arguments,
    add_weight_arguments,
    parse_spans,
    view_prompt,
)

HELP = "capture a prompt's attention and draw it"
FIGURES_FAILED = 1


def add_arguments(parser):
    """Declare the words of ``attn-viewer view`` and ``main.py``."""
    add_model_arguments(parser)
    add_prompt_arguments(parser)
    add_weight_arguments(parser)
    cache = parser.add_argument_group("cache")
    cache.add_argument("--save_attention_scores", action="store_true", help="write {model_id}_attn_scores.pt")
    cache.add_argument("--save_attention_scores_path", default="./attn_scores", metavar="DIR", help="(%(default)s)")
    cache.add_argument("--load_attention_scores_path", metavar="FILE", help="draw from a .pt cache, without a model")
    figures = parser.add_argument_group("figures")
    figures.add_argument("--save_fig_path", default="./vis", metavar="DIR", help="output folder (%(default)s)")
    figures.add_argument("--plot_figs_per_head", action="store_true", help="a page of all heads for every layer too")
    figures.add_argument("--num_figs_per_row", type=int, default=4, metavar="N", help="(%(default)s)")
    figures.add_argument(
        "--figures", metavar="NAMES", help="registered figure functions to run on every head: names and globs, a,b*"
    )
    figures.add_argument(
        "--figures_from", metavar="FILE", help="Python file that registers figure functions (all run without --figures)"
    )
    figures.add_argument("--ignore_first_token", action="store_true", help="the same as --sink hide")
    figures.add_argument("--sink", default="keep", choices=("keep", "hide", "renormalise"), help="the first token")
    figures.add_argument("--fig_format", default="jpg", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    figures.add_argument(
        "--norm", default="linear", choices=("linear", "power", "log", "quantile"), help="colour scale"
    )
    figures.add_argument("--vmin", type=float, default=0.0, metavar="W", help="weight where the scale begins (0)")
    figures.add_argument("--vmax", type=float, metavar="W", help="weight where the scale ends (the largest shown)")
    figures.add_argument("--text", default="text", choices=("text", "path"), help="text in SVG, or its outlines")
    figures.add_argument("--scale", default="shared", choices=("shared", "panel"), help="one scale or one a panel")
    which = figures.add_mutually_exclusive_group()
    which.add_argument("--group", choices=("words", "sentences", "segments"), help="draw groups of tokens")
    which.add_argument(
        "--spans", dest="group", type=parse_spans, metavar="NAME:0:25,…", help="draw these spans of tokens as one each"
    )
    figures.add_argument("--group_summary", default="sum", choices=("sum", "max"), help="of a group (%(default)s)")
    figures.add_argument("--cmap", metavar="NAME", help="a matplotlib colour map")
    add_venue_arguments(figures)
    figures.add_argument("--parallel", type=int, default=1, metavar="N", help="processes that draw (%(default)s)")
    figures.add_argument("--html", dest="html_path", metavar="FILE", help="write an interactive page too")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and messages on stderr")


def run(args):
    """Draw what `args` ask for and print the paths of what was written."""
    from ..errors import FigureError

    options = {
        name: getattr(args, name)
        for name in (
            "model_id",
            "save_attention_scores",
            "save_attention_scores_path",
            "load_attention_scores_path",
            "save_fig_path",
            "html_path",
            "plot_figs_per_head",
            "ignore_first_token",
            "num_figs_per_row",
            "fig_format",
            "cmap",
            "norm",
            "scale",
            "layers",
            "heads",
            "sink",
            "group",
            "group_summary",
            "text",
            "vmin",
            "vmax",
            "preset",
            "columns",
            "parallel",
        )
    }
    options["figures"] = _choose_figures(args)
    try:
        view_prompt(args, **options)
    except FigureError as error:
        print(error, file=sys.stderr)
        return FIGURES_FAILED
    return 0


def _choose_figures(args):
    loaded = None
    if args.figures_from is not None:
        from ..figures.registry import load_figure_funcs

        loaded = load_figure_funcs(args.figures_from)
    return loaded if args.figures is None else [name.strip() for name in args.figures.split(",")]
