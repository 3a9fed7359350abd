"""What an intervention on heads does to a model's predictions and to later patterns."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from .analysis.table import HeadScores
from .errors import OptionError
from .selections import choose_numbers

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, eq=False)
class HeadEffect:
    """What an intervention did to one prompt.

    Parameters
    ----------
    description : str
        The intervention, in a few words.
    model_id : str
        Name of the model.
    tokens : tuple of str
        Labels of the prompt's tokens.
    changed : tuple of (int, int)
        Layer and head of those that the intervention changed.
    divergence : numpy.ndarray
        Kullback–Leibler divergence of the next-token distribution with the intervention from the one without, at
        each position, nats, axes ``(n_tokens,)``.
    loss_before, loss_after : numpy.ndarray
        Cross-entropy of each token from the second on, nats, axes ``(n_tokens - 1,)``.
    top_before, top_after : tuple of (str, float, float)
        The likeliest next tokens after the prompt without and with the intervention: label, probability without,
        probability with.
    pattern_change : HeadScores
        Column ``"total_variation"``: half the sum of absolute changes of a row, 0 to 1, mean over the queries.
    """

    description: str
    model_id: str
    tokens: tuple
    changed: tuple
    divergence: np.ndarray
    loss_before: np.ndarray
    loss_after: np.ndarray
    top_before: tuple
    top_after: tuple
    pattern_change: HeadScores

    @property
    def loss_change(self):
        """Mean loss with the intervention less the mean without, nats."""
        return float(self.loss_after.mean() - self.loss_before.mean())

    def __repr__(self):
        """Say what it did in one line."""
        return (
            f"HeadEffect({self.model_id!r}, {self.description}: loss {self.loss_before.mean():.3f} → "
            f"{self.loss_after.mean():.3f}, KL {self.divergence.mean():.3f} nats)"
        )

    def to_dict(self):
        """Return everything in plain types, for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["pattern_change"] = self.pattern_change.to_dict()
        return {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in fields.items()}


