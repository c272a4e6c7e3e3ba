"""Meters a capture by the compiled loop: the same rows as by the plugin, sooner.

The loop (`_engine_loop`) runs in a thread, without the interpreter's lock, and fills
an outbox with what has ended; meanwhile this thread makes rows of the other outbox.
Memory is bounded by the flows that live, and by the two outboxes.

A capture is not split over processes, as by NFStream's several meters: nDPI remembers
from flow to flow, and in parts it names some of them otherwise.

One file because who fills an outbox and who empties it must agree on its layout.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from nfstream.engine import activate_capture, setup_capture, setup_dissector
from nfstream.utils import NFMode
from numpy.typing import NDArray

from exfilml.sources import _engine_abi as abi
from exfilml.sources import _engine_loop as loop
from exfilml.sources._flows import Ended, judge
from exfilml.sources._job import Job
from exfilml.sources._plugin import SLICE_BYTES, FlowState
from exfilml.sources._rows import (
    DISSECTIONS,
    SNAPSHOT,
    Metered,
    MeterError,
    Rows,
    put_state,
)

FIRST_FLOWS: Final = 1024
OUTBOX_ROWS: Final = 512
OUTBOX_BYTES: Final = 1 << 20
OUTBOX_SIZES: Final = 1 << 15
# Packets after which Ctrl-C is looked for: a second of them, or less.
STEPS: Final = 1 << 19


def meter_compiled(job: Job, emit: Callable[[pa.RecordBatch], None]) -> Metered:
    """Meter one file; parameters, result and errors as of `_meter.meter`."""
    rows = Rows(emit)
    flows = _Flows(rows)
    with (
        _opened(job) as (packets, engine),
        ThreadPoolExecutor(1) as thread,
        # Left first: the thread is waited for.
        closing(_Run(packets, engine)) as run,
    ):
        filling, taken = _new_outbox(), _new_outbox()
        task: Future[int] = thread.submit(run.fill, filling)
        reason = loop.EMPTY_OUTBOX
        while reason == loop.EMPTY_OUTBOX:
            reason = task.result()
            filling, taken = taken, filling
            count = run.take_count()
            if reason == loop.EMPTY_OUTBOX:
                task = thread.submit(run.fill, filling)
            flows.add(taken, count)
    if reason == loop.UNREADABLE:
        raise MeterError("it cannot be read any further")
    if reason == loop.NO_MEMORY:
        raise MeterError("out of memory for another flow")
    rows.flush()
    return Metered(rows.impossible, rows.announced)


def warm_up() -> None:
    """Compile the loop, or load it from the cache, and go round it no time."""
    packets = np.zeros(1, abi.layout("nf_packet"))
    run = _Run(packets, loop.Engine(*[0] * len(loop.Engine._fields)))
    run.warm_up(_new_outbox())


@contextmanager
def _opened(job: Job) -> Iterator[tuple[Any, loop.Engine]]:
    """Open the capture; hand out the struct of a packet, and what the loop calls."""
    ffi, lib = abi.engine()
    dissector = setup_dissector(ffi, lib, DISSECTIONS)
    if dissector == ffi.NULL:
        raise MeterError("NFStream was built with another version of nDPI")
    capture = None
    try:
        told = ffi.new("char[256]")
        mode = NFMode.SINGLE_FILE
        capture = setup_capture(ffi, lib, job.path, SNAPSHOT, False, mode, told, 0, 0)
        if capture is None or not activate_capture(
            capture, lib, told, job.bpf_filter, mode
        ):
            # The engine has closed it.
            capture = None
            reason = ffi.string(told).decode("utf-8", errors="ignore")
            raise MeterError(reason.strip())
        packets = np.zeros(1, abi.layout("nf_packet"))
        flow = abi.layout("nf_flow")
        assert flow.fields is not None
        yield (
            packets,
            loop.Engine(
                *abi.addresses(),
                int(ffi.cast("uintptr_t", capture)),
                int(ffi.cast("uintptr_t", dissector)),
                packets.ctypes.data,
                packets.itemsize,
                flow.fields["bidirectional_last_seen_ms"][1],
                flow.itemsize,
                int(job.decode_tunnels),
                job.idle_timeout * 1000,
                job.active_timeout * 1000,
                DISSECTIONS,
            ),
        )
    finally:
        if capture is not None:
            lib.capture_close(capture)
        lib.dissector_cleanup(dissector)


def _new_outbox() -> loop.Outbox:
    return loop.Outbox(
        np.empty(OUTBOX_ROWS, abi.layout("nf_flow")),
        np.empty(OUTBOX_ROWS, loop.NOTE),
        np.empty(OUTBOX_BYTES, np.uint8),
        np.empty(OUTBOX_SIZES, np.uint16),
    )


class _Run:
    """The loop over one capture, and the memory it runs in."""

    def __init__(self, packets: Any, engine: loop.Engine) -> None:
        self._packets = packets
        self._engine = engine
        self._closed = False
        self._clocks = np.zeros(1, loop.CLOCK)
        clock = self._clocks[0]
        clock["oldest"] = clock["newest"] = clock["free_flow"] = -1
        # Multipliers of the hash: odd, and another each time.
        keys = np.frombuffer(secrets.token_bytes(13 * 8), np.uint64) | np.uint64(1)
        self._blocks: list[np.ndarray[Any, Any]] = []
        self._memory = loop.Memory(
            np.zeros(FIRST_FLOWS, loop.FLOW),
            np.zeros(2 * FIRST_FLOWS, loop.SIDE),
            np.full((2 * FIRST_FLOWS, loop.PAGES_PER_SIDE), -1, np.int32),
            np.full(4 * FIRST_FLOWS, -1, np.int64),
            keys,
            np.empty(0, np.int32),
            np.empty(0, np.int64),
        )

    def warm_up(self, outbox: loop.Outbox) -> None:
        """See `warm_up`."""
        loop.run(self._engine, self._packets, self._memory, self._clocks, outbox, 0)
        loop.rebuild(self._memory.table, self._memory.flows, -1)

    def fill(self, outbox: loop.Outbox) -> int:
        """Run until the outbox is full or the capture at its end; say which."""
        while True:
            reason = loop.run(
                self._engine, self._packets, self._memory, self._clocks, outbox, STEPS
            )
            if reason == loop.GROW:
                self._grow()
            elif reason != loop.LOOK_UP or self._closed:
                return int(reason)

    def close(self) -> None:
        """Let the loop return before long, wherever it is."""
        self._closed = True

    def take_count(self) -> int:
        """Return how many rows there are in the outbox; the next starts empty."""
        clock = self._clocks[0]
        count = int(clock["rows"])
        clock["rows"] = clock["bytes"] = clock["sizes"] = 0
        return count

    def _grow(self) -> None:
        """Double what is full."""
        clock, memory = self._clocks[0], self._memory
        if clock["free_pages"] < loop.PAGES_PER_BLOCK:
            block = np.empty(loop.PAGES_PER_BLOCK * loop.PAGE, np.uint8)
            self._blocks.append(block)
            count = len(self._blocks) * loop.PAGES_PER_BLOCK
            free = np.empty(count, np.int32)
            kept = int(clock["free_pages"])
            # The last are taken first: the new ones, in order of their addresses.
            free[:kept] = memory.free_pages[:kept]
            added = np.arange(count - 1, count - 1 - loop.PAGES_PER_BLOCK, -1)
            free[kept : kept + loop.PAGES_PER_BLOCK] = added
            clock["free_pages"] += loop.PAGES_PER_BLOCK
            places = np.array([b.ctypes.data for b in self._blocks], np.int64)
            memory = memory._replace(free_pages=free, blocks=places)
        size = memory.flows.size
        if clock["free_flow"] < 0 and clock["flows_used"] == size:
            memory = memory._replace(
                flows=np.concatenate([memory.flows, np.zeros(size, loop.FLOW)]),
                sides=np.concatenate([memory.sides, np.zeros(2 * size, loop.SIDE)]),
                pages=np.concatenate([memory.pages, np.full_like(memory.pages, -1)]),
                table=np.empty(8 * size, np.int64),
            )
            loop.rebuild(memory.table, memory.flows, int(clock["oldest"]))
        self._memory = memory


class _Part(NamedTuple):
    """What `FlowState` asks of a part that has ended, named as NFStream does."""

    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int
    protocol: int
    ip_version: int
    vlan_id: int
    tunnel_id: int
    bidirectional_first_seen_ms: int
    bidirectional_last_seen_ms: int
    src2dst_packets: int
    src2dst_bytes: int
    dst2src_packets: int
    dst2src_bytes: int
    application_name: str
    requested_server_name: str
    client_fingerprint: str
    content_type: str
    user_agent: str
    application_confidence: int


# Where the struct has other names.
_COLUMNS: Final = {
    "src_ip": "src_ip_str",
    "dst_ip": "dst_ip_str",
    "client_fingerprint": "c_hash",
    "application_confidence": "confidence",
}


class _Flows:
    """Makes flows of what is in an outbox, parts joined, and rows of them."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        # Flows of which a part has ended and another lives.
        self._cut: dict[int, FlowState] = {}

    def add(self, outbox: loop.Outbox, count: int) -> None:
        """Take the first `count` rows of an outbox."""
        rows, notes = outbox.rows[:count], outbox.notes[:count]
        joined = {}
        if (notes["parts"] > 1).any() or notes["goes_on"].any():
            joined = self._join(rows, notes)
            ends = notes["goes_on"] == 0
            rows, notes = rows[ends], notes[ends]
        ended = _columns(rows, notes)
        for i, state in joined.items():
            put_state(ended, i, state)
        kept = np.stack([notes[name] for name in _KEPT], 1).reshape(-1, 3)
        kept[:, 1] *= SLICE_BYTES
        used, packets = kept[:, :2].sum(), kept[:, 2].sum()
        judged = judge(
            outbox.samples[:used], outbox.sizes[:packets].astype(np.int64), kept,
            ended.payload.reshape(-1), ended.protocol,
        )  # fmt: skip
        self._rows.add(ended, judged)

    def _join(self, rows: Any, notes: Any) -> dict[int, FlowState]:
        """Join parts; return the flows of several that have ended, by their place."""
        joined = {}
        several = np.flatnonzero((notes["parts"] > 1) | (notes["goes_on"] != 0))
        places = np.cumsum(notes["goes_on"] == 0) - 1
        columns = [_column(rows[several], name) for name in _Part._fields]
        for at, part in zip(
            several.tolist(), map(_Part._make, zip(*columns, strict=True)), strict=True
        ):
            number = int(notes["number"][at])
            state = self._cut.pop(number, None)
            if state is None:
                state = FlowState(part)
            else:
                state.turn(part)
            state.add_part(part)
            if notes["goes_on"][at]:
                self._cut[number] = state
            else:
                joined[int(places[at])] = state
        return joined


