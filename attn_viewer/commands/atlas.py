"""``attn-viewer atlas``: scores of heads over all prompts of a data folder."""

from ..words import add_folder_arguments, add_worker_arguments, report_run

HELP = "average scores of heads over the prompts of a data folder, and draw them"


def add_arguments(parser):
    """Declare the words of ``attn-viewer atlas``."""
    parser.add_argument("--model", default="demo", metavar="NAME", help="its name in the data folder (%(default)s)")
    add_folder_arguments(parser)
    parser.add_argument("--scores", metavar="entropy,sink_mass", help="names of scores, divided by commas (all)")
    parser.add_argument(
        "--mean-maps",
        type=int,
        metavar="TOKENS",
        help="also average the attention by position, over the first so many tokens of each prompt that has them",
    )
    parser.add_argument("--fig-format", default="png", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    add_worker_arguments(parser, parallel=1)


def run(args):
    """Write tables and figures and print their paths."""
    from ..pipeline.activations import name_model
    from ..pipeline.atlas import atlas_main

    report, paths = atlas_main(
        name_model(args.model),
        args.save_path,
        args.n_samples,
        args.scores and [name.strip() for name in args.scores.split(",")],
        mean_maps=args.mean_maps,
        fmt=args.fig_format,
        parallel=args.parallel,
        scheduler=args.scheduler,
        progress=False if args.quiet else None,
    )
    for path in paths:
        print(path)
    return report_run(report, "prompts")
