"""The attention weights of a prompt, from one forward pass of the model as it is."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from ..capture_options import CaptureOptions, PassOptions
from ..declarations import takes_options
from ..inputs.limits import explain_refusal
from ..inputs.model_inputs import ModelInputs, Prompt, prepare_inputs
from ..inputs.signature import call_model, find_device, find_inner, get_config, takes_argument
from ..maps import AttentionMaps
from .collector import Collector
from .eager import EagerHooks
from .fused import SdpaArguments
from .guard import Loan, borrow_model, find_configs, has_hooks, view_implementation
from .module_stack import ModuleStack
from .numbering import NumberedModules, get_kind
from .padding import WHOLE, Kept
from .projections import ProjectionWatch
from .sequences import SequenceWatch
from .stacks import Stack
from .targets import choose_kind
from .watch import AttentionCall, AttentionWatch, ModuleWeights


@takes_options(PassOptions)
def capture_attention(
    model: torch.nn.Module,
    tokenizer: Any = None,
    prompt: Any = None,
    *,
    model_id: str | None = None,
    options: PassOptions,
) -> Any:
    """Capture the exact attention weights of every head for a prompt.

    The model runs once, in eval mode, on the attention it was loaded with; its result is bit for bit that of a plain
    forward pass, and it is left as it was found. Under SDPA each layer's weights are computed from the queries, keys
    and mask that the layer used, a block at a time; in eager mode they are taken from the layers themselves.

    Parameters
    ----------
    model
        A transformers model, one that is called like it, or a wrapper around one.
    tokenizer : transformers tokenizer or processor, optional
        For prompts in words and for readable labels.
    prompt : str, tuple of str, list of dict, token ids or mapping
        Text; a pair of texts ``(a, b)``; chat messages, whose content is text or a list of parts; token ids as a list,
        array or tensor of axes ``(n,)`` or ``(1, n)``; or model inputs as a tokenizer or processor returned them.
        Padding at the ends, which their mask hides, is left out of the maps.
    model_id
        Name for titles and files; left out, that of the folder or hub name that the model came from, or of its class.
    **options
        As `PassOptions` declares them.

    Returns
    -------
    AttentionMaps, or list of AttentionMaps for ``batch_index="all"``
        Weights, each layer of axes ``(n_heads, n_query, n_key)``. In cross attention queries are the decoder's
        tokens and keys the encoder's.

    Raises
    ------
    PromptError
        If the prompt is empty, of no form that is known, longer than the model's positions, or does not fit the
        tokenizer.
    OptionError
        If a layer, head or query is not there, or the model has no attention of that kind.
    CaptureError
        If a layer's weights could not be seen, or for ``weighting="value_norm"`` its values or output projection, or
        the model is being captured already.
    """
    kind = choose_kind(model, options.kind)
    inputs = prepare_inputs(model, tokenizer, prompt, options)
    maps = capture_inputs(model, inputs, options, kind=kind, model_id=model_id)
    return maps if inputs.is_batch else maps[0]


def capture_inputs(
    model: torch.nn.Module, inputs: ModelInputs, options: CaptureOptions, *, kind: str, model_id: str | None = None
) -> list[AttentionMaps]:
    """Capture the attention weights of one kind of model inputs, one map a prompt."""
    known = NumberedModules(model)
    collectors = [_make_collector(model, options, inputs, prompt, kind, known) for prompt in inputs.prompts]
    with explain_refusal(model, inputs.arguments):
        run_watched(model, collectors, inputs.arguments)
    return [
        label_stack(collector, collector.find_main(kind), prompt, kind, model_id or get_model_id(model))
        for collector, prompt in zip(collectors, inputs.prompts, strict=True)
    ]


def label_stack(collector: Collector, stack: Stack, prompt: Prompt, kind: str, model_id: str) -> AttentionMaps:
    """Return what a collector kept of a stack that attends over a prompt, labelled by its tokens."""
    query, key = prompt.get_sides(kind)
    labels = key.write_labels(stack.size[1])
    is_whole = query is key and stack.size[0] == stack.size[1]
    return collector.make_maps(
        stack,
        labels if is_whole else query.write_labels(stack.first + stack.size[0])[stack.first :],
        labels,
        ids_key=key.ids,
        segments=() if key.ids is None or kind == "decoder" else prompt.segments,
        spans=key.spans,
        crops=key.crops,
        kind=kind,
        model_id=model_id,
    )


def _make_collector(
    model: torch.nn.Module,
    options: CaptureOptions,
    inputs: ModelInputs,
    prompt: Prompt,
    kind: str,
    known: NumberedModules,
) -> Collector:
    query, key = prompt.get_sides(kind)
    counts = query.total, key.total

    def is_own(stack: Stack) -> bool:
        return kind in ("self", get_kind(stack.name))

    def fits(stack: Stack, shape: tuple[int, int]) -> bool:
        return not is_own(stack) or all(count in (n, None) for n, count in zip(shape, counts, strict=True))

    def find_kept(stack: Stack, shape: tuple[int, int]) -> Kept:
        return Kept(query.kept, key.kept) if is_own(stack) else WHOLE

    row = None if inputs.n_rows == 1 else prompt.row
    return Collector(
        model,
        options,
        fits,
        batch_index=row,
        batch_size=inputs.n_rows,
        find_kept=find_kept,
        known=known,
        has_patches=bool(key.spans),
    )


def run_watched(
    model: torch.nn.Module, collectors: Sequence[Collector], inputs: Mapping[str, Any], *, keeps_logits: bool = False
) -> Any:
    """Run a transformers model once, hand its attention to collectors, and return what it put out.

    Caches and all but the last logits are left out where the model allows; all logits stay where they are wanted
    (`keeps_logits`), or where a hook would miss them. The collectors are complete afterwards, or it is a
    `CaptureError`.
    """
    # Whoever listens to the model's head hears what it says in a plain pass.
    keeps_logits = keeps_logits or any(map(has_hooks, {*model.modules()} - {*_get_body(model).modules()}))
    # A position, not how many of the last: told that, layers that share keys (Gemma 4) leave out all other queries.
    last = {} if keeps_logits else {"logits_to_keep": torch.tensor([-1], device=find_device(model))}
    wanted = {"use_cache": False} | last
    arguments = {name: value for name, value in wanted.items() if takes_argument(model, name)} | dict(inputs)
    with watch_attention(model, *collectors):
        return call_model(model, arguments)


def _get_body(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model without its head."""
    inner = find_inner(model)
    body = getattr(inner, "base_model", None)
    return body if isinstance(body, torch.nn.Module) and body is not inner else torch.nn.Identity()


