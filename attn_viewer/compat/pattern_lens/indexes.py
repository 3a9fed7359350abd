"""Indexes of a data folder; the browser over it is ``attn-viewer serve``."""

import html
from pathlib import Path
from typing import Any

from ...errors import OptionError
from ...files import write_whole
from ...pipeline.indexes import generate_functions_jsonl as generate_functions_jsonl
from ...pipeline.indexes import generate_models_jsonl as generate_models_jsonl
from ...pipeline.indexes import generate_prompts_jsonl as generate_prompts_jsonl
from ...pipeline.indexes import get_func_metadata as get_func_metadata
from ...storage.folder import DataFolder


def write_html_index(path: Path, cfg_single: None = None, cfg_patternlens: None = None) -> None:
    """Write ``index.html``: every prompt, with a link to its folder of figures, for any browser and no server.

    Settings of pattern-lens's own pages (`cfg_single`, `cfg_patternlens`) are refused: those pages are not here.
    """
    if (cfg_single, cfg_patternlens) != (None, None):
        raise OptionError("cfg_single and cfg_patternlens are settings of pattern-lens's own pages; leave them out")
    lines = ["<!DOCTYPE html>", '<meta charset="utf-8">', "<title>Attention of stored prompts</title>"]
    for model in DataFolder(path).list_models():
        lines.append(f"<h1>{html.escape(model.title)}</h1>")
        lines += [_link(f"{model.name}/prompts/{prompt['hash']}/", prompt) for prompt in model.list_prompts()[0]]
    write_whole(Path(path) / "index.html", "\n".join([*lines, ""]).encode(errors="replace"))


def _link(place: str, prompt: dict[str, Any]) -> str:
    text = " ".join(str(prompt.get("text", prompt["hash"])).split())
    return f'<p><a href="{html.escape(place)}">{html.escape(text[:100])}</a></p>'
