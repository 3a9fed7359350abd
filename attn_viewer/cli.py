"""Words from a person to calls of the library. Nothing heavy is imported before the words are understood."""

import argparse
import contextlib
import logging
import os
import re
import sys

from . import __version__
from .errors import AttnViewerError, OptionError, PromptError

DEFAULT_PROMPT = "Summer is warm. Winter is cold.\\n"
USAGE_ERROR, INTERRUPTED = 2, 130


def parse_numbers(text):
    """Read layer or head numbers such as ``0,4-7``.

    Parameters
    ----------
    text : str
        Numbers and ranges (both ends included), divided by commas.

    Returns
    -------
    list of int
        The numbers, ascending.

    Raises
    ------
    argparse.ArgumentTypeError
        If it cannot be read.
    """
    numbers = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > 100_000:
            raise argparse.ArgumentTypeError(f"expected numbers such as 0,4-7, got {text!r}")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def unescape(text):
    r"""Turn ``\n`` and ``\t`` typed on a command line into newline and tab; other backslashes stay."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def add_view_arguments(parser):
    """Declare the words of ``attn-viewer view`` and ``main.py``."""
    model = parser.add_argument_group("model (left out: the demo model of this package)")
    model.add_argument("--model_path", metavar="PATH", help="folder, .gguf file or hub name org/name")
    model.add_argument("--model_id", metavar="NAME", help="name for titles and output folder (default: the model's)")
    model.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    model.add_argument("--device_map", metavar="MAP", help="as transformers takes it: auto, cpu, cuda:0, …")
    model.add_argument("--revision", help="branch, tag or commit on the hub")
    model.add_argument("--trust_remote_code", action="store_true", help="let code of the checkpoint run (default: no)")
    prompt = parser.add_argument_group("prompt")
    which = prompt.add_mutually_exclusive_group()
    which.add_argument(
        "--prompt", default=DEFAULT_PROMPT, help=r"text; \n and \t become newline and tab (default: %(default)r)"
    )
    which.add_argument("--prompt_file", metavar="FILE", help="UTF-8 text, taken as it is")
    prompt.add_argument(
        "--chat", action="store_true", help="send the prompt as a user message through the chat template"
    )
    prompt.add_argument("--max_new_tokens", type=int, metavar="N", help="generate, and show prompt and completion")
    prompt.add_argument("--temperature", type=float, metavar="T", help="sample the completion (default: greedy)")
    prompt.add_argument("--seed", type=int, metavar="N", help="seed of the sampling")
    prompt.add_argument("--decoder_prompt", metavar="TEXT", help="what an encoder-decoder has said so far")
    kept = parser.add_argument_group("weights")
    kept.add_argument("--layers", type=parse_numbers, metavar="0,4-7", help="layers to capture and show (all)")
    kept.add_argument("--heads", type=parse_numbers, metavar="0,4-7", help="heads to capture and show (all)")
    kept.add_argument("--queries", type=int, metavar="K", help="only the last K tokens as queries (all)")
    kept.add_argument("--kind", choices=("self", "encoder", "decoder", "cross"), help="which attention")
    kept.add_argument(
        "--reduction",
        default="auto",
        choices=("auto", "full", "head_mean", "pooled"),
        help="all weights, the mean over heads, each head on a coarse grid; auto: full while that stays under 512 MB, "
        "else pooled",
    )
    kept.add_argument("--max_cells", type=int, default=256, metavar="N", help="cells a side when pooled (%(default)s)")
    kept.add_argument("--pooling", default="max", choices=("max", "mean"), help="what is kept of a cell")
    cache = parser.add_argument_group("cache")
    cache.add_argument("--save_attention_scores", action="store_true", help="write {model_id}_attn_scores.pt")
    cache.add_argument("--save_attention_scores_path", default="./attn_scores", metavar="DIR", help="(%(default)s)")
    cache.add_argument("--load_attention_scores_path", metavar="FILE", help="draw from a .pt cache, without a model")
    figures = parser.add_argument_group("figures")
    figures.add_argument("--save_fig_path", default="./vis", metavar="DIR", help="output folder (%(default)s)")
    figures.add_argument("--plot_figs_per_head", action="store_true", help="a page of all heads for every layer too")
    figures.add_argument("--num_figs_per_row", type=int, default=4, metavar="N", help="(%(default)s)")
    figures.add_argument("--ignore_first_token", action="store_true", help="the same as --sink hide")
    figures.add_argument("--sink", default="keep", choices=("keep", "hide", "renormalise"), help="the first token")
    figures.add_argument("--fig_format", default="jpg", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    figures.add_argument("--norm", default="linear", choices=("linear", "power", "log"), help="colour scale")
    figures.add_argument("--scale", default="shared", choices=("shared", "panel"), help="one scale or one a panel")
    figures.add_argument("--cmap", metavar="NAME", help="a matplotlib colour map")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and messages on stderr")


def run_view(argv=None, prog=None):
    """Run ``main.py``.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the program's name; left out, those of this process.
    prog : str, optional
        The program's name for messages.

    Returns
    -------
    int
        Exit status: 0, 2 for an error in what was asked for, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="Draw what the attention heads of a model look at, for one prompt."
    )
    add_view_arguments(parser)
    return _run(_view, parser.parse_args(argv), parser.prog)


