"""A data folder as strangers' requests may see it: nothing but its models, prompts, weights and figures.

A request names things, never paths. Names are looked up among those that are there, and a file is opened only where it
lies inside the folder after all links are followed. What is wrong is said in words that hold no path.
"""

import contextlib
import dataclasses
import os
import threading
from pathlib import Path

import numpy as np

from ..errors import ActivationsMissingError, AttnViewerError, GetActivationsError, InvalidMapsError, OptionError
from ..storage.dataset import EXTRA, FAILED, HASH, check_model_cfg, get_head_counts
from ..storage.objects import parse_lines, parse_object
from ..storage.patterns import KINDS, get_facts, make_maps, read_facts
from .functions import FIGURE_NAME, parse_functions
from .safe import DamagedError, NotInFolderError, open_inside

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
MAX_REASON = 300
_ABSENT_HEAD = "there is no such head"
_DAMAGED = "the weights of this prompt cannot be read; compute them again"


@contextlib.contextmanager
def _tell(missing, damaged):
    """Say in words without a path what `storage` says with one."""
    try:
        yield
    except (ActivationsMissingError, OptionError) as error:
        raise NotInFolderError(missing) from error
    except (GetActivationsError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, AttnViewerError) and not isinstance(error, (GetActivationsError, InvalidMapsError)):
            raise
        raise DamagedError(damaged) from error


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the folder.

    Attributes
    ----------
    name : str
        Its folder below the data folder.
    heads : dict of int to int
        Number of heads by true layer number.
    config : dict
        Content of its ``model_cfg.json``.
    """

    name: str
    heads: dict
    config: dict

    @property
    def title(self):
        """Its name for readers."""
        title = self.config.get(EXTRA, {}).get("model_id", self.config["model_name"])
        return title if isinstance(title, str) else self.name


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
        """Open a file by its path below the folder, made of names that were checked, as `open_inside` does."""
        return open_inside(self.root, *parts)

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
        with _tell("there is no such model", f"model_cfg.json of {name} does not describe a model"):
            try:
                content = self._read_json(name, "model_cfg.json")
            except NotInFolderError as error:
                raise NotInFolderError("there is no such model") from error
            config = check_model_cfg(content, name)
            return Model(name, get_head_counts(config), config)

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
            hashes = {entry.name for entry in entries if HASH.fullmatch(entry.name)}
        found = {}
        try:
            with self.open(model.name, "prompts.jsonl") as file:
                lines = list(parse_lines(file))
        except NotInFolderError:
            lines = []
        for prompt in lines:
            if isinstance(prompt.get("hash"), str) and prompt["hash"] in hashes:
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
        if not HASH.fullmatch(name):
            raise NotInFolderError("there is no such prompt")
        try:
            return self._read_json(model.name, "prompts", name, "prompt.json")
        except NotInFolderError as error:
            raise NotInFolderError("there is no such prompt") from error

    def read_functions(self):
        """Read what ``figures.jsonl`` says of the figure functions, as `parse_functions` returns it."""
        try:
            with self.open("figures.jsonl") as file:
                return parse_functions(file.read(MAX_BYTES))
        except NotInFolderError:
            return []

    def list_figures(self, model, name):
        """Return the names of the figures that some head of a prompt has, or failed to get, sorted."""
        place = self.root.joinpath(model.name, "prompts", name).resolve()
        heads = os.walk(place) if place.is_relative_to(self.root) else ()  # which follows no links
        files = {file for folder, _, names in heads if os.path.basename(folder)[0] == "H" for file in names}
        drawn = {stem for stem, _, ending in (file.rpartition(".") for file in files) if ending in FIGURE_TYPES}
        with_figures = {figure.partition(".")[0] for figure in drawn}
        failed = {file.removesuffix(FAILED) for file in files if file.endswith(FAILED)} - with_figures
        return sorted(figure for figure in drawn | failed if FIGURE_NAME.fullmatch(figure))

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
            If there is none; where its function failed, the error says how.
        """
        check_head(model, layer, head)
        if not (HASH.fullmatch(name) and FIGURE_NAME.fullmatch(figure)):
            raise NotInFolderError("there is no such figure")
        place = (model.name, "prompts", name, f"L{layer}", f"H{head}")
        for ending in FIGURE_TYPES:
            with contextlib.suppress(NotInFolderError):
                return self.open(*place, f"{figure}.{ending}"), ending
        raise NotInFolderError(self._tell_absence(place, figure))

    def _tell_absence(self, place, figure):
        try:
            with self.open(*place, figure.partition(".")[0] + FAILED) as file:
                return "failed: " + file.read(MAX_REASON).decode(errors="replace").partition("\n")[0]
        except NotInFolderError:
            return "not made yet"

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
        facts : MapFacts
            What is known of them.
        scale : float
            No weight is larger.

        Raises
        ------
        NotInFolderError, DamagedError
            If there are no weights, or they do not fit the prompt.
        """
        stored = self.read_prompt(model, name)
        with _tell(_ABSENT_HEAD, _DAMAGED), self._open_weights(model, name, stored) as weights:
            facts = read_facts(stored, weights.shapes, model.title)
            layer, heads = facts.layers[0], facts.heads[0]
            one = dataclasses.replace(facts, layers=(layer,), heads=(heads[:1],))
            sample = make_maps(stored, one, [weights.read_head(layer, 0)[None]])
            facts = dataclasses.replace(facts, causal=sample.causal, first_query=sample.first_query)
            if facts.weighting == "attention":
                return facts, 1.0
            # Such weights may be larger than 1.
            every = [(layer, head) for layer, (heads, *_) in weights.shapes.items() for head in range(heads)]
            return facts, max(float(weights.read_head(*place).max()) for place in every) or 1.0

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
        with _tell(_ABSENT_HEAD, _DAMAGED), self._open_weights(model, name, stored) as weights:
            facts = read_facts(stored, weights.shapes)
            heads = dict(zip(facts.layers, facts.heads, strict=True)).get(layer, ())
            if head not in heads:
                raise NotInFolderError(_ABSENT_HEAD)
            return np.array(weights.read_head(layer, heads.index(head)))

    def read_layer(self, model, name, layer):
        """Read one layer of a prompt as `AttentionMaps`; arguments and errors are those of `read_weights`."""
        stored = self.read_prompt(model, name)
        with _tell("there is no such layer", _DAMAGED), self._open_weights(model, name, stored) as weights:
            facts = read_facts(stored, weights.shapes, model.title).select_layers([layer])
            return make_maps(stored, facts, [np.array(weights.read_layer(layer))])

    def _open_weights(self, model, name, stored):
        layers = get_facts(stored).get("layers")
        for file, kind in KINDS.items():
            with contextlib.suppress(NotInFolderError):
                return kind(self.open(model.name, "prompts", name, file), "the file of its weights", layers)
        raise NotInFolderError("this prompt has no weights; compute them with attn-viewer activations")

    def _read_json(self, *parts):
        with self.open(*parts) as file, _tell("", f"{parts[-1]} holds no JSON object"):
            return parse_object(file.read(MAX_BYTES), parts[-1])


def check_head(model, layer, head):
    """Raise `NotInFolderError` if a model has no such head."""
    if not 0 <= head < model.heads.get(layer, 0):
        raise NotInFolderError("there is no such head")


def _summarise(prompt, name):
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


def _count(value):
    return len(value) if isinstance(value, list) else None


def _get_mtime(path):
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
