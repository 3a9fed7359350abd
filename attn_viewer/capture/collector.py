"""Gathering the weights of one forward pass by stack and layer, whichever way they were seen."""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch

from ..cells import choose_cell
from ..errors import CaptureError
from ..maps import AttentionMaps
from ..selections import choose_numbers, describe_numbers
from .changes import list_interventions
from .guard import list_implementations
from .kernels import ROWS, Scores, blocks_future, find_hidden, iterate_weights
from .numbering import get_kind, has_no_softmax, is_attention, number_modules
from .padding import WHOLE, Kept, crop_scores, crop_weights
from .positions import Positions, find_positions, lay_out_call, lay_out_weights
from .projections import measure_value_norms
from .reduction import AUTO, FULL_BUDGET, REDUCTIONS, release_freed
from .targets import count_heads

LEAST_SUM = 0.98  # of a row of eager weights in half precision, without sinks


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
    first: int = 0  # position of its first query among the keys
    continues: bool = False  # whether earlier passes made some of the keys
    kept_tokens: Kept = WHOLE  # without padding
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
    unscaled: str | None = None  # the first module whose values or projection were not seen, where they were wanted

    @property
    def size(self):
        """Query and key tokens that are no padding."""
        return tuple(len(range(n)[part]) for n, part in zip(self.shape, self.kept_tokens, strict=True))

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
    batch_size : int, optional
        How many elements the batch has, when known.
    find_kept : callable, optional
        Tells for a `Stack` and ``(n_query, n_key)`` which tokens are no padding; left out, all are.
    numbers : dict, optional
        What `number_modules` says of the model, where that is known already.
    """

    def __init__(
        self,
        model,
        options,
        fits=lambda stack, shape: True,
        *,
        batch_index=None,
        batch_size=None,
        find_kept=None,
        numbers=None,
    ):
        self.model, self.options, self.fits, self.batch_index = model, options, fits, batch_index
        self.batch_size, self.find_kept = batch_size, find_kept
        self.numbers = number_modules(model) if numbers is None else numbers
        self.members = Counter(path for path, _ in self.numbers.values())
        self.stacks = {}
        self.accounted = set()
        self.passed = 0
        self.interventions = {}  # those in force while attention ran, in order
        self.wants_projections = options.weighting == "value_norm"
        self.wants_lse = options.reduction != "full" and not self.wants_projections

    def take_call(self, call):
        """Take a call of scaled_dot_product_attention.

        Parameters
        ----------
        call : watch.AttentionCall
            The call.
        """
        self._note(call.name)
        inputs = call.query, call.key
        call = self._unpack_heads(call)
        positions = self._locate_call(call)
        call = lay_out_call(call, positions)
        n_query, n_key = call.query.shape[-2], call.key.shape[-2]
        stack, layer = self._place(call, (n_query, n_key), positions, inputs)
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
        scores = crop_scores(scores, stack.kept_tokens, call.name)
        n_query, n_key = stack.size
        if not call.is_causal and positions.first + 1 < n_key:
            stack.causal &= mask is not None and blocks_future(scores.mask, n_query, n_key, positions.first)
        stack.sources.add("sdpa")
        heads, reduction = self._open(stack, layer, len(scores.query))
        if reduction is not None:
            is_whole = len(heads) == len(scores.query)
            rows = self.options.choose_rows(n_query)
            if call.change is None and not self.wants_projections:
                reduction.take_scores(scores.select(heads=None if is_whole else heads, rows=rows))
            else:
                norms = self._measure_norms(stack, call)[:, stack.kept_tokens.keys] if self.wants_projections else None
                for start, block in self._iterate_blocks(stack, scores, call.change, rows):
                    scaled = block if norms is None else block * norms[:, None, : block.shape[2]]
                    reduction.take_weights(scaled if is_whole else scaled[list(heads)], start)
            self.passed = release_freed(call.query, self.passed)

    def _measure_norms(self, stack, call):
        """Return the norms of projected values, axes (n_heads, n_key); note what has none."""
        value = self._drop_batch(call.value, call.name)
        if call.projection is not None:
            return measure_value_norms(value, call.projection)
        stack.unscaled = stack.unscaled or call.name
        return value.new_zeros(call.query.shape[-3], value.shape[1])

    @staticmethod
    def _iterate_blocks(stack, scores, change, rows):
        step = stack.cell[0] * max(1, ROWS // stack.cell[0])
        if change is None:
            return iterate_weights(scores.select(rows=rows), rows=step)
        return change.iterate_weights(scores, rows, step=step)

    def take_weights(self, seen):
        """Take weights that an eager module handed out.

        Parameters
        ----------
        seen : watch.ModuleWeights
            The weights.
        """
        self._note(seen.name)
        module = self.model.get_submodule(seen.name)
        self._check_axes(seen, count_heads(module, self.model))
        positions = self._locate(seen.name, seen.given, seen.weights.shape, lambda: seen.weights > 0)
        seen = dataclasses.replace(seen, weights=lay_out_weights(seen.weights, positions, seen.name))
        n_query, n_key = seen.weights.shape[-2:]
        stack, layer = self._place(seen, (n_query, n_key), positions, None)
        if stack is None:
            return
        weights = crop_weights(self._drop_batch(seen.weights, seen.name), stack.kept_tokens, seen.name)
        n_query, n_key = stack.size
        stack.causal &= n_key == positions.first + n_query and not bool(weights.triu(positions.first + 1).any())
        stack.sources.add("eager")
        changed = {head for i in list_interventions() for at, head in i.heads if at == layer}
        own = [head for head in range(len(weights)) if head not in changed]
        sums = weights[own].sum(-1, dtype=torch.float32)  # 0 where a row is padding
        if bool(((sums > 0) & (sums < LEAST_SUM)).any()):
            if not any("sink" in name for name, _ in module.named_parameters()):
                raise CaptureError(
                    f"rows that module {seen.name!r} ({type(module).__name__}) hands out as attention weights sum to "
                    f"{float(sums[sums > 0].min()):.2g}, not to 1, and it has no learned sinks: they are no weights, "
                    "or those of some of the keys; load the model with attn_implementation='sdpa' if it has that"
                )
            stack.has_sinks = True
        softcap = getattr(seen.module, "attn_logit_softcapping", None)
        stack.softcap = stack.softcap if softcap is None else softcap
        heads, reduction = self._open(stack, layer, len(weights))
        if reduction is not None:
            rows = self.options.choose_rows(n_query)
            if self.wants_projections:
                stack.unscaled = stack.unscaled or seen.name
            weights = weights if len(heads) == len(weights) else weights[list(heads)]
            reduction.take_weights(weights[:, rows])

    def _note(self, name):
        self.accounted.add(name)
        self.interventions.update(dict.fromkeys(list_interventions()))

    def _describe_interventions(self):
        """Return what was done to this model; without one (`capture_attention_calls`), to any."""
        own = set(self.model.modules())
        is_any = isinstance(self.model, torch.nn.Identity)
        return [i.description for i in self.interventions if is_any or not own.isdisjoint(i.model.modules())]

    def _unpack_heads(self, call):
        """Undo what transformers from 5 on does for a single query token: heads that share keys become its rows."""
        n_query = call.query.shape[-2]
        groups = getattr(self.model.get_submodule(call.name), "num_key_value_groups", 1)
        is_token = call.query.ndim == 4 and call.given.own == len(call.query)
        if not is_token or n_query == 1 or n_query != groups or call.query.shape[1] != call.key.shape[1]:
            return call
        query, mask = call.query.flatten(1, 2).unsqueeze(2), call.mask
        if mask is not None and mask.shape[2] > 1:  # one that all heads share stayed as it was
            mask = mask.flatten(1, 2).unsqueeze(2)
        return dataclasses.replace(call, query=query, mask=mask, lse=None)

    def _locate_call(self, call):
        def see():
            n_query, n_key = call.query.shape[-2], call.key.shape[-2]
            visible = torch.ones(n_query, n_key, dtype=torch.bool, device=call.key.device)
            visible = visible.tril_() if call.is_causal else visible
            return visible if call.mask is None else visible & ~find_hidden(call.mask)

        batch = len(call.query) if call.query.ndim == 4 else 1
        return self._locate(call.name, call.given, (batch, *call.query.shape[-3:-1], call.key.shape[-2]), see)

    def _locate(self, name, given, shape, see):
        """Return the positions of a call of `shape`, ``(batch, n_heads, n_query, n_key)``."""
        batch, _, n_query, n_key = shape
        if get_kind(name) == "cross":
            return Positions(0, 0, n_key, False)
        visible = see() if given.past is None and n_query != n_key else None
        return find_positions(given, self.model.get_submodule(name), n_query, n_key, visible, batch)

    def _check_axes(self, seen, n_heads):
        """Refuse what an eager module hands out and what cannot be weights of its heads over its tokens."""
        batch, heads, n_query, n_key = seen.weights.shape
        given, what = seen.given, None
        if n_heads not in (None, heads):
            what = f"{heads} heads where it has {n_heads}"
        elif given.own is not None and given.own % (batch * n_query):  # ProphetNet has several streams of them
            what = f"{n_query} queries where it was given {given.own} tokens"
        elif n_key != n_query and given.past is None and get_kind(seen.name) != "cross":
            positions = self._locate(seen.name, given, seen.weights.shape, lambda: seen.weights > 0)
            if not positions.continues and not any(n in (n_key, batch * n_key) for n in given.others):
                what = f"{n_key} keys for {n_query} queries, where it was given no other sequence"
        if what is not None:
            raise CaptureError(
                f"module {seen.name!r} ({type(seen.module).__name__}) hands out weights of shape "
                f"{tuple(seen.weights.shape)}, {what}: a band, blocks or pooled tokens, which are no map from tokens "
                "to tokens; this kind of attention cannot be shown"
            )

    def _drop_batch(self, tensor, name, least=3):
        """Return one prompt's part of a tensor of axes (batch, n_heads, n, …)."""
        is_batch = self.batch_index is not None and self.batch_size in (None, len(tensor))
        if tensor.ndim == 4 and (len(tensor) == 1 or is_batch):
            return tensor[0 if len(tensor) == 1 else self.batch_index]
        if least <= tensor.ndim <= 3:
            return tensor
        raise CaptureError(
            f"module {name!r} computes attention on a tensor of shape {tuple(tensor.shape)}, where "
            "(1, n_heads, n_tokens, d) is expected: windows, frames or pictures of one input, or prompts of a "
            "batch, lie side by side there, which make no one map; capture_attention_calls(…, batch_index=…) shows one"
        )

    def _place(self, seen, shape, positions, inputs):
        """Return the stack and layer of a call or of eager weights.

        (None, None) for one that repeats another with the same inputs, or that is not over the wanted tokens.
        """
        name, ordinal = seen.name, seen.ordinal
        path, number = self.numbers.get(name, (name, 0))
        members = self.members[path]
        if path not in self.stacks:
            depth = getattr(getattr(self.model, "config", None), "num_hidden_layers", None) or 1
            self.stacks[path] = Stack(path, shape, max(members, depth if members == 1 else 1))
        stack = self.stacks[path]
        if not self.fits(stack, shape):
            stack.elsewhere[number + ordinal] = shape
            return None, None
        if not stack.calls:
            stack.shape, stack.first, stack.continues = shape, positions.first, positions.continues
            if self.find_kept is not None:
                stack.kept_tokens = self.find_kept(stack, shape)
        if (stack.shape, stack.first) != (shape, positions.first):
            raise CaptureError(
                f"module {name!r} attends over {shape[0]} × {shape[1]} tokens where others of its kind, or an earlier "
                f"pass, had {stack.shape[0]} × {stack.shape[1]}; capture passes one by one; layers that differ in "
                "their tokens cannot be shown together"
            )
        if ordinal > 0:
            layer, first = stack.inputs
            is_last = bool(layer == number and inputs and first)
            if is_last and all(_is_same(there(), given) for there, given in zip(first, inputs, strict=True)):
                return None, None  # the same weights on another half of the values (differential attention)
            if members > 1 or not seen.given.follows:
                raise CaptureError(
                    f"module {name!r} computes attention more than once, and not as one layer after another: the model "
                    "runs more than once (capture passes one by one), or its layers each run several times in a pass, "
                    "which cannot be shown"
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
        n_query, n_key = stack.size
        rows = options.choose_rows(n_query)
        shape = (len(heads), rows.stop - rows.start, n_key)
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
        for other in stacks:
            if other is not main and _are_layers_of_one(main, other):
                self._absorb(main, other)
        if main.elsewhere:
            layer, (n_query, n_key) = next(iter(main.elsewhere.items()))
            raise CaptureError(
                f"{len(main.elsewhere)} layers attend from {n_query} to {n_key} positions (first: layer {layer} of "
                f"{main.name!r}), which are not the tokens of the prompt; this architecture is not supported yet"
            )
        return main

    @staticmethod
    def _absorb(main: Stack, other: Stack) -> None:
        """Add layers whose attention goes by another name (one of them is wrapped, or of another class)."""
        if (main.shape, main.reduction, main.cell) != (other.shape, other.reduction, other.cell):
            raise CaptureError(
                f"layers {describe_numbers(sorted(other.calls))} attend in {other.name!r} from {other.shape[0]} to "
                f"{other.shape[1]} positions and layers {describe_numbers(sorted(main.calls))} in {main.name!r} from "
                f"{main.shape[0]} to {main.shape[1]}, which make no one map; capture_attention_calls shows each"
            )
        main.calls |= other.calls
        main.kept |= other.kept
        main.sources |= other.sources
        main.causal &= other.causal
        main.has_sinks |= other.has_sinks
        main.softcap = other.softcap if main.softcap is None else main.softcap
        main.unscaled = main.unscaled or other.unscaled

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
        if stack.unscaled is not None:
            raise CaptureError(
                f"the values of module {stack.unscaled!r} ({type(self.model.get_submodule(stack.unscaled)).__name__}) "
                "cannot be scaled: it does not run on SDPA, or no plain linear module makes its output from its heads' "
                "outputs alone (a gate, a norm or an adapter stands between or beside, or the projection is quantised "
                "or offloaded); load the model with attn_implementation='sdpa', whole and unquantised, merge adapters, "
                "or capture with weighting='attention'"
            )
        rows = self.options.choose_rows(stack.size[0])
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
            causal=stack.causal and stack.first + stack.size[0] == stack.size[1],
            first_query=stack.first + rows.start,
            queries_after=stack.size[0] - rows.stop,
            reduction=stack.reduction,
            cell=stack.cell,
            pooling=self.options.pooling if stack.reduction == "pooled" else None,
            has_sinks=stack.has_sinks,
            softcap=stack.softcap,
            source="+".join(sorted(stack.sources)),
            weighting=self.options.weighting,
            interventions=self._describe_interventions(),
            averaged_heads=kept[0][0] if is_mean and len({heads for heads, _ in kept}) == 1 else None,
            **facts,
        )

    def check_complete(self, seen: set[str], unclear: Collection[str] = ()) -> None:
        """Raise for modules that ran and whose weights nobody saw.

        Parameters
        ----------
        seen : set of str
            Names of the modules that ran.
        unclear : collection of str
            Names of those that multiply scores with values, but in a way that does not tell the weights.

        Raises
        ------
        CaptureError
            If an attention module is among them, or one between layers whose weights were seen that is of their kind
            or unclear; or if no attention was seen at all.
        """
        modules = dict(self.model.named_modules(remove_duplicate=False))
        blind = {name for name in seen if name and is_attention(self.model, modules[name])}
        blind |= {name for path in self.stacks for name in self._find_gaps(path, seen, unclear, modules)}
        blind = {
            name
            for name in blind
            if not any(
                other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.")
                for other in self.accounted
            )
        }
        if blind or not self.accounted:
            raise CaptureError(describe_blind(self.model, modules, sorted(blind)))

    def _find_gaps(
        self, path: str, seen: set[str], unclear: Collection[str], modules: dict[str, torch.nn.Module]
    ) -> list[str]:
        """Return the modules of a stack that ran between those that were seen and may be attention as they are."""
        numbers = {name: number for name, (stack, number) in self.numbers.items() if stack == path and name in seen}
        shown = {name: number for name, number in numbers.items() if name in self.accounted}
        kinds = {type(modules[name]) for name in shown}
        return [
            name
            for name, number in numbers.items()
            if shown and min(shown.values()) < number < max(shown.values())
            if not has_no_softmax(self.model, modules[name])
            if type(modules[name]) in kinds or any(f"{other}.".startswith(f"{name}.") for other in unclear)
        ]


