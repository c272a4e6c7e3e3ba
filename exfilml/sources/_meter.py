"""Runs NFStream's meter over one file, in this process, and makes table rows of it.

`nfstream.NFStreamer` runs the same function in a process that it forks, and waits
forever if that dies. Here it is called in a worker process of ours (see `_worker`):
if it dies the worker dies, which the caller notices at once, and no flow has to be
pickled.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from nfstream.meter import meter_workflow
from nfstream.utils import NFEvent, NFMode

from exfilml.payload import is_verified
from exfilml.places import iana_services
from exfilml.schema import COLUMNS, LAST_YEAR, MAX_DURATION_S
from exfilml.sources._ftp import Announced
from exfilml.sources._job import Job
from exfilml.sources._plugin import TCP, UDP, FlowState, PayloadSampler

# Network cards merge packets up to 64 kB, and libpcap's largest record is this.
SNAPSHOT: Final = 262144
BATCH_ROWS: Final = 5000
# Enough for a busy server's month, and bounded.
MOST_TRANSFERS: Final = 200_000
# NFStream's default: packets per flow that nDPI may look at.
DISSECTIONS: Final = 20
EPHEMERAL_FROM: Final = 32768
SYSTEM_PORTS: Final = 1024
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_LAST_MS: Final = (LAST_YEAR - 1970) * 365 * 86_400_000

_ARROW: Final[dict[str, Any]] = {
    "str": pa.string(),
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
}
_NEVER_SEEN: Final = frozenset({"process", "sensor", "uid", "label"})
SCHEMA: Final = pa.schema(
    [
        (c.name, _ARROW.get(c.dtype, pa.timestamp("us", "UTC")))
        for c in COLUMNS
        if c.name not in _NEVER_SEEN
    ]
)


class MeterError(Exception):
    """The packet engine refused a file or a filter, in its own words."""


class _Count:
    """Where the meter writes packet counts; NFStream shares them between processes."""

    value: int = 0


class Channel:
    """What the meter puts its flows into: rows out, a batch at a time.

    Parameters
    ----------
    sampler
        The plugin that is in use.
    emit
        Called with each full batch.
    """

    def __init__(
        self, sampler: PayloadSampler, emit: Callable[[pa.RecordBatch], None]
    ) -> None:
        self._sampler = sampler
        self._emit = emit
        self._rows: list[tuple[Any, ...]] = []
        self._cores = os.sched_getaffinity(0)
        self.impossible = 0
        self.announced: list[Announced] = []
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
                self.add(state)
        elif message.id is NFEvent.ALL_AFFINITY_SET:
            # The meter has pinned this process to some cores; several workers would
            # share the same ones.
            os.sched_setaffinity(0, self._cores)
        elif message.id is NFEvent.ERROR:
            self.error = str(message.message).strip()

    def add(self, state: FlowState) -> None:
        """Make a row of a flow, unless its times cannot be."""
        if (
            state.last_ms > _LAST_MS
            or state.last_ms - state.first_ms > MAX_DURATION_S * 1000
        ):
            self.impossible += 1
            return
        self._rows.append(to_row(state))
        if state.transfers and len(self.announced) < MOST_TRANSFERS:
            self.announced += announced(state)
        if len(self._rows) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Emit the rows that wait."""
        for state in self._sampler.unclaimed:
            self._rows.append(to_row(state))
        self._sampler.unclaimed.clear()
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(values, type=field.type)
                for values, field in zip(columns, SCHEMA, strict=True)
            ]
            self._rows = []
            self._emit(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))


@dataclass(frozen=True, slots=True)
class Metered:
    """What was found in a file besides its flows.

    Attributes
    ----------
    impossible
        Flows left out because their times are impossible.
    announced
        Data connections that FTP control connections agreed upon.
    """

    impossible: int
    announced: list[Announced]


def meter(job: Job, emit: Callable[[pa.RecordBatch], None]) -> Metered:
    """Meter one file.

    Parameters
    ----------
    job
        What to read and how.
    emit
        Called with batches of rows, of schema `SCHEMA`.

    Returns
    -------
    Metered
        What is told of the file as a whole.

    Raises
    ------
    MeterError
        If the engine refuses the file or the filter.
    """
    sampler = PayloadSampler()
    channel = Channel(sampler, emit)
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
    channel.flush()
    return Metered(channel.impossible, channel.announced)


def to_row(state: FlowState) -> tuple[Any, ...]:
    """Give a flow's values in the order of `SCHEMA`, initiator first."""
    assert state.evidence is not None
    assert state.facts is not None
    first, last = (1, 0) if answers_first(state) else (0, 1)
    ends = (state.ends[:2], state.ends[2:])
    sides = (state.sides[first], state.sides[last])
    evidence = (state.evidence[first], state.evidence[last])
    app, confidence, server_name, fingerprint, user_agent, content_type = state.facts
    known = app if app and app != "Unknown" else None
    return (
        state.first_ms * 1000,
        (state.last_ms - state.first_ms) / 1000.0,
        *ends[first],
        *ends[last],
        state.protocol,
        state.bytes[first],
        state.bytes[last],
        state.packets[first],
        state.packets[last],
        sides[0].flags | sides[1].flags if state.protocol == TCP else None,
        conversation(state),
        known,
        None
        if known is None
        else is_verified(known, state.protocol, confidence, evidence),
        server_name or evidence[0].domain or None,
        fingerprint or None,
        user_agent or None,
        content_type or None,
        None if state.speaker is None else ("src", "dst")[state.speaker != first],
        state.echoed,
        *evidence[0],
        *evidence[1],
    )


def announced(state: FlowState) -> list[Announced]:
    """Say which data connections a control connection agreed upon, and when."""
    client, server = state.ends[0], state.ends[2]
    return [
        Announced(
            client, server, t.port, t.passive, t.upload, t.name,
            state.first_ms * 1000, state.last_ms * 1000,
        )
        for t in state.transfers
    ]  # fmt: skip


def answers_first(state: FlowState) -> bool:
    """Say whether the first packet seen came from the responder.

    That is so for TCP when it was a SYN with ACK. Without any SYN, and for UDP, it
    is taken to be so only on strong evidence: the first packet came from a system
    port (below 1024) with a service registered for it, and went to an ephemeral one
    (32768 and above).
    """
    if state.protocol not in (TCP, UDP):
        return False
    if state.protocol == TCP:
        if state.first_flags & (_SYN | _ACK) == _SYN | _ACK:
            return True
        if (state.sides[0].flags | state.sides[1].flags) & _SYN:
            return False
    _, source, _, destination = state.ends
    return (
        source < SYSTEM_PORTS
        and destination >= EPHEMERAL_FROM
        and (state.protocol, source) in iana_services()
    )


def conversation(state: FlowState) -> str:
    """Name how the conversation went, one of `exfilml.schema.CONN_STATES`."""
    flags = state.sides[0].flags | state.sides[1].flags
    silent = not (state.sides[0].payload or state.sides[1].payload)
    if state.protocol == TCP and silent and flags & _RST and not flags & _FIN:
        return "rejected"
    if not all(state.packets):
        return "one_sided"
    if state.protocol == TCP and not flags & _SYN:
        return "midstream"
    return "established"
