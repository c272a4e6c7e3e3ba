"""Facts at the start of a stream: handshakes, magic numbers, plaintext grammar.

Facts are structure, not statistics: each is a check that random bytes pass with
a probability below about one in a million, so that a fact can verify what a port
or a classifier claims. Where a protocol cannot be recognised that surely from
its first bytes, nothing is said:

- ESP inside UDP and raw ESP (an index and a counter), TLS and QUIC from the middle;
- whatever is random from its first byte by design: Shadowsocks, VMess, Telegram's
  obfuscated MTProto, obfs4, BitTorrent's encryption, Ethereum's RLPx, OpenVPN under
  XOR;
- Noise handshakes without a prefix in the clear (Threema, Lightning: one version
  byte before a public key). With a prefix they are named: WhatsApp, libp2p;
- Tor, AnyDesk and Signal are TLS, SSTP is HTTP inside TLS; TeamViewer and Hamachi
  have no signature longer than two bytes.

One file because a signature is only as good as its neighbours: what one check lets
pass the next must not name, in the order that they are asked.

RTP is seen over several packets only (`find_rtp`). The comments give the share of
random bytes that pass, as a power of two, where it is not plain to see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import numpy as np

from exfilml.payload import _skim

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


def find_magic(data: bytes) -> str | None:  # noqa: C901, PLR0911, PLR0912
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
    if data[:4] == b"ZBXD" and len(data) > 14 and data[4] & 2 and data[13] == 0x78:
        # Zabbix with its flag "compressed": zlib follows two sizes. 2**-41.
        return "zlib"
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
        end = int.from_bytes(data[2:4]) + 4
        # Sent once, or again: what follows begins alike.
        fits = len(data) <= end or data[end : end + 4] == data[:4]
        return fits and data[4:5] in (b"\x30", b"\x0a", b"\x02")
    return data[1] < 0x80 and data[1] + 2 == len(data) and data[2:3] == b"\x30"


def _zip_encrypted(data: bytes) -> bool:
    """Bit 0 of the general purpose flags (PKWARE APPNOTE, section 4.4.4)."""
    return len(data) > 6 and bool(data[6] & 1)


_PREFIXES: Final[tuple[tuple[bytes, str], ...]] = (
    # WhatsApp: edge routing, then protocol and dictionary version.
    (b"ED\x00\x01\x00", "whatsapp"),
    (b"WA\x01\x05\x00\x00", "whatsapp"),
    (b"\x13/multistream/1.0.0\n", "libp2p"),
    (b"SSTP_DUPLEX_POST ", "sstp"),
)
_WHATSAPP: Final = re.compile(rb"WA[\x02-\x06][\x00-\x03]\x00[\x00-\x04]")
_TINC: Final = re.compile(rb"0 [A-Za-z0-9_]{1,64} 17(?:\.[0-9]{1,2})?\n")


def find_handshake(data: bytes, *, datagram: bool) -> str | None:
    """Name the key exchange or encrypted transport the stream begins with."""
    if len(data) < 8:
        return None
    if data.startswith(b"SSH-"):
        return "ssh" if data[4:7] in (b"2.0", b"1.9", b"1.5") else None
    if datagram:
        return _datagram_handshake(data)
    if is_tls(data):
        return "tls"
    return _stream_handshake(data)


def _stream_handshake(data: bytes) -> str | None:  # noqa: PLR0911
    for prefix, name in _PREFIXES:
        if data.startswith(prefix):
            return name
    if _WHATSAPP.match(data):  # 2**-38
        return "whatsapp"
    if data[0] == 0x30 and _TINC.match(data):
        return "tinc"
    if _is_stun(data):
        return "stun"
    if _is_stun(data[2:]) and 20 <= int.from_bytes(data[:2]) <= 2048:
        # Framed for TCP (RFC 4571).
        return "stun"
    if data[:2] == b"\x03\x00" and _is_rdp(data):
        return "rdp"
    if data[0] == 0 and data[4:8] == b"\xfdSMB":
        return "smb3"
    size = int.from_bytes(data[:2])
    if 14 <= size <= 1500 and _is_openvpn(data[2:]):
        return "openvpn"
    return None


def is_tls(data: bytes) -> bool:
    """Whether a TLS record, with what must be inside it, starts here."""
    if len(data) < 6 or (data[1] != 3 and data[0] != 0x80):
        return False
    return bool(_skim.is_tls(np.frombuffer(data, np.uint8), 0, len(data)))


def _datagram_handshake(data: bytes) -> str | None:  # noqa: C901, PLR0911, PLR0912
    first = data[0]
    if 20 <= first <= 25 and data[1:3] in (b"\xfe\xff", b"\xfe\xfd", b"\x01\x00"):
        size = int.from_bytes(data[11:13])
        return "dtls" if data[3] == 0 and 0 < size <= 18432 else None
    if data[:4] == b"\x01\x00\x00\x00" and data[4:7] in _DTLS_HELLO:
        # Behind the preamble of CAPWAP (RFC 5415, section 4.2).
        return "dtls"
    if _is_stun(data) or _is_classic_stun(data):
        return "stun"
    if first & 0x80 and _is_quic(data):
        return "quic"
    if first in (0x09, 0x0C, 0x0D, 0x0E) and data[9:11] in (b"Q0", b"T0"):
        return "quic" if data[11:13].isdigit() else None
    if data[1:4] == b"\x00\x00\x00" and _is_wireguard(data):
        return "wireguard"
    for at, signature, name in _DATAGRAMS:
        if data.startswith(signature, at):
            return name
    if _is_openvpn(data):
        return "openvpn"
    if _is_teredo(data):
        return "teredo"
    if first == 0xC8 and _is_l2tp(data):
        return "l2tp"
    if data[1:4] in (b"\x01\x88\x0b", b"\x81\x88\x0b") and first & 0xCF == 0:
        # GRE version 1 with a key, around PPP (RFC 2637, section 4.1). 2**-29.
        return "pptp"
    if data[:4] in (b"\x00\x01\x00\x46", b"\x00\x02\x00\x46") and _is_discord(data):
        return "discord"
    return "ipsec" if len(data) >= 28 and _is_ike(data) else None


_DTLS_HELLO: Final = (b"\x16\xfe\xff", b"\x16\xfe\xfd")
_DATAGRAMS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"TS\xf0\x9f\x92\xac", "tailscale"),
    (4, b"ZRTP", "zrtp"),
    (0, b"r6fnvWj8", "dnscrypt"),
)


def _is_ike(data: bytes) -> bool:
    """Exchange types of both versions (RFC 2408, RFC 7296), 2**-29."""
    ike = data[4:] if data[:4] == b"\x00\x00\x00\x00" else data
    return (
        len(ike) >= 28
        and ike[17] in (0x10, 0x20)
        and ike[18] in (2, 4, 5, 6, 34, 35, 36, 37)
        and ike[:8] != bytes(8)
        and 28 <= int.from_bytes(ike[24:28]) <= 9000
    )


def _is_wireguard(data: bytes) -> bool:
    """One of the four messages (WireGuard paper, section 5.4), 2**-56 and less.

    The cookie field that ends both handshake messages is zero unless the peer is
    under load; a counter of data packets starts at zero. A payload of zeros is none.
    """
    first = data[0]
    if first == 1 and len(data) >= 148 and data[132:148] == bytes(16):
        return _is_next(data, 148) and any(data[4:8]) and any(data[8:132])
    if first == 2 and len(data) >= 92 and data[76:92] == bytes(16):
        return _is_next(data, 92) and any(data[8:12]) and any(data[12:76])
    return (
        first == 4
        and len(data) >= 32
        and data[12:16] == bytes(4)
        # The receiver's index is random, a multicast address (MLD) is not.
        and data[6:8] != bytes(2)
    )


def _is_teredo(data: bytes) -> bool:
    """IPv6 behind the optional indications of RFC 4380, section 5.1.1.

    A Teredo or a link-local address next to a sensible header: 2**-46.
    """
    at = 0
    if data[:2] == b"\x00\x01" and len(data) > 12:
        at = 13 + data[2] + data[3]
    if data[at : at + 2] == b"\x00\x00":
        at += 8
    packet = data[at : at + 40]
    return (
        len(packet) == 40
        and packet[0] >> 4 == 6
        and packet[6] in (6, 17, 58, 59)
        and any(
            packet[i : i + 4] in (b"\x20\x01\x00\x00", b"\xfe\x80\x00\x00")
            for i in (8, 24)
        )
    )


def _is_l2tp(data: bytes) -> bool:
    """Control message that opens a tunnel (RFC 2661): its type comes first, 2**-80."""
    return data[1] == 2 and data[4:6] == bytes(2) and data[14:18] == b"\x00\x00\x00\x00"


def _is_discord(data: bytes) -> bool:
    """IP discovery of Discord's voice: an address, padded with zeros, 2**-100."""
    return len(data) >= 74 and data[24:72] == bytes(48)


