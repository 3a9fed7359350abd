"""Atlas: what the heads of a model do over many prompts, of a data folder or read from files."""

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..analysis.census import Census, take_census
from ..analysis.compare import average_maps
from ..analysis.scores import SCORES, check_axes, check_scores
from ..analysis.table import HeadScores
from ..declarations import takes_options
from ..errors import ActivationsMissingError, CircuitError
from ..files import check_folder, check_model_id, make_folder, write_whole
from ..folder_options import AtlasOptions
from ..maps import AttentionMaps
from ..options import FilePath
from ..storage.atlas_files import ATLAS
from ..storage.dataset import load_prompt_maps
from ..storage.folder import DataFolder, Model
from ..storage.objects import dump_object
from ..storage.pt import save_scores
from .activations import capture_prompts, choose_prompts, load_model, name_model, save_model_config, update_indexes
from .entries import CENSUS, load_census, make_entries, round_all, save_census
from .work import Outcome, RunReport, note_untried, run_parts

# Seconds of work that a run which is killed may lose, and how much longer than writing the census that is at least.
LOSS, SHARE = 30, 20


@takes_options(AtlasOptions, "save_path", "n_samples", "scores")
def atlas_main(model_name: FilePath, *, options: AtlasOptions) -> tuple[RunReport, list[Path]]:
    """Count what heads do over prompts; write tables, a layer × head figure of each score, and what a page shows.

    Prompts are those of the data folder, whose weights are read; with `prompts_path` a model runs on them, and its
    weights are kept nowhere. A run that was stopped, by whatever, goes on where it was; how it shares the work changes
    no byte. Into ``{model}/atlas``: ``census.npz`` (`analysis.census.Census`: scores of each prompt and head, where
    each looks hardest, sums over tokens and positions), ``scores.csv`` and ``scores.json`` (means over prompts),
    ``{score}.{format}``, with `scatter` ``scatter.{format}``, and what `storage.atlas_files` declares. With `mean_maps`
    also ``mean_maps_attn_scores.pt``, which every command reads, and ``mean_maps.{format}``, in which shorter prompts
    have no part.

    Parameters
    ----------
    model_name : path-like
        Name of the model in the data folder; with `prompts_path` hub name, folder or GGUF file, or ``"demo"``.
    **options
        As `AtlasOptions` declares them.

    Returns
    -------
    report : RunReport
        What was done.
    paths : list of pathlib.Path
        Files written, without those for the page.

    Raises
    ------
    AttnViewerError
        If nothing can be done.
    """
    scores = None if options.scores is None else check_scores(options.scores)
    check_axes(options.scatter, scores or [name for name, score in SCORES.items() if not score.is_slow])
    model = DataFolder(options.save_path).get_model(check_model_id(options.model_id or name_model(model_name)))
    folder = check_folder(model.folder.root)
    is_stored = options.prompts_path is None
    if is_stored:
        _ = model.config  # or an error that says that the model is not there
    report = RunReport()
    prompts = choose_prompts(model, options, report)
    gathering = _Gathering(model, scores, {prompt["hash"] for prompt in prompts}, is_anew=options.force)
    todo = [prompt for prompt in prompts if prompt["hash"] not in gathering.there]
    report.skipped = len(prompts) - len(todo)
    place = str(folder.absolute())
    if is_stored:
        read = functools.partial(_read_part, place, model.name, scores)
        outcomes = run_parts(read, [{"hash": prompt["hash"]} for prompt in todo], options, options.progress, "scores")
    else:
        observe = functools.partial(_observe_part, place, scores)
        outcomes = capture_prompts(str(model_name), model.name, observe, todo, options, "scores")
    census = gathering.gather(note_untried(report, outcomes, len(todo)), report)
    circuits = (str(model_name), options.device) if not is_stored else None
    return report, _write_atlas(model, census, circuits, report, options)


