"""What a model has no place for: ids past its vocabulary, tokens past its positions."""

from __future__ import annotations

import bisect
import contextlib
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..capture.guard import Loan
from ..errors import AttnViewerError, PromptError, describe_error
from .signature import call_model, find_inner, get_config

_WORDS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_OWN = __package__.partition(".")[0]
# What models raise for inputs that they were not made for.
_REFUSALS = (IndexError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


def check_vocabulary(model: torch.nn.Module, ids: torch.Tensor, *, is_decoder: bool = False) -> None:
    """Refuse token ids that the model has no embedding of; the decoder may have a vocabulary of its own."""
    inner = find_inner(model)
    owner: Any = inner
    if is_decoder and callable(getattr(inner, "get_decoder", None)):
        owner = owner.get_decoder()
    try:
        size = getattr(owner.get_input_embeddings(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):  # models of images and texts (CLIP) have no single one
        config = get_config(model)
        text = config.get_text_config() if hasattr(config, "get_text_config") else None
        size = getattr(text, "vocab_size", None)
    if size is not None and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise PromptError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, but the model knows 0 to {size - 1}; "
            "use the tokenizer that belongs to the model"
        )


@contextlib.contextmanager
def explain_refusal(
    model: torch.nn.Module, arguments: Mapping[str, Any], n_tokens: int | None = None
) -> Iterator[None]:
    """Turn what a model raises in the block for inputs that it cannot take into one clear error.

    What the reason is is tried out. A prompt is longer than the model's positions: with how many tokens of the same
    kind the model runs, and whether it has a table, or its config a number, of just that length. Anything else in the
    inputs: whether they alone, in a plain pass, raise the same.

    The block comes to `n_tokens` at most; left out, those of the arguments.
    """
    names = [name for name in ("input_ids", "decoder_input_ids") if isinstance(arguments.get(name), torch.Tensor)]
    try:
        with _watch_tables(model):
            yield
    except AttnViewerError:
        raise
    except Exception as error:  # IndexError, RuntimeError, ValueError, as the model's authors pleased
        for name in names:
            wanted = n_tokens if n_tokens is not None and name == names[-1] else arguments[name].shape[1]
            longest = _find_longest(model, arguments, name, wanted)
            if longest is not None:
                raise PromptError(
                    f"{wanted:,} tokens are more than the {longest:,} that {type(model).__name__} has positions for; "
                    "shorten the prompt, or cut it into pieces"
                ) from error
        if not _is_refused(model, arguments, error):
            raise
        raise PromptError(
            f"{type(model).__name__} cannot take these inputs ({', '.join(arguments)}): it raises "
            f"{type(error).__name__}: {describe_error(error)}; "
            "give model inputs as the tokenizer or processor that belongs to the model returned them"
        ) from error


def is_in_libraries(error: Exception) -> bool:
    """Tell whether an error came out of torch or transformers without a user's code in between."""
    return {*_list_packages(error)} <= {"torch", "transformers", "contextlib", "functools", _OWN}


def _list_packages(error: Exception) -> list[str]:
    """Return the packages whose code an error came through, outermost first."""
    return [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]


def _is_refused(model: torch.nn.Module, arguments: Mapping[str, Any], error: Exception) -> bool:
    """Tell whether inputs alone make a plain pass raise an error of this kind, in code that is no user's."""
    raised_in = next((name for name in reversed(_list_packages(error)) if name != _OWN), "")
    is_theirs = raised_in not in ("torch", "transformers")
    if is_theirs or not isinstance(error, _REFUSALS) or isinstance(error, torch.OutOfMemoryError):
        return False
    try:
        with torch.no_grad(), _watch_tables(model):
            call_model(model, arguments)
    except Exception as again:
        return type(again) is type(error)
    return False


@contextlib.contextmanager
def _watch_tables(model: torch.nn.Module) -> Iterator[None]:
    """Refuse indices past the end of a table before they are looked up: on a GPU that ends the whole process."""
    names = {module: name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}

    def check(module: torch.nn.Embedding, args: tuple[Any, ...]) -> None:
        index = args[0] if args else None
        if not isinstance(index, torch.Tensor) or index.device.type == "cpu" or not index.numel():
            return
        if int(index.max()) >= module.num_embeddings:
            raise IndexError(f"table {names[module]!r} has {module.num_embeddings} rows, not {int(index.max()) + 1}")

    with Loan() as loan:
        for module in names:
            loan.add_hook(module.register_forward_pre_hook, check)
        yield


def _find_longest(model: torch.nn.Module, arguments: Mapping[str, Any], name: str, n_tokens: int) -> int | None:
    """Return with how many tokens the model runs at most, where it has a table or a number of just that length."""
    ids = arguments[name][:, -1:]
    kept = {part: value for part, value in arguments.items() if part != name}
    if name == "input_ids":  # without pictures and sound, whose placeholders are not in it
        kept = {part: value for part, value in kept.items() if part not in _WORDS and not value.is_floating_point()}
    has_mask = name == "input_ids" and "attention_mask" in arguments

    def runs(count: int) -> bool:
        words = {"attention_mask": torch.ones_like(ids).expand(-1, count)} if has_mask else {}
        try:
            with torch.no_grad(), _watch_tables(model):
                call_model(model, {**kept, **words, name: ids.expand(-1, count).contiguous()})
        except Exception:
            return False
        return True

    if n_tokens < 2 or not runs(1) or runs(n_tokens):
        return None
    longest = 1 + bisect.bisect_left(range(2, n_tokens), True, key=lambda count: not runs(count))
    return longest if _has_length(model, longest) else None


def _has_length(model: torch.nn.Module, length: int) -> bool:
    config = get_config(model)
    numbers = [*vars(config).values()] if config is not None else []
    numbers += [*vars(config.get_text_config()).values()] if hasattr(config, "get_text_config") else []
    tables = [*model.buffers(), *(m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding))]
    sizes = {size for table in tables for size in table.shape}
    return length in {n for n in numbers if isinstance(n, int)} or any(length <= size <= length + 8 for size in sizes)
