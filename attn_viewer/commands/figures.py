"""``attn-viewer figures``: figures of every head for the prompts of a data folder."""

import os

from ..words import add_folder_arguments, add_worker_arguments, report_run

HELP = "draw figures of every head for the prompts of a data folder"


def add_arguments(parser):
    """Declare the words of ``attn-viewer figures``."""
    parser.add_argument("--model", default="demo", metavar="NAME", help="its name in the data folder (%(default)s)")
    add_folder_arguments(parser)
    parser.add_argument(
        "--figure-funcs", metavar="'svd*,raw'", help="names or patterns of figure functions, divided by commas (all)"
    )
    parser.add_argument("--figures-from", metavar="FILE", help="Python file that registers figure functions; it is run")
    parser.add_argument("--force", action="store_true", help="draw what is there already")
    add_worker_arguments(parser, parallel=os.cpu_count() or 1)


def run(args):
    """Draw what is missing."""
    from ..pipeline.activations import name_model
    from ..pipeline.figures import figures_main

    chosen = args.figure_funcs and [name.strip() for name in args.figure_funcs.split(",")]
    report = figures_main(
        name_model(args.model),
        args.save_path,
        args.n_samples,
        args.force,
        chosen,
        args.parallel,
        figures_from=args.figures_from,
        scheduler=args.scheduler,
        progress=False if args.quiet else None,
    )
    return report_run(report, "prompts")
