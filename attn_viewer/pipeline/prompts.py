"""Prompts from JSON lines, Parquet, and data sets of Hugging Face."""

import math
import numbers
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ActivationsMissingError, AttnViewerError, InvalidPromptError, OptionError, shorten
from ..files import expand_home
from ..options import FilePath
from ..storage.folder import Model
from ..storage.hashes import augment_prompt_with_hash
from ..storage.objects import load_plain
from .work import RunReport

# Where a text may be cut, best first; a cut comes after the match.
_BREAKS = tuple(map(re.compile, (r"\n\s*\n", r"[.!?…。！？]['\"”’)\]]*\s", r"\n", r"\s")))

_ROW = 'such as {"text": "…"}'
# What a folder that datasets saved holds.
_SAVED = ("dataset_info.json", "dataset_dict.json")


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
        not have (NaN, infinities) are null. Or a ``.parquet`` file, a data set that ``save_to_disk`` of `datasets`
        made, or a folder of any of these, of whose rows plain numbers and texts are read.
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
        Prompts in the order of the files unless shuffled, with ``text``, their metadata, ``source_fname`` and ``hash``.

    Raises
    ------
    InvalidPromptError
        If the file cannot be read, or a line is no JSON object with a text.
    OptionError
        If no length fits, or the extra ``datasets`` is needed and not there.
    """
    for name, value in (("min_chars", min_chars), ("max_chars", max_chars)):
        if value is not None and not isinstance(value, numbers.Integral):
            raise OptionError(f"{name} must be a number of characters, got {value!r}")
    if max_chars is not None and max_chars < max(1, min_chars or 0):
        raise OptionError(f"max_chars must be at least 1 and min_chars, got {max_chars} with min_chars {min_chars}")
    prompts = []
    for where, row in _read_rows(expand_home(fname)):
        try:
            prompt = _check_row(row, where)
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


def _read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row of a file, or of the files of a folder, a line yet to be parsed, and the words for where it is."""
    try:
        if path.is_dir() and not _is_saved(path):
            for place in sorted(path.rglob("*")):
                is_table = place.suffix.lower() in (".jsonl", ".parquet") and place.is_file()
                if is_table or (_is_saved(place) and not _is_saved(place.parent)):  # splits come with their set
                    yield from _read_rows(place)
        elif path.is_dir() or path.suffix.lower() == ".parquet":
            for number, row in enumerate(_read_columns(path), 1):
                yield f"row {number} of {str(path)!r}", row
        else:
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"line {number} of {str(path)!r}", line
    except AttnViewerError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:  # names with a NUL byte, damaged tables and sets
        reason = getattr(error, "strerror", None) or error
        raise InvalidPromptError(
            f"cannot read prompts from {str(path)!r}: {reason}; give JSON lines, Parquet or a folder of these"
        ) from error


def _is_saved(folder: Path) -> bool:
    return any((folder / name).exists() for name in _SAVED)


def _read_columns(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, or of all splits of a saved data set; nothing but plain columns is decoded."""
    try:
        import datasets
        from pyarrow import parquet, types
    except ImportError as error:
        raise OptionError(f"{str(path)!r} needs the package datasets: pip install 'attn-viewer[datasets]'") from error
    if path.is_file():
        with parquet.ParquetFile(path) as table:
            plain = [field.name for field in table.schema_arrow if not types.is_nested(field.type)]
            _check_columns(plain, path)
            for batch in table.iter_batches(columns=plain):
                yield from batch.to_pylist()
        return
    names = path / "dataset_dict.json"
    for folder in [path / split for split in load_plain(names.read_bytes())["splits"]] if names.exists() else [path]:
        # Newer versions of the library cannot read what they saved without rows.
        if not load_plain((folder / "state.json").read_bytes())["_data_files"]:
            continue
        split = datasets.load_from_disk(str(folder), keep_in_memory=False)
        plain = [name for name, feature in split.features.items() if isinstance(feature, datasets.Value)]
        _check_columns(plain, path)
        yield from split.select_columns(plain)


def _check_columns(plain: list[str], path: Path) -> None:
    """Refuse a table of which no row can be a prompt, once for all of them."""
    if plain.count("text") != 1:
        raise InvalidPromptError(
            f"{str(path)!r} must have one column 'text' that holds plain values, got these of plain values: "
            f"{shorten(plain)}; rename the one with the prompts"
        )


def _check_row(prompt: Any, where: str) -> dict[str, Any]:
    if isinstance(prompt, bytes):
        try:
            prompt = load_plain(prompt)
        except (ValueError, RecursionError) as error:
            raise InvalidPromptError(
                f"{where} is no JSON ({error}): {shorten(prompt)}; give one object a line, {_ROW}"
            ) from error
    if not isinstance(prompt, dict) or not isinstance(prompt.get("text"), str) or not prompt["text"]:
        raise InvalidPromptError(
            f"{where} must be an object with a text that is not empty, {_ROW}; got {shorten(prompt)}"
        )
    for name, value in prompt.items():  # of a table: JSON has no other numbers
        if isinstance(value, float) and not math.isfinite(value):
            prompt[name] = None
    try:
        # Half a surrogate pair is no text: no tokenizer takes it.
        prompt["text"].encode()
        augment_prompt_with_hash(dict(prompt))
    except UnicodeEncodeError as error:
        raise InvalidPromptError(f"{where} has half a surrogate pair in its text, {error}; take it out") from error
    except InvalidPromptError as error:
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
