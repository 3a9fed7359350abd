"""The `.pt` cache: attention scores of one prompt in the layout that Attention-Viewer reads and writes.

A dictionary with ``attention_scores`` (a list, one tensor of axes ``(1, n_heads, n_query, n_key)`` a layer) and
``tokens_list``. What else `AttentionMaps` know stands under a third key in plain types. Only tensors and plain types
are ever read, so that a cache from a stranger cannot run code.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CacheError, shorten
from ..facts import MapFacts
from ..files import check_model_id, describe_place, expand_home, make_folder, open_whole
from ..maps import AttentionMaps
from ..tokens import show_raw_token
from .stored import EXTRA, make_maps
from .tensors import Tensor, TensorArchive

SUFFIX = "_attn_scores.pt"
MOST_LAYERS = 10_000
# Characters; groups of tokens, such as sentences, have labels too.
LONGEST_LABEL = 10_000


def save_scores(maps: AttentionMaps, folder: str | os.PathLike[str], *, name: str | None = None) -> Path:
    """Write attention maps as ``{folder}/{model_id}_attn_scores.pt``; the folder is created if missing.

    Parameters
    ----------
    name : str, optional
        What the file is called in place of the model.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    import torch

    path = expand_home(folder) / f"{check_model_id(maps.model_id if name is None else name)}{SUFFIX}"
    make_folder(path.parent)
    facts = maps.to_plain()
    content = {
        # from_numpy would complain about read-only memory, which nobody writes to here.
        "attention_scores": [torch.from_numpy(np.array(layer[None])) for layer in maps.weights],
        "tokens_list": facts.pop("tokens_key"),
        EXTRA: facts,
    }
    with open_whole(path) as file:
        torch.save(content, file)
    return path


def load_scores(path: str | os.PathLike[str]) -> AttentionMaps:
    """Read attention maps from a `.pt` cache, ours or Attention-Viewer's.

    Where the file knows no more than scores and tokens, the model's name is taken from the file's, and the maps count
    as causal if no weight lies above the diagonal.

    Raises
    ------
    CacheError
        If the file is missing, damaged, holds anything but tensors and plain types, or its parts do not fit.
    """
    path = expand_home(path)
    if (what := describe_place(path)) != "is a file":
        raise CacheError(f"cache {shorten(str(path))} {what}; give the .pt file that --save_attention_scores wrote")
    try:
        archive = TensorArchive(path)
    except Exception as error:  # damaged and hostile files raise many types
        reason = str(error) or type(error).__name__
        raise CacheError(
            f"cache {str(path)!r} is damaged or holds more than tensors and plain types ({reason}); "
            "nothing of it was run; write it again with --save_attention_scores"
        ) from error
    try:
        with archive:
            return _read_content(archive, path)
    except CacheError:
        raise
    except Exception as error:  # values of a wrong type fail in as many ways as there are types
        raise CacheError(f"cache {str(path)!r} does not fit together: {error}; write it again") from error


def _read_content(archive: TensorArchive, path: Path) -> AttentionMaps:
    content = archive.content
    if not isinstance(content, dict):
        raise CacheError(f"cache {str(path)!r} holds a {type(content).__name__}, expected a dictionary")
    for key in ("attention_scores", "tokens_list"):
        if not isinstance(content.get(key), (list, tuple)) or not content[key]:
            raise CacheError(f"cache {str(path)!r} has no list under {key!r}; it is no cache of attention scores")
    tensors = content["attention_scores"]
    if len(tensors) > MOST_LAYERS:
        raise CacheError(f"cache {str(path)!r} has {len(tensors):,} layers; no model has more than {MOST_LAYERS:,}")
    for number, scores in enumerate(tensors):
        if not isinstance(scores, Tensor) or len(scores.shape) != 4 or scores.shape[0] != 1:
            came = scores.shape if isinstance(scores, Tensor) else type(scores).__name__
            raise CacheError(
                f"cache {str(path)!r}: layer {number} is {came}, expected a tensor (1, n_heads, n_query, n_key)"
            )
    tokens = content["tokens_list"]
    longest = max((len(token) for token in tokens if isinstance(token, str)), default=0)
    if longest > LONGEST_LABEL:
        raise CacheError(
            f"cache {str(path)!r} has a token of {longest:,} characters, at most {LONGEST_LABEL:,} are read"
        )
    layers = [weights[0] for weights in archive.read(tensors)]
    extra = content.get(EXTRA)
    return _make_maps(layers, extra, tokens, path)


def _make_maps(layers: list[np.ndarray], extra: object, tokens: Sequence[Any], path: Path) -> AttentionMaps:
    if extra is None:
        name = path.name.removesuffix(SUFFIX).removesuffix(".pt") or "model"
        extra, tokens = {"model_id": name}, [show_raw_token(t) if isinstance(t, str) else t for t in tokens]
    if not isinstance(extra, dict):
        raise CacheError(f"cache {str(path)!r} has a {type(extra).__name__} under {EXTRA!r}, expected a dictionary")
    numbers = {"layers": range(len(layers)), "heads": [range(len(layer)) for layer in layers]}
    return make_maps(layers, MapFacts.from_plain({**numbers, **extra, "tokens_key": tokens}), extra)
