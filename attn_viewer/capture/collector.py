"""Gathering the weights of one forward pass by stack and layer, whichever way they were seen."""

import dataclasses
import weakref

import numpy as np
import torch

from ..choices import choose_numbers
from ..errors import CaptureError, OptionError
from ..maps import POOLINGS, AttentionMaps
from .kernels import ROWS, Scores, blocks_future
from .mixtures import iterate_mixed
from .numbering import get_kind, is_attention, number_modules
from .reduction import AUTO, FULL_BUDGET, REDUCTIONS, choose_cell, release_freed

DTYPES = ("float16", "float32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """What is kept of the weights.

    Parameters
    ----------
    layers, heads : sequence of int, optional
        True numbers of those to keep; left out, all.
    queries : slice or int, optional
        Range of query tokens to keep, or how many of the last ones; left out, all.
    reduction : {"full", "head_mean", "pooled", "auto"}
        Every weight; the mean over the heads; each head on a coarse grid; or full while all layers together stay
        under `reduction.FULL_BUDGET` bytes and pooled past that.
    max_cells : int
        Most cells a side when pooled.
    pooling : {"max", "mean"}
        What is kept of a cell when pooled.
    dtype : {"float32", "float16"}
        Type in which weights are kept. They are computed in float32.

    Raises
    ------
    OptionError
        If a value cannot be used.
    """

    layers: object = None
    heads: object = None
    queries: slice | int | None = None
    reduction: str = "full"
    max_cells: int = 256
    pooling: str = "max"
    dtype: str = "float32"

    def __post_init__(self):
        """Check all values before a model runs."""
        known = {"reduction": (*REDUCTIONS, AUTO), "pooling": POOLINGS, "dtype": DTYPES}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise OptionError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        choose_cell(1, 1, self.max_cells)
        queries = self.queries
        is_count = isinstance(queries, int) and not isinstance(queries, bool) and queries > 0
        is_range = isinstance(queries, slice) and queries.step in (None, 1)
        if queries is not None and not is_count and not is_range:
            raise OptionError(f"queries must be a slice with step 1 or how many of the last, got {queries!r}")

    def choose_rows(self, n_query):
        """Return the range of query rows to keep.

        Parameters
        ----------
        n_query : int
            Rows there are.

        Returns
        -------
        slice
            A range within them.

        Raises
        ------
        OptionError
            If it is empty.
        """
        rows = slice(-self.queries, None) if isinstance(self.queries, int) else self.queries or slice(None)
        start, stop, _ = rows.indices(n_query)
        if start >= stop:
            raise OptionError(f"queries={self.queries!r} keeps none of the {n_query} query tokens")
        return slice(start, stop)


@dataclasses.dataclass
class Stack:
    """The layers of one kind of attention in a model, as far as they were seen.

    Parameters
    ----------
    name : str
        Qualified name of its modules with ``*`` for indices.
    shape : tuple of int
        Query and key tokens of every layer.
    n_layers : int
        How many layers the model seems to have there.
    """

    name: str
    shape: tuple
    n_layers: int
    causal: bool = True
    has_sinks: bool = False
    softcap: float | None = None
    sources: set = dataclasses.field(default_factory=set)
    reduction: str | None = None
    cell: tuple = (1, 1)
    calls: set = dataclasses.field(default_factory=set)  # layers that ran, kept or not
    inputs: tuple = None, None  # the last of them; weak references to the query and key of its call
    kept: dict = dataclasses.field(default_factory=dict)  # layer -> (head numbers, reduction)
    elsewhere: dict = dataclasses.field(default_factory=dict)  # layer -> tokens, where they are not the wanted ones

    @property
    def depth(self):
        """How many layers ran."""
        return len(self.calls | self.elsewhere.keys())


class Collector:
    """Takes watched calls and eager weights of a pass; gives `AttentionMaps` of each stack.

    Parameters
    ----------
    model : torch.nn.Module
        The model that runs.
    options : CaptureOptions
        What to keep.
    fits : callable, optional
        Tells for a `Stack` and ``(n_query, n_key)`` whether attention over so many tokens can be labelled; left out,
        all can.
    batch_index : int
        Which element of a batch to take; left out, there must be no more than one.
    """

    def __init__(self, model, options, fits=lambda stack, shape: True, *, batch_index=None):
        self.model, self.options, self.fits, self.batch_index = model, options, fits, batch_index
        self.numbers = number_modules(model)
        self.stacks = {}
        self.accounted = set()
        self.wants_lse = options.reduction in ("pooled", AUTO)

    def take_call(self, call):
        """Take a call of scaled_dot_product_attention.

        Parameters
        ----------
        call : watch.AttentionCall
            The call.
        """
        self.accounted.add(call.name)
        call = self._unpack_heads(call)
        n_query, n_key = call.query.shape[-2], call.key.shape[-2]
        stack, layer = self._place(call.name, call.ordinal, (n_query, n_key), (call.query, call.key))
        if stack is None:
            return
        mask = None if call.mask is None else self._drop_batch(call.mask, call.name, least=2)
        scores = Scores(
            self._drop_batch(call.query, call.name),
            self._drop_batch(call.key, call.name),
            mask,
            call.is_causal,
            call.scale,
            lse=None if call.lse is None else self._drop_batch(call.lse[..., None], call.name)[..., 0],
        )
        if not call.is_causal and n_query > 1:
            stack.causal &= mask is not None and blocks_future(mask, n_query, n_key)
        stack.sources.add("sdpa")
        heads, reduction = self._open(stack, layer, len(scores.query))
        if reduction is not None:
            is_whole = len(heads) == len(scores.query)
            rows = self.options.choose_rows(n_query)
            if call.change is None:
                reduction.take_scores(scores.select(heads=None if is_whole else heads, rows=rows))
            else:
                step = stack.cell[0] * max(1, ROWS // stack.cell[0])
                for start, block in iterate_mixed(scores, call.change, rows, step=step):
                    reduction.take_weights(block if is_whole else block[list(heads)], start)
            release_freed(call.query)

    def take_weights(self, seen):
        """Take weights that an eager module handed out.

        Parameters
        ----------
        seen : eager.EagerWeights
            The weights.
        """
        self.accounted.add(seen.name)
        n_query, n_key = seen.weights.shape[-2:]
        stack, layer = self._place(seen.name, seen.ordinal, (n_query, n_key), None)
        if stack is None:
            return
        weights = self._drop_batch(seen.weights, seen.name)
        stack.causal &= n_query == n_key and not bool(weights.triu(1).any())
        stack.sources.add("eager")
        sums = weights.sum(-1, dtype=torch.float32)  # 0 where a row is padding
        stack.has_sinks |= bool(((sums > 0) & (sums < 0.98)).any())
        softcap = getattr(seen.module, "attn_logit_softcapping", None)
        stack.softcap = stack.softcap if softcap is None else softcap
        heads, reduction = self._open(stack, layer, len(weights))
        if reduction is not None:
            rows = self.options.choose_rows(n_query)
            weights = weights if len(heads) == len(weights) else weights[list(heads)]
            reduction.take_weights(weights[:, rows])

    def _unpack_heads(self, call):
        """Undo what transformers from 5 on does for a single query token: heads that share keys become its rows."""
        n_query, n_key = call.query.shape[-2], call.key.shape[-2]
        groups = getattr(self.model.get_submodule(call.name), "num_key_value_groups", 1)
        if n_query == 1 or n_query != groups:
            return call
        stack = Stack(self.numbers.get(call.name, (call.name, 0))[0], (1, n_key), 1)
        if self.fits(stack, (n_query, n_key)) or not self.fits(stack, (1, n_key)):
            return call
        query, mask = call.query.flatten(1, 2).unsqueeze(2), call.mask
        if mask is not None and mask.shape[2] > 1:  # one that all heads share stayed as it was
            mask = mask.flatten(1, 2).unsqueeze(2)
        return dataclasses.replace(call, query=query, mask=mask, lse=None)

    def _drop_batch(self, tensor, name, least=3):
        """Return one prompt's part of a tensor of axes (batch, n_heads, n, …)."""
        if tensor.ndim == 4 and (len(tensor) == 1 or self.batch_index is not None):
            return tensor[0 if len(tensor) == 1 else self.batch_index]
        if least <= tensor.ndim <= 3:
            return tensor
        raise CaptureError(
            f"module {name!r} computes attention on a tensor of shape {tuple(tensor.shape)}, where "
            "(1, n_heads, n_tokens, d) is expected; capture one prompt at a time"
        )

    def _place(self, name, ordinal, shape, inputs):
        """Return the stack and layer of a call.

        (None, None) for one that repeats another with the same inputs, or that is not over the wanted tokens.
        """
        path, number = self.numbers.get(name, (name, 0))
        members = sum(other == path for other, _ in self.numbers.values())
        if path not in self.stacks:
            depth = getattr(getattr(self.model, "config", None), "num_hidden_layers", None) or 1
            self.stacks[path] = Stack(path, shape, max(members, depth if members == 1 else 1))
        stack = self.stacks[path]
        if not self.fits(stack, shape):
            stack.elsewhere[number + ordinal] = shape
            return None, None
        if not stack.calls:
            stack.shape = shape
        if stack.shape != shape:
            raise CaptureError(
                f"module {name!r} attends over {shape[0]} × {shape[1]} tokens where others of its kind had "
                f"{stack.shape[0]} × {stack.shape[1]}; this architecture is not supported yet"
            )
        if ordinal > 0:
            layer, first = stack.inputs
            is_last = bool(layer == number and inputs and first)
            if is_last and all(_is_same(there(), given) for there, given in zip(first, inputs, strict=True)):
                return None, None  # the same weights on another half of the values (differential attention)
            if members > 1:
                raise CaptureError(
                    f"module {name!r} computes attention more than once in a pass, and so do others of its kind; "
                    "this architecture is not supported yet"
                )
            number += ordinal  # one module that serves all layers (ALBERT)
        stack.calls.add(number)
        # Held, they would lie in the way of what the layer does next, and the heap would grow around them.
        stack.inputs = number, inputs and tuple(weakref.ref(tensor) for tensor in inputs)
        return stack, number

    def _open(self, stack, layer, n_heads):
        """Return head numbers and the reduction of a layer; (None, None) if it is not wanted."""
        options = self.options
        if options.layers is not None and layer not in set(options.layers):
            return None, None
        heads = choose_numbers(options.heads, range(n_heads), f"head of layer {layer}")
        rows = options.choose_rows(stack.shape[0])
        shape = (len(heads), rows.stop - rows.start, stack.shape[1])
        if stack.reduction is None:
            n_layers = stack.n_layers if options.layers is None else len(set(options.layers))
            size = n_layers * np.prod(shape, dtype=float) * np.dtype(options.dtype).itemsize
            automatic = "full" if size <= FULL_BUDGET else "pooled"
            stack.reduction = automatic if options.reduction == AUTO else options.reduction
            if stack.reduction == "pooled":
                stack.cell = choose_cell(*shape[1:], options.max_cells)
            # Weights that fit the grid as they are need no pooling.
            if stack.reduction == "pooled" and stack.cell == (1, 1):
                stack.reduction = "full"
        reduction = REDUCTIONS[stack.reduction](shape, np.dtype(options.dtype), stack.cell, options.pooling)
        stack.kept[layer] = heads, reduction
        return heads, reduction

    def find_main(self, kind="self"):
        """Return the deepest stack of a kind: in a model of several towers, the language model.

        Parameters
        ----------
        kind : {"self", "encoder", "decoder", "cross"}
            Kind of attention; all but cross attention and the two sides of an encoder-decoder are ``"self"``.

        Returns
        -------
        Stack
            Complete.

        Raises
        ------
        CaptureError
            If there is none, or if some of its layers attend over other tokens (compressed or pooled ones), which
            must not just be missing.
        """
        stacks = [stack for stack in self.stacks.values() if kind in ("self", get_kind(stack.name))]
        stacks = [stack for stack in stacks if kind == "cross" or get_kind(stack.name) != "cross"]
        main = max(stacks, key=lambda stack: (stack.depth, len(stack.calls)), default=None)
        if main is None:
            raise CaptureError(f"no {kind} attention was seen; there is {', '.join(self.stacks) or 'none at all'}")
        if main.elsewhere:
            layer, (n_query, n_key) = next(iter(main.elsewhere.items()))
            raise CaptureError(
                f"{len(main.elsewhere)} layers attend from {n_query} to {n_key} positions (first: layer {layer} of "
                f"{main.name!r}), which are not the tokens of the prompt; this architecture is not supported yet"
            )
        return main

    def make_maps(self, stack, tokens_query, tokens_key, **facts):
        """Return what was kept of a stack.

        Parameters
        ----------
        stack : Stack
            One of `stacks`.
        tokens_query, tokens_key : sequence of str
            Labels of all its tokens.
        **facts
            More fields of `AttentionMaps`.

        Returns
        -------
        AttentionMaps
            The chosen layers.
        """
        rows = self.options.choose_rows(stack.shape[0])
        chosen = choose_numbers(self.options.layers, sorted(stack.calls), "layer")
        kept = [stack.kept[layer] for layer in chosen]
        is_mean = stack.reduction == "head_mean"
        return AttentionMaps(
            [reduction.array for _, reduction in kept],
            tokens_key,
            tokens_query=None
            if tokens_query is tokens_key and rows == slice(0, len(tokens_key))
            else tokens_query[rows],
            layers=chosen,
            heads=None if is_mean else [heads for heads, _ in kept],
            causal=stack.causal and stack.shape[0] == stack.shape[1],
            first_query=rows.start,
            reduction=stack.reduction,
            cell=stack.cell,
            pooling=self.options.pooling if stack.reduction == "pooled" else None,
            has_sinks=stack.has_sinks,
            softcap=stack.softcap,
            source="+".join(sorted(stack.sources)),
            **facts,
        )

    def check_complete(self, seen):
        """Raise for attention modules that ran and whose weights nobody saw.

        Parameters
        ----------
        seen : set of str
            Names of the modules that ran.

        Raises
        ------
        CaptureError
            If there is one, or if no attention was seen at all.
        """
        modules = dict(self.model.named_modules(remove_duplicate=False))
        attention = {name for name in seen if name and is_attention(self.model, modules[name])}
        blind = sorted(
            name
            for name in attention
            if not any(
                other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.")
                for other in self.accounted
            )
        )
        if blind:
            raise CaptureError(
                f"the weights of {len(blind)} attention modules could not be seen (first: {blind[0]!r}, "
                f"{type(modules[blind[0]]).__name__}); load the model with attn_implementation='eager'"
            )
        if not self.accounted:
            raise CaptureError(
                f"{type(self.model).__name__} showed no attention weights: it neither calls "
                "scaled_dot_product_attention nor hands weights out; if it has either, load it with "
                "attn_implementation='eager' or 'sdpa'"
            )


def _is_same(earlier, tensor):
    """Tell whether a tensor lies where an earlier one lies, if that is still there."""
    return earlier is not None and earlier.data_ptr() == tensor.data_ptr()
