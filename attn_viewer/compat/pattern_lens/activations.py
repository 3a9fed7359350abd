"""Attention weights of prompts, stored: ``python -m attn_viewer.compat.pattern_lens.activations``.

A model is a HookedTransformer of TransformerLens 3, a TransformerBridge of 4, or the class of that name here, which
captures any transformers model under its fast attention, a prompt at a time. `names_filter` may let attention patterns
through alone. Stacked heads lie in their file with axes ``(n_layers, n_heads, n_ctx, n_ctx)``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ActivationsDamagedError, ActivationsMissingError, OptionError
from ...maps import AttentionMaps
from ...pipeline.activations import name_model
from ...pipeline.prompts import take_samples
from ...storage.folder import ACTIVATIONS, DataFolder
from ...storage.objects import dump_object, load_plain
from .consts import ATTN_PATTERN_REGEX, DATA_DIR, CallError, ReturnCache, make_parser
from .hooked import HookedTransformer
from .indexes import generate_models_jsonl, generate_prompts_jsonl, write_html_index
from .load_activations import activations_exist, augment_prompt_with_hash, load_activations
from .prompts import load_text_data

NamesFilter = Callable[[str], bool] | re.Pattern[str]


def compute_activations(
    prompt: dict[str, Any],
    model: Any = None,
    save_path: Path = Path(DATA_DIR),
    names_filter: NamesFilter = ATTN_PATTERN_REGEX,
    return_cache: ReturnCache = "torch",
    stack_heads: bool = False,
) -> tuple[Path, Any]:
    """Run a prompt and store its weights; return the file and the weights, stacked with a batch axis before them."""
    if return_cache not in ("torch", "numpy", None):
        raise OptionError(f"invalid return_cache {return_cache!r}: give 'torch', 'numpy' or None")
    ((path, cache),) = _run([prompt], model, save_path, names_filter, stacked=stack_heads)
    if return_cache == "numpy":
        cache = {name: weights.numpy() for name, weights in cache.items()}
    if stack_heads and return_cache is not None:
        layers = [*cache.values()]
        return path, np.stack(layers, 1) if return_cache == "numpy" else layers[0].new_tensor(np.stack(layers, 1))
    return path, None if return_cache is None else cache


def compute_activations_batched(
    prompts: Sequence[dict[str, Any]],
    model: Any,
    save_path: Path = Path(DATA_DIR),
    names_filter: NamesFilter = ATTN_PATTERN_REGEX,
    seq_lens: Sequence[int] | None = None,
) -> list[Path]:
    """Run prompts together and store the weights of each; `seq_lens` counts their tokens, if that is known."""
    if len(prompts) == 0:
        raise CallError("prompts must not be empty")
    seq_lens = [model.to_tokens(p["text"]).shape[1] for p in prompts if "text" in p] if seq_lens is None else seq_lens
    return [path for path, _ in _run(prompts, model, save_path, names_filter, seq_lens)]


def _run(
    prompts: Sequence[dict[str, Any]],
    model: Any,
    save_path: Path,
    names_filter: NamesFilter,
    seq_lens: Sequence[int | None] = (None,),
    *,
    stacked: bool = False,
) -> list[tuple[Path, dict[str, Any]]]:
    if not hasattr(model, "run_with_cache"):
        raise CallError(f"a model must be a HookedTransformer or TransformerBridge, got {type(model).__name__}")
    if missing := [key for key in ("text", "hash") if any(key not in prompt for prompt in prompts)]:
        raise CallError(f"each prompt needs {missing[0]!r} (augment_prompt_with_hash makes a hash)")
    if len(seq_lens) != len(prompts):
        raise CallError(f"seq_lens length mismatch: {len(seq_lens)} for {len(prompts)} prompts")
    is_wanted = names_filter.match if isinstance(names_filter, re.Pattern) else names_filter
    texts = [prompt["text"] for prompt in prompts]
    # What is right of a text changes nothing in it only where queries see no later keys.
    padding = {"padding_side": "right"} if len(texts) > 1 else {}
    _, cache = model.run_with_cache(
        texts if padding else texts[0], names_filter=lambda name: bool(is_wanted(name)), return_type=None, **padding
    )
    if others := [name for name in cache if not ATTN_PATTERN_REGEX.fullmatch(name)]:
        raise CallError(f"names_filter must let attention patterns through alone, not {others[0]!r}")
    written = []
    for i, (prompt, n) in enumerate(zip(prompts, seq_lens, strict=True)):
        weights = {name: layer[i : i + 1, :, :n, :n].detach().float().cpu() for name, layer in cache.items()}
        written.append((_store(prompt, model, save_path, weights, stacked), weights))
    return written


def _store(prompt: dict[str, Any], model: Any, save_path: Path, weights: dict[str, Any], stacked: bool) -> Path:
    tokens = prompt.get("tokens") or model.tokenizer.tokenize(prompt["text"])
    prompt.update(n_tokens=len(tokens), tokens=tokens)
    arrays = [layer[0].numpy() for layer in weights.values()]
    n = arrays[0].shape[-1]
    starts = ["<bos>"] * (n - len(tokens))
    labels = [*starts, *tokens] if len(starts) < 2 and len(tokens) <= n else [str(i) for i in range(n)]
    name = name_model(model.cfg.model_name)
    layers = [int(re.findall(r"\d+", key)[0]) for key in weights]
    maps = AttentionMaps(arrays, labels, layers=layers, model_id=name)
    place = DataFolder(save_path).get_model(name)
    if len(layers) == getattr(model.cfg, "n_layers", len(layers)):
        place.save_config(
            maps, **json_serialize(asdict(model.cfg) if hasattr(model.cfg, "__dataclass_fields__") else {})
        )
    return place.get_prompt(prompt).save(maps, stacked=stacked)


def json_serialize(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts of a model as plain types, without those that the folder counts itself."""
    counted = ("model_name", "n_layers", "n_heads")
    plain = {name: value for name, value in facts.items() if name not in counted}
    return dict(load_plain(dump_object(plain)))


