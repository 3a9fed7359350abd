"""The attention weights of a prompt, from one forward pass of the model as it is."""

from collections import Counter

import numpy as np
import torch

from ..errors import CaptureError, OptionError
from ..maps import AttentionMaps, choose_numbers
from ..tokens import label_tokens
from .eager import EagerHooks
from .guard import borrow_model
from .kernels import blocks_future, iterate_weights
from .numbering import is_attention, number_modules
from .prompt import encode_prompt, takes_argument
from .reduction import FullReduction
from .watch import AttentionWatch, ModuleStack

DTYPES = ("float16", "float32")


def capture_attention(
    model,
    tokenizer=None,
    prompt=None,
    *,
    layers=None,
    heads=None,
    dtype="float32",
    model_id=None,
):
    """Capture the exact attention weights of every head for a prompt.

    The model runs once, on the attention it was loaded with; its result is bit for bit that of a plain forward
    pass, and it is left as it was found. Under SDPA each layer's weights are computed from the queries, keys and
    mask that the layer used; in eager mode the weights are taken from the layers themselves.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, or one that is called like it.
    tokenizer : transformers tokenizer, optional
        For prompts in words and for readable labels.
    prompt : str, list of dict or list of int
        Text, chat messages or token ids.
    layers, heads : sequence of int, optional
        True numbers of those to keep; left out, all.
    dtype : {"float32", "float16"}
        Type in which the weights are kept. They are computed in float32.
    model_id : str, optional
        Name for titles and files; left out, `get_model_id` finds one.

    Returns
    -------
    AttentionMaps
        Self-attention weights, each layer of axes ``(n_heads, n_tokens, n_tokens)``.

    Raises
    ------
    PromptError
        If the prompt is empty or does not fit the tokenizer.
    OptionError
        If a layer or head is not there.
    CaptureError
        If a layer's weights could not be seen, or the model is being captured already.
    """
    if str(np.dtype(dtype)) not in DTYPES:
        raise OptionError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    inputs = encode_prompt(model, tokenizer, prompt)
    ids = inputs["input_ids"][0].tolist()
    tokens = label_tokens(ids, tokenizer)
    collector = _Collector(model, len(ids), layers, heads, np.dtype(dtype))
    arguments = {"use_cache": False, "logits_to_keep": 1}
    arguments = {name: value for name, value in arguments.items() if takes_argument(model, name)}
    with borrow_model(model) as is_eager, torch.no_grad():
        if is_eager and takes_argument(model, "output_attentions"):
            arguments["output_attentions"] = True
        stack = ModuleStack(model)
        watch = AttentionWatch(stack, collector.take_call)
        hooks = EagerHooks(model, collector.take_weights, lambda name: name in watch.counts)
        with hooks.install(), stack.follow(), watch:
            model(**inputs, **arguments)
    return collector.make_maps(tokens, stack.seen, model_id or get_model_id(model))


def get_model_id(model):
    """Find a short name for a model.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Returns
    -------
    str
        The last part of the name or folder it was loaded from, or its class name.
    """
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    name = str(name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].strip(". ")
    return name or type(model).__name__


