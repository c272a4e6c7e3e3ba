"""Makes table rows of metered flows, whichever way they were metered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from exfilml.columns import COLUMNS, CONN_STATES, LAST_YEAR, MAX_DURATION_S
from exfilml.payload import PayloadEvidence, Transfer, agrees
from exfilml.services import iana_services
from exfilml.sources._flows import ICMP, ICMPV6, TCP, UDP, Ended, Judged, judge
from exfilml.sources._ftp import Announced
from exfilml.sources._plugin import ANSWERED, ASKED, FlowState

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Network cards merge packets up to 64 kB, and libpcap's largest record is this.
SNAPSHOT: Final = 262144
# NFStream's default: packets per flow that nDPI may look at.
DISSECTIONS: Final = 20
BATCH_ROWS: Final = 512
BATCH_BYTES: Final = 1 << 20
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
_STATES: Final = np.array(CONN_STATES, object)
_NEVER_SEEN: Final = {"process", "sensor", "uid", "via", "undivided", "label"}
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
    """Flows in, rows out, many at a time.

    Parameters
    ----------
    emit
        Called with each batch, of schema `SCHEMA`.
    """

    def __init__(self, emit: Callable[[pa.RecordBatch], None]) -> None:
        self._emit = emit
        self._waiting: list[FlowState] = []
        self._held = 0
        self.impossible = 0
        self.announced: list[Announced] = []

    def add(self, ended: Ended, judged: Judged) -> None:
        """Make rows of flows, but of those whose times cannot be."""
        wrong = ended.last_ms > np.uint64(_LAST_MS)
        wrong |= ended.last_ms - ended.first_ms > np.uint64(MAX_DURATION_S * 1000)
        if wrong.any():
            self.impossible += int(wrong.sum())
            ended, judged = _only(np.flatnonzero(~wrong), ended, judged)
        for i, transfers in judged.transfers.items():
            if len(self.announced) < MOST_TRANSFERS:
                self.announced += announced(ended, i, transfers)
        if len(ended.protocol):
            arrays = [
                values
                if isinstance(values, pa.Array)
                else pa.array(values, type=field.type)
                for values, field in zip(to_columns(ended, judged), SCHEMA, strict=True)
            ]
            self._emit(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

    def add_state(self, state: FlowState) -> None:
        """Take a flow, to be judged with others; what waits for that is bounded."""
        self._waiting.append(state)
        self._held += sum(len(side.head) + len(side.slices) for side in state.sides)
        if len(self._waiting) == BATCH_ROWS or self._held > BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Judge the flows that wait, and make rows of them."""
        if self._waiting:
            states, self._waiting, self._held = self._waiting, [], 0
            self.add(*_of_states(states))


def _of_states(states: Sequence[FlowState]) -> tuple[Ended, Judged]:
    """Turn flows into columns, and judge them."""
    count = len(states)
    sides = [side for state in states for side in state.sides]

    def both(values: list[int]) -> NDArray[np.int64]:
        return np.array(values).reshape(count, 2)

    def texts() -> NDArray[np.object_]:
        return np.empty(count, object)

    ended = Ended(
        first_ms=np.empty(count, np.uint64),
        last_ms=np.empty(count, np.uint64),
        protocol=np.array([state.protocol for state in states]),
        ips=np.empty((count, 2), object),
        ports=np.empty((count, 2), np.int64),
        bytes=np.empty((count, 2), np.int64),
        packets=np.empty((count, 2), np.int64),
        flags=both([side.flags for side in sides]),
        payload=both([side.payload for side in sides]),
        first_flags=np.array([state.first_flags for state in states]),
        speaker=np.array([-1 if s.speaker is None else s.speaker for s in states]),
        app=texts(),
        confidence=np.empty(count, np.int64),
        server_name=texts(),
        fingerprint=texts(),
        user_agent=texts(),
        content_type=texts(),
    )
    for i, state in enumerate(states):
        put_state(ended, i, state)
    pieces = [piece for side in sides for piece in (side.head, side.slices)]
    sizes = [size for side in sides for size in side.packets]
    kept = [(len(side.head), len(side.slices), len(side.packets)) for side in sides]
    judged = judge(
        np.frombuffer(b"".join(pieces), np.uint8), np.array(sizes, np.int64),
        np.array(kept), ended.payload.reshape(-1), ended.protocol,
    )  # fmt: skip
    return ended, judged


# What the engine says, in the order of `FlowState.facts`.
_FACTS: Final = slice(Ended._fields.index("app"), None)


def put_state(ended: Ended, i: int, state: FlowState) -> None:
    """Write what was counted of a flow over its parts into the columns."""
    assert state.facts is not None
    ended.first_ms[i], ended.last_ms[i] = state.first_ms, state.last_ms
    ended.ips[i] = state.ends[0], state.ends[2]
    ended.ports[i] = state.ends[1], state.ends[3]
    ended.bytes[i], ended.packets[i] = state.bytes, state.packets
    for column, fact in zip(ended[_FACTS], state.facts, strict=True):
        column[i] = fact