class Passes(Protocol):
    """What has collectors of its own for each forward pass."""

    options: CaptureOptions

    @property
    def single(self) -> Collection[str]:
        """Modules that alone attend, each in one call a pass; empty where that is not known."""

    def begin(self, arguments: Mapping[str, Any], past: int | None) -> Sequence[Collector]:
        """Return the collectors of a pass that begins on `arguments` and a cache of `past` tokens."""

    def take_row(self, name: str, given: SdpaArguments) -> bool:
        """Take the first call of a module at once, where it is sure what it is about; tell whether it is."""

    def end(self) -> None:
        """Take what the collectors of a pass have."""

    def list_collectors(self) -> Sequence[Collector]:
        """Return those that know what all passes have shown."""


@contextlib.contextmanager
def watch_attention(model: torch.nn.Module, *collectors: Collector, passes: Passes | None = None) -> Iterator[Loan]:
    """Hand all attention that runs in the block to collectors with the same options, complete afterwards.

    With `passes` in their place, each forward pass has collectors of its own, and what runs outside of the model is
    left out. Further changes of the model can be put on the loan.
    """
    current, options = [*collectors], (passes or collectors[0]).options

    def take_call(call: AttentionCall) -> None:
        for collector in current:
            collector.take_call(call)

    with borrow_model(model) as loan:
        stack = ModuleStack(model)
        sequences = SequenceWatch(stack)
        projections = ProjectionWatch(stack, take_call) if options.weighting == "value_norm" else None
        on_call = take_call if projections is None else projections.take_call

        def take_weights(seen: ModuleWeights) -> None:
            placed = dataclasses.replace(seen, given=sequences.find())
            for collector in current:
                collector.take_weights(placed)

        def place_call(call: AttentionCall) -> None:
            on_call(dataclasses.replace(call, given=sequences.find()))

        wants_lse = options.reduction != "full" and projections is None
        rows = () if passes is None else (passes.take_row,)
        watch = AttentionWatch(stack, place_call, take_weights, *rows, wants_lse=wants_lse)
        hooks = EagerHooks(stack, take_weights)
        hooks.look_through(watch)
        parts = stack, sequences, watch, hooks, projections
        following = Loan()
        loan.note(following.close)
        _follow(following, parts, stack.list_callers())
        if passes is None:
            loan.enter_mode(watch)
        else:
            loan.note(watch.take_off)
            _tell_passes(passes, current, parts, following, loan)
        yield loan
        if projections is not None:
            projections.let_go()
    for collector in collectors if passes is None else passes.list_collectors():
        collector.check_complete(stack.seen, hooks.unclear)


