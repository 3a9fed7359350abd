"""Drawing attention maps with matplotlib; nothing here runs a model, prints or shows.

Public names of this folder are loaded when first used, as in the package itself.
"""

import importlib

from .. import _HOMES

__all__ = sorted(name for name, home in _HOMES.items() if home.startswith("figures."))


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"..{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