def measure_effect(
    model: "torch.nn.Module", tokenizer: Any, prompt: Any, intervention: Any, *, k: int = 5, model_id: str | None = None
) -> HeadEffect:
    """Measure what an intervention does to a prompt's predictions and to the patterns of all heads.

    Two passes of the model, without and with it.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model with its head.
    tokenizer : transformers tokenizer or None
        For prompts in words and readable tokens.
    prompt : str, tuple of str, list of dict, token ids or mapping
        As `capture_attention` takes it, at least two tokens.
    intervention : Intervention
        What `ablate_heads` or `merge_heads` returned for this model, not entered.
    k : int
        How many of the likeliest next tokens to keep.
    model_id : str, optional
        Name for figures; left out, the model's.

    Returns
    -------
    HeadEffect
        The measurements; `plot_effect` draws them.

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
    import torch

    from .capture.intervene import Intervention
    from .capture.prefill import get_model_id
    from .capture.replay import encode_text, measure_losses, run_with_maps
    from .tokens import label_tokens

    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise OptionError(f"k must be a whole number from 1, got {k!r}")
    if not isinstance(intervention, Intervention) or intervention.model is not model:
        raise OptionError(
            f"intervention must come from ablate_heads or merge_heads on this model, got {intervention!r}"
        )
    inputs = encode_text(model, tokenizer, prompt)
    ids = inputs["input_ids"][0].cpu()
    tokens = tuple(label_tokens(ids.tolist(), tokenizer))
    model_id = model_id or get_model_id(model)
    before, maps = run_with_maps(model, inputs, tokens, model_id=model_id)
    with intervention:
        after, changed = run_with_maps(model, inputs, tokens, model_id=model_id)
    p, q = (torch.log_softmax(logits, -1) for logits in (before, after))
    tops = []
    for logits in (p, q):
        best = logits[-1].topk(min(k, logits.shape[1])).indices
        rows = zip(best.tolist(), p[-1, best].exp().tolist(), q[-1, best].exp().tolist(), strict=True)
        tops.append(tuple((label_tokens([i], tokenizer)[0], one, other) for i, one, other in rows))
    shift = [np.abs(a - b).sum(-1).mean(-1) / 2 for a, b in zip(changed.weights, maps.weights, strict=True)]
    return HeadEffect(
        description=intervention.description,
        model_id=model_id,
        tokens=tokens,
        changed=intervention.heads,
        divergence=(p.exp() * (p - q)).sum(-1).clamp(min=0).numpy(),
        loss_before=measure_losses(before[None], ids)[0].numpy(),
        loss_after=measure_losses(after[None], ids)[0].numpy(),
        top_before=tops[0],
        top_after=tops[1],
        pattern_change=HeadScores(
            np.repeat(maps.layers, maps.n_heads),
            np.concatenate(maps.heads),
            {"total_variation": np.concatenate(shift).astype(np.float64)},
            model_id,
        ),
    )


def rank_heads_by_effect(
    model: "torch.nn.Module",
    tokenizer: Any,
    prompt: Any,
    *,
    mode: str = "zero",
    layers: Iterable[int] | None = None,
    batch_size: int | None = 16,
    model_id: str | None = None,
    progress: bool | None = None,
) -> Any:
    """Measure what the model loses without each head in turn.

    The layers below the ablated head are computed once for all; the heads of a layer run together as a batch.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model with its head.
    tokenizer : transformers tokenizer or None
        For prompts in words.
    prompt : str, tuple of str, list of dict, token ids or mapping
        As `capture_attention` takes it, at least two tokens.
    mode : {"zero", "mean", "uniform", "bos"}
        As `ablate_heads` takes it.
    layers : sequence of int, optional
        True numbers of those whose heads are ablated; left out, all.
    batch_size : int
        Most heads in one pass; fewer take less memory.
    model_id : str, optional
        Name for figures; left out, the model's.
    progress : bool, optional
        Whether to show a bar on stderr; left out, only when stderr is a terminal.

    Returns
    -------
    HeadScores
        Column ``"loss_change"``: mean cross-entropy of the prompt's tokens from the second on without the head, less
        that of the whole model, nats. An atlas of it: ``plot_atlas(scores.make_grid("loss_change"),
        diverging=True)``.

    Raises
    ------
    OptionError
        If the model is not a causal language model, or an option cannot be used.
    PromptError
        If the prompt has fewer than two tokens.

    Notes
    -----
    The first-order importance of Michel et al. 2019, "Are Sixteen Heads Really Better than One?", estimates this;
    here it is measured.
    """
    from .capture.intervene import MODES
    from .capture.prefill import get_model_id
    from .capture.replay import encode_text, iterate_ablation_losses
    from .capture.targets import find_target

    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise OptionError(f"batch_size must be a whole number from 1, got {batch_size!r}")
    target = find_target(model)
    if target.n_heads is None:
        raise OptionError(f"how many heads a layer of {type(model).__name__} has cannot be found")
    layers = choose_numbers(layers, target.layers, "layer")
    inputs = encode_text(model, tokenizer, prompt)
    passes = iterate_ablation_losses(model, inputs, mode=mode, layers=layers, batch_size=batch_size)
    whole = next(passes)[2].mean()
    rows = []
    disable = None if progress is None else not progress
    with tqdm(total=len(layers) * target.n_heads, desc="ablating", unit="head", disable=disable, leave=False) as bar:
        for layer, heads, losses in passes:
            rows += [(layer, head, loss) for head, loss in zip(heads, losses.mean(1) - whole, strict=True)]
            bar.update(len(heads))
    numbers, heads, changes = zip(*rows, strict=True)
    return HeadScores(
        np.array(numbers),
        np.array(heads),
        {"loss_change": np.array(changes, np.float64)},
        model_id or get_model_id(model),
    )
