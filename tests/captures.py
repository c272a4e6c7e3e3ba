"""Builders of synthetic captures: packets, and the files that hold them."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import dpkt

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
START = 1_700_000_000.0
ETHERNET, RAW, LINUX_SLL = 1, 101, 113
CLIENT, SERVER = "10.0.0.1", "198.51.100.7"
CLIENT6, SERVER6 = "fd00::1", "2001:db8::7"


def address(text: str) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text)


def ip4(src: str, dst: str, protocol: int, body: bytes, **fields: int) -> bytes:
    """IPv4; ``length``, ``flags`` (fragment word) and ``options`` bytes can be set."""
    options = bytes([1]) * fields.get("options", 0)
    ihl = 5 + len(options) // 4
    length = fields.get("length", 4 * ihl + len(body))
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | ihl,
        0,
        length,
        fields.get("ident", 1),
        fields.get("flags", 0),
        64,
        protocol,
        0,
        address(src),
        address(dst),
    )
    return head + options + body


def ip6(
    src: str, dst: str, protocol: int, body: bytes, extensions: Iterable[int] = ()
) -> bytes:
    """IPv6, with extension headers of the kinds given (44 is a whole fragment)."""
    kinds = [*extensions, protocol]
    chain = b""
    for following in kinds[1:]:
        chain += bytes([following, 0]) + bytes([1, 4, 0, 0, 0, 0])
    for at, kind in enumerate(kinds[:-1]):
        if kind == 44:
            chain = chain[: 8 * at + 1] + bytes(7) + chain[8 * at + 8 :]
        elif kind == 43:
            chain = chain[: 8 * at + 2] + bytes(6) + chain[8 * at + 8 :]
    payload = chain + body
    head = struct.pack(">IHBB", 6 << 28, len(payload), kinds[0], 64)
    return head + address(src) + address(dst) + payload


def tcp(
    sport: int, dport: int, data: bytes = b"", flags: int = ACK, options: int = 0
) -> bytes:
    offset = (5 + options // 4) << 4
    head = struct.pack(">HHIIBBHHH", sport, dport, 1, 1, offset, flags, 8192, 0, 0)
    return head + bytes([1]) * options + data


def udp(sport: int, dport: int, data: bytes = b"") -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data


def echo(data: bytes, *, reply: bool = False, six: bool = False) -> bytes:
    kind = (129 if reply else 128) if six else (0 if reply else 8)
    return struct.pack(">BBHHH", kind, 0, 0, 7, 1) + data


def ethernet(packet: bytes, *, vlan: int | None = None, pad: bool = True) -> bytes:
    """An Ethernet frame, padded to 60 bytes with bytes that are not zero."""
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
    if vlan is not None:
        kind = b"\x81\x00" + struct.pack(">H", vlan) + kind
    frame = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01" + kind + packet
    return frame.ljust(60, b"P") if pad else frame


def sll(packet: bytes) -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return struct.pack(">HHH8sH", 0, 1, 6, b"\x02\0\0\0\0\x01\0\0", kind) + packet


def gre(outer_src: str, outer_dst: str, inner: bytes) -> bytes:
    kind = 0x86DD if inner[0] >> 4 == 6 else 0x0800
    return ip4(outer_src, outer_dst, 47, struct.pack(">HH", 0, kind) + inner)


Frames = Iterable[tuple[float, bytes]]


def write_pcap(
    path: Path, frames: Frames, *, link: int = ETHERNET, snap: int = 262144
) -> Path:
    """Classic pcap; frames are cut at ``snap``."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snap, link))
        for time, frame in frames:
            micros = round(time * 1_000_000)
            file.write(
                struct.pack(
                    "<IIII",
                    micros // 1_000_000,
                    micros % 1_000_000,
                    min(len(frame), snap),
                    len(frame),
                )
            )
            file.write(frame[:snap])
    return path


def write_pcapng(path: Path, frames: Frames, *, snap: int = 262144) -> Path:
    """Write pcapng, by dpkt; frames are not cut at ``snap``."""
    with path.open("wb") as file:
        writer = dpkt.pcapng.Writer(file, snaplen=snap, linktype=ETHERNET)
        for time, frame in frames:
            writer.writepkt(frame, ts=time)
    return path


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def text(size: int) -> bytes:
    line = b"The quick brown fox jumps over the lazy dog, line after line.\n"
    return (line * (size // len(line) + 1))[:size]


def tcp_upload(
    data: bytes,
    *,
    start: float = START,
    step: float = 0.01,
    mss: int = 1400,
    sport: int = 40000,
    dport: int = 9999,
    answer: bytes = b"",
) -> list[tuple[float, bytes]]:
    """Build a whole TCP conversation of the client's: handshake, upload, end."""
    up = (CLIENT, SERVER, sport, dport)
    down = (SERVER, CLIENT, dport, sport)

    def segment(ends: tuple[str, str, int, int], flags: int, body: bytes) -> bytes:
        src, dst, here, there = ends
        return ethernet(ip4(src, dst, 6, tcp(here, there, body, flags)))

    frames = [
        segment(up, SYN, b""),
        segment(down, SYN | ACK, b""),
        segment(up, ACK, b""),
    ]
    for at in range(0, len(data), mss):
        frames.append(segment(up, ACK | PSH, data[at : at + mss]))
        if at // mss % 2:
            frames.append(segment(down, ACK, b""))
    if answer:
        frames.append(segment(down, ACK | PSH, answer))
    frames += [segment(up, ACK | FIN, b""), segment(down, ACK | FIN, b"")]
    return [(start + number * step, frame) for number, frame in enumerate(frames)]


def udp_flow(
    data: list[bytes],
    *,
    start: float = START,
    step: float = 0.01,
    sport: int = 40001,
    dport: int = 9998,
) -> list[tuple[float, bytes]]:
    """Datagrams from the client, no answer."""
    return [
        (start + at * step, ethernet(ip4(CLIENT, SERVER, 17, udp(sport, dport, body))))
        for at, body in enumerate(data)
    ]


def traffic(
    flows: int = 2000, packets: int = 60_000, seed: int = 1
) -> list[tuple[float, bytes]]:
    """Mix flows of all lengths, TCP and UDP, both directions, for benchmarks."""
    rng = random.Random(seed)
    blob, prose = noise(1 << 16, seed), text(1 << 16)
    weights = [1 / (rank + 1) for rank in range(flows)]
    frames = []
    seen: set[int] = set()
    for number, flow in enumerate(rng.choices(range(flows), weights, k=packets)):
        host = f"10.0.{flow >> 8 & 255}.{flow & 255}"
        ends = [(host, 30000 + flow % 20000), (SERVER, (443, 80, 53, 8443)[flow % 4])]
        is_tcp = flow % 4 != 2
        flags = ACK if flow in seen else SYN
        if flow in seen and rng.random() < 0.4:
            ends.reverse()
        seen.add(flow)
        size = rng.choice((0, 60, 500, 1400, 1400)) if flags == ACK else 0
        at = rng.randrange(1 << 15)
        body = (blob if flow % 3 else prose)[at : at + size]
        (src, sport), (dst, dport) = ends
        carried = tcp(sport, dport, body, flags) if is_tcp else udp(sport, dport, body)
        frame = ethernet(ip4(src, dst, 6 if is_tcp else 17, carried))
        frames.append((START + number * 0.0005, frame))
    return frames
