"""Heads of real models that the scores must find."""

import numpy as np
import pytest
import torch

from attn_viewer import ablate_heads, capture_attention, score_heads
from attn_viewer.analysis import average_scores, repeated_tokens_prompt

TEXT = (
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness "
    "was upon the face of the deep."
)


@pytest.fixture(params=["demo", "smollm2"])
def loaded(request):
    return request.getfixturevalue(request.param)


def test_previous_token_and_induction_heads_are_found(loaded):
    model, tokenizer = loaded
    prompts = [repeated_tokens_prompt(tokenizer, 25, seed=seed) for seed in range(3)]
    scores = average_scores(
        score_heads(capture_attention(model, tokenizer, ids), ["previous_token", "induction"]) for ids in prompts
    )
    assert scores.top("previous_token", 1)[0].value >= 0.6
    assert scores.top("induction", 1)[0].value >= 0.4
    # The strongest induction head stands above a previous-token head, on which it depends.
    assert scores.top("induction", 1)[0].layer > min(head.layer for head in scores.top("previous_token", 3))


def test_without_its_induction_heads_the_demo_model_does_not_repeat(demo):
    """Three random heads of the same layers make at most half of that difference."""
    model, tokenizer = demo
    scores = average_scores(
        score_heads(
            capture_attention(model, tokenizer, repeated_tokens_prompt(tokenizer, 40, seed=seed)), ["induction"]
        )
        for seed in (1000, 1001)
    )
    strongest = [(layer, head) for layer, head, _ in scores.top("induction", 3)]

    def measure(ids, heads):
        with torch.no_grad(), ablate_heads(model, heads):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        return float(torch.nn.functional.cross_entropy(logits[-40:-1], torch.tensor(ids[-39:])))

    gaps = []
    for seed in range(20):
        rng, ids = np.random.default_rng(seed), repeated_tokens_prompt(tokenizer, 40, seed=seed)
        others = []
        for layer, _ in strongest:
            free = [(layer, head) for head in range(8) if (layer, head) not in {*strongest, *others}]
            others.append(free[rng.integers(len(free))])
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        plain = float(torch.nn.functional.cross_entropy(logits[-40:-1], torch.tensor(ids[-39:])))
        gaps.append((measure(ids, strongest) - plain, measure(ids, others) - plain))
    with_induction, with_others = np.mean(gaps, axis=0)
    assert with_induction > 1
    assert with_induction >= 2 * with_others


def test_induction_of_smollm2_shows_on_text_by_matching_tokens(smollm2):
    """The head that is strongest on text is one of the strongest on random tokens."""
    on_text = score_heads(capture_attention(*smollm2, TEXT), ["induction"])
    on_random = score_heads(capture_attention(*smollm2, repeated_tokens_prompt(smollm2[1], 25)), ["induction"])
    best = on_text.top("induction", 1)[0]
    assert best.value >= 0.3
    assert best[:2] in [head[:2] for head in on_random.top("induction", 8)]


def test_most_middle_layers_of_smollm2_have_a_sink(smollm2):
    masses = score_heads(capture_attention(*smollm2, TEXT), ["sink_mass"]).make_grid("sink_mass").mean(1)
    assert np.mean(masses[10:20] >= 0.5) >= 0.7
