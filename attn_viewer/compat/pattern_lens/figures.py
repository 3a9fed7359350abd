"""Figures of stored weights, ``python -m attn_viewer.compat.pattern_lens.figures``.

A figure function that fails leaves ``{function}.error.txt``, and is tried again by the next run.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...figures.registry import select_attn_figure_funcs as select_attn_figure_funcs
from ...pipeline import figures as pipeline
from ...storage.folder import FAILED
from .attn_figure_funcs import ATTENTION_MATRIX_FIGURE_FUNCS as ATTENTION_MATRIX_FIGURE_FUNCS
from .consts import DATA_DIR, ActivationCacheNp, AttentionMatrix, make_parser
from .indexes import generate_prompts_jsonl
from .load_activations import load_activations


class HTConfigMock:
    """What is known of a model: at least `n_layers`, `n_heads` and `model_name`."""

    n_layers: int
    n_heads: int
    model_name: str

    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)

    def serialize(self) -> dict[str, Any]:
        """Return all that is known."""
        return dict(vars(self))

    @classmethod
    def load(cls, data: dict[str, Any]) -> "HTConfigMock":
        """Make one of what `serialize` returned."""
        return cls(**data)


def process_single_head(
    layer_idx: int,
    head_idx: int,
    attn_pattern: AttentionMatrix,
    save_dir: Path,
    figure_funcs: Sequence[Callable[..., Any]],
    force_overwrite: bool = False,
) -> dict[str, bool | Exception]:
    """Run figure functions on one head; return True, or what was raised, by name."""
    status: dict[str, bool | Exception] = {}
    for func in figure_funcs:
        name = func.__name__
        if force_overwrite or not pipeline.is_drawn(func, os.listdir(save_dir)):
            try:
                func(np.array(attn_pattern), save_dir)
            except Exception as error:  # the others go on
                (save_dir / f"{name}{FAILED}").write_text(f"{error}\n", encoding="utf-8")
                warnings.warn(f"{name} failed at L{layer_idx} H{head_idx}: {error}", stacklevel=2)
                status[name] = error
                continue
        status[name] = True
    return status


def compute_and_save_figures(
    model_cfg: Any,
    activations_path: Path,
    cache: ActivationCacheNp | AttentionMatrix,
    figure_funcs: Sequence[Callable[..., Any]],
    save_path: Path = Path(DATA_DIR),
    force_overwrite: bool = False,
    track_results: bool = False,
) -> None:
    """Draw figures of all heads of a prompt beside its weights."""
    for layer, head in itertools.product(range(model_cfg.n_layers), range(model_cfg.n_heads)):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0] if isinstance(cache, dict) else cache[layer]
        place = activations_path.parent / f"L{layer}" / f"H{head}"
        place.mkdir(parents=True, exist_ok=True)
        process_single_head(layer, head, pattern[head], place, figure_funcs, force_overwrite)
    generate_prompts_jsonl(save_path / model_cfg.model_name)


def process_prompt(
    prompt: dict[str, Any],
    model_cfg: Any,
    save_path: Path,
    figure_funcs: Sequence[Callable[..., Any]],
    force_overwrite: bool = False,
) -> None:
    """Read a prompt's weights and draw their figures."""
    path, cache = load_activations(model_cfg.model_name, prompt, save_path, "numpy")
    compute_and_save_figures(model_cfg, path, cache, figure_funcs, save_path, force_overwrite)


def figures_main(
    model_name: str,
    save_path: str | Path,
    n_samples: int | None,
    force: bool,
    figure_funcs_select: Collection[str] | str | None = None,
    parallel: bool | int = True,
) -> None:
    """Draw figures of the stored prompts of a model; warn of those that failed."""
    report = pipeline.figures_main(model_name, save_path, n_samples, force, figure_funcs_select, parallel)
    for failure in report.failures:
        warnings.warn(failure, stacklevel=2)


def main() -> None:
    """Draw what the words of the command line ask for."""
    parser = make_parser(main.__doc__)
    parser.add_argument("--force", "-f", type=bool, default=False, help="any word: draw what is there already")
    parser.add_argument("--figure-funcs", help="names by commas, or a pattern; left out, all")
    words = vars(parser.parse_args())
    models, funcs = words.pop("model"), words.pop("figure_funcs") or "none"
    select = None if funcs.strip().lower() == "none" else [name.strip() for name in funcs.split(",")]
    for model in models.split(","):
        figures_main(model_name=model, figure_funcs_select=select, **words)


if __name__ == "__main__":
    main()
