"""The names of att_viz, all from this module: self-attention over prompts and completions, as pages.

What differs: models run on their fast attention, on the device that they are on; one page, ``AttViz-{…}.html`` in the
working folder, holds all layers and heads, pooled where they would be too many; completions are kept as a ``.pt`` of
tensors and plain types, ``{prefix}_attn_scores.pt``, in place of three pickles, which run code. The first token is
hidden in place of being set to 0. A page lays itself out, so a `RenderConfig` has no effect.

``python -m attn_viewer.compat.att_viz PAGE AMPLIFICATION FILTER`` is ``post_processing.py``: it writes
``{page}_reprocessed.html``, which opens with weights amplified (1 to 5, the root that is taken) and those below the
filter (0 to 1) left out. Both are sliders of the page, and nothing in it is lost.
"""

import argparse
import dataclasses
import enum
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..capture.generation import capture_generation
from ..capture.loading import load_model
from ..errors import AttnViewerError, OptionError
from ..files import write_whole
from ..maps import AttentionMaps
from ..storage.pt import save_scores
from ..web import completions
from ..web.page import export_html

TEMPLATE = "user\n{p}<|endoftext|>\nassistant\n"


class AttentionAggregationMethod(enum.Enum):
    """What becomes of the heads of a layer."""

    NONE = 1
    HEADWISE_AVERAGING = 2


class AttentionMatrix:
    """Attention weights of a generation: `AttentionMaps`, or what ``generate(output_attentions=True)`` hands out."""

    def __init__(self, attention_matrix: Any) -> None:
        self.attention_matrix = attention_matrix
        is_maps = isinstance(attention_matrix, AttentionMaps)
        layers = attention_matrix.weights if is_maps else attention_matrix[0]
        self.num_layers = len(layers)
        self.num_heads = layers[0].shape[0 if is_maps else 1]
        self.aggregation_method = AttentionAggregationMethod.NONE
        self.zero_first_attention = self.is_formatted = False

    def format(self, aggr_method: AttentionAggregationMethod, zero_first_attention: bool) -> None:
        """Choose what a page shows: heads or their mean, with the first token or without."""
        self.aggregation_method, self.zero_first_attention = aggr_method, zero_first_attention
        self.is_formatted = True

    def make_maps(self, tokens: Sequence[str]) -> AttentionMaps:
        """Return what is to be shown."""
        weights = self.attention_matrix
        maps = weights if isinstance(weights, AttentionMaps) else AttentionMaps.from_attentions(weights, tokens)
        return (
            maps.average_heads() if self.aggregation_method is AttentionAggregationMethod.HEADWISE_AVERAGING else maps
        )


@dataclasses.dataclass
class RenderConfig:
    """Sizes of att_viz's own page."""

    y_margin: float = 30
    line_length: float = 770
    num_chars_block: float = 11
    token_width: float = 110
    min_token_width: float = 20
    token_height: float = 22.5
    x_margin: float = 20
    matrix_width: float = 115


@dataclasses.dataclass
class Renderer:
    """Makes pages."""

    render_config: RenderConfig
    aggregation_method: AttentionAggregationMethod = AttentionAggregationMethod.NONE

    def render(
        self,
        tokens: Sequence[str],
        prompt_length: int,
        attention_matrix: AttentionMatrix,
        prettify_tokens: bool = True,
        render_in_chunks: bool = True,
    ) -> list[Path]:
        """Write a page, named by its tokens and what it shows of them.

        With `prettify_tokens` labels are text that a person reads, else `tokens`; one page needs no chunks.
        """
        matrix = attention_matrix
        maps = dataclasses.replace(matrix.make_maps(tokens), prompt_length=prompt_length)
        if not prettify_tokens or maps is matrix.attention_matrix:
            labels = tuple(tokens)[: len(maps.tokens_key)]
            maps = dataclasses.replace(maps, tokens_key=labels, tokens_query=labels)
        shown = [*tokens, prompt_length, matrix.aggregation_method.name, matrix.zero_first_attention, prettify_tokens]
        name = f"AttViz-{hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]}.html"
        return export_html(maps, name, state="view=text" + "&first=hide" * matrix.zero_first_attention)


