"""Meters one capture, in this process: by the compiled loop where it can be used.

By the plugin otherwise: NFStream's own loop, in Python, with `PayloadSampler`. Both
give the same rows. `nfstream.NFStreamer` runs that loop in a process that it forks, and
waits forever if that dies. Here it is called in a worker process of ours (see
`_worker`): if it dies the worker dies, which the caller notices at once, and no flow
has to be pickled.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pyarrow as pa
from nfstream.meter import meter_workflow
from nfstream.utils import NFEvent, NFMode

from exfilml.sources import _engine_abi
from exfilml.sources._job import Job
from exfilml.sources._plugin import PayloadSampler
from exfilml.sources._rows import DISSECTIONS, SNAPSHOT, Metered, MeterError, Rows


def meter(job: Job, emit: Callable[[pa.RecordBatch], None]) -> Metered:
    """Meter one file, the fastest way there is.

    Parameters
    ----------
    job
        What to read and how.
    emit
        Called with batches of rows, of schema `exfilml.sources._rows.SCHEMA`.

    Returns
    -------
    Metered
        What is told of the file as a whole.

    Raises
    ------
    MeterError
        If the engine refuses the file or the filter.
    """
    if objection() is not None:
        return meter_by_plugin(job, emit)
    from exfilml.sources._engine import meter_compiled

    return meter_compiled(job, emit)


@cache
def objection() -> str | None:
    """Say why the compiled loop cannot be used here; None if it can.

    It is loaded on the way, and compiled where that was not done before.
    """
    try:
        _engine_abi.check_engine()
        # Written for inner parts of numba, which may change.
        from exfilml.sources._engine import warm_up

        warm_up()
    except _engine_abi.EngineError as error:
        return str(error)
    # Whatever is wrong, NFStream's own loop needs none of it.
    except Exception as error:  # noqa: BLE001
        return f"it cannot be made ready ({type(error).__name__}: {error})"
    return None


class _Count:
    """Where the meter writes packet counts; NFStream shares them between processes."""

    value: int = 0


class Channel:
    """What NFStream's loop puts its flows into.

    Parameters
    ----------
    rows
        Where they go.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._cores = os.sched_getaffinity(0)
        self.error: str | None = None

    def put(self, message: Any) -> None:
        """Take a flow, a state or an error from the meter."""
        if message is None:
            return
        if message.id is NFEvent.FLOW:
            state = message.udps
            # NFStream would pass the flow on; its C side is gone already.
            message.udps = None
            if state is not None:
                self._rows.add_state(state)
        elif message.id is NFEvent.ALL_AFFINITY_SET:
            # The meter has pinned this process to some cores; several workers would
            # share the same ones.
            os.sched_setaffinity(0, self._cores)
        elif message.id is NFEvent.ERROR:
            self.error = str(message.message).strip()


def meter_by_plugin(job: Job, emit: Callable[[pa.RecordBatch], None]) -> Metered:
    """Meter one file by NFStream's own loop; see `meter`."""
    sampler = PayloadSampler()
    rows = Rows(emit)
    channel = Channel(rows)
    started = threading.Lock()
    started.acquire()
    meter_workflow(
        source=job.path,
        snaplen=SNAPSHOT,
        decode_tunnels=job.decode_tunnels,
        bpf_filter=job.bpf_filter,
        promisc=False,
        n_roots=1,
        root_idx=0,
        mode=NFMode.SINGLE_FILE,
        idle_timeout=job.idle_timeout * 1000,
        active_timeout=job.active_timeout * 1000,
        accounting_mode=1,
        udps=(sampler,),
        n_dissections=DISSECTIONS,
        statistics=False,
        splt=0,
        channel=channel,
        tracker=[_Count(), _Count(), _Count()],
        lock=started,
        group_id=os.getpid(),
        system_visibility_mode=0,
        socket_buffer_size=0,
    )
    if channel.error is not None:
        raise MeterError(channel.error)
    for state in sampler.unclaimed:
        rows.add_state(state)
    rows.flush()
    return Metered(rows.impossible, rows.announced)
