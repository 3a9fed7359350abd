"""The pipeline on a cluster of two worker processes, one of which is killed."""

import contextlib
import json
import os
import signal
import threading
import time

import pytest

from attn_viewer.folder_options import WorkerOptions
from attn_viewer.pipeline.activations import activations_main
from attn_viewer.pipeline.figures import figures_main
from attn_viewer.pipeline.work import run_parts

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("dask.distributed")
TEXTS = ("Summer is warm.", "Winter is cold.", "The sea is deep.", "One day a dog came home.", "The sky is high.",
         "It rained.", "She said nothing.", "They were there all the night.")  # fmt: skip


@pytest.fixture
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


def read_tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def sleep_and_tell(item):
    time.sleep(0.5)
    return item, os.getpid()


@pytest.mark.filterwarnings("ignore")
def test_a_worker_is_killed_and_nothing_is_lost(cluster):
    killed = []

    def kill():
        time.sleep(1.5)
        pid = next(iter(cluster.workers.values())).pid
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = list(run_parts(sleep_and_tell, range(12), WorkerOptions(scheduler=cluster.scheduler_address)))
    thread.join()
    assert killed
    assert sorted(outcome.value[0] for outcome in outcomes) == list(range(12))
    assert [outcome.error for outcome in outcomes] == [None] * 12


@contextlib.contextmanager
def kill_a_worker_after(cluster, folder, pattern, n_files):
    """Kill one worker once as many files of a kind are there; the block must outlast that."""
    killed, is_over = [], threading.Event()

    def kill():
        while not is_over.is_set() and len(list(folder.glob(pattern))) < n_files:
            time.sleep(0.01)
        if not is_over.is_set():
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    is_over.set()
    thread.join()
    assert killed


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_workers_gives_the_same_folder(cluster, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text} {text}"}) + "\n" for text in TEXTS))
    one, many = tmp_path / "one", tmp_path / "many"
    assert activations_main("demo", one, path).done == len(TEXTS)
    with kill_a_worker_after(cluster, many, "demo/prompts/*/activations.npz", 3):
        report = activations_main("demo", many, path, scheduler=cluster.scheduler_address)
    assert (report.done, report.failures) == (len(TEXTS), [])
    assert read_tree(many) == read_tree(one)
    select = ["raw", "svd_spectra"]
    assert figures_main("demo", one, figure_funcs_select=select, parallel=1).done == len(TEXTS)
    with kill_a_worker_after(cluster, many, "demo/prompts/*/L*/H*/raw.png", 60):
        report = figures_main("demo", many, figure_funcs_select=select, scheduler=cluster.scheduler_address)
    assert (report.done, report.failures) == (len(TEXTS), [])
    ours, whole = read_tree(many), read_tree(one)
    assert len(whole) == 3 + len(TEXTS) * (2 + 32 * 2) + 1
    assert set(ours) == set(whole)
    assert [name for name in whole if ours[name] != whole[name]] == []
