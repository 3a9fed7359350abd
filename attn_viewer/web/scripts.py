"""The front end's modules as one text, for pages and widgets that cannot load several."""

import functools
import re
from pathlib import Path

STATIC = Path(__file__).parent / "static"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function |const |class )", re.MULTILINE)


@functools.cache
def join_modules(entry: str) -> str:
    """Return a file in ``static/`` with all that it imports, as one text without imports and exports.

    All modules share one scope: a name that two of them declare is a syntax error in the browser.
    """
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        text = (STATIC / name).read_text(encoding="utf-8")
        for wanted in _IMPORT.findall(text):
            visit(wanted)
        ordered.append(_EXPORT.sub("", _IMPORT.sub("", text)).strip())

    seen: set[str] = set()
    visit(entry)
    return "\n".join(ordered)


@functools.cache
def read_style() -> str:
    """Return the front end's style sheet."""
    return (STATIC / "viewer.css").read_text(encoding="utf-8")
