"""Gathering the weights of one forward pass by stack and layer, whichever way they were seen."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.weak import TensorWeakRef

from ..capture_options import CaptureOptions
from ..cells import choose_cell
from ..errors import CaptureError
from ..maps import AttentionMaps
from ..selections import choose_numbers
from .axes import divide_batch, drop_batch, explain_tensors
from .changes import HeadIntervention, list_interventions
from .fused import SdpaArguments
from .kernels import ROWS, Scores, blocks_future, find_hidden, iterate_weights, multiply_row
from .numbering import NumberedModules, get_kind
from .padding import Kept, crop_scores, crop_weights
from .positions import Positions, find_positions, lay_out_call, lay_out_weights
from .projections import measure_value_norms
from .reduction import AUTO, FULL_BUDGET, REDUCTIONS, FullReduction, release_freed
from .sequences import Given
from .stacks import Stack
from .targets import count_heads, is_tower
from .unseen import describe_unseen, find_unseen
from .watch import AttentionCall, ModuleWeights

# Numbers of the rows of a step up to which they wait: one computation for all layers is faster than one for each.
WAITING = 2**20
LEAST_SUM = 0.98  # of a row of eager weights in half precision, without sinks


class Extent(NamedTuple):
    """How far one pass of several is from all that is wanted."""

    shape: tuple[int, int]  # queries and keys that there will be at most
    find_height: Callable[[int], int]  # of a cell of this pass, in query tokens, from that of a cell of the whole


class Collector:
    """Takes watched calls and eager weights of a pass; gives `AttentionMaps` of each stack.

    `fits` tells for a stack and ``(n_query, n_key)`` whether attention over so many tokens can be labelled; left out,
    all can, and layers over other tokens than those before them make a stack of their own. `find_kept` tells for the
    same which tokens are no padding; left out, all are. Without `batch_index` there must be no more than one element in
    a batch, without `extent` this pass is the only one.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        options: CaptureOptions,
        fits: Callable[[Stack, tuple[int, int]], bool] | None = None,
        *,
        batch_index: int | None = None,
        batch_size: int | None = None,
        find_kept: Callable[[Stack, tuple[int, int]], Kept] | None = None,
        known: NumberedModules | None = None,
        extent: Extent | None = None,
        has_patches: bool = False,
    ) -> None:
        self.has_patches = has_patches
        self.extent = extent
        self.model, self.options, self.fits, self.batch_index = model, options, fits, batch_index
        self.batch_size, self.find_kept = batch_size, find_kept
        known = known or NumberedModules(model)
        self.numbers, self.modules, self.members, self.own = known.numbers, known.by_name, known.members, known.own
        self.refused: dict[str, str] = {}  # towers, and why they cannot be shown
        self.stacks: dict[str, Stack] = {}
        self.accounted: set[str] = set()
        self.single: dict[str, int] = {}  # modules whose one call was watched, and their heads
        self.passed = 0
        self.interventions: dict[HeadIntervention, None] = {}  # those in force while attention ran, in order
        self.wants_projections = options.weighting == "value_norm"
        self.wants_lse = options.reduction != "full" and not self.wants_projections

    def follow(self, first: "Collector") -> None:
        """Note what is seen where the collector of the first pass does."""
        self.accounted, self.interventions = first.accounted, first.interventions

    def take_call(self, call: AttentionCall) -> None:
        """Take a call of scaled_dot_product_attention."""
        with self._excuse_tower(call.name):
            inputs = call.query, call.key
            n_heads = count_heads(self.modules[call.name], self.model)
            call = self._unpack_heads(divide_batch(call, n_heads, self.batch_size))
            if call.ordinal:
                self.single.pop(call.name, None)
            else:
                self.single[call.name] = call.query.shape[-3]
            positions = self._locate_call(call)
            call = lay_out_call(call, positions)
            place = self._place(call, (call.query.shape[-2], call.key.shape[-2]), positions, inputs)
            if place is None:
                return
            stack, layer = place
            scores = Scores(
                self._drop_batch(call.query, call.name),
                self._drop_batch(call.key, call.name),
                None if call.mask is None else self._drop_batch(call.mask, call.name, least=2),
                call.is_causal,
                call.scale,
                lse=None if call.lse is None else self._drop_batch(call.lse[..., None], call.name)[..., 0],
            )
            scores = crop_scores(scores, stack.kept_tokens, call.name)
            if not call.is_causal and positions.first + 1 < stack.size[1]:
                stack.causal &= scores.mask is not None and blocks_future(scores.mask, *stack.size, positions.first)
            stack.sources.add("sdpa")
            opened = self._open(stack, layer, len(scores.query))
            if opened is not None:
                self._reduce(stack, call, scores, *opened)
                self.passed = release_freed(call.query, self.passed)

    def take_row(self, name: str, given: SdpaArguments, n_heads: int, first: int) -> bool:
        """Take the one call of a module of `n_heads` heads that runs on the token at position `first` alone.

        It is False, and nothing is taken, where it is not sure that this token attends to all tokens up to it.
        """
        own, other = given.query.shape, given.key.shape
        is_plain = given.attn_mask is None and not given.is_causal
        is_one = len(own) == len(other) == 4 and own[0] == other[0] == 1 and other[2] == first + 1
        # Heads that share keys may be packed as queries.
        if not (is_plain and is_one and own[1] * own[2] == n_heads and n_heads % other[1] == 0):
            return False
        self._note(name)
        path, layer = self.numbers[name]
        if path not in self.stacks:
            self.stacks[path] = Stack(path, (1, first + 1), self.members[path], first, True, sources={"sdpa"})
        stack = self.stacks[path]
        stack.calls.add(layer)
        if self._wants(layer):
            waiting = stack.waiting.setdefault(n_heads, {})
            waiting[layer] = multiply_row(given.query, given.key, given.scale)
            if len(waiting) * n_heads * other[2] > WAITING:
                self._finish_rows(stack)
        return True

    def _finish_rows(self, stack: Stack) -> None:
        """Keep what is wanted of the rows that wait."""
        for n_heads, waiting in stack.waiting.items():
            rows = torch.stack([*waiting.values()], 1)
            heads, reduction = self._start(stack, (n_heads, *rows.shape[1:]), next(iter(waiting)), height=1)
            weights = rows.softmax(-1)
            reduction.take_weights(weights if len(heads) == n_heads else weights[list(heads)])
            stack.kept |= {layer: (heads, reduction.array[:, i : i + 1]) for i, layer in enumerate(waiting)}
        stack.waiting.clear()

    def _reduce(
        self, stack: Stack, call: AttentionCall, scores: Scores, heads: tuple[int, ...], reduction: FullReduction
    ) -> None:
        is_whole = len(heads) == len(scores.query)
        rows = self.options.choose_rows(stack.size[0])
        if call.change is None and not self.wants_projections:
            reduction.take_scores(scores.select(heads=None if is_whole else heads, rows=rows))
            return
        norms = self._measure_norms(stack, call)[:, stack.kept_tokens.keys] if self.wants_projections else None
        step = stack.cell[0] * max(1, ROWS // stack.cell[0])
        if call.change is None:
            blocks = iterate_weights(scores.select(rows=rows), rows=step)
        else:
            blocks = call.change.iterate_weights(scores, rows, step=step)
        for start, block in blocks:
            scaled = block if norms is None else block * norms[:, None, : block.shape[2]]
            reduction.take_weights(scaled if is_whole else scaled[list(heads)], start)

    def _measure_norms(self, stack: Stack, call: AttentionCall) -> torch.Tensor:
        """Return the norms of projected values, axes (n_heads, n_key); note what has none."""
        value = self._drop_batch(call.value, call.name)
        if call.projection is not None:
            return measure_value_norms(value, call.projection)
        stack.unscaled = stack.unscaled or call.name
        return value.new_zeros(call.query.shape[-3], value.shape[1])

    def take_weights(self, seen: ModuleWeights) -> None:
        """Take weights that an eager module handed out."""
        with self._excuse_tower(seen.name):
            self._check_axes(seen, count_heads(self.modules[seen.name], self.model))
            positions = self._locate(seen.name, seen.given, seen.weights.shape, lambda: seen.weights > 0)
            weights = lay_out_weights(seen.weights, positions, seen.name)
            place = self._place(seen, (weights.shape[-2], weights.shape[-1]), positions, None)
            if place is None:
                return
            stack, layer = place
            weights = crop_weights(self._drop_batch(weights, seen.name), stack.kept_tokens, seen.name)
            n_query, n_key = stack.size
            stack.causal &= n_key == positions.first + n_query and not bool(weights.triu(positions.first + 1).any())
            stack.sources.add("eager")
            self._check_sums(stack, layer, weights, seen.name)
            softcap = getattr(seen.module, "attn_logit_softcapping", None)
            stack.softcap = stack.softcap if softcap is None else softcap
            opened = self._open(stack, layer, len(weights))
            if opened is not None:
                heads, reduction = opened
                if self.wants_projections:
                    stack.unscaled = stack.unscaled or seen.name
                weights = weights if len(heads) == len(weights) else weights[list(heads)]
                reduction.take_weights(weights[:, self.options.choose_rows(n_query)])

    def _check_sums(self, stack: Stack, layer: int, weights: torch.Tensor, name: str) -> None:
        """Tell weights with sinks by their sums, and refuse what is neither weights of all keys nor those."""
        changed = {head for i in list_interventions() for at, head in i.heads if at == layer}
        own = [head for head in range(len(weights)) if head not in changed]
        sums = weights[own].sum(-1, dtype=torch.float32)  # 0 where a row is padding
        if bool(((sums > 0) & (sums < LEAST_SUM)).any()):
            module = self.modules[name]
            if not any("sink" in name for name, _ in module.named_parameters()):
                raise CaptureError(
                    f"rows that module {name!r} ({type(module).__name__}) hands out as attention weights sum to "
                    f"{float(sums[sums > 0].min()):.2g}, not to 1, and it has no learned sinks: they are no weights, "
                    "or those of some of the keys; load the model with attn_implementation='sdpa' if it has that"
                )
            stack.has_sinks = True

    @contextlib.contextmanager
    def _excuse_tower(self, name: str) -> Iterator[None]:
        """Note the module that is seen; keep what refuses the attention of a tower, as `find_main` needs another."""
        self._note(name)
        try:
            with torch.no_grad(), explain_tensors(name):  # a program may compute with gradients
                yield
        except CaptureError as error:
            if self._is_own(name):
                raise
            self.refused.setdefault(self.numbers.get(name, (name, 0))[0], str(error))

    def _is_own(self, name: str) -> bool:
        return self.modules[name] in self.own

    def _note(self, name: str) -> None:
        self.accounted.add(name)
        self.interventions.update(dict.fromkeys(list_interventions()))

    def _describe_interventions(self) -> list[str]:
        """Return what was done to this model; without one (`capture_attention_calls`), to any."""
        if not self.interventions:  # to go over a model takes as long as a few layers of a short prompt
            return []
        own = set(self.model.modules())
        is_any = isinstance(self.model, torch.nn.Identity)
        return [i.description for i in self.interventions if is_any or not own.isdisjoint(i.model.modules())]

    def _unpack_heads(self, call: AttentionCall) -> AttentionCall:
        """Undo what transformers from 5 on does for a single query token: heads that share keys become its rows."""
        n_query = call.query.shape[-2]
        groups = getattr(self.modules[call.name], "num_key_value_groups", 1)
        is_token = call.query.ndim == 4 and call.given.own == len(call.query)
        if not is_token or n_query == 1 or n_query != groups or call.query.shape[1] != call.key.shape[1]:
            return call
        query, mask = call.query.flatten(1, 2).unsqueeze(2), call.mask
        if mask is not None and mask.shape[2] > 1:  # one that all heads share stayed as it was
            mask = mask.flatten(1, 2).unsqueeze(2)
        return dataclasses.replace(call, query=query, mask=mask, lse=None)

    def _locate_call(self, call: AttentionCall) -> Positions:
        def see() -> torch.Tensor:
            n_query, n_key = call.query.shape[-2], call.key.shape[-2]
            visible = torch.ones(n_query, n_key, dtype=torch.bool, device=call.key.device)
            visible = visible.tril_() if call.is_causal else visible
            return visible if call.mask is None else visible & ~find_hidden(call.mask)

        batch = len(call.query) if call.query.ndim == 4 else 1
        return self._locate(call.name, call.given, (batch, *call.query.shape[-3:-1], call.key.shape[-2]), see)

    def _locate(self, name: str, given: Given, shape: Sequence[int], see: Callable[[], torch.Tensor]) -> Positions:
        """Return the positions of a call of `shape`, ``(batch, n_heads, n_query, n_key)``."""
        batch, _, n_query, n_key = shape
        if get_kind(name) == "cross":
            return Positions(n_key)
        visible = see() if given.past is None and n_query != n_key else None
        return find_positions(given, self.modules[name], n_query, n_key, visible, batch)

    def _check_axes(self, seen: ModuleWeights, n_heads: int | None) -> None:
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

    def _drop_batch(self, tensor: torch.Tensor, name: str, least: int = 3) -> torch.Tensor:
        """Return one prompt's part of a tensor of axes (batch, n_heads, n, …)."""
        return drop_batch(tensor, name, self.batch_index, self.batch_size, least)

    def _place(
        self,
        seen: AttentionCall | ModuleWeights,
        shape: tuple[int, int],
        positions: Positions,
        inputs: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[Stack, int] | None:
        """Return the stack and layer of a call or of eager weights.

        None for one that repeats another with the same inputs, or that is not over the wanted tokens.
        """
        name, ordinal = seen.name, seen.ordinal
        path, number = self.numbers.get(name, (name, 0))
        members = self.members[path]
        if path not in self.stacks:
            depth = getattr(getattr(self.model, "config", None), "num_hidden_layers", None) or 1
            self.stacks[path] = Stack(path, shape, max(members, depth if members == 1 else 1))
        stack = self.stacks[path]
        if self.fits is None and stack.calls and (stack.shape, stack.first) != (shape, positions.first):
            path = f"{path}, {shape[0]} × {shape[1]}"
            stack = self.stacks.setdefault(path, Stack(stack.name, shape, stack.n_layers))
        elif self.fits is not None and not self.fits(stack, shape):
            stack.elsewhere[number + ordinal] = shape
            return None
        if not stack.calls:
            stack.shape, stack.first, stack.continues = shape, positions.first, positions.continues
            if self.find_kept is not None:
                stack.kept_tokens = self.find_kept(stack, shape)
        if (stack.shape, stack.first) != (shape, positions.first):
            raise CaptureError(
                f"module {name!r} attends over {shape[0]} × {shape[1]} tokens where others of its kind, or an earlier "
                f"pass, had {stack.shape[0]} × {stack.shape[1]}; capture_attention_calls shows layers that differ in "
                "their tokens, and with when='steps' each pass"
            )
        if ordinal > 0:
            if _is_repeated(stack, number, inputs):
                return None  # the same weights on another half of the values (differential attention)
            if members > 1 or not seen.given.follows:
                raise CaptureError(
                    f"module {name!r} computes attention more than once, and not as one layer after another: the model "
                    "runs more than once (when='steps' keeps each pass), or its layers each run several times in one, "
                    "which cannot be shown"
                )
            number += ordinal  # one module that serves all layers (ALBERT)
        stack.calls.add(number)
        # Held, they would lie in the way of what the layer does next, and the heap would grow around them.
        stack.last = number, inputs and tuple(map(TensorWeakRef, inputs))
        return stack, number

    def _wants(self, layer: int) -> bool:
        return self.options.layers is None or layer in set(self.options.layers)

    def _open(self, stack: Stack, layer: int, n_heads: int) -> tuple[tuple[int, ...], FullReduction] | None:
        """Return head numbers and the reduction of a layer; None if it is not wanted."""
        if not self._wants(layer):
            return None
        n_query, n_key = stack.size
        rows = self.options.choose_rows(n_query)
        heads, reduction = self._start(stack, (n_heads, rows.stop - rows.start, n_key), layer)
        stack.kept[layer] = heads, reduction.array
        return heads, reduction

    def _start(
        self, stack: Stack, shape: tuple[int, int, int], layer: int, *, height: int | None = None
    ) -> tuple[tuple[int, ...], FullReduction]:
        """Return head numbers and a reduction of ``(n_heads, rows, n_key)``, in cells of the stack or of a height."""
        options = self.options
        heads = choose_numbers(options.heads, range(shape[0]), "head", f" in layer {layer}")
        shape = len(heads), *shape[1:]
        if stack.reduction is None:
            whole: tuple[int, int] = shape[1:] if self.extent is None else self.extent.shape
            n_layers = stack.n_layers if options.layers is None else len(set(options.layers))
            size = n_layers * np.prod((shape[0], *whole), dtype=float) * np.dtype(options.dtype).itemsize
            means = size / shape[0] if self.has_patches else np.inf
            automatic = "full" if size <= FULL_BUDGET else "head_mean" if means <= FULL_BUDGET else "pooled"
            stack.reduction = automatic if options.reduction == AUTO else options.reduction
            if stack.reduction == "pooled":
                stack.cell = choose_cell(*whole, options.max_cells)
            # Weights that fit the grid as they are need no pooling.
            if stack.reduction == "pooled" and stack.cell == (1, 1):
                stack.reduction = "full"
        if height is None:
            height = stack.cell[0] if self.extent is None else self.extent.find_height(stack.cell[0])
        cell = height, stack.cell[1]
        return heads, REDUCTIONS[stack.reduction](shape, np.dtype(options.dtype), cell, options.pooling)

    def find_main(self, kind: str = "self") -> Stack:
        """Return the deepest stack of a kind, complete: that of a language model before those of pictures and sound.

        All kinds but cross attention and the two sides of an encoder-decoder are ``"self"``. It is a `CaptureError` if
        there is none, or if some of its layers attend over other tokens (compressed or pooled ones), which must not
        just be missing.
        """
        for stack in self.stacks.values():
            self._finish_rows(stack)
        own = {self.numbers.get(name, (name, 0))[0] for name in self.accounted if self._is_own(name)}
        stacks = [stack for path, stack in self.stacks.items() if path in own and kind in ("self", get_kind(path))]
        stacks = [stack for stack in stacks if kind == "cross" or get_kind(stack.name) != "cross"]
        # Where a model compares pictures with texts (CLIP), the tokens of a prompt are the texts'.
        stacks = [stack for stack in stacks if not is_tower(stack.name)] or stacks
        main = max(stacks, key=lambda stack: (stack.depth, len(stack.calls)), default=None)
        if main is None:
            raise CaptureError(f"no {kind} attention was seen; there is {', '.join(self.stacks) or 'none at all'}")
        for other in stacks:
            if other is not main and main.takes_turns_with(other):
                main.absorb(other)
            elif other is not main and main.is_equal_to(other):
                raise CaptureError(
                    f"{main.name!r} and {other.name!r} both attend over the prompt, in as many layers; pass the model "
                    "that is wanted, or take both from capture_attention_calls"
                )
        if main.elsewhere:
            layer, (n_query, n_key) = next(iter(main.elsewhere.items()))
            raise CaptureError(
                f"{len(main.elsewhere)} layers attend from {n_query} to {n_key} positions (first: layer {layer} of "
                f"{main.name!r}), which are not the tokens of the prompt: the model adds tokens of its own (virtual "
                "ones of an adapter, say), or merges or divides those of the prompt; capture_attention_calls shows each"
            )
        return main

    def make_maps(
        self, stack: Stack, tokens_query: Sequence[str], tokens_key: Sequence[str], **facts: Any
    ) -> AttentionMaps:
        """Return what was kept of a stack, with labels of all its tokens and more facts."""
        if stack.unscaled is not None:
            raise CaptureError(
                f"the values of module {stack.unscaled!r} ({type(self.modules[stack.unscaled]).__name__}) "
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
            [array for _, array in kept],
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
            not_shown=[f"{path}: {reason}" for path, reason in self.refused.items()],
            averaged_heads=kept[0][0] if is_mean and len({heads for heads, _ in kept}) == 1 else None,
            **facts,
        )

    def check_complete(self, seen: set[str], unclear: Collection[str] = ()) -> None:
        """Raise a `CaptureError` for modules that ran (`seen`) and whose weights nobody saw, or without any attention.

        Those that are `unclear` multiply scores with values, but in a way that does not tell the weights.
        """
        unseen = find_unseen(self.model, self.numbers, self.accounted, seen, unclear)
        for name in (name for name in unseen if not self._is_own(name)):
            self.refused.setdefault(self.numbers[name][0], describe_unseen(self.model, [name], unclear))
        unseen = [name for name in unseen if self._is_own(name)]
        if unseen or not self.accounted:
            raise CaptureError(describe_unseen(self.model, unseen, unclear))


def _is_repeated(stack: Stack, number: int, inputs: tuple[torch.Tensor, ...] | None) -> bool:
    """Tell whether the last call of a stack was of the same layer and on tensors that lie where these lie."""
    last, earlier = stack.last or (number, None)
    if last != number or inputs is None or earlier is None:
        return False
    there = [reference() for reference in earlier]
    return all(old is not None and old.data_ptr() == new.data_ptr() for old, new in zip(there, inputs, strict=True))
