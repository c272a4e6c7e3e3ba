"""OCSF events of network activity (class 4001), as JSON and as Parquet.

Fields: schema.ocsf.io, class "Network Activity", objects "Network Traffic", "Network
Connection Information", "Network Endpoint". Parquet has the same fields in structs, as
Amazon Security Lake delivers it. Events of other classes are passed over and counted,
and so are those that count no bytes, such as openings.

**Bytes**: ``bytes_out`` is "sent from the source to the destination", ``bytes_in`` the
other way. OCSF does not say of which layer; they are taken as IP bytes, which holds as
far as the producer's own log does. Where only the total is told (``bytes``), as by VPC
flow logs, the record counts as one direction, and those of both are paired
(`_vantages`); producers who mean both directions by it are named in a warning.

**Times** are milliseconds. A flow starts at ``start_time``, else ``duration`` before
``end_time``, else at ``time``.

**Process** is the actor's, where an agent on the host reports it. **Server name** is
that of TLS, else the name that the destination goes under.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._events import (
    Account,
    Made,
    Numbered,
    flows_of_records,
    json_tables,
    one,
    parquet_tables,
    whole_numbers,
)
from exfilml.sources._logs import flows_of, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE
from exfilml.sources._words import (
    APPLICATIONS,
    UNKNOWN_PROTOCOL,
    conversations,
    named,
    protocol_numbers,
)

NAME: Final = "OCSF"
NETWORK_ACTIVITY: Final = 4001
_CLASS: Final = re.compile(rb'"class_uid"\s*:\s*"?[0-9]')
_TEXT: Final = pa.string()
_COUNT: Final = pa.int64()
_ENDPOINT: Final = {
    "ip": _TEXT,
    "port": _COUNT,
    "hostname": _TEXT,
    "interface_uid": _TEXT,
}
_NAMED: Final = pa.struct({"name": _TEXT})
_SCHEMA: Final = pa.schema(
    {
        "class_uid": _COUNT,
        "time": _COUNT,
        "start_time": _COUNT,
        "end_time": _COUNT,
        "duration": _COUNT,
        "src_endpoint": pa.struct(_ENDPOINT),
        "dst_endpoint": pa.struct(_ENDPOINT),
        "traffic": pa.struct(
            {
                f"{what}{way}": _COUNT
                for what in ("bytes", "packets")
                for way in ("", "_in", "_out")
            }
        ),
        "connection_info": pa.struct(
            {
                "protocol_num": _COUNT,
                "protocol_name": _TEXT,
                "tcp_flags": _COUNT,
                "uid": _TEXT,
            }
        ),
        "app_name": _TEXT,
        "tls": pa.struct(
            {
                "sni": _TEXT,
                "ja3_hash": pa.struct({"value": _TEXT}),
            }
        ),
        "actor": pa.struct({"process": _NAMED}),
        "process": _NAMED,
        "device": pa.struct({"hostname": _TEXT}),
        "metadata": pa.struct({"uid": _TEXT, "product": _NAMED}),
    }
)
_OTHER: Final = "events of other classes"
_NO_COUNTS: Final = "events that count no bytes"
_TOTALS: Final = "with totals of unknown direction"


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are events of OCSF."""
    return head.lstrip()[:1] in (b"{", b"[") and _CLASS.search(head) is not None


