"""Facts at the start of a stream: handshakes, magic numbers, plaintext grammar.

Facts are structure, not statistics: each is a check that random bytes pass with
a probability below about one in a million, so that a fact can verify what a port
or a classifier claims. Where a protocol cannot be recognised that surely from
its first bytes (RTP, Shadowsocks, raw ESP), nothing is said.
"""

from __future__ import annotations

import re
from typing import Final

_TLS_HELLO = re.compile(rb"\x16\x03[\x00-\x03][\x00-\x48].[\x01\x02]\x00", re.DOTALL)

_SEALED: Final = frozenset(
    {"openssl-salted", "age", "luks", "pgp-symmetric", "zip-encrypted"}
)
"""Containers that hold ciphertext by definition."""

_PLAIN: Final = frozenset(
    {"pe", "elf", "sqlite", "ole", "pcap", "tar", "pdf", "pgp", "der"}
)
"""Formats whose bytes may be anything: the statistics speak."""

_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"%PDF-", "pdf"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"BZh", "bzip2"),
    (b"Salted__", "openssl-salted"),
    (b"age-encryption.org/v1", "age"),
    (b"LUKS\xba\xbe", "luks"),
    (b"-----BEGIN PGP", "pgp"),
    (b"OggS\x00", "ogg"),
    (b"ID3", "mp3"),
    (b"fLaC", "flac"),
    (b"FLV\x01", "flv"),
    (b"wOFF", "woff"),
    (b"wOF2", "woff"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"MSCF\x00\x00\x00\x00", "cab"),
    (b"PAR1", "parquet"),
    (b"\x7fELF", "elf"),
    (b"SQLite format 3\x00", "sqlite"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"\xd4\xc3\xb2\xa1", "pcap"),
    (b"\x0a\x0d\x0d\x0a", "pcap"),
    (b"-----BEGIN AGE", "age"),
)

_BY_FIRST: Final = {
    first: tuple(pair for pair in _MAGIC if pair[0][0] == first)
    for first in {signature[0] for signature, _ in _MAGIC}
}

# Symmetric-key session key packet: what `gpg --symmetric` writes first
# (RFC 9580, section 5.3), old and new packet framing, versions 4 and 5.
_PGP_SYMMETRIC = re.compile(
    rb"(?:\x8c|\xc3)(?:[\x04\x0d\x1d-\x3f][\x04-\x06]|[\x04\x0d-\x3f][\x04-\x06])"
    rb"[\x01-\x0d][\x00-\x04]"
)


def is_sealed(magic: str | None) -> bool:
    """Whether the format holds ciphertext by definition."""
    return magic in _SEALED


def is_packed(magic: str | None) -> bool:
    """Whether the format is compressed by definition."""
    return magic is not None and magic not in _SEALED and magic not in _PLAIN


def find_magic(data: bytes) -> str | None:  # noqa: C901, PLR0911
    """Name the file format whose magic number `data` begins with.

    Short signatures are followed by a second check where the format has one, and
    formats whose signature is two bytes only (MP3 frames, zlib) are left to the
    statistics.
    """
    if len(data) < 4:
        return None
    for signature, name in _BY_FIRST.get(data[0], ()):
        if data.startswith(signature):
            if name == "zip":
                return "zip-encrypted" if _zip_encrypted(data) else name
            if name == "bzip2":
                sealed = data[4:10] in (b"1AY&SY", b"\x17rE8P\x90")
                return name if data[3:4].isdigit() and sealed else None
            if name == "mp3":
                return name if data[3:4] in (b"\x02", b"\x03", b"\x04") else None
            return name
    if data[4:8] == b"ftyp":
        return "mp4"
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"AVI ", b"WAVE"):
        return {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}[data[8:12]]
    if data[:2] == b"MZ" and b"PE\x00\x00" in data[64:1024]:
        return "pe"
    if data[257:262] == b"ustar":
        return "tar"
    if data[0] == 0x30 and _is_der(data):
        return "der"
    if _PGP_SYMMETRIC.match(data):
        return "pgp-symmetric"
    return None


