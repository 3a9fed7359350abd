"""Scores of heads: one number a head that says what it does.

A is a head's pattern; i a query's position among the keys, j a key. Where a score is a mean over queries, rows of
padding count in none. A new score is one function here under `@_register`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnsuitableMapsError
from ..facts import MapFacts
from ..long_runs import show_bar
from ..maps import AttentionMaps
from .blocks import (
    EPSILON,
    WINDOW,
    Frame,
    HeadBlock,
    divide,
    find_obstacle,
    iterate_blocks,
    require_heads,
    require_unsigned,
)
from .spectra import compute_effective_rank
from .table import HeadScores

Measure = Callable[[HeadBlock], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class Score:
    """A score: `measure` returns float64 of axes ``(n_heads,)``, and its docstring is the definition."""

    measure: Measure
    label: str  # what a figure calls it
    upper: float | None  # largest value it can have; None where that depends on the prompt. The smallest is 0
    needs: Mapping[str, bool]  # as `find_obstacle` takes them
    is_slow: bool  # takes singular values, and with them longer than a capture


SCORES: dict[str, Score] = {}


def _register(
    label: str, *, upper: float | None = None, is_slow: bool = False, **needs: bool
) -> Callable[[Measure], Measure]:
    def register(measure: Measure) -> Measure:
        name = measure.__name__.removeprefix("measure_")
        SCORES[name] = Score(measure, label, upper, {"shares": True} | needs, is_slow)
        return measure

    return register


def score_heads(
    maps: AttentionMaps,
    scores: str | Sequence[str] | None = None,
    *,
    window: int = WINDOW,
    epsilon: float = EPSILON,
    progress: bool | None = None,
) -> HeadScores:
    """Score every head.

    Parameters
    ----------
    maps : AttentionMaps
        Every weight of each head (``reduction="full"``).
    scores : sequence of str, optional
        Names of `SCORES`; left out, all that these maps can have.
    window : int
        Tokens on each side of a query that are near, for ``"local_mass"``.
    epsilon : float
        Weight past which a query looks at the sink, for ``"sink_rate"``.
    progress : bool, optional
        Whether to show a bar on stderr; left out, only when stderr is a terminal.

    Returns
    -------
    HeadScores
        A row a head, a column a score. NaN where nothing could be counted: ``"induction"`` of a text that repeats
        no token.

    Raises
    ------
    UnsuitableMapsError
        If the maps are pooled or a mean over heads, hold fewer than two keys, or lack what a named score needs: weights
        scaled by values have no shares of a row.
    OptionError
        If there is no such score, or `window` or `epsilon` cannot be used.
    """
    require_heads(maps, "a score of a head", least_keys=2)
    require_unsigned(maps, "a score of a head")
    frame = Frame(maps, window, epsilon)
    chosen = choose_scores(scores, maps)
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in chosen}
    with show_bar("scoring", "head", progress, total=sum(maps.n_heads)) as bar:
        for block in iterate_blocks(maps, frame):
            for name, parts in columns.items():
                parts.append(SCORES[name].measure(block))
            bar.update(len(block.weights))
    return HeadScores(
        layer=np.repeat(maps.layers, maps.n_heads),
        head=np.concatenate(maps.heads),
        columns={name: np.concatenate(parts) for name, parts in columns.items()},
        model_id=maps.model_id,
        about=_describe_maps(maps),
    )


def _describe_maps(maps: MapFacts) -> str:
    kind = f"{maps.kind} attention" if maps.kind == "cross" else f"{'causal ' * maps.causal}self-attention"
    n_query, n_key = len(maps.tokens_query), len(maps.tokens_key)
    size = f"{n_key} tokens" if n_query == n_key else f"{n_query} queries, {n_key} keys"
    return ", ".join((kind, size, *maps.remarks))


def check_scores(names: str | Sequence[str]) -> list[str]:
    """Return names of `SCORES`, each once, or raise `OptionError` before a model runs."""
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "an empty choice"
        raise OptionError(f"there is no score {came}; there are {', '.join(SCORES)}")
    return names


def check_axes(axes: Sequence[str], names: Sequence[str]) -> None:
    """Raise `OptionError` for a scatter of heads unless its axes, and the colour, are scores among `names`."""
    missing = [name for name in (check_scores(axes) if axes else ()) if name not in names]
    if missing or len(axes) not in (0, 2, 3):
        came = f"{', '.join(missing)} of scores" if missing else f"{len(axes)}"
        raise OptionError(
            f"a scatter of heads takes two scores, and one for the colour, of {', '.join(names)}; got {came}"
        )


def choose_scores(names: str | Sequence[str] | None, maps: MapFacts) -> list[str]:
    """Return the names of scores to compute, or raise for one that these maps cannot have."""
    obstacles = {name: find_obstacle(maps, **score.needs) for name, score in SCORES.items()}
    if names is None:
        return [name for name, obstacle in obstacles.items() if obstacle is None]
    names = check_scores(names)
    for name in names:
        if obstacles[name] is not None:
            raise UnsuitableMapsError(f"score {name!r} {obstacles[name]}")
    return names


def _weigh_previous(block: HeadBlock) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    positions: NDArray[np.int64] = block.frame.positions[:, 0]
    values = np.take_along_axis(block.weights, np.maximum(positions - 1, 0)[None, :, None], axis=2)[..., 0]
    return values, positions >= 1


def _weigh_followers(block: HeadBlock) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return block.follower_masses, np.asarray(block.frame.followers.any(1))


def _weigh_first(block: HeadBlock) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return block.weights[:, :, 0], np.ones(block.weights.shape[1], np.bool_)


# Scores that are means over queries of what these return: a weight each, axes (n_heads, n_query), and which count.
CURVES = {"previous_token": _weigh_previous, "induction": _weigh_followers, "sink_mass": _weigh_first}


@_register("previous token", upper=1, positions=True)
def measure_previous_token(block: HeadBlock) -> NDArray[np.float64]:
    """Mean of A[i, i-1] over the queries from position 1 on.

    Voita et al. 2019, "Analyzing Multi-Head Self-Attention", call a head positional that does so.
    """
    return block.average(*_weigh_previous(block))


@_register("duplicate token", upper=1, positions=True)
def measure_duplicate_token(block: HeadBlock) -> NDArray[np.float64]:
    """Mean weight on all earlier occurrences of the query's own token, over the queries that have one.

    Wang et al. 2022, "Interpretability in the Wild", duplicate token heads. Tokens are the same when their ids are;
    maps that hold no ids (old caches) are compared by label.
    """
    return block.average(block.sum_over(block.frame.repeats), block.frame.repeats.any(1))


@_register("induction", upper=1, positions=True)
def measure_induction(block: HeadBlock) -> NDArray[np.float64]:
    """Mean weight on the keys right behind earlier occurrences of the query's token, over the queries that have one.

    Olsson et al. 2022, "In-context Learning and Induction Heads", call it prefix matching and measure it on random
    tokens said twice (`repeated_tokens_prompt`); on text, tokens are matched as for duplicates. A query right behind
    its own duplicate does not count as what followed it.
    """
    return block.average(*_weigh_followers(block))


@_register("first-token sink, mass", upper=1)
def measure_sink_mass(block: HeadBlock) -> NDArray[np.float64]:
    """Mean of A[i, 0] over all queries, which all see key 0.

    Gu et al. 2025, "When Attention Sink Emerges in Language Models", importance score of the first token (their
    sink metric is the share of heads where it passes 0.3, see `measure_sink_heads`). A causal model's first query sees
    nothing else and counts with weight 1, as it does there.
    """
    return block.average(*_weigh_first(block))


@_register("first-token sink, rate", upper=1)
def measure_sink_rate(block: HeadBlock) -> NDArray[np.float64]:
    """Share of queries whose weight on key 0 passes `epsilon`, 0.3 unless said otherwise.

    The threshold is that of Gu et al. 2025, applied to each query in place of the mean over them.
    """
    return block.average(block.weights[:, :, 0] > block.frame.epsilon)


@_register("other sinks, mass", upper=1)
def measure_other_sink_mass(block: HeadBlock) -> NDArray[np.float64]:
    """Largest mean weight on one key other than key 0, over the queries that see it, at least `blocks.LEAST_QUERIES`.

    The importance score of Gu et al. 2025 for keys k > 0; Sun et al. 2024, "Massive Activations in Large Language
    Models", find such sinks on delimiters. `find_sinks` says which keys.
    """
    masses = block.column_means[:, 1:]
    return np.where(np.isnan(masses).all(1), np.nan, np.nan_to_num(masses, nan=-1).max(1))


@_register("entropy (nats)")
def measure_entropy(block: HeadBlock) -> NDArray[np.float64]:
    """Mean entropy of the rows, in nats; where the model has learned sinks, a sink counts as one more key.

    Clark et al. 2019, "What Does BERT Look At?", section 3.3.
    """
    return block.average(block.entropies)


@_register("entropy / uniform", upper=1)
def measure_relative_entropy(block: HeadBlock) -> NDArray[np.float64]:
    """Mean of each row's entropy over that of a uniform row on the keys that the query sees, if more than one."""
    choices = block.frame.sees.sum(1) + block.frame.maps.has_sinks
    return block.average(block.entropies / np.log(np.maximum(choices, 2)), choices > 1)


