"""Jobs one after another in a thread of their own: what each tells as it runs, those that wait, cancelling."""

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ..errors import AttnViewerError, OptionError
from ..maps import AttentionMaps
from .encode import Meta

_log = logging.getLogger(__name__)
# Jobs that may wait, and finished ones whose maps are kept for pages that ask for them.
MOST_WAITING, MOST_KEPT = 16, 32
ENDS = ("done", "failed", "cancelled")


class CancelledJobError(AttnViewerError):
    """Raised within a job that is to stop."""


class Result(NamedTuple):
    """Maps and how the page describes them, more that it shows, texts of the first maps, a picture as a data URL."""

    maps: tuple[AttentionMaps, ...]
    metas: list[Meta]
    facts: Mapping[str, Any]
    texts: tuple[str, ...] = ()
    picture: str = ""


class Job:
    """What something to do has told so far, and in the end what it made.

    `events` are dictionaries with ``state``: waiting, running, step, and one of `ENDS` at last.
    """

    def __init__(self) -> None:
        self.name = secrets.token_urlsafe(12)
        self.events: list[dict[str, Any]] = []
        self.result: Result | None = None
        self.future: Future[None] | None = None
        self.is_cancelled = False
        self._lock = threading.Lock()
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def is_over(self) -> bool:
        """Whether its last event was told."""
        return bool(self.events) and self.events[-1]["state"] in ENDS

    @property
    def nbytes(self) -> int:
        """Bytes of the maps that it made."""
        return sum(maps.nbytes for maps in self.result.maps) if self.result else 0

    def tell(self, state: str, **more: Any) -> None:
        """Add an event, unless it is over."""
        with self._lock:
            if self.is_over:
                return
            self.events.append({"state": state, **more})
            for loop, flag in self._listeners:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(flag.set)

    def check(self) -> None:
        """Raise in the job's thread if it is to stop."""
        if self.is_cancelled:
            raise CancelledJobError

    async def follow(self, start: int, seconds: float) -> AsyncIterator[dict[str, Any]]:
        """Yield its events from a number on as they come, until it is over or the time is."""
        flag, loop = asyncio.Event(), asyncio.get_running_loop()
        end = loop.time() + seconds
        with self._lock:
            self._listeners.add((loop, flag))
        try:
            while True:
                flag.clear()
                for event in self.events[start:]:
                    start += 1
                    yield event
                if self.is_over and start >= len(self.events):
                    return
                await asyncio.wait_for(flag.wait(), max(0, end - loop.time()))
        except asyncio.TimeoutError:
            return
        finally:
            with self._lock:
                self._listeners.discard((loop, flag))


class JobQueue:
    """Runs jobs one at a time, and keeps the last results while they take no more than so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def add(self, work: Callable[[Job], Result]) -> Job:
        """Line a job up.

        Raises
        ------
        OptionError
            If too many wait.
        """
        job = Job()
        with self._lock:
            waiting = [one for one in self._jobs.values() if not one.is_over]
            if len(waiting) >= MOST_WAITING:
                raise OptionError(f"{len(waiting)} jobs wait already; try again when one is done")
            self._jobs[job.name] = job
            job.tell("waiting", before=len(waiting))
            job.future = self._executor.submit(self._run, job, work)
        return job

    def get(self, name: str) -> Job:
        """Return a job.

        Raises
        ------
        OptionError
            If there is none of this name, or no longer.
        """
        job = self._jobs.get(name)
        if job is None:
            raise OptionError("this job is not there any more; run it again")
        return job

    def cancel(self, job: Job) -> None:
        """Let a job not begin, or stop it where it next looks."""
        job.is_cancelled = True
        if job.future is not None and job.future.cancel():
            job.tell("cancelled")
            self._tidy()

    def close(self) -> None:
        """Cancel all jobs and wait for the one that runs."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._executor.shutdown()

    def _run(self, job: Job, work: Callable[[Job], Result]) -> None:
        try:
            job.check()
            job.tell("running")
            self._tell_places()
            job.result = work(job)
            job.check()
            job.tell("done", maps=job.result.metas, keeps=bool(job.result.texts), **job.result.facts)
        except CancelledJobError:
            job.result = None
            job.tell("cancelled")
        except AttnViewerError as error:
            job.tell("failed", error=str(error))
        except MemoryError:
            job.tell("failed", error="the memory of this machine is not enough; take a shorter prompt")
        except Exception as error:  # a stranger's model; its words may name paths of this machine
            _log.warning("a job failed", exc_info=error)
            job.tell("failed", error=f"the model raised {type(error).__name__}; the server's log says more")
        finally:
            self._tidy()

    def _tell_places(self) -> None:
        """Tell jobs that wait how many are before them."""
        with self._lock:
            waiting = [job for job in self._jobs.values() if not job.is_over]
        for before, job in enumerate(waiting):
            if before:
                job.tell("waiting", before=before)

    def _tidy(self) -> None:
        """Forget the oldest of those that are over."""
        with self._lock:
            over = [job for job in self._jobs.values() if job.is_over]
            while over and (len(over) > MOST_KEPT or sum(job.nbytes for job in over) > self._most_bytes):
                del self._jobs[over.pop(0).name]
        self._tell_places()
