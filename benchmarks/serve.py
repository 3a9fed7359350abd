"""Time and memory of the browser's server over a data folder of 1,000 prompts of 1,000 heads each.

    python benchmarks/serve.py                # 33 GB of weights in name: one file, linked from every prompt

Linux only: memory is read from /proc. Times are of whole requests over a local connection, medians of 20; the first
request for the folder and for the table of prompts reads the disk. "heads" asks for 1,000 thumbnails of random prompts.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from attn_viewer.storage.hashes import augment_prompt_with_hash

LAYERS, HEADS, TOKENS = 40, 25, 128
STACKED = "activations-blocks.-.attn.hook_pattern.npy"


def make_folder(folder, n_prompts):
    """Write a model and its prompts; the weights are one sparse file under many names."""
    model = folder / "big"
    model.mkdir()
    weights = folder / "weights.npy"
    with open(weights, "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (LAYERS, HEADS, TOKENS, TOKENS)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * LAYERS * HEADS * TOKENS**2)
    with open(model / "prompts.jsonl", "w") as lines:
        for number in range(n_prompts):
            text = f"Prompt {number:04} " + " ".join(f"word{(number * i) % 977}" for i in range(TOKENS - 2))
            prompt = augment_prompt_with_hash({"text": text, "tokens": text.split(), "n_tokens": TOKENS, "meta": {}})
            place = model / "prompts" / prompt["hash"]
            place.mkdir(parents=True)
            (place / "prompt.json").write_text(json.dumps(prompt))
            os.link(weights, place / STACKED)
            lines.write(json.dumps(prompt) + "\n")
    config = {"model_name": "big", "n_layers": LAYERS, "n_heads": HEADS}
    (model / "model_cfg.json").write_text(json.dumps(config))
    return [place.name for place in (model / "prompts").iterdir()]


def read_memory(process):
    """Return resident and most resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return [int(status.split(f"{name}:")[1].split()[0]) / 1e3 for name in ("VmRSS", "VmHWM")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hashes = make_folder(Path(folder), args.prompts)
        print(f"{args.prompts} prompts × {LAYERS * HEADS} heads of {TOKENS} tokens")
        words = [sys.executable, "-m", "attn_viewer", "serve", "--path", folder, "--port", "0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            measure(process, process.stdout.readline().strip(), hashes)
        finally:
            process.terminate()
            process.wait()


def measure(process, url, hashes):
    """Ask as a browser does, and print what it took."""
    start = read_memory(process)[0]
    with httpx.Client(base_url=url, timeout=60) as client:

        def ask(path, times=20, **params):
            spent = []
            for _ in range(times):
                begin = time.perf_counter()
                client.get(path, params=params).raise_for_status()
                spent.append(1e3 * (time.perf_counter() - begin))
            return spent

        first = ask("/api/folder", 1)[0]
        print(f"{'folder':>24}: {first:.0f} ms, then {statistics.median(ask('/api/folder')):.1f} ms")
        for name, params in {
            "table of prompts": {},
            "search": {"q": "word12 0077"},
            "sorted": {"sort": "-text"},
        }.items():
            spent = ask("/api/prompts", models="big", limit=100, **params)
            print(f"{name:>24}: {statistics.median(spent):.1f} ms, slowest {max(spent):.1f} ms")
        head = {"model": "big", "prompt": hashes[0]}
        print(f"{'a prompt':>24}: {statistics.median(ask('/api/prompt', **head)):.1f} ms")
        print(f"{'weights of a head':>24}: {statistics.median(ask('/api/weights', **head, layer=39, head=24)):.1f} ms")
        print(f"{'scores of a layer':>24}: {statistics.median(ask('/api/scores', **head, layer=39)):.1f} ms")
        chance, spent = random.Random(0), []
        for _ in range(1000):
            chosen = {
                "prompt": chance.choice(hashes),
                "layer": chance.randrange(LAYERS),
                "head": chance.randrange(HEADS),
            }
            spent += ask("/thumbnail", 1, model="big", **chosen)
        print(f"{'1,000 thumbnails':>24}: {sum(spent) / 1e3:.1f} s, median {statistics.median(spent):.1f} ms")
    now, most = read_memory(process)
    print(f"{'memory of the server':>24}: {start:.0f} MB at the start, {now:.0f} MB at the end, {most:.0f} MB at most")


if __name__ == "__main__":
    main()