def _only(of: NDArray[np.intp], ended: Ended, judged: Judged) -> tuple[Ended, Judged]:
    """Leave out all but some flows."""
    sides = np.stack([2 * of, 2 * of + 1], 1).reshape(-1)
    transfers = {
        at: judged.transfers[i]
        for at, i in enumerate(of.tolist())
        if i in judged.transfers
    }
    return Ended._make(column[of] for column in ended), Judged(
        tuple(column[sides] for column in judged.evidence), judged.echoed[of], transfers
    )


def to_columns(ended: Ended, judged: Judged) -> list[NDArray[Any] | pa.Array]:
    """Give the columns of `SCHEMA`, initiator first."""
    count = len(ended.protocol)
    turned = answers_first(ended)
    first = 2 * np.arange(count) + turned
    last = first ^ 1
    tcp = ended.protocol == TCP
    evidence = dict(zip(PayloadEvidence._fields, judged.evidence, strict=True))
    known = ended.app.copy()
    known[(known == "") | (known == "Unknown")] = None
    verified = np.full(count, None, object)
    verified[:] = [
        None if app is None else agrees(app, *seen)
        for app, *seen in zip(
            known.tolist(), ended.protocol.tolist(), ended.confidence.tolist(),
            *(
                evidence[name][way].tolist()
                for name in ("handshake", "protocol") for way in (first, last)
            ),
            strict=True,
        )
    ]  # fmt: skip
    server = np.where(
        ended.server_name == "", evidence["domain"][first], ended.server_name
    )
    first_ms, last_ms = ended.first_ms.astype(np.int64), ended.last_ms.astype(np.int64)
    speaker = np.where(ended.speaker < 0, 2, ended.speaker != turned)

    def of_both(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        flat = getattr(ended, name).reshape(-1)
        return flat[first], flat[last]

    ips, ports = of_both("ips"), of_both("ports")
    return [
        pa.array(first_ms * 1000).view(SCHEMA.field("start").type),
        (last_ms - first_ms) / 1000.0,
        ips[0], ports[0], ips[1], ports[1],
        ended.protocol,
        *of_both("bytes"),
        *of_both("packets"),
        pa.array(ended.flags[:, 0] | ended.flags[:, 1], mask=~tcp),
        _STATES[conversation(ended)],
        known,
        verified,
        *map(
            _or_none,
            (server, ended.fingerprint, ended.user_agent, ended.content_type),
        ),
        _WAYS[speaker],
        judged.echoed,
        *(column[first] for column in judged.evidence),
        *(column[last] for column in judged.evidence),
    ]  # fmt: skip


_WAYS: Final = np.array(["src", "dst", None], object)


def _or_none(texts: NDArray[np.object_]) -> NDArray[np.object_]:
    texts = texts.copy()
    texts[texts == ""] = None
    return texts


def announced(ended: Ended, i: int, transfers: Sequence[Transfer]) -> list[Announced]:
    """Say which data connections a control connection agreed upon, and when."""
    client, server = ended.ips[i]
    begin, end = int(ended.first_ms[i]) * 1000, int(ended.last_ms[i]) * 1000
    return [
        Announced(client, server, t.port, t.passive, t.upload, t.name, begin, end)
        for t in transfers
    ]


def answers_first(ended: Ended) -> NDArray[np.bool_]:
    """Say whether the first packet seen came from the responder.

    That is so for TCP when it was a SYN with ACK. Without any SYN, and for UDP, it
    is taken to be so only on strong evidence: the first packet came from a system
    port (below 1024) with a service registered for it, and went to an ephemeral one
    (32768 and above).
    """
    tcp = ended.protocol == TCP
    answers: NDArray[np.bool_] = tcp & (
        ended.first_flags & (_SYN | _ACK) == _SYN | _ACK
    )
    flags = ended.flags[:, 0] | ended.flags[:, 1]
    source, destination = ended.ports.T
    unsure = (tcp & (flags & _SYN == 0)) | (ended.protocol == UDP)
    unsure &= (source < SYSTEM_PORTS) & (destination >= EPHEMERAL_FROM)
    for i in np.flatnonzero(unsure).tolist():
        answers[i] |= (int(ended.protocol[i]), int(source[i])) in iana_services()
    return answers


def conversation(ended: Ended) -> NDArray[np.int64]:
    """Say how the conversation went, as a place in `exfilml.columns.CONN_STATES`."""
    tcp = ended.protocol == TCP
    flags = ended.flags[:, 0] | ended.flags[:, 1]
    icmp = (ended.protocol == ICMP) | (ended.protocol == ICMPV6)
    asked, answered = (ended.flags & bit != 0 for bit in (ASKED, ANSWERED))
    unsolicited = icmp & (answered & ~asked[:, ::-1]).any(1)
    silent = ~ended.payload.any(1)
    rejected = tcp & silent & (flags & _RST != 0) & (flags & _FIN == 0)
    one_sided = ~ended.packets.all(1)
    midstream = tcp & (flags & _SYN == 0)
    names = ("unsolicited", "rejected", "one_sided", "midstream", "established")
    *codes, rest = map(CONN_STATES.index, names)
    return np.select([unsolicited, rejected, one_sided, midstream], codes, rest)
