"""The browser over a data folder, ``python -m attn_viewer.compat.pattern_lens.server``: for this machine alone."""

import argparse
import sys
from pathlib import Path

from ...errors import ActivationsMissingError, AttnViewerError
from ...storage.folder import DataFolder
from ...web.server import serve
from .indexes import write_html_index


def main(path: str | None = None, port: int = 8000) -> None:
    """Serve a data folder, the current one if none is said, until Ctrl-C; then, or where that fails, leave Python."""
    try:
        if not DataFolder(path or ".").list_models():
            raise ActivationsMissingError(
                f"there is no data folder at {path or '.'!r}; say --path, or compute one first"
            )
        serve(path or ".", port=port, ready=print)
    except AttnViewerError as error:
        sys.exit(str(error))
    sys.exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--path")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--rewrite-index", action="store_true", help="write index.html first")
    args = parser.parse_args()
    if args.rewrite_index:
        write_html_index(Path(args.path or "."))
    main(args.path, args.port)
