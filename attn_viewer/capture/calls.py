"""Capturing the attention of any PyTorch program, also one that has nothing to do with transformers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..capture_options import CaptureOptions, StepOptions
from ..declarations import takes_options
from ..errors import CaptureError, OptionError
from ..maps import AttentionMaps
from ..spans import Span
from .collector import Collector
from .fused import SdpaArguments
from .guard import Switch
from .numbering import NumberedModules, get_kind
from .prefill import get_model_id, watch_attention
from .stacks import Stack
from .targets import is_tower

_Side = tuple[str, int]  # a sequence that tokens are of: its name and its number of tokens


@takes_options(StepOptions)
def capture_attention_calls(
    run: Callable[[], object],
    *,
    model: torch.nn.Module | None = None,
    tokens: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    model_id: str | None = None,
    batch_index: int | None = None,
    grid: tuple[int, int] | None = None,
    options: StepOptions,
) -> Any:
    """Capture every scaled_dot_product_attention call that a program makes.

    Parameters
    ----------
    run
        Runs the program; takes nothing. Its result is thrown away.
    model
        The module whose parts name the calls; left out, all calls go by one empty name, in order. It is also watched
        for weights that its attention modules hand out.
    tokens
        Labels of the tokens, for attention over as many; other attention is labelled by number. Where two sequences
        have as many tokens, labels by side: ``{"encoder": …, "decoder": …}``, or by the name of a tower's modules.
    model_id
        Name for titles and files; left out, found as in `capture_attention`.
    batch_index
        Which element of a batch to take; left out, there must be no more than one.
    grid : tuple of int, optional
        Rows and columns of the picture (latents) that the model works on. Tokens that are as many as its patches, or
        as those of it halved, are its patches, which `overlay_attention` lays over a picture.
    **options
        What to keep, as `StepOptions` declares it.

    Returns
    -------
    dict of str to AttentionMaps, or to list of AttentionMaps for ``when="steps"``
        One for each kind of attention, by the name of its modules with ``*`` for indices, in the order of the calls;
        where layers differ in their tokens, one for each size. With ``when="steps"``, one a pass of the model (a step
        of denoising), whose number is the fact `step`.

    Raises
    ------
    CaptureError
        If no attention was seen, or some module's was not.
    OptionError
        If `run` cannot be called, `tokens` may be those of either of two sequences, or there are no passes to tell
        apart without a model.

    Notes
    -----
    `torch.nn.MultiheadAttention` is computed a second time for the weights of each head. Its fused inference path,
    which shows nothing, is off while the program runs; results may then differ from it by rounding.
    """
    is_stepped = options.when == "steps"
    if is_stepped and model is None:
        raise OptionError("when='steps' tells passes by the model that runs; pass model=")
    model = torch.nn.Identity() if model is None else model
    known = NumberedModules(model)
    passes = EveryPass(options, lambda: Collector(model, options, batch_index=batch_index, known=known))
    if not is_stepped:
        passes.begin({}, None)
    with watch_attention(model, *passes.collectors, passes=passes if is_stepped else None) as loan:
        _SLOW_PATH.turn(loan)
        run()
    name = model_id or get_model_id(model)
    if not is_stepped:
        return _make_maps(passes.collectors[0], tokens, grid, model_id=name)
    found: dict[str, list[AttentionMaps]] = {}
    for step, collector in enumerate(one for one in passes.collectors if one.stacks):
        for path, maps in _make_maps(collector, tokens, grid, model_id=name, step=step).items():
            found.setdefault(path, []).append(maps)
    if not found:
        raise CaptureError(f"{type(model).__name__} ran no pass in which attention was seen")
    return found


class EveryPass:
    """Keeps each pass of a model apart; `make` gives the collector of one."""

    single: tuple[str, ...] = ()

    def __init__(self, options: CaptureOptions, make: Callable[[], Collector]) -> None:
        self.options, self.make = options, make
        self.collectors: list[Collector] = []

    def begin(self, arguments: Mapping[str, Any], past: int | None) -> Sequence[Collector]:
        """Return the collector of a pass."""
        self.collectors.append(self.make())
        self.collectors[-1].follow(self.collectors[0])
        return self.collectors[-1:]

    def take_row(self, name: str, given: SdpaArguments) -> bool:
        """Take nothing: passes need not be steps of one text."""
        return False

    def end(self) -> None:
        """Do nothing: its collector keeps what it has."""

    def list_collectors(self) -> Sequence[Collector]:
        """Return the first, which notes what all have seen."""
        return self.collectors[:1]


def _make_maps(
    collector: Collector,
    tokens: Sequence[str] | Mapping[str, Sequence[str]] | None,
    grid: tuple[int, int] | None,
    **facts: Any,
) -> dict[str, AttentionMaps]:
    """Return the maps of all stacks of a pass."""
    # A decoder alone is named so, but is no side of two.
    has_sides = getattr(getattr(collector.model, "config", None), "is_encoder_decoder", True)
    kinds, sides = {}, {}
    # Layers of one name look at the same sequence, whatever their own tokens are: at words, if one of them does.
    others = {(s.name, s.shape[1]) for s in collector.stacks.values() if not s.continues and s.shape[0] != s.shape[1]}
    for path, stack in collector.stacks.items():
        is_self = stack.continues or (stack.shape[0] == stack.shape[1] and (stack.name, stack.shape[1]) not in others)
        kinds[path] = get_kind(stack.name) if is_self else "cross"
        sides[path] = _find_sides(stack, kinds[path] if has_sides else "encoder")
    labels = _label_sides(tokens, {side for both in sides.values() for side in both})
    maps = {}
    for path, stack in collector.stacks.items():
        query, key = (labels[side] for side in sides[path])
        kind = "self" if kinds[path] == "encoder" or (kinds[path] == "decoder" and not has_sides) else kinds[path]
        looking = _find_patches(grid, stack.shape[0]) if kind == "cross" else []
        maps[path] = collector.make_maps(
            stack,
            query[stack.first :][: stack.shape[0]],
            key,
            kind=kind,
            spans=[] if looking else _find_patches(grid, stack.shape[1]),  # as many words as patches are none
            spans_query=looking,
            **facts,
        )
    return maps


def _find_patches(grid: tuple[int, int] | None, n_tokens: int) -> list[Span]:
    """Return the patches of a picture of `grid` rows and columns, or of one that was halved, where tokens are those."""
    rows, columns = grid or (0, 0)
    while rows * columns > n_tokens and rows % 2 == columns % 2 == 0:
        rows, columns = rows // 2, columns // 2
    return [Span("image", 0, "whole", 0, rows, columns, columns, 0.0)] if rows * columns == n_tokens else []


def _find_sides(stack: Stack, kind: str) -> tuple[_Side, _Side]:
    """Return which sequences queries and keys of a stack are of."""
    names = (kind, kind)
    if is_tower(stack.name):
        names = stack.name, stack.name
    elif kind == "cross":  # of a decoder, if the queries are one's
        names = ("decoder" if "decoder" in stack.name else "encoder"), "encoder"
    n_query, n_key = stack.shape
    return (names[0], n_key if stack.continues else n_query), (names[1], n_key)


def _label_sides(
    tokens: Sequence[str] | Mapping[str, Sequence[str]] | None, places: set[_Side]
) -> dict[_Side, Sequence[str]]:
    """Return the labels of each sequence."""
    labels: dict[_Side, Sequence[str]] = {place: [str(i) for i in range(place[1])] for place in places}
    if isinstance(tokens, Mapping):
        known = sorted({side for side, _ in places})
        if not tokens.keys() <= set(known):
            raise OptionError(f"tokens has labels of {', '.join(map(repr, tokens))}; there are {', '.join(known)}")
        return labels | {place: tokens[place[0]] for place in places if len(tokens.get(place[0], ())) == place[1]}
    fit = sorted(place for place in places if tokens is not None and len(tokens) == place[1])
    if len(fit) > 1:
        raise OptionError(
            f"tokens has {fit[0][1]} labels, as many as each of {', '.join(side for side, _ in fit)} has tokens; pass "
            f"a dictionary: tokens={{{fit[0][0]!r}: …}}"
        )
    return labels | {place: tokens for place in fit if tokens is not None}


def _leave_fast_path() -> Callable[[], object]:
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return partial(torch.backends.mha.set_fastpath_enabled, was_enabled)


_SLOW_PATH = Switch(_leave_fast_path)
