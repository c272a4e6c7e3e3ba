"""Builds logs of hosts of known content, as their writers write them."""

from __future__ import annotations

import json
import socket
import struct
from datetime import UTC, datetime


def sysmon(code=3, *, at="2026-03-09 10:00:00.250", host="WS1", **fields) -> dict:
    """One event of Sysmon as evtx_dump writes it (``-o jsonl``)."""
    usual = {
        1: {"Image": r"C:\Windows\System32\cmd.exe", "CommandLine": "cmd.exe /c dir"},
        3: {
            "Image": r"C:\Program Files\Browser\browser.exe",
            "Protocol": "tcp",
            "Initiated": True,
            "SourceIp": "10.20.0.12",
            "SourcePort": 50000,
            "DestinationIp": "203.0.113.9",
            "DestinationPort": 443,
        },
        11: {
            "Image": r"C:\Windows\explorer.exe",
            "TargetFilename": r"C:\Users\ann\notes.txt",
        },
    }[code]
    data = {"UtcTime": at, "ProcessId": 4242, "User": "WS1\\ann", **usual, **fields}
    return {
        "Event": {
            "System": {
                "Provider": {"#attributes": {"Name": "Microsoft-Windows-Sysmon"}},
                "EventID": code,
                "TimeCreated": {"#attributes": {"SystemTime": at.replace(" ", "T")}},
                "Computer": host,
            },
            "EventData": data,
        }
    }


def winlogbeat(record: dict) -> dict:
    """The same event as winlogbeat sends it, numbers as texts."""
    system, data = record["Event"]["System"], record["Event"]["EventData"]
    return {
        "@timestamp": data["UtcTime"].replace(" ", "T") + "Z",
        "host": {"name": system["Computer"].lower()},
        "winlog": {
            "event_id": str(system["EventID"]),
            "provider_name": "Microsoft-Windows-Sysmon",
            "computer_name": system["Computer"],
            "event_data": {
                name: str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in data.items()
            },
        },
    }


def flat(record: dict) -> dict:
    """The same event with all fields side by side, as NXLog writes it."""
    system, data = record["Event"]["System"], record["Event"]["EventData"]
    return {
        "EventID": system["EventID"],
        "Hostname": system["Computer"],
        "Channel": "Microsoft-Windows-Sysmon/Operational",
        **data,
    }


def with_xml(record: dict) -> dict:
    """The same event with its data as text of XML."""
    event = record["Event"]
    escaped = [
        f'<Data Name="{name}">{str(v).replace("&", "&amp;").replace("<", "&lt;")}</Data>'
        for name, v in event["EventData"].items()
    ]
    return {
        "EventID": event["System"]["EventID"],
        "Computer": event["System"]["Computer"],
        "SourceName": "Microsoft-Windows-Sysmon",
        "EventData": f"<EventData>{''.join(escaped)}</EventData>",
    }


def filtering(**fields) -> dict:
    """One event 5156 of Windows Security, as Microsoft documents it."""
    return {
        "Event": {
            "System": {
                "Provider": {
                    "#attributes": {"Name": "Microsoft-Windows-Security-Auditing"}
                },
                "EventID": 5156,
                "TimeCreated": {
                    "#attributes": {"SystemTime": "2026-03-09T10:00:00.2500000Z"}
                },
                "Computer": "DC01",
            },
            "EventData": {
                "ProcessID": "0x11cc",
                "Application": "\\device\\harddiskvolume2\\windows\\system32\\svchost.exe",
                "Direction": "%%14592",
                "SourceAddress": "10.20.0.12",
                "SourcePort": "3333",
                "DestAddress": "203.0.113.9",
                "DestPort": "49278",
                "Protocol": "6",
                **fields,
            },
        }
    }


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def sockaddr(address: str, port: int) -> str:
    """An address as the kernel holds it on a little-endian machine, in hexadecimal."""
    if ":" in address:
        raw = socket.inet_pton(socket.AF_INET6, address)
        return (
            (struct.pack("<H", 10) + struct.pack(">HI", port, 0) + raw + bytes(4))
            .hex()
            .upper()
        )
    raw = socket.inet_pton(socket.AF_INET, address)
    return (
        (struct.pack("<H", 2) + struct.pack(">H", port) + raw + bytes(8)).hex().upper()
    )


def audit(
    address: str, port: int, *, call=42, serial=1, at=1773050400.25, exe="/usr/bin/curl",
    node="", arch="c000003e",
) -> str:  # fmt: skip
    """SYSCALL and SOCKADDR of one call, as auditd writes them."""
    lead = f"node={node} " if node else ""
    head = f"msg=audit({at:.3f}:{serial}):"
    return (
        f"{lead}type=SYSCALL {head} arch={arch} syscall={call} success=yes exit=0 a0=3 "
        f'items=0 ppid=1 pid=700 auid=1000 uid=33 gid=33 comm="curl" exe="{exe}" '
        'key="net"\x1dARCH=x86_64 UID="www-data"\n'
        f"{lead}type=SOCKADDR {head} saddr={sockaddr(address, port)}\n"
        f"{lead}type=PROCTITLE {head} proctitle=6375726C\n"
    )


def osquery(**columns) -> dict:
    """One row of socket_events that was added, as osqueryd logs it."""
    return {
        "name": "pack_net_socket_events",
        "hostIdentifier": "web-1",
        "calendarTime": "Mon Mar  9 10:00:05 2026 UTC",
        "unixTime": "1773050405",
        "action": "added",
        "columns": {
            "action": "connect",
            "pid": "700",
            "path": "/usr/bin/curl",
            "family": "2",
            "protocol": "6",
            "local_address": "10.20.0.12",
            "local_port": "50000",
            "remote_address": "203.0.113.9",
            "remote_port": "443",
            "time": "1773050400",
            **columns,
        },
    }


def tetragon(**sock) -> dict:
    """A connection as Tetragon exports a probe of tcp_connect."""
    socket_ = {
        "family": "AF_INET", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP",
        "saddr": "10.20.0.12", "daddr": "203.0.113.9", "sport": 50000, "dport": 443,
        **sock,
    }  # fmt: skip
    return {
        "process_kprobe": {
            "process": {"pid": 700, "uid": 33, "binary": "/usr/bin/curl"},
            "function_name": "tcp_connect",
            "args": [{"sock_arg": socket_}, {"int_arg": 39}],
        },
        "node_name": "web-1",
        "time": "2026-03-09T10:00:00.250000000Z",
    }


def falco(**fields) -> dict:
    """A connection as Falco's JSON output shows it."""
    return {
        "hostname": "web-1",
        "rule": "Outbound connection",
        "time": "2026-03-09T10:00:00.250000000Z",
        "output_fields": {
            "evt.type": "connect",
            "proc.exepath": "/usr/bin/curl",
            "proc.pid": 700,
            "user.name": "www-data",
            "fd.l4proto": "tcp",
            "fd.name": "10.20.0.12:50000->203.0.113.9:443",
            **fields,
        },
    }


def microseconds(text: str) -> int:
    """Microseconds since 1970 of a time in UTC."""
    time = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return round(time.timestamp() * 1e6)