def main(argv=None):
    """Run ``attn-viewer``.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the program's name; left out, those of this process.

    Returns
    -------
    int
        Exit status: 0, 2 for an error in what was asked for, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="attn-viewer", description="See what the attention heads of transformer models look at."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    view = commands.add_parser("view", help="capture a prompt's attention and draw it", description="Draw attention.")
    add_view_arguments(view)
    view.set_defaults(run=_view)
    args = parser.parse_args(argv)
    return _run(args.run, args, parser.prog)


def _run(job, args, prog):
    try:
        job(args)
    except AttnViewerError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; files written so far are complete", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our paths went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _view(args):
    from .core import check_view_options, view_attention

    options = {
        name: getattr(args, name)
        for name in (
            "model_id",
            "save_attention_scores",
            "save_attention_scores_path",
            "load_attention_scores_path",
            "save_fig_path",
            "plot_figs_per_head",
            "ignore_first_token",
            "num_figs_per_row",
            "fig_format",
            "cmap",
            "norm",
            "scale",
            "layers",
            "heads",
            "sink",
        )
    }
    capture = {
        name: getattr(args, name)
        for name in ("queries", "kind", "reduction", "max_cells", "pooling", "max_new_tokens", "decoder_prompt")
    }
    progress = False if args.quiet else None
    model = tokenizer = prompt = None
    if args.load_attention_scores_path is None:
        prompt = _read_prompt(args)
        check_view_options(**options)  # before minutes are spent on loading
        capture["generate_options"] = _read_sampling(args)
        model, tokenizer = _load_model(args, progress)
    with _messages(args.quiet):
        paths = view_attention(model, tokenizer=tokenizer, prompt=prompt, progress=progress, **options, **capture)
    for path in paths:
        print(path)


@contextlib.contextmanager
def _messages(is_quiet):
    """Send the package's messages to stderr."""
    log, handler = logging.getLogger(__package__), logging.StreamHandler()
    level = log.level
    if not is_quiet:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _read_sampling(args):
    """Return arguments of `generate`; sampling starts from the given seed."""
    if args.temperature is None:
        return {"do_sample": False}
    if args.temperature <= 0:
        raise OptionError(f"temperature must be above 0, got {args.temperature:g}; leave it out for greedy decoding")
    if args.seed is not None:
        import torch

        torch.manual_seed(args.seed)
    return {"do_sample": True, "temperature": args.temperature}


def _read_prompt(args):
    if args.prompt_file is None:
        text = unescape(args.prompt)
    else:
        try:
            with open(args.prompt_file, encoding="utf-8", newline="") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PromptError(f"cannot read prompt file {args.prompt_file!r} as UTF-8 text: {reason}") from error
    if not text:
        raise PromptError("the prompt is empty; give at least one character")
    return [{"role": "user", "content": text}] if args.chat else text


def _load_model(args, progress):
    from .capture.loading import load_model

    return load_model(
        args.model_path,
        dtype=args.dtype,
        device_map=args.device_map,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        progress=progress,
    )
