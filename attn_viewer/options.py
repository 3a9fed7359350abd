"""Every option that no other module of options has, declared once: default, type, limits, help, when it applies.

A class here is a group of options that belong together; a class of classes is what a function or a command takes.
Options of the command line alone stand with their commands. To add an option, write one line into the class of those
it belongs to and use it where it acts::

    sharpness: float = option(1.0, "power of each weight before it is drawn", above=0, needs="save_fig_path")

`declarations` says what may stand in such a line.
"""

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .capture_options import (
    CACHE,
    GenerationOptions,
    PictureOptions,
    ProgressOptions,
    read_numbers,
)
from .capture_options import (
    CaptureOptions as CaptureOptions,
)
from .declarations import Options, option
from .selections import parse_heads, parse_names, parse_spans, parse_workers

if TYPE_CHECKING:
    import matplotlib.colors

AblationMode = Literal["zero", "mean", "uniform", "bos"]
Sink = Literal["keep", "hide", "renormalise"]
Norm = Literal["linear", "power", "log", "quantile"]
Theme = Literal["auto", "light", "dark"]
Format = Literal["jpg", "png", "pdf", "svg", "svgz"]
Overview = Literal["birds_eye", "last_token", "sinks", "similarity"]
Grouping = Literal["words", "sentences", "segments"] | Sequence[tuple[str, int, int]]
FilePath = str | os.PathLike[str]
LARGEST_WEIGHT = 1e30  # float32, which weights have, ends soon after
LARGEST_PAGE = 1000  # inches of a side: past it, no program draws a page
LARGEST_LETTER = 72  # points: past it, letters of a page lie over each other


def drawn(default: Any, help: str, **more: Any) -> Any:
    """Declare an option of figures, which has no use where none are written."""
    return option(default, help, needs="save_fig_path", **more)


def read_format(name: object) -> object:
    """Return a figure format's name in lower case, without a dot; ``jpeg`` is ``jpg``."""
    if not isinstance(name, str):
        return name
    name = name.lower().lstrip(".")
    return "jpg" if name == "jpeg" else name


def parse_grouping(text: str) -> Grouping:
    """Read words, sentences or segments, or spans such as ``system:0:25,user:25:40``."""
    return parse_spans(text) if ":" in text else text  # type: ignore[return-value]


class CacheOptions(Options):
    """What to read in place of running a model."""

    load_attention_scores_path: FilePath | None = option(
        None, "a .pt cache to draw from, in place of a model and a prompt", metavar="FILE"
    )


class ColormapOptions(Options):
    """Colours."""

    cmap: "str | matplotlib.colors.Colormap | None" = drawn(
        None, "a matplotlib colour map; left out, the one of this package", metavar="NAME"
    )


class NormOptions(ColormapOptions):
    """From numbers to colours."""

    norm: "Norm | matplotlib.colors.Normalize" = drawn(
        "linear", "scale from numbers to colours; quantile is linear and ends at the 99 % quantile of what is shown"
    )


class SinkOptions(Options):
    """The first token."""

    sink: Sink = drawn(
        "keep",
        "what happens to the first token, which often takes most of the weight: nothing; its column and its own row "
        "are left out; the same, and each row is divided by what is left of it",
    )


class ColourOptions(NormOptions, SinkOptions):
    """From weights to colours."""


class ScaleOptions(NormOptions):
    """Ends of the scale from numbers to colours."""

    vmin: float = drawn(0.0, "where the scale begins", metavar="W", at_least=-LARGEST_WEIGHT, at_most=LARGEST_WEIGHT)
    vmax: float | None = drawn(
        None,
        "where the scale ends; left out, a round number from the largest weight up, not counting queries that see "
        "almost no keys, nor a few weights that would hide all others",
        metavar="W",
        at_least=-LARGEST_WEIGHT,
        at_most=LARGEST_WEIGHT,
        apart=("norm=quantile", "scale=panel"),
    )


class MapOptions(ColourOptions, ScaleOptions):
    """How weights are shown."""

    scale: Literal["shared", "panel"] = drawn(
        "shared", "one scale for all panels, or one for each with its end in the title"
    )


class ColumnOptions(Options):
    """How panels stand."""

    num_figs_per_row: int | Literal["auto"] | None = drawn(
        None,
        "panels side by side, auto for a page without empty places that is about as high as wide; left out, 4, and on "
        "pages of a given width as many as fit them best",
        metavar="N",
        parse=lambda text: text if text == "auto" else int(text),
        at_least=1,
    )


