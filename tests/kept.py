"""What the packet readers keep of a direction, from packets made or captured."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import dpkt
import pytest

from exfilml.payload import KEPT_HEAD, SLICE_BYTES, Samples, kept_slices

REAL = os.environ.get("EXFILML_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL is None, reason="EXFILML_REAL_DATA names no folder of real captures"
)
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

Kept = tuple[bytes, tuple[int, ...], bytes, int]


def keep(packets: Iterable[bytes]) -> Kept:
    """Head, packet sizes, slices and their width."""
    head, sizes, later = b"", [], []
    for packet in packets:
        if len(head) < KEPT_HEAD:
            kept = packet[: KEPT_HEAD - len(head)]
            head += kept
            sizes.append(len(kept))
        elif len(packet) >= SLICE_BYTES:
            later.append(packet[:SLICE_BYTES])
    slices = b"".join(later[at] for at in kept_slices(len(later)))
    return head, tuple(sizes), slices, SLICE_BYTES


def real(name: str) -> Path:
    return Path(REAL or "") / "pcap" / name


def directions(path: Path, protocols: set[int], ports: set[int]) -> dict:
    """Payloads of each direction: {(protocol, source, destination): [bytes, ...]}."""
    found: dict = {}
    for packet in _ip_packets(path):
        protocol = packet.p
        body = packet.data
        if protocol not in protocols:
            continue
        if protocol in (ICMP, ICMPV6):
            data, ends = bytes(body)[8:], ()
        elif isinstance(body, dpkt.udp.UDP | dpkt.tcp.TCP):
            if not ports & {body.sport, body.dport}:
                continue
            data, ends = bytes(body.data), (body.sport, body.dport)
        else:
            continue
        if data:
            key = (protocol, packet.src, packet.dst, *ends)
            found.setdefault(key, []).append(data)
    return found


def _ip_packets(path: Path) -> Iterator:
    with path.open("rb") as file:
        try:
            reader = dpkt.pcap.UniversalReader(file)
            link = {
                dpkt.pcap.DLT_EN10MB: dpkt.ethernet.Ethernet,
                dpkt.pcap.DLT_LINUX_SLL: dpkt.sll.SLL,
            }.get(reader.datalink())
            for _, frame in reader if link else ():
                try:
                    inner = link(frame).data
                except dpkt.dpkt.Error:
                    continue
                if isinstance(inner, dpkt.ip.IP | dpkt.ip6.IP6) and not getattr(
                    inner, "offset", 0
                ):
                    yield inner
        except (dpkt.dpkt.Error, ValueError):
            return


def handed_on(samples: Samples) -> Iterator[tuple[bytes, bytes, int, int, list[int]]]:
    """Head, slices, payload bytes, protocol and sizes of packets of each direction."""
    for at, head, slices, sizes_at, packets, stream, protocol in samples.sides[
        :, :7
    ].tolist():
        middle = at + head
        yield (
            samples.data[at:middle].tobytes(),
            samples.data[middle : middle + slices].tobytes(),
            stream,
            protocol,
            samples.sizes[sizes_at : sizes_at + packets].tolist(),
        )
