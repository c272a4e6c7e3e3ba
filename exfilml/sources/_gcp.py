"""VPC flow logs of Google Cloud, as Cloud Logging exports them: JSON lines or arrays.

Fields: cloud.google.com, "About VPC Flow Logs records"; entries as of ``gcloud logging
read --format=json`` and of sinks, with the record in ``jsonPayload``.

**Bytes** are the "estimated number of user payload bytes sent from the source to the
destination": payload. The flows table has the shortest headers added for each packet
(20 or 40 bytes of IP, 20 of TCP, 8 of UDP and others), and the payload in its own
columns.

**Sampling**: Google sees a sample of packets and estimates the totals itself, so that
nothing is multiplied here. Small flows may be missed, and counts are estimates.

**Directions** are records of their own, one for each interval: `_vantages` pairs and
sums them. Within the network a flow is reported by its source and by its destination
(``reporter``): it counts once, as the reporter says that saw the most.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._events import (
    Account,
    Made,
    flows_of_records,
    json_tables,
    one,
    say_payload,
    whole_numbers,
)
from exfilml.sources._logs import flows_of, microseconds, whole, with_headers
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE

NAME: Final = "Google Cloud VPC flow log"
_PAYLOAD: Final = re.compile(rb'"jsonPayload"\s*:')
_CONNECTION: Final = re.compile(rb'"(?:src_ip|dest_ip)"\s*:')
_TEXT: Final = pa.string()
_OTHER: Final = "entries of other logs"


def _schema(count: Any) -> pa.Schema:
    ends = {"src_ip": _TEXT, "dest_ip": _TEXT}
    ports = dict.fromkeys(("src_port", "dest_port", "protocol"), pa.int64())
    vm = pa.struct({"vm_name": _TEXT})
    record = {
        "connection": pa.struct(ends | ports),
        "bytes_sent": count,
        "packets_sent": count,
        "start_time": _TEXT,
        "end_time": _TEXT,
        "reporter": _TEXT,
        "src_instance": vm,
        "dest_instance": vm,
    }
    return pa.schema({"jsonPayload": pa.struct(record)})


# Cloud Logging writes counts of 64 bits as texts, other exports as numbers.
_SCHEMAS: Final = (_schema(pa.int64()), _schema(_TEXT))


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flow logs of Google Cloud."""
    return (
        head.lstrip()[:1] in (b"{", b"[")
        and _PAYLOAD.search(head) is not None
        and b'"connection"' in head
        and _CONNECTION.search(head) is not None
        and b'"bytes_sent"' in head
    )


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one entry could be read.
    """
    account = Account(path)
    with open_plain(path, options.advance) as plain:
        tables = json_tables(plain, _SCHEMAS[0], account.bad, _SCHEMAS[1])
        make = functools.partial(_made, account=account)
        readings = flows_of_records(tables, make, account, options, say_payload)
        yield from readings
    yield account.losses(plain.damage)


def _made(table: pa.Table, lines: Any, account: Account) -> Made:
    kept = pc.is_valid(one(table, "jsonPayload", "connection"))
    table, lines = account.keep(_OTHER, kept, table, lines)

    def ends(name: str) -> Any:
        return one(table, "jsonPayload", "connection", name)

    def number(name: str) -> Any:
        return whole_numbers(one(table, "jsonPayload", name))

    start, end = (
        microseconds(one(table, "jsonPayload", name))
        for name in ("start_time", "end_time")
    )
    # Protocols without ports leave them out.
    protocol = ends("protocol")
    src_ip = ends("src_ip")
    octets = number("bytes_sent")
    packets = number("packets_sent")
    zero = pa.repeat(pa.scalar(0, pa.int64()), table.num_rows)
    reporter = one(table, "jsonPayload", "reporter")
    by_source = pc.fill_null(pc.starts_with(reporter, "SRC"), True)
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pc.divide(
            pc.subtract(end, start).cast(pa.float64(), safe=False), 1e6
        ),
        "src_ip": src_ip.dictionary_encode(),
        "src_port": pc.fill_null(ends("src_port"), 0),
        "dst_ip": ends("dest_ip").dictionary_encode(),
        "dst_port": pc.fill_null(ends("dest_port"), 0),
        "protocol": protocol,
        "src_bytes": with_headers(
            octets, packets, protocol, pc.match_substring(src_ip, ":")
        ),
        "dst_bytes": zero,
        "src_packets": packets,
        "dst_packets": pc.if_else(pc.is_valid(packets), zero, None),
        "sensor": pc.if_else(
            by_source,
            one(table, "jsonPayload", "src_instance", "vm_name"),
            one(table, "jsonPayload", "dest_instance", "vm_name"),
        ),
        VANTAGE: reporter,
    }
    return pd.DataFrame(), flows_of(columns, lines, 0, account.bad)
