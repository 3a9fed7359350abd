"""Settings of the documentation: ``sphinx-build -W docs docs/_build`` makes it, with the gallery's pictures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from blocks import run_page

import attn_viewer

project = "Attention Viewer"
version = release = attn_viewer.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "See what attention heads look at", "page_width": "1080px"}
html_copy_source = False
myst_heading_anchors = 3
numpydoc_show_class_members = False
nitpicky = False


def setup(app: object) -> None:
    """Draw the gallery from the code beside its pictures."""
    run_page(Path(__file__).parent / "gallery.md", Path(__file__).parent)
