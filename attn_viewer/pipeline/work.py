"""Many parts of work: in this process, in others through joblib, or on a cluster through dask.distributed."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

from ..errors import AttnViewerError, OptionError, OutputError, WorkerError
from ..files import remove_leftovers
from ..folder_options import WorkerOptions
from ..long_runs import leave_when_ended, show_bar

ALONE = WorkerOptions()
RETRIES = 2
# With these no part can be written any more.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclasses.dataclass
class RunReport:
    """What a run did: parts done, parts that were there already, and what could not be done and why.

    The next run tries failures again.
    """

    done: int = 0
    skipped: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one part: what the function returned, or what it raised.

    After a final one no other part can be done either (a full disk).
    """

    item: Any
    value: Any = None
    error: str | None = None
    is_final: bool = False


_Batched = Callable[[list[Any]], list[Outcome]]


def note_untried(report: RunReport, outcomes: Iterable[Outcome], n_parts: int) -> Iterator[Outcome]:
    """Pass outcomes of `run_parts` on, and write into the report how many parts a final one kept from being tried."""
    n_tried = 0
    for n_tried, outcome in enumerate(outcomes, 1):  # noqa: B007 - the count is used after the loop
        yield outcome
    if n_tried < n_parts:
        report.failures.append(f"stopped, nothing more can be written; not tried: {n_parts - n_tried}")


@contextlib.contextmanager
def clear_when_stopped(folders: Iterable[str | os.PathLike[str]]) -> Iterator[None]:
    """Remove what workers left half done in folders when the run breaks off inside the block.

    Workers that Ctrl-C or the system ended could not do so themselves.
    """
    try:
        yield
    except BaseException:
        for folder in folders:
            remove_leftovers(folder)
        raise


def run_parts(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    workers: WorkerOptions = ALONE,
    progress: bool | None = None,
    desc: str = "",
) -> Iterator[Outcome]:
    """Run a function on every item, as `run_batches` does on batches."""
    batches = [[item] for item in items]
    yield from run_batches(functools.partial(_attempt_each, function), batches, workers, progress, desc)


def _attempt_each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Outcome]:
    return [attempt(function, item) for item in items]


def run_batches(
    function: _Batched,
    batches: Sequence[list[Any]],
    workers: WorkerOptions = ALONE,
    progress: bool | None = None,
    desc: str = "",
) -> Iterator[Outcome]:
    """Run a function on every batch of items, with one thread of linear algebra a process.

    It takes a list of items and returns a list of `Outcome`, one each, as `attempt` makes them, fewer after a final
    one. For other processes it must be picklable. With a scheduler, a part whose worker dies is given to another one.
    Outcomes come as the parts end, in any order, and after a final one nothing more.

    Raises `OptionError` if the scheduler cannot be used, `WorkerError` if worker processes die.
    """
    n_jobs, scheduler = count_workers(workers.parallel), workers.scheduler
    run = functools.partial(_run_batch, function, os.getpid())
    done: Iterator[list[Outcome]]
    if scheduler is not None:
        done = _run_on_cluster(run, batches, scheduler, n_jobs)
    elif n_jobs > 1 and len(batches) > 1:
        done = _run_in_processes(run, batches, min(n_jobs, len(batches)))
    else:
        done = map(run, batches)
    with (
        leave_when_ended(),
        contextlib.closing(_close_after(done)) as results,
        show_bar(desc, "prompt", progress, total=sum(map(len, batches))) as bar,
    ):
        for outcome in itertools.chain.from_iterable(results):
            bar.update()
            yield outcome
            if outcome.is_final:
                return


def count_workers(parallel: bool | int) -> int:
    """Return how many worker processes are meant."""
    return (os.cpu_count() or 1) if parallel is True else int(parallel)


def _close_after(outcomes: Iterator[list[Outcome]]) -> Generator[list[Outcome], None, None]:
    """Make any iterator one that stops the work when it is closed."""
    try:
        yield from outcomes
    finally:
        getattr(outcomes, "close", lambda: None)()


def _run_batch(function: _Batched, parent: int, batch: list[Any]) -> list[Outcome]:
    if os.getpid() != parent:
        # Ctrl-C goes to all; the parent stops the others, who would print tracebacks. Only a main thread may say so.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Threads for small matrices wait for each other longer than they work, and sums over several of them differ in
    # their last bits, and with them the bytes of a folder.
    with threadpool_limits(1):
        outcome = attempt(function, batch)
    outcomes: list[Outcome] = outcome.value
    return outcomes if outcome.error is None else [dataclasses.replace(outcome, item=item) for item in batch]


def attempt(function: Callable[[Any], Any], item: Any) -> Outcome:
    """Run a function on an item and return what became of it, errors too."""
    try:
        return Outcome(item, function(item))
    except AttnViewerError as error:
        is_full = isinstance(error, OutputError) and getattr(error.__cause__, "errno", None) in _HOPELESS
        return Outcome(item, error=str(error), is_final=is_full)
    except Exception as error:  # one prompt that breaks a model must not end the run
        return Outcome(item, error=f"{type(error).__name__}: {error}")


def _run_in_processes(run: _Batched, batches: Sequence[list[Any]], n_jobs: int) -> Iterator[list[Outcome]]:
    import joblib
    from joblib.externals.loky.process_executor import BrokenProcessPool

    workers = joblib.Parallel(n_jobs, backend="loky", return_as="generator_unordered", batch_size=1)
    try:
        yield from workers(joblib.delayed(run)(batch) for batch in batches)
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died, for want of memory perhaps; run again with fewer (--parallel): what is done stays"
        ) from error


def _run_on_cluster(
    run: _Batched, batches: Sequence[list[Any]], scheduler: str, n_jobs: int
) -> Iterator[list[Outcome]]:
    try:
        from dask import distributed
    except ImportError as error:
        raise OptionError("a scheduler needs dask.distributed: pip install 'attn-viewer[cluster]'") from error
    with contextlib.ExitStack() as stack:
        address = scheduler
        if scheduler == "local":
            # Models and figure functions are not made for two at a time in one process.
            cluster = distributed.LocalCluster(n_workers=max(n_jobs, 1), threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(cluster)
        try:
            client = stack.enter_context(distributed.Client(address, timeout="20s"))
        except (OSError, ValueError) as error:
            raise OptionError(
                f"no scheduler answers at {scheduler!r}: {error}; give tcp://host:port or local"
            ) from error
        futures = client.map(run, batches, pure=False, retries=RETRIES)
        by_key = {future.key: batch for future, batch in zip(futures, batches, strict=True)}
        for future in distributed.as_completed(futures):
            reason = future.exception()
            lost = [Outcome(item, error=f"its workers died: {reason}") for item in by_key[future.key]]
            yield lost if reason else future.result()
