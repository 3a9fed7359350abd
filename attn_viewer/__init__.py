"""Attention Viewer: see what the attention heads of transformer models look at.

What is used most is handed out here, the rest by its room, as in ``attn_viewer.analysis.find_sinks``. Names are loaded
when first used, so that importing this package imports neither torch nor matplotlib; which there are, and where they
come from, stands in the ``__init__.pyi`` beside each ``__init__.py``.
"""

from .hints import hand_out

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = hand_out(__name__, __file__)
