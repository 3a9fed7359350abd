"""The list of figure functions, to read and to append to."""

from collections.abc import Callable, Sequence
from typing import Any

from ...figures.builtin import raw as raw
from ...figures.registry import get_all_figure_names as get_all_figure_names
from ...figures.registry import register_attn_figure_func as register_attn_figure_func
from ...figures.registry import register_attn_figure_multifunc as register_attn_figure_multifunc
from ...figures.registry import select_attn_figure_funcs


class RegisteredFuncs(Sequence[Callable[..., Any]]):
    """The registered figure functions, as they are at each moment."""

    def __getitem__(self, index: Any) -> Any:
        return select_attn_figure_funcs()[index]

    def __len__(self) -> int:
        return len(select_attn_figure_funcs())

    def append(self, func: Callable[..., Any]) -> None:
        """Register a figure function."""
        register_attn_figure_func(func)


ATTENTION_MATRIX_FIGURE_FUNCS = RegisteredFuncs()
