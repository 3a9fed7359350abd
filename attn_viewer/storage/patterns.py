"""Attention weights of the prompts of a data folder.

``activations.npz`` holds one array ``blocks.{l}.attn.hook_pattern`` a layer, axes ``(1, n_heads, n_query, n_key)``; in
its place may stand `STACKED`, one array of axes ``(n_layers, n_heads, n_query, n_key)``. ``prompt.json`` is written
last: where it is, the rest is.
"""

import dataclasses
import re

import numpy as np

from ..choices import choose_numbers
from ..errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    ActivationsMissingError,
    InvalidMapsError,
    OptionError,
)
from ..files import make_folder, open_whole, remove_leftovers
from ..maps import AttentionMaps
from ..tokens import show_raw_token
from .arrays import map_npy, read_npz, read_shapes, write_npz
from .dataset import (
    DATA_DIR,
    EXTRA,
    augment_prompt_with_hash,
    compare_prompt_to_loaded,
    find_prompt_folder,
    get_head_counts,
    load_model_cfg,
    read_json,
    shorten,
    write_json,
)

ACTIVATIONS = "activations.npz"
STACKED = "activations-blocks.-.attn.hook_pattern.npy"
_KEY = "blocks.{}.attn.hook_pattern"
_KEY_PARTS = re.compile(r"blocks\.(\d{1,9})\.attn\.hook_pattern")
_FACTS = tuple(
    field.name
    for field in dataclasses.fields(AttentionMaps)
    if field.name not in ("weights", "tokens_query", "model_id", "_")
)


def save_activations(maps, prompt, save_path=DATA_DIR, *, stacked=False):
    """Write the attention weights of a prompt; older ones are replaced.

    Parameters
    ----------
    maps : AttentionMaps
        The weights; `model_id` is the model's name. What was reduced is marked in ``prompt.json``.
    prompt : dict
        With ``text``; everything in it is kept. ``tokens``, raw tokens without a special one at the start, and
        ``n_tokens`` are added where they are missing.
    save_path : path-like
        The data folder.
    stacked : bool
        Whether to write one ``.npy``, which can be memory-mapped, in place of the ``.npz``. pattern-lens does not read
        it.

    Returns
    -------
    pathlib.Path
        The file of the weights.

    Raises
    ------
    ActivationsMismatchError
        If another text is stored under the prompt's hash.
    OptionError
        If weights are to be stacked whose layers differ in heads.
    OutputError
        If a file cannot be written.
    """
    folder = find_prompt_folder(maps.model_id, prompt, save_path)
    if (folder / "prompt.json").exists():
        compare_prompt_to_loaded(prompt, read_json(folder / "prompt.json"))
    if stacked and len(set(maps.n_heads)) > 1:
        raise OptionError(f"layers with {sorted(set(maps.n_heads))} heads cannot be stacked; leave out stacked heads")
    make_folder(folder)
    path, other = folder / ACTIVATIONS, folder / STACKED
    if stacked:
        path, other = other, path
        with open_whole(path) as file:
            np.lib.format.write_array(file, np.stack(maps.weights), allow_pickle=False)
    else:
        write_npz(path, {_KEY.format(n): w[None] for n, w in zip(maps.layers, maps.weights, strict=True)})
    other.unlink(missing_ok=True)
    facts = {name: getattr(maps, name) for name in _FACTS}
    if maps.tokens_query != maps.tokens_key:
        facts["tokens_query"] = maps.tokens_query
    tokens = prompt.get("tokens", list(maps.tokens_key))
    # pattern-lens's page stops at a prompt without "meta".
    write_json(folder / "prompt.json", {"meta": {}, **prompt, "n_tokens": len(tokens), "tokens": tokens, EXTRA: facts})
    return path


def activations_exist(model_name, prompt, save_path=DATA_DIR, *, stacked=False):
    """Tell whether the activations of a prompt are there and whole; leftovers of killed runs are removed.

    Parameters
    ----------
    model_name : str
        Name of the model.
    prompt : dict
        With ``text`` or ``hash``.
    save_path : path-like
        The data folder.
    stacked : bool
        Whether to look for the ``.npy``.

    Returns
    -------
    bool
        False also for a truncated file, which is to be written again.

    Raises
    ------
    ActivationsMismatchError
        If another text is stored under the hash.
    """
    folder = find_prompt_folder(model_name, prompt, save_path)
    names = remove_leftovers(folder)
    if "prompt.json" not in names or (STACKED if stacked else ACTIVATIONS) not in names:
        return False
    try:
        compare_prompt_to_loaded(prompt, read_json(folder / "prompt.json"))
        map_npy(folder / STACKED) if stacked else read_shapes(folder / ACTIVATIONS)
    except ActivationsDamagedError:
        return False
    return True


def load_activations(model_name, prompt, save_path=DATA_DIR, return_fmt="numpy"):
    """Read the attention weights of a prompt.

    Parameters
    ----------
    model_name : str
        Name of the model.
    prompt : dict
        With ``text``, or ``hash`` alone; gets its hash in place.
    save_path : path-like
        The data folder.
    return_fmt : {"numpy", "torch"}
        Type of the arrays.

    Returns
    -------
    path : pathlib.Path
        The file that was read.
    activations : dict of str to numpy.ndarray or torch.Tensor
        Under ``blocks.{l}.attn.hook_pattern`` axes ``(1, n_heads, n_query, n_key)``. From a stacked file they are
        read-only views of it, read when used.

    Raises
    ------
    ActivationsMissingError
        If prompt or activations are not there.
    ActivationsMismatchError
        If another text is stored under the hash.
    ActivationsDamagedError
        If a file is truncated, holds objects or no attention weights.
    OptionError
        If `return_fmt` is unknown.
    """
    if return_fmt not in ("numpy", "torch"):
        raise OptionError(f"return_fmt must be 'numpy' or 'torch', got {return_fmt!r}")
    stored = _load_prompt(model_name, prompt, save_path)
    path = _find_file(find_prompt_folder(model_name, prompt, save_path))
    activations = _read(path, stored)
    if return_fmt == "torch":
        import torch

        # Memory-mapped weights cannot be written to, which a tensor does not know.
        activations = {name: torch.from_numpy(np.array(array)) for name, array in activations.items()}
    return path, activations


