"""Attention weights of many prompts, into a data folder.

Short prompts run together where that gives the very bits that they have alone, which the first of them show; others
run one at a time.
"""

import contextlib
import functools
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..declarations import takes_options
from ..errors import ActivationsDamagedError, ActivationsMissingError, AttnViewerError, OptionError, OutputError
from ..files import check_folder, check_model_id, expand_home, make_folder, remove_leftovers
from ..folder_options import ActivationsOptions, PromptsOptions
from ..maps import AttentionMaps
from ..options import FilePath
from ..storage.dataset import load_activations
from ..storage.folder import CONFIG, DATA_DIR, DataFolder, Model
from ..storage.hashes import compare_prompt_to_loaded
from .batches import KEPT, capture_together, encode_text, group_prompts
from .indexes import generate_functions_jsonl, generate_models_jsonl, generate_prompts_jsonl
from .prompts import load_text_data, take_samples
from .work import Outcome, RunReport, attempt, clear_when_stopped, count_workers, note_untried, run_batches

_one_at_a_time = threading.Lock()


def name_model(model_path: FilePath) -> str:
    """Name a model for a data folder: a hub name whole, of a path the last part, without ``.gguf``."""
    text = str(model_path)
    if text.endswith(".gguf") or os.path.isdir(text) or text.startswith((".", "/", "~")):
        text = expand_home(text).resolve().name.removesuffix(".gguf")
    return check_model_id(text)


@takes_options(
    ActivationsOptions,
    "save_path",
    "prompts_path",
    "raw_prompts",
    "min_chars",
    "max_chars",
    "force",
    "n_samples",
    "shuffle",
    "stacked_heads",
    "device",
)
def activations_main(model_name: FilePath, *, options: ActivationsOptions) -> RunReport:
    """Compute and store the attention weights of many prompts.

    What is there and whole is skipped, so that a run that was stopped, by whatever, goes on where it was. Each worker
    loads the model once.

    Parameters
    ----------
    model_name : str
        Hub name, folder or GGUF file of the model, or ``"demo"``.
    **options
        As `ActivationsOptions` declares them.

    Returns
    -------
    RunReport
        What was done and what was not.

    Raises
    ------
    AttnViewerError
        Of the type that says what was wrong, if nothing can be done; what is wrong with one prompt is in the report.
    """
    name = check_model_id(options.model_id or name_model(model_name))
    model = DataFolder(options.save_path).get_model(name)
    folder = check_folder(model.folder.root)
    report = RunReport()
    todo, there = _choose_prompts(model, options, report)
    if there and not todo and not (model.path / CONFIG).exists():
        todo.append(there.pop())  # with which it is written again
    report.skipped = len(there)
    if todo:
        make_folder(folder)
    store = functools.partial(_store_part, str(folder.absolute()), options.stacked_heads)
    outcomes = capture_prompts(str(model_name), name, store, todo, options, "activations")
    with clear_when_stopped(model.get_prompt(prompt).path for prompt in todo):
        for outcome in note_untried(report, outcomes, len(todo)):
            if outcome.error is None:
                report.done += 1
            else:
                report.failures.append(f"prompt {outcome.item['hash']}: {outcome.error}")
    update_indexes(model, report)
    return report


