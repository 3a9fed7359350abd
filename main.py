"""Draw the attention of a prompt: ``python main.py --help``, the same words as ``attn-viewer view``."""

import sys

from attn_viewer.cli import run_view

if __name__ == "__main__":
    sys.exit(run_view())
