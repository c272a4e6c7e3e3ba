"""Makes table rows of metered flows, whichever way they were metered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from exfilml.columns import COLUMNS, LAST_YEAR, MAX_DURATION_S
from exfilml.payload import is_verified
from exfilml.services import iana_services
from exfilml.sources._ftp import Announced
from exfilml.sources._plugin import ANSWERED, ASKED, ICMP, ICMPV6, TCP, UDP, FlowState

# Network cards merge packets up to 64 kB, and libpcap's largest record is this.
SNAPSHOT: Final = 262144
# NFStream's default: packets per flow that nDPI may look at.
DISSECTIONS: Final = 20
BATCH_ROWS: Final = 5000
# Enough for a busy server's month, and bounded.
MOST_TRANSFERS: Final = 200_000
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


class Rows:
    """Flows in, rows out, a batch at a time.

    Parameters
    ----------
    emit
        Called with each full batch, of schema `SCHEMA`.
    """

    def __init__(self, emit: Callable[[pa.RecordBatch], None]) -> None:
        self._emit = emit
        self._rows: list[tuple[Any, ...]] = []
        self.impossible = 0
        self.announced: list[Announced] = []

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
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(values, type=field.type)
                for values, field in zip(columns, SCHEMA, strict=True)
            ]
            self._rows = []
            self._emit(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))


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
    """Name how the conversation went, one of `exfilml.columns.CONN_STATES`."""
    here, there = (side.flags for side in state.sides)
    if state.protocol in (ICMP, ICMPV6) and (
        (here & ANSWERED and not there & ASKED)
        or (there & ANSWERED and not here & ASKED)
    ):
        return "unsolicited"
    flags = here | there
    silent = not (state.sides[0].payload or state.sides[1].payload)
    if state.protocol == TCP and silent and flags & _RST and not flags & _FIN:
        return "rejected"
    if not all(state.packets):
        return "one_sided"
    if state.protocol == TCP and not flags & _SYN:
        return "midstream"
    return "established"