def _is_der(data: bytes) -> bool:
    """Tell a certificate, an OCSP or a timestamp message: nested sequences (X.690).

    Named because half of such a message may be a signature, which is as random as
    ciphertext and none.
    """
    if data[1] == 0x82:
        fits = len(data) <= int.from_bytes(data[2:4]) + 4
        return fits and data[4:5] in (b"\x30", b"\x0a", b"\x02")
    return data[1] < 0x80 and data[1] + 2 == len(data) and data[2:3] == b"\x30"


def _zip_encrypted(data: bytes) -> bool:
    """Bit 0 of the general purpose flags (PKWARE APPNOTE, section 4.4.4)."""
    return len(data) > 6 and bool(data[6] & 1)


def find_handshake(data: bytes, *, datagram: bool) -> str | None:  # noqa: PLR0911
    """Name the key exchange or encrypted transport the stream begins with."""
    if len(data) < 8:
        return None
    if data.startswith(b"SSH-"):
        return "ssh" if data[4:7] in (b"2.0", b"1.9", b"1.5") else None
    if datagram:
        return _datagram_handshake(data)
    if is_tls(data):
        return "tls"
    if data[4:8] == b"\x21\x12\xa4\x42" and _is_stun(data):
        return "stun"
    if data[:2] == b"\x03\x00" and _is_rdp(data):
        return "rdp"
    size = int.from_bytes(data[:2])
    if 14 <= size <= 1500 and _is_openvpn(data[2:]):
        return "openvpn"
    return None


def is_tls(data: bytes) -> bool:  # noqa: PLR0911
    """Whether a TLS record, with what must be inside it, starts here."""
    if len(data) < 6 or data[1] != 3 or data[2] > 4:
        # SSL 2 framing around a client hello of SSL 3 or TLS (RFC 5246, E.2).
        return (
            len(data) > 10
            and data[0] == 0x80
            and data[2] == 1
            and data[3] == 3
            and data[4] <= 3
            and data[5] == 0
        )
    kind = data[0]
    size = int.from_bytes(data[3:5])
    if not 0 < size <= 18432:
        return False
    after = 5 + size
    if len(data) >= after + 3 and not (
        20 <= data[after] <= 24 and data[after + 1] == 3 and data[after + 2] <= 4
    ):
        return False
    if kind == 22:
        # Encrypted handshake messages show any type, hellos a short list.
        return len(data) > after or (data[5] in _HELLOS and data[6:7] == b"\x00")
    if kind == 20:
        return size == 1 and data[5] == 1
    if kind == 21:
        return size == 2 and data[5] in (1, 2) if size < 16 else size <= 64
    return kind == 23


_HELLOS: Final = frozenset({0, 1, 2, 4, 8, 11, 12, 13, 14, 15, 16, 20, 22})


def _datagram_handshake(data: bytes) -> str | None:  # noqa: C901, PLR0911
    first = data[0]
    if 20 <= first <= 25 and data[1:3] in (b"\xfe\xff", b"\xfe\xfd", b"\x01\x00"):
        size = int.from_bytes(data[11:13])
        return "dtls" if data[3] == 0 and 0 < size <= 18432 else None
    if data[4:8] == b"\x21\x12\xa4\x42" and _is_stun(data):
        return "stun"
    if first & 0x80 and _is_quic(data):
        return "quic"
    if first in (0x09, 0x0C, 0x0D, 0x0E) and data[9:11] in (b"Q0", b"T0"):
        return "quic"
    if data[1:4] == b"\x00\x00\x00":
        # The cookie field that ends both handshake messages is zero unless the
        # peer is under load (WireGuard paper, section 5.4).
        if first == 1 and len(data) >= 148 and data[132:148] == bytes(16):
            return "wireguard" if _is_next(data, 148) and any(data[4:8]) else None
        if first == 2 and len(data) >= 92 and data[76:92] == bytes(16):
            return "wireguard" if _is_next(data, 92) and any(data[8:12]) else None
        if first == 4 and len(data) >= 32 and data[12:16] == b"\x00\x00\x00\x00":
            return "wireguard"
    if _is_openvpn(data):
        return "openvpn"
    if len(data) >= 28:
        ike = data[4:] if data[:4] == b"\x00\x00\x00\x00" else data
        size = int.from_bytes(ike[24:28])
        if (
            ike[17] in (0x10, 0x20)
            and ike[18] in (2, 4, 5, 6, 34, 35, 36, 37)
            and ike[:8] != bytes(8)
            and 28 <= size <= 9000
        ):
            return "ipsec"
    return None


