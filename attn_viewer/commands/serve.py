"""``attn-viewer serve``: browse a data folder in a web browser."""

import sys

HELP = "browse a data folder in a web browser"


def add_arguments(parser):
    """Declare the words of ``attn-viewer serve``."""
    parser.add_argument("--path", default="attn_data", metavar="DIR", help="the data folder (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers may address the server, besides localhost and plain addresses",
    )


def run(args):
    """Serve until interrupted."""
    from ..web.server import serve

    def ready(url):
        print(url, flush=True)
        print("Ctrl-C stops the server", file=sys.stderr)

    serve(args.path, host=args.host, port=args.port, allowed_hosts=args.allow_host, ready=ready)
