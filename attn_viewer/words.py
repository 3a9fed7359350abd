"""What several commands say alike: models, prompts, numbers of layers and heads, messages."""

import argparse
import contextlib
import logging
import re
import sys

from .errors import OptionError, PromptError

FAILED = 1
DEFAULT_PROMPT = "Summer is warm. Winter is cold.\\n"


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


def parse_spans(text):
    """Read named spans of tokens such as ``system:0:25,user:25:40``.

    Parameters
    ----------
    text : str
        ``name:start:stop``, divided by commas; `stop` itself is left out.

    Returns
    -------
    list of (str, int, int)
        The spans.

    Raises
    ------
    argparse.ArgumentTypeError
        If it cannot be read.
    """
    spans = [re.fullmatch(r"\s*(.+):(\d+):(\d+)\s*", part) for part in text.split(",")]
    if not all(spans):
        raise argparse.ArgumentTypeError(f"expected spans such as system:0:25,user:25:40, got {text!r}")
    return [(span[1], int(span[2]), int(span[3])) for span in spans]


def unescape(text):
    r"""Turn ``\n`` and ``\t`` typed on a command line into newline and tab; other backslashes stay."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def add_model_arguments(parser):
    """Declare which model to load; `load_model` reads it."""
    model = parser.add_argument_group("model (left out: the demo model of this package)")
    model.add_argument("--model_path", metavar="PATH", help="folder, .gguf file or hub name org/name")
    model.add_argument("--model_id", metavar="NAME", help="name for titles and output folder (default: the model's)")
    model.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    model.add_argument("--device_map", metavar="MAP", help="as transformers takes it: auto, cpu, cuda:0, …")
    model.add_argument("--revision", help="branch, tag or commit on the hub")
    model.add_argument("--trust_remote_code", action="store_true", help="let code of the checkpoint run (default: no)")


def add_prompt_arguments(parser, *, generates=True):
    """Declare the prompt and what may be generated after it; `read_prompt` and `read_sampling` read them."""
    prompt = parser.add_argument_group("prompt")
    which = prompt.add_mutually_exclusive_group()
    which.add_argument(
        "--prompt", default=DEFAULT_PROMPT, help=r"text; \n and \t become newline and tab (default: '%(default)s')"
    )
    which.add_argument("--prompt_file", metavar="FILE", help="UTF-8 text, taken as it is")
    prompt.add_argument(
        "--chat", action="store_true", help="send the prompt as a user message through the chat template"
    )
    if not generates:
        return
    prompt.add_argument("--max_new_tokens", type=int, metavar="N", help="generate, and show prompt and completion")
    prompt.add_argument("--temperature", type=float, metavar="T", help="sample the completion (default: greedy)")
    prompt.add_argument("--seed", type=int, metavar="N", help="seed of the sampling, or of random tokens")
    prompt.add_argument("--decoder_prompt", metavar="TEXT", help="what an encoder-decoder has said so far")


def add_weight_arguments(parser):
    """Declare which weights are captured; `view_prompt` reads them."""
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
    kept.add_argument(
        "--weighting",
        default="attention",
        choices=("attention", "value_norm"),
        help="weights as they are, or each times the norm of the value that it weighs",
    )


def add_venue_arguments(figures):
    """Declare the venue that figures are for; `figures.venues.use_preset` takes it."""
    figures.add_argument(
        "--preset", metavar="NAME", help="width, fonts and font sizes of a venue: icml2024, neurips2024, … (tueplots)"
    )
    figures.add_argument(
        "--columns", type=int, default=1, choices=(1, 2), help="columns of its page that a figure spans (%(default)s)"
    )


@contextlib.contextmanager
def show_messages(is_quiet):
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


def read_sampling(args):
    """Return arguments of `generate`; sampling starts from the given seed."""
    if args.temperature is None:
        return {"do_sample": False}
    if args.temperature <= 0:
        raise OptionError(f"temperature must be above 0, got {args.temperature:g}; leave it out for greedy decoding")
    if args.seed is not None:
        import torch

        torch.manual_seed(args.seed)
    return {"do_sample": True, "temperature": args.temperature}


def read_prompt(args):
    """Return the prompt of `add_prompt_arguments`: text, or a chat message.

    Raises
    ------
    PromptError
        If the file cannot be read or the text is empty.
    """
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


def load_model(args, progress):
    """Return the model and tokenizer of `add_model_arguments`."""
    from .capture import loading

    return loading.load_model(
        args.model_path,
        dtype=args.dtype,
        device_map=args.device_map,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        progress=progress,
    )


def add_folder_arguments(parser):
    """Declare which data folder, and how many of its prompts."""
    parser.add_argument("--save-path", default="attn_data", metavar="DIR", help="the data folder (%(default)s)")
    parser.add_argument("--n-samples", type=int, metavar="N", help="only the first N prompts (all)")


def add_worker_arguments(parser, *, parallel):
    """Declare how the work is shared among processes."""
    workers = parser.add_argument_group("workers")
    workers.add_argument("--parallel", type=int, default=parallel, metavar="N", help="processes (%(default)s)")
    workers.add_argument(
        "--scheduler", metavar="tcp://HOST:PORT", help="address of a dask scheduler, or 'local' to start one"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars on stderr")


def report_run(report, unit):
    """Print what a run did; return its exit status, 1 if something failed.

    Parameters
    ----------
    report : pipeline.work.RunReport
        What it did.
    unit : str
        What its parts are.

    Returns
    -------
    int
        0 or 1.
    """
    print(f"{unit}: {report.done} done, {report.skipped} there already, {len(report.failures)} failures")
    for failure in report.failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    return FAILED if report.failures else 0


def view_prompt(args, **options):
    """Call `view_attention` for what the arguments of model, prompt and weights say, and print what it wrote.

    Parameters
    ----------
    args : argparse.Namespace
        Of a parser with all of them, ``--load_attention_scores_path`` and ``--quiet``.
    **options
        What `check_view_options` takes.

    Raises
    ------
    FigureError
        If figure functions failed; what the others wrote is printed.
    """
    from .core import check_view_options, view_attention
    from .errors import FigureError

    capture = {
        name: getattr(args, name)
        for name in (
            "queries",
            "kind",
            "reduction",
            "max_cells",
            "pooling",
            "weighting",
            "max_new_tokens",
            "decoder_prompt",
        )
    }
    progress = False if args.quiet else None
    model = tokenizer = prompt = None
    if args.load_attention_scores_path is None:
        prompt = read_prompt(args)
        check_view_options(**options)  # before minutes are spent on loading
        capture["generate_options"] = read_sampling(args)
        model, tokenizer = load_model(args, progress)
    paths = ()
    try:
        with show_messages(args.quiet):
            paths = view_attention(model, tokenizer=tokenizer, prompt=prompt, progress=progress, **options, **capture)
    except FigureError as error:
        paths = error.paths
        raise
    finally:
        for path in paths:
            print(path)
