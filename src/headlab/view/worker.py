"""The one thread in which models are loaded and run: jobs in a queue, each with its progress, each can be cancelled."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from headlab.effects import Progress
from headlab.store.records import Plain

State = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT = 64
"""Ended jobs that can still be asked about."""
_LOG = logging.getLogger("headlab.view")


class Cancelled(KeyboardInterrupt):
    """A job that was asked to stop, as Ctrl-C is: what it had stored stays."""


@dataclass
class Job:
    """A piece of work.  ``run(progress)`` is called in the worker's thread; ``error`` is one line."""

    id: str
    what: str
    run: Callable[[Progress], object] = field(repr=False)
    state: State = "waiting"
    done: int = 0
    total: int = 0
    step: str = ""
    error: str = ""
    result: object = field(default=None, repr=False)
    ended: Future[None] = field(default_factory=Future, repr=False)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def progress(self, what: str, done: int, total: int) -> None:
        if self.stop.is_set():
            raise Cancelled("cancelled")
        self.step, self.done, self.total = what, done, total

    def plain(self) -> Plain:
        """What a page is told of it."""
        told = {k: getattr(self, k) for k in ("id", "what", "state", "step", "done", "total", "error")}
        return {**told, "result": self.result if self.state == "done" else None}


class Worker:
    """One thread, started with the first job; jobs run in the order in which they came."""

    def __init__(self, explain: Callable[[BaseException], str]) -> None:
        self._explain = explain
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def put(self, what: str, run: Callable[[Progress], object]) -> Job:
        """Queue a job.  Raises RuntimeError after :meth:`close`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the server is stopping")
            job = Job(str(next(self._numbers)), what, run)
            ended = [j.id for j in self._jobs.values() if j.ended.done()]
            for old in ended[: max(0, len(ended) - KEPT)]:
                del self._jobs[old]
            self._jobs[job.id] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="headlab-models", daemon=True)
                self._thread.start()
        self._queue.put(job)
        return job

    def job(self, id: str) -> Job:
        """Raises KeyError with a sentence for a job that is not known any more."""
        if id not in self._jobs:
            raise KeyError(f"no job {id!r}; it ended long ago, or the server was started again")
        return self._jobs[id]

    def close(self, patience: float = 20.0) -> None:
        """Ask every job to stop, and wait for the one that runs."""
        with self._lock:
            self._closed = True
            for job in self._jobs.values():
                job.stop.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(patience)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if job.stop.is_set():
                    job.state = "cancelled"
                else:
                    self._one(job)
            finally:
                job.ended.set_result(None)

    def _one(self, job: Job) -> None:
        job.state = "running"
        try:
            job.result = job.run(job.progress)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except BaseException as error:  # whatever a model does, the next job runs
            _LOG.debug("job %s failed", job.what, exc_info=error)
            job.error, job.state = self._explain(error), "failed"