_KEPT: Final = ("head_0", "slices_0", "packets_0", "head_1", "slices_1", "packets_1")


def _columns(rows: Any, notes: Any) -> Ended:
    """Read the struct, each flow in one part."""

    def texts(name: str) -> NDArray[np.object_]:
        return np.array(_column(rows, name), object)

    def two(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.int64]:
        return np.stack([one, other], 1).astype(np.int64)

    return Ended(
        rows["bidirectional_first_seen_ms"].copy(),
        rows["bidirectional_last_seen_ms"].copy(),
        rows["protocol"].astype(np.int64),
        np.stack([texts("src_ip"), texts("dst_ip")], 1),
        two(rows["src_port"], rows["dst_port"]),
        two(rows["src2dst_bytes"], rows["dst2src_bytes"]),
        two(rows["src2dst_packets"], rows["dst2src_packets"]),
        two(notes["flags_0"], notes["flags_1"]),
        two(notes["payload_0"], notes["payload_1"]),
        notes["first_flags"],
        notes["speaker"],
        texts("application_name"),
        rows["confidence"].astype(np.int64),
        texts("requested_server_name"),
        texts("client_fingerprint"),
        texts("user_agent"),
        texts("content_type"),
    )


def _column(rows: Any, name: str) -> list[Any]:
    """Return a column of the struct as Python's values; text up to its end in C."""
    values: list[Any] = rows[_COLUMNS.get(name, name)].tolist()
    if not values or not isinstance(values[0], bytes):
        return values
    # One call for all of them, unless something stands behind an end.
    texts = b"\0".join(values).decode("utf-8", errors="ignore").split("\0")
    if len(texts) == len(values):
        return texts
    letters = np.array(values).view(np.uint8).reshape(len(values), -1)
    letters[np.logical_or.accumulate(letters == 0, axis=1)] = 0
    values = letters.view(f"S{letters.shape[1]}")[:, 0].tolist()
    return b"\0".join(values).decode("utf-8", errors="ignore").split("\0")
