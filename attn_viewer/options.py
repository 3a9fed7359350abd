"""Every option, declared once: its default, type, limits, help, and when it applies.

A class here is a group of options that belong together; a class of classes is what a function or a command takes.
Options of the command line alone stand with their commands. To add an option, write one line into the class of those
it belongs to and use it where it acts::

    sharpness: float = option(1.0, "power of each weight before it is drawn", above=0, needs="save_fig_path")

`declarations` says what may stand in such a line.
"""

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .declarations import Options, option
from .errors import OptionError
from .kinds import Kind, Pooling, Reduction
from .selections import check_numbers, parse_heads, parse_names, parse_spans

if TYPE_CHECKING:
    import matplotlib.colors

Precision = Literal["float32", "float16"]
AblationMode = Literal["zero", "mean", "uniform", "bos"]
Weighting = Literal["attention", "value_norm"]
Sink = Literal["keep", "hide", "renormalise"]
Norm = Literal["linear", "power", "log", "quantile"]
When = Literal["pass", "steps"]
ModelPrecision = Literal["auto", "float32", "float16", "bfloat16"]
Theme = Literal["auto", "light", "dark"]
Format = Literal["jpg", "png", "pdf", "svg", "svgz"]
Overview = Literal["birds_eye", "last_token", "sinks", "similarity"]
Grouping = Literal["words", "sentences", "segments"] | Sequence[tuple[str, int, int]]
FilePath = str | os.PathLike[str]
MOST_NEW_TOKENS = 1_000_000  # more than any model is made for; a number past it is a mistake that would run for days
LARGEST_WEIGHT = 1e30  # float32, which weights have, ends soon after
LARGEST_PAGE = 1000  # inches of a side, and points of a letter: past it, no program draws a page
CACHE = "load_attention_scores_path"


def captured(default: Any, help: str, **more: Any) -> Any:
    """Declare an option of running a model, which has no use beside a cache."""
    return option(default, help, apart=CACHE, **more)


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
class ProgressOptions(Options):
    """Messages."""

    progress: bool | None = option(
        None, "whether to show a bar on stderr; left out, only when stderr is a terminal", words=()
    )


def choose_precision() -> Any:
    """Declare the precision of a model's parameters, which is called otherwise where that of weights is chosen too."""
    return captured("auto", "precision that the model is loaded in; auto is the checkpoint's", words="dtype")


@dataclass(frozen=True, kw_only=True)
class SourceOptions(ProgressOptions):
    """Where a model comes from and goes to."""

    device_map: Any = captured(
        None, "where it goes, as transformers takes it: auto, cpu, cuda:0, … (needs accelerate)", metavar="MAP"
    )
    revision: str | None = captured(None, "branch, tag or commit on the hub", metavar="NAME")
    trust_remote_code: bool = captured(False, "let code of the checkpoint run, which is a stranger's program")
    attn_implementation: str | None = captured(
        None, "as transformers takes it; left out, the model keeps its own fast attention", words=()
    )


@dataclass(frozen=True, kw_only=True)
class LoadingOptions(SourceOptions):
    """How a model is loaded."""

    dtype: ModelPrecision = choose_precision()


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
        "layers together stay under 512 MB, then the mean where a picture is among the keys, and pooled past that",
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
class StepOptions(CaptureOptions):
    """Which forward passes are kept, and what of them."""

    when: When = captured(
        "pass",
        "pass keeps the weights of one forward pass, for a generation one over prompt and completion after it; steps "
        "those of every forward pass as it runs",
        needs="max_new_tokens",
    )


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
class GenerationOptions(StepOptions, PassOptions):
    """What a model generates after the prompt, and what is kept."""

    max_new_tokens: int | None = captured(
        None,
        "generate up to so many tokens, and show the attention over prompt and completion",
        metavar="N",
        at_least=1,
        at_most=MOST_NEW_TOKENS,
    )
    generate_options: Mapping[str, Any] | None = captured(
        None, "more arguments of the model's `generate`", words=(), needs="max_new_tokens"
    )
    on_step: Callable[[Any], object] | None = captured(
        None,
        "called with an `AttentionStep` for each token, as soon as it is chosen; what it raises ends the generation",
        words=(),
        needs="when=steps",
    )


