"""The pipeline on a cluster of two worker processes, one of which is killed."""

import json
import os
import signal
import threading
import time

import pytest

from attn_viewer.pipeline.activations import activations_main
from attn_viewer.pipeline.work import run_parts

distributed = pytest.importorskip("dask.distributed")


@pytest.fixture
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


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
    outcomes = list(run_parts(sleep_and_tell, range(12), scheduler=cluster.scheduler_address))
    thread.join()
    assert killed
    assert sorted(outcome.value[0] for outcome in outcomes) == list(range(12))
    assert [outcome.error for outcome in outcomes] == [None] * 12


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_folder(cluster, tmp_path):
    texts = ("Summer is warm.", "Winter is cold.", "The sea is deep and the sky is high.")
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert activations_main("demo", tmp_path / "one", path).done == 3
    report = activations_main("demo", tmp_path / "many", path, scheduler=cluster.scheduler_address)
    assert (report.done, report.failures) == (3, [])
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "many" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