def describe_blind(model: torch.nn.Module, modules: dict[str, torch.nn.Module], names: Sequence[str]) -> str:
    """Say whose weights could not be seen, and what would help.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    modules : dict of str to torch.nn.Module
        Its modules by name.
    names : sequence of str
        Those that nobody saw; empty where there was nothing to see.

    Returns
    -------
    str
        For a `CaptureError`.
    """
    subject = (
        f"the weights of {len(names)} attention modules could not be seen (first: {names[0]!r}, "
        f"{type(modules[names[0]]).__name__})"
        if names
        else f"{type(model).__name__} showed no attention weights"
    )
    ways = (
        "it neither calls torch.nn.functional.scaled_dot_product_attention, nor returns weights, nor multiplies a "
        "softmax over keys with values by functions of torch"
    )
    used = list_implementations(model)
    others = [name for name in used if name not in ("sdpa", "eager")]
    if others:
        advice = f"; the model runs {others[0]!r}: call model.set_attn_implementation('sdpa') first"
    elif "sdpa" in used:
        advice = "; model.set_attn_implementation('eager') may show them"
    else:
        advice = ""
    return f"{subject}: {ways}{advice}"


def _are_layers_of_one(stack: Stack, other: Stack) -> bool:
    """Tell whether two stacks take turns in the same list of layers."""
    (prefix, _, rest), (other_prefix, _, other_rest) = (one.name.partition("*") for one in (stack, other))
    is_list = prefix == other_prefix and "*" in stack.name and "*" not in rest + other_rest
    return is_list and bool(other.calls) and stack.calls.isdisjoint(other.calls)


def _is_same(earlier, tensor):
    """Tell whether a tensor lies where an earlier one lies, if that is still there."""
    return earlier is not None and earlier.data_ptr() == tensor.data_ptr()
