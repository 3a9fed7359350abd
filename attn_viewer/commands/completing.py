"""``attn-viewer completions``: capture completions where the model is, and make pages of them elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..declarations import option
from ..options import CompletionPageOptions
from .arguments import (
    Command,
    Family,
    LoadOptions,
    PromptOptions,
    QuietOptions,
    SamplingOptions,
    load_model,
    prepare_generation,
    read_prompt,
)

ENDING = "_attn_scores.pt"


class SaveWords(LoadOptions, PromptOptions, SamplingOptions, QuietOptions, max_new_tokens=40):
    """The completions."""

    prompts: str | None = option(
        None, "in place of one prompt: JSON lines with 'text', and 'name' if wanted", metavar="FILE"
    )
    output: str = option("completions", "files are DIR/{name}_attn_scores.pt", metavar="DIR")
    raw_tokens: bool = option(False, "labels are the vocabulary's entries, such as Ġcold")


def _save(asked: SaveWords) -> None:
    from ..files import check_folder, check_model_id
    from ..web.completions import save_completions

    names, prompts = _read_prompts(asked)
    for name in names:
        check_model_id(name)
    check_folder(asked.output)
    options = prepare_generation(asked)
    model, tokenizer = load_model(asked, asked.bars)
    for path in save_completions(
        model,
        prompts,
        [Path(asked.output) / name for name in names],
        tokenizer=tokenizer,
        prettify_tokens=not asked.raw_tokens,
        model_id=asked.model_id,
        progress=asked.bars,
        options=options,
    ):
        print(path)


def _read_prompts(asked: SaveWords) -> tuple[list[str], list[Any]]:
    """Return names and prompts; those of a file are numbered where they have no name."""
    if asked.prompts is None:
        return ["completion"], [read_prompt(asked)]
    from ..errors import InvalidPromptError
    from ..pipeline.prompts import load_text_data

    found = load_text_data(asked.prompts)
    if not found:
        raise InvalidPromptError(f"{asked.prompts!r} holds no prompt; write a JSON object with 'text' on each line")
    width = len(str(len(found)))
    names = [str(prompt.get("name", f"{number:0{width}}")) for number, prompt in enumerate(found, 1)]
    texts = [prompt["text"] for prompt in found]
    return names, [[{"role": "user", "content": text}] if asked.chat else text for text in texts]


class RenderWords(CompletionPageOptions, QuietOptions):
    """The pages."""

    prefixes: Sequence[str] = option(help=f"what save wrote, with or without {ENDING}", metavar="FILE")
    output: str | None = option(None, "where the pages go; left out, beside the files", metavar="DIR")


def _render(asked: RenderWords) -> None:
    from ..web.completions import render_completions

    for path in render_completions(
        [prefix.removesuffix(ENDING) for prefix in asked.prefixes],
        asked.output,
        options=CompletionPageOptions.pick(asked),
        progress=asked.bars,
    ):
        print(path)


completions = Family(
    {
        "save": ("complete prompts and save the attention over them, one file each", Command(SaveWords, _save)),
        "render": ("write a page for each saved completion; no model is loaded", Command(RenderWords, _render)),
    }
)
