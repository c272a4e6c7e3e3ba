"""Carriers: what both sides of a flow send, byte by byte, around real ciphertext."""

from __future__ import annotations

import hashlib
from base64 import b32encode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from exfilml.inject._wire import (
    SEGMENT,
    SILENT,
    Read,
    Side,
    Wire,
    after,
    encrypted,
    fixed,
    framed,
)
from exfilml.places import EPHEMERAL_FROM

DATAGRAM: Final = 1200
# What a query carries: 160 letters of base32 in three labels.
QUERY_DATA: Final = 100
# TLS: RFC 8446, section 5.1; one byte of content type and a tag of 16 are added.
RECORD_DATA: Final = 16384
RECORD_ADDED: Final = 17
TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMP6: Final = 58


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way to carry bytes out.

    Attributes
    ----------
    name, title
        Key in `CARRIERS`, and how a sentence names it.
    protocol
        IANA number.
    ports
        Responder's ports; one is drawn for each upload.
    app
        What the packet engine names it; `None` for unknown.
    inspected
        Whether the engine names it from the payload, not from the port.
    wire
        Ciphertext, its size and a host name to what both sides send.
    named
        Whether a host name is visible.
    unused
        Whether only ports count that neither IANA nor the site knows.
    """

    name: str
    title: str
    protocol: int
    ports: range
    app: str | None
    inspected: bool
    wire: Callable[[Read, int, str], Wire]
    named: bool = False
    unused: bool = False


def _raw_tcp(data: Read, size: int, _name: str) -> Wire:
    return Wire(Side(size, SEGMENT, data), SILENT)


def _raw_udp(data: Read, size: int, _name: str) -> Wire:
    return Wire(Side(size, DATAGRAM, data), Side(0, DATAGRAM, fixed(b"")))


def _echo(data: Read, size: int, _name: str) -> Wire:
    """ICMP echo (RFC 792): the reply repeats the payload."""
    side = Side(size, DATAGRAM, data)
    return Wire(side, side)


_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 04 Mar 2024 09:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 15\r\n"
    b'Connection: keep-alive\r\n\r\n{"status":"ok"}'
)
USER_AGENT: Final = "curl/8.5.0"


def _posted(body: Read, size: int, name: str, kind: str) -> Wire:
    header = (
        f"POST /upload HTTP/1.1\r\nHost: {name}\r\nUser-Agent: {USER_AGENT}\r\n"
        f"Accept: */*\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()
    return Wire(
        Side(len(header) + size, SEGMENT, after(header, body)),
        Side(len(_ANSWER), SEGMENT, fixed(_ANSWER)),
    )


def _post(data: Read, size: int, name: str) -> Wire:
    return _posted(data, size, name, "application/octet-stream")


def _post_base64(data: Read, size: int, name: str) -> Wire:
    encoded = 4 * -(-size // 3)

    def body(at: int, count: int) -> bytes:
        first, last = at // 4, -(-min(at + count, encoded) // 4)
        text = b64encode(data(3 * first, 3 * (last - first)))
        return text[at % 4 :][:count]

    return _posted(body, encoded, name, "text/plain")


def _queries(data: Read, size: int, name: str) -> Wire:
    """DNS queries (RFC 1035, section 4.1) with data in base32 labels; RCODE 3 back."""
    domain = name.encode()

    def message(number: int, flags: bytes) -> bytes:
        text = b32encode(data(QUERY_DATA * number, QUERY_DATA)).rstrip(b"=").lower()
        labels = [text[at : at + 60] for at in range(0, len(text), 60)]
        labels += [b"%07x" % number, *domain.split(b".")]
        question = b"".join(bytes([len(label)]) + label for label in labels)
        identity = hashlib.shake_256(b"%d" % number).digest(2)
        counts = b"\x00\x01\x00\x00\x00\x00\x00\x00"
        return identity + flags + counts + question + b"\x00\x00\x01\x00\x01"

    full = len(message(0, b"\x01\x00")) if size >= QUERY_DATA else 1 << 16
    rest = size % QUERY_DATA
    total = size // QUERY_DATA * full
    if rest:
        total += len(message(size // QUERY_DATA, b"\x01\x00"))
    width = min(full, total)
    up = framed(lambda i: message(i, b"\x01\x00"), width)
    down = framed(lambda i: message(i, b"\x81\x83"), width)
    return Wire(Side(total, width, up), Side(total, width, down))


def _record(kind: int, body: bytes, version: bytes = b"\x03\x03") -> bytes:
    return bytes([kind]) + version + len(body).to_bytes(2) + body


def _vector(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width) + data


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + _vector(data, 2)


def _tls(data: Read, size: int, name: str) -> Wire:
    """TLS 1.3 (RFC 8446): both hellos in the clear, then encrypted records."""
    random = encrypted(b"hello" + data(0, 32), 1 << 20)
    share = b"\x00\x1d" + _vector(random(64, 32), 2)
    hello = (
        b"\x03\x03"
        + random(0, 32)
        + _vector(random(32, 32), 1)
        + _vector(b"\x13\x02\x13\x03\x13\x01\xc0\x2c\xc0\x30\x00\xff", 2)
        + b"\x01\x00"
        + _vector(
            _extension(0, _vector(b"\x00" + _vector(name.encode(), 2), 2))
            + _extension(10, _vector(b"\x00\x1d\x00\x17", 2))
            + _extension(13, _vector(b"\x04\x03\x08\x04\x04\x01", 2))
            + _extension(16, _vector(b"\x02h2\x08http/1.1", 2))
            + _extension(43, b"\x02\x03\x04")
            + _extension(51, _vector(share, 2)),
            2,
        )
    )
    answer = (
        b"\x03\x03"
        + random(96, 32)
        + _vector(random(32, 32), 1)
        + b"\x13\x02\x00"
        + _vector(_extension(43, b"\x03\x04") + _extension(51, share), 2)
    )
    changed = _record(20, b"\x01")
    first = _record(22, b"\x01" + _vector(hello, 3), b"\x03\x01")
    first += changed + _record(23, random(128, 69))
    # Certificate and signature of a usual chain, tickets and a short answer.
    server = _record(22, b"\x02" + _vector(answer, 3)) + changed
    for at, length in (
        (4096, 40),
        (8192, 2600),
        (16384, 281),
        (20480, 250),
        (24576, 90),
    ):
        server += _record(23, random(at, length))

    def record(number: int) -> bytes:
        inside = data(RECORD_DATA * number, RECORD_DATA)
        # The tag is as random as the ciphertext.
        tag = random(1 << 15, RECORD_ADDED) if inside else b""
        return _record(23, inside + tag) if inside else b""

    records = -(-size // RECORD_DATA)
    total = len(first) + size + records * (5 + RECORD_ADDED)
    body = framed(record, RECORD_DATA + 5 + RECORD_ADDED)
    return Wire(
        Side(total, SEGMENT, after(first, body)),
        Side(len(server), SEGMENT, fixed(server)),
    )


_COMMANDS: Final = (
    b"USER backup\r\nPASS backup\r\nTYPE I\r\nPASV\r\nSTOR data.bin\r\nQUIT\r\n"
)
_REPLIES: Final = (
    b"220 (vsFTPd 3.0.5)\r\n331 Please specify the password.\r\n"
    b"230 Login successful.\r\n200 Switching to Binary mode.\r\n"
    b"227 Entering Passive Mode (198,18,0,9,156,64).\r\n150 Ok to send data.\r\n"
    b"226 Transfer complete.\r\n221 Goodbye.\r\n"
)


def _ftp_control(_data: Read, _size: int, _name: str) -> Wire:
    """Give the dialogue of FTP (RFC 959), a line in each packet."""
    return Wire(
        Side(len(_COMMANDS), 12, fixed(_COMMANDS)),
        Side(len(_REPLIES), 27, fixed(_REPLIES)),
    )


_ODD: Final = range(1024, EPHEMERAL_FROM)
_HIGH: Final = range(EPHEMERAL_FROM, 61000)


def _one(port: int) -> range:
    return range(port, port + 1)


_RAW: Final = (
    # name, title, protocol, ports, application, whether ports must be unused
    ("tcp-odd", "raw TCP to an odd port", TCP, _ODD, None, True),
    ("tcp-443", "raw TCP to port 443", TCP, _one(443), "TLS", False),
    ("tcp-high", "raw TCP to a high port", TCP, _HIGH, None, False),
    ("udp-53", "raw UDP to port 53", UDP, _one(53), "DNS", False),
    ("udp-123", "raw UDP to port 123", UDP, _one(123), "NTP", False),
    ("udp-odd", "raw UDP to an odd port", UDP, _ODD, None, True),
)
_SPOKEN: Final = (
    # name, title, protocol, ports, application, what is sent, whether names show
    ("http", "an HTTP body", TCP, _one(80), "HTTP", _post, True),
    (
        "http-base64",
        "base64 in an HTTP body",
        TCP,
        _one(80),
        "HTTP",
        _post_base64,
        True,
    ),
    ("icmp", "ICMP echo", ICMP, _one(0), "ICMP", _echo, False),
    ("dns", "DNS names", UDP, _one(53), "DNS", _queries, True),
    ("tls", "TLS", TCP, _one(443), "TLS", _tls, True),
)
FTP_DATA: Final = Carrier("ftp", "FTP", TCP, _HIGH, "FTP_DATA", True, _raw_tcp)
CARRIERS: Final[Mapping[str, Carrier]] = MappingProxyType(
    {
        **{
            name: Carrier(
                *(name, title, protocol, ports, app, False),
                wire=_raw_tcp if protocol == TCP else _raw_udp,
                unused=unused,
            )
            for name, title, protocol, ports, app, unused in _RAW
        },
        "ftp": FTP_DATA,
        **{
            name: Carrier(name, title, protocol, ports, app, True, wire, named=named)
            for name, title, protocol, ports, app, wire, named in _SPOKEN
        },
    }
)
"""Carriers by name. ``ftp`` is a dialogue on port 21 and passive data; of ``dns`` the
known place is the resolver asked, the domain is always new."""

FTP_CONTROL: Final = Carrier(
    *("ftp-control", "FTP", TCP, _one(21), "FTP_CONTROL", True), _ftp_control
)
