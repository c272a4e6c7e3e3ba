"""Builds NetFlow 5, 9 and IPFIX datagrams of known content, as exporters send them."""

from __future__ import annotations

import ipaddress
import struct

EXPORTED = 1_700_000_000
UPTIME = 10_000_000
# Element → bytes, of a template that most exporters have.
COMMON = {8: 4, 12: 4, 7: 2, 11: 2, 4: 1, 6: 1, 1: 4, 2: 4, 22: 4, 21: 4}
ABSOLUTE = {8: 4, 12: 4, 7: 2, 11: 2, 4: 1, 6: 1, 1: 8, 2: 8, 152: 8, 153: 8}
VARIABLE = 65535


def ip(text: str) -> int:
    return int(ipaddress.ip_address(text))


def there(**changed) -> dict[int, int]:
    """One direction of a conversation; the other is `back`."""
    record = {
        8: ip("10.0.0.5"),
        12: ip("203.0.113.7"),
        7: 40000,
        11: 443,
        4: 6,
        6: 0x1B,
        1: 1328,
        2: 8,
        22: UPTIME - 5000,
        21: UPTIME - 3500,
        152: EXPORTED * 1000 - 5000,
        153: EXPORTED * 1000 - 3500,
    }
    return record | {int(k[1:]): v for k, v in changed.items()}


def back(**changed) -> dict[int, int]:
    ends = {"e8": ip("203.0.113.7"), "e12": ip("10.0.0.5"), "e7": 443, "e11": 40000}
    return there(**(ends | {"e1": 5368, "e2": 9} | changed))


def v5(*records, sampling=0, count=None) -> bytes:
    data = struct.pack(
        "!HHIIIIBBH", 5, len(records) if count is None else count, UPTIME, EXPORTED,
        0, 1, 0, 0, sampling,
    )  # fmt: skip
    for r in records:
        data += struct.pack(
            "!IIIHHIIIIHHBBBBHHBBH",
            *(r[8], r[12], 0, 0, 0, r[2], r[1], r[22], r[21], r[7], r[11]),
            *(0, r[6], r[4], 0, 0, 0, 0, 0, 0),
        )
    return data


def content(record, template) -> bytes:
    """One record; elements of enterprises are pairs of number and enterprise."""
    data = b""
    for element, size in template.items():
        value = record.get(element, 0)
        if isinstance(value, bytes):
            assert size in {VARIABLE, len(value)}
            data += (bytes([len(value)]) if size == VARIABLE else b"") + value
        else:
            data += value.to_bytes(size)
    return data


def flow_set(number, data) -> bytes:
    data += b"\0" * (-len(data) % 4)
    return struct.pack("!HH", number, 4 + len(data)) + data


def specifiers(template) -> bytes:
    data = b""
    for element, size in template.items():
        if isinstance(element, tuple):
            data += struct.pack("!HHI", element[0] | 0x8000, size, element[1])
        else:
            data += struct.pack("!HH", element, size)
    return data


def template_set(number, template, version=9) -> bytes:
    head = struct.pack("!HH", number, len(template))
    return flow_set(0 if version == 9 else 2, head + specifiers(template))


def options_set(number, scope, template, version=9) -> bytes:
    if version == 9:
        head = struct.pack("!HHH", number, 4 * len(scope), 4 * len(template))
        return flow_set(1, head + specifiers(scope) + specifiers(template))
    head = struct.pack("!HHH", number, len(scope) + len(template), len(scope))
    return flow_set(3, head + specifiers(scope) + specifiers(template))


def data_set(number, template, *records) -> bytes:
    return flow_set(number, b"".join(content(r, template) for r in records))


def v9(*sets, domain=1) -> bytes:
    head = struct.pack("!HHIIII", 9, len(sets), UPTIME, EXPORTED, 1, domain)
    return head + b"".join(sets)


def ipfix(*sets, domain=1) -> bytes:
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body), EXPORTED, 1, domain) + body


def capture(*datagrams, exporter="192.0.2.1", port=2055, others=0) -> bytes:
    """A pcap of datagrams in UDP, and of packets that are none."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for payload in (*datagrams, *[b"no export"] * others):
        udp = struct.pack("!HHHH", 5000, port, 8 + len(payload), 0) + payload
        header = struct.pack(
            "!BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, ip(exporter),
            ip("192.0.2.99"),
        )  # fmt: skip
        frame = b"\2" * 12 + b"\x08\x00" + header + udp
        data += struct.pack("<IIII", EXPORTED, 0, len(frame), len(frame)) + frame
    return data
