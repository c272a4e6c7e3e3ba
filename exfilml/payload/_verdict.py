"""From facts and statistics to one verdict; every rule with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.payload import _encoding, _facts, _grammar, _http, _kernel
from exfilml.payload._evidence import PayloadEvidence
from exfilml.payload._kernel import OPAQUE_P

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN_BELOW: Final = 24
"""Fewer bytes say too little for any verdict from statistics."""

OPAQUE_BELOW: Final = 64
"""Fewer bytes cannot be called opaque: below 64 B the test lets typical binary
headers pass (a 48-byte NTP packet), from 64 B on it rejects text at p < 1e-8
(bit 7 is never set) and records with zero bytes alike."""

PACKED_BELOW: Final = 256
"""Fewer bytes cannot be told compressed from structured by their entropy."""

TEXT_SHARE: Final = 0.9
"""Printable share of text; random bytes show 0.38 and reach 0.9 never."""

PACKED_SHARE: Final = 0.92
"""Entropy as a share of that of random bytes, same length: measured on fragments
of deflate, xz, zstd, jpeg and mp4 it is above, on machine code, certificates and
database pages below."""

LATER_SHARE: Final = 0.5
"""Share of the stream beyond the head from which its slices decide alone: a
dialogue or a handshake in the clear, then ciphertext."""

_SIGNED: Final = frozenset({"dns", "ntp", "snmp", "dhcp", "radius", "netbios"})
_DEPTH: Final = 2
_EMPTY: Final[NDArray[np.uint8]] = np.zeros(0, np.uint8)
_UPGRADES: Final = frozenset(
    {
        "smtp",
        "ftp",
        "imap",
        "pop3",
        "xmpp",
        "http",
        "nntp",
        "mysql",
        "postgresql",
        "ldap",
    }
)


def assess(
    head: bytes,
    body: bytes,
    slice_bytes: int,
    stream_bytes: int,
    *,
    datagram: bool,
    depth: int = 0,
) -> PayloadEvidence:
    """Judge one direction; the doors of the room check and document the arguments."""
    handshake = _facts.find_handshake(head, datagram=datagram)
    magic = _facts.find_magic(head)
    protocol = None if handshake else _grammar.find_protocol(head, datagram=datagram)
    content = head
    start, records = -1, 0
    if handshake == "tls":
        start, records = 0, 3
    elif handshake == "dtls":
        records = 254 if head[1] == 254 else 0
        start = 0 if records else -1
    elif handshake == "rdp" or protocol in _UPGRADES:
        upgrade = _facts.find_upgrade(head)
        if upgrade >= 0:
            start, records, handshake = upgrade, 3, "tls"
    if protocol == "http" and not records:
        bodies = _http.bodies(head)
        if bodies is not None:
            start, content = len(head) - len(bodies), bodies
            magic = _facts.find_magic(bodies)
    elif magic == "openssl-salted":
        start = 16

    out = np.empty(_kernel.N_RESULTS, np.float64)
    view = np.frombuffer(head, np.uint8) if head else _EMPTY
    rest = np.frombuffer(body, np.uint8) if body else _EMPTY
    _kernel.survey(view, rest, slice_bytes, start, records, out)
    found = out.tolist()
    if content is not head and not head.endswith(content):
        # Bodies that are not one piece of the stream (chunks, several messages)
        # are measured apart from it.
        joined = np.frombuffer(content, np.uint8) if content else _EMPTY
        _kernel.survey(joined, rest, slice_bytes, 0, 0, out)
        found[_kernel.BODY_ENTROPY :] = out.tolist()[_kernel.BODY_ENTROPY :]

    verdict, concealed, encoding = _decide(
        found, content, body, magic, protocol, handshake,
        1.0 - len(head) / stream_bytes if stream_bytes else 0.0, depth,
    )  # fmt: skip
    return PayloadEvidence(
        stream_bytes=stream_bytes,
        n_bytes=len(head) + len(body),
        entropy=found[_kernel.ENTROPY],
        p_random=found[_kernel.P_RANDOM],
        head_entropy=found[_kernel.HEAD_ENTROPY],
        head_p_random=found[_kernel.HEAD_P],
        body_entropy=found[_kernel.BODY_ENTROPY],
        body_p_random=found[_kernel.BODY_P],
        set_bits=found[_kernel.SET_BITS],
        printable=found[_kernel.PRINTABLE],
        verdict=verdict,
        concealed=concealed,
        handshake=handshake,
        magic=magic,
        encoding=encoding,
        protocol=protocol,
    )


def _decide(  # noqa: C901, PLR0911
    found: list[float],
    content: bytes,
    body: bytes,
    magic: str | None,
    protocol: str | None,
    handshake: str | None,
    later_share: float,
    depth: int,
) -> tuple[str, bool, str | None]:
    """Verdict, concealed, encoding.

    In this order, because a fact is worth more than a statistic:

    1. A container of ciphertext (``Salted__``, age, encrypted zip, ``gpg -c``)
       is opaque by definition; a compressed format is compressed.
    2. Under ``UNKNOWN_BELOW`` bytes of content: what the grammar says, else
       unknown.
    3. Randomness not rejected: opaque from ``OPAQUE_BELOW`` bytes on, where the
       test has the power to reject text and records; also when only framing, or a
       preamble of less than half, had to be set aside, or when the later slices
       pass and stand for more than half of the stream.
    4. Printable: encoded if an encoding is recognised, else text.
    5. Rejected, yet nearly the entropy of random bytes: compressed.
    6. The rest is structured, or text in UTF-8.
    """
    if _facts.is_sealed(magic):
        return "opaque", True, None
    if _facts.is_packed(magic):
        return "compressed", False, None
    size = int(found[_kernel.N_CONTENT])
    signed = magic == "der" or protocol in _SIGNED
    plain = protocol is not None or handshake is not None
    if size < UNKNOWN_BELOW:
        if protocol is None:
            return ("structured" if handshake else "unknown"), False, None
        return (
            ("text" if found[_kernel.PRINTABLE] >= TEXT_SHARE else "structured"),
            False,
            None,
        )
    printable = found[_kernel.C_PRINTABLE] / size
    if printable >= TEXT_SHARE:
        return _read_text(content + body, found, size, depth)
    whole = found[_kernel.C_P] > OPAQUE_P
    # Signatures and keys inside short binary messages are random, and no payload.
    if found[_kernel.OPAQUE_N] >= OPAQUE_BELOW and (whole or not signed):
        return ("compressed", False, None) if magic else ("opaque", True, None)
    if (
        later_share >= LATER_SHARE
        and found[_kernel.LATER_N] >= PACKED_BELOW
        and found[_kernel.LATER_P] > OPAQUE_P
    ):
        return ("compressed", False, None) if magic else ("opaque", True, None)
    if found[_kernel.C_P] > OPAQUE_P:
        return ("structured" if plain else "unknown"), False, None
    if signed:
        return "structured", False, None
    # Counters and ramps have even byte frequencies, but not even differences.
    entropy = min(found[_kernel.C_ENTROPY], found[_kernel.C_DELTA])
    share = entropy / found[_kernel.C_EXPECTED]
    if size >= PACKED_BELOW and share >= PACKED_SHARE:
        return "compressed", False, None
    if found[_kernel.C_HIGH] and _is_utf8(content):
        return "text", False, None
    run = _encoding.find_run(content + body) if printable > 0.5 else None
    if run is not None:
        return _judge_decoded(run, depth)
    return "structured", False, None


def _read_text(
    text: bytes, found: list[float], size: int, depth: int
) -> tuple[str, bool, str | None]:
    """Text, or what it encodes."""
    shares = {
        "base64": found[_kernel.C_BASE64] / size,
        "hex": found[_kernel.C_HEX] / size,
        "base32": found[_kernel.C_BASE32] / size,
        "percent": found[_kernel.C_PERCENT] / size,
        "space": found[_kernel.C_SPACE] / size,
    }
    decoded = _encoding.recognise(text, shares)
    return ("text", False, None) if decoded is None else _judge_decoded(decoded, depth)


def _judge_decoded(
    decoded: tuple[str, bytes], depth: int
) -> tuple[str, bool, str | None]:
    """Judge what was encoded; nested encodings are followed `_DEPTH` times."""
    encoding, data = decoded
    if depth >= _DEPTH:
        return "encoded", False, encoding
    inner = assess(data, b"", 0, len(data), datagram=False, depth=depth + 1)
    return "encoded", inner.concealed, encoding


def _is_utf8(data: bytes) -> bool:
    """Whether the first bytes are UTF-8 text that is not ASCII."""
    sample = data[:512]
    try:
        text = sample.decode()
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            return False
        text = sample[: error.start].decode()
    controls = sum(map(text.count, map(chr, (*range(9), *range(14, 32)))))
    return controls * 50 <= len(text)
