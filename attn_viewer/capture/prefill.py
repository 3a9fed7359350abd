"""The attention weights of a prompt, from one forward pass of the model as it is."""

import torch

from ..tokens import label_tokens
from .collector import CaptureOptions, Collector
from .eager import EagerHooks
from .guard import borrow_model
from .prompt import encode_prompt, takes_argument
from .watch import AttentionWatch, ModuleStack


def capture_attention(model, tokenizer=None, prompt=None, *, model_id=None, **options):
    """Capture the exact attention weights of every head for a prompt.

    The model runs once, on the attention it was loaded with; its result is bit for bit that of a plain forward
    pass, and it is left as it was found. Under SDPA each layer's weights are computed from the queries, keys and
    mask that the layer used, a block at a time; in eager mode they are taken from the layers themselves.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, or one that is called like it.
    tokenizer : transformers tokenizer, optional
        For prompts in words and for readable labels.
    prompt : str, list of dict or list of int
        Text, chat messages or token ids.
    model_id : str, optional
        Name for titles and files; left out, `get_model_id` finds one.
    **options
        What to keep: fields of `CaptureOptions`, ``layers``, ``heads``, ``queries``, ``reduction``, ``max_cells``,
        ``pooling`` and ``dtype``.

    Returns
    -------
    AttentionMaps
        Self-attention weights, each layer of axes ``(n_heads, n_query, n_key)``.

    Raises
    ------
    PromptError
        If the prompt is empty or does not fit the tokenizer.
    OptionError
        If a layer, head or query is not there.
    CaptureError
        If a layer's weights could not be seen, or the model is being captured already.
    """
    options = CaptureOptions(**options)
    inputs = encode_prompt(model, tokenizer, prompt)
    ids = inputs["input_ids"][0].tolist()
    tokens = label_tokens(ids, tokenizer)
    collector = Collector(model, options, lambda n_query, n_key: n_query == n_key == len(ids))
    run_watched(model, collector, inputs)
    return collector.make_maps(collector.find_main(), tokens, tokens, model_id=model_id or get_model_id(model))


def run_watched(model, collector, inputs):
    """Run a model once and hand all attention to a collector.

    Parameters
    ----------
    model : torch.nn.Module
        The model, left as it was found.
    collector : Collector
        Takes what is seen; complete afterwards.
    inputs : dict
        Arguments of the forward pass. Caches and all but the last logits are left out where the model allows.

    Raises
    ------
    CaptureError
        If some attention was not seen, or the model is being captured already.
    """
    wanted = {"use_cache": False, "logits_to_keep": 1}
    arguments = {name: value for name, value in wanted.items() if takes_argument(model, name)} | inputs
    with borrow_model(model) as is_eager, torch.no_grad():
        if is_eager and takes_argument(model, "output_attentions"):
            arguments["output_attentions"] = True
        stack = ModuleStack(model)
        watch = AttentionWatch(stack, collector.take_call, wants_lse=collector.wants_lse)
        hooks = EagerHooks(model, collector.take_weights, lambda name: name in watch.counts)
        with hooks.install(), stack.follow(), watch:
            model(**arguments)
    collector.check_complete(stack.seen)


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
