"""One prompt taken out of model inputs, and tokens put behind it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..errors import PromptError
from ..facts import PAIR
from ..tokens import label_tokens
from .chat import ANSWER
from .forms import get_text_tokenizer
from .model_inputs import ModelInputs, Prompt, Tokens
from .signature import find_inner


def take_prompt(inputs: ModelInputs, prompt: Prompt) -> ModelInputs:
    """Take one prompt out of model inputs, without its padding."""
    arguments = {}
    for name, part in inputs.arguments.items():
        # The tokens that an argument goes with, if it is not about something else.
        side = prompt.sides.get("decoder") if name.startswith("decoder_") else next(iter(prompt.sides.values()))
        own = _take_row(name, part, prompt.row, inputs.n_rows)
        arguments[name] = own if side is None or side.total is None else _keep_tokens(name, own, side)
    sides = {
        name: dataclasses.replace(side, kept=slice(0, side.count), total=side.count)
        for name, side in prompt.sides.items()
    }
    return ModelInputs(arguments, (dataclasses.replace(prompt, row=0, sides=sides),))


def _take_row(name: str, part: torch.Tensor, row: int, n_rows: int) -> torch.Tensor:
    if n_rows == 1 or len(part) == 1:
        return part
    if name == "position_ids" and part.ndim == 3:  # one set for each axis of a picture
        return part[:, row : row + 1]
    if len(part) != n_rows:
        raise PromptError(f"which part of {name} belongs to prompt {row} of {n_rows} is not known; give it alone")
    return part[row : row + 1]


def _keep_tokens(name: str, part: torch.Tensor, side: Tokens) -> torch.Tensor:
    if name.endswith("inputs_embeds"):
        return part[:, side.kept]
    if not _goes_with_tokens(part, side.total):
        return part
    part = part[..., side.kept]
    is_square = name.endswith("attention_mask") and part.ndim > 2 and part.shape[-2] == side.total
    return part[..., side.kept, :] if is_square else part


def _goes_with_tokens(part: torch.Tensor, n_tokens: int | None) -> bool:
    return part.shape[-1] == n_tokens and (part.ndim > 2 or len(part) == 1) and not part.is_floating_point()


def append_tokens(model: torch.nn.Module, tokenizer: Any, inputs: ModelInputs, ids: torch.Tensor) -> ModelInputs:
    """Put tokens, axes ``(1, n)``, behind a prompt without padding."""
    (prompt,), count = inputs.prompts, ids.shape[1]
    name, side = next(iter(prompt.sides.items()))
    n_tokens = side.total
    arguments = {}
    for key, part in inputs.arguments.items():
        if key == "input_ids":
            part = torch.cat([part, ids.to(part.device)], 1)
        elif key == "inputs_embeds":
            with torch.no_grad():
                inner: Any = find_inner(model)
                more = inner.get_input_embeddings()(ids.to(part.device))
            part = torch.cat([part, more.to(part.dtype)], 1)
        elif key == "cross_attention_mask":  # axes (batch, token, picture, tile)
            part = torch.cat([part, part[:, -1:].expand(-1, count, -1, -1)], 1)
        elif _goes_with_tokens(part, n_tokens):
            steps = torch.arange(1, count + 1, device=part.device) * (key == "position_ids")
            part = torch.cat([part, part[..., -1:] + steps.to(part.dtype)], -1)
        arguments[key] = part
    own = tuple(ids[0].tolist())
    before = range(n_tokens or 0)
    labels = (*side.write_labels(len(before)), *label_tokens(own, get_text_tokenizer(tokenizer)))
    total = len(before) + count
    words = None if side.ids is None else (*side.ids, *own)
    whole = dataclasses.replace(side, kept=slice(0, total), total=total, ids=words, labels=labels)
    segments = [*prompt.segments]
    if segments and segments[-1][0] not in PAIR:  # of a chat: what the model says is the answer
        start = segments.pop()[1] if segments[-1][0] == ANSWER else len(before)
        segments.append((ANSWER, start, total))
    return ModelInputs(
        arguments, (dataclasses.replace(prompt, sides={**prompt.sides, name: whole}, segments=tuple(segments)),)
    )


def replace_decoder_tokens(inputs: ModelInputs, tokenizer: Any, ids: torch.Tensor) -> ModelInputs:
    """Put other tokens, axes ``(1, n)``, in the place of a decoder's."""
    (prompt,), own = inputs.prompts, tuple(ids[0].tolist())
    kept = {name: part for name, part in inputs.arguments.items() if not name.startswith("decoder_")}
    labels = tuple(label_tokens(own, get_text_tokenizer(tokenizer)))
    sides = {**prompt.sides, "decoder": Tokens(slice(0, len(own)), len(own), own, labels)}
    return ModelInputs({**kept, "decoder_input_ids": ids}, (dataclasses.replace(prompt, sides=sides),))
