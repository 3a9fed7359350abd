"""Indexes of a data folder, which pages that show it read. Sorted, so that the same folder has the same indexes."""

import contextlib
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import AttnViewerError
from ..figures.registry import get_figure_names, select_attn_figure_funcs
from ..files import write_whole
from ..options import FilePath
from ..storage.folder import DataFolder, find_folder
from ..storage.objects import load_plain
from ..storage.stored import EXTRA


def generate_models_jsonl(path: FilePath) -> list[AttnViewerError]:
    """Write ``models.jsonl`` of a data folder, the ``model_cfg.json`` of every model; return what is wrong with models.

    One is left out if its config cannot be read, kept if that contradicts itself.
    """
    configs: list[dict[str, Any]] = []
    errors: list[AttnViewerError] = []
    for model in DataFolder(path).list_models():
        try:
            configs.append(model.config)
            _ = model.heads
        except AttnViewerError as error:  # noqa: PERF203 - one bad model must not hide the others
            errors.append(error)
    _write_lines(find_folder(path) / "models.jsonl", configs)
    return errors


def generate_prompts_jsonl(model_dir: FilePath) -> list[AttnViewerError]:
    """Write ``prompts.jsonl`` in a model's folder, every prompt that is whole, and return what is wrong with others.

    Of what only this package reads, nothing is kept but ``n_keys``: ``n_tokens`` does not count the token that a model
    puts before the text.
    """
    model_dir = find_folder(model_dir)
    prompts, errors = DataFolder(model_dir.parent).get_model(model_dir.name).list_prompts()
    _write_lines(model_dir / "prompts.jsonl", map(_shorten_facts, prompts))
    return errors


def _shorten_facts(prompt: dict[str, Any]) -> dict[str, Any]:
    facts = prompt.get(EXTRA)
    tokens = facts.get("tokens_key") if isinstance(facts, dict) else None
    kept = {EXTRA: {"n_keys": len(tokens)}} if isinstance(tokens, list) else {}
    return {name: value for name, value in prompt.items() if name != EXTRA} | kept


def get_func_metadata(func: Callable[..., Any]) -> list[dict[str, Any]]:
    """Describe each figure of a function: ``name``, ``func_name``, ``doc``, ``figure_save_fmt``, ``source``, ``code``.

    None is what cannot be known; the source is a file.
    """
    plain = inspect.unwrap(func)
    source = code = None
    with contextlib.suppress(OSError, TypeError):
        source, code = Path(inspect.getsourcefile(plain) or "").as_posix(), inspect.getsource(plain)
    facts = {
        "func_name": func.__name__,
        "doc": inspect.getdoc(func),
        "figure_save_fmt": getattr(func, "figure_save_fmt", None),
        "source": source,
        "code": code,
    }
    return [{"name": name, **facts} for name in get_figure_names(func)]


def generate_functions_jsonl(path: FilePath, funcs: Sequence[Callable[..., Any]] | None = None) -> None:
    """Write ``figures.jsonl`` of a data folder: the functions that were in it and these, or all that are registered."""
    target = find_folder(path) / "figures.jsonl"
    known: dict[str, dict[str, Any]] = {}
    lines: list[bytes] = []
    with contextlib.suppress(OSError):
        lines = target.read_bytes().splitlines()
    for line in lines:
        # What describes no function is dropped.
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            facts = load_plain(line)
            known[str(facts["name"])] = facts
    for func in select_attn_figure_funcs() if funcs is None else funcs:
        known.update((facts["name"], facts) for facts in get_func_metadata(func))
    _write_lines(target, (facts for _, facts in sorted(known.items())))


def _write_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    write_whole(path, b"".join(json.dumps(each).encode() + b"\n" for each in objects))