class PanelOptions(MapOptions, ColumnOptions):
    """How panels of weights look."""


class PresetOptions(Options):
    """The venue that figures are made for."""

    preset: str | None = drawn(
        None,
        "a venue such as icml2024 or neurips2024: figures as wide as its columns and no higher than its pages, in its "
        "fonts and font sizes (needs tueplots)",
        metavar="NAME",
    )
    columns: Literal[1, 2] = option(1, "columns of the venue's page that a figure spans", needs="preset")


class VenueOptions(PresetOptions):
    """The format of figures, and the venue they are made for."""

    fig_format: Format = drawn("jpg", "file format of the figures", read=read_format)


class FigurePageOptions(PresetOptions):
    """How the page of a figure looks."""

    title: str | None = drawn(
        None, "what a page shows, after the model's name; left out, what is drawn", metavar="TEXT"
    )
    heading: bool = option(
        True, "whether model and title stand above a figure; in a paper the caption says them", words=()
    )
    notes: bool | Sequence[str] = option(
        True, "whether what was done to the data stands above a figure, or phrases to add to it", words=()
    )
    figsize: tuple[float, float] | None = option(None, "width and height of a page in inches", words=(), apart="width")
    width: float | None = drawn(
        None,
        "width of a page in inches; left out, as the venue has it, or what the page needs",
        metavar="INCHES",
        above=0,
        at_most=LARGEST_PAGE,
    )
    dark: bool = drawn(False, "light on dark, as dark presets are anyway")
    fontsize: float | None = drawn(
        None,
        "font size of labels in points; everything else grows with it",
        metavar="POINTS",
        above=0,
        at_most=LARGEST_LETTER,
    )


class FigureOptions(VenueOptions):
    """Where figures go, and for whom they are made."""

    save_fig_path: FilePath | None = option(None, "folder of the figures", metavar="DIR")


class ScatterOptions(Options):
    """All heads as points."""

    scatter: Sequence[str] = option(
        (),
        "two scores to draw all heads by, as points, and one for their colour",
        metavar="X,Y,COLOUR",
        parse=parse_names,
        needs="save_fig_path",
    )


class ChosenOptions(Options):
    """Chosen heads."""

    panels: Sequence[tuple[int, int]] | None = drawn(
        None, "chosen heads to draw side by side, (layer, head) each", metavar="5.2,18.6", parse=parse_heads
    )


class LookOptions(PanelOptions, FigurePageOptions, FigureOptions, ChosenOptions):
    """How the figures of a prompt look."""

    group: Grouping | None = drawn(
        None,
        "draw the attention between words, sentences, segments or spans of tokens (name, start, stop) in place of "
        "tokens; a cache keeps the tokens",
        words=("group", "spans"),
        metavar="words|sentences|segments|NAME:0:25,…",
        parse=parse_grouping,
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


MOST_PANELS = 400  # of a page of overlays, one a word


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
        None, "layers to show; left out, all", metavar="0,4-7", read=read_numbers("layer"), apart="panels"
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


class ExportOptions(PageOptions, ProgressOptions):
    """How a page is made, and whether a bar shows it."""


class CompletionPageOptions(ExportOptions, state="view=text"):
    """The pages of completions."""

    average_heads: bool = option(False, "show the mean over the heads of each layer in place of the heads")
    zero_first_token: bool = option(
        False,
        "open with the weights on the first token counted as zero and the scale without them; they stay in the page, "
        "where a click brings them back",
    )


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
    plot_figs_per_head: bool = drawn(False, "draw a page of all heads for every layer too")
    ignore_first_token: bool = drawn(False, "the same as sink=hide", apart="sink=keep")
    figures: str | Collection[str] | None = drawn(
        None,
        "registered figure functions to run on the weights of every head, names or glob patterns; they get the "
        "weights as they are, whatever sink and scale",
        metavar="NAME,svd*",
        parse=parse_names,
    )
    html_path: FilePath | None = option(None, "interactive page to write, one HTML file", words="html", metavar="FILE")
    parallel: bool | int = drawn(
        1,
        "processes that draw the pages of heads, True for one a core; used where that takes less time, and the files "
        "are the same",
        metavar="N",
        parse=parse_workers,
        at_least=1,
    )


class ViewOptions(PictureOptions, GenerationOptions, PageOptions, LookOptions, RunOptions, reduction="auto"):
    """All options of `view_attention`."""
