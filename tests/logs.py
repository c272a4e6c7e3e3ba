"""Builds small logs of known content, as their writers write them."""

from __future__ import annotations

import json

CONN_FIELDS = {
    "ts": "time",
    "uid": "string",
    "id.orig_h": "addr",
    "id.orig_p": "port",
    "id.resp_h": "addr",
    "id.resp_p": "port",
    "proto": "enum",
    "service": "string",
    "duration": "interval",
    "orig_bytes": "count",
    "resp_bytes": "count",
    "conn_state": "string",
    "local_orig": "bool",
    "local_resp": "bool",
    "missed_bytes": "count",
    "history": "string",
    "orig_pkts": "count",
    "orig_ip_bytes": "count",
    "resp_pkts": "count",
    "resp_ip_bytes": "count",
    "tunnel_parents": "set[string]",
}


def conn(**changed) -> dict[str, object]:
    """One connection as Zeek logs it; names with ``__`` for the dot."""
    row = {
        "ts": 1700000000.25,
        "uid": "CAbc1",
        "id.orig_h": "10.0.0.5",
        "id.orig_p": 40000,
        "id.resp_h": "203.0.113.7",
        "id.resp_p": 443,
        "proto": "tcp",
        "service": "ssl",
        "duration": 1.5,
        "orig_bytes": 1000,
        "resp_bytes": 5000,
        "conn_state": "SF",
        "local_orig": True,
        "local_resp": False,
        "missed_bytes": 0,
        "history": "ShADadFf",
        "orig_pkts": 8,
        "orig_ip_bytes": 1328,
        "resp_pkts": 9,
        "resp_ip_bytes": 5368,
        "tunnel_parents": None,
    }
    return row | {name.replace("__", "."): value for name, value in changed.items()}


def zeek_header(path="conn", fields=CONN_FIELDS, separator="\t", unset="-") -> str:
    lines = [
        f"#separator \\x{ord(separator):02x}",
        separator.join(["#set_separator", ","]),
        separator.join(["#empty_field", "(empty)"]),
        separator.join(["#unset_field", unset]),
        separator.join(["#path", path]),
        separator.join(["#open", "2023-11-14-22-13-20"]),
        separator.join(["#fields", *fields]),
        separator.join(["#types", *fields.values()]),
    ]
    return "".join(line + "\n" for line in lines)


def zeek_line(row, fields=CONN_FIELDS, separator="\t", unset="-") -> str:
    def text(value):
        if value is None:
            return unset
        if isinstance(value, bool):
            return "T" if value else "F"
        return f"{value:.6f}" if isinstance(value, float) else str(value)

    return separator.join(text(row.get(name)) for name in fields) + "\n"


def zeek_tsv(rows, **options) -> bytes:
    header = {k: v for k, v in options.items() if k != "path"}
    text = zeek_header(**options) + "".join(zeek_line(row, **header) for row in rows)
    return (text + "#close\t2023-11-14-23-13-20\n").encode()


def json_lines(rows) -> bytes:
    """As Zeek and Suricata write them: fields without a value are left out."""
    return b"".join(
        json.dumps({k: v for k, v in row.items() if v is not None}).encode() + b"\n"
        for row in rows
    )
