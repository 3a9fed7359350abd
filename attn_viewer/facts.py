"""All that is known of attention weights beside the weights: each fact once, with its type, range and meaning.

Whoever stores, sends or shows facts asks `MapFacts` and lists no names.
"""

import dataclasses
import functools
import inspect
import itertools
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from .errors import InvalidMapsError, find_nearest, shorten
from .kinds import Kept, Kind, Pooling
from .selections import MOST_NUMBERS, check_spans, choose_numbers, describe_numbers
from .spans import Span
from .tokens import show_label

if TYPE_CHECKING:
    from typing_extensions import Self

# What a cell holds, and what a colour bar calls it.
WEIGHTINGS = {
    "attention": "attention weight",
    "value_norm": "weight × norm of value",
    "rollout": "share of the input token",
    "flow": "share of the flow",
}
# What the segments of a pair of texts are called.
PAIR = ("sentence A", "sentence B")
DERIVED = ("rollout", "flow")  # from the mean over the heads of several layers
# No fact holds more values, and no fact of texts more characters.
MOST = 2**22
# So many widths from a picture begin or end the borders that a processor adds.
FARTHEST = 1000
# Whole numbers that JSON and JavaScript keep.
LARGEST = 2**53 - 1


_Reader = Callable[[Any, str], Any]


def _declare(
    meaning: str,
    *default: Any,
    choices: Sequence[str] | Mapping[str, str] = (),
    low: float = 0,
    high: float = LARGEST,
    same_as: str = "",
    is_label: bool = False,
    is_compared: bool = False,
) -> Any:
    """Declare a fact: its meaning, and its default, without which it must be said.

    A text is one of `choices`, if there are any, and numbers lie between `low` and `high`. Not said, a fact is the
    `same_as` another. In labels nothing stays hidden, see `show_label`. Maps must agree in facts that are
    compared, or they cannot be compared or averaged.
    """
    limits = {"meaning": meaning, "choices": tuple(choices), "low": low, "high": high, "same_as": same_as}
    limits |= {"is_label": is_label, "is_compared": is_compared}
    return dataclasses.field(default=default[0] if default else dataclasses.MISSING, metadata=limits)


