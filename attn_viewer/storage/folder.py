"""The data folder: attention weights and figures of many prompts and models, in the layout of pattern-lens 0.6.

::

    attn_data/
      models.jsonl  figures.jsonl
      {model}/model_cfg.json  prompts.jsonl
      {model}/prompts/{hash}/prompt.json  activations.npz  L{l}/H{h}/{figure}.{fmt}

`DataFolder` → `Model` → `Prompt` → `StoredMaps`, which reads facts, maps and heads. What facts there are beyond the
layout stands in ``model_cfg.json`` and ``prompt.json`` under the key `EXTRA`. The latter is written last: where it is,
the rest is. Errors call files by their names below the folder.
"""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    ActivationsMissingError,
    AttnViewerError,
    GetActivationsError,
    InvalidPromptError,
    OptionError,
    shorten,
)
from ..files import check_model_id, describe_place, make_folder, open_whole, remove_leftovers, write_whole
from ..maps import AttentionMaps
from ..options import FilePath
from ..selections import MOST_NUMBERS
from .arrays import KEY, Archive, Stack, write_npz
from .hashes import augment_prompt_with_hash, compare_prompt_to_loaded
from .objects import dump_object, parse_object
from .opening import open_file
from .stored import EXTRA, StoredMaps, get_facts, read_facts

DATA_DIR = "attn_data"
CONFIG, PROMPT = "model_cfg.json", "prompt.json"
ACTIVATIONS = "activations.npz"
STACKED = "activations-blocks.-.attn.hook_pattern.npy"
# The file names of weights, the quicker to read first.
KINDS: dict[str, type[Archive] | type[Stack]] = {STACKED: Stack, ACTIVATIONS: Archive}
# Of a file that is read whole.
MAX_BYTES = 64 * 2**20
# Ends the name of a file that says, in place of a figure, why its function failed.
FAILED = ".error.txt"

Prompts = dict[str, Any]
Opener = Callable[..., io.BufferedReader]