def _is_next(data: bytes, at: int) -> bool:
    """Whether the stream ends at `at` or goes on with a WireGuard message."""
    return len(data) < at + 4 or (
        1 <= data[at] <= 4 and data[at + 1 : at + 4] == bytes(3)
    )


def _is_stun(data: bytes) -> bool:
    """Magic cookie and the two zero bits (RFC 8489, section 5), 2**-34.

    Lengths that are no multiple of four are WhatsApp's.
    """
    return data[4:8] == b"\x21\x12\xa4\x42" and data[0] & 0xC0 == 0


_CLASSIC: Final = (b"\x00\x01", b"\x01\x01", b"\x01\x11")


def _is_classic_stun(data: bytes) -> bool:
    """STUN without a cookie (RFC 3489): attributes that fill the length, 2**-30."""
    if data[:2] not in _CLASSIC or len(data) < 28:
        return False
    at, end = 20, 20 + int.from_bytes(data[2:4])
    if not 28 <= end <= len(data) or len(set(data[4:20])) < 6:
        return False
    while at + 4 <= end:
        if not ((data[at] == 0 and 1 <= data[at + 1] <= 0x0B) or data[at] == 0x80):
            return False
        at += 4 + int.from_bytes(data[at + 2 : at + 4])
    return at == end