@dataclasses.dataclass(frozen=True, init=False, repr=False, kw_only=True)
class MapFacts:
    """What is known of attention weights that need not be in memory.

    Every fact is checked and brought to its type here and nowhere else; None is what is not said.
    """

    tokens_key: tuple[str, ...] = _declare(
        "Labels of the key tokens, always one a token, also when pooled.", is_label=True
    )
    tokens_query: tuple[str, ...] = _declare("Labels of the query tokens.", same_as="tokens_key", is_label=True)
    ids_key: tuple[int, ...] | None = _declare(
        "Token ids of the key tokens, when known. They tell apart tokens that look alike.", None
    )
    layers: tuple[int, ...] = _declare("True layer numbers, ascending.", high=MOST_NUMBERS)
    heads: tuple[tuple[int, ...], ...] = _declare("True head numbers, one sequence a layer.", high=MOST_NUMBERS)
    kind: str = _declare("Which attention of the model this is.", "self", choices=get_args(Kind), is_compared=True)
    causal: bool = _declare(
        "Whether no query sees a later key, so that cells above the diagonal mean nothing.", True, is_compared=True
    )
    first_query: int = _declare(
        "Position of the first query among all tokens, when only some queries were kept.", 0, is_compared=True
    )
    queries_after: int = _declare("Query tokens behind the last one here that were left out.", 0)
    prompt_length: int = _declare(
        "Number of leading tokens that were the prompt; the rest was generated. Not said, all of them.", None
    )
    segments: tuple[tuple[str, int, int], ...] = _declare(
        "Parts of the key tokens with a name (system, user, …): ``(name, start, stop)``, ascending, `stop` left out.",
        (),
    )
    grouping: tuple[str, str] | None = _declare(
        'When "tokens" are groups of tokens: what they are (``"words"``, ``"sentences"``, …) and how their weights '
        'were summarised (``"sum"`` over keys and mean over queries, or ``"max"``).',
        None,
    )
    spans: tuple[Span, ...] = _declare(
        "Patches of pictures and frames of sound among the key tokens: ``(sense, number, part, start, rows, columns, "
        "stride, seconds)`` each, see `Span`; ``grid=(rows, columns)`` is short for one picture of the last tokens.",
        (),
        low=-1,
    )
    spans_query: tuple[Span, ...] = _declare(
        "Patches of a picture among the query tokens of cross-attention: those of a diffusion model look at words.",
        (),
        low=-1,
    )
    crops: tuple[tuple[float, float, float, float], ...] = _declare(
        "What the patches of each picture, all tiles together, lie on: left, top, right and bottom as shares of its "
        "width and height, below 0 or above 1 where borders were added; not said, all of it.",
        (),
        low=-FARTHEST,
        high=FARTHEST,
    )
    step: int | None = _declare("Which pass of several that a program makes, counted from 0.", None)
    model_id: str = _declare("Name of the model, for titles and file names.", "model")
    reduction: str = _declare("What was kept of the weights.", "full", choices=get_args(Kept), is_compared=True)
    cell: tuple[int, int] = _declare(
        "Query and key tokens of a pooled cell; (1, 1) when not pooled. The last cells may be smaller.",
        (1, 1),
        low=1,
        is_compared=True,
    )
    pooling: str | None = _declare(
        "How the weights in a cell were summarised, when pooled.",
        None,
        choices=get_args(Pooling),
        is_compared=True,
    )
    has_sinks: bool = _declare("Whether the model has learned sinks (gpt-oss), which take a share of each row.", False)
    softcap: float | None = _declare(
        "Bound that the model puts on its attention scores (Gemma 2), already in the weights.", None, high=1e30
    )
    source: str = _declare('How the weights were captured: ``"sdpa"``, ``"eager"`` or ``""`` when not known.', "")
    weighting: str = _declare(
        "What a cell holds: an attention weight; the weight times the norm of the projected value; what "
        "`roll_out_attention` or `compute_attention_flow` made of the mean over heads.",
        "attention",
        choices=WEIGHTINGS,
        is_compared=True,
    )
    signed: bool = _declare(
        "Whether cells may be negative: differences of weights, or weights times something with a sign.",
        False,
        is_compared=True,
    )
    n_prompts: int = _declare("Number of prompts that the weights are the mean over.", 1, low=1)
    interventions: tuple[str, ...] = _declare(
        "What was done to heads of the model in that pass, as `ablate_heads` and `merge_heads` describe it.", ()
    )
    not_shown: tuple[str, ...] = _declare(
        "Other parts of the model (vision towers) whose attention could not be shown, and why, one text each.", ()
    )
    averaged_heads: tuple[int, ...] | None = _declare(
        "True numbers of the heads that a layer's one map is the mean over, when known and the same in all layers.",
        None,
        high=MOST_NUMBERS,
    )

    def __init__(self, tokens_key: Sequence[str], **facts: Any) -> None:
        self._take({"tokens_key": tokens_key, **facts})

    def _take(self, facts: dict[str, Any]) -> None:
        """Keep facts, each as its declaration says."""
        declared = {field.name: field for field in dataclasses.fields(MapFacts)}
        if (grid := facts.pop("grid", None)) is not None:  # what caches and callers said before there were spans
            rows, columns = _read_tuple([functools.partial(_read_whole, 1, MOST)] * 2, False, grid, "grid")
            first = len(facts["tokens_key"]) - rows * columns
            facts["spans"] = [Span("image", 0, "whole", max(first, -1), rows, columns, columns, 0.0)]
        for name in facts.keys() - declared.keys():
            near = find_nearest(name, declared) or f"; there are {', '.join(declared)}"
            raise InvalidMapsError(f"there is no fact {shorten(name)} of attention maps{near}")
        for name, field in declared.items():
            value, same_as = facts.get(name), field.metadata["same_as"]
            if value is None and field.default is not dataclasses.MISSING:
                value = field.default
            elif (value is None or value is facts.get(same_as)) and same_as:
                value = getattr(self, same_as)
            else:
                value = _READERS[name](value, name)
                value = getattr(self, same_as) if same_as and value == getattr(self, same_as) else value
            object.__setattr__(self, name, value)
        if self.prompt_length is None:
            object.__setattr__(self, "prompt_length", len(self.tokens_key))
        self._check()

    def _check(self) -> None:
        """Raise for facts that do not go together."""
        n_key, n_query, pooled = len(self.tokens_key), len(self.tokens_query), self.reduction == "pooled"
        last = self.first_query + n_query - 1
        check_spans(self.segments, n_key, InvalidMapsError, "segments")
        for is_right, message in (
            (n_key and n_query, "no tokens: at least one label is needed on each axis"),
            (self.ids_key is None or len(self.ids_key) == n_key, f"ids_key must be {n_key} numbers, one a key token"),
            (self.layers, "no layers: name at least one, with its weights"),
            (
                list(self.layers) == sorted(set(self.layers)),
                f"layers must be ascending numbers, got {shorten(self.layers)}",
            ),
            (
                len(self.heads) == len(self.layers) and all(len(set(h)) == len(h) > 0 for h in self.heads),
                f"heads must be numbers, each once, for each of {len(self.layers)} layers, got {shorten(self.heads)}",
            ),
            (
                pooled or self.cell == (1, 1),
                f"cell must be (1, 1) unless pooled, got {self.cell} for {self.reduction!r}",
            ),
            (
                pooled == (self.pooling is not None),
                f"pooling must be one of {get_args(Pooling)} when pooled and None otherwise, got {self.pooling!r}",
            ),
            (
                self.averaged_heads is None or len(set(self.averaged_heads)) == len(self.averaged_heads) > 0,
                f"averaged_heads must be numbers of heads, each once, or None; got {shorten(self.averaged_heads)}",
            ),
            (
                not self.is_mean or set(self.n_heads) == {1},
                f"a mean over heads is one map a layer, got {shorten(self.n_heads)} heads; leave out reduction="
                "'head_mean' and averaged_heads, and average_heads() takes the mean",
            ),
            (
                all(span.is_within(n_key) for span in self.spans),
                f"spans must be patches or frames among {n_key} key tokens, got {shorten(self.spans)}",
            ),
            (
                all(
                    left < min(right, 1) and right > 0 and top < min(bottom, 1) and bottom > 0
                    for left, top, right, bottom in self.crops
                ),
                f"crops must be left, top, right and bottom of pictures, got {shorten(self.crops)}",
            ),
            (
                all(span.is_within(self.first_query + n_query + self.queries_after) for span in self.spans_query),
                f"spans_query must be patches among the query tokens, got {shorten(self.spans_query)}",
            ),
            (
                not self.causal or last < n_key,
                f"causal queries {self.first_query} to {last} must be among the {n_key} key tokens",
            ),
            (self.prompt_length <= n_key, f"prompt_length must be 0 to {n_key}, got {self.prompt_length}"),
        ):
            if not is_right:
                raise InvalidMapsError(message)

    @classmethod
    def from_plain(cls, plain: Any) -> "MapFacts":
        """Return facts from plain types by name, as `to_plain` returns them or a file holds them.

        Raises `InvalidMapsError` if they are no facts, one has a wrong type or range, or they do not go together.
        """
        if not isinstance(plain, dict) or "tokens_key" not in plain:
            raise InvalidMapsError(f"facts must be a dictionary with tokens_key, got {shorten(plain)}")
        return MapFacts(**{str(name): value for name, value in plain.items()})

    def to_plain(self) -> dict[str, Any]:
        """Return all facts in types that JSON has; those that only repeat another are left out."""
        same = {field.name: field.metadata["same_as"] for field in dataclasses.fields(MapFacts)}
        values = {name: getattr(self, name) for name in same}
        return {n: _to_plain(v) for n, v in values.items() if not same[n] or v is not values[same[n]]}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every head: ``(n_query, n_key)`` in tokens, or in cells when pooled."""
        return math.ceil(len(self.tokens_query) / self.cell[0]), math.ceil(len(self.tokens_key) / self.cell[1])

    @property
    def future(self) -> npt.NDArray[np.bool_]:
        """Cells that no query may see: bool, axes ``(rows, columns)`` of a head; all False when not causal."""
        return find_future(self.shape, self.cell, self.first_query) if self.causal else np.zeros(self.shape, bool)

    @property
    def n_heads(self) -> tuple[int, ...]:
        """Number of heads of each layer."""
        return tuple(map(len, self.heads))

    @property
    def sentence_b_start(self) -> int | None:
        """First key token of the second of a pair of texts, as bertviz calls it; None where the prompt is no pair."""
        return next((start for name, start, _ in self.segments if name == PAIR[1]), None)

    @property
    def unit(self) -> str:
        """What a label is: ``"token"``, of groups ``"word"``, ``"sentence"`` or (spans, segments) ``"part"``."""
        if not self.grouping:
            return "token"
        return "part" if self.grouping[0] in ("spans", "segments") else self.grouping[0].removesuffix("s")

    @property
    def is_mean(self) -> bool:
        """Whether a layer's one map is a mean over heads, or was made of one; also of pooled maps."""
        return self.reduction == "head_mean" or self.averaged_heads is not None

    @property
    def averaged(self) -> str:
        """What the one map of a layer is when heads are averaged: ``"mean over 8 heads"``, or what was made of it.

        Names heads that were chosen; which were is not known of maps that differ in heads from layer to layer.
        """
        heads = self.mean_heads
        if heads is None:
            mean = "mean over heads"
        elif len(heads) == 1:
            mean = f"head {heads[0]}"
        elif heads == tuple(range(len(heads))):
            mean = f"mean over {len(heads)} heads"
        else:
            mean = f"mean over heads {describe_numbers(heads)}"
        return f"{self.weighting} of {'the ' * mean.startswith('mean')}{mean}" if self.weighting in DERIVED else mean

    @property
    def mean_heads(self) -> tuple[int, ...] | None:
        """True numbers of the heads that a mean over heads is over; None when not known or not the same everywhere."""
        if self.is_mean:
            return self.averaged_heads
        return self.heads[0] if len(set(self.heads)) == 1 else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Phrases that every figure and page must carry, beside those about tokens and reduction."""
        scaled = ("each weight times the norm of its projected value",) * (self.weighting == "value_norm")
        averaged = (f"mean over {self.n_prompts} prompts",) * (self.n_prompts > 1)
        step = () if self.step is None else (f"pass {self.step}",)
        return (*step, *averaged, *scaled, *(f"changed: {words}" for words in self.interventions))

    def find_difference(self, other: "MapFacts") -> str | None:
        """Return the name of the first fact in which maps must agree to be compared and do not; None if they do."""
        names = (field.name for field in dataclasses.fields(MapFacts) if field.metadata["is_compared"])
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)

    def select_layers(self, layers: Sequence[int] | None) -> "Self":
        """Return the facts of some layers, by true number; None keeps all, `OptionError` says what is not there."""
        kept = choose_numbers(layers, self.layers, "layer")
        heads = dict(zip(self.layers, self.heads, strict=True))
        return dataclasses.replace(self, layers=kept, heads=tuple(heads[layer] for layer in kept))

    def __repr__(self) -> str:
        """Say what is known without the labels."""
        heads = sorted(set(self.n_heads))
        what = self.reduction if self.reduction != "pooled" else f"{self.pooling} over {self.cell[0]} × {self.cell[1]}"
        return (
            f"{type(self).__name__}({shorten(self.model_id)}, {self.kind}, {len(self.layers)} layers × "
            f"{'–'.join(map(str, (heads[0], heads[-1])[: len(heads)]))} heads, "
            f"{len(self.tokens_query)} queries × {len(self.tokens_key)} keys, {what})"
        )


def find_future(shape: tuple[int, int], cell: tuple[int, int], first_query: int) -> npt.NDArray[np.bool_]:
    """Find the cells all of whose keys come after all of their queries: bool of `shape`, the rows and columns of cells.

    `cell` are query and key tokens of one, `first_query` is the position of the first query among the keys.
    """
    last_query = first_query + (np.arange(shape[0]) + 1) * cell[0] - 1
    return np.arange(shape[1]) * cell[1] > last_query[:, None]


def _to_plain(value: Any) -> Any:
    return [_to_plain(v) for v in value] if isinstance(value, tuple) else value


def _make_reader(kind: Any, limits: Mapping[str, Any]) -> _Reader:
    """Return what checks a value and brings it to a declared type, or raises `InvalidMapsError`."""
    parts = get_args(kind)
    if isinstance(kind, types.UnionType):  # X | None: None itself is what is not said
        return _make_reader(parts[0], limits)
    if kind is Span:
        readers = [_make_reader(part, limits) for part in typing.get_type_hints(Span).values()]
        return lambda value, name: Span(*_read_tuple(readers, False, value, name))
    if typing.get_origin(kind) is not tuple:
        low, high, choices = limits["low"], limits["high"], limits["choices"]
        if kind is str:
            if choices:
                return functools.partial(_read_choice, choices)
            return functools.partial(_read_text, limits["is_label"])
        if kind is bool:
            return _read_bool
        return functools.partial(_read_whole if kind is int else _read_number, low, high)
    readers = [_make_reader(part, limits) for part in parts if part is not ...]
    return functools.partial(_read_tuple, readers, ... in parts)


def _refuse(name: str, expected: str, value: Any) -> InvalidMapsError:
    return InvalidMapsError(f"{name} must be {expected}, got {shorten(value)}")


def _read_text(is_label: bool, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _refuse(name, "str", value)
    try:
        if not (is_label or value.isascii()):
            value.encode()
    except UnicodeEncodeError as reason:
        raise _refuse(name, "text without lone surrogates", value) from reason
    if len(value) > MOST:
        raise _refuse(name, f"at most {MOST:,} characters", value)
    return show_label(value) if is_label else str(value)


def _read_choice(choices: tuple[str, ...], value: Any, name: str) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _refuse(name, f"one of {', '.join(choices)}", value)
    return str(value)


def _read_bool(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _refuse(name, "True or False", value)
    return bool(value)


def _read_whole(low: int, high: int, value: Any, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError as reason:
        raise _refuse(name, "a whole number", value) from reason
    if isinstance(value, bool) or not low <= number <= high:
        raise _refuse(name, f"a whole number from {low} to {high}", value)
    return int(number)


def _read_number(low: float, high: float, value: Any, name: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.floating, np.integer))
        or not low < value < high
    ):
        raise _refuse(name, f"a number above {low:g} and below {high:g}", value)
    return float(value)


def _read_tuple(readers: list[_Reader], is_long: bool, value: Any, name: str) -> tuple[Any, ...]:
    is_sequence = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if not is_sequence or isinstance(value, (str, bytes, bytearray, memoryview, Mapping)):
        raise _refuse(name, "a sequence such as a list", value)
    try:
        length = len(value)
        if not (length <= MOST if is_long else length == len(readers)):
            raise _refuse(name, f"at most {MOST:,} values" if is_long else f"{len(readers)} values", value)
        values: Iterator[Any] = itertools.islice(value, length)
        if is_long:
            return tuple(_bound(map(readers[0], values, itertools.repeat(name)), name))
        return tuple(read(v, name) for read, v in zip(readers, values, strict=True))
    except InvalidMapsError:
        raise
    except Exception as reason:  # whatever a stranger's sequence raises
        raise _refuse(name, "a sequence such as a list", value) from reason


def _bound(values: Iterator[Any], name: str) -> Iterator[Any]:
    """Yield values until they are too many in all: one list may stand in a file thousands of times."""
    total = 0
    for value in values:
        if isinstance(value, (str, tuple)):
            total += len(value)
            if total > MOST:
                raise InvalidMapsError(f"{name} must be at most {MOST:,} values or characters in all")
        yield value


_READERS = {field.name: _make_reader(field.type, field.metadata) for field in dataclasses.fields(MapFacts)}


def document_facts(kind: type[MapFacts], *leading: str) -> None:
    """Put the facts into docstring and signature of a class; `leading` are its arguments before `tokens_key`."""
    lines = [inspect.cleandoc(kind.__doc__ or ""), "", "Attributes", "----------"]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, positional) for name in leading]
    for field in dataclasses.fields(MapFacts):
        name = getattr(field.type, "__name__", str(field.type)) if isinstance(field.type, type) else str(field.type)
        lines += [f"{field.name} : {name}", f"    {field.metadata['meaning']}"]
        place = inspect.Parameter.KEYWORD_ONLY if parameters and field.name != "tokens_key" else positional
        default = inspect.Parameter.empty if field.name == "tokens_key" else None
        if field.default is not dataclasses.MISSING:
            default = field.default
        parameters.append(inspect.Parameter(field.name, place, default=default, annotation=field.type))
    kind.__doc__ = "\n".join(lines) + "\n"
    kind.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


document_facts(MapFacts)
