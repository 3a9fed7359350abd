"""Torch on many small matrices at once: a thread of ours on each core, instead of all cores on one matrix."""

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch


def run_parallel(function: Callable[..., object], tasks: Sequence[tuple[Any, ...]], *, device: torch.device) -> None:
    """Call a function with each tuple of arguments, in as many threads as torch uses, each computing on its own.

    What comes out does not depend on how many there are, and a matrix stays in the cache of the core that made it.
    Tasks on a `device` that is no CPU run in this thread. Give the longest tasks first.
    """
    n_threads = torch.get_num_threads() if device.type == "cpu" else 1

    def call(task: tuple[Any, ...]) -> None:
        with torch.no_grad():  # is a thread's own
            function(*task)

    for _ in map(call, tasks) if n_threads == 1 else _start_threads(n_threads).map(call, tasks):
        pass


@functools.cache
def _start_threads(n_threads: int) -> concurrent.futures.ThreadPoolExecutor:
    """Return threads in each of which torch computes on that thread alone."""
    threads = concurrent.futures.ThreadPoolExecutor(n_threads, "attention")
    ready = threading.Barrier(n_threads)

    def prepare(_: int) -> None:
        # A thread takes the process's number when it first looks at it, whatever it was told before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    list(threads.map(prepare, range(n_threads)))
    torch.set_num_threads(n_threads)  # what threads that others start will find
    return threads