def find_rtp(head: bytes, packets: Iterable[int]) -> bool:
    """Whether the datagrams of one direction carry RTP, among others or alone.

    Parameters
    ----------
    head
        First payload bytes of the direction.
    packets
        Payload bytes of each datagram, in order; those beyond `head` are ignored.

    Returns
    -------
    bool
        Whether three datagrams show version 2, the same source (SSRC) and payload
        type, and sequence numbers that rise by 1 to 16 (RFC 3550, section 5.1).
        Random datagrams do for a share of about 2**-90. SRTP has the same header:
        what is behind it must be judged by its bytes.
    """
    seen: dict[bytes, tuple[int, int]] = {}
    at = 0
    for size in packets:
        packet = head[at : at + min(size, 12)]
        at += size
        if len(packet) < 12:
            if at > len(head):
                break
            continue
        # Types 64 to 95 would read as RTCP (RFC 5761, section 4).
        if packet[0] >> 6 != 2 or 64 <= packet[1] & 0x7F < 96:
            continue
        source = bytes((packet[1] & 0x7F,)) + packet[8:12]
        number = int.from_bytes(packet[2:4])
        before, count = seen.get(source, (number - 1, 0))
        step = number - before & 0xFFFF
        if not 1 <= step <= 16:
            count = 0
        if count == 2:
            return True
        seen[source] = (number, count + 1)
    return False


def _is_quic(data: bytes) -> bool:
    version = data[1:5]
    known = (
        version in (b"\x00\x00\x00\x01", b"\x6b\x33\x43\xcf", b"\xfa\xce\xb0\x0e")
        or (version[0] == 0xFF and version[1] == 0 and version[2] == 0)
        or (version[:2] in (b"Q0", b"T0") and version[2:].isdigit())
        or version[:3] == b"\xfa\xce\xb0"
        or version == bytes(4)
        # Reserved to keep version negotiation alive (RFC 9000, section 15). 2**-25.
        or (all(byte & 15 == 10 for byte in version) and _has_two_ids(data))
    )
    # Google's versions up to 46 code two identifier lengths into this byte.
    return known and (data[5] <= 20 or version[:1] in (b"Q", b"T"))


def _has_two_ids(data: bytes) -> bool:
    """Whether the fixed bit is set and both identifiers have at most 20 bytes."""
    at = 6 + data[5]
    return bool(data[0] & 0x40) and at < len(data) and data[5] <= 20 >= data[at]


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
