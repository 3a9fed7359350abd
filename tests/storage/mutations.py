"""Read thousands of mutated caches or data folders in one process, and print what became of them as JSON.

``python tests/storage/mutations.py caches|folders SEED COUNT``
"""

import collections
import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path

import numpy as np
from archives import write_content
from starlette.testclient import TestClient

from attn_viewer import export_html, load_scores, plot_layer_averages, score_heads
from attn_viewer.errors import AttnViewerError
from attn_viewer.maps import AttentionMaps
from attn_viewer.pipeline.atlas import atlas_main
from attn_viewer.pipeline.figures import figures_main
from attn_viewer.pipeline.indexes import generate_models_jsonl, generate_prompts_jsonl
from attn_viewer.storage import load_activations, load_prompt_maps
from attn_viewer.storage.tensors import Storage, Tensor
from attn_viewer.web.server import make_app

ROWS = np.tril(np.ones((3, 5, 5), np.float32)) / np.arange(1, 6, dtype=np.float32)[:, None]
LABELS = ["<s>", "␣a", "b", "\u202ec", "$d$"]


def nest(depth):
    made = []
    for _ in range(depth):
        made = [made]
    return made


JUNK = (
    *(None, True, False, -1, 0, 1, 2, 3, 5, 2**31, 2**53, 2**63, 2**200, -0.5, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "full", "pooled", "max", "\ud800", "\0", "../x", "x" * 5_000, [], {}, [[]], ["x"], [1], [0, 0], [-1, 2]),
    *([2, 2], [1, 2, 3], [0.5], [None], [["a", 0, 2]], [["a", 3, 99]], {"a": 1}, {"a": {}}, [1] * 999, nest(150)),
)


def mutate_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8, 40))):
        at = rng.randrange(len(data) + 1)
        much = rng.choice((1, 1, 1, 2, 4, 30, 300))
        match rng.randrange(6):
            case 0:
                data[at : at + much] = rng.randbytes(len(data[at : at + much]))
            case 1:
                del data[at : at + much]
            case 2:
                data[at:at] = rng.randbytes(much)
            case 3:
                data[at:at] = data[at : at + much] * rng.choice((1, 2, 100))
            case 4:
                data[at : at + 4] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(4, "little")[: len(data) - at]
            case 5:
                del data[at if rng.random() < 0.1 else len(data) - 1 :]
    return bytes(data)


def mutate_tree(value, rng):
    """Put junk in a random place of a tree of lists, tuples and dictionaries."""
    parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if _is_long(value) else []
    if not parts or rng.random() < 0.25:
        return copy.deepcopy(rng.choice(JUNK))
    key, part = rng.choice(parts)
    if isinstance(value, dict):
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {
            rng.choice(("x", "layers", "heads", "cell")) if rng.random() < 0.1 else key: mutate_tree(part, rng)
        }
    made = list(value)
    made[key : key + 1] = [mutate_tree(part, rng)] * rng.choice((1, 1, 1, 0, 2))
    return tuple(made) if isinstance(value, tuple) else made


def _is_long(value):
    return isinstance(value, (list, tuple)) and not isinstance(value, Storage)


def make_facts():
    return AttentionMaps([ROWS, ROWS], LABELS, model_id="m", segments=[("system", 0, 2)], layers=[0, 2]).to_plain()


def mutate_tensor(tensor, rng):
    name = rng.choice(Tensor._fields)
    if name == "storage":
        return tensor._replace(
            storage=Storage(rng.choice((*JUNK, "f2")), "0") if rng.random() < 0.5 else Storage("f4", "7")
        )
    value = getattr(tensor, name)
    if isinstance(value, tuple) and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return tensor._replace(**{name: (*value[:at], rng.choice((0, 1, 2, 9, 2**20, 2**62, -1)), *value[at + 1 :])})
    return tensor._replace(**{name: rng.choice(JUNK)})


def read_cache(place, rng):
    """Write a mutated cache, read it, and use what was read."""
    path = place / "m_attn_scores.pt"
    tensors = [Tensor(Storage("f4", str(i)), 0, (1, *ROWS.shape), (*reversed((1, 5, 25, 75)),)) for i in range(2)]
    facts = make_facts()
    content = {"attention_scores": tensors, "tokens_list": facts.pop("tokens_key"), "attn_viewer": facts}
    storages = {str(i): ROWS.tobytes() for i in range(2)}
    kind = rng.randrange(5)
    if kind == 0:
        content["attn_viewer"] = mutate_tree(content["attn_viewer"], rng)
    elif kind == 1:
        content["attention_scores"] = [
            mutate_tensor(t, rng) if rng.random() < 0.6 else t for t in tensors
        ] * rng.choice((1, 1, 9))
    elif kind == 2:
        content = mutate_tree(content, rng)
    elif kind == 3:
        storages["1"] = mutate_bytes(storages["1"], rng)
    write_content(path, content, storages)
    if kind == 4:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    maps = load_scores(path)
    use(maps, place, rng)


def use(maps, place, rng):
    repr(maps)
    score_heads(maps, progress=False) if maps.reduction == "full" and maps.weighting == "attention" else None
    if rng.random() < 0.05:
        export_html(maps, place / "page.html", progress=False)
    if rng.random() < 0.02:
        plot_layer_averages(maps)


