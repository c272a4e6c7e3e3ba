"""One worker process as the caller sees it: started, watched, ended.

A worker that dies or makes no progress becomes a `SourceError` that names the file.
Progress is anything it sends, and on Linux anything it reads or writes according to
``/proc``: a long capture of which a filter keeps nothing sends nothing for minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exfilml.exceptions import OptionError, SourceError
from exfilml.sources._job import BATCH, DONE, HEADER, READY, Job

if TYPE_CHECKING:
    import pyarrow as pa

STALL_SECONDS: Final = 120.0
# A first start compiles for minutes on a busy machine, without a byte read or written.
START_SECONDS: Final = 900.0
_POLL_SECONDS: Final = 0.2

COMMAND: Final = (
    # No path of the caller's working directory (-P), no warnings as errors.
    *(sys.executable, "-P", "-W", "ignore", "-m", "exfilml.sources._worker"),
)


def _environment() -> dict[str, str]:
    """Let the worker import what the caller can import, and this very package."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *(path for path in sys.path if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


class WorkerError(SourceError):
    """The process ended in the middle of a file."""


class Worker:
    """One worker process.

    Attributes
    ----------
    used
        Whether it was given a file before.
    sound
        Whether it has answered for each of them.
    """

    def __init__(self) -> None:
        self.used = False
        self.sound = True
        self._process = subprocess.Popen(  # noqa: S603
            COMMAND,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            # Ctrl-C goes to the caller alone, who then ends the workers.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._frames = self._process.stdout.fileno()

    def run(
        self, job: Job, advance: Callable[[int], None]
    ) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        """Meter a file.

        Parameters
        ----------
        job
            What to read, and how.
        advance
            Called with the bytes read since the last call.

        Returns
        -------
        tuple
            Batches of rows; and what else was found: ``impossible``, the number of
            flows with impossible times, ``announced``, the data connections of FTP,
            `Structure.facts`, and ``plain``, why the compiled loop was not used.

        Raises
        ------
        WorkerError
            If the worker dies.
        SourceError
            If it hangs, or the engine refuses the file.
        OptionError
            If the engine refuses the filter.
        """
        self.used, self.sound = True, False
        try:
            self._write(job.encode())
        except OSError:
            raise self._died(job.shown) from None
        # Late: the worker is starting meanwhile.
        import pyarrow as pa

        batches: list[pa.RecordBatch] = []
        meter = _Progress(self._process.pid, advance)
        while True:
            kind, body = self._receive(job.shown, meter)
            if kind == READY:
                meter.start()
            elif kind == BATCH:
                batches.extend(pa.ipc.open_stream(body))
            elif kind == DONE:
                self.sound = True
                return batches, json.loads(body)
            else:
                answer = json.loads(body)
                self.sound = answer["engine"]
                raise _refusal(job, answer)

    def kill(self) -> None:
        """End the process, whatever it does; whoever waits for it is told."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        """End the process, and wait for it."""
        self.kill()
        self._process.wait()
        self._close()

    def leave(self) -> None:
        """Leave the process to the one that this process was forked from."""
        # Open here, a pipe would keep it from noticing that that one has died.
        self._close()
        # Nobody's child here, so that nobody waits for it or warns of it.
        self._process.returncode = 0

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        while line:
            line = line[self._process.stdin.write(line) or 0 :]

    def _receive(self, path: str, meter: _Progress) -> tuple[bytes, bytes]:
        kind, length = HEADER.unpack(self._read(HEADER.size, path, meter))
        return kind, self._read(length, path, meter)

    def _read(self, size: int, path: str, meter: _Progress) -> bytes:
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._frames, selectors.EVENT_READ)
            while len(received) < size:
                if selector.select(_POLL_SECONDS):
                    chunk = os.read(self._frames, min(size - len(received), 1 << 20))
                    if not chunk:
                        raise self._died(path)
                    received += chunk
                    meter.moved()
                elif meter.stalled():
                    raise SourceError(
                        f"{path}: the packet engine stopped answering while reading "
                        f"this file (no progress for {meter.longest:g} s). Leave the "
                        "file out, or cut it into parts to find the packet at fault."
                    )
        return bytes(received)

    def _died(self, path: str) -> WorkerError:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = 0
        how = f"exit status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-status).name
        return WorkerError(
            f"{path}: the packet engine stopped while reading this file ({how}). "
            "Leave the file out, or cut it into parts to find the packet at fault."
        )


def _refusal(job: Job, answer: dict[str, Any]) -> SourceError | OptionError:
    reason = answer["reason"].rstrip(".")
    if not answer["engine"]:
        return SourceError(
            f"{job.shown}: reading failed in the packet engine: {reason}"
        )
    if job.bpf_filter is not None:
        return OptionError(
            f"bpf_filter: {job.bpf_filter!r} cannot be applied to {job.shown}: {reason}. "
            'Expected a filter in the language of tcpdump, such as "tcp port 443".'
        )
    return SourceError(f"{job.shown}: the packet engine cannot open it: {reason}")


class _Progress:
    """What a worker has read and written, as the kernel counts it."""

    def __init__(self, pid: int, advance: Callable[[int], None]) -> None:
        self._file = Path(f"/proc/{pid}/io")
        self._advance = advance
        self._last = self._counters()
        self._base: int | None = None
        self._since = time.monotonic()

    def start(self) -> None:
        """Begin to report: from now on the worker reads the capture."""
        self._base = self._counters()[0]

    def moved(self) -> None:
        """Note that the worker has sent something."""
        self._since = time.monotonic()

    def stalled(self) -> bool:
        """Say whether nothing has moved for too long; report what was read."""
        counters = self._counters()
        if counters != self._last:
            self._last = counters
            self.moved()
        if self._base is not None and counters[0] > self._base:
            self._advance(counters[0] - self._base)
            self._base = counters[0]
        return time.monotonic() - self._since > self.longest

    @property
    def longest(self) -> float:
        """Seconds without anything moving that are too long."""
        return START_SECONDS if self._base is None else STALL_SECONDS

    def _counters(self) -> tuple[int, int, int]:
        try:
            lines = self._file.read_text(encoding="ascii").splitlines()
        except OSError:
            return 0, 0, 0
        # Characters read and written, and, for mapped files, bytes fetched.
        read, written, fetched = (int(lines[at].split()[1]) for at in (0, 1, 4))
        return read, written, fetched
