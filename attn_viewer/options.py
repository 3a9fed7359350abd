"""Every option, declared once: its default, type, limits, help, and when it applies.

A class here is a group of options that belong together; a class of classes is what a function or a command takes.
From the declarations come the checks, the words of the command line (`commands.arguments`), and signature, checks and
parameter section of functions under `takes_options`.

To add an option, write one line into the class of those it belongs to and use it where it acts::

    sharpness: float = option(1.0, "power of each weight before it is drawn", above=0, needs="save_fig_path")

`needs` names another option without which it would do nothing (``"reduction=pooled"``: with that value; of several,
one is enough); `apart` names options beside which it has no meaning. Both are refused, and neither counts in a class
that does not have the option named. A class may change defaults: ``class Mine(LookOptions, norm="power")``, with
``@dataclass(frozen=True, kw_only=True)`` above it as everywhere here.
"""

import dataclasses
import functools
import inspect
import os
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from .errors import ArgumentError, OptionError
from .hints import check_value, describe_hint, find_nearest, read_hint
from .selections import check_numbers, parse_heads, parse_names, parse_spans

if TYPE_CHECKING:
    import matplotlib.colors
    from typing_extensions import Self

Kind = Literal["self", "encoder", "decoder", "cross"]
Reduction = Literal["auto", "full", "head_mean", "pooled"]
Pooling = Literal["max", "mean"]
Precision = Literal["float32", "float16"]
Weighting = Literal["attention", "value_norm"]
Sink = Literal["keep", "hide", "renormalise"]
Norm = Literal["linear", "power", "log", "quantile"]
Format = Literal["jpg", "png", "pdf", "svg", "svgz"]
Overview = Literal["birds_eye", "last_token", "sinks", "similarity"]
Grouping = Literal["words", "sentences", "segments"] | Sequence[tuple[str, int, int]]
FilePath = str | os.PathLike[str]
CACHE = "load_attention_scores_path"

_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is said of an option beside its name, type and default."""

    help: str
    words: tuple[str, ...] | None = None  # on the command line; None is the option's name, () is not offered
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None  # reads the word that follows on a command line
    read: Callable[[Any], Any] | None = None  # brings what came into its final form
    at_least: float | None = None
    above: float | None = None
    needs: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    position: int | None = None  # where it may stand in a call without its name


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    words: str | tuple[str, ...] | None = None,
    needs: str | tuple[str, ...] = (),
    apart: str | tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Declare an option; `more` are fields of `Declaration`. Without default it must be given."""
    names = None if words is None else _listed(words)
    declaration = Declaration(help=help, words=names, needs=_listed(needs), apart=_listed(apart), **more)
    return dataclasses.field(default=default, metadata={"option": declaration})


def captured(default: Any, help: str, **more: Any) -> Any:
    """Declare an option of running a model, which has no use beside a cache."""
    return option(default, help, apart=CACHE, **more)


