"""What a data folder says of its figure functions: names, docstrings for readers of any width, sources."""

import inspect
import itertools
import re

from ..storage.objects import parse_lines

FIGURE_NAME = re.compile(r"\w[\w .+-]{0,100}")
# A docstring whose lines are all shorter was not wrapped but written in short lines.
_SHORTEST_WRAPPED = 60
_ITEM = re.compile(r"[-=*~^+•]+|\(?\w{1,3}[.)]|\.\.")


def parse_functions(data: bytes) -> list[dict[str, str]]:
    """Read ``figures.jsonl``: ``name``, ``func_name``, ``doc`` and ``code`` of each function, text, sorted by name.

    Lines that describe no function are left out, and the last one of a name counts.
    """
    found = {}
    for line in parse_lines(data.splitlines()):
        name = line.get("name")
        if isinstance(name, str) and FIGURE_NAME.fullmatch(name):
            texts = {key: line.get(key) for key in ("func_name", "doc", "code")}
            clean = {k: inspect.cleandoc(text) if isinstance(text, str) else "" for k, text in texts.items()}
            found[name] = {"name": name, **clean, "doc": _join_lines(clean["doc"])}
    return [found[name] for name in sorted(found)]


def _join_lines(doc: str) -> str:
    """Undo the wrapping of a docstring, so that it can be wrapped anew.

    A line goes on with the next where both are indented alike and the next word would not have fitted: a break that
    comes sooner is meant, as in lists and below headings.
    """
    joined: list[str] = []
    for _, group in itertools.groupby(doc.splitlines(), lambda line: len(line) - len(line.lstrip())):
        lines = list(group)
        longest = max(_SHORTEST_WRAPPED, *map(len, lines))
        is_example = any(line.lstrip().startswith(">>>") for line in lines)
        for before, line in zip(["", *lines], lines, strict=False):
            word = line.split(maxsplit=1)[:1]
            is_full = before and word and len(before) + 1 + len(word[0]) > longest
            if is_full and not is_example and not _ITEM.fullmatch(word[0]):
                joined[-1] += f" {line.strip()}"
            else:
                joined.append(line)
    return "\n".join(joined)
