"""Many slightly different passes of one prompt, which share what they have in common."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..capture.collector import Collector
from ..capture.guard import Loan, borrow_model
from ..capture.prefill import run_watched
from ..capture.targets import Target, find_target
from ..capture_options import CaptureOptions
from ..errors import OptionError, PromptError
from ..inputs.model_inputs import prepare_inputs
from ..inputs.rows import take_prompt
from ..inputs.signature import has_decoder, takes_argument
from ..maps import AttentionMaps
from ..options import AblationMode
from .changed_heads import ablate_rows

Inputs = dict[str, torch.Tensor]
_SEES_LATER = "{} sees later tokens, which it would predict; use a causal model"


def encode_text(model: torch.nn.Module, tokenizer: Any, prompt: Any) -> Inputs:
    """Turn a prompt into inputs of a causal language model whose loss can be measured."""
    if has_decoder(model):
        raise OptionError(f"{type(model).__name__} is an encoder-decoder; effects are measured on causal models")
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise OptionError(f"{type(model).__name__} predicts no tokens; load a causal language model with its head")
    prepared = prepare_inputs(model, tokenizer, prompt)
    inputs = take_prompt(prepared, prepared.prompts[0]).arguments
    if "input_ids" not in inputs:
        raise PromptError("effects are measured on words; give model inputs with input_ids")
    if inputs["input_ids"].shape[1] < 2:
        raise PromptError("a prompt of one token has no next token to predict; give at least two")
    return inputs


def run_with_maps(
    model: torch.nn.Module, inputs: Inputs, tokens: Sequence[str], *, model_id: str
) -> tuple[torch.Tensor, AttentionMaps]:
    """Run a causal language model once for its logits, float32, axes ``(n_tokens, n_vocabulary)``, and every weight."""
    collector = Collector(model, CaptureOptions(), lambda stack, shape: shape == (len(tokens), len(tokens)))
    output = run_watched(model, [collector], inputs, keeps_logits=True)
    maps = collector.make_maps(collector.find_main(), tokens, tokens, model_id=model_id)
    if not maps.causal:
        raise OptionError(_SEES_LATER.format(type(model).__name__))
    return output.logits[0].float().cpu(), maps


def measure_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each token given those before it, float32, nats, axes ``(batch, n_tokens - 1)``.

    Logits have the axes ``(batch, n_tokens, n_vocabulary)``, ids ``(n_tokens,)``.
    """
    chosen = logits[:, :-1].gather(2, ids[1:].expand(len(logits), -1)[..., None])[..., 0]
    return logits[:, :-1].logsumexp(-1).float() - chosen.float()


def iterate_loss_changes(
    model: torch.nn.Module, inputs: Inputs, *, mode: AblationMode, layers: Iterable[int], n_heads: int, batch_size: int
) -> Iterator[tuple[int, list[int], NDArray[np.float32]]]:
    """Yield layer, some of its heads, and by how much the loss of each token grows without each of these.

    Changes are in nats, axes ``(len(heads), n_tokens - 1)``. One pass keeps what each layer put out. The passes without
    a layer's heads go as a batch and start at that layer: the layers below hand out what they did before, in models
    where nothing else passes between layers. It is an `OptionError` if another last token changes what the model says
    before it.
    """
    ids = inputs["input_ids"][0]
    arguments: dict[str, Any] = {"use_cache": False} if takes_argument(model, "use_cache") else {}
    blocks = _find_blocks(model, find_target(model))
    with borrow_model(model):
        with _keep_outputs(blocks.values()) as outputs:
            logits = model(**inputs, **arguments).logits
        others = inputs | {"input_ids": torch.cat([ids[:-1], (ids[-1:] + 1) % logits.shape[-1]])[None]}
        changed = model(**others, **arguments).logits
        if not _are_alike(logits[:, :-1], changed[:, :-1]):
            raise OptionError(_SEES_LATER.format(type(model).__name__))
        if blocks and not _can_hand_out(model, _widen(inputs, 2) | arguments, blocks, outputs, logits):
            blocks = {}
        whole = measure_losses(logits, ids)
        for layer in layers:
            for first in range(0, n_heads, batch_size):
                heads = list(range(first, min(first + batch_size, n_heads)))
                batch = _widen(inputs, len(heads))
                below = {blocks[at]: outputs[blocks[at]] for at in blocks if at < layer}
                with _hand_out(below, len(heads)), ablate_rows(model, [(layer, head) for head in heads], mode):
                    losses = measure_losses(model(**batch, **arguments).logits, ids)
                yield layer, heads, (losses - whole).cpu().numpy()