class _ClassDoc:
    """The docstring of a class of options, with their list, which is written when somebody reads it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, instance: object, owner: "type[Options]") -> str:
        if "__match_args__" not in owner.__dict__:
            return self.text  # `dataclass`, which is at work, asks only whether there is one
        entries = textwrap.indent("\n".join(owner.document()), "    ")
        return f"{self.text.rstrip()}\n\n    Parameters\n    ----------\n{entries}\n"


class Options:
    """Base of all groups of options: values that are checked when they are made and never change.

    Raises
    ------
    ArgumentError
        For a value of the wrong type or out of its limits, or a name that is no option.
    """

    group_name: ClassVar[str] = ""
    _fields: ClassVar[dict[str, dataclasses.Field[Any]]] = {}

    def __init_subclass__(cls, **defaults: Any) -> None:
        """Collect declarations, change defaults and document the class."""
        super().__init_subclass__()
        own = inspect.get_annotations(cls)
        cls.__annotations__ = own
        inherited: dict[str, dataclasses.Field[Any]] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= base.__dict__.get("_fields", {})
        for name, default in defaults.items():
            field = inherited[name]
            own[name] = field.type
            setattr(cls, name, dataclasses.field(default=default, metadata=field.metadata))
        fields: dict[str, dataclasses.Field[Any]] = {}
        for name, hint in own.items():
            declared = cls.__dict__.get(name)
            if isinstance(declared, dataclasses.Field):
                declared.type = hint
                fields[name] = declared
        cls._fields = inherited | fields
        cls.group_name = (cls.__doc__ or cls.__name__).partition("\n")[0].rstrip(".")
        cls.__doc__ = _ClassDoc(cls.__doc__ or cls.__name__)  # type: ignore[assignment]

    def __new__(cls, *args: Any, **given: Any) -> "Self":
        """Refuse names that are no options, before Python does in its own words."""
        cls.check_names(given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check all values, so that a wrong one is found before any work is done."""
        for name, field in self._fields.items():
            declared, value = get_declaration(field), getattr(self, name)
            if declared.read is not None and value is not None:
                value = declared.read(value)
                value = field.default if value == field.default else value  # a default that was read is no choice
                object.__setattr__(self, name, value)
            if value is not field.default:
                check_value(name, value, read_type(field), at_least=declared.at_least, above=declared.above)

    @classmethod
    def list_names(cls) -> list[str]:
        """Return the names of all options."""
        return list(cls._fields)

    @classmethod
    def check_names(cls, names: Collection[str], also: Collection[str] = (), caller: str | None = None) -> None:
        """Refuse names that are neither options nor among `also`, and suggest the nearest."""
        known = [*also, *cls._fields]
        for name in names:
            if name not in known:
                raise ArgumentError(f"{caller or cls.__name__} has no option {name!r}{find_nearest(name, known)}")

    @classmethod
    def collect(cls, given: Mapping[str, Any], options: "Options | None" = None, caller: str | None = None) -> "Self":
        """Make options from what was given by name over stored ones, and refuse what would do nothing.

        Parameters
        ----------
        given : mapping
            Values by name.
        options : Options, optional
            Stored values; of theirs, those that are not a default count as given.
        caller : str, optional
            Who takes the options, for errors.
        """
        cls.check_names(given, caller=caller)
        stored = {} if options is None else options.as_dict()
        chosen = {} if options is None else options.changes()
        cls.check_names(chosen, caller=caller)
        values = cls(**{name: value for name, value in stored.items() if name in cls._fields} | dict(given))
        values.check_use({*given, *chosen})
        return values

    def check_use(self, given: Collection[str]) -> None:
        """Refuse an option that was given and does nothing beside the others.

        Raises
        ------
        OptionError
            For the first one.
        """
        for name in self._fields:
            declared = get_declaration(self._fields[name])
            if not self._is_asked(name, given):
                continue
            for other in declared.apart:
                if other in self._fields and self._is_asked(other, given):
                    raise OptionError(f"{name} has no use beside {other}; leave one of them out")
            needs = [need for need in declared.needs if need.partition("=")[0] in self._fields]
            if needs and not any(self._is_met(need, given) for need in needs):
                raise OptionError(f"{name} has no use without {' or '.join(needs)}")

    def _is_asked(self, name: str, given: Collection[str]) -> bool:
        """Tell whether an option asks for something: None and a False that is the default do not."""
        value, default = getattr(self, name), self._fields[name].default
        return name in given and value is not None and not (value is False and default is False)

    def _is_met(self, need: str, given: Collection[str]) -> bool:
        name, has_value, value = need.partition("=")
        if has_value:
            return str(getattr(self, name)) == value
        met = getattr(self, name)
        return bool(met) or (met is not None and name in given)

    def as_dict(self) -> dict[str, Any]:
        """Return all values by name."""
        return {name: getattr(self, name) for name in self._fields}

    def changes(self) -> dict[str, Any]:
        """Return the values that are not the default of this class, by name."""
        return {name: value for name, value in self.as_dict().items() if value is not self._fields[name].default}

    @classmethod
    def pick(cls, options: "Options") -> "Self":
        """Return options of this class out of a larger one."""
        return cls(**{name: value for name, value in options.as_dict().items() if name in cls._fields})

    @classmethod
    def document(cls) -> list[str]:
        """Return the lines of a numpydoc parameter section."""
        lines = []
        for name, field in sorted(cls._fields.items(), key=lambda item: get_declaration(item[1]).position or 99):
            declared = get_declaration(field)
            lines.append(f"{name} : {describe_hint(read_type(field))}{', optional' * (field.default is None)}")
            text = f"{declared.help[0].upper()}{declared.help[1:]}."
            conditions = [f"Needs {' or '.join(f'`{need}`' for need in declared.needs)}."] * bool(declared.needs)
            conditions += [f"Not beside {' or '.join(f'`{other}`' for other in declared.apart)}."] * bool(
                declared.apart
            )
            lines += textwrap.wrap(" ".join([text, *conditions]), 110, initial_indent="    ", subsequent_indent="    ")
        return lines


