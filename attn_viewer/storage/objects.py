"""JSON objects in the files of a data folder."""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import ActivationsDamagedError, InvalidPromptError, shorten


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object from bytes; `name` is what an `ActivationsDamagedError` calls them."""
    try:
        content = load_plain(data)
        if isinstance(content, dict):
            return content
        reason = f"it holds a {type(content).__name__}, not an object"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ActivationsDamagedError(f"{name} cannot be read: {reason}; delete it and compute it again")


def parse_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of some lines, each bytes; a line that holds none is left out."""
    for line in lines:
        with contextlib.suppress(ActivationsDamagedError):
            yield parse_object(line, "a line")


def load_plain(data: bytes | str) -> Any:
    """Read JSON as `json.loads` does; NaN and infinities, which JSON does not have, become None."""
    return json.loads(data, parse_constant=lambda _: None, parse_float=_read_float)


def _read_float(text: str) -> float | None:
    number = float(text)  # 1e999 too is infinite
    return number if math.isfinite(number) else None


def dump_object(content: object) -> bytes:
    """Return a JSON object as bytes, or raise `InvalidPromptError` for what cannot be written as one."""
    try:
        return json.dumps(content, default=str).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPromptError(f"{shorten(content)} cannot be written as JSON: {error}; give plain types") from error
