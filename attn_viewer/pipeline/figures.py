"""Figures of every head for many prompts of a data folder. Nothing here loads torch or transformers."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..declarations import takes_options
from ..errors import OptionError, OutputError
from ..figures import registry
from ..figures.runner import check_full, run_on_head
from ..files import check_folder, expand_home, make_folder, name_temporary, remove_leftovers, write_whole
from ..folder_options import FolderFiguresOptions
from ..storage.folder import FAILED, DataFolder
from .activations import update_indexes
from .prompts import sample_hashes
from .work import RunReport, clear_when_stopped, note_untried, run_parts


@dataclasses.dataclass(frozen=True)
class FigureJob:
    """What a worker must know to draw the figures of a prompt."""

    model_name: str
    save_path: str
    names: tuple[str, ...]  # functions that a worker finds by name, of this package or of `figures_from`
    funcs: tuple[Callable[..., Any], ...]  # others, registered by the program that runs this
    figures_from: str | None  # a file that registers figure functions
    version: str | None  # of that file: a worker that lives on loads it again once it has changed
    force: bool  # draw what is there already


@takes_options(FolderFiguresOptions, "save_path", "n_samples", "force", "figure_funcs_select", "parallel")
def figures_main(model_name: str, *, options: FolderFiguresOptions) -> RunReport:
    """Draw figures of every head for the prompts of a model.

    A figure that is there is skipped. A function that raises or writes no figure is written down as
    ``{function}.error.txt`` beside the figures, the others go on, and the next run tries it again.

    Parameters
    ----------
    model_name : str
        Name of the model in the data folder, which may be pattern-lens's.
    **options
        As `FolderFiguresOptions` declares them.

    Returns
    -------
    RunReport
        What was done: prompts of which something was drawn, prompts that were complete, and failures by head.

    Raises
    ------
    AttnViewerError
        Of the type that says what was wrong, if nothing can be done.
    """
    model = DataFolder(options.save_path).get_model(model_name)
    folder = check_folder(model.folder.root)
    _ = model.heads  # or an error that says that the model is not there
    report = RunReport()
    path, chosen = options.figures_from, options.figure_funcs_select
    from_file = registry.load_figure_funcs(path) if path is not None else []
    funcs = registry.select_attn_figure_funcs(from_file if chosen is None and from_file else chosen)
    is_found = {f: f.__name__ in from_file or f.__module__ == f"{registry.__package__}.builtin" for f in funcs}
    job = FigureJob(
        model_name,
        str(folder.absolute()),
        tuple(f.__name__ for f in funcs if is_found[f]),
        tuple(f for f in funcs if not is_found[f]),
        None if path is None else str(expand_home(path).absolute()),
        None if path is None else hashlib.sha256(expand_home(path).read_bytes()).hexdigest(),
        options.force,
    )
    hashes = sample_hashes(model, options.n_samples, report)
    outcomes = run_parts(functools.partial(draw_prompt, job), hashes, options, options.progress, "figures")
    with clear_when_stopped(model.get_prompt({"hash": name}).path for name in hashes):
        for outcome in note_untried(report, outcomes, len(hashes)):
            if outcome.error is not None:
                report.failures.append(f"prompt {outcome.item}: {outcome.error}")
                continue
            n_drawn, failures = outcome.value
            report.failures += [f"prompt {outcome.item}: {failure}" for failure in failures]
            report.done += bool(n_drawn)
            report.skipped += not n_drawn and not failures
    update_indexes(model, report, funcs)
    return report


@functools.lru_cache(maxsize=1)
def _load_functions(path: str, version: str | None) -> list[str]:  # the version is for the cache alone
    return registry.load_figure_funcs(path)


def draw_prompt(job: FigureJob, prompt_hash: str) -> tuple[int, list[str]]:
    """Draw the figures of one prompt that are not there.

    Returns how many functions wrote figures, over all heads, and which raised or wrote nothing, with their heads.
    """
    if job.figures_from is not None:
        _load_functions(job.figures_from, job.version)
    funcs = [*(registry.select_attn_figure_funcs(job.names) if job.names else ()), *job.funcs]
    prompt = DataFolder(job.save_path).get_model(job.model_name).get_prompt({"hash": prompt_hash})
    folder = prompt.path
    remove_leftovers(folder)
    maps = prompt.read_maps()
    if maps.reduction == "pooled":
        raise OptionError(
            "figure functions take whole attention patterns, and those of this long prompt are pooled; split its text "
            "(attn-viewer activations --raw-prompts --max-chars N), or give compute_activations reduction='full'"
        )
    check_full(maps.reduction, maps.weighting)
    n_drawn, failures = 0, list[str]()
    aside: Path | None = None
    with contextlib.ExitStack() as stack:
        for layer, weights, heads in zip(maps.layers, maps.weights, maps.heads, strict=True):
            for head, pattern in zip(heads, weights, strict=True):
                place = folder / f"L{layer}" / f"H{head}"
                names = os.listdir(place) if place.exists() else []
                todo = [func for func in funcs if job.force or not is_drawn(func, names)]
                if not todo:
                    continue
                aside = aside or stack.enter_context(_make_aside(folder))
                failed = _draw_head(pattern, aside, place, todo, names, layer=layer, head=head)
                n_drawn += len(todo) - len(failed)
                failures += failed
    return n_drawn, failures


def is_drawn(func: Callable[..., Any], names: Collection[str]) -> bool:
    """Tell whether all figures of a function are among the files of a head."""
    fmt = getattr(func, "figure_save_fmt", None)
    for figure in registry.get_figure_names(func):
        if fmt is not None:
            if f"{figure}.{fmt}" not in names:
                return False
        elif not any(n == figure or (n.startswith(f"{figure}.") and not n.endswith(FAILED)) for n in names):
            return False
    return True


def _draw_head(
    pattern: Any,
    aside: Path,
    place: Path,
    funcs: Sequence[Callable[..., Any]],
    names: Collection[str],
    *,
    layer: int,
    head: int,
) -> list[str]:
    """Run functions on a head in a folder aside, so that what a killed one leaves is never taken for a figure."""
    try:
        paths, failed = run_on_head(pattern, aside, funcs, layer=layer, head=head)
        _move_figures(paths, aside / f"L{layer}" / f"H{head}", place)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write figures to {str(place)!r}: {error.strerror or error}") from error
    errors = {f"{failure.func}{FAILED}": f"{failure.error}\n" for failure in failed}
    for name, text in errors.items():
        write_whole(place / name, text.encode())
    for func in funcs:
        if (name := f"{func.__name__}{FAILED}") in names and name not in errors:
            with contextlib.suppress(OSError):
                (place / name).unlink()
    return list(map(str, failed))


def _move_figures(paths: Collection[Path], made: Path, place: Path) -> None:
    make_folder(place.parent)
    if {path.name for path in paths} == {*os.listdir(made)}:
        # A new head moves as a whole: folders that are made only to be removed take longer than a picture.
        with contextlib.suppress(OSError):
            os.rename(made, place)
            return
    make_folder(place)
    for path in paths:
        os.replace(path, place / path.name)


@contextlib.contextmanager
def _make_aside(folder: Path) -> Iterator[Path]:
    try:
        aside = tempfile.mkdtemp(dir=folder, **name_temporary("figures"))
    except OSError as error:
        raise OutputError(f"cannot write to folder {str(folder)!r}: {error.strerror or error}") from error
    try:
        yield Path(aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
