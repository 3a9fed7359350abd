"""The data folder: attention weights and figures of many prompts and models, in the layout of pattern-lens 0.6.

::

    attn_data/
      models.jsonl  figures.jsonl
      {model}/model_cfg.json  prompts.jsonl
      {model}/prompts/{hash}/prompt.json  activations.npz  L{l}/H{h}/{figure}.{fmt}

This module knows the folders, prompts and models; `patterns` reads and writes the weights. What `AttentionMaps` know
beyond the layout stands in ``model_cfg.json`` and ``prompt.json`` under the key `EXTRA`.
"""

import base64
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    AttnViewerError,
    InvalidPromptError,
    OptionError,
    shorten,
)
from ..files import check_model_id, make_folder
from .objects import read_json, write_json

DATA_DIR = "attn_data"
EXTRA = "attn_viewer"
# No model has more layers, and no layer more heads.
MOST = 100_000
# Ends the name of a file that says, in place of a figure, why its function failed.
FAILED = ".error.txt"
HASH = re.compile(r"[\w-]{1,100}", re.ASCII)


def find_folder(save_path):
    """Return the data folder that a path or a ``file://`` URL names.

    Parameters
    ----------
    save_path : path-like
        The folder, which need not exist. Figures are written and arrays mapped there, so it must be a folder that
        the operating system knows: other URLs are refused.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    OptionError
        If it is a URL of another kind, or no path.
    """
    text = os.fspath(save_path) if isinstance(save_path, (str, os.PathLike)) else ""
    try:
        if "://" in text:
            url = urlsplit(text)
            text = unquote(url.path) if url.scheme == "file" and url.netloc in ("", "localhost") else ""
        if text and "\0" not in text:
            return Path(text).expanduser()
    except (RuntimeError, ValueError):  # the home of nobody, half an address
        pass
    raise OptionError(f"save_path {save_path!r} is no folder of this machine; give a path, or mount it and give that")


def find_model_folder(model_name, save_path=DATA_DIR):
    """Return the folder of a model.

    Parameters
    ----------
    model_name : str
        Its name; ``org/name`` is the folder ``org--name``, or ``org/name`` where pattern-lens made that.
    save_path : path-like
        The data folder.

    Returns
    -------
    pathlib.Path
        The folder, which need not exist.

    Raises
    ------
    OptionError
        If the name cannot name a folder.
    """
    folder = find_folder(save_path)
    nested = folder / check_model_id(model_name)
    return nested if os.path.isfile(nested / "model_cfg.json") else folder / model_name.replace("/", "--")


def find_prompt_folder(model_name, prompt, save_path=DATA_DIR):
    """Return the folder of a prompt under a model.

    Parameters
    ----------
    model_name : str
        Name of the model.
    prompt : dict
        With ``hash`` or ``text``.
    save_path : path-like
        The data folder.

    Returns
    -------
    pathlib.Path
        The folder, which need not exist.

    Raises
    ------
    InvalidPromptError
        If the prompt has neither, or a hash that is none.
    """
    return find_model_folder(model_name, save_path) / "prompts" / augment_prompt_with_hash(prompt)["hash"]


