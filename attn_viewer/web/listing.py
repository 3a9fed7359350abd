"""What a data folder holds, as a browser lists it: prompts, figures, figure functions.

A request names things, never paths. Names are looked up among those that are there, and a file is opened only where it
lies inside the folder after all links are followed.
"""

import contextlib
import io
import os
import threading
from pathlib import Path
from typing import Any

from ..errors import ActivationsMissingError, AttnViewerError, GetActivationsError, OptionError, shorten
from ..files import describe_place
from ..storage.folder import FAILED, MAX_BYTES, DataFolder, Model, Prompt
from ..storage.hashes import HASH
from ..storage.objects import parse_lines
from ..storage.opening import open_inside
from ..storage.stored import EXTRA
from .functions import FIGURE_NAME, parse_functions

# What a page shows, the sharpest first; the last in a frame in which nothing runs.
FIGURE_TYPES = {
    "svgz": "image/svg+xml",
    "svg": "image/svg+xml",
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "html": "text/html; charset=utf-8",
}
MAX_REASON = 300


class Listing:
    """Read-only view of a data folder, safe to call from several threads; nothing is opened that lies outside of it.

    Raises `OptionError` if there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = DataFolder(path, opener=open_inside)
        if (what := describe_place(self.folder.root)) != "is a folder":
            raise OptionError(f"data folder {shorten(str(path))} {what}; give one that attn-viewer activations made")
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {}

    def list_models(self) -> list[Model]:
        """Return the models, sorted by name; those whose config cannot be read are left out."""
        found = []
        for model in self.folder.list_models():
            with contextlib.suppress(GetActivationsError):
                found += [model] if model.heads else []
        return found

    def get_model(self, name: str) -> Model:
        """Return a model by name, or raise `AttnViewerError` if there is none."""
        model = self.folder.get_model(name)
        _ = model.heads
        return model

    def get_prompt(self, model: str, prompt: str) -> Prompt:
        """Return a prompt, which need not be there, or raise `AttnViewerError` if there can be none of the name."""
        return self.get_model(model).get_prompt({"hash": prompt})

    def read_prompts(self, model: Model) -> dict[str, dict[str, Any]]:
        """Read ``hash``, ``text`` and ``n_tokens`` of a model's prompts, by hash; kept until the folder changes."""
        try:
            state = ((model.path / "prompts").stat().st_mtime_ns, _get_mtime(model.path / "prompts.jsonl"))
        except OSError:
            return {}
        with self._lock:
            kept = self._kept.get(model.name)
            if kept is None or kept[0] != state:
                kept = self._kept[model.name] = (state, self._list_prompts(model))
            return kept[1]

    def _list_prompts(self, model: Model) -> dict[str, dict[str, Any]]:
        with os.scandir(model.path / "prompts") as entries:
            hashes = {entry.name for entry in entries if HASH.fullmatch(entry.name)}
        found, lines = {}, []
        with contextlib.suppress(GetActivationsError), self.folder.open(model.name, "prompts.jsonl") as file:
            lines = list(parse_lines(file))
        for prompt in lines:
            if isinstance(prompt.get("hash"), str) and prompt["hash"] in hashes:
                found[prompt["hash"]] = _summarise(prompt, prompt["hash"])
        for name in sorted(hashes - found.keys()):
            with contextlib.suppress(AttnViewerError):
                found[name] = _summarise(model.get_prompt({"hash": name}).read(), name)
        return found

    def read_functions(self) -> list[dict[str, str]]:
        """Read what ``figures.jsonl`` says of the figure functions, as `parse_functions` returns it."""
        with contextlib.suppress(GetActivationsError), self.folder.open("figures.jsonl") as file:
            return parse_functions(file.read(MAX_BYTES))
        return []

    def list_figures(self, prompt: Prompt) -> list[str]:
        """Return the names of the figures that some head of a prompt has, or failed to get, sorted."""
        place = prompt.path.resolve()
        heads = os.walk(place) if place.is_relative_to(self.folder.root.resolve()) else ()  # which follows no links
        files = {file for folder, _, names in heads if os.path.basename(folder)[0] == "H" for file in names}
        drawn = {stem for stem, _, ending in (file.rpartition(".") for file in files) if ending in FIGURE_TYPES}
        with_figures = {figure.partition(".")[0] for figure in drawn}
        failed = {file.removesuffix(FAILED) for file in files if file.endswith(FAILED)} - with_figures
        return sorted(figure for figure in drawn | failed if FIGURE_NAME.fullmatch(figure))


def open_figure(prompt: Prompt, layer: int, head: int, figure: str) -> tuple[io.BufferedReader, str]:
    """Open a figure of a head by true numbers, whichever format it has; return the file and a key of `FIGURE_TYPES`.

    Raises `ActivationsMissingError` if there is none; where its function failed, the error says how.
    """
    if not (0 <= head < prompt.model.heads.get(layer, 0) and FIGURE_NAME.fullmatch(figure)):
        raise ActivationsMissingError("there is no such figure")
    for ending in FIGURE_TYPES:
        with contextlib.suppress(GetActivationsError):
            return prompt.open_file(f"L{layer}", f"H{head}", f"{figure}.{ending}"), ending
    reason = "not made yet"
    with (
        contextlib.suppress(GetActivationsError),
        prompt.open_file(f"L{layer}", f"H{head}", figure.partition(".")[0] + FAILED) as file,
    ):
        reason = "failed: " + file.read(MAX_REASON).decode(errors="replace").partition("\n")[0]
    raise ActivationsMissingError(reason)


def _summarise(prompt: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a table shows; a prompt is as long as its maps are, where that is known."""
    text, facts = prompt.get("text"), prompt.get(EXTRA)
    facts = facts if isinstance(facts, dict) else {}
    counts = (
        facts.get("n_keys"),
        _count(facts.get("tokens_key")),
        prompt.get("n_tokens"),
        _count(prompt.get("tokens")),
    )
    n_tokens = next((count for count in counts if type(count) is int), 0)
    return {"hash": name, "text": text if isinstance(text, str) else "", "n_tokens": n_tokens}


def _count(value: object) -> int | None:
    return len(value) if isinstance(value, list) else None


def _get_mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
