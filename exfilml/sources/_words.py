"""Words of logs, and what the flows table says instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

# Zeek and Suricata name what they recognised, in their own words. Names are nDPI's
# where it has one, so that what was learned from captures is known again in logs.
APPLICATIONS: Final[dict[str, str | None]] = {
    "bittorrent": "BitTorrent",
    "dce_rpc": "DCERPC",
    "dcerpc": "DCERPC",
    "dhcp": "DHCP",
    "dns": "DNS",
    "dtls": "DTLS",
    "ftp": "FTP_CONTROL",
    "ftp-data": "FTP_DATA",
    "http": "HTTP",
    "http2": "HTTP",
    "ike": "IPSec",
    "ikev2": "IPSec",
    "imap": "IMAP",
    "irc": "IRC",
    "krb": "Kerberos",
    "krb5": "Kerberos",
    "krb_tcp": "Kerberos",
    "ldap": "LDAP",
    "ldap_tcp": "LDAP",
    "ldap_udp": "LDAP",
    "mqtt": "MQTT",
    "mysql": "MySQL",
    "netbios": "NetBIOS",
    "nfs": "NFS",
    "ntp": "NTP",
    "pop3": "POP3",
    "postgresql": "PostgreSQL",
    "quic": "QUIC",
    "radius": "RADIUS",
    "rdp": "RDP",
    "rfb": "VNC",
    "rtsp": "RTSP",
    "sip": "SIP",
    "smb": "SMBv23",
    "smtp": "SMTP",
    "snmp": "SNMP",
    "socks": "SOCKS",
    "ssdp": "SSDP",
    "ssh": "SSH",
    "ssl": "TLS",
    "syslog": "Syslog",
    "telnet": "Telnet",
    "teredo": "TEREDO",
    "tftp": "TFTP",
    "tls": "TLS",
    "websocket": "WebSocket",
    "wireguard": "WireGuard",
}


def named(kind: Any, texts: Any, meaning: Mapping[str, str | None]) -> Any:
    """Translate a column of few texts; those without a meaning stay as they are."""
    coded = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    words = [
        meaning.get(t, t) if t is not None else None
        for t in coded.dictionary.to_pylist()
    ]
    return pa.array(words, kind).take(coded.indices)


def coded(codes: Any, words: Sequence[str | None]) -> Any:
    """Return texts by dictionary: the words that codes, or nulls, stand for."""
    known = pa.array(words, pa.string()).dictionary_encode()
    codes = codes if isinstance(codes, pa.Array) else pa.array(codes)
    indices = known.indices.take(codes.cast(pa.int32()))
    return pa.DictionaryArray.from_arrays(indices, known.dictionary)


def is_version_6(addresses: Any) -> Any:
    """Say of which IP version dictionary-coded addresses are."""
    return pc.match_substring(addresses.dictionary, ":").take(addresses.indices)


_PROTOCOLS: Final = {
    "ICMP": 1, "IGMP": 2, "IPIP": 4, "TCP": 6, "UDP": 17, "DCCP": 33, "IPV6": 41,
    "GRE": 47, "ESP": 50, "AH": 51, "ICMP6": 58, "ICMPV6": 58, "IPV6-ICMP": 58,
    "OSPF": 89, "EIGRP": 88, "PIM": 103, "VRRP": 112, "L2TP": 115, "SCTP": 132,
}  # fmt: skip
# IANA reserves it; the source did not say which protocol it was.
UNKNOWN_PROTOCOL: Final = 255
_FIN, _SYN, _RST, _PSH = 1, 2, 4, 8
_REPLIES: Final = {1: (0, 14, 16, 18), 58: (129,)}


def protocol_numbers(names: Any, src_ip: Any) -> Any:
    """Return IANA numbers of names or numbers in words; ICMP by the address's version."""
    coded = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    numbers = [
        int(word)
        if word.isdecimal() and len(word) < 9
        else _PROTOCOLS.get(word.upper(), UNKNOWN_PROTOCOL)
        for word in (text.strip() for text in coded.dictionary.to_pylist())
    ]
    found = pa.array(numbers, pa.int64()).take(coded.indices)
    return pc.if_else(pc.and_(pc.equal(found, 1), is_version_6(src_ip)), 58, found)


def conversations(flows: Mapping[str, Any], icmp_type: Any | None = None) -> Any:
    """Say how conversations went by packets and TCP flags, where no source says more.

    As in captures; a reset without PSH or FIN counts as one before any payload.
    """
    count = len(flows["protocol"])
    if "src_packets" not in flows:
        return pa.nulls(count, pa.string())
    protocol = _numbers(flows["protocol"])
    flags = _numbers(flows["tcp_flags"], missing=_SYN)
    both = (_numbers(flows["src_packets"]) > 0) & (_numbers(flows["dst_packets"]) > 0)
    tcp = protocol == 6
    rejected = tcp & (flags & _RST != 0) & (flags & (_FIN | _PSH) == 0)
    state = np.full(count, 4)
    state[tcp & (flags & _SYN == 0)] = 3
    state[~both] = 2
    state[rejected] = 1
    if icmp_type is not None:
        kind = _numbers(icmp_type, missing=-1)
        for number, replies in _REPLIES.items():
            state[(protocol == number) & np.isin(kind, replies) & ~both] = 0
    words = ("unsolicited", "rejected", "one_sided", "midstream", "established")
    return pa.array(words, pa.string()).take(pa.array(state))


def told_conversations(flows: pd.DataFrame) -> pd.Series:
    """Say the same of a frame."""
    columns = {name: flows[name] for name in flows.columns}
    return pd.Series(conversations(columns).to_pandas(), dtype="str")


def _numbers(values: Any, missing: int = 0) -> Any:
    if isinstance(values, pd.Series):
        return values.fillna(missing).to_numpy(dtype=np.int64)
    return pc.fill_null(values, missing).to_numpy(zero_copy_only=False).astype(np.int64)
