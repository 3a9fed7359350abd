"""Every error that Attention Viewer raises on purpose, one tree.

A message names what came, what was expected and what to do.
"""

import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Characters; what came may be as long as it likes.
LONGEST_MESSAGE = 600

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shorten(value: Any) -> str:
    """Write any value for a message: one line, whatever it holds, at a bounded cost."""
    try:
        return cut(" ".join(_SHORT.repr(value).split()))
    except Exception:  # a stranger's __repr__, or a number of more digits than Python writes
        return f"a {type(value).__name__}"


def cut(text: str) -> str:
    """Return a text for a message, cut where it is longer than a line."""
    return text if len(text) <= 160 else f"{text[:150]}…"


def find_nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing where no known name is near."""
    import difflib  # only for a message

    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def describe_error(error: Exception) -> str:
    """Write what another library's error says for a message; its type where it says nothing."""
    return cut(" ".join(str(error).split())) or type(error).__name__


class AttnViewerError(Exception):
    """Base of all errors of this package; ``except AttnViewerError`` catches them all."""

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= LONGEST_MESSAGE:
            return text
        return f"{text[: LONGEST_MESSAGE - 200]} … ({len(text):,} characters) … {text[-150:]}"


class OptionError(AttnViewerError, ValueError):
    """An option has a value that cannot be used (a layer that is not there, an unknown format)."""


class PageSizeError(OptionError):
    """A figure does not fit the page that it is for, a venue's or one of the caller's size."""


class ArgumentError(OptionError, TypeError):
    """An argument has the wrong type, or a name that is not known."""


class InvalidMapsError(AttnViewerError, ValueError):
    """Arrays and labels do not make up valid `AttentionMaps`."""


class PromptError(AttnViewerError, ValueError):
    """A prompt cannot be turned into tokens (empty, no chat template, ids outside the vocabulary)."""


class ModelLoadError(AttnViewerError, OSError):
    """A model or tokenizer cannot be found or loaded."""


class CaptureError(AttnViewerError, RuntimeError):
    """A forward pass did not give the attention weights of every layer."""


class CircuitError(AttnViewerError, ValueError):
    """A model's heads have no query–key and output–value products that are fixed matrices."""


class CacheError(AttnViewerError, ValueError):
    """A cache file is missing, damaged, unsafe or not what it claims to be."""


class FigureError(AttnViewerError, RuntimeError):
    """Figure functions raised; `failures` says which, on which heads, and `paths` what was written all the same."""

    def __init__(self, paths: Sequence[Path], failures: Sequence[object]) -> None:
        super().__init__(paths, failures)
        self.paths, self.failures = paths, failures

    def __str__(self) -> str:
        listed = "".join(f"\n  {failure}" for failure in self.failures)
        return f"figures that failed: {len(self.failures)}; all others are written:{listed}"


class OutputError(AttnViewerError, OSError):
    """A file or folder cannot be written."""


class UnsuitableMapsError(AttnViewerError, ValueError):
    """Maps do not hold what a number is computed from (pooled cells where every weight is needed)."""


class MapsMismatchError(AttnViewerError, ValueError):
    """Two maps that should show the same prompt differ in tokens, layers, heads or what was kept of them."""


class GetActivationsError(AttnViewerError, ValueError):
    """Base of what can go wrong with the prompts and activations of a data folder."""


class ActivationsMissingError(GetActivationsError, FileNotFoundError):
    """A data folder has no such model, prompt or activations."""


class ActivationsMismatchError(GetActivationsError):
    """Two things that belong together differ: a prompt and the one stored, a model and its config."""


class ActivationsDamagedError(GetActivationsError):
    """A file of a data folder is truncated, unsafe or not what it claims to be."""


class InvalidPromptError(GetActivationsError):
    """A prompt of a data set has no text, no usable hash, or is no JSON object."""


class WorkerError(AttnViewerError, RuntimeError):
    """Processes that shared the work died."""
