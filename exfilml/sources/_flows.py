"""Flows that have ended, as columns, and the evidence of their payload.

Row i of each column is one flow over all its parts; the first of its two directions is
that of the source of its first part. Both ways of metering hand these on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml import payload

if TYPE_CHECKING:
    from numpy.typing import NDArray

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58

_EVIDENCE: Final = payload.PayloadEvidence._fields
_GRAMMAR: Final = _EVIDENCE.index("protocol")


class Ended(NamedTuple):
    """What was counted of flows, and what the packet engine says of them.

    Attributes
    ----------
    first_ms, last_ms
        Times of the first and the last packet.
    protocol
        IANA numbers.
    ips, ports, bytes, packets, flags, payload
        Of both directions, shape ``(n, 2)``; `payload` is bytes by the headers.
    first_flags
        TCP flags of the first packet.
    speaker
        Whose payload came first, -1 for nobody's.
    app, confidence, server_name, fingerprint, user_agent, content_type
        In the engine's words; empty text where it has none.
    """

    first_ms: NDArray[np.uint64]
    last_ms: NDArray[np.uint64]
    protocol: NDArray[np.int64]
    ips: NDArray[np.object_]
    ports: NDArray[np.int64]
    bytes: NDArray[np.int64]
    packets: NDArray[np.int64]
    flags: NDArray[np.int64]
    payload: NDArray[np.int64]
    first_flags: NDArray[np.int64]
    speaker: NDArray[np.int64]
    app: NDArray[np.object_]
    confidence: NDArray[np.int64]
    server_name: NDArray[np.object_]
    fingerprint: NDArray[np.object_]
    user_agent: NDArray[np.object_]
    content_type: NDArray[np.object_]


class Judged(NamedTuple):
    """What their payload says.

    Attributes
    ----------
    evidence
        Of both directions of each flow, the first at ``2 * i``: a column for each field
        of `PayloadEvidence`.
    echoed
        Share of echo requests that come back as they were; None where there are none.
    transfers
        What FTP control connections say of their data connections, by flow.
    """

    evidence: tuple[NDArray[Any], ...]
    echoed: NDArray[np.object_]
    transfers: dict[int, tuple[payload.Transfer, ...]]


def judge(
    data: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    kept: NDArray[np.int64],
    payload_bytes: NDArray[np.int64],
    protocol: NDArray[np.int64],
) -> Judged:
    """Judge the payload of flows.

    Parameters
    ----------
    data
        What was sampled: of each direction the head, then the slices, one direction
        behind the other.
    sizes
        Sizes of the packets of the heads, likewise.
    kept
        Bytes of head, bytes of slices, number of packets, shape ``(2 * n, 3)``.
    payload_bytes
        Shape ``(2 * n,)``.
    protocol
        Shape ``(n,)``.
    """
    sides = np.zeros((len(kept), payload.SIDE_COLUMNS), np.int64)
    head, slices, packets = kept.T
    # What has shown no payload is nothing of any protocol.
    of = np.where(payload_bytes > 0, np.repeat(protocol, 2), TCP)
    stream = np.maximum(payload_bytes, head + slices)
    ends, stops = np.cumsum(head + slices), np.cumsum(packets)
    sides[:, :7] = np.stack(
        [ends - head - slices, head, slices, stops - packets, packets, stream, of], 1
    )
    samples = payload.Samples(data, sizes, sides, payload.SLICE_BYTES)
    evidence = payload.judge_many(samples)

    def shown(side: int) -> tuple[bytes, tuple[int, ...]]:
        at, size, _, first, count = sides[side, :5].tolist()
        packet_sizes = sizes[first : first + count].tolist()
        return data[at : at + size].tobytes(), tuple(packet_sizes)

    echoed = np.full(len(protocol), None, object)
    is_echo = (protocol == ICMP) | (protocol == ICMPV6)
    for i in np.flatnonzero(is_echo).tolist():
        echoed[i] = payload.echoed(*shown(2 * i), *shown(2 * i + 1))
    is_ftp = (evidence[_GRAMMAR] == "ftp").reshape(-1, 2).any(1)
    transfers = {
        i: payload.ftp_transfers(shown(2 * i)[0], shown(2 * i + 1)[0])
        for i in np.flatnonzero(is_ftp & ~is_echo).tolist()
    }
    return Judged(evidence, echoed, transfers)
