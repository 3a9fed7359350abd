"""The weights of a prompt in a data folder, in one call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError
from ..maps import AttentionMaps
from ..options import FilePath
from .arrays import KEY, Stack
from .folder import ACTIVATIONS, DATA_DIR, STACKED, DataFolder, Prompts


def load_activations(
    model_name: str, prompt: Prompts, save_path: FilePath = DATA_DIR, return_fmt: str = "numpy"
) -> tuple[Path, dict[str, Any]]:
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
        raise OptionError(f"Invalid return_fmt: must be 'numpy' or 'torch', got {return_fmt!r}")
    place = DataFolder(save_path).get_model(model_name).get_prompt(prompt)
    with place.open_weights() as (_, weights):
        path = place.path / (STACKED if isinstance(weights, Stack) else ACTIVATIONS)
        activations: dict[str, Any] = {KEY.format(layer): weights.read_layer(layer)[None] for layer in weights.shapes}
    if return_fmt == "torch":
        import torch

        # Memory-mapped weights cannot be written to, which a tensor does not know, nor does it another order of bytes.
        for name, array in activations.items():
            activations[name] = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    return path, activations


def load_prompt_maps(
    model_name: str, prompt: Prompts, save_path: FilePath = DATA_DIR, *, layers: Sequence[int] | None = None
) -> AttentionMaps:
    """Read the attention weights of a prompt with all that is known about them.

    Parameters
    ----------
    model_name, prompt, save_path
        As `load_activations` takes them.
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
    return DataFolder(save_path).get_model(model_name).get_prompt(prompt).read_maps(layers)
