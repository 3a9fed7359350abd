"""JSON objects in the files of a data folder."""

import contextlib
import json
from pathlib import Path

from ..errors import ActivationsDamagedError, ActivationsMissingError, InvalidPromptError, shorten
from ..files import write_whole


def read_json(path):
    """Read a JSON object from a file of a data folder.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    ActivationsMissingError
        If the file does not exist.
    ActivationsDamagedError
        If it holds no JSON object.
    """
    try:
        return parse_object(Path(path).read_bytes(), repr(str(path)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ActivationsMissingError(f"{str(path)!r} does not exist; run attn-viewer activations first") from error
    except OSError as error:
        raise ActivationsDamagedError(
            f"{str(path)!r} cannot be read: {error}; delete it and compute it again"
        ) from error


def parse_object(data, name):
    """Return a JSON object from bytes; `name` is what an `ActivationsDamagedError` calls them."""
    try:
        content = load_plain(data)
        if isinstance(content, dict):
            return content
        reason = f"it holds a {type(content).__name__}, not an object"
    except (ValueError, RecursionError) as error:
        reason = error
    raise _report_damage(name, reason)


def parse_lines(lines):
    """Yield the JSON objects of some lines, each bytes; a line that holds none is left out."""
    for line in lines:
        with contextlib.suppress(ActivationsDamagedError):
            yield parse_object(line, "a line")


def load_plain(data):
    """Read JSON as `json.loads` does; NaN and infinities, which JSON does not have, become None."""
    return json.loads(data, parse_constant=lambda _: None)


def _report_damage(name, reason):
    return ActivationsDamagedError(f"{name} cannot be read: {reason}; delete it and compute it again")


def write_json(path, content):
    """Write a JSON object whole, the same bytes for the same content."""
    write_whole(path, dump_object(content))


def dump_object(content):
    """Return a JSON object as bytes, or raise `InvalidPromptError` for what cannot be written as one."""
    try:
        return json.dumps(content, default=str).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPromptError(f"{shorten(content)} cannot be written as JSON: {error}; give plain types") from error
