"""From raw recordings to the sample: the virtual clock, and headers instead of bulk."""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sample_lab.schedule import Session

FILE_HEADER = struct.Struct("<IHHiIII")
RECORD = struct.Struct("<IIII")
MAGIC = 0xA1B2C3D4
ETHERNET = 1
TCP, UDP, ICMP = 6, 17, 1
# The first bytes of every direction of a flow are kept, then headers only. Downloads
# are kept shorter than uploads: what leaves is what the sample is about.
KEEP_OUT = 8 * 1024
KEEP_IN = 2 * 1024
# A flow never comes back on the same ports within NFStream's default idle timeout.
IDLE_S = 125.0
SYN, ACK = 0x02, 0x10

Key = tuple[int, bytes, int, bytes, int]


@dataclass
class Packet:
    """One recorded packet; times are seconds, the real clock's."""

    time: float
    data: bytes
    length: int
    key: Key
    header: int
    flags: int


@dataclass
class Flow:
    """What one session sent under one 5-tuple; `key` is seen from the initiator.

    ``payload`` counts bytes from the initiator and from the responder.
    """

    key: Key
    session: int
    first: float
    last: float
    payload: list[int] = field(default_factory=lambda: [0, 0])


def read(path: Path) -> Iterator[Packet]:
    """Yield the IP packets of one recording."""
    raw = path.read_bytes()
    magic, *_, link = FILE_HEADER.unpack_from(raw)
    if magic != MAGIC or link != ETHERNET:
        msg = f"{path.name} is not a little-endian Ethernet capture"
        raise ValueError(msg)
    at = FILE_HEADER.size
    while at < len(raw):
        seconds, micros, kept, length = RECORD.unpack_from(raw, at)
        at += RECORD.size
        data = raw[at : at + kept]
        at += kept
        parsed = _headers(data)
        if parsed:
            yield Packet(seconds + micros / 1e6, data, length, *parsed)


def _headers(data: bytes) -> tuple[Key, int, int] | None:
    """Return the 5-tuple, where payload begins, and TCP flags (0 for others)."""
    if data[12:14] == b"\x08\x00":
        if int.from_bytes(data[20:22]) & 0x1FFF:
            # A later fragment has no ports and is nobody's.
            return None
        at = 14 + (data[14] & 15) * 4
        protocol, source, target = data[23], data[26:30], data[30:34]
    elif data[12:14] == b"\x86\xdd":
        at = 54
        protocol, source, target = data[20], data[22:38], data[38:54]
    else:
        return None
    if protocol == TCP:
        sport, dport = struct.unpack_from("!HH", data, at)
        end = at + (data[at + 12] >> 4) * 4
        return (protocol, source, sport, target, dport), end, data[at + 13]
    if protocol == UDP:
        sport, dport = struct.unpack_from("!HH", data, at)
        return (protocol, source, sport, target, dport), at + 8, 0
    return (protocol, source, 0, target, 0), at + 8, 0


def back(key: Key) -> Key:
    """Return a 5-tuple as the other side sees it."""
    protocol, source, sport, target, dport = key
    return protocol, target, dport, source, sport


def assemble(
    raw: list[Path], starts: list[float]
) -> tuple[list[Packet], list[Flow], list[tuple[Flow, int]]]:
    """Read recordings and tell which flow, hence which session, a packet belongs to.

    Returns
    -------
    packets : list of Packet
        In order of time.
    flows : list of Flow
        In order of their first packet.
    owner : list of tuple of (Flow, int)
        For each packet its flow, and 0 from the initiator or 1 from the responder.
    """
    packets = sorted((p for path in raw for p in read(path)), key=lambda p: p.time)
    flows: list[Flow] = []
    owner: list[tuple[Flow, int]] = []
    current: dict[Key, Flow] = {}
    for packet in packets:
        flow = current.get(packet.key) or current.get(back(packet.key))
        index = max(bisect.bisect_right(starts, packet.time) - 1, 0)
        opening = packet.flags & (SYN | ACK) == SYN
        # A late FIN belongs to the session that opened the connection; the same ports
        # after a pause are a new flow.
        if (
            flow is None
            or opening
            or (
                packet.key[0] != TCP
                and index != flow.session
                and packet.time - flow.last > 1
            )
        ):
            flow = Flow(packet.key, index, packet.time, packet.time)
            current.pop(back(packet.key), None)
            current[packet.key] = flow
            flows.append(flow)
        flow.last = packet.time
        owner.append((flow, int(flow.key != packet.key)))
    return packets, flows, owner


def rewrite(
    raw: list[Path], sessions: list[Session], starts: list[float], out: Path
) -> list[Flow]:
    """Put recorded packets on the virtual clock and write one capture.

    A packet at real time t of a session that began at R gets V + (t - R), where V is
    the session's virtual start: gaps between sessions are virtual, time within a
    session is real. V is moved later where a longer session before it, or a reused
    port within the idle timeout, would otherwise overlap.

    Parameters
    ----------
    raw
        Recordings of the cables, of one half.
    sessions
        Sessions of this half in the order in which they ran.
    starts
        Real start of each session, seconds of the epoch.
    out
        The capture to write.

    Returns
    -------
    list of Flow
        Every flow with its session and its virtual first and last time.
    """
    packets, flows, owner = assemble(raw, starts)
    shift = _virtual_clock(flows, sessions, starts)
    for flow in flows:
        flow.first += shift[flow.session]
        flow.last += shift[flow.session]
    records = []
    for order, (packet, (flow, way)) in enumerate(zip(packets, owner, strict=True)):
        room = (KEEP_OUT if is_local(packet.key[1]) else KEEP_IN) - flow.payload[way]
        payload = max(len(packet.data) - packet.header, 0)
        keep = packet.header + min(payload, max(room, 0))
        flow.payload[way] += payload
        micros = round((packet.time + shift[flow.session]) * 1e6)
        records.append((micros, order, packet.data[:keep], packet.length))
    records.sort()
    with out.open("wb") as file:
        file.write(FILE_HEADER.pack(MAGIC, 2, 4, 0, 0, 262_144, ETHERNET))
        for micros, _, data, length in records:
            file.write(RECORD.pack(*divmod(micros, 10**6), len(data), length) + data)
    return flows


def is_local(address: bytes) -> bool:
    """Say whether a packed address is one of the site's."""
    return address[:2] in (b"\x0a\x14", b"\xfd\x20")


def _virtual_clock(
    flows: list[Flow], sessions: list[Session], starts: list[float]
) -> list[float]:
    """Return what to add to the real time of each session's packets."""
    by_session: list[list[Flow]] = [[] for _ in sessions]
    for flow in flows:
        by_session[flow.session].append(flow)
    shift: list[float] = []
    used: dict[Key, float] = {}
    clock = 0.0
    for session, start, own in zip(sessions, starts, by_session, strict=True):
        begin = max(session.when, clock)
        for flow in own:
            key = min(flow.key, back(flow.key))
            # ICMP has no ports: echo requests to one place may well be one flow.
            if flow.key[0] in (TCP, UDP) and key in used:
                begin = max(begin, used[key] + IDLE_S - (flow.first - start))
        shift.append(begin - start)
        clock = begin + 0.001
        for flow in own:
            used[min(flow.key, back(flow.key))] = begin + flow.last - start
            clock = max(clock, begin + flow.last - start + 0.001)
    return shift
