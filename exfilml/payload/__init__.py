"""Payload evidence: bytes in, what they say out, for the number of bytes seen.

The room knows no flows. Its doors are `judge` for a buffer, `judge_stream` for one
direction of a stream of which the head and some later slices were kept, and
`judge_many` for many of these at once. All run the same compiled code, the last one in
one call for all directions.

What can and cannot be told
---------------------------
Ciphertext, and nothing else by design, passes a test of uniform random bytes at
any length. Text and binary records fail it from 64 bytes on. Compressed bytes
without their magic number are close to uniform: a fragment of 512 B of deflate
passes as often as not, xz passes at any length. What passes is therefore held
against odds that were trained on fragments of many formats, and called
``compressed`` only where these speak for it, six to one: to miss ciphertext is worse.
``verdict_probability`` tells the rest. ``opaque`` means "cannot be told from random
bytes for this length", not "encrypted".

A repeating key (XOR) is found only over text: over compressed data it changes nothing
that could be seen.

Carriers are opened before their content is judged: bodies and parts of HTTP, messages
of WebSocket, attachments of mail, the labels of DNS names, the data of ICMP echo.

Sources: Wu et al., "How the Great Firewall of China Detects and Blocks Fully
Encrypted Traffic", USENIX Security 2023 (set bits, printable share, opaque from
the first byte); NIST SP 800-22 (monobit); De Gaspari et al., "EnCoD", arXiv
2103.17059 (what is achievable for encrypted against compressed fragments); W. F.
Friedman, "The Index of Coincidence" (1922).
"""

from __future__ import annotations

from collections.abc import Sequence

from exfilml.payload._applications import INSPECTED, agrees, is_verified
from exfilml.payload._declared import contradicts
from exfilml.payload._evidence import PayloadEvidence
from exfilml.payload._facts import find_magic
from exfilml.payload._ftp import Transfer
from exfilml.payload._ftp import transfers as ftp_transfers
from exfilml.payload._icmp import echoed
from exfilml.payload._icmp_forms import is_quote
from exfilml.payload._kernel import (
    HEAD_BYTES,
    OPAQUE_BELOW,
    OPAQUE_P,
    SIDE_COLUMNS,
    UNKNOWN_BELOW,
)
from exfilml.payload._many import Samples, judge_many, judge_one
from exfilml.payload._sampling import KEPT_HEAD, MAX_SLICES, SLICE_BYTES, kept_slices
from exfilml.payload._screen import p_uniform
from exfilml.payload._verdict import TCP, VERDICTS
from exfilml.payload._xor import find as find_xor

__all__ = [
    "HEAD_BYTES",
    "INSPECTED",
    "KEPT_HEAD",
    "MAX_SLICES",
    "OPAQUE_BELOW",
    "OPAQUE_P",
    "SIDE_COLUMNS",
    "SLICE_BYTES",
    "UNKNOWN_BELOW",
    "VERDICTS",
    "PayloadEvidence",
    "Samples",
    "Transfer",
    "agrees",
    "contradicts",
    "echoed",
    "find_magic",
    "find_xor",
    "ftp_transfers",
    "is_quote",
    "is_verified",
    "judge",
    "judge_many",
    "judge_stream",
    "kept_slices",
    "p_uniform",
    "warm_up",
]


def judge(data: bytes) -> PayloadEvidence:
    """Judge one buffer, as the whole of a stream.

    Parameters
    ----------
    data
        Any bytes, also none.

    Returns
    -------
    PayloadEvidence
        Equal to ``judge_stream(data)``.

    Raises
    ------
    TypeError
        If `data` is not bytes-like.
    """
    return judge_stream(data)


def judge_stream(
    head: bytes,
    body: bytes = b"",
    *,
    slice_bytes: int = SLICE_BYTES,
    stream_bytes: int | None = None,
    protocol: int = TCP,
    packets: Sequence[int] = (),
) -> PayloadEvidence:
    """Judge one direction of a stream from its head and slices of later packets.

    Parameters
    ----------
    head
        First payload bytes of the direction, in order.
    body
        Slices of later packets, `slice_bytes` each, one behind the other. Best
        taken from the start of the packets: headers that repeat there are found
        and set aside.
    slice_bytes
        Bytes per slice of `body`.
    stream_bytes
        Payload bytes the direction had; None for what was seen.
    protocol
        IANA protocol number: the facts of UDP differ from those of TCP (DNS, QUIC,
        DTLS, WireGuard, NTP ...); ICMP carries echo data, and packets that its errors
        quote are to be left out (`is_quote`).
    packets
        Payload bytes of the packets that `head` is made of, in order; the last may be
        cut. Messages of DNS and echo data are told apart by them; empty if unknown.

    Returns
    -------
    PayloadEvidence
        Defined for any bytes, also for none.

    Raises
    ------
    TypeError
        If `head` or `body` is not bytes-like.

    Notes
    -----
    Slices may overlap the end of the stream or be short; a count of stream bytes
    below what was seen is taken as what was seen.
    """
    head = _bytes_of(head)
    body = _bytes_of(body)
    seen = len(head) + len(body)
    total = seen if stream_bytes is None else max(seen, stream_bytes)
    return judge_one(head, body, max(0, slice_bytes), total, protocol, tuple(packets))


def _bytes_of(given: object) -> bytes:
    """Return bytes of what has them; ``bytes(5)`` would be five NULs."""
    if isinstance(given, bytes):
        return given
    try:
        return memoryview(given).tobytes()  # type: ignore[arg-type]
    except TypeError:
        hint = ": encode the text" if isinstance(given, str) else ""
        raise TypeError(
            f"payload is {type(given).__name__}, expected bytes-like{hint}"
        ) from None


def warm_up() -> None:
    """Compile, or load from the cache, everything the doors call.

    For worker processes and timings; the first call does it otherwise.
    """
    judge_stream(bytes(range(256)) * 4, bytes(64))
    judge(b'{"text": "' + b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU2Nzg5" * 8)