@_register("mean distance (tokens)", positions=True, shares=False)
def measure_mean_distance(block: HeadBlock) -> NDArray[np.float64]:
    """Σ A[i, j]·|i - j| / Σ A[i, j] over all queries and keys, in tokens.

    Vig & Belinkov 2019, "Analyzing the Structure of Attention in a Transformer Language Model", equation 3.
    """
    return divide(np.einsum("hqk,qk->h", block.weights, block.frame.distances), block.masses.sum(1))


@_register("local mass", upper=1, positions=True)
def measure_local_mass(block: HeadBlock) -> NDArray[np.float64]:
    """Mean weight on keys at most `window` tokens away, over the queries that see a key further off.

    The recent window of Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks".
    """
    near = block.frame.distances <= block.frame.window
    return block.average(block.sum_over(near), (block.frame.sees & ~near).any(1))


@_register("heaviest column", upper=1, shares=False)
def measure_heaviest_column(block: HeadBlock) -> NDArray[np.float64]:
    """Share of all weight that falls on the key with the most accumulated weight.

    Zhang et al. 2023, "H2O: Heavy-Hitter Oracle", score keys by accumulated weight; `accumulate_columns` gives it.
    """
    return divide(block.column_sums.max(1), block.masses.sum(1))


def _measure_keys(block: HeadBlock, share: float) -> NDArray[np.float64]:
    # Weights kept in float32 add up to a share only to rounding.
    short = block.cumulated < (share - 1e-6) * block.masses[..., None]
    return block.average(short.sum(-1) + 1)


