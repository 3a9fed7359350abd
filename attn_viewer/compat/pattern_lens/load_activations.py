"""Stored attention weights; those that pattern-lens stored are read too."""

from pathlib import Path
from typing import Any

from ...errors import ActivationsMismatchError as ActivationsMismatchError
from ...errors import ActivationsMissingError as ActivationsMissingError
from ...errors import GetActivationsError as GetActivationsError
from ...errors import InvalidPromptError
from ...storage import dataset, folder
from ...storage.hashes import augment_prompt_with_hash as augment_prompt_with_hash
from ...storage.hashes import compare_prompt_to_loaded as compare_prompt_to_loaded
from .consts import DATA_DIR


def load_activations(
    model_name: str, prompt: dict[str, Any], save_path: Path = Path(DATA_DIR), return_fmt: str = "torch"
) -> tuple[Path, dict[str, Any]]:
    """Read the weights of a prompt, as tensors unless ``return_fmt="numpy"``."""
    return dataset.load_activations(model_name, prompt, save_path, return_fmt)


def activations_exist(model_name: str, prompt: dict[str, Any], save_path: Path) -> bool:
    """Tell whether there are files of a prompt's weights, which are not opened."""
    if "hash" not in prompt:
        raise InvalidPromptError(f"a prompt must have 'hash' key (augment_prompt_with_hash gives it one): {prompt}")
    place = folder.DataFolder(save_path).get_model(model_name).get_prompt(prompt).path
    return (place / folder.PROMPT).is_file() and any((place / name).is_file() for name in folder.KINDS)
