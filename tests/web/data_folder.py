"""A data folder in the layout of pattern-lens, written by hand from the demo model's weights, and a server over it."""

import base64
import contextlib
import gzip
import hashlib
import json
import socket
import subprocess
import sys
import urllib.parse

import numpy as np
from conftest import PROMPT

from attn_viewer import capture_attention

HOSTILE = "</script><img src=x onerror=alert(1)> \u202ehello"
TEXTS = (PROMPT, HOSTILE, "In the beginning")
EVIL = """<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><script>document.title = 'owned'</script>
<rect width="40" height="40" fill="#0a0" onload="document.title = 'owned'"/></svg>"""


def name_prompt(text):
    return base64.urlsafe_b64encode(hashlib.md5(text.encode()).digest()).decode().rstrip("=")


def write_model(folder, name, n_layers, n_heads, prompts):
    """Write `prompts`, dictionaries with a text and tokens, and return their folders."""
    folders = []
    for prompt in prompts:
        prompt |= {"hash": name_prompt(prompt["text"]), "meta": {}, "n_tokens": len(prompt["tokens"])}
        folders.append(folder / name / "prompts" / prompt["hash"])
        folders[-1].mkdir(parents=True)
        (folders[-1] / "prompt.json").write_text(json.dumps(prompt), encoding="utf-8")
    config = {"model_name": name, "n_layers": n_layers, "n_heads": n_heads}
    (folder / name / "model_cfg.json").write_text(json.dumps(config), encoding="utf-8")
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (folder / name / "prompts.jsonl").write_text(lines, encoding="utf-8")
    return folders


def make_data_folder(folder, demo):
    maps = [capture_attention(*demo, text, model_id="demo") for text in TEXTS]
    prompts = [{"text": text, "tokens": list(m.tokens_key)} for text, m in zip(TEXTS, maps, strict=True)]
    places = write_model(folder, "demo", 4, 8, prompts)
    for place, captured in zip(places, maps, strict=True):
        arrays = {
            f"blocks.{n}.attn.hook_pattern": w[None] for n, w in zip(captured.layers, captured.weights, strict=True)
        }
        np.savez_compressed(place / "activations.npz", **arrays)
    for head in (places[0] / "L0" / "H0", places[0] / "L1" / "H2"):
        head.mkdir(parents=True)
        (head / "evil.svg").write_text(EVIL)
        (head / "packed.svgz").write_bytes(gzip.compress(EVIL.encode()))
    function = {
        "name": "evil",
        "func_name": "evil",
        "doc": "Draw <b>green</b>.\n\n    More.",
        "code": "def evil(): ...",
    }
    (folder / "figures.jsonl").write_text(json.dumps(function) + "\nnot json\n")
    # One stacked array in place of the archive, as --stacked-heads makes it.
    stacked = write_model(folder, "org--stacked", 4, 8, [dict(prompts[0])])[0]
    np.save(stacked / "activations-blocks.-.attn.hook_pattern.npy", np.stack(maps[0].weights))
    return maps


def start_server(*words, port="0"):
    """Return a process of ``attn-viewer serve`` with some words on a port, a free one if not said, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "attn_viewer", "serve", "--port", port, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


@contextlib.contextmanager
def run_server(folder):
    """Yield the URL of a server that ends with the block."""
    process, address = start_server("--path", str(folder))
    try:
        yield address
    finally:
        process.terminate()
        _, err = process.communicate()
    assert "Traceback" not in err


def send_raw(url, data):
    """Return all that the server says to bytes, until it ends or is silent."""
    address = urllib.parse.urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received
