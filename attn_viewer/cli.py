"""Words from a person to calls of the library. Nothing heavy is imported before the words are understood."""

import argparse
import importlib
import os
import pkgutil
import sys

from . import __version__, commands
from .errors import AttnViewerError

USAGE_ERROR, INTERRUPTED = 2, 130


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
    view = importlib.import_module(".view", commands.__name__)
    view.add_arguments(parser)
    return _run(view.run, parser.parse_args(argv), parser.prog)


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
    choices = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(commands.__path__):
        command = importlib.import_module(f".{module.name}", commands.__name__)
        description = f"{command.HELP[0].upper()}{command.HELP[1:]}."
        words = choices.add_parser(module.name, help=command.HELP, description=description)
        command.add_arguments(words)
        words.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    return _run(args.run, args, parser.prog)


def _run(job, args, prog):
    try:
        return job(args) or 0
    except AttnViewerError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; files written so far are complete", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our paths went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