def _is_next(data: bytes, at: int) -> bool:
    """Whether the stream ends at `at` or goes on with a WireGuard message."""
    return len(data) < at + 4 or (
        1 <= data[at] <= 4 and data[at + 1 : at + 4] == bytes(3)
    )


def _is_stun(data: bytes) -> bool:
    return data[0] & 0xC0 == 0 and data[3] & 3 == 0


def _is_quic(data: bytes) -> bool:
    version = data[1:5]
    known = (
        version in (b"\x00\x00\x00\x01", b"\x6b\x33\x43\xcf", b"\xfa\xce\xb0\x0e")
        or (version[0] == 0xFF and version[1] == 0 and version[2] == 0)
        or (version[:2] in (b"Q0", b"T0") and version[2:].isdigit())
        or version[:3] == b"\xfa\xce\xb0"
        or version == bytes(4)
    )
    # Google's versions up to 46 code two identifier lengths into this byte.
    return known and (data[5] <= 20 or version[:1] in (b"Q", b"T"))


def _is_openvpn(data: bytes) -> bool:
    """First packet of a session: reset opcode, then packet number 0 or 1.

    The number stands behind the session id, and behind an HMAC of 16, 20 or 32
    bytes with ``tls-auth``; with ``tls-crypt`` a replay id of 1 and a time follow
    the session id.
    """
    if len(data) < 14 or data[0] not in (0x38, 0x40, 0x50) or len(set(data[1:9])) < 6:
        return False
    if data[9:14] == bytes(5) or (data[0] == 0x40 and data[9:14] == b"\x01\0\0\0\0"):
        return True
    for mac in (0, 16, 20, 32, 64):
        at = 9 + mac
        if data[at : at + 4] == b"\x00\x00\x00\x01" and 0x45 <= data[at + 4] < 0x80:
            return True
    return False


def _is_rdp(data: bytes) -> bool:
    size = int.from_bytes(data[2:4])
    if not 11 <= size <= len(data) or data[4] != size - 5:
        return False
    if data[5] == 0xE0 and (b"Cookie: mstshash" in data[:64]):
        return True
    return data[5] in (0xE0, 0xD0) and data[size - 8 : size - 4] in (
        b"\x01\x00\x08\x00", b"\x02\x00\x08\x00", b"\x02\x01\x08\x00",
        b"\x02\x0f\x08\x00", b"\x02\x1f\x08\x00", b"\x02\x07\x08\x00",
        b"\x03\x00\x08\x00", b"\x02\x03\x08\x00",
    )  # fmt: skip


def find_upgrade(head: bytes) -> int:
    """Offset at which TLS starts inside a plaintext dialogue, -1 for nowhere.

    STARTTLS in mail, ``AUTH TLS`` in FTP, ``CONNECT`` through a proxy, TDS,
    PostgreSQL, RDP: the hello of either side follows plain lines.
    """
    found = _TLS_HELLO.search(head)
    return found.start() if found is not None and is_tls(head[found.start() :]) else -1
def find_rtp(head, packets): return None
