"""``attn-viewer heads``, ``compare`` and ``ablate``: numbers about heads, and changes of model or heads."""

import functools
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..capture_options import SelectionOptions
from ..declarations import option
from ..errors import OptionError
from ..options import AblationMode, CacheOptions, ColourOptions, FigureOptions, ScatterOptions
from ..selections import parse_heads
from .arguments import (
    Command,
    LoadOptions,
    PromptOptions,
    QuietOptions,
    SamplingOptions,
    check_output,
    get_maps,
    load_model,
    read_prompt,
    show_messages,
    write_figures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..analysis.table import HeadScores
    from ..interventions.head_effects import HeadEffect


class HeadsWords(
    LoadOptions, PromptOptions, SamplingOptions, CacheOptions, FigureOptions, ScatterOptions, QuietOptions
):
    """The scores."""

    repeated: int | None = option(
        None,
        "N random tokens said twice in place of a prompt",
        metavar="N",
        at_least=2,
        apart="load_attention_scores_path",
    )
    scores: Sequence[str] | None = option(
        None, "such as previous_token,induction,sink_mass; left out, all", metavar="NAME,…"
    )
    window: int | None = option(None, "tokens on each side that are near, for local_mass (8)", metavar="N")
    epsilon: float | None = option(None, "weight that is a sink, for sink_rate (0.3)", metavar="W")
    sort: str | None = option(None, "list the heads that score highest first", metavar="NAME")
    top: int | None = option(None, "list only the first K heads", metavar="K", at_least=1)
    csv: str | None = option(None, "write all scores as CSV", metavar="FILE")
    json: str | None = option(None, "write all scores as JSON", metavar="FILE")


def _heads(asked: HeadsWords) -> None:
    from ..analysis.repeats import repeated_tokens_prompt
    from ..analysis.scores import score_heads
    from ..figures.venues import use_preset

    names, limits = _check_scores(asked)
    repeat = None
    if asked.repeated is not None:
        repeat = functools.partial(repeated_tokens_prompt, length=asked.repeated, seed=asked.seed or 0)
    with use_preset(asked.preset, columns=asked.columns), show_messages(asked.quiet):
        scores = score_heads(get_maps(asked, repeat), names, progress=asked.bars, **limits)
        order: Sequence[int] = range(len(scores))
        if asked.sort is not None:
            ranks = {head[:2]: place for place, head in enumerate(scores.top(asked.sort, len(scores)))}
            where = [ranks.get(head, len(scores)) for head in zip(scores.layer, scores.head, strict=True)]
            order = sorted(order, key=where.__getitem__)
        log = logging.getLogger(__name__)
        for path in _write_scores(scores, asked):
            log.info("wrote %s", path)
    print(_format_table(scores, order[: asked.top]))


def _check_scores(asked: HeadsWords) -> tuple[Sequence[str] | None, dict[str, Any]]:
    """Return names and limits of the scores, checked before a model runs."""
    from ..analysis.blocks import check_limits
    from ..analysis.scores import SCORES, check_axes, check_scores

    check_output(asked)
    if asked.csv is not None and asked.csv == asked.json:
        raise OptionError(f"csv and json are one file, {asked.csv!r}; give each its own")
    names = None if asked.scores is None else check_scores(asked.scores)
    check_axes(asked.scatter, names or [*SCORES])
    if asked.sort is not None:
        check_scores([asked.sort])
        if names is not None and asked.sort not in names:
            raise OptionError(f"cannot sort by {asked.sort!r}, which is not among the scores {', '.join(names)}")
    limits = {}
    for name, score in (("window", "local_mass"), ("epsilon", "sink_rate")):
        if (value := getattr(asked, name)) is not None:
            if names is not None and score not in names:
                raise OptionError(f"{name} has no use without the score {score}")
            limits[name] = value
    check_limits(**limits)
    return names, limits


def _write_scores(scores: "HeadScores", asked: HeadsWords) -> Iterator[Any]:
    """Yield the path of each file that was asked for, once it is written."""
    if asked.csv is not None:
        yield scores.to_csv(asked.csv)
    if asked.json is not None:
        yield scores.to_json(asked.json)
    if asked.save_fig_path is None:
        return
    from ..analysis.scores import SCORES
    from ..figures.heads import plot_atlas
    from ..figures.scatter import plot_head_scatter

    figures = {
        f"heads_{name}": plot_atlas(
            scores.make_grid(name),
            layers=scores.layers,
            heads=scores.heads,
            label=SCORES[name].label,
            title=SCORES[name].label,
            model_id=scores.model_id,
            notes=[scores.about],
        )
        for name in scores.columns
    }
    if asked.scatter:
        figures["heads_scatter"] = plot_head_scatter(scores, *asked.scatter)
    yield from write_figures(asked, scores.model_id, figures)


def _format_table(scores: "HeadScores", rows: Sequence[int]) -> str:
    """Write a table with a row a head; names stand one word a line above their column."""
    columns = {"layer": scores.layer, "head": scores.head} | dict(scores.columns)
    words = (reversed(name.split("_")) for name in columns)
    lines: list[tuple[str, ...]] = [*itertools.zip_longest(*words, fillvalue="")][::-1]
    for row in rows:
        values = (column[row] for column in columns.values())
        lines.append(tuple(str(v) if i < 2 else "–" if v != v else f"{v:.3f}" for i, v in enumerate(values)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        " ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


heads = Command(HeadsWords, _heads)


class CompareWords(SelectionOptions, ColourOptions, FigureOptions, save_fig_path="./vis"):
    """The two models."""

    first: str = option(help="cache that view --save_attention_scores wrote", metavar="A.pt")
    second: str = option(help="cache of the same prompt under the other model", metavar="B.pt")
    top: int = option(5, "heads to list that changed most", metavar="K", at_least=0)


def _compare(asked: CompareWords) -> None:
    import numpy as np

    from ..analysis.compare import compare_attention
    from ..core import load_cache
    from ..figures.compare import describe_changes, iterate_comparison_pages
    from ..figures.heads import plot_atlas
    from ..figures.options import WeightLook
    from ..figures.pages import number_pages
    from ..figures.scales import round_end
    from ..figures.venues import use_preset

    check_output(asked)
    first, second = (load_cache(path, asked, None) for path in (asked.first, asked.second))
    comparison = compare_attention(first, second)
    # A head that was zeroed in one differs as much as can be; it would hide the changes of all others.
    pairs = zip(comparison.distances, first.weights, second.weights, strict=True)
    largest = np.concatenate([change[a.any((1, 2)) & b.any((1, 2))] for change, a, b in pairs]).max(initial=0)
    look = WeightLook(**ColourOptions.pick(asked).as_dict())
    with use_preset(asked.preset, columns=asked.columns):
        figures = dict(number_pages("compare", iterate_comparison_pages(first, second, look)))
        figures["compare_heads"] = plot_atlas(
            comparison.distances,
            layers=first.layers,
            heads=first.heads,
            label="total variation, mean over queries",
            title="change of each head",
            vmax=round_end(largest) if largest else None,
            notes=[f"A: {first.model_id}", f"B: {second.model_id}", *describe_changes(first, second)],
        )
        for path in write_figures(asked, second.model_id, figures):
            print(path)
    distances = np.concatenate(comparison.distances)
    names = [(layer, head) for layer, heads in zip(first.layers, first.heads, strict=True) for head in heads]
    title = f"{first.model_id} → {second.model_id}"
    print(f"{title}: mean total variation {distances.mean():.4f}, largest {distances.max():.4f}")
    for index in np.argsort(-distances, kind="stable")[: asked.top]:
        print(f"layer {names[index][0]} head {names[index][1]}: {distances[index]:.4f}")


compare = Command(CompareWords, _compare)


class AblateWords(LoadOptions, PromptOptions, FigureOptions, QuietOptions, fig_format="png"):
    """The intervention."""

    heads: Sequence[tuple[int, int]] | None = option(
        None, "layer.head of each to ablate", metavar="5.3,7.1", parse=parse_heads, apart=("merge", "rank")
    )
    merge: Sequence[tuple[int, int]] | None = option(
        None, "two heads of a layer to share a pattern", metavar="5.3,5.4", parse=parse_heads, apart=("rank", "mode")
    )
    rank: bool = option(False, "ablate every head in turn, by its effect on the loss")
    mode: AblationMode = option("zero", "what stands in for an ablated head")
    alpha: float = option(0.5, "share of the first, merging", metavar="A", needs="merge")
    top: int = option(5, "next tokens or heads to show", metavar="K", at_least=1)
    json: str | None = option(None, "write all numbers", metavar="FILE")


def _ablate(asked: AblateWords) -> None:
    from ..figures.venues import use_preset
    from ..files import expand_home, make_folder, write_whole

    if asked.heads is None and asked.merge is None and not asked.rank:
        raise OptionError("ablate needs heads, merge or rank: which heads to take out")
    if asked.merge is not None and (len(asked.merge) != 2 or asked.merge[0][0] != asked.merge[1][0]):
        raise OptionError("--merge takes two heads of one layer, such as 5.3,5.4")
    check_output(asked)
    prompt = read_prompt(asked)
    with use_preset(asked.preset, columns=asked.columns):
        model, tokenizer = load_model(asked, asked.bars)
        numbers = (_rank if asked.rank else _change)(asked, model, tokenizer, prompt)
        if asked.json is not None:
            path = expand_home(asked.json)
            make_folder(path.parent)
            write_whole(path, (json.dumps(numbers.to_dict(), ensure_ascii=False) + "\n").encode())
        if asked.save_fig_path is not None:
            for path in write_figures(asked, numbers.model_id, _draw_changes(asked, numbers)):
                print(path)


def _change(asked: AblateWords, model: Any, tokenizer: Any, prompt: Any) -> "HeadEffect":
    from ..interventions.changed_heads import ablate_heads, merge_heads
    from ..interventions.head_effects import measure_effect

    if asked.merge is None:
        intervention = ablate_heads(model, asked.heads or (), asked.mode)
    else:
        (layer, head1), (_, head2) = asked.merge
        intervention = merge_heads(model, layer, head1, head2, asked.alpha)
    effect = measure_effect(model, tokenizer, prompt, intervention, k=asked.top, model_id=asked.model_id)
    print(effect.description)
    print(f"loss (nats a token)  {effect.loss_before.mean():9.4f} → {effect.loss_after.mean():.4f}")
    print(f"KL (nats a position) {effect.divergence.mean():9.4f}")
    print(f"{'next token':20} {'before':>9} {'after':>9}")
    for label, before, after in dict.fromkeys((*effect.top_before, *effect.top_after)):
        print(f"{label:20} {before:9.4f} {after:9.4f}")
    return effect


def _rank(asked: AblateWords, model: Any, tokenizer: Any, prompt: Any) -> "HeadScores":
    from ..interventions.head_effects import rank_heads_by_effect

    table = rank_heads_by_effect(
        model, tokenizer, prompt, mode=asked.mode, model_id=asked.model_id, progress=asked.bars
    )
    print(f"{'head':>8} {'change of loss (nats a token)':>30}")
    for layer, head, change in table.top("loss_change", asked.top):
        print(f"{layer:>5}.{head:<2} {change:+30.4f}")
    return table


def _draw_changes(asked: AblateWords, numbers: Any) -> dict[str, "Figure"]:
    from ..figures.effects import plot_effect
    from ..figures.heads import plot_atlas

    if not asked.rank:
        return {"ablation": plot_effect(numbers)}
    figure = plot_atlas(
        numbers.make_grid("loss_change"),
        label="change of loss (nats)",
        title="the loss without each head",
        model_id=numbers.model_id,
        notes=[f"one head at a time, mode {asked.mode}"],
        layers=numbers.layers,
        heads=numbers.heads,
        diverging=True,
    )
    return {"loss_without_each_head": figure}


ablate = Command(AblateWords, _ablate)
