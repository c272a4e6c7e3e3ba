"""The gate of the payload verdicts on real captures: silent on plaintext, sure on ciphertext.

Run as ``python tests/benchmarks/bench_verdicts.py [CAPTURES]``; without an argument
the benign captures below the folder that ``EXFILML_REAL_DATA`` names (nDPI's test
set). Takes about a minute; nothing is kept.

Where the truth comes from
--------------------------
Not from our verdicts or facts. A direction is *plaintext* if nDPI names a protocol
of `PLAIN` after inspection (not by port or address alone) and one of its ports is
registered for it or the capture is named after it. Ports of the same protocols under
TLS and captures whose name says that TLS begins inside (``starttls``, ``stls``) are
left out, and shown apart. HTTP carries bodies of any kind, and its headers alone are plaintext: of HTTP,
what precedes the first blank line is judged as a buffer, and whole directions are
shown apart. *Ciphertext* are TLS application data, by a record walk of this file
(`application_data`), on flows that nDPI calls TLS or whose port is TLS's; and the
tunnels of `TUNNELS`, by capture and port. A capture is made by someone who knew what
runs on which port.

The bytes are those that the extraction kept: its own meter runs here, with flow
states that do not forget what they judged.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from exfilml import payload
from exfilml.sources import _rows
from exfilml.sources._job import Job
from exfilml.sources._meter import meter_by_plugin
from exfilml.sources._plugin import FlowState

PLAIN_TARGET = 0.005
CIPHER_TARGET = 0.95
LEAST_PLAIN = 64
LEAST_CIPHER = 512

PLAIN: dict[str, tuple[int, ...]] = {
    "AJP": (8009,), "AMQP": (5672,), "BACnet": (47808,), "BGP": (179,),
    "CiscoSkinny": (2000,), "COAP": (5683,), "DHCP": (67, 68), "DHCPV6": (546, 547),
    "Diameter": (3868,), "DNP3": (20000,), "DNS": (53,), "FTP_CONTROL": (21,),
    "H323": (1719, 1720), "HL7": (2575,), "HSRP": (1985, 2029), "IEC60870": (2404,),
    "IMAP": (143,), "IRC": (6667,), "ISO9506-1-MMS": (102,), "Jabber": (5222,),
    "LDAP": (389,), "LDP": (646,), "LLMNR": (5355,), "MDNS": (5353,), "MGCP": (2427,),
    "Modbus": (502,), "MQTT": (1883,), "Munin": (4949,), "NAT-PMP": (5351,),
    "NetBIOS": (137, 138, 139), "NetFlow": (2055, 9995), "NFS": (2049,),
    "NTP": (123,), "POP3": (110,), "PTPv2": (319, 320), "Radius": (1812, 1813),
    "RESP": (6379,), "RSH": (514,), "RTSP": (554, 8554), "RTPS": (7400,),
    "S7Comm": (102,), "Service_Location_Protocol": (427,), "sFlow": (6343,),
    "SIP": (5060,), "SMBv1": (139, 445), "SMTP": (25, 587), "SNMP": (161, 162),
    "SSDP": (1900,), "STOMP": (61613,), "Syslog": (514,), "Telnet": (23,),
    "TFTP": (69,), "Usenet": (119,), "Whois-DAS": (43,), "XDMCP": (177,),
}  # fmt: skip
"""Protocols that are plaintext or plain binary by their standard, and their ports."""

UPGRADED = ("starttls", "start-tls", "stls")
HTTP = frozenset({"HTTP", "HTTP_Proxy", "HTTP_Connect", "SOAP"})
TLS_PORTS = frozenset({443, 465, 563, 636, 853, 989, 990, 993, 995, 5061, 5223})

TUNNELS: dict[str, tuple[str, frozenset[int]]] = {
    "shadowsocks.pcap": ("Shadowsocks", frozenset({8388})),
    "tls_heur__shadowsocks-tcp.pcapng": ("Shadowsocks", frozenset({1234})),
    "tls_heur__vmess-tcp.pcapng": ("VMess", frozenset({1234})),
    "tls_heur__vmess-websocket.pcapng": ("VMess in WebSocket", frozenset({1234})),
    "wireguard.pcap": ("WireGuard", frozenset({51820})),
    "mullvad_wireguard.pcap": ("WireGuard", frozenset({5060})),
    "openvpn_obfuscated.pcapng": ("OpenVPN, obfuscated", frozenset({465, 1214, 443})),
}


@dataclass(frozen=True)
class Direction:
    """One direction of a flow: what is known of it, its bytes, and the verdict."""

    capture: str
    app: str
    inspected: bool
    ports: tuple[int, int]
    side: str
    head: bytes
    slices: bytes
    found: payload.PayloadEvidence

    def __str__(self) -> str:
        """Name it as an analyst would look it up."""
        flow = f"{self.ports[0]} > {self.ports[1]} {self.side}"
        found = self.found
        return (
            f"{self.capture:<40.40} {self.app:<26.26} {flow:<18} {found.n_bytes:>5} B "
            f"{found.verdict:<10} p={found.p_random:.1g} body p={found.body_p_random:.1g} "
            f"{found.handshake or found.protocol or found.magic or '-'} "
            f"{self.head[:16].hex()}"
            f"{'' if self.inspected else ' (named by port)'}"
        )


def directions(captures: list[Path]) -> list[Direction]:
    """Read captures; one entry for each direction with payload."""
    found: list[Direction] = []
    capture = ""

    def of_states(states: list[FlowState], columns=_rows._of_states):
        ended, judged = columns(states)
        evidence = map(
            payload.PayloadEvidence._make, zip(*judged.evidence, strict=True)
        )
        sides = [(state, way) for state in states for way in (0, 1)]
        for (state, way), one in zip(sides, evidence, strict=True):
            app, confidence = state.facts[:2]
            side = state.sides[way]
            if one.n_bytes:
                found.append(
                    Direction(
                        capture,
                        app,
                        confidence == payload.INSPECTED,
                        (state.ends[1], state.ends[3]),
                        ("forth", "back")[way],
                        bytes(side.head),
                        bytes(side.slices),
                        one,
                    )
                )
        return ended, judged

    _rows._of_states = of_states
    for path in captures:
        capture = path.name
        try:
            meter_by_plugin(
                Job(str(path), None, 120, 1800, True, capture), lambda _: None
            )
        except _rows.MeterError as error:
            print(f"{capture}: {error}", file=sys.stderr)
    return found


def is_plain(one: Direction) -> bool:
    """Whether the protocol is plaintext, by nDPI's name and the port or the capture."""
    app = one.app.partition(".")[0]
    named = one.capture.lower().startswith(app.lower().partition("_")[0])
    return (
        one.inspected
        and not any(word in one.capture for word in UPGRADED)
        and TLS_PORTS.isdisjoint(one.ports)
        and (named or not {*one.ports}.isdisjoint(PLAIN[app]))
    )


