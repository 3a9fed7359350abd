"""Attention modules that ran and whose weights nobody saw: a picture without their layers would be a wrong one."""

from collections.abc import Collection, Mapping, Sequence

import torch

from .guard import list_implementations
from .numbering import has_no_softmax, is_attention


def find_unseen(
    model: torch.nn.Module,
    numbers: Mapping[str, tuple[str, int]],
    shown: Collection[str],
    ran: Collection[str],
    unclear: Collection[str],
) -> list[str]:
    """Return the attention modules among those that ran whose weights were not shown, in them or around them.

    Those that are `unclear` multiply scores with values, but in a way that does not tell the weights.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    unseen = {name for name in ran if name and is_attention(model, modules[name])}
    for path in {numbers[name][0] for name in shown if name in numbers}:
        layers = {name: number for name, (stack, number) in numbers.items() if stack == path and name in ran}
        seen = {name: number for name, number in layers.items() if name in shown}
        kinds = {type(modules[name]) for name in seen}
        # What ran between layers that were seen and may be attention as they are.
        unseen |= {
            name
            for name, number in layers.items()
            if seen and min(seen.values()) < number < max(seen.values())
            if not has_no_softmax(model, modules[name])
            if type(modules[name]) in kinds or any(f"{other}.".startswith(f"{name}.") for other in unclear)
        }
    return sorted(name for name in unseen if not any(_are_nested(name, other) for other in shown))


def _are_nested(name: str, other: str) -> bool:
    return other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.")


def describe_unseen(model: torch.nn.Module, names: Sequence[str], unclear: Collection[str] = ()) -> str:
    """Say whose weights could not be seen (nobody's, without names), and what would help; `unclear` as they are."""
    subject = (
        f"the weights of {len(names)} attention modules could not be seen (first: {names[0]!r}, "
        f"{type(model.get_submodule(names[0])).__name__})"
        if names
        else f"{type(model).__name__} showed no attention weights"
    )
    doubtful = sorted(name for name in unclear if not names or _are_nested(name, names[0]))
    if doubtful:
        return (
            f"{subject}: module {doubtful[0]!r} multiplies scores with values in a way that does not tell its weights "
            "(in several parts, changed after the softmax, or with heads and prompts on one axis); "
            "register_attention(module class, function) says where they are"
        )
    ways = (
        "it neither calls torch.nn.functional.scaled_dot_product_attention, nor returns weights, nor multiplies a "
        "softmax over keys with values by functions of torch"
    )
    used = list_implementations(model)
    others = [name for name in used if name not in ("sdpa", "eager")]
    if others:
        advice = f"; the model runs {others[0]!r}: call model.set_attn_implementation('sdpa') first"
    elif "sdpa" in used:
        advice = "; model.set_attn_implementation('eager') may show them"
    else:
        advice = ""
    return f"{subject}: {ways}{advice}"