@dataclass(frozen=True, kw_only=True)
class PictureOptions(Options):
    """A picture."""

    image: Any = option(
        None,
        "picture that goes before the prompt, in a user's message through the chat template of the model's processor: "
        "a file, PIL image or 8-bit array; adds the pages overlay and modality_share; on a command line without "
        "model_path, the demo model that sees runs",
        metavar="FILE",
        apart=(CACHE, "chat", "pair", "prompt_ids"),
    )


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """What to read in place of running a model."""

    load_attention_scores_path: FilePath | None = option(
        None, "a .pt cache to draw from, in place of a model and a prompt", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class ColormapOptions(Options):
    """Colours."""

    cmap: "str | matplotlib.colors.Colormap | None" = option(
        None, "a matplotlib colour map; left out, the one of this package", metavar="NAME", needs="save_fig_path"
    )


@dataclass(frozen=True, kw_only=True)
class NormOptions(ColormapOptions):
    """From numbers to colours."""

    norm: "Norm | matplotlib.colors.Normalize" = option(
        "linear",
        "scale from numbers to colours; quantile is linear and ends at the 99 % quantile of what is shown",
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class SinkOptions(Options):
    """The first token."""

    sink: Sink = option(
        "keep",
        "what happens to the first token, which often takes most of the weight: nothing; its column and its own row "
        "are left out; the same, and each row is divided by what is left of it",
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class ColourOptions(NormOptions, SinkOptions):
    """From weights to colours."""


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(NormOptions):
    """Ends of the scale from numbers to colours."""

    vmin: float = option(
        0.0,
        "where the scale begins",
        metavar="W",
        at_least=-LARGEST_WEIGHT,
        at_most=LARGEST_WEIGHT,
        needs="save_fig_path",
    )
    vmax: float | None = option(
        None,
        "where the scale ends; left out, a round number from the largest weight up, not counting queries that see "
        "almost no keys, nor a few weights that would hide all others",
        metavar="W",
        at_least=-LARGEST_WEIGHT,
        at_most=LARGEST_WEIGHT,
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class MapOptions(ColourOptions, ScaleOptions):
    """How weights are shown."""

    scale: Literal["shared", "panel"] = option(
        "shared",
        "one scale for all panels, or one for each with its end in the title",
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """How panels stand."""

    num_figs_per_row: int | Literal["auto"] | None = option(
        None,
        "panels side by side, auto for a page without empty places that is about as high as wide; left out, 4, and on "
        "pages of a given width as many as fit them best",
        metavar="N",
        parse=lambda text: text if text == "auto" else int(text),
        at_least=1,
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class PanelOptions(MapOptions, ColumnOptions):
    """How panels of weights look."""


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
        at_most=LARGEST_PAGE,
        needs="save_fig_path",
    )
    dark: bool = option(False, "light on dark, as dark presets are anyway", needs="save_fig_path")
    fontsize: float | None = option(
        None,
        "font size of labels in points; everything else grows with it",
        metavar="POINTS",
        above=0,
        at_most=LARGEST_PAGE,
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class FigureOptions(VenueOptions):
    """Where figures go, and for whom they are made."""

    save_fig_path: FilePath | None = option(None, "folder of the figures", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class ChosenOptions(Options):
    """Chosen heads."""

    panels: Sequence[tuple[int, int]] | None = option(
        None,
        "chosen heads to draw side by side, (layer, head) each",
        metavar="5.2,18.6",
        parse=parse_heads,
        needs="save_fig_path",
    )


@dataclass(frozen=True, kw_only=True)
class LookOptions(PanelOptions, FigurePageOptions, FigureOptions, ChosenOptions):
    """How the figures of a prompt look."""

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


def parse_query(text: str) -> int | str | tuple[int, int]:
    """Read a token such as ``12``, a patch such as ``3,5``, or a piece of the text."""
    numbers = text.split(",")
    if not all(part.strip().lstrip("-").isdecimal() for part in numbers) or len(numbers) > 2:
        return text
    return int(text) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, kw_only=True)
class OverlayOptions(ChosenOptions, ColumnOptions, ScaleOptions, FigurePageOptions):
    """What is laid over a picture, and how."""

    query: int | str | tuple[int, int] | None = option(
        None,
        "who looks: a position among the queries, a piece of their text, row and column of a patch, or completion, a "
        "panel for each word of it with the weights of the token before, which chose it; left out, CLS, else the last",
        metavar="N|TEXT|ROW,COLUMN|completion",
        parse=parse_query,
    )
    layers: Sequence[int] | None = option(
        None, "layers to show; left out, all", metavar="0,4-7", read=_numbers("layer"), apart="panels"
    )
    head: int | None = option(None, "one head; left out, the mean over heads", metavar="H", at_least=0, apart="panels")
    picture: int = option(0, "which picture of the prompt, counted from 0", metavar="N", at_least=0)
    part: str | None = option(
        None,
        "what the model saw of it: thumbnail, tile 0,1, frame 3; left out, tiles where there are some",
        metavar="PART",
    )
    cover: float = option(
        0.7, "sides of the squares, as a share of those of a patch", metavar="SHARE", above=0, at_most=1
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
    theme: Theme = option("auto", "colours; auto is the reader's choice", needs="html_path")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(PageOptions, ProgressOptions):
    """How a page is made, and whether a bar shows it."""


@dataclass(frozen=True, kw_only=True)
class CompletionPageOptions(ExportOptions, state="view=text"):
    """The pages of completions."""

    average_heads: bool = option(False, "show the mean over the heads of each layer in place of the heads")
    zero_first_token: bool = option(
        False,
        "open with the weights on the first token counted as zero and the scale without them; they stay in the page, "
        "where a click brings them back",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(CacheOptions, ProgressOptions):
    """What is read, written and drawn for a prompt."""

    save_attention_scores: bool = option(
        False,
        "write the cache {model_id}_attn_scores.pt",
        apart=CACHE,
        needs="save_attention_scores_path",
    )
    save_attention_scores_path: FilePath | None = option(
        None, "folder of the cache", metavar="DIR", needs="save_attention_scores"
    )
    plot_figs_per_head: bool = option(False, "draw a page of all heads for every layer too", needs="save_fig_path")
    ignore_first_token: bool = option(False, "the same as sink=hide", needs="save_fig_path")
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


@dataclass(frozen=True, kw_only=True)
class ViewOptions(PictureOptions, GenerationOptions, PageOptions, LookOptions, RunOptions, reduction="auto"):
    """All options of `view_attention`."""
