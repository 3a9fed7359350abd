"""Scores of heads over all prompts of a data folder."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.compare import average_maps, check_length
from ..analysis.scores import SCORES, check_scores, score_heads
from ..analysis.table import HeadScores, average_scores
from ..errors import ActivationsMissingError
from ..files import check_folder, make_folder, write_whole
from ..maps import AttentionMaps
from ..options import FilePath
from ..storage.folder import DATA_DIR, DataFolder, load_prompt_maps
from ..storage.pt import save_scores
from .prompts import take_samples
from .work import RunReport, run_parts

STRONGEST = 5


def atlas_main(
    model_name: str,
    save_path: FilePath = DATA_DIR,
    n_samples: int | None = None,
    scores: str | Sequence[str] | None = None,
    *,
    mean_maps: int | None = None,
    fmt: str = "png",
    parallel: bool | int = 1,
    scheduler: str | None = None,
    progress: bool | None = None,
) -> Any:
    """Average scores of heads over prompts; write a table and a layer × head figure of each score.

    Into ``{model}/atlas``: ``scores.csv`` and ``scores.json`` (means over prompts), ``strongest.json`` (for each score
    and head the prompts where it is strongest, and in each the query and key token of the largest weight), and
    ``{score}.{fmt}``.

    Parameters
    ----------
    model_name : str
        Name of the model in the data folder.
    save_path : path-like
        The data folder.
    n_samples : int, optional
        Most prompts; left out, all.
    scores : sequence of str, optional
        Names of scores; left out, all that these weights can have.
    mean_maps : int, optional
        Tokens that prompts are cut to, to average their attention by position too: ``mean_maps_attn_scores.pt``, which
        every command reads, and ``mean_maps.{fmt}``. Shorter prompts have no part in it.
    fmt : str
        Format of the figures.
    parallel, scheduler, progress
        As `work.run_parts` takes them.

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
    from ..figures.formats import check_format, render_figure
    from ..figures.heads import plot_atlas

    fmt = check_format(fmt)
    check_length(mean_maps)
    scores = None if scores is None else check_scores(scores)
    model = DataFolder(save_path).get_model(model_name)
    folder = check_folder(model.folder.root)
    _ = model.config  # or an error that says that the model is not there
    prompts, errors = model.list_prompts()
    report = RunReport(failures=list(map(str, errors)))
    hint = f"{str(folder)!r} has none of model {model_name!r}; run attn-viewer activations first"
    hashes = [prompt["hash"] for prompt in take_samples(prompts, n_samples, errors, hint)]
    score = functools.partial(score_prompt, model_name, str(folder.absolute()), scores)
    by_hash: dict[str, tuple[HeadScores, list[dict[str, Any]]]] = {}
    outcomes = run_parts(
        score, hashes, parallel=parallel, scheduler=scheduler, progress=progress, desc="scores", unit="prompt"
    )
    for outcome in outcomes:
        if outcome.error is None:
            by_hash[outcome.item] = outcome.value
            report.done += 1
        else:
            report.failures.append(f"prompt {outcome.item}: {outcome.error}")
    # Weights of another kind have fewer scores, and those of other numbers.
    columns = max((list(table.columns) for table, _ in by_hash.values()), key=len, default=[])
    for name in [name for name, (table, _) in by_hash.items() if list(table.columns) != columns]:
        table = by_hash.pop(name)[0]
        report.done -= 1
        lacking = ", ".join(score for score in columns if score not in table.columns)
        report.failures.append(
            f"prompt {name}: its weights ({table.about}) have no {lacking}, as those of others have; compute it again"
        )
    if not by_hash:
        reason = f": {report.failures[0]}" if report.failures else ""
        raise ActivationsMissingError(f"no prompt of {model_name!r} in {str(folder)!r} can be scored{reason}")
    # In the order of the hashes, whichever was done first, so that sums round the same way.
    by_hash = dict(sorted(by_hash.items()))
    mean = average_scores([table for table, _ in by_hash.values()])
    target = make_folder(model.path / "atlas")
    paths = [mean.to_csv(target / "scores.csv"), mean.to_json(target / "scores.json")]
    text = json.dumps(_find_strongest(by_hash, mean), ensure_ascii=False, indent=1) + "\n"
    paths.append(write_whole(target / "strongest.json", text.encode()))
    notes = [f"mean over {len(by_hash)} prompts"]
    for name in mean.columns:
        figure = plot_atlas(
            mean.make_grid(name),
            label=SCORES[name].label,
            title=name.replace("_", " "),
            model_id=mean.model_id,
            notes=notes,
            layers=mean.layers,
            heads=mean.heads,
        )
        paths.append(write_whole(target / f"{name}.{fmt}", render_figure(figure, fmt)))
    if mean_maps is not None:
        paths += _save_mean(model_name, folder, by_hash, mean_maps, target, fmt)
    return report, paths


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