def augment_prompt_with_hash(prompt):
    """Give a prompt its hash: URL-safe base64 of the MD5 sum of its text, without padding.

    Parameters
    ----------
    prompt : dict
        With ``text``, or with ``hash`` already. Changed in place.

    Returns
    -------
    dict
        `prompt`.

    Raises
    ------
    InvalidPromptError
        If it is no dictionary, has neither key, or its hash or text is not what such a thing can be.
    """
    if not isinstance(prompt, dict) or not ("hash" in prompt or "text" in prompt):
        raise InvalidPromptError(f"a prompt is a dictionary with 'text' or 'hash', got {shorten(prompt)}")
    if not isinstance(prompt.get("text", ""), str):
        raise InvalidPromptError(f"the text of a prompt must be str, got {shorten(prompt['text'])}")
    if "hash" not in prompt:
        # A lone surrogate has no UTF-8; it must not stop the hash of a text that was read from JSON.
        digest = hashlib.md5(prompt["text"].encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
        prompt["hash"] = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    elif not (isinstance(prompt["hash"], str) and HASH.fullmatch(prompt["hash"])):
        raise InvalidPromptError(
            f"the hash of a prompt names a folder: letters, digits, - and _, got {shorten(prompt['hash'])}; "
            "leave it out to have it computed from the text"
        )
    return prompt


def compare_prompt_to_loaded(prompt, prompt_loaded):
    """Check that a prompt is the one that is stored.

    Parameters
    ----------
    prompt : dict
        The prompt asked for; a text that it lacks is not compared.
    prompt_loaded : dict
        The prompt of the data folder.

    Raises
    ------
    ActivationsMismatchError
        If text or hash differ.
    """
    for key in ("text", "hash"):
        if key in prompt and prompt[key] != prompt_loaded.get(key):
            raise ActivationsMismatchError(
                f"prompt {prompt.get('hash')!r} is stored with another {key}: {shorten(prompt_loaded.get(key))} there, "
                f"{shorten(prompt[key])} here; give one of them another 'hash', or leave the hash out"
            )


def load_model_cfg(model_name, save_path=DATA_DIR):
    """Read what a data folder knows about a model.

    Parameters
    ----------
    model_name : str
        Name of the model.
    save_path : path-like
        The data folder.

    Returns
    -------
    dict
        At least ``model_name``, ``n_layers`` and ``n_heads``.

    Raises
    ------
    ActivationsMissingError
        If the model is not there.
    ActivationsDamagedError
        If the file is unreadable or lacks one of the three.
    """
    path = find_model_folder(model_name, save_path) / "model_cfg.json"
    return check_model_cfg(read_json(path), repr(str(path)))


def check_model_cfg(config, name):
    """Return the content of a ``model_cfg.json``, or raise `ActivationsDamagedError`, which calls it `name`."""
    counts = [config.get(key) for key in ("n_layers", "n_heads")]
    if not isinstance(config.get("model_name"), str) or not all(type(c) is int and 0 < c <= MOST for c in counts):
        raise ActivationsDamagedError(
            f"{name} must hold model_name, n_layers and n_heads (numbers from 1 to {MOST:,}), got "
            f"{shorten({key: config.get(key) for key in ('model_name', 'n_layers', 'n_heads')})}"
        )
    if not isinstance(config.get(EXTRA, {}), dict):
        raise ActivationsDamagedError(f"{name} has {shorten(config[EXTRA])} under {EXTRA!r}, not an object")
    return config


def get_head_counts(config):
    """Return how many heads each layer of a model has.

    Parameters
    ----------
    config : dict
        As `load_model_cfg` returns it.

    Returns
    -------
    dict of int to int
        Number of heads by true layer number; layers without attention are left out where that is known.

    Raises
    ------
    ActivationsDamagedError
        If the config contradicts itself.
    """
    extra = config.get(EXTRA, {})
    if not {"layers", "n_heads"} <= extra.keys():
        return dict.fromkeys(range(config["n_layers"]), config["n_heads"])
    try:
        counts = dict(zip(extra["layers"], extra["n_heads"], strict=True))
        if (max(counts) + 1, max(counts.values())) == (config["n_layers"], config["n_heads"]):
            return counts
    except (TypeError, ValueError):
        pass
    raise ActivationsDamagedError(
        f"model_cfg.json of {config['model_name']!r} says {config['n_layers']} layers and {config['n_heads']} heads, "
        f"and {shorten(extra)} under {EXTRA!r}; delete it and run attn-viewer activations again"
    )


def save_model_cfg(maps, save_path=DATA_DIR, **facts):
    """Write what a data folder must know about a model, once.

    Parameters
    ----------
    maps : AttentionMaps
        Of any prompt, all layers and heads of the model.
    save_path : path-like
        The data folder.
    **facts
        More to keep, such as ``d_model``.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ActivationsMismatchError
        If another model is stored under the name.
    OutputError
        If it cannot be written.
    """
    folder = find_model_folder(maps.model_id, save_path)
    counts = {"n_layers": max(maps.layers) + 1, "n_heads": max(maps.n_heads)}
    extra = {"model_id": maps.model_id, "layers": list(maps.layers), "n_heads": list(maps.n_heads)}
    # The name by which pattern-lens goes back to this folder.
    name = folder.relative_to(find_folder(save_path)).as_posix()
    config = {"model_name": name, **counts, **facts, EXTRA: extra}
    path = folder / "model_cfg.json"
    if path.is_file():
        stored = load_model_cfg(maps.model_id, save_path)
        for mine, theirs in ((counts, stored), (extra, stored.get(EXTRA, extra))):
            if any(value != theirs.get(key) for key, value in mine.items()):
                raise ActivationsMismatchError(
                    f"{str(path)!r} is of another model: it says {shorten({k: theirs.get(k) for k in mine})}, this "
                    f"model has {shorten(mine)}; give this one another name (--model-id), or delete that folder"
                )
        return path
    make_folder(folder)
    write_json(path, config)
    return path


def list_models(save_path=DATA_DIR):
    """Find the models of a data folder.

    Parameters
    ----------
    save_path : path-like
        The data folder.

    Returns
    -------
    list of str
        Names of the folders that hold a ``model_cfg.json``, sorted; ``org/name`` for pattern-lens's nested ones.
    """
    folder = find_folder(save_path)
    found = (*folder.glob("*/model_cfg.json"), *folder.glob("*/*/model_cfg.json"))
    return sorted(path.parent.relative_to(folder).as_posix() for path in found)


def list_prompts(model_name, save_path=DATA_DIR):
    """Read the prompts of a model that are stored whole.

    Parameters
    ----------
    model_name : str
        Name of the model.
    save_path : path-like
        The data folder.

    Returns
    -------
    prompts : list of dict
        What each ``prompt.json`` holds, sorted by hash.
    errors : list of AttnViewerError
        What was wrong with those that cannot be read.
    """
    prompts, errors = [], []
    for path in sorted(find_model_folder(model_name, save_path).glob("prompts/*/prompt.json")):
        try:
            prompts.append(load_prompt(path))
        except AttnViewerError as error:  # noqa: PERF203 - one bad prompt must not hide the others
            errors.append(error)
    return prompts, errors


def load_prompt(path):
    """Read one ``prompt.json``.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    dict
        The prompt, with its hash.

    Raises
    ------
    GetActivationsError
        If it is missing, damaged, or in the folder of another hash.
    """
    prompt = augment_prompt_with_hash(read_json(path))
    if prompt["hash"] != path.parent.name:
        raise ActivationsMismatchError(
            f"{str(path)!r} has hash {prompt['hash']!r}, its folder {path.parent.name!r}; move it there"
        )
    return prompt