class _Collector:
    """Gathers the weights of one pass by stack and layer.

    Both ways of seeing weights end here. Attention over anything but the prompt's tokens (image patches in a
    model of several towers) is left out.
    """

    def __init__(self, model, n_tokens, layers, heads, dtype):
        self.model = model
        self.numbers = number_modules(model)
        self.n_tokens = n_tokens
        self.layers = None if layers is None else set(layers)
        self.heads = heads
        self.dtype = dtype
        self.kept = {}  # (stack, layer) -> FullReduction
        self.all_layers = {}  # (stack, layer) -> first call or None, all layers that ran, kept or not
        self.elsewhere = {}  # (stack, layer) -> (n_query, n_key), layers over anything but the prompt's tokens
        self.accounted = set()  # names of modules whose weights were seen
        self.causal = True
        self.sources = set()
        self.has_sinks = False
        self.softcap = None

    def take_call(self, call):
        self.accounted.add(call.name)
        query, key = (_drop_batch(t, call.name) for t in (call.query, call.key))
        if self._is_elsewhere(call.name, query.shape[1], key.shape[1]):
            return
        place = self._place(call.name, call.ordinal, (call.query, call.key))
        if place is None:
            return
        mask = None if call.mask is None else _drop_mask_batch(call.mask, call.name)
        if not call.is_causal and self.n_tokens > 1:
            self.causal &= mask is not None and blocks_future(mask, self.n_tokens, self.n_tokens)
        self.sources.add("sdpa")
        reduction = self._open(place, query.shape[0])
        if reduction is not None:
            for start, block in iterate_weights(query, key, mask, is_causal=call.is_causal, scale=call.scale):
                reduction.add(start, block)

    def take_weights(self, seen):
        self.accounted.add(seen.name)
        weights = _drop_batch(seen.weights, seen.name)
        if self._is_elsewhere(seen.name, *weights.shape[1:]):
            return
        place = self._place(seen.name, seen.ordinal, None)
        self.causal &= not bool(weights.triu(1).any())
        self.sources.add("eager")
        sums = weights.sum(-1, dtype=torch.float32)  # 0 where a row is padding
        self.has_sinks |= bool(((sums > 0) & (sums < 0.98)).any())
        softcap = getattr(seen.module, "attn_logit_softcapping", None)
        self.softcap = self.softcap if softcap is None else softcap
        reduction = self._open(place, len(weights))
        if reduction is not None:
            reduction.add(0, weights.float())

    def _is_elsewhere(self, name, n_query, n_key):
        """Tell whether attention is over anything but the prompt's tokens, and note it."""
        if n_query == n_key == self.n_tokens:
            return False
        self.elsewhere[self.numbers.get(name, (name, 0))] = (n_query, n_key)
        return True

    def _place(self, name, ordinal, inputs):
        """Return (stack, layer), or None for a repetition of a call that was seen with the same inputs."""
        stack, number = self.numbers.get(name, (name, 0))
        if ordinal == 0:
            self.all_layers[stack, number] = inputs
            return stack, number
        first = self.all_layers.get((stack, number))
        if inputs and first and all(a.data_ptr() == b.data_ptr() for a, b in zip(inputs, first, strict=True)):
            return None  # the same weights on another half of the values (differential attention)
        if sum(s == stack for s, _ in self.numbers.values()) > 1:
            raise CaptureError(
                f"module {name!r} computes attention more than once in a pass, and so do others of its stack; "
                "this architecture is not supported yet"
            )
        self.all_layers[stack, number + ordinal] = inputs  # one module that serves all layers (ALBERT)
        return stack, number + ordinal

    def _open(self, place, n_heads):
        if self.layers is not None and place[1] not in self.layers:
            return None
        heads = choose_numbers(self.heads, range(n_heads), f"head of layer {place[1]}")
        self.kept[place] = FullReduction(self.n_tokens, self.n_tokens, heads, self.dtype)
        return self.kept[place]

    def make_maps(self, tokens, seen, model_id):
        self._check_complete(seen)
        stacks = {stack for stack, _ in self.all_layers}
        if self.elsewhere and not stacks:
            self._refuse_elsewhere(self.elsewhere)
        if not stacks:
            raise CaptureError(
                f"{type(self.model).__name__} showed no attention weights: it neither calls "
                "scaled_dot_product_attention nor hands weights out; load it with attn_implementation='eager' "
                "or 'sdpa' if it has either"
            )
        # Towers are told apart by depth; the deepest is the language model.
        depth = Counter(stack for stack, _ in self.all_layers | self.elsewhere)
        main = max(sorted(depth), key=lambda stack: (depth[stack], stack in stacks))
        # Layers over compressed or pooled tokens (DeepSeek V4, Funnel) must not just be missing.
        if missing := {place: shape for place, shape in self.elsewhere.items() if place[0] == main}:
            self._refuse_elsewhere(missing)
        present = sorted(layer for stack, layer in self.all_layers if stack == main)
        chosen = choose_numbers(self.layers, present, "layer")
        reductions = [self.kept[main, layer] for layer in chosen]
        return AttentionMaps(
            [reduction.result() for reduction in reductions],
            tokens,
            layers=chosen,
            heads=[reduction.heads for reduction in reductions],
            causal=self.causal,
            model_id=model_id,
            has_sinks=self.has_sinks,
            softcap=self.softcap,
            source="+".join(sorted(self.sources)),
        )

    def _refuse_elsewhere(self, places):
        (stack, layer), (n_query, n_key) = next(iter(places.items()))
        raise CaptureError(
            f"{len(places)} layers attend from {n_query} to {n_key} positions (first: layer {layer} of {stack!r}), "
            f"where the prompt has {self.n_tokens} tokens; this architecture is not supported yet"
        )

    def _check_complete(self, seen):
        """Raise for attention modules that ran and whose weights nobody saw."""
        modules = dict(self.model.named_modules())
        attention = {n for n in seen if n and is_attention(self.model, modules[n])}
        blind = sorted(
            name
            for name in attention
            if not any(other == name or other.startswith(name + ".") or name.startswith(other + ".")
                       for other in self.accounted)
        )  # fmt: skip
        if blind:
            raise CaptureError(
                f"the weights of {len(blind)} attention modules could not be seen (first: {blind[0]!r}, "
                f"{type(modules[blind[0]]).__name__}); load the model with attn_implementation='eager'"
            )


def _drop_batch(tensor, name):
    if tensor.ndim == 4 and len(tensor) == 1:
        return tensor[0]
    if tensor.ndim == 3:
        return tensor
    raise CaptureError(
        f"module {name!r} computes attention on a tensor of shape {tuple(tensor.shape)}, where "
        "(1, n_heads, n_tokens, d) is expected; capture one prompt at a time"
    )


def _drop_mask_batch(mask, name):
    if mask.ndim == 4:
        if len(mask) != 1:
            raise CaptureError(f"module {name!r} has a mask for {len(mask)} prompts; capture one prompt at a time")
        return mask[0]
    return mask
