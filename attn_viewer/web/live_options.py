"""What a live page may ask for, and its limits."""

from dataclasses import dataclass
from typing import Literal

from ..declarations import Options, option
from ..options import AblationMode


@dataclass(frozen=True, kw_only=True)
class LiveOptions(Options):
    """Limits of a page with a prompt box."""

    max_tokens: int = option(512, "most tokens of a prompt and its answer", metavar="N", at_least=2, needs="model_path")
    max_new_tokens: int = option(64, "most tokens of an answer", metavar="N", at_least=1, needs="model_path")
    max_maps_mb: int = option(
        1000,
        "most megabytes (10^6 bytes) of weights that a job may hold, and again of results that are kept",
        metavar="MB",
        at_least=1,
        needs="model_path",
    )


@dataclass(frozen=True, kw_only=True)
class Wanted(Options):
    """What a page asks for."""

    what: Literal["capture", "generate", "ablate"] = option("capture", "which job")
    prompt: str = option("", "the text")
    chat: bool = option(False, "whether it is a user's message")
    new_tokens: int = option(1, "most to generate", at_least=1)
    heads: str = option("", "layer.head of each to take out")
    mode: AblationMode = option("zero", "what their pattern becomes")