class SelfAttentionModel:
    """A model and its tokenizer, by hub name, folder or GGUF file."""

    def __init__(self, model_name_or_directory: str) -> None:
        self.model_name_or_directory = model_name_or_directory
        self.model, self.tokenizer = self.load_model(model_name_or_directory)

    def load_model(self, model_name_or_directory: str) -> tuple[Any, Any]:
        """Return a model and its tokenizer."""
        return load_model(model_name_or_directory)

    def generate_text(
        self,
        prompt: str,
        max_new_tokens: int = 512,
        save_prefix: str | None = None,
        prompt_template: str | None = TEMPLATE,
        **generation_kwargs: Any,
    ) -> tuple[list[str], AttentionMatrix, int]:
        """Complete a prompt greedily; return the tokens of both, their attention, and how many are the prompt's."""
        maps = capture_generation(
            self.model,
            self.tokenizer,
            _fill(prompt_template, prompt),
            max_new_tokens=max_new_tokens,
            generate_options={"do_sample": False, **generation_kwargs},
        )
        if save_prefix is not None:
            save_scores(maps, Path(save_prefix).parent, name=Path(save_prefix).name)
        tokens = self.tokenizer.convert_ids_to_tokens(list(maps.ids_key))
        return tokens, AttentionMatrix(maps), maps.prompt_length


class Experiment:
    """A model whose completions are shown."""

    def __init__(self, model: SelfAttentionModel, renderer: Renderer) -> None:
        self.model, self.renderer = model, renderer

    def basic_experiment(
        self,
        prompt: str,
        aggr_method: AttentionAggregationMethod,
        max_new_tokens: int = 512,
        save_prefix: str | None = None,
        prompt_template: str | None = TEMPLATE,
        **generation_kwargs: Any,
    ) -> list[Path]:
        """Complete a prompt and write the page of its attention."""
        tokens, matrix, prompt_length = self.model.generate_text(
            prompt, max_new_tokens, save_prefix, prompt_template, **generation_kwargs
        )
        matrix.format(aggr_method, zero_first_attention=False)
        return self.renderer.render(tokens, prompt_length, matrix)


def save_completions(
    model_name_or_directory: str,
    prompts: Sequence[str],
    save_prefixes: Sequence[str],
    max_new_tokens: int = 512,
    save_prefix: str | None = None,
    prompt_template: str | None = TEMPLATE,
    **generation_kwargs: Any,
) -> list[Path]:
    """Complete prompts and keep the attention of each; `save_prefix`, one for all, is none of the words to use."""
    if save_prefix is not None:
        raise OptionError("each completion needs a prefix of its own: give save_prefixes, and leave save_prefix out")
    model, tokenizer = load_model(model_name_or_directory)
    return completions.save_completions(
        model,
        [_fill(prompt_template, prompt) for prompt in prompts],
        save_prefixes,
        max_new_tokens,
        tokenizer=tokenizer,
        generate_options={"do_sample": False, **generation_kwargs},
    )


def process_saved_completions(
    render_config: RenderConfig,
    aggregation_method: AttentionAggregationMethod,
    save_prefixes: Sequence[str],
    prettify_tokens: bool = True,
) -> list[Path]:
    """Write a page for each completion beside its file, ``{prefix}.html``, with the first token hidden."""
    if not prettify_tokens:
        raise OptionError(
            "labels are chosen when completions are saved: attn_viewer.save_completions(prettify_tokens=)"
        )
    is_mean = aggregation_method is AttentionAggregationMethod.HEADWISE_AVERAGING
    return completions.render_completions(save_prefixes, average_heads=is_mean, zero_first_token=True)


def reprocess_html(path: str | Path, amplification: float, least: float) -> Path:
    """Write a page again that opens with amplified weights, those below `least` left out."""
    if not (1 <= amplification <= 5 and 0 <= least <= 1):
        raise OptionError(f"amplification is 1 to 5 and the filter 0 to 1, got {amplification:g} and {least:g}")
    text = Path(path).read_text(encoding="utf-8")
    words = f"amp={amplification:g}&min={least:g}".replace(".", "_")
    pattern = r'("state": ?")([^"]*)(")'
    made, count = re.subn(pattern, lambda m: f"{m[1]}{'&'.join(filter(None, (m[2], words)))}{m[3]}", text, count=1)
    if not count:
        raise OptionError(f"{str(path)!r} is no page of Attention Viewer; make one with Renderer.render")
    target = Path(path).with_name(f"{Path(path).stem}_reprocessed{Path(path).suffix}")
    write_whole(target, made.encode())
    return target


def _fill(template: str | None, prompt: str) -> str:
    return prompt if template is None else template.format(p=prompt)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=reprocess_html.__doc__)
    parser.add_argument("filename")
    parser.add_argument("amplification", type=float)
    parser.add_argument("filter", type=float)
    words = parser.parse_args()
    try:
        print(reprocess_html(words.filename, words.amplification, words.filter))
    except (AttnViewerError, OSError, UnicodeDecodeError) as error:
        sys.exit(str(error))
