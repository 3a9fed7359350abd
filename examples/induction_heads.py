"""Find the induction heads of a model, take them out, and see what it loses: ``python examples/induction_heads.py``.

Random tokens said twice can be predicted the second time only by looking back at what followed the same token before.
Heads that look there are induction heads (Olsson et al. 2022, "In-context Learning and Induction Heads"). The script
finds the three strongest, ablates them, and compares the loss on the second half with that without three random heads
of the same layers. ``--model_path`` takes any causal language model; left out, the demo model of the package.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from attn_viewer import (
    ablate_heads,
    capture_attention,
    load_model,
    measure_effect,
    plot_atlas,
    plot_effect,
    score_heads,
)
from attn_viewer.analysis import average_scores

N_TOKENS, N_HEADS = 40, 3


def make_prompt(tokenizer, rng):
    """Return ids of the first token of a text, if there is one, and of random tokens, twice."""
    special = set(tokenizer.all_special_ids)
    ordinary = [i for i in range(len(tokenizer)) if i not in special]
    tokens = rng.choice(ordinary, N_TOKENS, replace=False).tolist()
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*start, *tokens, *tokens]


def measure_second_half(model, ids):
    """Return the mean cross-entropy of the repeated tokens, nats, the first of them left out."""
    tokens = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0].float()
    losses = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
    return float(losses[1 - N_TOKENS :].mean())


def choose_others(layers, n_heads, heads, rng):
    """Return one random head of each layer that is none of `heads`, each once."""
    others = []
    for layer in layers:
        free = [(layer, head) for head in range(n_heads) if (layer, head) not in {*heads, *others}]
        others.append(free[rng.integers(len(free))])
    return others


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path")
    parser.add_argument("--model_id")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--save_fig_path", type=Path, help="folder for the two figures")
    args = parser.parse_args()
    model, tokenizer = load_model(args.model_path)
    tables = []
    for seed in range(4):  # other sequences than those below
        prompt = make_prompt(tokenizer, np.random.default_rng(1000 + seed))
        maps = capture_attention(model, tokenizer, prompt, model_id=args.model_id)
        tables.append(score_heads(maps, ["previous_token", "induction"]))
    scores = average_scores(tables)
    for name in scores.columns:
        best = scores.top(name, N_HEADS)
        print(f"{name:15}", "  ".join(f"{layer}.{head} {value:.2f}" for layer, head, value in best))
    heads = [(layer, head) for layer, head, _ in scores.top("induction", N_HEADS)]
    rows = []
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        prompt = make_prompt(tokenizer, rng)
        others = choose_others([layer for layer, _ in heads], len(scores.heads), heads, rng)
        losses = [measure_second_half(model, prompt)]
        for chosen in (heads, others):
            with ablate_heads(model, chosen):
                losses.append(measure_second_half(model, prompt))
        rows.append(losses)
    plain, induction, random = np.mean(rows, axis=0)
    print(f"\nloss on the second half, mean of {args.seeds} sequences (nats a token)")
    print(f"{'as it is':44}{plain:7.3f}")
    names = ", ".join(f"{layer}.{head}" for layer, head in heads)
    print(f"{f'without the induction heads {names}':44}{induction:7.3f}  {induction - plain:+.3f}")
    print(f"{'without three random heads of their layers':44}{random:7.3f}  {random - plain:+.3f}")
    if args.save_fig_path is not None:
        args.save_fig_path.mkdir(parents=True, exist_ok=True)
        atlas = plot_atlas(
            scores.make_grid("induction"),
            label="induction score",
            title="where induction heads are",
            model_id=scores.model_id,
            notes=[f"mean over 4 sequences of {N_TOKENS} random tokens said twice", "strongest framed"],
            layers=scores.layers,
            heads=scores.heads,
            marks=heads,
        )
        atlas.savefig(args.save_fig_path / "induction_atlas.png")
        effect = measure_effect(model, tokenizer, prompt, ablate_heads(model, heads), model_id=args.model_id)
        plot_effect(effect).savefig(args.save_fig_path / "induction_effect.png")


if __name__ == "__main__":
    main()
