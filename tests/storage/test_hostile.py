"""Thousands of mutated files, and writers that are killed: minutes, so run with ``-m slow``."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import make_maps, store_prompt

from attn_viewer import experiment, export_html, load_scores, save_scores, view_attention
from attn_viewer.experiments import list_experiments
from attn_viewer.storage.folder import DataFolder

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
KILLS = 100


@pytest.mark.parametrize(("kind", "seed", "count"), [("caches", 0, 6000), ("folders", 0, 2000), ("folders", 1, 2000)])
def test_mutated_files_are_read_or_refused(kind, seed, count):
    words = [sys.executable, str(HERE / "mutations.py"), kind, str(seed), str(count)]
    places = [HERE.parent.parent, HERE.parent, HERE]
    done = subprocess.run(
        words, capture_output=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    )
    report = json.loads(done.stdout)
    print({key: value for key, value in report.items() if key != "raw"}, len(report["raw"]), "raw")
    assert report["raw"] == []
    assert sum(report["seen"].values()) == count
    assert report["seen"]["read"] > count / 20
    assert report["peak_mb"] < 500
    assert report["longest"] <= 600


def record(maps, folder):
    experiment(folder / "records")(lambda maps: maps.weights[0][:, :20])(maps)


def make_writers(cache):
    """Return functions that write maps below a folder, or a figure of a cache."""
    return (
        save_scores,
        lambda maps, folder: export_html(maps, folder / "page.html", progress=False),
        lambda maps, folder: store_prompt(maps, {"text": "one"}, folder / "data"),
        lambda maps, folder: store_prompt(maps, {"text": "two"}, folder / "data", stacked=True),
        lambda _, folder: view_attention(
            load_attention_scores_path=cache, save_fig_path=folder / "vis", progress=False
        ),
        record,
    )


def kill_writer(writers, made, folder, rng):
    """Kill a process of its own, that writes this and that over and over, after some time."""
    seed, seconds = rng.random(), rng.uniform(0.02, 1)
    child = os.fork()
    if child == 0:
        try:
            rng = random.Random(seed)
            while True:
                rng.choice(writers)(rng.choice(made), folder)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def check_whole(folder):
    """Read every file that is no temporary one; return how many."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"]
    for path in files:
        match path.suffix:
            case ".pt":
                load_scores(path)
            case ".html":
                assert path.read_text().rstrip().endswith("</html>")
            case ".jpg":
                assert path.read_bytes().endswith(b"\xff\xd9")
            case ".json":
                json.loads(path.read_text())
            case ".npz":
                assert all(array.size for array in np.load(path).values())
            case ".npy":
                assert np.load(path).size
    model = DataFolder(folder / "data").get_model("m")
    prompts, errors = model.list_prompts()
    assert errors == []
    for prompt in prompts:
        model.get_prompt(prompt).read_maps()
    if (folder / "records").exists():
        list_experiments(folder / "records")
    return len(files)


def test_killed_writers_leave_whole_files(tmp_path):
    rng = random.Random(0)
    made = [make_maps(3, 6, 100, seed=seed, model_id="m") for seed in range(4)]
    folder = tmp_path / "out"
    folder.mkdir()
    cache = save_scores(make_maps(2, 3, 40, model_id="m"), tmp_path / "in")
    writers = make_writers(cache)
    for write in writers:
        write(made[0], folder)
    left = checked = 0
    for _ in range(KILLS):
        kill_writer(writers, made, folder, rng)
        left += len(list(folder.rglob("*.part")))
        checked += check_whole(folder)
    print(f"{KILLS} kills, {checked} files read, 0 torn, {left} times a temporary file lay about")
    assert left > 0
    for write in writers:
        write(made[0], folder)
    assert list(folder.rglob("*.part")) == []
