"""The list of figure functions: those of this package and those that people register.

A figure function takes one attention pattern, axes ``(n_query, n_key)``, and a folder, and writes
``{name}.{format}`` there. The names are those of pattern-lens, so that its figure functions run here as they are.
"""

import difflib
import fnmatch
import importlib.util
import inspect
import itertools
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable
from importlib.machinery import ModuleSpec
from typing import Any, TypeVar

from ..errors import AttnViewerError, OptionError, shorten
from ..files import describe_place, expand_home
from ..options import FilePath

_BUILTIN = f"{__package__}.builtin"
_functions: dict[str, Callable[..., Any]] = {}
# Module specs of the registered functions: a module that is loaded again has a new one.
_specs: dict[str, ModuleSpec | None] = {}
_F = TypeVar("_F", bound=Callable[..., Any])


def register_attn_figure_func(func: _F) -> _F:
    """Register a figure function; a decorator.

    Parameters
    ----------
    func : callable
        Takes a pattern, axes ``(n_query, n_key)``, and a `pathlib.Path` of a folder, and writes ``{name}.{format}``
        there, `name` being its ``__name__``. `matplotlib_figure_saver` and `save_matrix_wrapper` make one.

    Returns
    -------
    callable
        `func`.

    Raises
    ------
    OptionError
        If `func` has no name that can be a file's, or another function of that name is registered. The same
        function again, as when a notebook cell is run twice or a module is reloaded, takes the place of the old
        one; any function takes the place of a built-in one.
    """
    return _register(func, (_get_name(func),))


def register_attn_figure_multifunc(names: str | Iterable[str]) -> Callable[[_F], _F]:
    """Register a figure function that writes several figures; makes a decorator.

    Parameters
    ----------
    names : sequence of str
        Names of its figures; they become files ``{function}.{name}.{format}``.

    Returns
    -------
    callable
        A decorator that returns the function it is given; it raises what `register_attn_figure_func` raises.

    Raises
    ------
    OptionError
        If the names cannot be those of files or are not distinct.
    """
    names = check_figure_names(names)
    return lambda func: _register(func, tuple(f"{_get_name(func)}.{name}" for name in names))


def check_figure_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names of the figures of one function, distinct and fit for files."""
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names or len(set(names)) < len(names) or not all(map(_is_file_name, names)):
        raise OptionError(
            f"figures need distinct names of letters, digits, '_', '-', '+' and spaces, got {list(names)}"
        )
    return names


def get_all_figure_names() -> list[str]:
    """Return the names of all figures that the registered functions write.

    Returns
    -------
    list of str
        ``{function}``, or ``{function}.{figure}`` for each figure of a function that writes several, in the order
        of registration, built-in ones first.
    """
    return [*itertools.chain.from_iterable(map(get_figure_names, select_attn_figure_funcs()))]


def get_figure_names(func: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names, files without format, of the figures that one function writes, registered or not."""
    return getattr(func, "_figure_names", None) or (_get_name(func),)


def select_attn_figure_funcs(figure_funcs_select: str | Collection[str] | None = None) -> list[Callable[..., Any]]:
    """Return registered figure functions by name.

    Parameters
    ----------
    figure_funcs_select : str or collection of str, optional
        A name or glob pattern such as ``"svd*"``, or several; left out, all functions.

    Returns
    -------
    list of callable
        The functions, in the order of registration, built-in ones first.

    Raises
    ------
    OptionError
        If a name or pattern fits no function, or is no text.
    """
    importlib.import_module(_BUILTIN)
    functions = dict(sorted(_functions.items(), key=lambda item: item[1].__module__ != _BUILTIN))
    if figure_funcs_select is None:
        return [*functions.values()]
    patterns = [figure_funcs_select] if isinstance(figure_funcs_select, str) else figure_funcs_select
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(isinstance(p, str) for p in patterns):
        raise OptionError(
            "figure functions are chosen by None, a name or glob pattern, or a collection of these, "
            f"got {figure_funcs_select!r}"
        )
    chosen = set()
    for pattern in patterns:
        fitting = fnmatch.filter(functions, pattern)
        if not fitting:
            near = difflib.get_close_matches(pattern, functions, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise OptionError(f"there is no figure function {pattern!r}; {hint}there are {', '.join(functions)}")
        chosen.update(fitting)
    return [func for name, func in functions.items() if name in chosen]


def load_figure_funcs(path: FilePath) -> list[str]:
    """Run a Python file that registers figure functions.

    The file is code and runs as such: load only your own or what you have read.

    Parameters
    ----------
    path : path-like
        The file. Loaded again, its functions take the place of those it registered before.

    Returns
    -------
    list of str
        Names of the functions that it registered.

    Raises
    ------
    OptionError
        If there is no such file, it fails (then nothing of it stays registered) or it registers nothing.
    """
    path = expand_home(path)
    if path.suffix != ".py" or describe_place(path) != "is a file":
        raise OptionError(f"figure functions are read from a Python file, and {shorten(str(path))} is none")
    before = dict(_functions), dict(_specs)
    name = f"attn_viewer_figures_from_{re.sub(r'[^a-zA-Z0-9]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # not of a path that ends in .py
        raise OptionError(f"{str(path)!r} cannot be loaded as a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _functions.clear()
        _functions.update(before[0])
        _specs.clear()
        _specs.update(before[1])
        if isinstance(error, AttnViewerError):
            raise
        raise OptionError(f"{str(path)!r} cannot be run: {type(error).__name__}: {error}; fix the file") from error
    loaded = [name for name in _functions if _specs[name] is spec]
    if not loaded:
        raise OptionError(f"{str(path)!r} registers no figure function; decorate one with register_attn_figure_func")
    return loaded


def _register(func: _F, figure_names: tuple[str, ...]) -> _F:
    name = _get_name(func)
    old = _functions.get(name)
    if old is not None and func.__module__ == _BUILTIN != old.__module__:
        return func
    spec = getattr(sys.modules.get(func.__module__), "__spec__", None)
    if old is not None and old.__module__ != _BUILTIN and not _is_same(old, _specs[name], func, spec):
        raise OptionError(
            f"a figure function {name!r} is registered already, from {_locate(old)}; rename the one of {_locate(func)}"
        )
    func._figure_names = figure_names  # type: ignore[attr-defined]
    _functions[name], _specs[name] = func, spec
    return func


def _is_same(
    old: Callable[..., Any], old_spec: ModuleSpec | None, new: Callable[..., Any], new_spec: ModuleSpec | None
) -> bool:
    """Tell a function that is defined again from another one of the same name."""
    if old is new:
        return True
    if (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        return False
    # The source of a cell or prompt is in no file, and a changed cell is still the same function.
    return _locate(old) == _locate(new) or old_spec is not new_spec or not os.path.isfile(_locate(new)[0])


def _locate(func: Callable[..., Any]) -> tuple[str, int]:
    code: types.CodeType = inspect.unwrap(func).__code__
    return code.co_filename, code.co_firstlineno


def _get_name(func: Callable[..., Any]) -> str:
    if not inspect.isfunction(func) or not _is_file_name(func.__name__):
        raise OptionError(f"a figure function is made with def, under a name that can be a file's; got {func!r}")
    return func.__name__


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"\w[\w +-]*", name) is not None