class _Gathering:
    """A census that grows on disk.

    Weights of another kind have fewer scores, and those of other numbers: they are counted apart, and the census is
    that with the most scores.
    """

    def __init__(self, model: Model, scores: Sequence[str] | None, hashes: set[str], *, is_anew: bool) -> None:
        self.model, self.parts = model, list[Census]()
        self.saved, self.cost = time.monotonic(), 0.0
        if not is_anew:
            with contextlib.suppress(ActivationsMissingError):
                found = load_census(model)
                if found.asked == scores and found.prompts.keys() <= hashes:
                    self.parts.append(found)
        self.there = set(self.parts[0].prompts) if self.parts else set()

    def gather(self, outcomes: Iterable[Outcome], report: RunReport) -> Census:
        """Add what comes, and return all, or raise `ActivationsMissingError` where nothing came."""
        try:
            for outcome in outcomes:
                if outcome.error is None:
                    self._add(outcome.value)
                    report.done += 1
                else:
                    report.failures.append(f"prompt {outcome.item['hash']}: {outcome.error}")
        finally:
            self._save()
        if not self.parts:
            reason = f": {report.failures[0]}" if report.failures else ""
            name, root = self.model.name, str(self.model.folder.root)
            raise ActivationsMissingError(f"no prompt of {name!r} in {root!r} can be scored{reason}")
        for part in self.parts[1:]:
            lacking = ", ".join(name for name in self.parts[0].names if name not in part.names)
            report.done -= len(part.prompts)
            report.failures += [
                f"prompt {name}: its weights lack {lacking or 'heads'}, which those of others have; compute it again"
                for name in part.prompts
            ]
        return self.parts[0]

    def _add(self, census: Census) -> None:
        for part in self.parts:
            if (part.names, part.heads) == (census.names, census.heads):
                part.add(census)
                break
        else:
            self.parts.append(census)
        if time.monotonic() - self.saved > max(LOSS, SHARE * self.cost):
            self._save()

    def _save(self) -> None:
        start = time.monotonic()
        self.parts.sort(key=lambda part: (-len(part.names), -len(part.prompts), part.names))
        if self.parts:
            make_folder(self.model.path / ATLAS)
            save_census(self.parts[0], self.model)
        self.saved = time.monotonic()
        self.cost = self.saved - start


def _read_part(save_path: str, name: str, scores: Sequence[str] | None, prompt: dict[str, Any]) -> Census:
    return take_census(load_prompt_maps(name, prompt, save_path), prompt["hash"], scores)


def _observe_part(
    save_path: str,
    scores: Sequence[str] | None,
    maps: AttentionMaps,
    prompt: dict[str, Any],
    model: Any,
    _tokenizer: Any,
) -> Census:
    census = take_census(maps, prompt["hash"], scores)
    save_model_config(maps, model, save_path)
    return census


def _write_atlas(
    model: Model, census: Census, circuits: tuple[str, str | None] | None, report: RunReport, options: AtlasOptions
) -> list[Path]:
    """Write all that is made from a census, and return the files that are for people."""
    from ..figures.venues import use_preset

    target, mean = model.path / ATLAS, census.average()
    paths = [mean.to_csv(target / "scores.csv"), mean.to_json(target / "scores.json"), target / CENSUS]
    found, remark = _find_circuits(*circuits) if circuits else ({}, "made from stored weights, without the model")
    for name, content in make_entries(census, is_stored=circuits is None, circuits=found, remark=remark):
        write_whole(target / f"{name}.json", dump_object(content))
    with use_preset(options.preset, columns=options.columns):
        paths += _draw_scores(mean, len(census.prompts), target, options)
        if options.mean_maps is not None:
            paths += _save_mean(model, sorted(census.prompts), options.mean_maps, target, options.fig_format)
    if circuits:
        update_indexes(model, report)
    return paths


def _find_circuits(model_path: str, device: str | None) -> tuple[dict[tuple[int, int], Any], str]:
    from ..capture.circuits import measure_circuits

    try:
        found = measure_circuits(*load_model(model_path, device))
    except CircuitError as error:
        return {}, str(error)
    plain = {place: [(c.kind, round_all(c.values), c.directions) for c in each] for place, each in found.items()}
    return plain, "of queries and keys at distance 0, without biases"


def _draw_scores(mean: HeadScores, n_prompts: int, target: Path, options: AtlasOptions) -> Iterator[Path]:
    from ..figures.formats import render_figure
    from ..figures.heads import plot_atlas
    from ..figures.scatter import plot_head_scatter

    fmt = options.fig_format
    if options.scatter:
        yield write_whole(target / f"scatter.{fmt}", render_figure(plot_head_scatter(mean, *options.scatter), fmt))
    for name in mean.columns:
        figure = plot_atlas(
            mean.make_grid(name),
            label=SCORES[name].label,
            title=name.replace("_", " "),
            model_id=mean.model_id,
            notes=[f"mean over {n_prompts} prompt{'s' * (n_prompts > 1)}"],
            layers=mean.layers,
            heads=mean.heads,
        )
        yield write_whole(target / f"{name}.{fmt}", render_figure(figure, fmt))


def _save_mean(model: Model, hashes: Iterable[str], length: int, target: Path, fmt: str) -> list[Path]:
    """Average the attention of the prompts that are long enough, draw it, and return the files."""
    from ..figures.formats import render_figure
    from ..figures.grids import plot_layer_averages

    def read() -> Iterator[AttentionMaps]:
        for prompt_hash in hashes:
            maps = load_prompt_maps(model.name, {"hash": prompt_hash}, model.folder.root)
            if len(maps.tokens_key) >= length:
                yield maps

    mean = average_maps(read(), length=length)
    figure = plot_layer_averages(mean, title="layer averages by position")
    drawing = write_whole(target / f"mean_maps.{fmt}", render_figure(figure, fmt))
    return [save_scores(mean, target, name="mean_maps"), drawing]
