"""Plaintext grammar at the start of a stream, named only when beyond doubt.

A port or a classifier *claims* an application; these checks verify it. Each asks
for structure that random bytes show with a probability of about one in a million
or less, and a greeting that two protocols share is named by neither.

One file because the grammars are asked one after the other, the sure ones first, and
each relies on what those before it have taken.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from exfilml.payload import _skim
from exfilml.payload._facts import is_tls

_HTTP = re.compile(
    rb"(?:(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PROPFIND|PROPPATCH"
    rb"|MKCOL|COPY|MOVE|LOCK|UNLOCK|REPORT|SEARCH|M-SEARCH|NOTIFY|SUBSCRIBE"
    rb"|UNSUBSCRIBE) [\x21-\xff][\x20-\xff]{0,8000}(?: HTTP/|$)|HTTP/[0-9.]{1,3} [1-5]"
    rb"[0-9][0-9])"
)
_SIP = re.compile(
    rb"(?:SIP/2\.0 [1-6][0-9][0-9]|(?:INVITE|ACK|BYE|CANCEL|OPTIONS|REGISTER|PRACK"
    rb"|SUBSCRIBE|NOTIFY|PUBLISH|INFO|REFER|MESSAGE|UPDATE) (?:sips?|tel):)"
)
_RTSP = re.compile(
    rb"(?:RTSP/1\.0 [1-5][0-9][0-9]|(?:OPTIONS|DESCRIBE|SETUP|PLAY|PAUSE|TEARDOWN"
    rb"|ANNOUNCE|RECORD|GET_PARAMETER|SET_PARAMETER) (?:rtsp://|\*)\S* ?RTSP/)"
)
_SMTP = re.compile(
    rb"(?:(?:EHLO|HELO|LHLO) ?[\x21-\x7e]*\r?\n|220[ -][\x20-\x7e]*(?:SMTP|Postfix|"
    rb"Exim|sendmail|mail)[\x20-\x7e]*\r?\n)",
    re.IGNORECASE,
)
_FTP_HELLO = re.compile(rb"220[ -][\x20-\x7e\r\n]*FTP", re.IGNORECASE)
_FTP = re.compile(
    rb"(?:(?:USER [^\r\n]{0,128}\r?\n(?:PASS [^\r\n]{0,256}\r?\n)?|AUTH TLS\r?\n"
    rb"|AUTH SSL\r?\n|FEAT\r?\n))(?:.*\n)?(?:SYST|PWD|XPWD|TYPE [AIEL]|PASV|EPSV|CWD |"
    rb"FEAT|PORT |EPRT|OPTS |STOR |RETR /|PBSZ 0|ACCT |NOOP)",
    re.DOTALL,
)
_FTP_REPLY = re.compile(
    rb"220[ -][^\r\n]*\r?\n(?:220[ -][^\r\n]*\r?\n)*(?:331|530|234) "
)
_POP3 = re.compile(
    rb"(?:\+OK[^\r\n]*\r?\n|(?:CAPA|AUTH|APOP [^\r\n]*)\r?\n|USER [^\r\n]*\r?\n"
    rb"PASS [^\r\n]*\r?\n(?:STAT|LIST|UIDL|CAPA|RETR [0-9]|TOP ))",
    re.IGNORECASE,
)
_IMAP = re.compile(
    rb"(?:\* (?:OK|PREAUTH|BYE) [^\r\n]*\r?\n|(?:\.|[A-Za-z]{0,8}[0-9]{1,8}(?:\.[0-9]+)?) "
    rb"(?:CAPABILITY|LOGIN |STARTTLS|ID |AUTHENTICATE |NOOP|SELECT |LOGOUT))",
    re.IGNORECASE,
)
_IRC = re.compile(
    rb"(?:NICK [^\r\n]+\r?\n|USER [^\r\n]+ :[^\r\n]*\r?\n|CAP LS|PASS [^\r\n]+\r?\nNICK "
    rb"|:[^ \r\n]+ (?:NOTICE|001|020|PING) )"
)
_SYSLOG = re.compile(rb"<[0-9]{1,3}> ?(?:1 |[A-Z][a-z]{2} [ 0-9][0-9] |[A-Za-z0-9])")
_REDIS = re.compile(rb"(?:\*[0-9]{1,4}\r\n\$[0-9]{1,9}\r\n|\+(?:PONG|OK)\r\n)")
_NNTP = re.compile(
    rb"(?:20[01] [\x20-\x7e]*(?:NNTP|news|InterNetNews)|MODE READER\r?\n)",
    re.IGNORECASE,
)
# Git's lines carry their length in hexadecimal; objects follow, deflated.
_GIT = re.compile(
    rb"[0-9a-f]{4}(?:git-(?:upload|receive)-pack |# service=git-|[0-9a-f]{40} )"
)
# Two options offered, asked for or refused in a row (RFC 854), 2**-28 with the codes.
_TELNET = re.compile(
    rb"(?:\xff[\xfb-\xfe][\x00-\x31]){2}|\xff[\xfb-\xfe][\x00-\x31]"
    rb"(?:\xff[\xfa-\xfe]|[\x20-\x7e\r\n]{4})"
)


def find_protocol(data: bytes, *, datagram: bool) -> str | None:
    """Name the plaintext grammar the stream begins with, by its structure.

    Meant to *verify* an application: only what the first bytes show beyond doubt
    is named. A server greeting that FTP and SMTP share is named by neither.
    """
    if len(data) < 4:
        return None
    if datagram:
        return _datagram_protocol(data) or _line_protocol(data[:2048])
    found = _line_protocol(data[:2048])
    if found is not None:
        return found
    return _stream_protocol(data)


def _line_protocol(data: bytes) -> str | None:  # noqa: C901, PLR0911, PLR0912
    first = data[0]
    if first < 32 or first > 126:
        return None
    if _HTTP.match(data):
        return "ssdp" if data.startswith((b"M-SEARCH ", b"NOTIFY * ")) else "http"
    if _SIP.match(data):
        return "sip"
    if _RTSP.match(data):
        return "rtsp"
    if _SMTP.match(data):
        return "smtp"
    if _FTP_HELLO.match(data) or _FTP_REPLY.match(data) or _FTP.match(data):
        return "ftp"
    if first in b"+CAUcau" and _POP3.match(data):
        return "pop3"
    if _IMAP.match(data):
        return "imap"
    if _IRC.match(data):
        return "irc"
    if first == 0x3C:
        if _SYSLOG.match(data):
            return "syslog"
        if b"<stream:stream" in data[:256] or b"jabber:" in data[:256]:
            return "xmpp"
    if first in b"*+" and _REDIS.match(data):
        return "redis"
    if _NNTP.match(data):
        return "nntp"
    if _GIT.match(data):
        return "git"
    return None


def _stream_protocol(data: bytes) -> str | None:  # noqa: C901, PLR0911, PLR0912
    size = int.from_bytes(data[:2])
    if size >= 12 and is_dns(data[2 : 2 + size], whole=size + 2 <= len(data)):
        return "dns"
    if data[4:8] in (b"\xffSMB", b"\xfeSMB", b"\xfcSMB") and data[0] == 0:
        return "smb"
    if data[0] == 0xFF and _TELNET.match(data):
        return "telnet"
    if data[0] == 0 and is_kerberos(data[4:]):
        return "kerberos"
    if data[4:8] == b"\x1a\x2b\x3c\x4d" and data[2:4] in (b"\x00\x01", b"\x00\x02"):
        return "pptp"
    if data.startswith(b"\x13BitTorrent protocol"):
        return "bittorrent"
    if data[0] == 0x10 and (b"\x00\x04MQTT" in data[2:10] or b"MQIsdp" in data[2:12]):
        return "mqtt"
    if data.startswith(b"AMQP\x00"):
        return "amqp"
    if _is_ldap(data):
        return "ldap"
    if data[0] == 5 and data[1] and data[1] == len(data[:18]) - 2 < 10:
        return "socks"
    if data[1:4] == b"\x00\x00\x00" and data[4:5] == b"\x0a" and b"\x00" in data[5:40]:
        return "mysql"
    if (
        data[1:4] == b"\x00\x00\x01"
        and data[13:36] == bytes(23)
        and data[4:8] != bytes(4)
    ):
        # Answer of the client, or its wish for TLS: filler behind the capabilities.
        return "mysql"
    if _is_postgresql(data):
        return "postgresql"
    return None


def _is_postgresql(data: bytes) -> bool:
    """Wish for TLS, its answer, start-up or authentication, 2**-30 and less."""
    if data[:1] in (b"S", b"N") and is_tls(data[1:]):
        return True
    if data[:1] == b"R" and data[1:4] == bytes(3) and data[5:8] == bytes(3):
        return data[4] in (8, 12, 23) and data[8:9] <= b"\x0c"
    size = int.from_bytes(data[:4])
    if size == 8:
        return data[4:8] == b"\x04\xd2\x16\x2f"
    return 12 <= size <= 4096 and data[4:8] == b"\x00\x03\x00\x00" and data[8:9] > b"@"


# Tag and number of a message, and where they stand (RFC 4120, section 5.10).
_REQUESTS: Final = {0x6A: 10, 0x6C: 12}
_OTHERS: Final = {0x6B: 11, 0x6D: 13, 0x6E: 14, 0x6F: 15, 0x74: 20, 0x75: 21, 0x7E: 30}


def is_kerberos(data: bytes) -> bool:
    """Whether a Kerberos 5 message starts here, 2**-80: version, then its own type."""
    if len(data) < 16:
        return False
    at, size = _tlv(data, 1)
    if size < 0 or data[at : at + 1] != b"\x30":
        return False
    at, size = _tlv(data, at + 1)
    if size < 0:
        return False
    if data[0] in _REQUESTS:
        version, kind, number = 0xA1, 0xA2, _REQUESTS[data[0]]
    elif data[0] in _OTHERS:
        version, kind, number = 0xA0, 0xA1, _OTHERS[data[0]]
    else:
        return False
    return data[at : at + 10] == bytes((version, 3, 2, 1, 5, kind, 3, 2, 1, number))


def _is_ip(data: bytes) -> bool:
    """Whether a packet is inside, as ICMP errors and tunnels carry it, 2**-28.

    IPv4 without options and unfragmented, of a length that Ethernet carries. The
    checksum is no help: routers and address translation change what they quote.
    IPv6 by its transport and by addresses of the ranges in use.
    """
    if data[0] == 0x45 and len(data) >= 20:
        return (
            data[9] in (1, 2, 6, 17, 47, 50, 51)
            and data[6:8] in (b"\x00\x00", b"\x40\x00")
            and 28 <= int.from_bytes(data[2:4]) <= 1500
            and data[8] > 0
        )
    return (
        len(data) >= 40
        and data[0] == 0x60
        and data[6] in (6, 17, 58)
        and data[8] in (0x20, 0x24, 0x26, 0x2A, 0xFD, 0xFE)
        and data[24] in (0x20, 0x24, 0x26, 0x2A, 0xFD, 0xFE, 0xFF)
    )


def _is_ntp_private(data: bytes) -> bool:
    """Mode 7: known requests whose items fit into 500 bytes, 2**-27."""
    items, size = (int.from_bytes(data[i : i + 2]) & 0xFFF for i in (4, 6))
    return (
        1 <= data[0] >> 3 & 7 <= 4
        and data[3] in (0, 1, 2, 4, 16, 20, 42)
        and data[6] & 0xF0 == 0
        and data[4] & 0xF0 == 0
        and items * size <= 500
    )


def _datagram_protocol(data: bytes) -> str | None:  # noqa: C901, PLR0911
    if is_dns(data, whole=False):
        return "dns"
    if len(data) in (48, 68) or (len(data) > 48 and len(data) % 48 == 0):
        mode, version = data[0] & 7, data[0] >> 3 & 7
        if (
            1 <= version <= 4
            and 1 <= mode <= 5
            and data[1] <= 16
            and data[2] <= 17
            and (data[3] in (0, 0x20) or data[3] >= 0xD0)
            and data[4] == data[8] == 0
        ):
            return "ntp"
    if len(data) >= 240 and data[236:240] == b"\x63\x82\x53\x63":
        return "dhcp"
    if _is_snmp(data):
        return "snmp"
    if (
        len(data) >= 20
        and data[0] in range(1, 6)
        and len(data) == int.from_bytes(data[2:4])
    ):
        return "radius" if _is_radius(data) else None
    if data.startswith((b"\x00\x01", b"\x00\x02")) and (
        b"\x00octet\x00" in data[:512].lower()
        or b"\x00netascii\x00" in data[:512].lower()
    ):
        return "tftp"
    if data[0] in range(0x6A, 0x7F) and is_kerberos(data):
        return "kerberos"
    if _is_ip(data):
        return "ip"
    if data[0] & 7 == 7 and data[2] in (2, 3) and _is_ntp_private(data):
        return "ntp"
    if data[0] in (0x10, 0x11) and len(data) > 80 and data[14:16] == b"\x00\x00":
        # NetBIOS datagram: half-ASCII names of letters A to P follow.
        return "netbios" if set(data[15:47]) <= _HALF_ASCII else None
    return None


_HALF_ASCII: Final = frozenset(b"ABCDEFGHIJKLMNOP \x00")


def _is_radius(data: bytes) -> bool:
    at = 20
    while at + 2 <= len(data):
        if data[at + 1] < 2:
            return False
        at += data[at + 1]
    return at == len(data)


def is_dns(data: bytes, *, whole: bool) -> bool:
    """Whether one DNS message starts here; see `_skim.is_dns`."""
    if len(data) < 17:
        return False
    view = np.frombuffer(data, np.uint8)
    return bool(_skim.is_dns(view, 0, len(data), whole))


def _tlv(data: bytes, at: int) -> tuple[int, int]:
    """Start and size of a BER value whose length field is at `at`; size -1: no."""
    if at >= len(data):
        return at, -1
    size = data[at]
    if size < 0x80:
        return at + 1, size
    width = size & 0x7F
    if not 1 <= width <= 4 or at + 1 + width > len(data):
        return at, -1
    return at + 1 + width, int.from_bytes(data[at + 1 : at + 1 + width])


def _is_snmp(data: bytes) -> bool:
    """SEQUENCE { INTEGER version 0, 1 or 3, community or header (RFC 1157)."""
    if data[0] != 0x30:
        return False
    at, size = _tlv(data, 1)
    return (
        size >= 12
        and data[at : at + 2] == b"\x02\x01"
        and data[at + 2 : at + 3] in (b"\x00", b"\x01", b"\x03")
        and data[at + 3 : at + 4] in (b"\x04", b"\x30")
    )


def _is_ldap(data: bytes) -> bool:
    """SEQUENCE { INTEGER message id, application tag (RFC 4511, section 4.1)."""
    if data[0] != 0x30:
        return False
    at, size = _tlv(data, 1)
    if size < 5 or data[at : at + 1] != b"\x02":
        return False
    width = data[at + 1] if at + 1 < len(data) else 9
    tag = data[at + 2 + width : at + 3 + width]
    return width <= 4 and bool(tag) and 0x40 <= tag[0] <= 0x79 and tag[0] & 0x1F <= 25