def get_activations(
    prompt: dict[str, Any],
    model: Any,
    save_path: Path = Path(DATA_DIR),
    allow_disk_cache: bool = True,
    return_cache: ReturnCache = "numpy",
) -> tuple[Path, Any]:
    """Read a prompt's weights, or compute and store them; `model` may be what `HookedTransformer` loads one from."""
    name = name_model(model if isinstance(model, str) else model.cfg.model_name)
    augment_prompt_with_hash(prompt)
    if allow_disk_cache and return_cache is None and activations_exist(name, prompt, save_path):
        return DataFolder(save_path).get_model(name).get_prompt(prompt).path / ACTIVATIONS, None
    if allow_disk_cache and return_cache is not None:
        try:
            return load_activations(name, prompt, save_path, return_cache)
        except (ActivationsMissingError, ActivationsDamagedError):
            pass
    model = HookedTransformer.from_pretrained(model) if isinstance(model, str) else model
    return compute_activations(prompt=prompt, model=model, save_path=save_path, return_cache=return_cache)


def activations_main(
    model_name: str,
    save_path: str | Path,
    prompts_path: str,
    raw_prompts: bool,
    min_chars: int,
    max_chars: int,
    force: bool,
    n_samples: int | None,
    no_index_html: bool,
    shuffle: bool = False,
    stacked_heads: bool = False,
    device: Any = None,
    batch_size: int = 32,
) -> None:
    """Compute and store the weights of many prompts, the longest first."""
    model = HookedTransformer.from_pretrained(model_name, device=device)
    root, name = Path(save_path), name_model(model.cfg.model_name)
    place = DataFolder(root).get_model(name)
    sizes = (min_chars, max_chars, shuffle)
    prompts = load_text_data(Path(prompts_path), *sizes) if raw_prompts else place.list_prompts()[0]
    prompts = take_samples(
        prompts, n_samples, (), "give JSON lines with texts of a fitting length, and raw_prompts=True"
    )
    todo = [augment_prompt_with_hash(prompt) for prompt in prompts]
    todo = [p for p in todo if force or not place.get_prompt(p).is_whole(stacked=stacked_heads)]
    lengths = {p["hash"]: model.to_tokens(p["text"]).shape[1] for p in todo}
    todo.sort(key=lambda prompt: -lengths[prompt["hash"]])
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        if stacked_heads:
            for prompt in batch:
                compute_activations(prompt, model, root, return_cache=None, stack_heads=True)
        else:
            seq_lens = [lengths[prompt["hash"]] for prompt in batch]
            compute_activations_batched(prompts=batch, model=model, save_path=root, seq_lens=seq_lens)
    generate_models_jsonl(root)
    generate_prompts_jsonl(place.path)
    if not no_index_html:
        write_html_index(root)


def main() -> None:
    """Compute what the words of the command line ask for."""
    parser = make_parser(main.__doc__)
    parser.add_argument("--prompts", "-p", help="JSON lines with 'text'; left out, the prompts of the folder")
    parser.add_argument("--min-chars", type=int, default=100)
    parser.add_argument("--max-chars", type=int, default=1000)
    parser.add_argument("--batch-size", "-b", type=int, default=32)
    parser.add_argument("--device")
    parser.add_argument("--raw-prompts", "-r", action="store_true", help="bring texts to size")
    for word in ("--no-index-html", "--shuffle", "--stacked-heads"):
        parser.add_argument(word, action="store_true")
    parser.add_argument("--force", "-f", action="store_true", help="compute what is there already")
    words = vars(parser.parse_args())
    models, prompts = words.pop("model"), words.pop("prompts")
    for model in models.split(","):
        activations_main(model_name=model, prompts_path=prompts, **words)


if __name__ == "__main__":
    main()
