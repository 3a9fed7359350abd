"""The folder, the names of attention weights in TransformerLens, and the words that both commands take."""

import argparse
import re
from typing import Any, Literal

import numpy as np

from ...errors import ArgumentError
from ...storage.folder import DATA_DIR as DATA_DIR

AttentionMatrix = np.ndarray[Any, Any]
ActivationCacheNp = dict[str, AttentionMatrix]
ReturnCache = Literal["numpy", "torch"] | None
ATTN_PATTERN_REGEX = re.compile(r"blocks\.(\d+)\.attn\.hook_pattern")


class CallError(ArgumentError, AssertionError):
    """A function was called with what it cannot take; pattern-lens asserts."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a command over models."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", "-m", required=True, help="names of models, by commas")
    parser.add_argument("--save-path", "-s", default=DATA_DIR, help="the data folder")
    parser.add_argument("--n-samples", "-n", type=int, help="most prompts")
    return parser
