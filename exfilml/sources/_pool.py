"""Worker processes: started when needed, used again, ended in time.

A file over which a worker dies is named; but if that had read others before, it is read
once more in a new one, for what it died of may be their doing, or it had waited for
long and ended itself.

Idle workers are kept from call to call, a few of them, because to start one takes as
long as to read thirty small captures. They end themselves after `IDLE_SECONDS`, and
with their caller. A process that the caller forks has workers of its own.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from exfilml.exceptions import SourceError
from exfilml.sources._job import Job
from exfilml.sources._process import Worker, WorkerError

if TYPE_CHECKING:
    import pyarrow as pa

# A worker holds a quarter of a gigabyte.
MOST_IDLE: Final = 4


class _Reserve:
    """Idle workers between calls; and which workers there are at all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._watched = False

    def take(self) -> Worker:
        """Return an idle worker, or start one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.start()

    def start(self) -> Worker:
        """Start a worker."""
        with self._lock:
            if not self._watched:
                self._watched = True
                atexit.register(self.clear)
                os.register_at_fork(after_in_child=self._forget)
            worker = Worker()
            self._all.add(worker)
        return worker

    def put(self, worker: Worker) -> None:
        """Take back a worker: keep it, or end it if it is of no use any more."""
        with self._lock:
            if worker.sound and len(self._idle) < MOST_IDLE:
                self._idle.append(worker)
                return
            self._all.discard(worker)
        worker.end()

    def clear(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle = self._idle.copy()
            self._idle.clear()
            self._all.difference_update(idle)
        for worker in idle:
            worker.end()

    def _forget(self) -> None:
        """Begin anew in a forked process; the lock may be held by a thread that is not."""
        self._lock = threading.Lock()
        for worker in self._all:
            worker.leave()
        self._idle.clear()
        self._all.clear()


RESERVE: Final = _Reserve()


class WorkerPool:
    """The workers of one call, taken from the reserve and given back at its end.

    A context manager; any thread may call `run`. If it is left by an exception,
    workers that are busy are ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[Worker] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._closed = True
            for worker in self._busy:
                worker.kill()

    def run(
        self, job: Job, advance: Callable[[int], None]
    ) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        """Meter a file in an idle or new worker; see `Worker.run`."""
        worker = self._occupy(job, RESERVE.take)
        if worker.used:
            try:
                return self._run(worker, job, advance)
            except WorkerError:
                worker = self._occupy(job, RESERVE.start)
        return self._run(worker, job, advance)

    def _occupy(self, job: Job, find: Callable[[], Worker]) -> Worker:
        with self._lock:
            if self._closed:
                raise SourceError(f"{job.shown}: reading was interrupted.")
            worker = find()
            self._busy.add(worker)
        return worker

    def _run(
        self, worker: Worker, job: Job, advance: Callable[[int], None]
    ) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        try:
            return worker.run(job, advance)
        finally:
            with self._lock:
                self._busy.discard(worker)
            RESERVE.put(worker)
