"""What an intervention on heads does to a model's predictions and to later patterns."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..analysis.table import HeadScores
from ..capture.prefill import get_model_id
from ..capture.targets import find_target
from ..errors import OptionError
from ..hints import check_value
from ..long_runs import show_bar
from ..options import AblationMode
from ..selections import choose_numbers
from ..tokens import label_tokens
from .changed_heads import Intervention
from .repeated_passes import encode_text, iterate_loss_changes, measure_losses, run_with_maps

# A next token: its label, its probability without and with the intervention.
NextToken = tuple[str, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class HeadEffect:
    """What an intervention did to one prompt.

    Parameters
    ----------
    description
        The intervention, in a few words.
    model_id
        Name of the model.
    tokens
        Labels of the prompt's tokens.
    changed
        Layer and head of those that the intervention changed.
    divergence
        Kullback–Leibler divergence of the next-token distribution with the intervention from the one without, at
        each position, nats, axes ``(n_tokens,)``.
    loss_before, loss_after
        Cross-entropy of each token from the second on, nats, axes ``(n_tokens - 1,)``.
    top_before, top_after
        The likeliest next tokens after the prompt without and with the intervention: label, probability without,
        probability with.
    pattern_change
        Column ``"total_variation"``: half the sum of absolute changes of a row, 0 to 1, mean over the queries.
    """

    description: str
    model_id: str
    tokens: tuple[str, ...]
    changed: tuple[tuple[int, int], ...]
    divergence: NDArray[np.float32]
    loss_before: NDArray[np.float32]
    loss_after: NDArray[np.float32]
    top_before: tuple[NextToken, ...]
    top_after: tuple[NextToken, ...]
    pattern_change: HeadScores

    @property
    def loss_change(self) -> float:
        """Mean loss with the intervention less the mean without, nats."""
        return float(self.loss_after.mean() - self.loss_before.mean())

    def __repr__(self) -> str:
        """Say what it did in one line."""
        return (
            f"HeadEffect({self.model_id!r}, {self.description}: loss {self.loss_before.mean():.3f} → "
            f"{self.loss_after.mean():.3f}, KL {self.divergence.mean():.3f} nats)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain types, for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["pattern_change"] = self.pattern_change.to_dict()
        return {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in fields.items()}


def measure_effect(
    model: torch.nn.Module,
    tokenizer: Any,
    prompt: Any,
    intervention: Intervention,
    *,
    k: int = 5,
    model_id: str | None = None,
) -> HeadEffect:
    """Measure what an intervention does to a prompt's predictions and to the patterns of all heads.

    The model runs twice, without and with it; `plot_effect` draws what comes out.

    Parameters
    ----------
    model
        A causal language model with its head.
    tokenizer : transformers tokenizer or None
        For prompts in words and readable tokens.
    prompt : str, tuple of str, list of dict, token ids or mapping
        As `capture_attention` takes it, at least two tokens.
    intervention
        What `ablate_heads` or `merge_heads` returned for this model, not entered.
    k
        How many of the likeliest next tokens to keep.
    model_id
        Name for figures; left out, the model's.

    Raises
    ------
    OptionError
        If the model is not a causal language model, the intervention is another model's, or `k` is not from 1.
    PromptError
        If the prompt has fewer than two tokens.

    Notes
    -----
    The divergence is D(p‖q) = Σ p·log(p / q) with p the distribution without the intervention (Kullback & Leibler
    1951), as Conmy et al. 2023, "Towards Automated Circuit Discovery", measure edits of a model.
    """
    check_value("k", k, int, at_least=1)
    if intervention.model is not model:
        raise OptionError(
            f"intervention must come from ablate_heads or merge_heads on this model, got {intervention!r} on another"
        )
    inputs = encode_text(model, tokenizer, prompt)
    ids = inputs["input_ids"][0].cpu()
    tokens = tuple(label_tokens(ids.tolist(), tokenizer))
    model_id = model_id or get_model_id(model)
    before, maps = run_with_maps(model, inputs, tokens, model_id=model_id)
    with intervention:
        after, changed = run_with_maps(model, inputs, tokens, model_id=model_id)
    p, q = (torch.log_softmax(logits, -1) for logits in (before, after))
    shift = [np.abs(a - b).sum(-1).mean(-1) / 2 for a, b in zip(changed.weights, maps.weights, strict=True)]
    return HeadEffect(
        description=intervention.description,
        model_id=model_id,
        tokens=tokens,
        changed=intervention.heads,
        divergence=(p.exp() * (p - q)).sum(-1).clamp(min=0).numpy(),
        loss_before=measure_losses(before[None], ids)[0].numpy(),
        loss_after=measure_losses(after[None], ids)[0].numpy(),
        top_before=_find_likeliest(p, p, q, k, tokenizer),
        top_after=_find_likeliest(q, p, q, k, tokenizer),
        pattern_change=HeadScores(
            np.repeat(maps.layers, maps.n_heads),
            np.concatenate(maps.heads),
            {"total_variation": np.concatenate(shift).astype(np.float64)},
            model_id,
        ),
    )


def _find_likeliest(
    ranked: torch.Tensor, before: torch.Tensor, after: torch.Tensor, k: int, tokenizer: Any
) -> tuple[NextToken, ...]:
    """Return the likeliest next tokens by one of two log-probabilities of axes (n_tokens, n_vocabulary)."""
    best = ranked[-1].topk(min(k, ranked.shape[1])).indices
    rows = zip(best.tolist(), before[-1, best].exp().tolist(), after[-1, best].exp().tolist(), strict=True)
    return tuple((label_tokens([i], tokenizer)[0], one, other) for i, one, other in rows)


def rank_heads_by_effect(
    model: torch.nn.Module,
    tokenizer: Any,
    prompt: Any,
    *,
    mode: AblationMode = "zero",
    layers: Iterable[int] | None = None,
    batch_size: int = 16,
    model_id: str | None = None,
    progress: bool | None = None,
) -> HeadScores:
    """Measure what the model loses without each head in turn.

    The layers below the ablated head are computed once for all; the heads of a layer run together as a batch. `model`,
    `tokenizer`, `prompt`, `model_id` and errors are as in `measure_effect`.

    Parameters
    ----------
    mode
        As `ablate_heads` takes it.
    layers
        True numbers of those whose heads are ablated; left out, all.
    batch_size
        Most heads in one pass; fewer take less memory.
    progress
        Whether to show a bar on stderr; left out, only when stderr is a terminal.

    Returns
    -------
    HeadScores
        Column ``"loss_change"``: mean cross-entropy of the prompt's tokens from the second on without the head, less
        that of the whole model, nats. An atlas of it: ``plot_atlas(scores.make_grid("loss_change"),
        diverging=True)``.

    Notes
    -----
    The first-order importance of Michel et al. 2019, "Are Sixteen Heads Really Better than One?", estimates this;
    here it is measured.
    """
    check_value("batch_size", batch_size, int, at_least=1)
    target = find_target(model)
    if target.n_heads is None:
        raise OptionError(f"how many heads a layer of {type(model).__name__} has cannot be found")
    layers = choose_numbers(layers, target.layers, "layer")
    passes = iterate_loss_changes(
        model,
        encode_text(model, tokenizer, prompt),
        mode=mode,
        layers=layers,
        n_heads=target.n_heads,
        batch_size=batch_size,
    )
    rows: list[tuple[int, int, float]] = []
    with show_bar("ablating", "head", progress, total=len(layers) * target.n_heads) as bar:
        for layer, heads, changes in passes:
            rows += [(layer, head, change) for head, change in zip(heads, changes.mean(1), strict=True)]
            bar.update(len(heads))
    return HeadScores(
        np.array([layer for layer, _, _ in rows]),
        np.array([head for _, head, _ in rows]),
        {"loss_change": np.array([change for _, _, change in rows], np.float64)},
        model_id or get_model_id(model),
    )
