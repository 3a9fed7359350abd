"""Options as words of a command line, and what several commands do with them."""

import argparse
import contextlib
import dataclasses
import logging
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..capture_options import (
    CACHE,
    GenerationOptions,
    LoadingOptions,
    ModelPrecision,
    SourceOptions,
    captured,
    choose_precision,
)
from ..declarations import Options, get_declaration, list_choices, option, read_type
from ..errors import OptionError, PromptError
from ..hints import describe_hint
from ..options import FigureOptions
from ..selections import parse_names, parse_numbers

if TYPE_CHECKING:
    from ..maps import AttentionMaps
    from ..pipeline.work import RunReport

FAILED = 1
_O = TypeVar("_O", bound=Options)


@dataclass(frozen=True)
class Command:
    """A command: its options, and what does it and returns the exit status (None is 0)."""

    options: type[Options]
    run: Callable[[Any], int | None]


@dataclass(frozen=True)
class Family:
    """A command of several steps: the line of each in ``--help``, and what it does."""

    steps: dict[str, tuple[str, Command]]


class QuietOptions(Options):
    """Messages."""

    quiet: bool = option(False, "no progress bars and messages on stderr")

    @property
    def bars(self) -> bool | None:
        """Whether to show bars; None is only where stderr is a terminal."""
        return False if self.quiet else None


class NameOptions(Options):
    """Names."""

    model_id: str | None = option(None, "name for titles and output folder; left out, the model's", metavar="NAME")


class LoadOptions(NameOptions, SourceOptions):
    """The model; left out, the demo model of this package."""

    model_path: str | None = captured(None, "folder, .gguf file or hub name org/name", metavar="PATH")
    model_dtype: ModelPrecision = choose_precision()


def parse_ids(text: str) -> list[int]:
    """Read token ids such as ``5,17,5``, in their order."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"token ids are whole numbers such as 5,17,5, got {text!r:.80}") from error


class PromptOptions(Options):
    """The prompt."""

    prompt: str = option(
        "Summer is warm. Winter is cold.\\n",
        r"text; \n and \t become newline and tab",
        metavar="TEXT",
        apart=(CACHE, "prompt_file", "prompt_ids", "repeated", "prompts"),
    )
    prompt_file: str | None = option(
        None, "UTF-8 text, taken as it is", metavar="FILE", apart=(CACHE, "prompt_ids", "repeated", "prompts")
    )
    pair: str | None = option(
        None,
        "a second text, which goes in with the first as pairs of texts did when the model was trained",
        metavar="TEXT",
        apart=(CACHE, "prompt_ids", "chat", "repeated", "prompts"),
    )
    prompt_ids: Sequence[int] | None = option(
        None,
        "token ids, taken as they are, in place of text",
        metavar="5,17,…",
        parse=parse_ids,
        apart=(CACHE, "chat", "repeated", "prompts"),
    )
    chat: bool = option(False, "send the prompt as a user message through the chat template", apart=(CACHE, "repeated"))


class SamplingOptions(GenerationOptions, reduction="auto"):
    """What is generated, and what is kept."""

    temperature: float | None = captured(
        None, "sample the completion; left out, the likeliest tokens", metavar="T", above=0, needs="max_new_tokens"
    )
    seed: int | None = captured(
        None,
        "seed of the sampling, or of random tokens",
        metavar="N",
        at_least=0,
        at_most=2**64 - 1,  # which torch takes
        needs=("temperature", "repeated"),
    )


def add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """Declare the words of all options of a command, grouped by the classes that declare them."""
    kind = command.options
    parser.set_defaults(job=command)
    declared = set()
    for group in reversed([base for base in kind.__mro__ if issubclass(base, Options)]):
        names = [name for name in group.__dict__.get("_fields", {}) if name in kind._fields and name not in declared]
        declared.update(names)
        section = parser.add_argument_group(group.group_name) if names and group is not kind else parser
        for name in names:
            _add_option(section, name, kind._fields[name])


def _add_option(section: Any, name: str, field: "dataclasses.Field[Any]") -> None:
    declared, hint, choices = get_declaration(field), read_type(field), list_choices(field)
    is_first = field.default is dataclasses.MISSING
    words = (name,) if declared.words is None else declared.words
    if not words:
        return
    text, default = declared.help, field.default
    default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    if not is_first and default not in (None, False, ""):
        text += f" (default: '{default}')" if " " in str(default) else f" (default: {default})"
    options: dict[str, Any] = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
    if hint is bool:
        section.add_argument(*(f"--{word}" for word in words), dest=name, action="store_true", **options)
        return
    if choices and declared.parse is None and declared.read is None:
        options |= {"choices": choices, "type": type(choices[0])}
    else:
        options |= {
            "type": _make_reader(declared.parse or (str if is_first else _find_reader(hint)), hint),
            "metavar": declared.metavar,
        }
    if choices and declared.read is not None:
        options["metavar"] = f"{{{','.join(choices)}}}"
    if declared.alone is not None:
        options |= {"nargs": "?", "const": declared.alone}
    if is_first:
        many = {"nargs": "+"} if hint is not str else {}
        section.add_argument(name, **options | many)
    else:
        action = {"action": _Once} if declared.once else {}
        section.add_argument(*(f"--{word}" for word in words), dest=name, **action, **options)


class _Once(argparse.Action):
    """Refuse a word that is given twice, of which argparse takes the last, where several may be meant."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if hasattr(namespace, self.dest):
            raise argparse.ArgumentError(self, f"is given twice, with {values!r:.60} the second time; give it once")
        setattr(namespace, self.dest, values)