def make_folder(place):
    """Write a data folder of one model and two prompts, an archive and a stack."""
    shutil.rmtree(place, ignore_errors=True)
    for name, text in (("aaaa", "one"), ("bbbb", "two")):
        folder = place / "m" / "prompts" / name
        (folder / "L0" / "H1").mkdir(parents=True)
        (folder / "L0" / "H1" / "raw.png").write_bytes(b"\x89PNG")
        prompt = {
            "text": text,
            "hash": name,
            "meta": {"a": 1},
            "n_tokens": 5,
            "tokens": LABELS,
            "attn_viewer": make_facts(),
        }
        if name == "bbbb" and len(text) == 3:
            np.save(folder / "activations-blocks.-.attn.hook_pattern.npy", np.stack([ROWS, ROWS]))
        else:
            np.savez_compressed(
                folder / "activations.npz", **{f"blocks.{i}.attn.hook_pattern": ROWS[None] for i in (0, 2)}
            )
        (folder / "prompt.json").write_text(json.dumps(prompt))
    config = {
        "model_name": "m",
        "n_layers": 3,
        "n_heads": 3,
        "attn_viewer": {"model_id": "m", "layers": [0, 2], "n_heads": [3, 3]},
    }
    (place / "m" / "model_cfg.json").write_text(json.dumps(config))
    generate_models_jsonl(place)
    generate_prompts_jsonl(place / "m")
    (place / "figures.jsonl").write_text(
        json.dumps({"name": "raw", "func_name": "raw", "doc": "D", "code": "C"}) + "\n"
    )


def mutate_file(path, rng):
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        lines = [json.dumps(mutate_tree(json.loads(line), rng)) for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines))
    elif path.suffix == ".npz" and rng.random() < 0.5:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(parts))
        parts[name] = mutate_bytes(parts[name], rng)
        with zipfile.ZipFile(path, "w", rng.choice((0, 8, 12, 14))) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
    elif path.suffix == ".npy" and rng.random() < 0.3:
        rows = np.stack([ROWS, ROWS])
        rows[0, 1, 3, 2] = rng.choice((np.nan, np.inf, -1, 2))
        np.save(path, rows.astype(rng.choice(("f4", "f2", "f8", ">f4", "i4", "c8"))))
    elif rng.random() < 0.1:
        path.unlink()
        rng.choice(
            (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/etc/passwd"), lambda: path.symlink_to(path))
        )()
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))


REQUESTS = (
    "/api/folder",
    "/api/prompts?models=m",
    *(f"/api/prompt?model=m&prompt={name}" for name in ("aaaa", "bbbb")),
    *(f"/api/scores?model=m&prompt={name}&layer=2" for name in ("aaaa", "bbbb")),
    *(
        f"/{kind}?model=m&prompt={name}&layer=0&head=1"
        for kind in ("api/weights", "thumbnail")
        for name in ("aaaa", "bbbb")
    ),
    "/figure?model=m&prompt=aaaa&layer=0&head=1&name=raw",
)


def refuse_constant(name):
    raise ValueError(f"{name} is no JSON")


def read_folder(place, rng):
    """Mutate one or two files of a data folder, and read it in every way there is."""
    make_folder(place)
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix != ".png")
    for path in rng.sample(files, rng.choice((1, 1, 2))):
        mutate_file(path, rng)
    refused = None
    for read in list_reads(place, rng):
        try:
            read()
        except AttnViewerError as error:  # noqa: PERF203 - each is tried
            refused = error
    client = TestClient(make_app(place), base_url="http://localhost")
    for request in REQUESTS:
        reply = client.get(request)
        assert reply.status_code in (200, 404, 422), (request, reply.status_code)
        if reply.headers["content-type"] == "application/json":
            json.loads(reply.content, parse_constant=refuse_constant)
        refused = refused or (AttnViewerError(reply.text) if reply.status_code != 200 else None)
    if refused is not None:
        raise refused


def list_reads(place, rng):

    for name in ("aaaa", "bbbb"):
        yield lambda name=name: load_activations("m", {"hash": name}, place)
        yield lambda name=name: use(load_prompt_maps("m", {"hash": name}, place), place, rng)
    yield lambda: generate_models_jsonl(place)
    yield lambda: generate_prompts_jsonl(place / "m")
    if rng.random() < 0.05:
        yield lambda: figures_main("m", place, figure_funcs_select="raw", parallel=1, progress=False)
        yield lambda: atlas_main("m", place, scores=["sink_mass"], progress=False)


def run(kind, seed, count):
    """Read `count` inputs; a number each of what was read, refused by type, and raw."""
    read = {"caches": read_cache, "folders": read_folder}[kind]
    seen, raw, longest = collections.Counter(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    read(Path(folder) / "d" if kind == "folders" else Path(folder), random.Random(f"{kind} {seed} {i}"))
                seen["read"] += 1
            except AttnViewerError as error:  # noqa: PERF203 - each is tried
                seen[type(error).__name__] += 1
                longest = max(longest, len(str(error)))
            except Exception as error:
                raw.append(f"{i}: {type(error).__name__}: {str(error)[:200]} {traceback.format_exc()[-700:]}")
    return {"seen": dict(seen), "raw": raw, "longest": longest, "peak_mb": measure_peak()}


def measure_peak() -> int:
    """Return the most megabytes that this process has held: what `getrusage` says begins with those of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20
    return int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
