"""Capturing the attention of any PyTorch program, also one that has nothing to do with transformers."""

from collections.abc import Callable
from functools import partial

import torch

from ..errors import OptionError
from ..options import CaptureOptions, takes_options
from .collector import Collector
from .guard import Switch
from .numbering import get_kind
from .prefill import get_model_id, watch_attention


@takes_options(CaptureOptions)
def capture_attention_calls(run, *, model=None, tokens=None, model_id=None, batch_index=None, options: CaptureOptions):
    """Capture every scaled_dot_product_attention call that a program makes.

    Parameters
    ----------
    run : callable
        Runs the program; takes nothing. Its result is thrown away.
    model : torch.nn.Module, optional
        The module whose parts name the calls; left out, all calls go by one empty name, in order. It is also watched
        for weights that its attention modules hand out.
    tokens : sequence of str, optional
        Labels of the tokens, for attention over as many; other attention is labelled by number.
    model_id : str, optional
        Name for titles and files; left out, found as in `capture_attention`.
    batch_index : int, optional
        Which element of a batch to take; left out, there must be no more than one.
    **options
        What to keep, as `CaptureOptions` declares it.

    Returns
    -------
    dict of str to AttentionMaps
        One for each kind of attention, by the name of its modules with ``*`` for indices, in the order of the calls.

    Raises
    ------
    CaptureError
        If no attention was seen, or some module's was not.
    OptionError
        If `run` cannot be called.

    Notes
    -----
    `torch.nn.MultiheadAttention` is computed a second time for the weights of each head. Its fused inference path,
    which shows nothing, is off while the program runs; results may then differ from it by rounding.
    """
    if not callable(run):
        raise OptionError(f"run must be callable, got {type(run).__name__}; wrap the program: lambda: model(x)")
    model = torch.nn.Identity() if model is None else model
    collector = Collector(model, options, batch_index=batch_index)
    with watch_attention(model, collector) as loan:
        _SLOW_PATH.turn(loan)
        run()
    # A decoder alone is named so, but is no side of two.
    has_sides = getattr(getattr(model, "config", None), "is_encoder_decoder", True)
    maps = {}
    for path, stack in collector.stacks.items():
        n_query, n_key = stack.shape
        labels = tokens if tokens is not None and len(tokens) == n_key else [str(i) for i in range(n_key)]
        if stack.continues or n_query == n_key:
            kind, queries = get_kind(stack.name), labels[stack.first :][:n_query]
        else:
            kind, queries = (
                "cross",
                tokens if tokens is not None and len(tokens) == n_query else list(map(str, range(n_query))),
            )
        if kind == "encoder" or (kind == "decoder" and not has_sides):
            kind = "self"
        maps[path] = collector.make_maps(stack, queries, labels, model_id=model_id or get_model_id(model), kind=kind)
    return maps


def _leave_fast_path() -> Callable[[], object]:
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return partial(torch.backends.mha.set_fastpath_enabled, was_enabled)


_SLOW_PATH = Switch(_leave_fast_path)
