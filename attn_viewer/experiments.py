"""Experiments that leave a record: what ran, on what, and what came out, as JSON."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import marshal
import math
import os
import platform
import re
import reprlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from . import __version__
from .errors import CacheError, OptionError
from .files import check_folder, describe_place, expand_home, make_folder, write_whole
from .hints import check_call

LONGEST_REPR = 500
DEEPEST = 50
# Numbers, texts and containers of a record; what is beyond them is kept as its `repr`.
MOST_PARTS = 300_000
_shorter = reprlib.Repr()
_shorter.maxlevel = 2
_P = ParamSpec("_P")
_R = TypeVar("_R")
_naming = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ExperimentRecord:
    """What is known of one run; arguments and result as plain types, or the `repr` of what is none, such as a model."""

    name: str  # of the function
    version: str  # 12 hex digits of SHA-256 over its source, or its bytecode, which changes with Python too
    source: str  # to be read, nothing runs it; empty for what was typed into an interpreter
    arguments: Mapping[str, Any]  # by name
    result: object
    error: str | None  # type and message of what it raised
    started: str  # UTC, ISO 8601
    seconds: float
    versions: Mapping[str, Any]  # of Python, this package and the libraries that compute
    path: Path


def experiment(
    save_dir: str | os.PathLike[str] | Callable[..., Any] = "experiments",
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function leave a record of each run.

    ``@experiment(save_dir="experiments")`` above a function; it then runs and returns as before. One that raises leaves
    a record of that, and the error goes on. A record that cannot be written never costs the result: a warning says so,
    before the function runs if that is known.

    Parameters
    ----------
    save_dir : path-like
        Folder of the records, one JSON file a run: ``{save_dir}/{name}/{time}_{version}.json``.

    Raises
    ------
    OptionError
        If it decorates what is no function, or `save_dir` was left out without parentheses.
    """
    if callable(save_dir):  # the hint lets it through, so that this says what was meant
        raise OptionError("write @experiment() with parentheses, or @experiment(save_dir=…)")

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        if not callable(function) or not hasattr(function, "__name__"):
            raise OptionError(f"@experiment() goes above a function, got {function!r}")
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError):  # typed into an interpreter
            source = ""
        code = source.encode() or marshal.dumps(getattr(function, "__code__", None), 2)
        facts = {"name": function.__name__, "version": hashlib.sha256(code).hexdigest()[:12], "source": source}

        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with _warn_of_loss(function.__name__) as losses:
                check_folder(save_dir)
            arguments = make_plain(_name_arguments(function, args, kwargs))  # before the function changes them
            record = {**facts, "arguments": arguments, "result": None, "error": None}
            record["started"] = datetime.now(timezone.utc).isoformat()
            start = time.perf_counter()
            try:
                result = function(*args, **kwargs)
                record["result"] = make_plain(result)
                return result
            except BaseException as error:
                record["error"] = f"{type(error).__name__}: {_describe(error, str)}"
                raise
            finally:
                record["seconds"] = time.perf_counter() - start
                record["versions"] = _find_versions()
                with _warn_of_loss(function.__name__, losses):
                    _write_record(expand_home(save_dir), record)

        return run

    return decorate


@contextlib.contextmanager
def _warn_of_loss(name: str, losses: list[Exception] | None = None) -> Iterator[list[Exception]]:
    """Turn an error into a warning, unless there was one before."""
    losses = [] if losses is None else losses
    try:
        yield losses
    except Exception as error:
        losses.append(error)
        if len(losses) == 1:
            warnings.warn(f"experiment {name!r} leaves no record: {error}", stacklevel=1)


def _name_arguments(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):  # built in, or decorated into one that takes others
        return {"args": args, "kwargs": kwargs}
    bound.apply_defaults()
    return bound.arguments


@check_call
def list_experiments(
    save_dir: str | os.PathLike[str] = "experiments", *, name: str | None = None
) -> list[ExperimentRecord]:
    """Load the records in a folder, of all functions or of one, the oldest first.

    Those that cannot be read are left out with a warning.
    """
    records, save_dir = [], expand_home(save_dir)
    for path in sorted(save_dir.glob("*/*.json")) if describe_place(save_dir) == "is a folder" else ():
        try:
            records.append(load_experiment(path))
        except CacheError as error:  # noqa: PERF203 - one broken record must not hide the others
            warnings.warn(str(error), stacklevel=1)
    return sorted((r for r in records if name in (None, r.name)), key=lambda record: record.started)


