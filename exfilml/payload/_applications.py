"""Checks the application that the packet engine names against the payload.

nDPI's word alone is no verification: it names raw ciphertext on UDP 53 "DNS", and
even its highest confidence, inspection, was wrong for half of random-byte UDP flows
to port 123. An application counts as verified when nDPI inspected payload **and** our
own structural check of either direction finds what that application must show.

Names are nDPI's. The part before the dot is the protocol on the wire, the part
behind it the service at the other end, which is often known from a name or an
address alone and needs no check of its own: ``TLS.Google`` is verified as TLS. Names
of services alone (``Spotify``) are no protocols we know a grammar of; they stay
unverified.
"""

from __future__ import annotations

import functools
from typing import Final

from exfilml.payload._evidence import PayloadEvidence

# ndpi_confidence_t: NDPI_CONFIDENCE_DPI. 7 is "by address", and says nothing
# about the payload.
INSPECTED: Final = 6

_TLS: Final = frozenset({"tls"})
_HTTP: Final = frozenset({"http"})

# Upper-case wire protocol to what `payload` calls a matching handshake or grammar.
# A protocol that may run in the clear or under TLS accepts both.
AGREES: Final[dict[str, frozenset[str]]] = {
    "TLS": _TLS,
    "HTTPS": _TLS,
    "DOH_DOT": _TLS,
    "FTPS": _TLS | {"ftp"},
    "IMAPS": _TLS | {"imap"},
    "POPS": _TLS | {"pop3"},
    "SMTPS": _TLS | {"smtp"},
    "TOR": _TLS,
    "QUIC": frozenset({"quic"}),
    "DTLS": frozenset({"dtls"}),
    "HTTP": _HTTP,
    "HTTP_CONNECT": _HTTP,
    "HTTP_PROXY": _HTTP,
    "SOAP": _HTTP,
    "OCSP": _HTTP,
    "WEBSOCKET": _HTTP,
    "IPP": _HTTP,
    "SSDP": frozenset({"ssdp"}),
    "DNS": frozenset({"dns"}),
    "MDNS": frozenset({"dns"}),
    "LLMNR": frozenset({"dns"}),
    "SSH": frozenset({"ssh"}),
    "SMTP": frozenset({"smtp"}),
    "FTP_CONTROL": frozenset({"ftp"}),
    "POP3": frozenset({"pop3"}),
    "IMAP": frozenset({"imap"}),
    "USENET": frozenset({"nntp"}),
    "IRC": frozenset({"irc"}),
    "JABBER": frozenset({"xmpp"}),
    "SIP": frozenset({"sip"}),
    "RTSP": frozenset({"rtsp"}),
    "NTP": frozenset({"ntp"}),
    "DHCP": frozenset({"dhcp"}),
    "SNMP": frozenset({"snmp"}),
    "SYSLOG": frozenset({"syslog"}),
    "RADIUS": frozenset({"radius"}),
    "TFTP": frozenset({"tftp"}),
    "NETBIOS": frozenset({"netbios", "dns"}),
    "SMBV1": frozenset({"smb"}),
    "SMBV23": frozenset({"smb", "smb3"}),
    "LDAP": frozenset({"ldap"}),
    "RDP": frozenset({"rdp", "tls"}),
    "STUN": frozenset({"stun"}),
    "WIREGUARD": frozenset({"wireguard"}),
    "OPENVPN": frozenset({"openvpn"}),
    "IPSEC": frozenset({"ipsec"}),
    "BITTORRENT": frozenset({"bittorrent"}),
    "MQTT": frozenset({"mqtt"}),
    "AMQP": frozenset({"amqp"}),
    "SOCKS": frozenset({"socks"}),
    "MYSQL": frozenset({"mysql"}),
    "POSTGRESQL": frozenset({"postgresql"}),
    "RESP": frozenset({"redis"}),
    "RTP": frozenset({"rtp"}),
    "SRTP": frozenset({"rtp"}),
    "KERBEROS": frozenset({"kerberos"}),
    "TELNET": frozenset({"telnet"}),
    "PPTP": frozenset({"pptp"}),
    "GRE": frozenset({"pptp"}),
    "TEREDO": frozenset({"teredo"}),
    "TAILSCALE": frozenset({"tailscale"}),
    "TINC": frozenset({"tinc"}),
    "WHATSAPP": frozenset({"whatsapp"}),
    "DISCORD": frozenset({"discord"}),
    "DNSCRYPT": frozenset({"dnscrypt"}),
    "GIT": frozenset({"git"}),
}

# Applications that are an IP protocol: its number in the IP header is the check.
_IP_PROTOCOLS: Final = {1: "ICMP", 2: "IGMP", 58: "ICMPV6"}


def is_verified(
    app: str,
    protocol: int,
    confidence: int,
    sides: tuple[PayloadEvidence, PayloadEvidence],
) -> bool:
    """Say whether inspection and our own check of the payload name the same protocol.

    Parameters
    ----------
    app
        nDPI's name, master protocol first.
    protocol
        IANA number of the IP protocol.
    confidence
        nDPI's confidence.
    sides
        Evidence of both directions; one that agrees is enough.
    """
    shown = [name for side in sides for name in (side.handshake, side.protocol)]
    return agrees(app, protocol, confidence, *shown)


@functools.lru_cache(maxsize=4096)
def agrees(app: str, protocol: int, confidence: int, *shown: str | None) -> bool:
    """Say the same of handshakes and grammars that were found in both directions."""
    if confidence != INSPECTED:
        return False
    if app == _IP_PROTOCOLS.get(protocol):
        return True
    expected = AGREES.get(app.partition(".")[0].upper(), frozenset())
    return not expected.isdisjoint(shown)