def http_header(head: bytes) -> bytes:
    """Return the first header, all of it where it does not end, and no body."""
    end = head.find(b"\r\n\r\n")
    first = head[:16]
    if not (first.startswith(b"HTTP/1") or first.split(b" ")[0].isalpha()):
        return b""
    return head[: end + 4] if end >= 0 else head


def application_data(one: Direction) -> int:
    """Count the bytes of TLS application data in the head, by their record headers."""
    at, count, head = 0, 0, one.head
    while at + 5 <= len(head) and head[at + 1] == 3 and head[at + 2] <= 4:
        size = int.from_bytes(head[at + 3 : at + 5])
        if not 20 <= head[at] <= 23 or not size:
            break
        if head[at] == 23:
            count += min(size, len(head) - at - 5)
        at += 5 + size
    return count


def tunnel(one: Direction) -> str | None:
    """Name what the capture was made to show on this port."""
    name, ports = TUNNELS.get(one.capture, ("", frozenset()))
    return name if not ports.isdisjoint(one.ports) else None


def report(title: str, groups: dict[str, list[Direction]], *, want: bool) -> float:
    """Print a table and the exceptions; return the share of opaque directions."""
    print(f"\n{title}\n{'':<28} directions opaque concealed  other verdicts")
    for name, rows in sorted(groups.items()):
        verdicts = Counter(one.found.verdict for one in rows)
        opaque = verdicts.pop("opaque", 0)
        concealed = sum(one.found.concealed for one in rows)
        others = ", ".join(f"{v} {n}" for v, n in verdicts.most_common())
        print(f"{name:<28} {len(rows):>10} {opaque:>6} {concealed:>9}  {others}")
    every = [one for rows in groups.values() for one in rows]
    odd = [one for one in every if (one.found.verdict == "opaque") is not want]
    print(f"\n{'not opaque' if want else 'opaque'}, one by one: {len(odd)}")
    for one in odd:
        print("  " + str(one))
    opaque = sum(one.found.verdict == "opaque" for one in every)
    return opaque / len(every) if every else 0.0


