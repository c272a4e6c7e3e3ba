"""The process in which captures are metered, and the frames it talks in.

Run as ``python -m exfilml.sources._worker``, so that nothing of the caller (a
notebook, a script on stdin, an unguarded ``__main__``) is imported or forked. Jobs
come as lines of JSON on stdin; the end of stdin, also by the caller's death, ends
the process at once, and so does waiting for long. Frames (`_job`) go to what was stdout.
Stdout and stderr themselves lead nowhere, so that no print of the engine is seen.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from exfilml.sources._job import (
    BATCH,
    DONE,
    HEADER,
    IDLE_SECONDS,
    READY,
    REFUSED,
    Job,
)


def main() -> NoReturn:
    """Serve jobs until stdin ends, or none has come for a while."""
    frames = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    # Imported after the redirection: importing prints, too.
    _do_without()
    import pyarrow as pa

    from exfilml import payload
    from exfilml.sources._meter import meter, objection
    from exfilml.sources._rows import MeterError
    from exfilml.sources._structure import inspect_capture

    payload.warm_up()
    plain = objection()
    # What is loaded stays; rows are many, and hold no cycles to be searched for.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)

    def send(kind: bytes, body: bytes = b"") -> None:
        view = memoryview(HEADER.pack(kind, len(body)) + body)
        while view:
            view = view[os.write(frames, view) :]

    def send_batch(batch: pa.RecordBatch) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        send(BATCH, sink.getvalue().to_pybytes())

    while True:
        try:
            job = Job.decode(jobs.get(timeout=IDLE_SECONDS))
        except queue.Empty:
            os._exit(0)
        send(READY)
        try:
            metered = meter(job, send_batch)
            structure = inspect_capture(Path(job.path))
        except MeterError as error:
            send(REFUSED, json.dumps({"engine": True, "reason": str(error)}).encode())
        # The caller must learn of it whatever it is, or would see a silent death.
        except Exception as error:  # noqa: BLE001
            reason = f"{type(error).__name__}: {error}"
            send(REFUSED, json.dumps({"engine": False, "reason": reason}).encode())
        else:
            found = {**asdict(metered), **structure.facts(), "plain": plain}
            send(DONE, json.dumps(found).encode())


def _do_without() -> None:
    """Keep out libraries of which no worker calls anything.

    They would take a third of the time that a worker needs to start: pandas, for
    frames of NFStream's and of pyarrow's, and scipy, for linear algebra in numba.
    """
    if "pandas" in sys.modules:
        return
    # NFStream asks for no more than that it can be imported.
    sys.modules["pandas"] = ModuleType("pandas")
    try:
        import nfstream  # noqa: F401
    except AttributeError:
        # Another NFStream, which asks for more.
        return
    finally:
        del sys.modules["pandas"]
    # The others try, and can do without.
    sys.meta_path.insert(0, _Absent())


class _Absent(MetaPathFinder):
    """Says of some libraries that they are not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse them, and leave others to others."""
        if name in {"pandas", "scipy"}:
            raise ModuleNotFoundError(f"{name} is not needed here", name=name)


def _listen(jobs: queue.SimpleQueue[bytes]) -> None:
    """Pass lines of stdin on; leave when it ends, in the middle of a job too."""
    waiting = b""
    # An interrupted read is the caller's end as well.
    with contextlib.suppress(OSError):
        while chunk := os.read(0, 65536):
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