def load_prompt_maps(model_name, prompt, save_path=DATA_DIR, *, layers=None):
    """Read the attention weights of a prompt with all that is known about them.

    Parameters
    ----------
    model_name : str
        Name of the model.
    prompt : dict
        With ``text``, or ``hash`` alone.
    save_path : path-like
        The data folder.
    layers : sequence of int, optional
        True numbers of the layers to read; left out, all.

    Returns
    -------
    AttentionMaps
        The weights, checked. Where pattern-lens wrote them, they count as causal if no weight lies above the diagonal,
        and a first token that it does not name is ``<bos>``.

    Raises
    ------
    GetActivationsError
        As `load_activations`; also if layers, heads or tokens are not as many as ``model_cfg.json`` and
        ``prompt.json`` say.
    OptionError
        If a layer is not there.
    """
    config = load_model_cfg(model_name, save_path)
    stored = _load_prompt(model_name, prompt, save_path)
    folder = find_prompt_folder(model_name, prompt, save_path)
    path = _find_file(folder)
    by_layer = {}
    for name, array in _read(path, stored, layers).items():
        if (layer := _find_layer(name)) is not None:
            if array.ndim != 4 or len(array) != 1 or array.dtype.kind != "f":
                raise ActivationsDamagedError(
                    f"{str(path)!r}: {name} is {array.dtype} of shape {array.shape}, expected floats (1, heads, n, n)"
                )
            by_layer[layer] = array[0] if array.dtype == np.float16 else array[0].astype(np.float32, copy=False)
    if not by_layer:
        raise ActivationsDamagedError(f"{str(path)!r} holds no {_KEY.format(0)}; it is no file of attention weights")
    expected = get_head_counts(config)
    wrong = {layer: len(w) for layer, w in by_layer.items() if expected.get(layer) != len(w)}
    if wrong:
        raise ActivationsMismatchError(
            f"{str(path)!r} holds (layer: heads) {shorten(wrong)}, model_cfg.json says "
            f"{shorten({layer: expected.get(layer) for layer in wrong})}; one of them is of another model"
        )
    try:
        return _make_maps(by_layer, stored, config)
    except (InvalidMapsError, TypeError, ValueError) as error:
        raise ActivationsMismatchError(
            f"weights and prompt.json in {str(folder)!r} do not fit together: {error}; compute them again (--force)"
        ) from error


def _load_prompt(model_name, prompt, save_path):
    stored = read_json(find_prompt_folder(model_name, prompt, save_path) / "prompt.json")
    compare_prompt_to_loaded(prompt, augment_prompt_with_hash(stored))
    return stored


def _find_file(folder):
    for name in (ACTIVATIONS, STACKED):
        if (folder / name).is_file():
            return folder / name
    raise ActivationsMissingError(f"there is neither {ACTIVATIONS} nor {STACKED} in {str(folder)!r}; compute them")


def _read(path, stored, layers=None):
    """Return the arrays of some or all layers by name."""
    if path.name == ACTIVATIONS:
        names = list(read_shapes(path)) if layers is not None else None
    else:
        stack = map_npy(path)
        if stack.ndim == 5 and len(stack) == 1:  # as pattern-lens writes it
            stack = stack[0]
        if stack.ndim != 4:
            raise ActivationsDamagedError(f"{str(path)!r} has shape {stack.shape}, expected (layers, heads, n, n)")
        numbers = _get_facts(stored).get("layers", range(len(stack)))
        arrays = {_KEY.format(number): array[None] for number, array in zip(numbers, stack, strict=False)}
        names = list(arrays)
    if layers is not None:
        present = sorted(number for number in map(_find_layer, names) if number is not None)
        names = [_KEY.format(number) for number in choose_numbers(layers, present, "layer")]
    return read_npz(path, names) if path.name == ACTIVATIONS else {name: arrays[name] for name in names}


def _find_layer(name):
    """Return the layer of an array's name, or None for another array."""
    match = _KEY_PARTS.fullmatch(name)
    return int(match[1]) if match else None


def _get_facts(stored):
    facts = stored.get(EXTRA, {})
    if not isinstance(facts, dict):
        raise ActivationsDamagedError(f"prompt {stored['hash']!r} has {shorten(facts)} under {EXTRA!r}, not an object")
    return facts


def _make_maps(by_layer, stored, config):
    facts = {name: value for name, value in _get_facts(stored).items() if name in (*_FACTS, "tokens_query")}
    model_id = config.get(EXTRA, {}).get("model_id", config["model_name"])
    layers = tuple(sorted(by_layer))
    weights = [by_layer[layer] for layer in layers]
    if facts:
        heads = dict(zip(facts.pop("layers"), facts.pop("heads"), strict=True))
        facts["heads"] = [heads[layer] for layer in layers]
        return AttentionMaps(weights, facts.pop("tokens_key"), layers=layers, model_id=model_id, **facts)
    labels = [show_raw_token(token) for token in stored.get("tokens", ())]
    if len(labels) == weights[0].shape[-1] - 1:  # pattern-lens names no token that its model puts before the text
        labels.insert(0, "<bos>")
    causal = not any(np.triu(layer, 1).any() for layer in weights)
    return AttentionMaps(weights, labels, layers=layers, causal=causal, model_id=model_id)
