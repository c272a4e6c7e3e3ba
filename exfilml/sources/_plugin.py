"""Payload samples per direction, kept while NFStream meters a flow.

What is sampled
---------------
Payload is what follows the transport header (8 bytes for UDP, ICMP and ICMPv6; the
IP header, extension headers included, for protocols without ports). It is found
from the header lengths: short Ethernet frames are padded at the end, and a capture
with a snapshot length holds less than the header says. ``payload`` counts what the
headers say, samples hold what was captured.

For each direction the first `HEAD_BYTES` captured payload bytes are kept, in order
of arrival, with the sizes of the first `MAX_PACKETS` packets they came in. Every later packet with at least `SLICE_BYTES` of payload is a candidate,
and the first `SLICE_BYTES` of each ``stride``-th candidate are kept, if they were
captured; `MAX_SLICES` fill the memory, then every second one is dropped and the
stride doubles. Slices therefore spread evenly over the stream, 17 to 32 of a long
one, and the rule depends on nothing but the packets seen. A slice starts where a
packet does, so that headers which repeat there can be told from content. Retransmitted TCP segments are
sampled and counted as often as they were seen: telling them apart needs state that
grows with the window, and no verdict rests on it. Packets that ICMP errors quote are
somebody else's data: counted, not sampled.

It is the reference for the compiled loop (`_engine_loop`), which does the same, and
takes over where that cannot be used.

How it is fast
--------------
With a plugin NFStream copies about thirty fields of each flow out of C for every
packet, and the packet too. `PayloadSampler.on_init` therefore turns the flow into a
`SampledFlow`, whose ``update`` reads the few fields it needs and copies bytes only
while something is to be kept; the flow's fields are copied once, when it expires.

Parts
-----
A flow that outlives the active timeout is cut by NFStream and goes on as a new one,
with source and destination as the next packet has them. The sampler carries its
state over to it, so that parts come out as one flow, in the direction of the first
part, and its samples are those of the uncut stream. At most one state waits, because
the meter opens the next part at once.

One file because what is sampled, the flow that samples and the carrying over share
one state, and are understood together or not at all.
"""

from __future__ import annotations

from typing import Any, Final

from nfstream import NFPlugin
from nfstream.flow import NFlow

from exfilml import payload
from exfilml.sources._flows import ICMP, ICMPV6, TCP, UDP

HEAD_BYTES: Final = payload.KEPT_HEAD
SLICE_BYTES: Final = payload.SLICE_BYTES
MAX_SLICES: Final = payload.MAX_SLICES
# A chat of single bytes has no messages worth telling apart.
MAX_PACKETS: Final = 256

_SIZED: Final = frozenset({TCP, UDP, ICMP, ICMPV6})
# Types of ICMP and ICMPv6 that quote the packet they complain about (RFC 792, RFC 4443).
_ERRORS: Final = {ICMP: frozenset({3, 4, 5, 11, 12}), ICMPV6: frozenset({1, 2, 3, 4})}
# What messages of both do: echo, timestamp, information and mask (RFC 792, RFC 950),
# echo and node information (RFC 4443, RFC 4620).
ASKED: Final = 1
ANSWERED: Final = 2
_DOES: Final = {
    ICMP: {
        **dict.fromkeys((8, 13, 15, 17), ASKED),
        **dict.fromkeys((0, 14, 16, 18), ANSWERED),
    },
    ICMPV6: {128: ASKED, 139: ASKED, 129: ANSWERED, 140: ANSWERED},
}
_EXTENSIONS: Final = frozenset({0, 43, 44, 60, 135})
_FRAGMENT: Final = 44
# NFStream's names for its two timeouts, in `NFlow.expiration_id`.
_ACTIVE: Final = 1


