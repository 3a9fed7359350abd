"""Scores of heads over all prompts of a data folder."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.compare import average_maps
from ..analysis.scores import SCORES, check_scores, score_heads
from ..analysis.table import HeadScores, average_scores
from ..declarations import takes_options
from ..errors import ActivationsMissingError
from ..files import check_folder, make_folder, write_whole
from ..folder_options import AtlasOptions
from ..maps import AttentionMaps
from ..storage.dataset import load_prompt_maps
from ..storage.folder import DataFolder
from ..storage.pt import save_scores
from .prompts import sample_hashes
from .work import RunReport, run_parts

STRONGEST = 5


@takes_options(AtlasOptions, "save_path", "n_samples", "scores")
def atlas_main(model_name: str, *, options: AtlasOptions) -> tuple[RunReport, list[Path]]:
    """Average scores of heads over prompts; write a table and a layer × head figure of each score.

    Into ``{model}/atlas``: ``scores.csv`` and ``scores.json`` (means over prompts), ``strongest.json`` (for each score
    and head the prompts where it is strongest, and in each the query and key token of the largest weight), and
    ``{score}.{format}``. With `mean_maps` also ``mean_maps_attn_scores.pt``, which every command reads, and
    ``mean_maps.{format}``, in which shorter prompts have no part.

    Parameters
    ----------
    model_name : str
        Name of the model in the data folder.
    **options
        As `AtlasOptions` declares them.

    Returns
    -------
    report : RunReport
        What was done.
    paths : list of pathlib.Path
        Files written.

    Raises
    ------
    AttnViewerError
        If nothing can be done.
    """
    from ..figures.venues import use_preset

    scores = None if options.scores is None else check_scores(options.scores)
    model = DataFolder(options.save_path).get_model(model_name)
    folder = check_folder(model.folder.root)
    _ = model.config  # or an error that says that the model is not there
    report = RunReport()
    hashes = sample_hashes(model, options.n_samples, report)
    by_hash = _score_prompts(model_name, str(folder.absolute()), scores, hashes, options, report)
    if not by_hash:
        reason = f": {report.failures[0]}" if report.failures else ""
        raise ActivationsMissingError(f"no prompt of {model_name!r} in {str(folder)!r} can be scored{reason}")
    mean = average_scores([table for table, _ in by_hash.values()])
    target = make_folder(model.path / "atlas")
    paths = [mean.to_csv(target / "scores.csv"), mean.to_json(target / "scores.json")]
    text = json.dumps(_find_strongest(by_hash, mean), ensure_ascii=False, indent=1) + "\n"
    paths.append(write_whole(target / "strongest.json", text.encode()))
    with use_preset(options.preset, columns=options.columns):
        paths += _draw_scores(mean, len(by_hash), target, options.fig_format)
        if options.mean_maps is not None:
            paths += _save_mean(model_name, folder, by_hash, options.mean_maps, target, options.fig_format)
    return report, paths


def _score_prompts(
    model_name: str,
    save_path: str,
    scores: Sequence[str] | None,
    hashes: Sequence[str],
    options: AtlasOptions,
    report: RunReport,
) -> dict[str, tuple[HeadScores, list[dict[str, Any]]]]:
    """Return what `score_prompt` does for each prompt, in the order of the hashes, so that sums round the same way."""
    score = functools.partial(score_prompt, model_name, save_path, scores)
    by_hash: dict[str, tuple[HeadScores, list[dict[str, Any]]]] = {}
    for outcome in run_parts(score, hashes, options, options.progress, "scores"):
        if outcome.error is None:
            by_hash[outcome.item] = outcome.value
        else:
            report.failures.append(f"prompt {outcome.item}: {outcome.error}")
    # Weights of another kind have fewer scores, and those of other numbers.
    columns = max((list(table.columns) for table, _ in by_hash.values()), key=len, default=[])
    for name in [name for name, (table, _) in by_hash.items() if list(table.columns) != columns]:
        table = by_hash.pop(name)[0]
        lacking = ", ".join(score for score in columns if score not in table.columns)
        report.failures.append(
            f"prompt {name}: its weights ({table.about}) have no {lacking}, as those of others have; compute it again"
        )
    report.done = len(by_hash)
    return dict(sorted(by_hash.items()))


def _draw_scores(mean: HeadScores, n_prompts: int, target: Path, fmt: str) -> Iterator[Path]:
    from ..figures.formats import render_figure
    from ..figures.heads import plot_atlas

    for name in mean.columns:
        figure = plot_atlas(
            mean.make_grid(name),
            label=SCORES[name].label,
            title=name.replace("_", " "),
            model_id=mean.model_id,
            notes=[f"mean over {n_prompts} prompts"],
            layers=mean.layers,
            heads=mean.heads,
        )
        yield write_whole(target / f"{name}.{fmt}", render_figure(figure, fmt))


def _save_mean(model_name: str, folder: Path, hashes: Iterable[str], length: int, target: Path, fmt: str) -> list[Path]:
    """Average the attention of the prompts that are long enough, draw it, and return the files."""
    from ..figures.formats import render_figure
    from ..figures.grids import plot_layer_averages

    def read() -> Iterator[AttentionMaps]:
        for prompt_hash in hashes:
            maps = load_prompt_maps(model_name, {"hash": prompt_hash}, folder)
            if len(maps.tokens_key) >= length:
                yield maps

    mean = average_maps(read(), length=length)
    figure = plot_layer_averages(mean, title="layer averages by position")
    drawing = write_whole(target / f"mean_maps.{fmt}", render_figure(figure, fmt))
    return [save_scores(mean, target, name="mean_maps"), drawing]


def score_prompt(
    model_name: str, save_path: str, scores: Sequence[str] | None, prompt_hash: str
) -> tuple[HeadScores, list[dict[str, Any]]]:
    """Score the heads of one prompt, and find where each looks hardest.

    Parameters
    ----------
    model_name, save_path : str
        Where the weights are.
    scores : sequence of str or None
        Names of scores.
    prompt_hash : str
        Of the prompt.

    Returns
    -------
    table : HeadScores
        The scores.
    peaks : list of dict
        For each row of the table ``query``, ``key`` (positions), ``query_token``, ``key_token`` and ``weight`` of the
        largest weight past the first query and the first key, whose weights say nothing or only that it is a sink.
    """
    maps = load_prompt_maps(model_name, {"hash": prompt_hash}, save_path)
    table = score_heads(maps, scores, progress=False)
    peaks = []
    for weights in maps.weights:
        start = 1 if min(weights.shape[1:]) > 1 else 0
        inner = weights[:, start:, start:]
        places = inner.reshape(len(inner), -1).argmax(1)
        for head, (row, column) in enumerate(zip(*np.unravel_index(places, inner.shape[1:]), strict=True)):
            peaks.append(
                {
                    "query": int(row) + start + maps.first_query,
                    "key": int(column) + start,
                    "query_token": maps.tokens_query[row + start],
                    "key_token": maps.tokens_key[column + start],
                    "weight": float(inner[head, row, column]),
                }
            )
    return table, peaks


def _find_strongest(by_hash: "dict[str, tuple[HeadScores, list[dict[str, Any]]]]", mean: HeadScores) -> dict[str, Any]:
    """Return, by score, for each head the prompts where it scores highest, with their peaks."""
    hashes = list(by_hash)
    strongest = {}
    for name in mean.columns:
        values = np.stack([table[name] for table, _ in by_hash.values()])
        order = np.argsort(-values, axis=0, kind="stable")[:STRONGEST]
        strongest[name] = [
            {
                "layer": int(mean.layer[head]),
                "head": int(mean.head[head]),
                "prompts": [
                    {"hash": hashes[i], "value": float(values[i, head]), **by_hash[hashes[i]][1][head]}
                    for i in order[:, head]
                    if not np.isnan(values[i, head])
                ],
            }
            for head in range(len(mean))
        ]
    return strongest
