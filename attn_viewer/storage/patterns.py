"""Attention weights of the prompts of a data folder.

They are an archive, or in its place a stack (`arrays`). ``prompt.json`` is written last: where it is, the rest is.
"""

import contextlib
import dataclasses
import math

import numpy as np

from ..choices import choose_numbers
from ..errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    ActivationsMissingError,
    InvalidMapsError,
    OptionError,
)
from ..files import make_folder, open_whole, remove_leftovers, write_whole
from ..maps import AttentionMaps
from ..tokens import show_raw_token
from .arrays import KEY, Archive, Stack, write_npz
from .dataset import (
    DATA_DIR,
    EXTRA,
    augment_prompt_with_hash,
    compare_prompt_to_loaded,
    find_prompt_folder,
    get_head_counts,
    load_model_cfg,
)
from .objects import dump_object, read_json, shorten

ACTIVATIONS = "activations.npz"
STACKED = "activations-blocks.-.attn.hook_pattern.npy"
# The file names of weights, the quicker to read first.
KINDS = {STACKED: Stack, ACTIVATIONS: Archive}
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
    InvalidPromptError
        If something in the prompt cannot be written as JSON.
    OptionError
        If weights are to be stacked whose layers differ in heads.
    OutputError
        If a file cannot be written.
    """
    folder = find_prompt_folder(maps.model_id, prompt, save_path)
    if (folder / "prompt.json").exists():
        with contextlib.suppress(ActivationsDamagedError):  # which is replaced
            compare_prompt_to_loaded(prompt, read_json(folder / "prompt.json"))
    if stacked and len(set(maps.n_heads)) > 1:
        raise OptionError(f"layers with {sorted(set(maps.n_heads))} heads cannot be stacked; leave out stacked heads")
    facts = {name: getattr(maps, name) for name in _FACTS}
    if maps.tokens_query != maps.tokens_key:
        facts["tokens_query"] = maps.tokens_query
    tokens = prompt.get("tokens")
    tokens = tokens if isinstance(tokens, (list, tuple)) else list(maps.tokens_key)
    # pattern-lens's page stops at a prompt without "meta", also where that is null.
    meta = {} if prompt.get("meta") is None else prompt["meta"]
    description = dump_object(
        {"meta": {}} | prompt | {"meta": meta, "n_tokens": len(tokens), "tokens": tokens, EXTRA: facts}
    )
    make_folder(folder)
    path, other = folder / ACTIVATIONS, folder / STACKED
    if stacked:
        path, other = other, path
        with open_whole(path) as file:
            np.lib.format.write_array(file, np.stack(maps.weights), allow_pickle=False)
    else:
        write_npz(path, {KEY.format(n): w[None] for n, w in zip(maps.layers, maps.weights, strict=True)})
    other.unlink(missing_ok=True)
    write_whole(folder / "prompt.json", description)
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
        False also for a file that is truncated or does not fit its ``prompt.json``: it is to be written again.

    Raises
    ------
    ActivationsMismatchError
        If another text is stored under the hash.
    """
    folder = find_prompt_folder(model_name, prompt, save_path)
    names = remove_leftovers(folder)
    name = STACKED if stacked else ACTIVATIONS
    if "prompt.json" not in names or name not in names:
        return False
    try:
        stored = read_json(folder / "prompt.json")
        compare_prompt_to_loaded(prompt, stored)
        with _open_weights(folder / name, stored) as weights:
            return _fit(weights.shapes, stored)
    except ActivationsDamagedError:
        return False


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
    with _open_weights(path, stored) as weights:
        activations = {KEY.format(layer): weights.read_layer(layer)[None] for layer in weights.shapes}
    if return_fmt == "torch":
        import torch

        # Memory-mapped weights cannot be written to, which a tensor does not know, nor does it another order of bytes.
        activations = {
            name: torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
            for name, array in activations.items()
        }
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
    with _open_weights(path, stored) as opened:
        if not _fit(opened.shapes, stored):  # before they are read, which may be more than there is memory
            shapes = {layer: " × ".join(map(str, shape)) for layer, shape in opened.shapes.items()}
            raise ActivationsMismatchError(
                f"weights and prompt.json in {str(folder)!r} do not fit together: (layer: heads, queries, "
                f"keys) {shorten(shapes)} is not what prompt.json says; run attn-viewer activations again"
            )
        numbers = list(opened.shapes) if layers is None else choose_numbers(layers, list(opened.shapes), "layer")
        by_layer = {layer: opened.read_layer(layer) for layer in numbers}
    expected = get_head_counts(config)
    found = dict.fromkeys(expected if layers is None else (), 0) | {layer: len(w) for layer, w in by_layer.items()}
    wrong = {layer: count for layer, count in found.items() if expected.get(layer) != count}
    if wrong:
        raise ActivationsMismatchError(
            f"{str(path)!r} holds (layer: heads) {shorten(wrong)}, model_cfg.json says "
            f"{shorten({layer: expected.get(layer) for layer in wrong})}; one of them is of another model"
        )
    try:
        facts = describe_activations(stored, config, by_layer, list(by_layer.values()))
        weights = [w if w.dtype == np.float16 else w.astype(np.float32, copy=False) for w in by_layer.values()]
        return AttentionMaps(weights, **facts)
    except (InvalidMapsError, KeyError, TypeError, ValueError) as error:
        raise ActivationsMismatchError(
            f"weights and prompt.json in {str(folder)!r} do not fit together: {error}; compute them again (--force)"
        ) from error


