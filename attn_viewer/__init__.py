"""Attention Viewer: see what the attention heads of transformer models look at.

Names are loaded when first used, so that importing this package imports neither torch nor matplotlib; which there are,
and where they come from, stands in ``__init__.pyi``. Functions are handed out with a check of their arguments against
their type hints (`hints.check_call`): a wrong type is an `ArgumentError`.
"""

from typing import Any

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    value = _load(name)
    if name in __all__:
        from .hints import check_call

        value = globals()[name] = check_call(name, value)
    return value
