"""A data folder as strangers' requests may see it: nothing but its models, prompts, weights and figures.

A request names things, never paths. Names are looked up among those that are there, and a file is opened only where it
lies inside the folder after all links are followed. What is wrong is said in words that hold no path.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import stat
import threading
from inspect import cleandoc
from pathlib import Path

import numpy as np

from ..errors import AttnViewerError, OptionError
from ..tokens import show_raw_token
from .stored import Archive, DamagedError, NotInFolderError, Stack

# The layout is that of storage.dataset.
ACTIVATIONS = "activations.npz"
STACKED = "activations-blocks.-.attn.hook_pattern.npy"
EXTRA = "attn_viewer"
_HASH = re.compile(r"[\w-]{1,100}", re.ASCII)
_FIGURE = re.compile(r"\w[\w .+-]{0,100}")
# What an <img> shows, the sharpest first.
FIGURE_TYPES = {
    "svgz": "image/svg+xml",
    "svg": "image/svg+xml",
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
}
MAX_BYTES = 64 * 2**20
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENXIO)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the folder.

    Attributes
    ----------
    name : str
        Its folder below the data folder.
    heads : dict of int to int
        Number of heads by true layer number.
    title : str
        Its name for readers.
    """

    name: str
    heads: dict
    title: str


class DataFolder:
    """Read-only view of a data folder, safe to call from several threads.

    Parameters
    ----------
    path : path-like
        The folder.

    Raises
    ------
    OptionError
        If it is no folder.
    """

    def __init__(self, path):
        try:
            self.root = Path(path).expanduser().resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"there is no data folder {str(path)!r}; make one with attn-viewer activations"
            ) from error
        if not self.root.is_dir():
            raise OptionError(f"{str(path)!r} is a file; give the data folder that attn-viewer activations made")
        self._lock = threading.Lock()
        self._kept = {}

    def open(self, *parts):
        """Open a file of the folder for reading.

        Parameters
        ----------
        *parts : str
            Its path below the folder, made of names that were checked.

        Returns
        -------
        io.BufferedReader
            The file.

        Raises
        ------
        NotInFolderError
            If there is none, a link leads out of the folder, or it is no plain file.
        """
        try:
            path = self.root.joinpath(*parts).resolve(strict=True)
            if not path.is_relative_to(self.root):
                raise NotInFolderError("a link leads out of the data folder")
            # A pipe would block; a link that came in since `resolve` is refused.
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        except (ValueError, RuntimeError) as error:
            raise NotInFolderError("there is no such file") from error
        except OSError as error:
            if error.errno in _ABSENT:
                raise NotInFolderError("there is no such file") from error
            raise
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise NotInFolderError("that is no plain file")
        return file

    def read_models(self):
        """Find the models.

        Returns
        -------
        dict of str to Model
            By name, sorted; those whose config cannot be read are left out.
        """
        found = {}
        for depth in ("*", "*/*"):
            for path in sorted(self.root.glob(f"{depth}/model_cfg.json")):
                name = path.parent.relative_to(self.root).as_posix()
                with contextlib.suppress(AttnViewerError, OSError):
                    found[name] = self._read_model(name)
        return found

    def get_model(self, name):
        """Return a model by its exact name, or raise `NotInFolderError`."""
        parts = name.split("/")
        if len(parts) > 2 or any(p in ("", ".", "..") or "\\" in p or not p.isprintable() for p in parts):
            raise NotInFolderError("there is no such model")
        return self._read_model(name)

    def _read_model(self, name):
        config = self._read_json(name, "model_cfg.json")
        layers, heads = config.get("n_layers"), config.get("n_heads")
        if not all(type(n) is int and 0 < n <= 100_000 for n in (layers, heads)):
            raise DamagedError(f"model_cfg.json of {name} gives no numbers of layers and heads")
        by_layer = dict.fromkeys(range(layers), heads)
        facts = config.get(EXTRA)
        if isinstance(facts, dict) and _is_numbers(facts.get("layers")) and _is_numbers(facts.get("n_heads")):
            by_layer = dict(zip(facts["layers"], facts["n_heads"], strict=False))
        title = (facts if isinstance(facts, dict) else config).get("model_id", config.get("model_name"))
        return Model(name, by_layer, title if isinstance(title, str) else name)

    def read_prompts(self, model):
        """Read the prompts of a model.

        Parameters
        ----------
        model : Model
            The model.

        Returns
        -------
        dict of str to dict
            By hash: ``hash``, ``text`` and ``n_tokens``, what a table of prompts shows. Kept until the folder changes.
        """
        folder = self.root / model.name / "prompts"
        try:
            state = (folder.stat().st_mtime_ns, _get_mtime(folder.parent / "prompts.jsonl"))
        except OSError:
            return {}
        with self._lock:
            kept = self._kept.get(model.name)
            if kept is None or kept[0] != state:
                kept = self._kept[model.name] = (state, self._list_prompts(model))
            return kept[1]

    def _list_prompts(self, model):
        with os.scandir(self.root / model.name / "prompts") as entries:
            hashes = {entry.name for entry in entries if _HASH.fullmatch(entry.name)}
        found = {}
        try:
            with self.open(model.name, "prompts.jsonl") as file:
                lines = [_parse(line) for line in file]
        except NotInFolderError:
            lines = []
        for prompt in lines:
            if isinstance(prompt, dict) and isinstance(prompt.get("hash"), str) and prompt["hash"] in hashes:
                found[prompt["hash"]] = _summarise(prompt, prompt["hash"])
        for name in sorted(hashes - found.keys()):
            with contextlib.suppress(AttnViewerError, OSError):
                found[name] = _summarise(self._read_json(model.name, "prompts", name, "prompt.json"), name)
        return found

    def read_prompt(self, model, name):
        """Read what the folder knows of a prompt.

        Parameters
        ----------
        model : Model
            The model.
        name : str
            The prompt's hash.

        Returns
        -------
        dict
            The content of its ``prompt.json``.

        Raises
        ------
        NotInFolderError
            If there is none.
        """
        if not _HASH.fullmatch(name):
            raise NotInFolderError("there is no such prompt")
        try:
            return self._read_json(model.name, "prompts", name, "prompt.json")
        except NotInFolderError as error:
            raise NotInFolderError("there is no such prompt") from error

    def read_functions(self):
        """Read what ``figures.jsonl`` says of the figure functions.

        Returns
        -------
        list of dict
            ``name``, ``func_name``, ``doc`` and ``code``, each a string, sorted by name.
        """
        try:
            with self.open("figures.jsonl") as file:
                lines = [_parse(line) for line in file.read(MAX_BYTES).splitlines()]
        except NotInFolderError:
            return []
        found = {}
        for line in lines:
            name = line.get("name") if isinstance(line, dict) else None
            if isinstance(name, str) and _FIGURE.fullmatch(name):
                texts = {key: line.get(key) for key in ("func_name", "doc", "code")}
                found[name] = {"name": name} | {k: cleandoc(v) if isinstance(v, str) else "" for k, v in texts.items()}
        return [found[name] for name in sorted(found)]

    def list_figures(self, model, name):
        """Return the names of the figures that the first head of a prompt has, sorted."""
        layer = next(iter(model.heads))
        folder = self.root.joinpath(model.name, "prompts", name, f"L{layer}", "H0")
        try:
            if not folder.resolve(strict=True).is_relative_to(self.root):
                return []
            files = [path.rpartition(".") for path in os.listdir(folder)]
        except OSError:
            return []
        return sorted({stem for stem, _, ending in files if ending in FIGURE_TYPES and _FIGURE.fullmatch(stem)})

    def open_figure(self, model, name, layer, head, figure):
        """Open a figure of a head, whichever format it has.

        Parameters
        ----------
        model : Model
            The model.
        name : str
            The prompt's hash.
        layer, head : int
            True numbers.
        figure : str
            Name of the figure, without format.

        Returns
        -------
        file : io.BufferedReader
            The figure.
        ending : str
            Its format, a key of `FIGURE_TYPES`.

        Raises
        ------
        NotInFolderError
            If there is none.
        """
        check_head(model, layer, head)
        if not (_HASH.fullmatch(name) and _FIGURE.fullmatch(figure)):
            raise NotInFolderError("there is no such figure")
        for ending in FIGURE_TYPES:
            place = (model.name, "prompts", name, f"L{layer}", f"H{head}", f"{figure}.{ending}")
            with contextlib.suppress(NotInFolderError):
                return self.open(*place), ending
        raise NotInFolderError("there is no such figure")

    def describe_prompt(self, model, name):
        """Describe the weights of a prompt without reading them.

        Parameters
        ----------
        model : Model
            The model.
        name : str
            The prompt's hash.

        Returns
        -------
        dict
            Arguments of `describe_heads`.

        Raises
        ------
        NotInFolderError, DamagedError
            If there are no weights, or they do not fit the prompt.
        """
        stored = self.read_prompt(model, name)
        with self._open_weights(model, name, stored) as weights:
            shapes = weights.read_shapes()
            first = min(shapes)
            rows, columns = shapes[first][1:]
            facts = stored.get(EXTRA)
            described = {"layers": sorted(shapes), "model_id": model.title}
            described["heads"] = [list(range(shapes[layer][0])) for layer in described["layers"]]
            if isinstance(facts, dict) and facts:
                known = ("tokens_key", "tokens_query", "kind", "causal", "first_query", "prompt_length", "reduction")
                known += ("cell", "pooling", "has_sinks", "softcap")
                described |= {key: facts[key] for key in known if facts.get(key) is not None}
                if isinstance(facts.get("heads"), list) and len(facts["heads"]) == len(shapes):
                    described["heads"] = facts["heads"]
            else:
                labels = [show_raw_token(token) for token in stored.get("tokens", ()) if isinstance(token, str)]
                if len(labels) == columns - 1:  # pattern-lens names no token that its model puts before the text
                    labels.insert(0, "<bos>")
                described |= {"tokens_key": labels, "causal": not np.triu(weights.read_head(first, 0), 1).any()}
        down, across = described.get("cell", (1, 1))
        n_key = len(described.get("tokens_key", ()))
        n_query = len(described.get("tokens_query", described.get("tokens_key", ())))
        if (-(-n_query // down), -(-n_key // across)) != (rows, columns):
            raise DamagedError(f"there are {n_query} tokens and weights of {rows} × {columns}; compute them again")
        return described

    def read_weights(self, model, name, layer, head):
        """Read the weights of one head, and no others where they are stored so.

        Parameters
        ----------
        model : Model
            The model.
        name : str
            The prompt's hash.
        layer, head : int
            True numbers.

        Returns
        -------
        numpy.ndarray
            Axes ``(n_query, n_key)``.

        Raises
        ------
        NotInFolderError, DamagedError
            If they are not there or no plain numbers.
        """
        stored = self.read_prompt(model, name)
        facts = stored.get(EXTRA)
        numbers = (
            dict(zip(facts.get("layers", ()), facts.get("heads", ()), strict=False)) if isinstance(facts, dict) else {}
        )
        position = head
        if _is_numbers(numbers.get(layer)):
            if head not in numbers[layer]:
                raise NotInFolderError("there is no such head")
            position = numbers[layer].index(head)
        with self._open_weights(model, name, stored) as weights:
            return weights.read_head(layer, position)

    def _open_weights(self, model, name, stored):
        for file, kind in ((STACKED, Stack), (ACTIVATIONS, Archive)):
            try:
                opened = self.open(model.name, "prompts", name, file)
            except NotInFolderError:
                continue
            facts = stored.get(EXTRA)
            layers = facts.get("layers") if isinstance(facts, dict) else None
            return kind(opened, layers if _is_numbers(layers) else None)
        raise NotInFolderError("this prompt has no weights; compute them with attn-viewer activations")

    def _read_json(self, *parts):
        with self.open(*parts) as file:
            content = _parse(file.read(MAX_BYTES))
        if not isinstance(content, dict):
            raise DamagedError(f"{parts[-1]} holds no JSON object")
        return content


def check_head(model, layer, head):
    """Raise `NotInFolderError` if a model has no such head."""
    if not 0 <= head < model.heads.get(layer, 0):
        raise NotInFolderError("there is no such head")


def _parse(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _summarise(prompt, name):
    text, count = prompt.get("text"), prompt.get("n_tokens")
    tokens = prompt.get("tokens")
    if type(count) is not int:
        count = len(tokens) if isinstance(tokens, list) else 0
    return {"hash": name, "text": text if isinstance(text, str) else "", "n_tokens": count}


def _is_numbers(values):
    return isinstance(values, list) and bool(values) and all(type(v) is int and v >= 0 for v in values)


def _get_mtime(path):
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