class Side:
    """What one direction of a flow has shown so far.

    Attributes
    ----------
    flags
        OR of the TCP flags; of ICMP messages, of `ASKED` and `ANSWERED`.
    payload
        Payload bytes according to the headers.
    head
        First captured payload bytes.
    packets
        Sizes of the packets that the head is made of.
    slices
        Kept slices, one behind the other.
    """

    __slots__ = (
        "candidates",
        "flags",
        "full",
        "head",
        "mask",
        "packets",
        "payload",
        "slices",
    )

    def __init__(self) -> None:
        self.flags = 0
        self.payload = 0
        self.head = bytearray()
        self.packets: list[int] = []
        self.slices = bytearray()
        self.full = False
        self.candidates = 0
        self.mask = 0

    def is_due(self, size: int) -> bool:
        """Count a packet behind the head; say whether its slice is to be kept."""
        if size < SLICE_BYTES:
            return False
        number = self.candidates
        self.candidates = number + 1
        # The stride is a power of two: due are the multiples, where no bit is left.
        return not number & self.mask

    def keep(self, data: bytes, size: int) -> None:
        """Keep head bytes, or the slice of a candidate that is due."""
        if not self.full:
            data = data[: HEAD_BYTES - len(self.head)]
            self.head += data
            if len(self.packets) < MAX_PACKETS:
                self.packets.append(len(data))
            self.full = len(self.head) == HEAD_BYTES
        elif len(data) >= SLICE_BYTES <= size:
            if len(self.slices) == MAX_SLICES * SLICE_BYTES:
                self._thin_out()
            self.slices += data[:SLICE_BYTES]

    def _thin_out(self) -> None:
        pairs = range(0, MAX_SLICES * SLICE_BYTES, 2 * SLICE_BYTES)
        self.slices = bytearray().join(
            self.slices[at : at + SLICE_BYTES] for at in pairs
        )
        self.mask = 2 * self.mask + 1

    def keep_packet(self, packet: bytes) -> None:
        """Take a packet whose payload sizes NFStream does not give."""
        start, _ = transport(packet)
        total = (
            int.from_bytes(packet[2:4])
            if packet[0] >> 4 == 4
            else 40 + int.from_bytes(packet[4:6])
        )
        size = max(0, total - start)
        self.payload += size
        if size and (not self.full or self.is_due(size)):
            self.keep(packet[start : start + size], size)


class FlowState:
    """One flow over all its parts, as the table will have it.

    ``sides[0]``, ``bytes[0]`` and ``packets[0]`` belong to ``ends[:2]``, the source of
    the first part. `sides_here` are the same two sides, in the order of the part that
    is being metered.
    """

    __slots__ = (
        "bytes",
        "ends",
        "facts",
        "first_flags",
        "first_ms",
        "key",
        "last_ms",
        "packets",
        "protocol",
        "sides",
        "sides_here",
        "speaker",
        "v4",
    )

    def __init__(self, flow: Any) -> None:
        self.ends = (flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port)
        self.key = _key(flow)
        self.protocol: int = flow.protocol
        self.v4: bool = flow.ip_version == 4
        self.sides = [Side(), Side()]
        self.sides_here = self.sides
        self.first_ms: int = flow.bidirectional_first_seen_ms
        self.last_ms: int = self.first_ms
        self.first_flags = 0
        self.bytes = [0, 0]
        self.packets = [0, 0]
        # Which side's payload came first.
        self.speaker: int | None = None
        self.facts: tuple[str, int, str, str, str, str] | None = None

    def turn(self, flow: Any) -> None:
        """Go on with a part that may have its ends the other way round."""
        here = (flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port)
        same = here == self.ends
        self.sides_here = self.sides if same else self.sides[::-1]

    def speaks(self, side: Side) -> None:
        """Note that a side has sent payload, where none was before."""
        if self.speaker is None:
            self.speaker = int(side is self.sides[1])

    def add_part(self, flow: Any) -> None:
        """Add the counters of a part that has expired."""
        forth = int(self.sides_here is not self.sides)
        self.bytes[forth] += flow.src2dst_bytes
        self.bytes[1 - forth] += flow.dst2src_bytes
        self.packets[forth] += flow.src2dst_packets
        self.packets[1 - forth] += flow.dst2src_packets
        self.last_ms = flow.bidirectional_last_seen_ms
        # The first part has seen the handshake; a later one is heard only where the
        # first could not tell.
        if self.facts is None or self.facts[0] == "Unknown":
            self.facts = (
                flow.application_name,
                flow.application_confidence,
                flow.requested_server_name,
                flow.client_fingerprint,
                flow.user_agent,
                flow.content_type,
            )


def _key(flow: Any) -> tuple[Any, ...]:
    ends = ((flow.src_ip, flow.src_port), (flow.dst_ip, flow.dst_port))
    tunnel = getattr(flow, "tunnel_id", 0)
    return (*sorted(ends), flow.protocol, flow.vlan_id, tunnel)