_Parts = tuple[ModuleStack, SequenceWatch, AttentionWatch, EagerHooks, ProjectionWatch | None]


def _follow(loan: Loan, parts: _Parts, modules: Sequence[torch.nn.Module]) -> None:
    """Have what watches a pass follow some modules, and values through all, as long as a loan is open."""
    stack, sequences, _, hooks, projections = parts
    hooks.install(loan, modules)
    sequences.install(loan, modules)
    if projections is not None:
        projections.install(loan)
    stack.follow(loan, modules if projections is None else None)


def _tell_passes(passes: Passes, current: list[Collector], parts: _Parts, following: Loan, loan: Loan) -> None:
    """Have `current` be the collectors of the pass that runs; watch no more, of later passes, than has to be.

    To see each function that a model calls, and each module, costs as much as the weights of a step. Modules of
    transformers read in their config which attention to run just before they run it.
    """
    stack, sequences, watch, hooks, projections = parts
    narrowed = Loan()
    loan.note(narrowed.close)

    def see_read(implementation: Any) -> Any:
        if stack.frames:
            stack.frames[-1].has_read = True
            if narrowed.is_open and stack.name in passes.single:
                watch.put_on()
        return implementation

    def begin(arguments: Mapping[str, Any], past: int | None) -> None:
        watch.counts.clear()
        hooks.counts.clear()
        sequences.forget()
        current[:] = passes.begin(arguments, past)
        if passes.single and following.is_open:
            following.close()
            modules = [stack.by_name[name] for name in passes.single]
            _follow(narrowed, parts, [*stack.list_around(passes.single), *modules])
            for name, module in zip(passes.single, modules, strict=True):
                if name in watch.unread:
                    narrowed.add_hook(module.register_forward_pre_hook, watch.put_on)
                narrowed.add_hook(module.register_forward_hook, watch.take_off, always_call=True)
        if following.is_open:
            watch.put_on()

    def end() -> None:
        if projections is not None:
            projections.let_go()
        current.clear()
        watch.take_off()
        passes.end()

    for config in find_configs(stack.known):
        view_implementation(config, see_read, loan)
    sequences.on_begin.append(begin)
    stack.on_end.append(end)


def get_model_id(model: torch.nn.Module) -> str:
    """Return a short name for a model: the last part of that or of the folder it was loaded from, or its class name."""
    name = getattr(get_config(model), "_name_or_path", "") or ""
    name = str(name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].strip(". ")
    return name or type(find_inner(model)).__name__
