"""Builders of synthetic captures: packets, and the files that hold them."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import dpkt
import numpy as np

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
    sport: int,
    dport: int,
    data: bytes = b"",
    flags: int = ACK,
    options: int = 0,
    seq: int = 1,
) -> bytes:
    offset = (5 + options // 4) << 4
    head = struct.pack(">HHIIBBHHH", sport, dport, seq, 1, offset, flags, 8192, 0, 0)
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


def vxlan(outer_src: str, outer_dst: str, inner: bytes) -> bytes:
    head = struct.pack(">II", 0x08000000, 7 << 8)
    return ip4(outer_src, outer_dst, 17, udp(55000, 4789, head + ethernet(inner)))


def gtp(outer_src: str, outer_dst: str, inner: bytes, tunnel: int = 9) -> bytes:
    head = struct.pack(">BBHI", 0x30, 0xFF, len(inner), tunnel)
    return ip4(outer_src, outer_dst, 17, udp(2152, 2152, head + inner))


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


def traffic_in_turn(
    flows: int = 2000, packets: int = 60_000, seconds: int = 3600
) -> list[tuple[float, bytes]]:
    """Spread the same flows over a time in which most end while others begin."""
    began: dict[bytes, tuple[float, int]] = {}
    frames = []
    for _, frame in traffic(flows, packets):
        client = min(frame[26:30], frame[30:34])
        at, count = began.get(client, (START + len(began) * seconds / flows, 0))
        began[client] = at, count + 1
        frames.append((at + count * 0.01, frame))
    return sorted(frames, key=lambda frame: frame[0])


def write_short_flows(path: Path, flows: int, packets: int = 10) -> Path:
    """Write UDP flows of a few packets of 72 random bytes, 250 begun in a second."""
    data = np.random.default_rng(1)
    first = np.frombuffer(
        ethernet(ip4("10.0.0.0", SERVER, 17, udp(40000, 9999, bytes(72)))), np.uint8
    )
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, ETHERNET))
        for begin in range(0, flows + packets, 50_000):
            # At each moment one flow begins, and as many go on as have packets left.
            moment, nth = np.divmod(np.arange(50_000 * packets), packets)
            moment += begin
            flow = moment - nth
            moment, flow = (x[(flow >= 0) & (flow < flows)] for x in (moment, flow))
            head = np.empty((len(flow), 4), "<u4")
            head[:, 0] = START + moment // 250
            head[:, 1] = moment % 250 * 4000
            head[:, 2:] = len(first)
            frames = np.tile(first, (len(flow), 1))
            frames[:, 27:30] = (flow[:, None] >> np.array([16, 8, 0])) & 255
            frames[:, 42:] = data.integers(0, 256, (len(flow), 72))
            file.write(np.hstack([head.view(np.uint8), frames]).tobytes())
    return path


def dialogue(
    kind: str, sport: int = 40000, dport: int = 9999, packets: int = 60, seed: int = 1
) -> list[tuple[float, bytes]]:
    """TCP, UDP and ICMP both ways in an encapsulation, sizes mixed; IP packets."""
    rng = random.Random(seed)
    six = kind.startswith("ipv6")
    extensions = {"ipv6 extensions": (0, 43, 44, 60), "ipv6 mobility": (135,)}
    ends = (CLIENT6, SERVER6) if six else (CLIENT, SERVER)
    frames = []
    for number in range(packets):
        forth = number < 2 or rng.random() < 0.6
        (src, here), (dst, there) = (
            zip(ends, (sport, dport), strict=True)
            if forth
            else zip(ends[::-1], (dport, sport), strict=True)
        )
        size = rng.choice((0, 1, 17, 63, 64, 65, 500, 1400))
        body = noise(size, number) if number % 3 else text(size)
        protocol = rng.choice((6, 6, 17, 58 if six else 1, 50))
        carried = {
            6: lambda h=here, t=there, b=body, n=number: tcp(
                h, t, b, SYN if n < 2 else ACK | PSH, options=4
            ),
            17: lambda h=here, t=there, b=body: udp(h, t, b),
            50: lambda b=body: b,
        }.get(protocol, lambda b=body, f=forth: echo(b, reply=not f, six=six))()
        if six:
            packet = ip6(src, dst, protocol, carried, extensions.get(kind, ()))
        else:
            options = 8 if kind == "options" else 0
            packet = ip4(src, dst, protocol, carried, options=options)
        frames.append((START + number * 0.05, packet))
    return frames


def encapsulations() -> dict[str, tuple[int, list[tuple[float, bytes]]]]:
    """Link type and frames of the same talk in every way that captures have it."""
    outer = ("192.0.2.1", "192.0.2.2")
    plain = dialogue("plain")

    def mapped(wrap, kind="plain"):
        return [(time, wrap(packet)) for time, packet in dialogue(kind)]

    whole = udp(40001, 9998, noise(4000, 5))
    parts = [
        ip4(CLIENT, SERVER, 17, whole[at : at + 1480], flags=0x2000 * more | at // 8)
        for at, more in ((0, 1), (1480, 1), (2960, 0))
    ]
    quote = struct.pack(">BBHI", 3, 3, 0, 0) + ip4(CLIENT, SERVER, 17, udp(1, 2, b"x"))
    return {
        "ethernet": (ETHERNET, mapped(ethernet)),
        "no padding": (ETHERNET, mapped(lambda p: ethernet(p, pad=False))),
        "options": (ETHERNET, mapped(ethernet, "options")),
        "ipv6": (ETHERNET, mapped(ethernet, "ipv6")),
        "ipv6 extensions": (ETHERNET, mapped(ethernet, "ipv6 extensions")),
        "ipv6 mobility": (ETHERNET, mapped(ethernet, "ipv6 mobility")),
        "vlan": (ETHERNET, mapped(lambda p: ethernet(p, vlan=42))),
        "sll": (LINUX_SLL, mapped(sll)),
        "raw": (RAW, plain),
        "gre": (ETHERNET, mapped(lambda p: ethernet(gre(*outer, p)))),
        "vxlan": (ETHERNET, mapped(lambda p: ethernet(vxlan(*outer, p)))),
        "gtp": (ETHERNET, mapped(lambda p: ethernet(gtp(*outer, p)))),
        "fragments": (
            ETHERNET,
            [(START + n, ethernet(p)) for n, p in enumerate(parts)],
        ),
        "errors": (
            ETHERNET,
            [(START + n, ethernet(ip4(SERVER, CLIENT, 1, quote))) for n in range(9)],
        ),
        "uploads": (
            ETHERNET,
            sorted(
                tcp_upload(noise(300_000), step=0.02, answer=text(9000))
                + tcp_upload(text(90_000), sport=40002, dport=80, step=0.05)
                + udp_flow([noise(100, n) for n in range(300)], step=0.03)
            ),
        ),
        "time goes back": (ETHERNET, mapped(ethernet)[::-1]),
        "many": (ETHERNET, traffic(2500, 9000)),
        "nothing": (ETHERNET, []),
        "no ip": (ETHERNET, [(START, b"\xff" * 60)] * 3),
    }