class SampledFlow(NFlow):  # type: ignore[misc]
    """A flow that copies nothing per packet but the payload bytes to be kept.

    ``udps`` holds a `FlowState`. No slots of its own: only then can NFStream's
    object change its class.
    """

    __slots__ = ()

    def update(  # noqa: C901 - one packet, read once
        self,
        packet: Any,
        idle_timeout: int,
        active_timeout: int,
        ffi: Any,
        lib: Any,
        udps: Any,
        sync: bool,
        accounting_mode: int,
        n_dissections: int,
        statistics: bool,
        splt: int,
        dissector: Any,
    ) -> NFlow | None:
        """Take a packet in; return the flow if it ended before this packet."""
        ended = lib.meter_update_flow(
            self._C,
            packet,
            idle_timeout,
            active_timeout,
            accounting_mode,
            statistics,
            splt,
            n_dissections,
            dissector,
            # Not in step with Python: names are asked for once, at the end.
            0,
        )
        if ended:
            # A slot of the base class, which has no types.
            self.expiration_id = ended - 1  # type: ignore[misc]
            return self.expire(
                udps, sync, n_dissections, statistics, splt, ffi, lib, dissector
            )
        state = self.udps
        side = state.sides_here[packet.direction]
        size = packet.payload_size
        content = packet.ip_content
        protocol = state.protocol
        if protocol not in _SIZED:
            side.keep_packet(bytes(ffi.buffer(content, packet.ip_content_len)))
            if side.payload:
                state.speaks(side)
            return None
        if state.v4:
            start = (content[0] & 15) << 2
        else:
            start, _ = transport(ffi.buffer(content, packet.ip_content_len))
        if protocol == TCP and start + 13 < packet.ip_content_len:
            side.flags |= content[start + 13]
        elif protocol in _DOES and start < packet.ip_content_len:
            side.flags |= _DOES[protocol].get(content[start], 0)
        if not size:
            return None
        if not side.payload:
            state.speaks(side)
        side.payload += size
        if side.full and not side.is_due(size):
            return None
        l4 = start
        start += packet.transport_size - size
        data = ffi.buffer(content, packet.ip_content_len)[start : start + size]
        if _is_error(protocol, content, l4, data):
            return None
        side.keep(data, size)
        return None


def transport(packet: Any) -> tuple[int, int]:
    """Find where the transport header starts, and its protocol, in an IP packet.

    IPv6 extension headers are stepped over: hop-by-hop (0), routing (43), fragment
    (44), destination options (60) and mobility (135).
    """
    data = bytes(packet[:1])
    if data[0] >> 4 == 4:
        return (data[0] & 15) << 2, bytes(packet[9:10])[0]
    if len(packet) < 40:
        return len(packet), 0
    kind, at = bytes(packet[6:7])[0], 40
    while kind in _EXTENSIONS and at + 8 <= len(packet):
        following, length = bytes(packet[at : at + 2])
        at += 8 if kind == _FRAGMENT else 8 * length + 8
        kind = following
    return at, kind


def _is_error(protocol: int, packet: Any, start: int, data: bytes) -> bool:
    """Whether an ICMP message is an error that quotes a packet.

    `start` is where the header is in the packet, which may be cut before it: only
    where it was captured is there any `data`.
    """
    if protocol not in _ERRORS or not data:
        return False
    return packet[start] in _ERRORS[protocol] and payload.is_quote(data)


class PayloadSampler(NFPlugin):  # type: ignore[misc]
    """The NFStream plugin; hand one to each meter.

    After a flow has expired its ``udps`` is a `FlowState`, or None for a part whose
    flow goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: FlowState | None = None
        self.unclaimed: list[FlowState] = []

    def on_init(self, packet: Any, flow: Any) -> None:  # noqa: C901 - one packet, read once
        """Start to sample a flow, or go on with the one that was just cut."""
        state = self.waiting
        self.waiting = None
        if state is not None and state.key != _key(flow):
            # The meter failed to open the next part (out of memory).
            self.unclaimed.append(state)
            state = None
        if state is None:
            state = FlowState(flow)
        else:
            state.turn(flow)
        flow.udps = state
        flow.__class__ = SampledFlow
        data = packet.ip_packet
        if not data:
            return
        side = state.sides_here[packet.direction]
        if state.protocol not in _SIZED:
            side.keep_packet(data)
            if side.payload:
                state.speaks(side)
            return
        start, _ = transport(data)
        if state.protocol == TCP:
            flags = data[start + 13] if start + 13 < len(data) else 0
            side.flags |= flags
            if state.facts is None:
                state.first_flags = flags
        elif state.protocol in _DOES and start < len(data):
            side.flags |= _DOES[state.protocol].get(data[start], 0)
        size = packet.payload_size
        if size:
            state.speaks(side)
            side.payload += size
            if not side.full or side.is_due(size):
                l4 = start
                start += packet.transport_size - size
                kept = data[start : start + size]
                if not _is_error(state.protocol, data, l4, kept):
                    side.keep(kept, size)

    def on_expire(self, flow: Any) -> None:
        """Add the part, and keep the state waiting if the flow goes on."""
        state = flow.udps
        state.add_part(flow)
        if flow.expiration_id == _ACTIVE:
            self.waiting = state
            flow.udps = None
