"""The attention weights of a prompt, from one forward pass of the model as it is."""

import contextlib
import dataclasses

import torch

from ..errors import OptionError
from ..tokens import label_tokens
from .collector import Collector
from .eager import EagerHooks, EagerWeights
from .guard import borrow_model
from .numbering import get_kind
from .options import CaptureOptions
from .projections import ProjectionWatch
from .prompt import encode_decoder_prompt, encode_prompt, find_device, find_segments, takes_argument
from .sequences import SequenceWatch
from .watch import AttentionWatch, ModuleStack


def capture_attention(model, tokenizer=None, prompt=None, *, kind=None, decoder_prompt=None, model_id=None, **options):
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
    kind : {"self", "encoder", "decoder", "cross"}, optional
        Which attention to return; left out, that over the prompt itself (``"encoder"`` for an encoder-decoder,
        ``"self"`` for any other model).
    decoder_prompt : str or list of int, optional
        What an encoder-decoder has said so far. Token ids are taken as they are; before text goes the token with
        which the decoder starts, which also stands in for nothing.
    model_id : str, optional
        Name for titles and files; left out, `get_model_id` finds one.
    **options
        What to keep: fields of `CaptureOptions`, ``layers``, ``heads``, ``queries``, ``reduction``, ``max_cells``,
        ``pooling``, ``dtype`` and ``weighting``.

    Returns
    -------
    AttentionMaps
        Weights, each layer of axes ``(n_heads, n_query, n_key)``. In cross attention queries are the decoder's
        tokens and keys the encoder's.

    Raises
    ------
    PromptError
        If the prompt is empty or does not fit the tokenizer.
    OptionError
        If a layer, head or query is not there, or the model has no attention of that kind.
    CaptureError
        If a layer's weights could not be seen, or for ``weighting="value_norm"`` its values or output projection, or
        the model is being captured already.
    """
    options = CaptureOptions(**options)
    has_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    kinds = ("encoder", "decoder", "cross") if has_decoder else ("self",)
    if (kind or kinds[0]) not in kinds:
        raise OptionError(f"{type(model).__name__} has {', '.join(kinds)} attention, not {kind!r}")
    inputs = encode_prompt(model, tokenizer, prompt)
    ids = {"encoder" if has_decoder else "self": inputs["input_ids"][0].tolist()}
    if has_decoder:
        inputs["decoder_input_ids"] = encode_decoder_prompt(model, tokenizer, decoder_prompt)
        ids["decoder"] = inputs["decoder_input_ids"][0].tolist()
    kind = kind or kinds[0]
    query, key = ("decoder", "encoder") if kind == "cross" else (kind, kind)
    tokens = {side: label_tokens(ids[side], tokenizer) for side in {query, key}}
    wanted = len(ids[query]), len(ids[key])
    collector = Collector(
        model, options, lambda stack, shape: kind not in ("self", get_kind(stack.name)) or shape == wanted
    )
    run_watched(model, collector, inputs)
    return collector.make_maps(
        collector.find_main(kind),
        tokens[query],
        tokens[key],
        ids_key=ids[key],
        segments=[] if kind == "decoder" else find_segments(tokenizer, prompt, len(ids[key])),
        kind=kind,
        model_id=model_id or get_model_id(model),
    )


def run_watched(model, collector, inputs, *, keeps_logits=False):
    """Run a transformers model once and hand its attention to a collector.

    Parameters
    ----------
    model : torch.nn.Module
        The model, left as it was found.
    collector : Collector
        Takes what is seen; complete afterwards.
    inputs : dict
        Arguments of the forward pass. Caches and all but the last logits are left out where the model allows.

    keeps_logits : bool
        Whether to compute the logits of all positions, not of the last alone.

    Returns
    -------
    transformers.utils.ModelOutput
        What the model put out.

    Raises
    ------
    CaptureError
        If some attention was not seen, or the model is being captured already.
    """
    # A position, not how many of the last: told that, layers that share keys (Gemma 4) leave out all other queries.
    last = {} if keeps_logits else {"logits_to_keep": torch.tensor([-1], device=find_device(model))}
    wanted = {"use_cache": False} | last
    arguments = {name: value for name, value in wanted.items() if takes_argument(model, name)} | inputs
    with watch_attention(model, collector) as is_eager, torch.no_grad():
        if is_eager and takes_argument(model, "output_attentions"):
            arguments["output_attentions"] = True
        return model(**arguments)


@contextlib.contextmanager
def watch_attention(model, collector):
    """Hand all attention that runs in the block to a collector.

    Parameters
    ----------
    model : torch.nn.Module
        The model, left as it was found.
    collector : Collector
        Takes what is seen; checked to be complete afterwards.

    Yields
    ------
    bool
        Whether any part of the model runs eager attention.
    """
    with borrow_model(model) as is_eager:
        stack = ModuleStack(model)
        sequences = SequenceWatch(stack)
        projections = ProjectionWatch(stack, collector.take_call) if collector.wants_projections else None
        take_call = (projections or collector).take_call

        def take_weights(seen: EagerWeights) -> None:
            collector.take_weights(dataclasses.replace(seen, given=sequences.find()))

        watch = AttentionWatch(
            stack,
            lambda call: take_call(dataclasses.replace(call, given=sequences.find())),
            take_weights,
            wants_lse=collector.wants_lse,
        )
        hooks = EagerHooks(stack, take_weights, lambda name: name in watch.counts)
        finding = projections.install() if projections else contextlib.nullcontext()
        with hooks.install(), sequences.install(), stack.follow(), watch, finding:
            yield is_eager
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
