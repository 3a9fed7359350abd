"""Values against type hints: what a hint allows, in words, and one check of what came for it.

Hints are read as they stand in the code. One that names what is not loaded, or that says more than this module reads,
allows everything: what is checked here is what a caller can get wrong, not what the code can.
"""

import builtins
import collections.abc
import functools
import inspect
import math
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import lazy_loader

from .errors import ArgumentError, find_nearest, shorten

# Elements of a collection that are looked at; the rest are taken to be alike.
MOST_ELEMENTS = 1000
_PLAIN = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    bytes: "bytes",
    slice: "a range",
    dict: "a dict",
    os.PathLike: "a path",
    types.NoneType: "None",
}
_OURS = {
    "Module": "a loaded model (load_model gives it and its tokenizer)",
    "Intervention": "an intervention on this model (ablate_heads and merge_heads make them)",
    "AttentionMaps": "AttentionMaps (capture_attention and load_scores give them)",
}
_UNIONS = (typing.Union, types.UnionType)
_F = TypeVar("_F", bound=Callable[..., Any])


def describe_hint(hint: Any) -> str:
    """Say in words what a hint allows, such as ``one of 'max', 'mean'``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if origin in _UNIONS:
        parts = list(dict.fromkeys(describe_hint(part) for part in arguments if part is not types.NoneType))
        return ", ".join(parts[:-1]) + " or " * (len(parts) > 1) + parts[-1]
    if origin is tuple:
        return f"({', '.join('…' if part is ... else describe_hint(part) for part in arguments)})"
    if origin is collections.abc.Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return "a dict"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        return f"a sequence, each {describe_hint(arguments[0])}" if arguments else "a sequence"
    name = getattr(hint, "__name__", str(hint))
    return _PLAIN.get(origin or hint) or _OURS.get(name, name)


def fits_hint(value: object, hint: Any) -> bool:
    """Tell whether a hint allows a value.

    A whole number is anything that counts as one (numpy's too) but no bool; a number may be whole. Text is no sequence.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(fits_hint(value, type(known)) and value == known for known in arguments)
    if origin in _UNIONS:
        return any(fits_hint(value, part) for part in arguments)
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    checked = origin or hint
    if getattr(checked, "_is_protocol", False) and origin is None:
        return not getattr(checked, "_is_runtime_protocol", False) or _has_members(value, checked)
    if not isinstance(checked, type):
        return True
    if origin is None or not arguments or checked is type or not issubclass(checked, collections.abc.Iterable):
        return callable(value) if origin is collections.abc.Callable else isinstance(value, checked)
    if issubclass(checked, collections.abc.Iterator):
        return isinstance(value, checked)
    if checked is tuple and ... not in arguments:
        if not isinstance(value, (tuple, list)) or len(value) != len(arguments):
            return False
        return all(fits_hint(part, one) for part, one in zip(value, arguments, strict=True))
    if issubclass(checked, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        return False
    if issubclass(checked, collections.abc.Sequence) and not (
        hasattr(value, "__len__") and hasattr(value, "__getitem__")
    ):
        return False
    if not hasattr(value, "__len__"):
        return True  # looking at the elements of an iterator would use them up
    return all(fits_hint(part, arguments[0]) for part, _ in zip(value, range(MOST_ELEMENTS), strict=False))


def _has_members(value: object, protocol: type) -> bool:
    """Tell whether a value has what a protocol names; `isinstance` asks no ``__getattr__`` from Python 3.12 on."""
    methods = [name for name, part in vars(protocol).items() if isinstance(part, types.FunctionType)]
    return all(hasattr(value, name) for name in (*inspect.get_annotations(protocol), *methods))


def check_value(
    name: str,
    value: object,
    hint: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> None:
    """Raise `ArgumentError` for a value of another type than its hint or out of its limits, as NaN is out of any."""
    limit = "" if at_least is None else f" from {at_least:g}"
    limit = limit if above is None else f" above {above:g}"
    limit += "" if at_most is None else f" to {at_most:,}"
    fits = fits_hint(value, hint)
    if fits and limit and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number: Any = value
        fits = (at_least is None or number >= at_least) and (above is None or above < number < math.inf)
        fits = fits and (at_most is None or number <= at_most)
    if not fits:
        raise ArgumentError(f"{name} must be {describe_hint(hint)}{limit}, got {shorten(value)}")


def check_argument(caller: str, name: str, value: object, hint: Any) -> None:
    """Raise `ArgumentError` for an argument of another type than its hint, `InvalidMapsError` where that is maps."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    takes_maps = any(getattr(part, "__name__", "") == "AttentionMaps" for part in parts)
    if takes_maps and not fits_hint(value, hint):
        from .maps import require_maps  # which says what makes maps of what came

        require_maps(value, caller)
    check_value(name, value, hint)


# Packages that hints may name without loading them, by what they are called in code.
_PACKAGES = {"torch": "torch", "transformers": "transformers", "np": "numpy", "matplotlib": "matplotlib", "PIL": "PIL"}


class _Absent:
    """A package that is not loaded: nothing can be an instance of its classes."""

    def __getattr__(self, name: str) -> Any:
        return type(name, (), {}) if name[:1].isupper() or name == "ndarray" else self


_WORDS = vars(builtins) | vars(typing) | vars(collections.abc)


class _Namespace(dict[str, Any]):
    """Names in hints that a module does not have at run time: packages, and public names of ours."""

    def __missing__(self, name: str) -> Any:
        if name in _PACKAGES:
            return sys.modules.get(_PACKAGES[name], _Absent())
        package = sys.modules[__package__]
        rooms = [getattr(package, room) for room in dir(package) if room not in package.__all__]
        for room in (package, *rooms):
            if name in getattr(room, "__all__", ()):
                return getattr(room, name)
        raise KeyError(name)


def read_hint(hint: Any, scope: Mapping[str, Any]) -> Any:
    """Return a hint that may be text as what it means; one that cannot be read allows everything."""
    if not isinstance(hint, str):
        return Any if hint is inspect.Parameter.empty else hint
    try:
        return eval(hint, {}, _Namespace(_WORDS | dict(scope)))
    except Exception:  # a name that is not loaded, or an attribute that this version lacks
        return Any


def check_names(caller: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise `ArgumentError` for a name that is not known, and suggest the nearest."""
    for name in names:
        if name not in known:
            raise ArgumentError(f"{caller} has no option {name!r}{find_nearest(name, known)}")


def bind_call(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by parameter, or raise `ArgumentError` if one is missing or there are too many."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise ArgumentError(f"{name}: {error}; it is called as {name}{_write_parameters(signature)}") from error


def _write_parameters(signature: inspect.Signature) -> str:
    """Write the parameters of a signature that may come by position, such as ``(maps, layer, …)``."""
    places = [one for one in signature.parameters.values() if one.kind <= one.VAR_POSITIONAL]
    written = [f"{'*' * (one.kind == one.VAR_POSITIONAL)}{one.name}" for one in places]
    named = [one for one in signature.parameters.values() if one.kind > one.VAR_POSITIONAL]
    written += [f"{one.name}=…" for one in named if one.kind == one.KEYWORD_ONLY and one.default is one.empty]
    return f"({', '.join(written + ['…'] * (len(written) < len(places) + len(named)))})"


def check_call(function: _F, package: str = "") -> _F:
    """Return a function as one that checks what it is called with against its hints.

    It raises `ArgumentError` for an argument of the wrong type, a name that the function does not know, one that is
    missing or one too many. `package` is where it is public; left out, where it is written. What is pickled is found
    again under that name.
    """
    name = function.__name__

    @functools.cache
    def read() -> tuple[inspect.Signature, bool]:
        signature = inspect.signature(function)
        return signature, any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        signature, takes_any = read()
        known = signature.parameters
        check_names(name, () if takes_any else kwargs, known)
        for word, came in bind_call(name, signature, args, kwargs).items():
            parameter = known[word]
            if parameter.kind is not parameter.VAR_KEYWORD and came is not parameter.default:
                hint = read_hint(parameter.annotation, inspect.unwrap(function).__globals__)
                for one in came if parameter.kind is parameter.VAR_POSITIONAL else (came,):
                    check_argument(name, word, one, hint)
        return function(*args, **kwargs)

    call.checks_itself = True  # type: ignore[attr-defined]
    call.__module__, call.__qualname__ = package or function.__module__, name
    return cast(_F, call)


def hand_out(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package with a stub beside it.

    Names are loaded when first used, functions handed out with a check of their arguments (`check_call`). Rooms that
    the stub names can be reached, but are none of ``__all__``.
    """
    load, list_names, names = lazy_loader.attach_stub(package, file)
    rooms = {entry.partition(".")[0] for entry in os.listdir(os.path.dirname(file))}
    public = [name for name in names if name not in rooms]

    def get(name: str) -> Any:
        value = load(name)
        if name in public and isinstance(value, types.FunctionType) and not hasattr(value, "checks_itself"):
            value = check_call(value, package)
        setattr(sys.modules[package], name, value)
        return value

    return get, list_names, public
