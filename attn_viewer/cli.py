"""Words from a person to calls of the library. Nothing heavy is imported before the words are understood."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__, commands
from .commands import COMMANDS
from .commands.arguments import Command, add_options, read_options
from .errors import AttnViewerError

USAGE_ERROR, INTERRUPTED = 2, 130


def run_view(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run ``main.py``, which is ``attn-viewer view``, on `argv` or the words of this process; return as `main`."""
    description = "Draw what the attention heads of a model look at, for one prompt."
    parser = argparse.ArgumentParser(prog=prog, description=description)
    _declare(parser, "view")
    return _run(parser, _spell(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``attn-viewer`` on `argv`, or the words of this process, and return the exit status.

    0, 1 if a part of the work failed, 2 for an error in what was asked for, 130 when interrupted.
    """
    words = _spell(argv)
    description = "See what the attention heads of transformer models look at."
    parser = argparse.ArgumentParser(prog="attn-viewer", description=description)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    choices = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        command = _add_command(choices, name, text)
        if name in words[:1]:  # the others are only listed
            _declare(command, name)
    return _run(parser, words)


def _add_command(choices: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = choices.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser


def _declare(parser: argparse.ArgumentParser, name: str) -> None:
    """Load a command and declare its words."""
    command = getattr(importlib.import_module(f"{commands.__name__}.{COMMANDS[name][0]}"), name)
    if isinstance(command, Command):
        add_options(parser, command)
        return
    steps = parser.add_subparsers(title="steps", dest="step", required=True, metavar="STEP")
    for step, (text, one) in command.steps.items():
        add_options(_add_command(steps, step, text), one)


def _spell(argv: Sequence[str] | None) -> list[str]:
    """Return ``--fig-format=png`` as ``--fig_format=png``: options may be typed either way."""
    spelled = []
    for word in sys.argv[1:] if argv is None else argv:
        name, sign, value = word.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{sign}{value}" if name.startswith("--") else word)
    return spelled


def _run(parser: argparse.ArgumentParser, words: list[str]) -> int:
    args = parser.parse_args(words)
    try:
        return args.job.run(read_options(args.job.options, args)) or 0
    except AttnViewerError as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; files written so far are complete", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our paths went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
