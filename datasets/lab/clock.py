"""From recordings to captures: the virtual clock, and headers instead of bulk.

Sessions run one after another, as fast as the machine can. Afterwards each is moved to
its place in the virtual weeks and its pauses are stretched by the pace of its kind, so
that calls take minutes and connections that are kept open last; sessions overlap.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sample_lab import capture
from sample_lab.capture import TCP, UDP, Flow, Key, Packet, back, is_local

if TYPE_CHECKING:
    from pathlib import Path

    from sample_lab.schedule import Session

# Of each direction of a flow: the first bytes as they come, then the first bytes of
# each further packet, up to a sum. The same for every flow: what is stored tells
# nothing about its label. Downloads are kept shorter, what leaves is what it is about.
HEAD_OUT, HEAD_IN = 4096, 512
SLICE = 64
TAIL_OUT, TAIL_IN = 2048, 0
# What the recorder must keep of a packet for that: the head and the longest headers.
SNAP = HEAD_OUT + 134
# A pause longer than this is a pause, not a machine at work, and is stretched.
PAUSE_S = 0.0008
# Below the idle timeout of flow meters, so that a flow stays one flow.
LONGEST_PAUSE_S = 100.0
ICMP, UNREACHABLE = 1, 3


@dataclass
class Placed:
    """A packet on its session's own clock: seconds since the session began."""

    time: float
    packet: Packet
    flow: Flow
    way: int


def kept(payload: int, so_far: list[int], *, outward: bool) -> int:
    """Return how many payload bytes of a packet are stored, and count them.

    Parameters
    ----------
    payload
        Payload bytes of this packet.
    so_far
        Bytes kept of this direction as head and as slices; updated.
    outward
        Whether the packet leaves the site.
    """
    head, tail = (HEAD_OUT, TAIL_OUT) if outward else (HEAD_IN, TAIL_IN)
    if so_far[0] < head:
        keep = min(payload, head - so_far[0])
        so_far[0] += keep
        return keep
    if payload < SLICE or so_far[1] + SLICE > tail:
        return 0
    so_far[1] += SLICE
    return SLICE


def stretch(times: list[float], start: float, pace: float) -> list[float]:
    """Return virtual seconds since `start` for a session's packets, in order.

    Pauses are multiplied by `pace` and stay below `LONGEST_PAUSE_S`; what a machine
    does without a pause keeps its time.
    """
    out: list[float] = []
    real, virtual = start, 0.0
    for time in times:
        gap = time - real
        if gap > PAUSE_S:
            gap = max(min(gap * pace, LONGEST_PAUSE_S), min(gap, LONGEST_PAUSE_S))
        virtual += max(gap, 0.0)
        real = time
        out.append(virtual)
    return out


def place(
    packets: list[Packet],
    owner: list[tuple[Flow, int]],
    sessions: list[Session],
    starts: list[float],
) -> list[list[Placed]]:
    """Return each session's packets on its own clock; set the flows' times to it."""
    own: list[list[Placed]] = [[] for _ in sessions]
    seen: set[int] = set()
    for packet, (flow, way) in zip(packets, owner, strict=True):
        if not _stray(packet, flow):
            own[flow.session].append(Placed(packet.time, packet, flow, way))
    for session, start, placed in zip(sessions, starts, own, strict=True):
        times = stretch([p.packet.time for p in placed], start, session.pace)
        for item, time in zip(placed, times, strict=True):
            item.time = time
            if id(item.flow) not in seen:
                seen.add(id(item.flow))
                item.flow.first = time
            item.flow.last = time
    return own


def _stray(packet: Packet, flow: Flow) -> bool:
    """Tell whether a packet comes after its session, from a server that missed its end."""
    protocol, source, sport, *_ = flow.key
    if protocol == ICMP and packet.data[packet.header - 8] == UNREACHABLE:
        return True
    # In active FTP the server calls; nobody else does.
    return not is_local(source) and not (protocol == TCP and sport == 20)


def begins(own: list[list[Placed]], sessions: list[Session]) -> list[float]:
    """Return the virtual start of each session.

    That is when its plan says, or later where the same ports would come back within
    the idle timeout of a flow meter.
    """
    used: dict[Key, float] = {}
    out: list[float] = []
    for session, placed in zip(sessions, own, strict=True):
        begin = session.when
        flows = {id(p.flow): p.flow for p in placed if _has_own_ports(p.flow.key)}
        for flow in flows.values():
            key = min(flow.key, back(flow.key))
            if key in used:
                begin = max(begin, used[key] + capture.IDLE_S - flow.first)
        for flow in flows.values():
            key = min(flow.key, back(flow.key))
            used[key] = max(used.get(key, 0.0), begin + flow.last)
        out.append(begin)
    return out


def _has_own_ports(key: Key) -> bool:
    """Tell whether the ports are a conversation's own; the proxy asks from one socket."""
    return key[0] == TCP or (key[0] == UDP and 53 not in (key[2], key[4]))


def rewrite(
    raw: list[Path], sessions: list[Session], starts: list[float], out: Path
) -> list[Flow]:
    """Write one capture, compressed; return its flows with virtual times.

    Parameters
    ----------
    raw
        Recordings of the cables, of one half.
    sessions
        Sessions of this half in the order in which they ran.
    starts
        Real start of each session, seconds of the epoch.
    out
        The capture to write (``.pcap.gz``).
    """
    packets, flows, owner = capture.assemble(raw, starts)
    own = place(packets, owner, sessions, starts)
    records: list[tuple[int, int, bytes, int]] = []
    so_far: dict[tuple[int, int], list[int]] = {}
    alive: dict[int, Flow] = {}
    for begin, placed in zip(begins(own, sessions), own, strict=True):
        mine: dict[int, Flow] = {}
        for item in placed:
            packet = item.packet
            count = so_far.setdefault((id(item.flow), item.way), [0, 0])
            payload = max(packet.length - packet.header, 0)
            item.flow.payload[item.way] += payload
            # Inside the site, outward is what the initiator sends.
            outward = is_local(packet.key[1]) and (
                item.way == 0 or not is_local(packet.key[3])
            )
            keep = kept(payload, count, outward=outward)
            data = packet.data[: packet.header + keep]
            micros = round((begin + item.time) * 1e6)
            records.append((micros, len(records), data, packet.length))
            mine[id(item.flow)] = item.flow
        for flow in mine.values():
            flow.first += begin
            flow.last += begin
        alive |= mine
    records.sort()
    plain = out.with_suffix("")
    with plain.open("wb") as file:
        head = capture.FILE_HEADER
        file.write(head.pack(capture.MAGIC, 2, 4, 0, 0, 262_144, capture.ETHERNET))
        for micros, _, data, length in records:
            file.write(capture.RECORD.pack(*divmod(micros, 10**6), len(data), length))
            file.write(data)
    # A few percent smaller than what gzip makes, and read by the same.
    subprocess.run(["libdeflate-gzip", "-12", plain], check=True)
    return [flow for flow in flows if id(flow) in alive]