def find_folder(save_path: FilePath) -> Path:
    """Return the folder that a path or a ``file://`` URL names, which need not exist.

    Figures are written and arrays mapped there, so the operating system must know it: `OptionError` for other URLs.
    """
    text = os.fspath(save_path) if isinstance(save_path, (str, os.PathLike)) else ""
    try:
        if "://" in text:
            url = urlsplit(text)
            text = unquote(url.path) if url.scheme == "file" and url.netloc in ("", "localhost") else ""
        if text and "\0" not in text:
            return Path(text).expanduser()
    except (RuntimeError, ValueError):  # no such user, half an address
        pass
    raise OptionError(f"save_path {save_path!r} is no folder of this machine; give a path, or mount it and give that")


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """A data folder, which need not exist; `path` is as `find_folder` takes it.

    Each file is read through `opener`: `opening.open_file`, or `opening.open_inside` where strangers ask.
    """

    path: dataclasses.InitVar[FilePath] = DATA_DIR
    opener: Opener = open_file
    root: Path = dataclasses.field(init=False)

    def __post_init__(self, path: FilePath) -> None:
        object.__setattr__(self, "root", find_folder(path))

    def open(self, *parts: str, what: str = "") -> io.BufferedReader:
        """Open a file by its path below the folder, or raise `GetActivationsError`, which may say what is not there."""
        name = "/".join(parts)
        try:
            return self.opener(self.root, *parts)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ActivationsMissingError(
                f"there is no {what or repr(name)} in the data folder; run attn-viewer activations first"
            ) from error
        except (OSError, ValueError) as error:
            raise ActivationsDamagedError(
                f"{name!r} cannot be read: {getattr(error, 'strerror', error)}; delete it and compute it again"
            ) from error

    def read_json(self, *parts: str, what: str) -> dict[str, Any]:
        """Read the JSON object in a file, or raise `GetActivationsError`."""
        with self.open(*parts, what=what) as file:
            return parse_object(file.read(MAX_BYTES), repr("/".join(parts)))

    def get_model(self, name: str) -> "Model":
        """Return a model by name, which need not be there; `OptionError` if it cannot name a folder.

        ``org/name`` is the folder ``org--name``, or ``org/name`` where pattern-lens made that.
        """
        is_nested = describe_place(self.root / check_model_id(name) / CONFIG) == "is a file"
        return Model(self, name if is_nested else name.replace("/", "--"))

    def list_models(self) -> list["Model"]:
        """Return the models that have a ``model_cfg.json``, sorted by name."""
        found = (*self.root.glob(f"*/{CONFIG}"), *self.root.glob(f"*/*/{CONFIG}"))
        return [Model(self, name) for name in sorted(path.parent.relative_to(self.root).as_posix() for path in found)]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of a data folder; `name` is its folder below that."""

    folder: DataFolder
    name: str

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.root / self.name

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Content of ``model_cfg.json``: at least ``model_name``, ``n_layers`` and ``n_heads``.

        Raises `ActivationsMissingError` if there is none, `ActivationsDamagedError` if it lacks one of the three.
        """
        name = f"{self.name}/{CONFIG}"
        try:
            config = self.folder.read_json(self.name, CONFIG, what=f"model {self.name!r}")
        except ActivationsMissingError as error:
            there = ", ".join(model.name for model in self.folder.list_models())
            raise ActivationsMissingError(f"{error}; there {f'is {there}' if there else 'is none'}") from error
        counts = [config.get(key) for key in ("n_layers", "n_heads")]
        are_counts = all(type(count) is int and 0 < count <= MOST_NUMBERS for count in counts)
        if not isinstance(config.get("model_name"), str) or not are_counts:
            raise ActivationsDamagedError(
                f"{name!r} must hold model_name, n_layers and n_heads (numbers from 1 to {MOST_NUMBERS:,}), got "
                f"{shorten({key: config.get(key) for key in ('model_name', 'n_layers', 'n_heads')})}"
            )
        if not isinstance(config.get(EXTRA, {}), dict):
            raise ActivationsDamagedError(f"{name!r} has {shorten(config[EXTRA])} under {EXTRA!r}, not an object")
        return config

    @property
    def heads(self) -> dict[int, int]:
        """Number of heads by true layer number; layers without attention are left out where that is known.

        Raises `ActivationsDamagedError` if the config contradicts itself.
        """
        extra = self.config.get(EXTRA, {})
        if not {"layers", "n_heads"} <= extra.keys():
            return dict.fromkeys(range(self.config["n_layers"]), self.config["n_heads"])
        try:
            counts: dict[int, int] = dict(zip(extra["layers"], extra["n_heads"], strict=True))
            if (max(counts) + 1, max(counts.values())) == (self.config["n_layers"], self.config["n_heads"]):
                return counts
        except (TypeError, ValueError):
            pass
        raise ActivationsDamagedError(
            f"model_cfg.json of {self.name!r} says {self.config['n_layers']} layers and {self.config['n_heads']} "
            f"heads, and {shorten(extra)} under {EXTRA!r}; delete it and run attn-viewer activations again"
        )

    @property
    def title(self) -> str:
        """Its name for readers."""
        title = self.config.get(EXTRA, {}).get("model_id", self.config["model_name"])
        return title if isinstance(title, str) else self.name

    def save_config(self, maps: AttentionMaps, **facts: Any) -> Path:
        """Write once what the folder must know about the model of these maps, which have all its layers and heads.

        Raises `ActivationsMismatchError` if another model is stored under the name. `facts` are kept beside.
        """
        counts = {"n_layers": max(maps.layers) + 1, "n_heads": max(maps.n_heads)}
        extra = {"model_id": maps.model_id, "layers": list(maps.layers), "n_heads": list(maps.n_heads)}
        path = self.path / CONFIG
        if describe_place(path) == "is a file":
            stored = self.config
            for mine, theirs in ((counts, stored), (extra, stored.get(EXTRA, extra))):
                if any(value != theirs.get(key) for key, value in mine.items()):
                    raise ActivationsMismatchError(
                        f"{str(path)!r} is of another model: it says {shorten({k: theirs.get(k) for k in mine})}, this "
                        f"model has {shorten(mine)}; give this one another name (--model-id), or delete that folder"
                    )
            return path
        make_folder(self.path)
        # The name is the one by which pattern-lens goes back to this folder.
        return write_whole(path, dump_object({"model_name": self.name, **counts, **facts, EXTRA: extra}))

    def get_prompt(self, prompt: Prompts) -> "Prompt":
        """Return a prompt, which need not be there, by its ``text`` or ``hash``; it gets its hash in place."""
        return Prompt(self, augment_prompt_with_hash(prompt))

    def list_prompts(self) -> tuple[list[Prompts], list[AttnViewerError]]:
        """Return what each ``prompt.json`` holds, by hash, and what is wrong with those that cannot be read."""
        prompts: list[Prompts] = []
        errors: list[AttnViewerError] = []
        for path in sorted(self.path.glob(f"prompts/*/{PROMPT}")):
            try:
                prompts.append(Prompt(self, {"hash": path.parent.name}).read())
            except AttnViewerError as error:  # noqa: PERF203 - one bad prompt must not hide the others
                errors.append(error)
        return prompts, errors


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of a model; it is `asked` for by ``hash``, and a ``text`` must be the one that is stored."""

    model: Model
    asked: Prompts

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.model.path.joinpath("prompts", self.asked["hash"])

    def open_file(self, *parts: str) -> io.BufferedReader:
        """Open a file of its folder, or raise `GetActivationsError`."""
        return self.model.folder.open(self.model.name, "prompts", self.asked["hash"], *parts)

    def read(self) -> Prompts:
        """Return the content of its ``prompt.json``.

        Raises `GetActivationsError` if it is missing, damaged, or that of another prompt.
        """
        what = f"prompt {self.asked['hash']!r} of model {self.model.name!r}"
        stored = self.model.folder.read_json(self.model.name, "prompts", self.asked["hash"], PROMPT, what=what)
        try:
            augment_prompt_with_hash(stored)
        except InvalidPromptError as error:
            raise ActivationsDamagedError(f"{PROMPT!r} of prompt {self.asked['hash']!r} is none: {error}") from error
        compare_prompt_to_loaded(self.asked, stored)
        return stored

    @contextlib.contextmanager
    def open_maps(self, names: Sequence[str] = tuple(KINDS)) -> Iterator["StoredMaps"]:
        """Open its weights, in the first of some files that is there; nothing is read yet but what they are.

        Raises `ActivationsMissingError` if prompt or weights are not there, `ActivationsMismatchError` if another text
        is stored under the hash or weights do not fit their ``prompt.json``, `ActivationsDamagedError` if a file is
        truncated, holds objects, no attention weights or no facts.
        """
        with self.open_weights(names) as (stored, weights):
            yield StoredMaps(stored, weights, read_facts(stored, weights.shapes, self.model.title))

    @contextlib.contextmanager
    def open_weights(self, names: Sequence[str] = tuple(KINDS)) -> Iterator[tuple[Prompts, Archive | Stack]]:
        """Open its ``prompt.json`` and its weights as `open_maps` does, but do not compare them."""
        stored = self.read()
        layers = get_facts(stored).get("layers")
        for name in names:
            try:
                file = self.open_file(name)
            except ActivationsMissingError:
                continue
            with KINDS[name](file, f"{name!r} of prompt {self.asked['hash']!r}", layers) as weights:
                yield stored, weights
                return
        raise ActivationsMissingError(
            f"Activations file {' or '.join(names)} is not there; compute it with attn-viewer activations"
        )

    def read_maps(self, layers: Sequence[int] | None = None) -> AttentionMaps:
        """Return its attention weights, of all layers or some by true number, with all that is known about them.

        Raises `GetActivationsError` as `open_maps`, and if layers and heads are not as many as ``model_cfg.json`` says;
        `OptionError` if a layer is not there.
        """
        expected = self.model.heads
        with self.open_maps() as opened:
            facts = opened.facts.select_layers(layers)
            found = dict.fromkeys(expected if layers is None else (), 0)
            found |= dict(zip(facts.layers, facts.n_heads, strict=True))
            if wrong := {layer: count for layer, count in found.items() if expected.get(layer) != count}:
                raise ActivationsMismatchError(
                    f"prompt {self.asked['hash']!r} has (layer: heads) {shorten(wrong)}, model_cfg.json says "
                    f"{shorten({layer: expected.get(layer) for layer in wrong})}; one of them is of another model"
                )
            return opened.read_layers(facts.layers)

    def is_whole(self, *, stacked: bool = False) -> bool:
        """Tell whether its weights, ``.npz`` or `stacked`, are there and whole; leftovers of killed runs are removed.

        What is truncated or does not fit its ``prompt.json`` is not whole but to be written again. Raises
        `ActivationsMismatchError` if another text is stored under the hash.
        """
        remove_leftovers(self.path)
        try:
            self.read()
        except (ActivationsMissingError, ActivationsDamagedError):
            return False
        try:
            with self.open_weights([STACKED if stacked else ACTIVATIONS]) as (stored, weights):
                read_facts(stored, weights.shapes, self.model.name)
                return True
        except GetActivationsError:
            return False

    def save(self, maps: AttentionMaps, *, stacked: bool = False) -> Path:
        """Write its attention weights and return their file; older ones are replaced.

        Stacked, it is one ``.npy``, which can be memory-mapped and which pattern-lens does not read. ``prompt.json``
        keeps all of the prompt that was asked for and the facts of the maps, and gets ``tokens``, raw tokens without a
        special one at the start, and ``n_tokens`` where they are missing.

        Raises `ActivationsMismatchError` if another text is stored under the hash, `InvalidPromptError` if something in
        the prompt is not JSON, `OptionError` if layers that differ in heads are to be stacked.
        """
        with contextlib.suppress(ActivationsMissingError, ActivationsDamagedError):  # which are replaced
            self.read()
        if stacked and len(set(maps.n_heads)) > 1:
            raise OptionError(
                f"layers with {sorted(set(maps.n_heads))} heads cannot be stacked; leave out stacked heads"
            )
        tokens = self.asked.get("tokens")
        tokens = tokens if isinstance(tokens, (list, tuple)) else list(maps.tokens_key)
        # pattern-lens's page stops at a prompt without "meta", also where that is null.
        meta = {} if self.asked.get("meta") is None else self.asked["meta"]
        facts = {"meta": meta, "n_tokens": len(tokens), "tokens": tokens, EXTRA: maps.to_plain()}
        description = dump_object({"meta": {}} | self.asked | facts)
        make_folder(self.path)
        path, other = self.path / ACTIVATIONS, self.path / STACKED
        if stacked:
            path, other = other, path
            with open_whole(path) as file:
                np.lib.format.write_array(file, np.stack(maps.weights), allow_pickle=False)
        else:
            write_npz(path, {KEY.format(n): w[None] for n, w in zip(maps.layers, maps.weights, strict=True)})
        other.unlink(missing_ok=True)
        write_whole(self.path / PROMPT, description)
        return path
