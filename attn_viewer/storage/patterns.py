"""Attention weights of the prompts of a data folder.

They are an archive, or in its place a stack (`arrays`). ``prompt.json`` is written last: where it is, the rest is.
"""

import contextlib

import numpy as np

from ..errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    ActivationsMissingError,
    InvalidMapsError,
    OptionError,
    shorten,
)
from ..facts import MapFacts
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
from .objects import dump_object, read_json

ACTIVATIONS = "activations.npz"
STACKED = "activations-blocks.-.attn.hook_pattern.npy"
# The file names of weights, the quicker to read first.
KINDS = {STACKED: Stack, ACTIVATIONS: Archive}


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
    tokens = prompt.get("tokens")
    tokens = tokens if isinstance(tokens, (list, tuple)) else list(maps.tokens_key)
    # pattern-lens's page stops at a prompt without "meta", also where that is null.
    meta = {} if prompt.get("meta") is None else prompt["meta"]
    description = dump_object(
        {"meta": {}} | prompt | {"meta": meta, "n_tokens": len(tokens), "tokens": tokens, EXTRA: maps.to_plain()}
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
    except ActivationsDamagedError:
        return False
    compare_prompt_to_loaded(prompt, stored)
    try:
        with _open_weights(folder / name, stored) as weights:
            read_facts(stored, weights.shapes)
        return True
    except (ActivationsDamagedError, ActivationsMismatchError):
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
    model_id = config.get(EXTRA, {}).get("model_id", config["model_name"])
    with _open_weights(path, stored) as opened:
        # Before they are read, which may be more than there is memory.
        facts = read_facts(stored, opened.shapes, model_id).select_layers(layers)
        weights = [opened.read_layer(layer) for layer in facts.layers]
    expected = get_head_counts(config)
    found = dict.fromkeys(expected if layers is None else (), 0) | dict(zip(facts.layers, facts.n_heads, strict=True))
    wrong = {layer: count for layer, count in found.items() if expected.get(layer) != count}
    if wrong:
        raise ActivationsMismatchError(
            f"{str(path)!r} holds (layer: heads) {shorten(wrong)}, model_cfg.json says "
            f"{shorten({layer: expected.get(layer) for layer in wrong})}; one of them is of another model"
        )
    try:
        return make_maps(stored, facts, weights)
    except InvalidMapsError as error:
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


def read_facts(stored, shapes, model_id="model"):
    """Say what the weights of a prompt are, before they are read.

    Parameters
    ----------
    stored : dict
        Content of ``prompt.json``.
    shapes : mapping of int to tuple of int
        Axes ``(n_heads, n_query, n_key)`` of the weights by true number of the layer, ascending.
    model_id : str
        Name of the model.

    Returns
    -------
    MapFacts
        The facts. Where pattern-lens wrote the prompt, a first token that it does not name is ``<bos>``, and `causal`
        is for `make_maps` to read from the weights.

    Raises
    ------
    ActivationsMismatchError
        If the weights are of other layers, heads or tokens.
    ActivationsDamagedError
        If facts are missing, or of a wrong type or range.
    """
    plain = get_facts(stored)
    if "tokens_key" not in plain:
        tokens = stored.get("tokens")
        labels = [show_raw_token(str(token)) for token in tokens] if isinstance(tokens, list) else []
        if any(len(labels) == shape[-1] - 1 for shape in shapes.values()):
            labels.insert(0, "<bos>")
        plain = {"tokens_key": labels} | plain
    found = {"layers": list(shapes), "heads": [list(range(shape[0])) for shape in shapes.values()]}
    try:
        facts = MapFacts.from_plain(found | plain | {"model_id": model_id})
    except InvalidMapsError as error:
        raise ActivationsDamagedError(
            f"prompt.json of {shorten(stored.get('hash'))} does not describe its weights: {error}; compute them again"
        ) from error
    expected = {layer: (n, *facts.shape) for layer, n in zip(facts.layers, facts.n_heads, strict=True)}
    if expected != shapes:
        raise ActivationsMismatchError(
            f"weights and prompt.json of {shorten(stored.get('hash'))} do not fit together: (layer: heads, queries, "
            f"keys) {shorten(shapes)} there, {shorten(expected)} here; run attn-viewer activations again"
        )
    return facts


def make_maps(stored, facts, weights):
    """Put weights and facts of a prompt together.

    Parameters
    ----------
    stored : dict
        Content of ``prompt.json``.
    facts : MapFacts
        From `read_facts`, of these layers and heads.
    weights : sequence of numpy.ndarray
        One array a layer, any floating type.

    Returns
    -------
    AttentionMaps
        The maps, checked; `causal` is read from the weights where ``prompt.json`` does not say it.

    Raises
    ------
    InvalidMapsError
        If the numbers are no attention weights.
    """
    layers = [w if w.dtype == np.float16 else w.astype(np.float32, copy=False) for w in weights]
    unsaid = {} if "causal" in get_facts(stored) else {"causal": None, "first_query": None}
    return AttentionMaps(layers, facts, **unsaid)