def get_declaration(field: "dataclasses.Field[Any]") -> Declaration:
    """Return what was said of an option."""
    declaration: Declaration = field.metadata["option"]
    return declaration


def read_type(field: "dataclasses.Field[Any]") -> Any:
    """Return the type hint of an option."""
    return read_hint(field.type, globals())


def list_choices(field: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """Return the values of an option that has a few, else none."""
    hint = read_type(field)
    parts = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    return get_args(parts[0]) if parts else ()


def takes_options(kind: type[Options]) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """Let a function be called with options by name, or stored in ``options=``.

    The function itself has a keyword-only parameter `options` of that class; all checks are done when it is called.
    A parameter of its own that has the name of an option says where that may stand by position, and gets its value.
    In the docstring, the entry ``**options`` stands for the options.

    Parameters
    ----------
    kind : type
        The class of options.
    """

    def decorate(function: Callable[..., _R]) -> Callable[..., _R]:
        own = inspect.signature(function).parameters
        hints = getattr(function, "__globals__", {})
        signature = _make_signature(own, kind)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> _R:
            kind.check_names(kwargs, own, function.__name__)
            given = signature.bind(*args, **kwargs).arguments
            options = given.pop("options", None)
            known = options is None or (
                isinstance(options, Options) and (issubclass(kind, type(options)) or isinstance(options, kind))
            )
            if not known:
                raise ArgumentError(f"options must be {kind.__name__} or one of its parts, got {options!r:.80}")
            mine = {name: given.pop(name) for name in list(given) if name in own}
            for name, value in mine.items():
                if value is not own[name].default:
                    check_value(name, value, read_hint(own[name].annotation, hints))
            chosen = kind.collect(
                given | {name: mine[name] for name in mine.keys() & kind._fields}, options, function.__name__
            )
            mine |= {name: getattr(chosen, name) for name in own if name in kind._fields}
            return function(**mine, options=chosen)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.checks_itself = True  # type: ignore[attr-defined]
        call.__doc__ = _document(function.__doc__, kind)
        return call

    return decorate


def _make_signature(own: Mapping[str, inspect.Parameter], kind: type[Options]) -> inspect.Signature:
    """Own parameters, options that may come by position, `options`, all other options."""
    parameter = inspect.Parameter
    declared = {
        name: parameter(
            name,
            parameter.POSITIONAL_OR_KEYWORD if get_declaration(field).position else parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for name, field in kind._fields.items()
        if name not in own
    }
    stored = own["options"].replace(default=None, annotation=Options | None)
    every = [one for name, one in own.items() if name != "options"] + [*declared.values(), stored]
    places = {name: get_declaration(field).position or 0 for name, field in kind._fields.items()}
    return inspect.Signature(sorted(every, key=lambda one: (one.kind, places.get(one.name, 0))))


def _document(text: str | None, kind: type[Options]) -> str | None:
    """Put the options into a docstring, where it says ``**options``."""
    before, found, after = (text or "").partition("    **options\n")
    if not found:
        return text
    indent = before[before.rfind("\n") + 1 :] + "    "
    rest = after.splitlines(keepends=True)
    while rest and rest[0].startswith(indent + "    "):
        rest.pop(0)
    stored = [
        "options : " + kind.__name__,
        "    Stored options, of this class or a part of it; those given by name go before.",
    ]
    lines = textwrap.indent("\n".join([*stored, *kind.document()]), indent)
    return f"{before[: before.rfind(chr(10)) + 1]}{lines}\n{''.join(rest)}"


def read_format(name: object) -> object:
    """Return a figure format's name in lower case, without a dot; ``jpeg`` is ``jpg``."""
    if not isinstance(name, str):
        return name
    name = name.lower().lstrip(".")
    return "jpg" if name == "jpeg" else name


def parse_grouping(text: str) -> Grouping:
    """Read words, sentences or segments, or spans such as ``system:0:25,user:25:40``."""
    return parse_spans(text) if ":" in text else text  # type: ignore[return-value]


def _numbers(what: str) -> Callable[[Any], Any]:
    return functools.partial(check_numbers, what=what)


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(Options):
    """Which layers and heads."""

    layers: Sequence[int] | None = option(
        None, "true numbers of the layers to keep and show; left out, all", metavar="0,4-7", read=_numbers("layer")
    )
    heads: Sequence[int] | None = option(
        None, "true numbers of the heads to keep and show; left out, all", metavar="0,4-7", read=_numbers("head")
    )


@dataclass(frozen=True, kw_only=True)
class CaptureOptions(SelectionOptions):
    """What is kept of the weights while a model runs."""

    queries: slice | int | None = captured(
        None,
        "query tokens to keep: a range, or how many of the last ones; left out, all",
        metavar="K",
        parse=int,
        at_least=1,
    )
    reduction: Reduction = captured(
        "full",
        "what is kept: every weight; the mean over the heads; each head on a coarse grid; auto is full while all "
        "layers together stay under 512 MB and pooled past that",
    )
    max_cells: int = captured(
        256, "most cells a side when pooled", metavar="N", at_least=1, needs=("reduction=pooled", "reduction=auto")
    )
    pooling: Pooling = captured(
        "max", "what is kept of a cell when pooled", needs=("reduction=pooled", "reduction=auto")
    )
    dtype: Precision = captured("float32", "type in which weights are kept; they are computed in float32", words=())
    weighting: Weighting = captured(
        "attention",
        "weights as they are, or each times the norm of the value that it weighs, taken through its head's slice of "
        "the output projection (Kobayashi et al. 2020); then rows do not sum to 1",
    )

    def __post_init__(self) -> None:
        """Check all values before a model runs."""
        super().__post_init__()
        if isinstance(self.queries, slice) and self.queries.step not in (None, 1):
            raise OptionError(f"queries must be a slice with step 1 or how many of the last, got {self.queries!r}")

    def choose_rows(self, n_query: int) -> slice:
        """Return the range of query rows to keep, of `n_query` that there are.

        Raises
        ------
        OptionError
            If it is empty.
        """
        rows = self.queries if isinstance(self.queries, slice) else slice(-(self.queries or n_query), None)
        start, stop, _ = rows.indices(n_query)
        if start >= stop:
            raise OptionError(f"queries={self.queries!r} keeps none of the {n_query} query tokens")
        return slice(start, stop)


@dataclass(frozen=True, kw_only=True)
class PassOptions(CaptureOptions):
    """What a language model runs on beside the prompt, and what is kept."""

    kind: Kind | None = captured(
        None,
        "which attention; left out, that over the prompt itself (self, or of an encoder-decoder the encoder's), and "
        "cross attention where an encoder-decoder generates",
    )
    decoder_prompt: Any = captured(
        None,
        "what an encoder-decoder has said so far; token ids are taken as they are, and before text goes the token "
        "with which the decoder starts",
        metavar="TEXT",
    )
    decoder_tokenizer: Any = captured(None, "tokenizer of the decoder, where it has its own", words=())
    batch_index: int | Literal["all"] | None = captured(
        None,
        "which prompt of a batch of model inputs, or all, for a list of maps; left out, there must be one prompt",
        words=(),
    )

    def check_single(self) -> None:
        """Refuse all prompts of a batch where one at a time is shown or written.

        Raises
        ------
        OptionError
            If they are asked for.
        """
        if self.batch_index == "all":
            raise OptionError("batch_index='all' is for capture_attention and capture_generation; give a number here")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(PassOptions):
    """What a model generates after the prompt, and what is kept."""

    max_new_tokens: int | None = captured(
        None,
        "generate up to so many tokens, and show the attention over prompt and completion",
        metavar="N",
        at_least=1,
    )
    generate_options: Mapping[str, Any] | None = captured(
        None, "more arguments of the model's `generate`", words=(), needs="max_new_tokens"
    )


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """What to read in place of running a model."""

    load_attention_scores_path: FilePath | None = option(
        None, "a .pt cache to draw from, in place of a model and a prompt", metavar="FILE", position=7
    )


@dataclass(frozen=True, kw_only=True)
class ColormapOptions(Options):
    """Colours."""

    cmap: "str | matplotlib.colors.Colormap | None" = option(
        None, "a matplotlib colour map; left out, the one of this package", metavar="NAME", needs="save_fig_path"
    )


@dataclass(frozen=True, kw_only=True)
class ColourOptions(ColormapOptions):
    """From weights to colours."""

    sink: Sink = option(
        "keep",
        "what happens to the first token, which often takes most of the weight: nothing; its column and its own row "
        "are left out; the same, and each row is divided by what is left of it",
        needs="save_fig_path",
    )
    norm: "Norm | matplotlib.colors.Normalize" = option(
        "linear",
        "scale from weights to colours; quantile is linear and ends at the 99 % quantile of what is shown",
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class PanelOptions(ColourOptions):
    """How panels of weights look."""

    num_figs_per_row: int | Literal["auto"] | None = option(
        None,
        "panels side by side, auto for a page without empty places that is about as high as wide; left out, 4, and on "
        "pages of a given width as many as fit them best",
        metavar="N",
        parse=lambda text: text if text == "auto" else int(text),
        at_least=1,
        position=11,
        needs="save_fig_path",
    )
    vmin: float = option(0.0, "weight where the scale begins", metavar="W", needs="save_fig_path")
    vmax: float | None = option(
        None,
        "weight where the scale ends; left out, a round number from the largest up, not counting queries that see "
        "almost no keys, nor a few weights that would hide all others",
        metavar="W",
        needs="save_fig_path",
    )
    scale: Literal["shared", "panel"] = option(
        "shared",
        "one scale for all panels, or one for each with its end in the title",
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class PresetOptions(Options):
    """The venue that figures are made for."""

    preset: str | None = option(
        None,
        "a venue such as icml2024 or neurips2024: figures as wide as its columns and no higher than its pages, in its "
        "fonts and font sizes (needs tueplots)",
        metavar="NAME",
        needs="save_fig_path",
    )
    columns: Literal[1, 2] = option(1, "columns of the venue's page that a figure spans", needs="preset")


@dataclass(frozen=True, kw_only=True)
class VenueOptions(PresetOptions):
    """The format of figures, and the venue they are made for."""

    fig_format: Format = option("jpg", "file format of the figures", read=read_format, needs="save_fig_path")


@dataclass(frozen=True, kw_only=True)
class FigurePageOptions(PresetOptions):
    """How the page of a figure looks."""

    title: str | None = option(
        None,
        "what a page shows, after the model's name; left out, what is drawn",
        metavar="TEXT",
        needs="save_fig_path",
    )
    heading: bool = option(
        True, "whether model and title stand above a figure; in a paper the caption says them", words=()
    )
    notes: bool | Sequence[str] = option(
        True, "whether what was done to the data stands above a figure, or phrases to add to it", words=()
    )
    figsize: tuple[float, float] | None = option(None, "width and height of a page in inches", words=(), apart="width")
    width: float | None = option(
        None,
        "width of a page in inches; left out, as the venue has it, or what the page needs",
        metavar="INCHES",
        above=0,
        needs="save_fig_path",
    )
    dark: bool = option(False, "light on dark, as dark presets are anyway", needs="save_fig_path")
    fontsize: float | None = option(
        None,
        "font size of labels in points; everything else grows with it",
        metavar="POINTS",
        above=0,
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class FigureOptions(VenueOptions):
    """Where figures go, and for whom they are made."""

    save_fig_path: FilePath | None = option(None, "folder of the figures", metavar="DIR", position=8)


@dataclass(frozen=True, kw_only=True)
class LookOptions(PanelOptions, FigurePageOptions, FigureOptions):
    """How the figures of a prompt look."""

    panels: Sequence[tuple[int, int]] | None = option(
        None,
        "chosen heads to draw on a page of their own, (layer, head) each",
        metavar="5.2,18.6",
        parse=parse_heads,
        needs="save_fig_path",
    )

    group: Grouping | None = option(
        None,
        "draw the attention between words, sentences, segments or spans of tokens (name, start, stop) in place of "
        "tokens; a cache keeps the tokens",
        words=("group", "spans"),
        metavar="words|sentences|segments|NAME:0:25,…",
        parse=parse_grouping,
        needs="save_fig_path",
    )
    group_summary: Literal["sum", "max"] = option(
        "sum", "sum over the keys of a group and mean over its queries, or the largest weight", needs="group"
    )
    text: Literal["text", "path"] = option(
        "text", "text in SVG as text, or as outlines that need no fonts", needs=("fig_format=svg", "fig_format=svgz")
    )


@dataclass(frozen=True, kw_only=True)
class PageOptions(Options):
    """How an interactive page is made."""

    max_mb: float = option(25.0, "most megabytes (10^6 bytes) of a page", metavar="MB", above=0, needs="html_path")
    fit: Literal["pool", "split"] = option(
        "pool", "what happens past that: larger cells, or a file for each few layers", needs="html_path"
    )
    state: str = option(
        "", "what the page shows first, as in its link: view=heatmap&layer=3&head=2", metavar="STATE", needs="html_path"
    )
    theme: Literal["auto", "light", "dark"] = option("auto", "colours; auto is the reader's choice", needs="html_path")


@dataclass(frozen=True, kw_only=True)
class RunOptions(CacheOptions):
    """What is read, written and drawn for a prompt."""

    save_attention_scores: bool = option(
        False,
        "write the cache {model_id}_attn_scores.pt",
        position=5,
        apart=CACHE,
        needs="save_attention_scores_path",
    )
    save_attention_scores_path: FilePath | None = option(
        None, "folder of the cache", metavar="DIR", position=6, needs="save_attention_scores"
    )
    plot_figs_per_head: bool = option(
        False, "draw a page of all heads for every layer too", position=9, needs="save_fig_path"
    )
    ignore_first_token: bool = option(False, "the same as sink=hide", position=10, needs="save_fig_path")
    figures: str | Collection[str] | None = option(
        None,
        "registered figure functions to run on the weights of every head, names or glob patterns; they get the "
        "weights as they are, whatever sink and scale",
        metavar="NAME,svd*",
        parse=parse_names,
        needs="save_fig_path",
    )
    html_path: FilePath | None = option(None, "interactive page to write, one HTML file", words="html", metavar="FILE")
    parallel: bool | int = option(
        1,
        "processes that draw the pages of heads, True for one a core; used where that takes less time, and the files "
        "are the same",
        metavar="N",
        parse=int,
        at_least=1,
        needs="save_fig_path",
    )
    progress: bool | None = option(
        None, "whether to show a bar on stderr; left out, only when stderr is a terminal", words=()
    )


@dataclass(frozen=True, kw_only=True)
class ViewOptions(GenerationOptions, PageOptions, LookOptions, RunOptions, reduction="auto"):
    """All options of `view_attention`."""
