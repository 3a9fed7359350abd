"""Numbers of layers and heads, and ranges of tokens, as a person gives them and reads them."""

import itertools
import operator
import re
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from .errors import OptionError, cut, shorten

# No model has more layers, and no layer more heads.
MOST_NUMBERS = 100_000


def choose_numbers(
    wanted: Iterable[SupportsIndex] | None, present: Sequence[int], what: str, where: str = ""
) -> tuple[int, ...]:
    """Return a choice of layers or heads, ascending, each once; None takes all that are there, `present`.

    Raises `OptionError`, which calls them `what`, and says `where` they are, if none is chosen, one is not there, or it
    is no sequence of whole numbers.
    """
    numbers = check_numbers(wanted, what)
    if numbers is None:
        return tuple(present)
    missing = set(numbers).difference(present)
    if missing or not numbers:
        wrong = f"there is no {what} {cut(describe_numbers(missing))}" if missing else f"an empty choice of {what}s"
        raise OptionError(f"{wrong}{where}; there are {cut(describe_numbers(present))}")
    return tuple(sorted(set(numbers)))


def check_numbers(wanted: Iterable[SupportsIndex] | None, what: str) -> tuple[int, ...] | None:
    """Return a choice of layers or heads as whole numbers before it is known which there are; None takes all.

    Raises `OptionError`, which calls them `what`, for a number alone, text, or anything else.
    """
    try:
        if wanted is None:
            return None
        numbers = tuple(itertools.islice(wanted, MOST_NUMBERS + 1))
        if len(numbers) <= MOST_NUMBERS and not any(isinstance(number, bool) for number in numbers):
            return tuple(map(operator.index, numbers))
        reason = None
    except TypeError as error:
        reason = error
    raise OptionError(
        f"to choose a {what}, give a sequence of whole numbers such as [0, 3]; got {shorten(wanted)}"
    ) from reason


def check_spans(
    spans: Iterable[tuple[str, SupportsIndex, SupportsIndex]], n_tokens: int | None, error: type[Exception], what: str
) -> tuple[tuple[str, int, int], ...]:
    """Return spans of tokens ``(name, start, stop)`` in plain types.

    Raises `error`, which calls them `what`, unless they ascend, apart, within `n_tokens` where that is known.
    """
    expected = f"{what} must be (name, start, stop) with 0 <= start < stop, ascending and apart"
    checked, end = [], 0
    try:
        for name, begin, close in spans:
            start, stop = operator.index(begin), operator.index(close)
            if not isinstance(name, str) or not end <= start < stop:
                raise error(f"{expected}; got {shorten((name, start, stop))} after token {end}")
            if n_tokens is not None and stop > n_tokens:
                raise error(f"{expected} and within {n_tokens} tokens; got {shorten((name, start, stop))}")
            checked.append((name, start, stop))
            end = stop
    except (TypeError, ValueError) as reason:
        raise reason if isinstance(reason, error) else error(f"{expected}; got {shorten(spans)}") from reason
    return tuple(checked)


def describe_numbers(numbers: Iterable[int]) -> str:
    """Write numbers as short ranges, ascending: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def parse_numbers(text: str) -> list[int]:
    """Read layer or head numbers such as ``0,4-7``: numbers and ranges, both ends included, or raise `OptionError`."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > MOST_NUMBERS:
            raise OptionError(f"expected numbers such as 0,4-7, got {text!r}")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def parse_heads(text: str) -> list[tuple[int, int]]:
    """Read heads, each once: ``5.2,18.6`` is head 2 of layer 5 and head 6 of layer 18. Raises `OptionError`."""
    matches = [re.fullmatch(r"\s*(\d{1,6})\.(\d{1,6})\s*", part) for part in text.split(",")]
    if not all(matches):
        raise OptionError(f"expected layer.head such as 5.2,18.6, got {text!r}")
    return list(dict.fromkeys((int(match[1]), int(match[2])) for match in matches if match))


def parse_names(text: str) -> list[str]:
    """Read names divided by commas."""
    return [name.strip() for name in text.split(",")]


def parse_rows(text: str) -> int | slice:
    """Read how many of the last tokens, or a range of tokens such as ``2:5``, its end left out."""
    start, colon, stop = text.partition(":")
    return slice(int(start), int(stop)) if colon else int(start)


def parse_workers(text: str) -> bool | int:
    """Read how many processes, or ``True`` for one a core."""
    return text == "True" or int(text)


def parse_spans(text: str) -> list[tuple[str, int, int]]:
    """Read spans of tokens such as ``system:0:25,user:25:40``, the end of each left out, or raise `OptionError`."""
    spans = [re.fullmatch(r"\s*(.+):(\d+):(\d+)\s*", part) for part in text.split(",")]
    if not all(spans):
        raise OptionError(f"expected spans such as system:0:25,user:25:40, got {text!r}")
    return [(span[1], int(span[2]), int(span[3])) for span in spans if span]
