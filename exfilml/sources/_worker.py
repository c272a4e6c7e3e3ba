"""The process in which captures are metered, and the frames it talks in.

Run as ``python -m exfilml.sources._worker``, so that nothing of the caller (a
notebook, a script on stdin, an unguarded ``__main__``) is imported or forked. Jobs
come as lines of JSON on stdin; the end of stdin, also by the caller's death, ends
the process at once. Frames (`_job`) go to what was stdout.
Stdout and stderr themselves lead nowhere, so that no print of the engine is seen.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import threading
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from exfilml.sources._job import BATCH, DONE, HEADER, READY, REFUSED, Job


def main() -> NoReturn:
    """Serve jobs until stdin ends."""
    frames = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    # Imported after the redirection: importing prints, too.
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
        job = Job.decode(jobs.get())
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
