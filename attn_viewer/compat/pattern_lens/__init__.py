"""The names of pattern-lens 0.6, module by module: write ``attn_viewer.compat.pattern_lens`` for ``pattern_lens``.

What differs: files are written whole or not at all, and one that is damaged is computed again; errors are those of
`attn_viewer.errors`; the figure functions of Attention Viewer are registered beside ``raw``, whose cells that a query
may not see are neutral. Each module says what else. Functions can be imported from here, too.
"""

import importlib
from typing import Any

_MODULES = (
    *("activations", "attn_figure_funcs", "consts", "figure_util", "figures"),
    *("indexes", "load_activations", "prompts", "server"),
)


def __getattr__(name: str) -> Any:
    for module in [name] if name in _MODULES else _MODULES:
        found = importlib.import_module(f"{__name__}.{module}")
        if name == module or name in vars(found):
            return found if name == module else vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