def _widen(inputs: Inputs, n_batch: int) -> Inputs:
    return {name: part.expand(n_batch, *part.shape[1:]) for name, part in inputs.items()}


def _find_blocks(model: torch.nn.Module, target: Target) -> dict[int, torch.nn.Module]:
    """Return the module of each layer, by number; none where layers are not modules in a list of their own."""
    blocks = {}
    for name, number in target.modules.items():
        parts = name.split(".")
        indices = [i for i, part in enumerate(parts) if part.isdecimal()]
        if len(indices) != 1 or int(parts[indices[0]]) != number:
            return {}
        blocks[number] = model.get_submodule(".".join(parts[: indices[0] + 1]))
    return blocks


def _are_alike(logits: torch.Tensor, others: torch.Tensor) -> bool:
    return torch.allclose(logits, others, rtol=0, atol=1e-2 * float(logits.abs().max()))


def _can_hand_out(
    model: torch.nn.Module,
    arguments: dict[str, Any],
    blocks: dict[int, torch.nn.Module],
    outputs: dict[torch.nn.Module, Any],
    logits: torch.Tensor,
) -> bool:
    """Tell whether a pass that hands out all layers but the last says what a whole one says.

    It does not where a layer takes more from earlier ones than their outputs (Gemma 3n reads their keys), and then
    fails in as many ways as there are models.
    """
    *below, _ = sorted(blocks)
    try:
        with _hand_out({blocks[at]: outputs[blocks[at]] for at in below}, 2):
            again: torch.Tensor = model(**arguments).logits
    except Exception:
        return False
    return len(again) == 2 and _are_alike(logits.expand(again.shape), again)


@contextlib.contextmanager
def _keep_outputs(modules: Iterable[torch.nn.Module]) -> Iterator[dict[torch.nn.Module, Any]]:
    outputs: dict[torch.nn.Module, Any] = {}

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        outputs[module] = output

    with Loan() as loan:
        for module in modules:
            loan.add_hook(module.register_forward_hook, keep)
        yield outputs


@contextlib.contextmanager
def _hand_out(outputs: Mapping[torch.nn.Module, Any], n_batch: int) -> Iterator[None]:
    """Have modules return what they are known to, for each element of a batch, without computing it."""

    def widen(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return part.expand(n_batch, *part.shape[1:]) if part.ndim and len(part) == 1 else part
        if isinstance(part, Mapping):
            parts = {name: widen(value) for name, value in part.items()}
            return parts if type(part) is dict else type(part)(**parts)  # a `ModelOutput`
        if isinstance(part, (tuple, list)):
            made = [widen(value) for value in part]
            return type(part)(*made) if hasattr(part, "_fields") else type(part)(made)
        return part

    thread = threading.get_ident()

    def make_forward(compute: Callable[..., Any], output: Any) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:  # others run the same modules
                return compute(*args, **kwargs)
            return widen(output)

        return forward

    with Loan() as loan:
        for module, output in outputs.items():
            loan.note(partial(_restore_forward, module, vars(module).get("forward")))
            vars(module)["forward"] = make_forward(module.forward, output)
        yield


def _restore_forward(module: torch.nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = forward
