"""Attention of each forward pass while a model generates: rows by absolute position, as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..attentions import Array
from ..capture_options import CaptureOptions
from ..cells import measure_cells
from ..errors import CaptureError, OptionError
from ..inputs.signature import has_decoder
from .collector import Collector, Extent
from .fused import SdpaArguments
from .numbering import NumberedModules, get_kind, is_called_attention
from .reduction import RowMemory, allocate_zeros
from .stacks import Stack


@dataclasses.dataclass(frozen=True)
class AttentionStep:
    """What is known of a token as soon as it is chosen.

    Parameters
    ----------
    step
        Tokens that were generated before it.
    token_id, text
        The token.
    position
        Of the query whose row chose it, among all tokens.
    weights
        Per layer its row: axes ``(n_heads, n_key)``, cells of keys where these are pooled, one head of a mean.
    """

    step: int
    token_id: int
    text: str
    position: int
    weights: Mapping[int, Array]


@dataclasses.dataclass
class _Pass:
    """Rows of one pass: of each row of its batch, per layer an array."""

    first: int
    n_rows: int
    height: int  # queries of a row of the arrays
    ids: torch.Tensor | None
    arrays: list[dict[int, Array]]

    @property
    def stop(self) -> int:
        return self.first + self.n_rows


class StepRecorder:
    """Keeps the rows of the passes that count; a pass over positions that were held already goes before them.

    So what was rejected (candidates of an assistant) is dropped when the model goes on from where it was right. There
    are `n_prompt` tokens of the prompt on the side that generates, and `most` at the end.
    """

    def __init__(self, model: torch.nn.Module, options: CaptureOptions, *, kind: str, n_prompt: int, most: int) -> None:
        self.model, self.options, self.kind, self.n_prompt, self.most = model, options, kind, n_prompt, most
        if options.queries is not None and options.reduction == "pooled":
            raise OptionError("queries cannot be chosen before they are pooled as they come; leave out queries")
        kept = "full" if options.queries is not None and options.reduction == "auto" else options.reduction
        self._plain = dataclasses.replace(options, queries=None, reduction=kept)
        prefix = "decoder_" if has_decoder(model) else ""
        self._names = (f"{prefix}input_ids", f"{prefix}inputs_embeds")
        self._known = NumberedModules(model)
        self._collectors: list[Collector] = []
        self._begun = _Pass(0, 0, 1, None, [])
        self._memory = RowMemory()
        self.passes: list[_Pass] = []
        self.first: Collector | None = None  # of the first pass, which knows what all have shown
        self.stack: Stack | None = None
        self.single: dict[str, int] = {}  # modules that are all that attend, once a pass, and their heads
        self.heads: dict[int, tuple[int, ...]] = {}

    def begin(self, arguments: Mapping[str, Any], past: int | None) -> Sequence[Collector]:
        """Return the collectors of a pass, one a row of its batch."""
        fed = next((arguments[name] for name in self._names if isinstance(arguments.get(name), torch.Tensor)), None)
        self._collectors = []
        if fed is None:  # an encoder, whose attention is seen and not wanted
            return [self._note(Collector(self.model, self._plain, lambda stack, shape: False, known=self._known))]
        batch, n_fed = fed.shape[:2]
        first = past or 0
        held = self.passes[-1].stop if self.passes and past is None else first
        if held >= first + n_fed:
            raise CaptureError(
                f"a pass without a cache has {n_fed} tokens where an earlier one had {held}: the model went back, and "
                "which rows count is not known; generate with a cache"
            )
        options = self._plain if held == first else dataclasses.replace(self._plain, queries=slice(held, None))
        start = self.passes[0].first if self.passes else first

        def find_height(whole: int) -> int:
            # Rows of the prompt stay. Others may be dropped, so they are pooled at the end.
            stays = first + n_fed <= self.n_prompt and held == first and (first - start) % whole == 0
            self._begun.height = whole if stays else 1
            return self._begun.height

        def fits(stack: Stack, shape: tuple[int, int]) -> bool:
            if self.kind not in ("self", get_kind(stack.name)):
                return False
            return shape[0] == n_fed and (self.kind == "cross" or shape[1] == first + n_fed)

        rows = range(1 if first + n_fed <= self.n_prompt else batch)  # beams of a prompt are alike
        ids = fed[:, held - first :].clone() if fed.ndim == 2 else None
        self._begun = _Pass(held, first + n_fed - held, 1, ids, [])
        self._collectors = [
            Collector(
                self.model,
                options,
                fits,
                batch_index=None if batch == 1 else row,
                batch_size=batch,
                known=self._known,
                extent=Extent((self.most, self.most), find_height),
            )
            for row in rows
        ]
        self._note(self._collectors[0])
        return self._collectors

    def take_row(self, name: str, given: SdpaArguments) -> bool:
        """Take the first call of a module in a step at once, where it is sure what it is about; tell whether it is."""
        is_step = self._begun.n_rows == 1 and len(self._collectors) == 1 and name in self.single
        return is_step and self._collectors[0].take_row(name, given, self.single[name], self._begun.first)

    def _note(self, collector: Collector) -> Collector:
        """Have a collector note what it sees where all have."""
        if self.first is None:
            self.first = collector
        else:
            collector.follow(self.first)
        return collector

    def list_collectors(self) -> Sequence[Collector]:
        """Return the one that knows what all passes have shown."""
        return [] if self.first is None else [self.first]

    def end(self) -> None:
        """Take the rows of a pass, where it counts."""
        if not self._collectors:
            return
        stacks = [collector.find_main(self.kind) for collector in self._collectors]
        stack, begun = stacks[0], self._begun
        begun.arrays = [
            {layer: self._memory.copy(self._sum_cells(one, array)) for layer, (_, array) in one.kept.items()}
            for one in stacks
        ]
        if self.stack is not None and stack.calls < self.stack.calls:
            return  # a draft made by the first layers
        if self.stack is None or self.stack.calls < stack.calls:
            self.passes, self.stack = [], stack
            self.heads = {layer: heads for layer, (heads, _) in stack.kept.items()}
            self.single = self._find_single(self._collectors[0], stack)
            stack.kept = {}
        elif self.stack.calls != stack.calls or self.stack.name != stack.name:
            raise CaptureError(f"passes attend in other layers: {sorted(self.stack.calls ^ stack.calls)}")
        else:
            self.stack.sources |= stack.sources
            self.stack.causal &= stack.causal
            self.stack.has_sinks |= stack.has_sinks
            self.stack.unscaled = self.stack.unscaled or stack.unscaled
        self._drop_rows(begun.first)
        self.passes.append(begun)

    def _find_single(self, collector: Collector, stack: Stack) -> dict[str, int]:
        """Return the modules of a stack, where each made one call that was watched and no other module may attend."""
        single = {name: n for name, n in collector.single.items() if self._known.numbers[name][0] == stack.name}
        others = [
            name
            for name, module in self._known.by_name.items()
            if module in self._known.own
            and is_called_attention(self.model, module, [name])
            and not any(f"{one}.".startswith(f"{name}.") or name.startswith(f"{one}.") for one in single)
        ]
        has_parts = any(one.startswith(f"{other}.") for one in single for other in single)
        is_known = self.kind != "cross" and self.options.weighting == "attention"
        return single if is_known and not others and not has_parts else {}

    def _sum_cells(self, stack: Stack, array: Array) -> Array:
        """Return sums in the place of means, whose cells are not complete yet."""
        if stack.reduction != "pooled" or self.options.pooling == "max":
            return array
        begun = self._begun
        sizes = np.outer(measure_cells(begun.n_rows, begun.height), measure_cells(stack.shape[1], stack.cell[1]))
        return np.asarray(array * sizes.astype(array.dtype))

    def _drop_rows(self, first: int) -> None:
        """Drop the rows from a position on, which the model has thrown away."""
        while self.passes and self.passes[-1].first >= first:
            self.passes.pop()
        last = self.passes[-1] if self.passes else None
        if last is not None and last.stop < first:
            raise CaptureError(f"a pass begins at token {first}, where the one before ended at {last.stop}")
        if last is not None and last.stop > first:
            if last.height > 1:
                raise CaptureError("the model went back into the prompt, which is pooled; capture without pooling")
            last.n_rows = first - last.first
            last.arrays = [{layer: a[:, : last.n_rows] for layer, a in one.items()} for one in last.arrays]
            last.ids = None if last.ids is None else last.ids[:, : last.n_rows]

    def get_row(self, position: int) -> dict[int, Array]:
        """Return per layer the row of a position, of the first row of the batch."""
        found = next(one for one in reversed(self.passes) if one.first <= position)
        place = (position - found.first) // found.height
        return {layer: array[:, place] for layer, array in found.arrays[0].items()}

    def join(self, ids: torch.Tensor | None, n_rows: int, beams: Sequence[int] | None) -> Stack:
        """Return all rows up to position `n_rows` as one stack: the last token was never a query.

        All tokens `ids`, axis ``(n,)``, prove that these rows are theirs; of embeddings there are none. `beams` are,
        for each token that was generated, the row of the batch that it was chosen from; left out, the first.
        """
        if self.stack is None or self.first is None or not self.passes:
            raise CaptureError("the model ran no pass while it generated that takes tokens by name")
        self._drop_rows(n_rows)
        start = self.passes[0].first
        if self.passes[-1].stop != n_rows:
            raise CaptureError(f"the rows end at token {self.passes[-1].stop}, where {n_rows} tokens went in")
        rows = [self._choose_row(one, ids, beams) for one in self.passes]
        count, stack = n_rows - start, self.stack
        n_key = stack.shape[1] if self.kind == "cross" else n_rows
        kept = self.options.choose_rows(count)
        self.first.options = dataclasses.replace(self._plain, queries=self.options.queries)
        cells = [-(-n // size) for n, size in zip((kept.stop - kept.start, n_key), stack.cell, strict=True)]
        for layer, heads in self.heads.items():
            part = self.passes[0].arrays[rows[0]][layer]
            stack.kept[layer] = heads, allocate_zeros((len(part), *cells), part.dtype)
        for row in rows:  # what is written needs memory, and what it is written from lets go of as much
            one = self.passes.pop(0)
            self._write_rows(one, one.arrays[row], start + kept.start)
        if stack.reduction == "pooled" and self.options.pooling == "mean":
            sizes = np.outer(*map(measure_cells, (kept.stop - kept.start, n_key), stack.cell))
            for _, array in stack.kept.values():
                array /= sizes.astype(array.dtype)
        return dataclasses.replace(
            stack, shape=(count, n_key), first=0 if self.kind == "cross" else start, continues=start > 0
        )

    def _choose_row(self, one: _Pass, ids: torch.Tensor | None, beams: Sequence[int] | None) -> int:
        """Return the row of a pass's batch that became the text, proven by its tokens."""
        place = one.stop - self.n_prompt
        row = beams[place] if beams is not None and place >= 0 else 0
        row = min(row, len(one.arrays) - 1)
        if ids is not None and one.ids is not None:
            own = one.ids[min(row, len(one.ids) - 1)]
            if not torch.equal(own.cpu(), ids[one.first : one.stop].cpu()):
                raise CaptureError(
                    f"tokens {one.first} to {one.stop - 1} that the model ran on are not those of the text: its way of "
                    "decoding changes rows of the batch or tokens as it goes, and which rows are those of the text "
                    "cannot be told; leave out when='steps' for one pass over the text"
                )
        return row

    def _write_rows(self, one: _Pass, arrays: Mapping[int, Array], start: int) -> None:
        """Write the rows of a pass to where they belong in what is kept of all, whose first row is `start`."""
        stack: Any = self.stack
        height = stack.cell[0]
        combine = np.maximum if self.options.pooling == "max" else np.add
        places = (np.arange(one.first, one.stop, one.height) - start) // height
        for layer, (_, joined) in stack.kept.items():
            chosen = (places >= 0) & (places < joined.shape[1])
            part = arrays[layer][:, chosen, : joined.shape[2]]
            if height == 1:
                joined[:, places[chosen], : part.shape[2]] = part
                continue
            for place, row in zip(places[chosen], part.swapaxes(0, 1), strict=True):
                cell = joined[:, place, : part.shape[2]]
                combine(cell, row, out=cell)


class StepReporter:
    """Calls a function for each token as soon as it is chosen; stands among the stopping criteria of `generate`.

    `generate` does not list `n_before` tokens of the prompt (embeddings); `write` gives the label of a token.
    """

    def __init__(
        self, recorder: StepRecorder, on_step: Callable[[Any], object], n_before: int, write: Callable[[int], str]
    ) -> None:
        self.recorder, self.on_step, self.n_before, self.write = recorder, on_step, n_before, write
        self.n_told = recorder.n_prompt
        self.last: _Pass | None = None

    def __call__(self, ids: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        """Tell of the tokens that are new, and stop nothing."""
        stops = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        last = self.recorder.passes[-1] if self.recorder.passes else None
        if last is self.last:  # transformers 4 asks of an assistant's candidates too, before the model has seen them
            return stops
        self.last = last
        for place in range(self.n_told, self.n_before + ids.shape[1]):
            token = int(ids[0, place - self.n_before])
            step = place - self.recorder.n_prompt
            self.on_step(AttentionStep(step, token, self.write(token), place - 1, self.recorder.get_row(place - 1)))
        self.n_told = self.n_before + ids.shape[1]
        return stops
