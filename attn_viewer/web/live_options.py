"""What a live page may ask for, and its limits."""

from collections.abc import Sequence
from typing import Literal

from ..declarations import Options, option
from ..options import AblationMode


class LiveOptions(Options):
    """Limits of a page with a prompt box."""

    max_tokens: int = option(512, "most tokens of a prompt and its answer", metavar="N", at_least=2, needs="model_path")
    max_new_tokens: int = option(64, "most tokens of an answer", metavar="N", at_least=1, needs="model_path")
    max_maps_mb: int = option(
        1000,
        "most megabytes (10^6 bytes) of weights and predictions that a job may hold, and again of kept results",
        metavar="MB",
        at_least=1,
        needs="model_path",
    )


class Wanted(Options):
    """What a page asks for."""

    model: int = option(0, "number in the list of models", at_least=0)
    what: Literal["load", "capture", "generate", "predict", "compare", "change"] = option("capture", "which job")
    prompt: str = option("", "the text")
    ids: Sequence[int] = option((), "token ids in place of the text")
    chat: bool = option(False, "whether it is a user's message, or turns, each from a line such as 'assistant: …'")
    picture: str = option("", "a picture's file in base64, which the user shows")
    other: str = option("", "an earlier prompt, to compare with")
    new_tokens: int = option(1, "most to generate", at_least=1)
    heads: str = option("", "layer.head of each to change")
    mode: Literal[AblationMode, "merge"] = option("zero", "what their patterns become")
