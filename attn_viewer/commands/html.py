"""``attn-viewer html``: capture a prompt's attention and write one interactive page."""

from ..words import add_model_arguments, add_prompt_arguments, add_weight_arguments, view_prompt

HELP = "capture a prompt's attention and write one interactive HTML file"


def add_arguments(parser):
    """Declare the words of ``attn-viewer html``."""
    add_model_arguments(parser)
    add_prompt_arguments(parser)
    add_weight_arguments(parser)
    page = parser.add_argument_group("page")
    page.add_argument("--load_attention_scores_path", metavar="FILE", help="show a .pt cache, without a model")
    page.add_argument("--output", default="attention.html", metavar="FILE", help="(%(default)s)")
    page.add_argument("--max_mb", type=float, default=25.0, metavar="MB", help="most megabytes (%(default)g)")
    page.add_argument(
        "--fit",
        default="pool",
        choices=("pool", "split"),
        help="past that: larger cells, or a file for each few layers (%(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars and messages on stderr")


def run(args):
    """Write the page that `args` ask for and print the paths of what was written."""
    names = ("model_id", "load_attention_scores_path", "layers", "heads", "max_mb", "fit")
    view_prompt(args, html_path=args.output, **{name: getattr(args, name) for name in names})