@_register("keys for 90 % of mass", shares=False)
def measure_keys_90(block: HeadBlock) -> NDArray[np.float64]:
    """Mean number of keys that together hold 90 % of a row's weight, the heaviest first.

    Sparsity as in Zhang et al. 2023 (H2O), section 3.
    """
    return _measure_keys(block, 0.90)


@_register("keys for 95 % of mass", shares=False)
def measure_keys_95(block: HeadBlock) -> NDArray[np.float64]:
    """As `measure_keys_90`, for 95 %."""
    return _measure_keys(block, 0.95)


@_register("keys for 99 % of mass", shares=False)
def measure_keys_99(block: HeadBlock) -> NDArray[np.float64]:
    """As `measure_keys_90`, for 99 %."""
    return _measure_keys(block, 0.99)


@_register("effective rank", all_queries=True, shares=False, is_slow=True)
def measure_effective_rank(block: HeadBlock) -> NDArray[np.float64]:
    """Exponential of the entropy of the singular values, divided by their sum.

    Roy & Vetterli 2007, "The Effective Rank: A Measure of Effective Dimensionality".
    """
    return compute_effective_rank(block.singular_values)


@_register("nuclear norm", all_queries=True, shares=False, is_slow=True)
def measure_nuclear_norm(block: HeadBlock) -> NDArray[np.float64]:
    """Sum of the singular values (Fan 1951)."""
    norms: NDArray[np.float64] = block.singular_values.sum(1)
    return norms