def _load_prompt(model_name, prompt, save_path):
    stored = read_json(find_prompt_folder(model_name, prompt, save_path) / "prompt.json")
    compare_prompt_to_loaded(prompt, augment_prompt_with_hash(stored))
    return stored


def _find_file(folder):
    for name in KINDS:
        if (folder / name).is_file():
            return folder / name
    raise ActivationsMissingError(f"there is neither {ACTIVATIONS} nor {STACKED} in {str(folder)!r}; compute them")


def _open_weights(path, stored):
    layers = get_facts(stored).get("layers")
    try:
        return KINDS[path.name](open(path, "rb"), repr(str(path)), layers)
    except OSError as error:
        raise ActivationsDamagedError(
            f"{str(path)!r} cannot be read: {error.strerror or error}; delete it or compute it again"
        ) from error


def _fit(shapes, stored):
    """Tell whether weights are of the layers, heads and tokens that ``prompt.json`` names."""
    facts = get_facts(stored)
    try:
        if "tokens_key" not in facts:  # of pattern-lens, which does not count a token that the model puts before
            n = len(stored.get("tokens", ()))
            return all(shape[1:] in ((n, n), (n + 1, n + 1)) for shape in shapes.values())
        axes = (facts.get("tokens_query", facts["tokens_key"]), facts["tokens_key"])
        cells = [math.ceil(len(tokens) / size) for tokens, size in zip(axes, facts["cell"], strict=True)]
        counts = map(len, facts["heads"])
        return shapes == {layer: (n, *cells) for layer, n in zip(facts["layers"], counts, strict=True)}
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return False


def get_facts(stored):
    """Return what this package wrote into a ``prompt.json``; nothing where pattern-lens wrote it.

    Parameters
    ----------
    stored : dict
        Its content.

    Returns
    -------
    dict
        Facts of `AttentionMaps` by name.

    Raises
    ------
    ActivationsDamagedError
        If they are no object, or the numbers of the layers are none.
    """
    facts = stored.get(EXTRA, {})
    layers = facts.get("layers", [0]) if isinstance(facts, dict) else None
    if not (isinstance(layers, list) and layers and all(type(n) is int and n >= 0 for n in layers)):
        raise ActivationsDamagedError(
            f"prompt {shorten(stored.get('hash'))} has {shorten(facts)} under {EXTRA!r}, not facts about its weights"
        )
    return facts


def describe_activations(stored, config, layers, samples):
    """Say what the weights of a prompt are.

    Parameters
    ----------
    stored : dict
        Content of ``prompt.json``.
    config : dict
        Content of ``model_cfg.json``.
    layers : collection of int
        True numbers of the layers, ascending.
    samples : sequence of numpy.ndarray
        Some of their weights, the last axes ``(n_query, n_key)``, to tell what nothing else says.

    Returns
    -------
    dict
        Arguments of `AttentionMaps` other than the weights. Where pattern-lens wrote them, they count as causal if no
        weight lies above the diagonal, and a first token that it does not name is ``<bos>``.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the facts are not such.
    """
    facts = {name: value for name, value in get_facts(stored).items() if name in (*_FACTS, "tokens_query")}
    facts |= {"layers": list(layers), "model_id": config.get(EXTRA, {}).get("model_id", config["model_name"])}
    if "tokens_key" in facts:
        heads = dict(zip(get_facts(stored)["layers"], facts["heads"], strict=True))
        return facts | {"heads": [heads[layer] for layer in layers]}
    labels = [show_raw_token(token) for token in stored.get("tokens", ())]
    if len(labels) == samples[0].shape[-1] - 1:
        labels.insert(0, "<bos>")
    return facts | {"tokens_key": labels, "causal": not any(np.triu(sample, 1).any() for sample in samples)}