@check_call
def load_experiment(path: str | os.PathLike[str]) -> ExperimentRecord:
    """Load one record; nothing in it is run.

    Raises
    ------
    CacheError
        If there is no such file or it holds no record.
    """
    path = expand_home(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.keys() != _TYPES.keys():
            raise ValueError("it does not hold the fields of a record")
        if wrong := [name for name, types in _TYPES.items() if not isinstance(content[name], types)]:
            raise ValueError(f"{wrong[0]} is {type(content[wrong[0]]).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise CacheError(
            f"cannot read experiment {str(path)!r}: {error}; give a file that @experiment wrote"
        ) from error
    return ExperimentRecord(**content, path=path)


_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "version", "source", "started"), str),
    **dict.fromkeys(("arguments", "versions"), dict),
    "result": object,
    "error": (str, type(None)),
    "seconds": (int, float),
}


def make_plain(value: Any) -> Any:
    """Turn a value into what JSON can hold.

    Numbers, text, arrays, tensors, dataclasses and containers stay what they are. Anything else becomes its `repr`, cut
    to `LONGEST_REPR` characters, as do NaN and infinities, maps of attention, what holds itself, and what is beyond
    `MOST_PARTS`. A key that is no text is written as such, with its type where that is another key: ``1 (int)``.
    """
    return _Plainer().make(value, ())


class _Plainer:
    def __init__(self) -> None:
        self._left = MOST_PARTS

    def make(self, value: Any, above: tuple[int, ...]) -> Any:
        """Turn a value into plain types; `above` has the `id` of each container that it is in."""
        self._left -= 1
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return value if value.bit_length() < 10_000 else _describe(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if id(value) in above or len(above) == DEEPEST or self._left < 0:
            return _describe(value)
        try:
            return self._make_parts(value, (*above, id(value)))
        except Exception:  # whatever a stranger's class does, the run is recorded
            return _describe(value)

    def _make_parts(self, value: Any, above: tuple[int, ...]) -> Any:
        if isinstance(value, Mapping):
            made: dict[str, Any] = {key: None for key in value if isinstance(key, str)}
            for key, part in value.items():
                name = key if isinstance(key, str) else _describe(key, str)
                if not isinstance(key, str) and name in made:
                    name = f"{name} ({type(key).__name__})"
                made[name] = self.make(part, above)
            return made
        if isinstance(value, (list, tuple, set, frozenset, range)):
            return [self.make(part, above) for part in value]
        package = type(value).__module__.split(".")[0]
        if package in ("numpy", "torch") and math.prod(getattr(value, "shape", ())) > self._left:
            return _describe(value)
        for method in ("to_dict", "tolist"):  # tables and effects of this package; arrays and tensors
            if hasattr(value, method) and package in (__package__, "numpy", "torch"):
                return self.make(getattr(value, method)(), above)
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and package != __package__:
            return {field.name: self.make(getattr(value, field.name), above) for field in dataclasses.fields(value)}
        return _describe(value)


def _describe(value: Any, write: Callable[[Any], str] = repr) -> str:
    # A list that holds a list many times that holds a list many times has no end otherwise.
    write = _shorter.repr if type(value) in (list, tuple, set, frozenset, dict) else write
    try:
        return write(value)[:LONGEST_REPR]
    except Exception:  # whatever a stranger's class does, the run is recorded
        return f"<{type(value).__name__}>"


def _find_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "attn_viewer": __version__}
    for library in ("torch", "transformers", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def _write_record(save_dir: Path, record: dict[str, Any]) -> None:
    stamp = re.sub(r"[^0-9T]", "", record["started"].split("+")[0])
    # A function may call itself what it likes, its records stay in this folder.
    folder = make_folder(save_dir / (re.sub(r"[^\w.-]", "_", record["name"].strip("<>"))[:50].strip(".") or "_"))
    stem, path, count = f"{stamp}_{record['version']}", folder / f"{stamp}_{record['version']}.json", 1
    text = json.dumps(record, indent=1, allow_nan=False)
    with _naming:
        while path.exists():
            count += 1
            path = folder / f"{stem}_{count}.json"
        write_whole(path, f"{text}\n".encode())
