"""Prompts that run together: which, and whether that gives the very bits that they have alone."""

import contextlib
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import AttnViewerError, PromptError
from ..maps import AttentionMaps
from ..storage.hashes import augment_prompt_with_hash

# Most characters of prompts that run together: past some 500 tokens a processor has enough to do.
BATCH_CHARS = 2_000
# Libraries multiply fewer rows than this another way, which rounds differently.
LEAST_TOKENS = 8
# What is kept of a prompt: every weight while that stays under a budget, a grid past that.
KEPT: dict[str, Any] = {"reduction": "auto"}
# model -> whether prompts that ran together gave the bits of those alone
_agreed: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def group_prompts(prompts: Sequence[dict[str, Any]], n_groups: int = 1) -> list[list[dict[str, Any]]]:
    """Group prompts by length, in each group at most `BATCH_CHARS` characters or one prompt.

    A group has at most its share of the characters of `n_groups`, so that as many workers end at about once.
    """
    groups: list[list[dict[str, Any]]] = []
    most = min(BATCH_CHARS, sum(map(_count_chars, prompts)) // n_groups)
    for prompt in sorted(prompts, key=_count_chars):
        if groups and sum(map(_count_chars, [*groups[-1], prompt])) <= most:
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    return groups


def _count_chars(prompt: dict[str, Any]) -> int:
    return len(prompt.get("text", ""))


def capture_together(
    prompts: Sequence[dict[str, Any]], model: Any, tokenizer: Any, name: str
) -> dict[str, AttentionMaps]:
    """Capture prompts in one pass, where that gives the bits that they have alone; return the maps by hash.

    Those that must run alone, be it for what is wrong with them, are left out.
    """
    from ..capture.batch import capture_batch
    from ..capture.prefill import capture_attention

    if not _agreed.get(model, True):
        return {}
    fitting = []
    for prompt in prompts:
        with contextlib.suppress(AttnViewerError):  # which it meets again, alone
            if len(encode_text(prompt, model, tokenizer)) >= LEAST_TOKENS:
                fitting.append(prompt)
    if len(fitting) < 2:
        return {}
    try:
        together = capture_batch(model, tokenizer, [prompt["text"] for prompt in fitting], model_id=name, **KEPT)
        if model not in _agreed:
            _agreed[model] = all(
                _are_same(together[i], capture_attention(model, tokenizer, fitting[i]["text"], model_id=name, **KEPT))
                for i in (0, -1)
            )
    except Exception:  # alone they will do, or say what is wrong
        _agreed.setdefault(model, False)
        return {}
    return {prompt["hash"]: maps for prompt, maps in zip(fitting, together, strict=True)} if _agreed[model] else {}


def _are_same(maps: AttentionMaps, others: AttentionMaps) -> bool:
    facts, other_facts = ({**vars(each), "weights": None} for each in (maps, others))
    return facts == other_facts and all(map(np.array_equal, maps.weights, others.weights))


def encode_text(prompt: dict[str, Any], model: Any, tokenizer: Any) -> list[int]:
    """Return the token ids of a prompt, which gets its hash in place.

    Raises `PromptError` if there is no text, half a character in it, or more tokens than the model was made for.
    """
    if "text" not in augment_prompt_with_hash(prompt):
        raise PromptError(f"prompt {prompt['hash']!r} has no 'text' to compute from")
    try:
        prompt["text"].encode()  # half a surrogate pair is no text: no tokenizer takes it
    except UnicodeEncodeError as error:
        raise PromptError(f"prompt {prompt['hash']!r} is no text that can be written: {error}") from error
    ids: list[int] = tokenizer(prompt["text"], verbose=False)["input_ids"]
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and len(ids) > longest:
        raise PromptError(
            f"{len(ids):,} tokens are more than the {longest:,} of the model; split the text "
            "(--raw-prompts --max-chars N)"
        )
    return ids
