"""Running figure functions on heads. Nothing here loads a model, so worker processes start quickly."""

import dataclasses
import itertools
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError, OutputError
from ..files import check_folder, expand_home, make_folder
from ..long_runs import show_bar
from ..maps import AttentionMaps
from ..options import FilePath
from .registry import get_figure_names, select_attn_figure_funcs

# Characters of an exception's text that are kept: it is said for every head.
LONGEST_ERROR = 500


@dataclasses.dataclass(frozen=True)
class FigureFailure:
    """A figure function that raised, or wrote no figure, for the head of these true numbers."""

    func: str
    layer: int
    head: int
    error: str
    trace: str = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return f"{self.func} at L{self.layer} H{self.head}: {self.error}"


def run_figure_funcs(
    maps: AttentionMaps,
    folder: FilePath,
    funcs: Iterable[Callable[..., Any]] | None = None,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    overwrite: bool = True,
    progress: bool | None = None,
) -> tuple[list[Path], list[FigureFailure]]:
    """Run figure functions on every head of some layers.

    Parameters
    ----------
    maps : AttentionMaps
        Full maps; means and pooled cells are not attention patterns.
    folder : path-like
        Figures go into ``{folder}/L{layer}/H{head}``.
    funcs : sequence of callable, optional
        Figure functions, from `select_attn_figure_funcs`; left out, all registered ones.
    layers, heads : sequence of int, optional
        True numbers; left out, all.
    overwrite : bool
        Whether to run a function whose figures are there already.
    progress : bool, optional
        Whether to show a bar on stderr; left out, only when stderr is a terminal.

    Returns
    -------
    paths : list of pathlib.Path
        Files written.
    failures : list of FigureFailure
        Functions that raised or wrote nothing; the others went on.

    Raises
    ------
    OptionError
        If the maps are not full, or a layer or head is not there.
    OutputError
        If a folder or file cannot be written.
    """
    check_full(maps.reduction, maps.weighting)
    check_folder(folder)
    maps = maps.select(layers=layers, heads=heads)
    funcs = select_attn_figure_funcs() if funcs is None else list(funcs)
    paths: list[Path] = []
    failures: list[FigureFailure] = []
    with show_bar("figures", "head", progress, total=sum(maps.n_heads)) as bar:
        for layer, weights, numbers in zip(maps.layers, maps.weights, maps.heads, strict=True):
            for head, pattern in zip(numbers, weights, strict=True):
                written, failed = run_on_head(pattern, folder, funcs, layer=layer, head=head, overwrite=overwrite)
                paths += written
                failures += failed
                bar.update()
    return paths, failures


def check_full(reduction: str, weighting: str = "attention") -> None:
    """Check that maps hold whole attention patterns."""
    if weighting != "attention":
        raise OptionError(
            f"figure functions take attention patterns and these maps hold {weighting}; capture them with "
            "weighting='attention' (--weighting attention)"
        )
    if reduction != "full":
        raise OptionError(
            f"figure functions take whole attention patterns and these maps are {reduction}; capture them with "
            "reduction='full' (--reduction full), of fewer layers or heads if memory is short"
        )


def run_on_head(
    pattern: np.ndarray,
    folder: FilePath,
    funcs: Sequence[Callable[..., Any]],
    *,
    layer: int,
    head: int,
    overwrite: bool = True,
) -> tuple[list[Path], list[FigureFailure]]:
    """Run figure functions on the pattern of one head; each gets a float32 copy and writes into ``L{layer}/H{head}``.

    What is returned are the files written, and the functions that raised or wrote nothing.
    """
    if np.ndim(pattern) != 2 or np.size(pattern) == 0:
        raise OptionError(f"an attention pattern has axes (n_query, n_key), got shape {np.shape(pattern)}")
    folder = make_folder(expand_home(folder) / f"L{layer}" / f"H{head}")
    paths: list[Path] = []
    failures: list[FigureFailure] = []
    for func in funcs:
        if not overwrite and all(_list_files(folder, name, func) for name in get_figure_names(func)):
            continue
        try:
            func(np.array(pattern, np.float32), folder)
            paths += _list_written(folder, func)
        except (OutputError, KeyboardInterrupt):  # what cannot be written now can neither be for the next head
            raise
        except BaseException as error:  # a sys.exit in a function must not end the run, let alone as if all were well
            failures.append(FigureFailure(func.__name__, layer, head, _describe_error(error), traceback.format_exc()))
    return paths, failures


def _describe_error(error: BaseException) -> str:
    """Return type and text of an exception in one line that can be written anywhere."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # whose text is itself an error
        text = type(error).__name__
    text = " ".join(text.encode(errors="backslashreplace").decode().split())
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}… ({len(text):,} characters)"


def _list_written(folder: Path, func: Callable[..., Any]) -> list[Path]:
    files = {name: _list_files(folder, name, func) for name in get_figure_names(func)}
    for name, found in files.items():
        if not found:
            fmt = getattr(func, "figure_save_fmt", "*")
            raise OptionError(f"it wrote no {name}.{fmt} into the folder that it was given")
    return [*itertools.chain.from_iterable(files.values())]


def _list_files(folder: Path, name: str, func: Callable[..., Any]) -> list[Path]:
    """Return the files of one figure; savers tell their format, any other function may choose its own."""
    fmt = getattr(func, "figure_save_fmt", None)
    if fmt is not None:
        path = folder / f"{name}.{fmt}"
        return [path] if path.exists() else []
    return sorted(path for path in folder.iterdir() if path.name == name or path.name.startswith(f"{name}."))