def directions_in(groups: dict[str, list[Direction]]) -> int:
    """Count the directions of all groups."""
    return sum(map(len, groups.values()))


def headers_alone(one: Direction) -> Direction:
    """Judge the HTTP header of a direction as a buffer of its own."""
    header = http_header(one.head)
    return replace(one, head=header, slices=b"", found=payload.judge(header))


def is_application_data(one: Direction) -> bool:
    """Whether enough TLS application data was seen where TLS is meant to be."""
    named = one.app.partition(".")[0] == "TLS"
    meant = named or not TLS_PORTS.isdisjoint(one.ports)
    return meant and application_data(one) >= LEAST_CIPHER


def gate(rows: list[Direction]) -> None:
    """Sort the directions by what they are, and print how they were judged."""
    plain: dict[str, list[Direction]] = defaultdict(list)
    whole: dict[str, list[Direction]] = defaultdict(list)
    unsure: dict[str, list[Direction]] = defaultdict(list)
    cipher: dict[str, list[Direction]] = defaultdict(list)
    for one in rows:
        app = one.app.partition(".")[0]
        hidden = tunnel(one)
        if hidden:
            if one.found.n_bytes >= LEAST_CIPHER:
                cipher[hidden].append(one)
        elif is_application_data(one):
            cipher["TLS application data"].append(one)
        elif one.found.n_bytes < LEAST_PLAIN:
            continue
        elif app in HTTP:
            whole[app].append(one)
            header = headers_alone(one)
            if header.found.n_bytes >= LEAST_PLAIN:
                plain["HTTP headers"].append(header)
        elif app in PLAIN:
            (plain if is_plain(one) else unsure)[app].append(one)
    print_gate(plain, cipher, whole, unsure)


def print_gate(
    plain: dict[str, list[Direction]],
    cipher: dict[str, list[Direction]],
    whole: dict[str, list[Direction]],
    unsure: dict[str, list[Direction]],
) -> None:
    """Print the tables, and whether the targets are met."""
    silent = report(f"plaintext, {LEAST_PLAIN} B and more", plain, want=False)
    sure = report(f"ciphertext, {LEAST_CIPHER} B and more", cipher, want=True)
    report("for information: HTTP with its bodies", whole, want=False)
    left_out = report("for information: plaintext by name only", unsure, want=False)
    for title, share, groups, meets, target in (
        ("P(opaque) on plaintext", silent, plain, silent < PLAIN_TARGET, "< 0.5 %"),
        ("P(opaque) on ciphertext", sure, cipher, sure > CIPHER_TARGET, "> 95 %"),
    ):
        count = directions_in(groups)
        print(
            f"\n{title}: {100 * share:.2f} % of {count} directions, "
            f"target {target}: {'met' if meets and count else 'MISSED'}"
        )
    count, rest = directions_in(plain), directions_in(unsure)
    if rest:
        share = (silent * count + left_out * rest) / (count + rest)
        print(f"with what is plaintext by name only: {100 * share:.2f} %")


def main() -> None:
    """Print the tables, or say why there are none."""
    if len(sys.argv) > 1:
        source = Path(sys.argv[1])
    elif "EXFILML_REAL_DATA" in os.environ:
        source = Path(os.environ["EXFILML_REAL_DATA"]) / "pcap" / "benign"
    else:
        print("skipped: EXFILML_REAL_DATA names no folder of real captures")
        return
    captures = sorted(path for path in source.iterdir() if "pcap" in path.suffix)
    payload.warm_up()
    gate(directions(captures))


if __name__ == "__main__":
    main()