def _find_reader(hint: Any) -> Callable[[str], Any]:
    """Return what reads a word for a type."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for part in parts:
        if part in (int, float, str):
            return typing.cast(Callable[[str], Any], part)
        if typing.get_origin(part) is not None and typing.get_args(part)[:1] == (int,):
            return parse_numbers
        if typing.get_origin(part) is not None and typing.get_args(part)[:1] == (str,):
            return parse_names
    return str


def _make_reader(parse: Callable[[str], Any], hint: Any) -> Callable[[str], Any]:
    """Let argparse tell what an error of ours says, and what is expected where something else cannot be read."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be {describe_hint(hint)}, got {text!r:.80}") from error

    return read


def read_options(kind: type[_O], given: argparse.Namespace) -> _O:
    """Return the options that were typed, checked together."""
    return kind.collect({name: value for name, value in vars(given).items() if name in kind._fields})


@contextlib.contextmanager
def show_messages(is_quiet: bool) -> Iterator[None]:
    """Send the package's messages to stderr."""
    log, handler = logging.getLogger(__package__.partition(".")[0]), logging.StreamHandler()
    level = log.level
    if not is_quiet:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def unescape(text: str) -> str:
    r"""Turn ``\n`` and ``\t`` typed on a command line into newline and tab; other backslashes stay."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def read_prompt(asked: PromptOptions) -> str | tuple[str, str] | list[int] | list[dict[str, str]]:
    """Return the prompt: text, a pair of texts, token ids, or a chat message.

    Raises
    ------
    PromptError
        If the file cannot be read or the text is empty.
    """
    if asked.prompt_ids is not None:
        return list(asked.prompt_ids)
    text = unescape(asked.prompt)
    if asked.prompt_file is not None:
        try:
            with open(asked.prompt_file, encoding="utf-8", newline="") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PromptError(f"cannot read prompt file {asked.prompt_file!r} as UTF-8 text: {reason}") from error
    if not text:
        raise PromptError("the prompt is empty; give at least one character")
    if asked.pair is not None:
        return text, unescape(asked.pair)
    return [{"role": "user", "content": text}] if asked.chat else text


def load_model(asked: LoadOptions, progress: bool | None, default: str | None = None) -> tuple[Any, Any]:
    """Return the model and its tokenizer; `default` where none is named."""
    from ..capture import loading

    options = LoadingOptions(dtype=asked.model_dtype, **SourceOptions.pick(asked).as_dict())
    path = default if asked.model_path is None else asked.model_path
    return loading.load_model(path, options=options, progress=progress)


def prepare_generation(asked: SamplingOptions) -> GenerationOptions:
    """Return what is generated and kept, with how tokens are chosen; sampling starts from the given seed."""
    chosen = GenerationOptions.pick(asked)
    if asked.max_new_tokens is None:
        return chosen
    if asked.temperature is None:
        return dataclasses.replace(chosen, generate_options={"do_sample": False})
    if asked.seed is not None:
        import torch

        torch.manual_seed(asked.seed)
    return dataclasses.replace(chosen, generate_options={"do_sample": True, "temperature": asked.temperature})


def get_maps(asked: Any, make_prompt: Callable[[Any], Any] | None = None) -> "AttentionMaps":
    """Return the maps of a cache or of a prompt, which `make_prompt` may make with the tokenizer."""
    from ..core import capture_prompt, load_cache

    if asked.load_attention_scores_path is not None:
        return load_cache(asked.load_attention_scores_path, asked, asked.model_id)
    prompt, options = read_prompt(asked), prepare_generation(asked)
    model, tokenizer = load_model(asked, asked.bars)
    prompt = prompt if make_prompt is None else make_prompt(tokenizer)
    return capture_prompt(model, asked.model_id, tokenizer, prompt, options)


def check_output(asked: FigureOptions) -> None:
    """Check where figures and numbers go before a model runs: folders, files and the name of the folder below."""
    from ..files import check_file, check_folder, check_model_id

    if asked.save_fig_path is not None:
        check_folder(asked.save_fig_path)
    for path in (getattr(asked, name, None) for name in ("csv", "json")):
        if path is not None:
            check_file(path)
    if isinstance(asked, NameOptions) and asked.model_id is not None:
        check_model_id(asked.model_id)


def write_figures(asked: FigureOptions, model_id: str, figures: dict[str, Any]) -> Iterator[Path]:
    """Draw all figures, then write them below the folder as ``{model_id}/{name}.{fig_format}``; yield the paths."""
    from ..figures.formats import render_figure
    from ..files import check_model_id, expand_home, make_folder, write_whole

    # What cannot be drawn is found out before anything is written.
    contents = {name: render_figure(figure, asked.fig_format) for name, figure in figures.items()}
    place = make_folder(expand_home(asked.save_fig_path or ".") / check_model_id(model_id))
    for name, data in contents.items():
        yield write_whole(place / f"{name}.{asked.fig_format}", data)


def report_run(report: "RunReport", unit: str) -> int:
    """Print what a run did to its parts, which are `unit`; return its exit status, 1 if something failed."""
    print(f"{unit}: {report.done} done, {report.skipped} there already, {len(report.failures)} failures")
    for failure in report.failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    return FAILED if report.failures else 0
