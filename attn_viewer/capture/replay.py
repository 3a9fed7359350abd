"""Many slightly different passes of one prompt, which share what they have in common."""

import contextlib
import threading
from functools import partial

import torch
from torch.utils import _pytree as pytree

from ..errors import OptionError, PromptError
from ..inputs.model_inputs import prepare_inputs
from ..inputs.rows import take_prompt
from ..inputs.signature import takes_argument
from ..options import CaptureOptions
from .collector import Collector
from .guard import Loan, borrow_model
from .intervene import ablate_rows
from .prefill import run_watched
from .targets import find_target

_SEES_LATER = "{} sees later tokens, which it would predict; use a causal model"


def encode_text(model, tokenizer, prompt):
    """Turn a prompt into inputs of a causal language model whose loss can be measured.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    tokenizer : transformers tokenizer or None
        As in `capture_attention`.
    prompt : str, tuple of str, list of dict, token ids or mapping
        As `capture_attention` takes it, at least two tokens.

    Returns
    -------
    dict of str to torch.Tensor
        Arguments of the forward pass.

    Raises
    ------
    OptionError
        If the model is an encoder-decoder or has no language model's head.
    PromptError
        If the prompt has one token, which predicts nothing.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
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


def run_with_maps(model, inputs, tokens, **facts):
    """Run a model once for its predictions and its attention together.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model.
    inputs : dict of str to torch.Tensor
        Of `encode_text`.
    tokens : sequence of str
        Labels.
    **facts
        More fields of `AttentionMaps`.

    Returns
    -------
    logits : torch.Tensor
        float32 on the CPU, axes ``(n_tokens, n_vocabulary)``.
    maps : AttentionMaps
        Every weight.

    Raises
    ------
    OptionError
        If the model sees later tokens, so that there is no loss of the next.
    """
    collector = Collector(model, CaptureOptions(), lambda stack, shape: shape == (len(tokens), len(tokens)))
    output = run_watched(model, [collector], inputs, keeps_logits=True)
    maps = collector.make_maps(collector.find_main(), tokens, tokens, **facts)
    if not maps.causal:
        raise OptionError(_SEES_LATER.format(type(model).__name__))
    return output.logits[0].float().cpu(), maps


def measure_losses(logits, ids):
    """Return the cross-entropy of each token given those before it.

    Parameters
    ----------
    logits : torch.Tensor
        Axes ``(batch, n_tokens, n_vocabulary)``.
    ids : torch.Tensor
        Axes ``(n_tokens,)``.

    Returns
    -------
    torch.Tensor
        float32, nats, axes ``(batch, n_tokens - 1)``.
    """
    chosen = logits[:, :-1].gather(2, ids[1:].expand(len(logits), -1)[..., None])[..., 0]
    return logits[:, :-1].logsumexp(-1).float() - chosen.float()


def iterate_ablation_losses(model, inputs, *, mode="zero", layers=None, batch_size=16):
    """Measure the loss without each head in turn.

    One pass keeps what each layer put out. The passes without a layer's heads go as a batch and start at that layer:
    the layers below hand out what they did before, in models where nothing else passes between layers.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model.
    inputs : dict of str to torch.Tensor
        Of `encode_text`.
    mode : str
        As in `ablate_heads`.
    layers : sequence of int, optional
        Whose heads; left out, all.
    batch_size : int
        Most heads in one pass.

    Yields
    ------
    layer, heads : int, list of int
        ``None, None`` first, for the model as it is.
    losses : numpy.ndarray
        Axes ``(len(heads), n_tokens - 1)``.

    Raises
    ------
    OptionError
        If another last token changes what the model says before it.
    """
    target = find_target(model)
    ids = inputs["input_ids"][0]
    arguments = {"use_cache": False} if takes_argument(model, "use_cache") else {}
    blocks = _find_blocks(model, target)
    with borrow_model(model):
        with _keep_outputs(blocks.values()) as outputs:
            logits = model(**inputs, **arguments).logits
        others = inputs | {"input_ids": torch.cat([ids[:-1], (ids[-1:] + 1) % logits.shape[-1]])[None]}
        changed = model(**others, **arguments).logits
        if not _are_alike(logits[:, :-1], changed[:, :-1]):
            raise OptionError(_SEES_LATER.format(type(model).__name__))
        if blocks and not _can_hand_out(model, inputs, arguments, blocks, outputs, logits):
            blocks = {}
        yield None, None, measure_losses(logits, ids).cpu().numpy()
        n_heads = target.n_heads
        for layer in target.layers if layers is None else layers:
            for first in range(0, n_heads, batch_size):
                heads = list(range(first, min(first + batch_size, n_heads)))
                batch = {name: part.expand(len(heads), *part.shape[1:]) for name, part in inputs.items()}
                below = {blocks[at]: outputs[blocks[at]] for at in blocks if at < layer}
                with _hand_out(below, len(heads)), ablate_rows(model, [(layer, head) for head in heads], mode):
                    losses = measure_losses(model(**batch, **arguments).logits, ids)
                yield layer, heads, losses.cpu().numpy()


def _find_blocks(model, target):
    """Return the module of each layer, by number; none where layers are not modules in a list of their own."""
    blocks = {}
    for name, number in target.modules.items():
        parts = name.split(".")
        indices = [i for i, part in enumerate(parts) if part.isdecimal()]
        if len(indices) != 1 or int(parts[indices[0]]) != number:
            return {}
        blocks[number] = model.get_submodule(".".join(parts[: indices[0] + 1]))
    return blocks


def _are_alike(logits, others):
    return torch.allclose(logits, others, rtol=0, atol=1e-2 * float(logits.abs().max()))


def _can_hand_out(model, inputs, arguments, blocks, outputs, logits):
    """Tell whether a pass that hands out all layers but the last says what a whole one says.

    It does not where a layer takes more from earlier ones than their outputs (Gemma 3n reads their keys), and then
    fails in as many ways as there are models.
    """
    *below, _ = sorted(blocks)
    batch = {name: part.expand(2, *part.shape[1:]) for name, part in inputs.items()}
    try:
        with _hand_out({blocks[at]: outputs[blocks[at]] for at in below}, 2):
            again = model(**batch, **arguments).logits
    except Exception:
        return False
    return len(again) == 2 and _are_alike(logits.expand(again.shape), again)


@contextlib.contextmanager
def _keep_outputs(modules):
    outputs = {}

    def keep(module, args, output):
        outputs[module] = output

    with Loan() as loan:
        for module in modules:
            loan.add_hook(module.register_forward_hook, keep)
        yield outputs


@contextlib.contextmanager
def _hand_out(outputs, n_batch):
    """Have modules return what they are known to, for each element of a batch, without computing it."""

    def widen(part):
        is_batched = isinstance(part, torch.Tensor) and part.ndim and len(part) == 1
        return part.expand(n_batch, *part.shape[1:]) if is_batched else part

    thread = threading.get_ident()

    def make_forward(compute, output):
        def forward(*args, **kwargs):
            if threading.get_ident() != thread:  # others run the same modules
                return compute(*args, **kwargs)
            return pytree.tree_map(widen, output)

        return forward

    with Loan() as loan:
        for module, output in outputs.items():
            loan.note(partial(_restore_forward, module, vars(module).get("forward")))
            module.forward = make_forward(module.forward, output)
        yield


def _restore_forward(module, forward):
    if forward is None:
        vars(module).pop("forward", None)
    else:
        module.forward = forward