def _choose_prompts(
    model: Model, options: ActivationsOptions, report: RunReport
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the prompts to do, and those that are there and whole; what is wrong with others goes into the report."""
    todo: list[dict[str, Any]] = []
    there: list[dict[str, Any]] = []
    for prompt in choose_prompts(model, options, report):
        try:
            is_there = not options.force and model.get_prompt(prompt).is_whole(stacked=options.stacked_heads)
        except AttnViewerError as error:  # noqa: PERF203 - the other prompts can still be done
            report.failures.append(str(error))
        else:
            (there if is_there else todo).append(prompt)
    return todo, there


def choose_prompts(model: Model, options: PromptsOptions, report: RunReport) -> list[dict[str, Any]]:
    """Return the prompts that are asked for, each once; what is wrong with others goes into the report."""
    if options.prompts_path is not None:
        errors: list[AttnViewerError] = []
        sizes = {"min_chars": options.min_chars, "max_chars": options.max_chars} if options.raw_prompts else {}
        prompts = load_text_data(
            options.prompts_path, **sizes, shuffle=options.shuffle, seed=options.seed, errors=errors
        )
        lacks = "text of a fitting length (--min-chars)" if options.raw_prompts else "line with a 'text'"
        hint = f"{str(options.prompts_path)!r} has no {lacks}"
    else:
        prompts, errors = model.list_prompts()
        if options.shuffle:
            random.Random(options.seed).shuffle(prompts)
        hint = f"{str(model.folder.root)!r} has none of model {model.name!r}; give a file (--prompts)"
    report.failures += map(str, errors)
    return _drop_repeats(take_samples(prompts, options.n_samples, errors, hint), report)


def update_indexes(model: Model, report: RunReport, funcs: Sequence[Callable[..., Any]] = ()) -> None:
    """Write the indexes of models, of one model's prompts and of functions; what is wrong goes into the report."""
    for place in (model.folder.root, model.path):
        remove_leftovers(place)
    if not (model.path / CONFIG).exists():
        return
    try:
        errors = [*generate_models_jsonl(model.folder.root), *generate_prompts_jsonl(model.path)]
        if funcs:
            generate_functions_jsonl(model.folder.root, funcs)
    except OutputError as error:  # a full disk must not hide what was done and what was not
        errors = [error]
    report.failures += [text for text in map(str, errors) if text not in report.failures]


def _drop_repeats(prompts: list[dict[str, Any]], report: RunReport) -> list[dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        first = kept.setdefault(prompt["hash"], prompt)
        try:
            compare_prompt_to_loaded(prompt, first)
        except AttnViewerError as error:
            report.failures.append(str(error))
    return list(kept.values())


@functools.lru_cache(maxsize=1)
def load_model(model_path: str, device: str | None) -> tuple[Any, Any]:
    """Return a model and its tokenizer, loaded once a process."""
    from ..capture import loading

    model, tokenizer = loading.load_model(model_path, progress=False)
    if device is not None:
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
            raise OptionError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return model, tokenizer


# Takes what was captured of a prompt, the prompt, model and tokenizer.
_Use = Callable[[AttentionMaps, dict[str, Any], Any, Any], Any]


def capture_prompts(
    model_path: str, name: str, use: _Use, prompts: list[dict[str, Any]], options: PromptsOptions, desc: str
) -> Iterator[Outcome]:
    """Capture prompts, in as many processes as there are, and yield what became of each as `run_batches` does.

    `use` is called in the process that captured, with what it is to take; its value is the outcome's.
    """
    if prompts and options.parallel in (1, False) and options.scheduler is None:
        load_model(model_path, options.device)  # what is wrong with the model is not wrong with each prompt
    # How many workers a cluster has is not known.
    n_workers = count_workers(options.parallel) if options.scheduler is None else 8
    groups = group_prompts(prompts, 2 * n_workers if n_workers > 1 else 1)
    capture = functools.partial(_capture_batch, model_path, options.device, name, use)
    return run_batches(capture, groups, options, options.progress, desc)


def _capture_batch(
    model_path: str, device: str | None, name: str, use: _Use, prompts: list[dict[str, Any]]
) -> list[Outcome]:
    with _one_at_a_time:  # workers of a cluster may have threads, and a model is captured once at a time
        model, tokenizer = load_model(model_path, device)
        with _one_thread():
            known = capture_together(prompts, model, tokenizer, name)

            def capture(prompt: dict[str, Any]) -> Any:
                maps = known.pop(prompt["hash"], None) or _capture_alone(prompt, model, tokenizer, name)
                return use(maps, prompt, model, tokenizer)

            outcomes = []
            for prompt in prompts:
                outcomes.append(attempt(capture, prompt))
                if outcomes[-1].is_final:
                    break
            return outcomes


def _capture_alone(
    prompt: dict[str, Any], model: Any, tokenizer: Any, name: str | None, **options: Any
) -> AttentionMaps:
    from ..capture.prefill import capture_attention

    encode_text(prompt, model, tokenizer)
    maps: AttentionMaps = capture_attention(model, tokenizer, prompt["text"], model_id=name, **KEPT | options)
    return maps


def _store_part(
    save_path: str, stacked: bool, maps: AttentionMaps, prompt: dict[str, Any], model: Any, tokenizer: Any
) -> None:
    # Of a worker that was killed over this very prompt.
    remove_leftovers(DataFolder(save_path).get_model(maps.model_id).get_prompt(prompt).path)
    _store(maps, prompt, model, tokenizer, save_path, stacked)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch, which a part may have been the first to load, use one thread as all else in `run_parts`."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compute_activations(
    prompt: dict[str, Any],
    model: Any,
    tokenizer: Any,
    save_path: FilePath = DATA_DIR,
    *,
    model_name: str | None = None,
    return_cache: str | None = None,
    stacked_heads: bool = False,
    **options: Any,
) -> Any:
    """Compute and store the attention weights of a prompt, whether or not they are there.

    Parameters
    ----------
    prompt : dict
        With ``text``; gets its hash in place.
    model, tokenizer : transformers model and tokenizer
        As `load_model` returns them.
    save_path : path-like
        The data folder.
    model_name : str, optional
        Name of the model in the folder; left out, `capture.prefill.get_model_id` finds one.
    return_cache : {None, "numpy", "torch"}
        Type of the arrays to return, if any.
    stacked_heads : bool
        Whether to store one ``.npy``.
    **options
        What to keep, as `capture_attention` takes it. Left out, every weight while that stays under a budget, each head
        on a coarse grid past that, which is marked in ``prompt.json``.

    Returns
    -------
    path : pathlib.Path
        The file of the weights.
    activations : dict or None
        As `load_activations` returns them.

    Raises
    ------
    PromptError
        If the prompt has no tokens or more than the model was made for.
    AttnViewerError
        If the prompt differs from the stored one of the same hash, or something cannot be captured or written.
    OptionError
        If `return_cache` is unknown, or model or tokenizer are none.
    """
    if return_cache not in (None, "numpy", "torch"):
        raise OptionError(f"return_cache must be None, 'numpy' or 'torch', got {return_cache!r}")
    if not callable(tokenizer) or not hasattr(model, "config"):
        raise OptionError(
            "a model and its tokenizer, as load_model returns them, are needed to compute activations, "
            f"got {type(model).__name__} and {type(tokenizer).__name__}"
        )
    maps = _capture_alone(prompt, model, tokenizer, model_name, **options)
    path = _store(maps, prompt, model, tokenizer, save_path, stacked_heads)
    if return_cache is None:
        return path, None
    return load_activations(maps.model_id, prompt, save_path, return_cache)


def _store(
    maps: AttentionMaps, prompt: dict[str, Any], model: Any, tokenizer: Any, save_path: FilePath, stacked: bool
) -> Path:
    place = save_model_config(maps, model, save_path)
    # pattern-lens counts tokens without the one that a model puts before the text.
    tokens = tokenizer.convert_ids_to_tokens(list(maps.ids_key or ()))
    starts = [token for token in (tokenizer.bos_token, tokenizer.cls_token) if token is not None]
    tokens = tokens[1:] if tokens[:1] and tokens[0] in starts and len(tokens) > 1 else tokens
    # A prompt may come with tokens that another model made of it.
    return place.get_prompt({"tokens": tokens} | prompt | {"tokens": tokens}).save(maps, stacked=stacked)


def save_model_config(maps: AttentionMaps, model: Any, save_path: FilePath) -> Model:
    """Write what the folder must know about a model, once, and return its place."""
    d_model = getattr(model.config, "hidden_size", None)
    place = DataFolder(save_path).get_model(maps.model_id)
    place.save_config(maps, **({"d_model": d_model} if d_model else {}))
    return place


def get_activations(
    prompt: dict[str, Any],
    model: Any,
    tokenizer: Any = None,
    save_path: FilePath = DATA_DIR,
    *,
    model_name: str | None = None,
    allow_disk_cache: bool = True,
    return_cache: str | None = "numpy",
) -> Any:
    """Read the attention weights of a prompt, or compute and store them where they are not there and whole.

    Parameters
    ----------
    prompt : dict
        With ``text``; gets its hash in place.
    model : transformers model or str
        A model, or what `load_model` loads one from when the weights are not there.
    tokenizer : transformers tokenizer, optional
        The model's; not needed with a name.
    save_path, model_name, return_cache
        As `compute_activations` takes them.
    allow_disk_cache : bool
        Whether stored weights will do.

    Returns
    -------
    path, activations
        As `compute_activations` returns them.
    """
    if not isinstance(model, str) and not hasattr(model, "config"):
        raise OptionError(f"a model or the name of one is needed, got {type(model).__name__}")
    if model_name is None:
        from ..capture.prefill import get_model_id

        model_name = name_model(model) if isinstance(model, str) else get_model_id(model)
    if allow_disk_cache:
        try:
            path, activations = load_activations(model_name, prompt, save_path, return_cache or "numpy")
            return path, None if return_cache is None else activations
        except (ActivationsMissingError, ActivationsDamagedError):
            pass
    if isinstance(model, str):
        model, tokenizer = load_model(model, None)
    return compute_activations(prompt, model, tokenizer, save_path, model_name=model_name, return_cache=return_cache)
