"""Prompts from JSON lines."""

import numbers
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ActivationsMissingError, InvalidPromptError, OptionError, shorten
from ..options import FilePath
from ..storage.folder import Model
from ..storage.hashes import augment_prompt_with_hash
from ..storage.objects import load_plain
from .work import RunReport

# Where a text may be cut, best first; a cut comes after the match.
_BREAKS = tuple(map(re.compile, (r"\n\s*\n", r"[.!?…。！？]['\"”’)\]]*\s", r"\n", r"\s")))


def load_text_data(
    fname: FilePath,
    min_chars: int | None = None,
    max_chars: int | None = None,
    shuffle: bool = False,
    *,
    seed: int = 0,
    errors: list[Any] | None = None,
) -> list[dict[str, Any]]:
    """Read prompts from a JSONL file and bring them to a size.

    Parameters
    ----------
    fname : path-like
        A JSON object a line, with ``text`` and any metadata; empty lines are passed over, and numbers that JSON does
        not have (NaN, infinities) are null.
    min_chars, max_chars : int, optional
        Longer texts are cut into pieces, at the last paragraph, sentence, line or word that ends in the second half of
        a piece; shorter texts and pieces are left out.
    shuffle : bool
        Whether to shuffle the prompts.
    seed : int
        Of the shuffle.
    errors : list, optional
        Takes an `InvalidPromptError` for each bad line, the others being read; left out, the first one is raised.

    Returns
    -------
    list of dict
        Prompts in the file's order unless shuffled, with ``text``, their metadata, ``source_fname`` and ``hash``.

    Raises
    ------
    InvalidPromptError
        If the file cannot be read, or a line is no JSON object with a text.
    OptionError
        If no length fits.
    """
    for name, value in (("min_chars", min_chars), ("max_chars", max_chars)):
        if value is not None and not isinstance(value, numbers.Integral):
            raise OptionError(f"{name} must be a number of characters, got {value!r}")
    if max_chars is not None and max_chars < max(1, min_chars or 0):
        raise OptionError(f"max_chars must be at least 1 and min_chars, got {max_chars} with min_chars {min_chars}")
    prompts = []
    for number, line in enumerate(_read_lines(fname), 1):
        if not line.strip():
            continue
        try:
            prompt = _read_line(line, f"line {number} of {str(fname)!r}")
        except InvalidPromptError as error:
            if errors is None:
                raise
            errors.append(error)
            continue
        prompt["source_fname"] = Path(fname).as_posix()
        pieces = split_text(prompt["text"], max_chars)
        if len(pieces) > 1:  # a hash of the whole text is none of a piece
            prompt.pop("hash", None)
        pieces = [text for text in pieces if len(text) >= (min_chars or 0)]
        prompts += [augment_prompt_with_hash({**prompt, "text": text}) for text in pieces]
    if shuffle:
        random.Random(seed).shuffle(prompts)
    return prompts


def _read_lines(fname: FilePath) -> Iterator[bytes]:
    try:
        with open(fname, "rb") as file:
            yield from file
    except (OSError, ValueError) as error:  # the latter from a name with a NUL byte
        reason = getattr(error, "strerror", None) or error
        raise InvalidPromptError(f"cannot read prompts from {str(fname)!r}: {reason}; give a JSONL file") from error


def _read_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        prompt = load_plain(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPromptError(f"{where} is no JSON ({error}): {shorten(line)}") from error
    if not isinstance(prompt, dict) or not isinstance(prompt.get("text"), str) or not prompt["text"]:
        raise InvalidPromptError(f"{where} must be an object with a 'text' that is not empty, got {shorten(prompt)}")
    try:
        # Half a surrogate pair is no text: no tokenizer takes it.
        prompt["text"].encode()
        augment_prompt_with_hash(dict(prompt))
    except (UnicodeEncodeError, InvalidPromptError) as error:
        raise InvalidPromptError(f"{where}: {error}") from error
    return prompt


def take_samples(
    prompts: list[dict[str, Any]], n_samples: int | None, errors: Sequence[Exception], hint: str
) -> list[dict[str, Any]]:
    """Return the first prompts.

    Raises `ActivationsMissingError`, with a `hint` what to do, if there are neither prompts nor errors: a run that has
    none must not look like one that did all.
    """
    if not (prompts or errors):
        raise ActivationsMissingError(f"there are no prompts: {hint}")
    return prompts[:n_samples]


def sample_hashes(model: Model, n_samples: int | None, report: RunReport) -> list[str]:
    """Return the hashes of the first prompts of a model; what is wrong with others goes into the report."""
    prompts, errors = model.list_prompts()
    report.failures += map(str, errors)
    hint = f"{str(model.folder.root)!r} has none of model {model.name!r}; run attn-viewer activations first"
    return [prompt["hash"] for prompt in take_samples(prompts, n_samples, errors, hint)]


def split_text(text: str, max_chars: int | None) -> list[str]:
    """Cut a text into pieces of at most `max_chars`, nothing lost; None cuts nothing."""
    if max_chars is None:
        return [text]
    pieces, start = [], 0
    while len(text) - start > max_chars:
        half, end = start + max_chars // 2, start + max_chars
        window = text[half:end]
        found = (list(pattern.finditer(window)) for pattern in _BREAKS)
        cut = next((half + matches[-1].end() for matches in found if matches), end)
        pieces.append(text[start:cut])
        start = cut
    return [*pieces, text[start:]]
