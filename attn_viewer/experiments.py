"""Experiments that leave a record: what ran, on what, and what came out, as JSON."""

import dataclasses
import functools
import hashlib
import inspect
import json
import marshal
import math
import platform
import re
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from . import __version__
from .errors import CacheError, OptionError
from .files import check_folder, make_folder, write_whole

LONGEST_REPR = 500
DEEPEST = 50
_naming = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ExperimentRecord:
    """What is known of one run.

    Parameters
    ----------
    name : str
        Name of the function.
    version : str
        12 hexadecimal digits of SHA-256 over its source: the same while nobody edits it. Where there is no source,
        over its bytecode, which also changes with Python.
    source : str
        Its source, to be read; nothing runs it. Empty for what was typed into an interpreter.
    arguments : mapping
        By name, as plain types; of what is none, such as a model, its `repr`.
    result : object
        As plain types.
    error : str or None
        Type and message of what it raised, if it did.
    started : str
        Time in UTC, ISO 8601.
    seconds : float
        How long it ran.
    versions : mapping
        Of Python, this package and the libraries that compute.
    path : pathlib.Path
        The file.
    """

    name: str
    version: str
    source: str
    arguments: Mapping
    result: object
    error: str | None
    started: str
    seconds: float
    versions: Mapping
    path: Path


def experiment(save_dir="experiments"):
    """Make a function leave a record of each run.

    ``@experiment(save_dir="experiments")`` above a function; it then runs and returns as before.

    Parameters
    ----------
    save_dir : path-like
        Folder of the records, one JSON file a run: ``{save_dir}/{name}/{time}_{version}.json``.

    Returns
    -------
    callable
        The decorator. A function that raises leaves a record of that, and the error goes on.

    Raises
    ------
    OptionError
        If it decorates what is no function, or `save_dir` was left out without parentheses.
    OutputError
        On calling, before the function runs, if the folder cannot be written to.
    """
    if callable(save_dir):
        raise OptionError("write @experiment() with parentheses, or @experiment(save_dir=…)")

    def decorate(function):
        if not callable(function) or not hasattr(function, "__name__"):
            raise OptionError(f"@experiment() goes above a function, got {function!r}")
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError):  # typed into an interpreter
            source = ""
        code = source.encode() or marshal.dumps(getattr(function, "__code__", None), 2)
        version = hashlib.sha256(code).hexdigest()[:12]
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args, **kwargs):
            check_folder(save_dir)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            record = {
                "name": function.__name__,
                "version": version,
                "source": source,
                "arguments": make_plain(bound.arguments),  # before the function changes them
                "result": None,
                "error": None,
                "started": datetime.now(timezone.utc).isoformat(),
            }
            start = time.perf_counter()
            try:
                result = function(*args, **kwargs)
                record["result"] = make_plain(result)
                return result
            except BaseException as error:
                record["error"] = f"{type(error).__name__}: {error}"
                raise
            finally:
                record["seconds"] = time.perf_counter() - start
                record["versions"] = _find_versions()
                _write_record(Path(save_dir), record)

        return run

    return decorate


def list_experiments(save_dir="experiments", *, name=None):
    """Load the records in a folder.

    Parameters
    ----------
    save_dir : path-like
        The folder.
    name : str, optional
        Only those of this function.

    Returns
    -------
    list of ExperimentRecord
        The oldest first.

    Raises
    ------
    CacheError
        If a record cannot be read.
    """
    records = [load_experiment(path) for path in sorted(Path(save_dir).glob("*/*.json"))]
    return sorted((r for r in records if name in (None, r.name)), key=lambda record: record.started)


def load_experiment(path):
    """Load one record.

    Parameters
    ----------
    path : path-like
        Its file.

    Returns
    -------
    ExperimentRecord
        The record; nothing in it is run.

    Raises
    ------
    CacheError
        If there is no such file or it holds no record.
    """
    path = Path(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        wanted = {field.name for field in dataclasses.fields(ExperimentRecord)} - {"path"}
        if not isinstance(fields, dict) or fields.keys() != wanted:
            raise ValueError("it does not hold the fields of a record")
    except (OSError, ValueError, RecursionError) as error:
        raise CacheError(
            f"cannot read experiment {str(path)!r}: {error}; give a file that @experiment wrote"
        ) from error
    return ExperimentRecord(**fields, path=path)


def make_plain(value, *, above=()):
    """Turn a value into what JSON can hold.

    Parameters
    ----------
    value : object
        Numbers, text, arrays, tensors, dataclasses, containers; anything else becomes its `repr`, cut to
        `LONGEST_REPR` characters, as do NaN and infinities, maps of attention, and what holds itself.
    above : tuple of int
        `id` of each container that this value is in.

    Returns
    -------
    object
        Plain types only.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if id(value) in above or len(above) == DEEPEST:
        return _describe(value)
    go_on = functools.partial(make_plain, above=(*above, id(value)))
    if isinstance(value, Mapping):
        return {str(key): go_on(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [go_on(part) for part in value]
    package = type(value).__module__.split(".")[0]
    for method in ("to_dict", "tolist"):  # tables and effects of this package; arrays and tensors
        if hasattr(value, method) and package in (__package__, "numpy", "torch"):
            return go_on(getattr(value, method)())
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and package != __package__:
        return {field.name: go_on(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _describe(value)


def _describe(value):
    try:
        return repr(value)[:LONGEST_REPR]
    except Exception:  # whatever a stranger's class does, the run is recorded
        return f"<{type(value).__name__}>"


def _find_versions():
    import numpy
    import torch
    import transformers

    libraries = {library.__name__: library.__version__ for library in (torch, transformers, numpy)}
    return {"python": platform.python_version(), "attn_viewer": __version__, **libraries}


def _write_record(save_dir, record):
    stamp = re.sub(r"[^0-9T]", "", record["started"].split("+")[0])
    folder = make_folder(save_dir / record["name"].strip("<>"))
    stem, path, count = f"{stamp}_{record['version']}", folder / f"{stamp}_{record['version']}.json", 1
    text = json.dumps(record, indent=1, allow_nan=False)
    with _naming:
        while path.exists():
            count += 1
            path = folder / f"{stem}_{count}.json"
        write_whole(path, f"{text}\n".encode())