def is_table(names: frozenset[str]) -> bool:
    """Say from the names of its columns whether a Parquet file holds OCSF events."""
    return {"class_uid", "src_endpoint", "dst_endpoint"} <= names


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one event could be read.
    """
    account = Account(path)
    with open_plain(path, options.advance) as plain:
        tables = json_tables(plain, _SCHEMA, account.bad)
        yield from _read(tables, account, options)
        damage = plain.damage
    yield account.losses(damage)


def stream_parquet(path: Path, options: Options) -> Iterator[Reading]:
    """Read a Parquet file piece by piece.

    Raises
    ------
    SourceError
        If the file is damaged.
    """
    account = Account(path)
    tables = parquet_tables(path, _SCHEMA.names, account.bad)
    yield from _read(tables, account, options)
    yield account.losses(None)


def _read(
    tables: Iterator[Numbered], account: Account, options: Options
) -> Iterator[Reading]:
    make = functools.partial(_made, account=account)
    return flows_of_records(tables, make, account, options)


def _made(table: pa.Table, lines: Any, account: Account) -> Made:
    ours = pc.equal(whole_numbers(one(table, "class_uid")), NETWORK_ACTIVITY)
    table, lines = account.keep(_OTHER, ours, table, lines)
    out, back, total = (
        whole_numbers(one(table, "traffic", name))
        for name in ("bytes_out", "bytes_in", "bytes")
    )
    counts = pc.is_valid(pc.coalesce(out, back, total))
    table, lines = account.keep(_NO_COUNTS, counts, table, lines)
    told = pc.or_(
        pc.is_valid(one(table, "traffic", "bytes_out")),
        pc.is_valid(one(table, "traffic", "bytes_in")),
    )
    product = one(table, "metadata", "product", "name").cast(_TEXT)
    known = pc.or_(told, pc.match_substring(pc.fill_null(product, ""), "VPC"))
    account.note(
        _TOTALS,
        "events tell the total of bytes alone, which counts as sent by the source",
        len(known) - (pc.sum(known).as_py() or 0),
    )
    complete, halves = (
        flows_of(
            _columns(table.filter(mask).combine_chunks(), both=both),
            lines[mask.to_numpy(zero_copy_only=False)],
            0,
            account.bad,
        )
        for mask, both in ((told, True), (pc.invert(told), False))
    )
    return complete, halves


def _columns(table: pa.Table, *, both: bool) -> dict[str, Any]:
    def number(*place: str) -> Any:
        return whole_numbers(one(table, *place))

    def text(*place: str) -> Any:
        return one(table, *place).cast(_TEXT)

    src_ip = text("src_endpoint", "ip").dictionary_encode()
    words = pc.coalesce(
        number("connection_info", "protocol_num").cast(_TEXT),
        text("connection_info", "protocol_name"),
        pa.scalar(str(UNKNOWN_PROTOCOL)),
    )
    protocol = protocol_numbers(words, src_ip)
    length = number("duration")
    start = pc.coalesce(
        number("start_time"), pc.subtract(number("end_time"), length), number("time")
    )
    start = pc.if_else(pc.less(pc.abs(start), 10**15), start, None)
    span = pc.coalesce(length, pc.subtract(number("end_time"), start))
    flags = number("connection_info", "tcp_flags")
    columns: dict[str, Any] = {
        "start": pc.multiply(start, 1000),
        "duration_s": pc.divide(span.cast(pa.float64(), safe=False), 1e3),
        "src_ip": src_ip,
        "src_port": pc.fill_null(number("src_endpoint", "port"), 0),
        "dst_ip": text("dst_endpoint", "ip").dictionary_encode(),
        "dst_port": pc.fill_null(number("dst_endpoint", "port"), 0),
        "protocol": protocol,
        "tcp_flags": pc.if_else(pc.equal(protocol, 6), flags, None),
        "app": named(_TEXT, text("app_name"), APPLICATIONS),
        "server_name": pc.coalesce(
            text("tls", "sni"), text("dst_endpoint", "hostname")
        ),
        "fingerprint": text("tls", "ja3_hash", "value"),
        "process": pc.coalesce(
            text("actor", "process", "name"), text("process", "name")
        ),
        "sensor": pc.coalesce(
            text("src_endpoint", "interface_uid"),
            text("dst_endpoint", "interface_uid"),
            text("device", "hostname"),
        ),
        "uid": pc.coalesce(text("connection_info", "uid"), text("metadata", "uid")),
    }
    for what in ("bytes", "packets"):
        if both:
            # One direction that is not told sent nothing, if the other is.
            out, back = (number("traffic", f"{what}{way}") for way in ("_out", "_in"))
            either = pc.or_(pc.is_valid(out), pc.is_valid(back))
            columns[f"src_{what}"], columns[f"dst_{what}"] = (
                pc.if_else(either, pc.fill_null(count, 0), None)
                for count in (out, back)
            )
        else:
            columns[f"src_{what}"] = number("traffic", what)
            told = pc.is_valid(columns[f"src_{what}"])
            columns[f"dst_{what}"] = pc.if_else(told, pa.scalar(0, _COUNT), None)
    if both:
        columns["conn_state"] = conversations(columns)
    else:
        columns[VANTAGE] = columns["sensor"]
    return columns
