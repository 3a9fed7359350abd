"""Numbers of layers and heads, and ranges of tokens, as a person gives them and reads them."""

import operator

from .errors import OptionError


def choose_numbers(wanted, present, what):
    """Check a choice of layers or heads against those that are there.

    Parameters
    ----------
    wanted : sequence of int or None
        True numbers; None takes all.
    present : sequence of int
        Those that are there.
    what : str
        The word for the error message: ``"layer"`` or ``"head"``.

    Returns
    -------
    tuple of int
        The chosen numbers, ascending, each once.

    Raises
    ------
    OptionError
        If none is chosen, one is not there, or it is no sequence of whole numbers.
    """
    if wanted is None:
        return tuple(present)
    chosen = sorted(set(check_numbers(wanted, what)))
    missing = [number for number in chosen if number not in present]
    if missing or not chosen:
        came = ", ".join(map(str, missing)) or "an empty choice"
        raise OptionError(f"there is no {what} {came}; there are {describe_numbers(present)}")
    return tuple(chosen)


def check_numbers(wanted, what):
    """Check that a choice of layers or heads is made of whole numbers, before it is known which there are.

    Parameters
    ----------
    wanted : sequence of int or None
        Numbers; None takes all.
    what : str
        The word for the error message.

    Returns
    -------
    tuple of int or None
        The numbers as they came.

    Raises
    ------
    OptionError
        If it is a number alone, text, or anything else.
    """
    try:
        return None if wanted is None else tuple(operator.index(number) for number in wanted)
    except TypeError as reason:
        raise OptionError(
            f"to choose a {what}, give a sequence of whole numbers such as [0, 3]; got {wanted!r}"
        ) from reason


def check_spans(spans, n_tokens, error, what):
    """Check named spans of tokens.

    Parameters
    ----------
    spans : sequence of (str, int, int)
        ``(name, start, stop)``.
    n_tokens : int or None
        Number of tokens, when known.
    error : type
        The error to raise.
    what : str
        Their name for its message.

    Returns
    -------
    tuple of (str, int, int)
        The spans in plain types.

    Raises
    ------
    AttnViewerError
        Of the type `error`, if they are no ascending triples within the tokens.
    """
    expected = f"{what} must be (name, start, stop) with 0 <= start < stop, ascending and apart"
    try:
        checked = tuple((name, operator.index(start), operator.index(stop)) for name, start, stop in spans)
    except (TypeError, ValueError) as reason:
        raise error(f"{expected}; got {spans!r}") from reason
    end = 0
    for name, start, stop in checked:
        if not isinstance(name, str) or not end <= start < stop:
            raise error(f"{expected}; got {(name, start, stop)!r} after token {end}")
        if n_tokens is not None and stop > n_tokens:
            raise error(f"{expected} and within {n_tokens} tokens; got {(name, start, stop)!r}")
        end = stop
    return checked


def describe_numbers(numbers):
    """Write numbers as short ranges: ``0-3, 7``.

    Parameters
    ----------
    numbers : iterable of int
        Numbers in any order.

    Returns
    -------
    str
        The ranges, ascending.
    """
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
