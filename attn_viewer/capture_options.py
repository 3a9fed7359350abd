"""Options of running a model: how it is loaded, what goes in, and what is kept of its weights."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from .declarations import Options, option
from .errors import OptionError
from .kinds import Kind, Pooling, Reduction
from .selections import check_numbers, parse_rows

Precision = Literal["float32", "float16"]
Weighting = Literal["attention", "value_norm"]
When = Literal["pass", "steps"]
ModelPrecision = Literal["auto", "float32", "float16", "bfloat16"]
MOST_NEW_TOKENS = 1_000_000  # more than any model is made for; a number past it is a mistake that would run for days
CACHE = "load_attention_scores_path"


def captured(default: Any, help: str, **more: Any) -> Any:
    """Declare an option of running a model, which has no use beside a cache."""
    return option(default, help, apart=CACHE, **more)


def read_numbers(what: str) -> Callable[[Any], Any]:
    """Return what checks numbers of layers or heads."""
    return functools.partial(check_numbers, what=what)


class ProgressOptions(Options):
    """Messages."""

    progress: bool | None = option(
        None, "whether to show a bar on stderr; left out, only when stderr is a terminal", words=()
    )


def choose_precision() -> Any:
    """Declare the precision of a model's parameters, which is called otherwise where that of weights is chosen too."""
    return captured("auto", "precision that the model is loaded in; auto is the checkpoint's", words="dtype")


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


class LoadingOptions(SourceOptions):
    """How a model is loaded."""

    dtype: ModelPrecision = choose_precision()


class SelectionOptions(Options):
    """Which layers and heads."""

    layers: Sequence[int] | None = option(
        None, "true numbers of the layers to keep and show; left out, all", metavar="0,4-7", read=read_numbers("layer")
    )
    heads: Sequence[int] | None = option(
        None, "true numbers of the heads to keep and show; left out, all", metavar="0,4-7", read=read_numbers("head")
    )


class CaptureOptions(SelectionOptions):
    """What is kept of the weights while a model runs."""

    queries: slice | int | None = captured(
        None,
        "query tokens to keep: a range, or how many of the last ones; left out, all",
        metavar="K|2:5",
        parse=parse_rows,
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
        """Return the range of query rows to keep, of `n_query` that there are; `OptionError` if it is empty."""
        rows = self.queries if isinstance(self.queries, slice) else slice(-(self.queries or n_query), None)
        start, stop, _ = rows.indices(n_query)
        if start >= stop:
            raise OptionError(f"queries={self.queries!r} keeps none of the {n_query} query tokens")
        return slice(start, stop)


class StepOptions(CaptureOptions):
    """Which forward passes are kept, and what of them."""

    when: When = captured(
        "pass",
        "pass keeps the weights of one forward pass, for a generation one over prompt and completion after it; steps "
        "those of every forward pass as it runs",
        needs="max_new_tokens",
    )


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
        """Raise `OptionError` for all prompts of a batch, where one at a time is shown or written."""
        if self.batch_index == "all":
            raise OptionError("batch_index='all' is for capture_attention and capture_generation; give a number here")


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


class PictureOptions(Options):
    """A picture."""

    image: Any = option(
        None,
        "picture that goes before the prompt, in a user's message through the chat template of the model's processor "
        "(a prompt with the placeholder of a picture, or without a template, goes in as it is): "
        "a file, PIL image or 8-bit array; adds the pages overlay and modality_share; on a command line without "
        "model_path, the demo model that sees runs",
        metavar="FILE",
        once=True,
        apart=(CACHE, "chat", "pair", "prompt_ids"),
    )
