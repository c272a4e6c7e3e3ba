"""Flow logs of Azure: of virtual networks, and of network security groups.

Fields: learn.microsoft.com, "Virtual network flow logs" and "Flow logging for network
security groups". A file holds ``records``, one a minute and interface, and they hold
tuples in texts: ``1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580``
(VNet, milliseconds) or ``1542110377,10.0.0.4,192.0.2.49,28746,443,T,O,A,E,25,3768,
31,5580`` (NSG version 2, seconds).

**Bytes** of both directions: "packet bytes include the packet header and payload";
taken as IP bytes. They count "since the last update": those of the states C and E of
one flow are added up, B has none. Updates come every five minutes, so that a flow here
ends with six minutes of silence if the idle timeout is shorter.

NSG logs of version 1 count nothing, and denied flows moved nothing: those are passed
over and counted. What one interface of a log sends to another is recorded at both, by
their MAC addresses: it counts once (`_vantages`). Azure writes a file an interface;
join files (``cat``) to have that told. Encryption by Azure's own hosts (``X``) is below
the flow, and not shown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import SourceError
from exfilml.sources import _delimited
from exfilml.sources._delimited import TEXT, Layout
from exfilml.sources._documents import records
from exfilml.sources._events import Account, Made, Numbered, flows_of_records
from exfilml.sources._lines import Block, shown
from exfilml.sources._logs import flows_of, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE

NAME: Final = "Azure flow log"
IDLE: Final = 360
_TUPLES: Final = 1 << 16
_FLOWS: Final = re.compile(rb'"flowTuples"\s*:')
_NO_COUNTS: Final = "tuples of version 1, which count no bytes"
_DENIED: Final = "tuples of denied flows"
_COUNTS: Final = ("src_packets", "src_bytes", "dst_packets", "dst_bytes")
_ENDS: Final = ("time", "src_ip", "dst_ip", "src_port", "dst_port", "protocol")
_NAMES: Final = {
    "vnet": (*_ENDS, "direction", "state", "encryption", *_COUNTS),
    "nsg": (*_ENDS, "direction", "decision", "state", *_COUNTS),
}
_TRANSPORTS: Final = {"T": 6, "U": 17}
# Later than any second, earlier than any millisecond.
_MILLISECONDS: Final = 10**11


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flow logs of Azure."""
    return head.lstrip()[:1] in (b"{", b"[") and _FLOWS.search(head) is not None


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one flow could be read, or nothing counts bytes.
    """
    account = Account(path)
    options = replace(options, idle_timeout=max(options.idle_timeout, IDLE))
    with open_plain(path, options.advance) as plain:
        make = functools.partial(_made, account=account)
        tables = _tables(plain, account)
        yield from flows_of_records(tables, make, account, options)
    if account.passed[_NO_COUNTS] and not account.flows:
        raise SourceError(
            f"{path}: NSG flow logs of version 1, which count no bytes. Have version 2 "
            "written, or flow logs of the virtual network."
        )
    yield account.losses(plain.damage)


@dataclass(slots=True)
class _Waiting:
    """Tuples of one kind that wait to be read together."""

    first: int
    texts: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def _tables(plain: Any, account: Account) -> Iterator[Numbered]:
    waiting: dict[str, _Waiting] = {}
    number = 1
    for text, record in records(plain):
        found = _tuples(record) if isinstance(record, dict) else None
        if found is None:
            account.bad.lines += 1
            account.bad.add(number, f"no record of a flow log: {shown(text)}")
            number += 1
            continue
        kind, place, tuples = found
        if kind not in waiting:
            waiting[kind] = _Waiting(number)
        held = waiting[kind]
        held.texts += tuples
        held.places += [place] * len(tuples)
        number += len(tuples)
        if len(held.texts) >= _TUPLES:
            yield from _parsed(kind, waiting.pop(kind), account)
    for kind, held in waiting.items():
        yield from _parsed(kind, held, account)


def _tuples(record: dict[str, Any]) -> tuple[str, str, list[str]] | None:
    """Return the kind of a record, its interface and its tuples."""
    outer = record.get("flowRecords")
    kind, within = "vnet", "flowGroups"
    if outer is None:
        outer, kind, within = record.get("properties"), "nsg", "flows"
    mac = record.get("macAddress")
    groups = outer.get("flows") if isinstance(outer, dict) else None
    if not isinstance(groups, list):
        return None
    found: list[str] = []
    for group in groups:
        inner = group.get(within) if isinstance(group, dict) else None
        for flow in inner if isinstance(inner, list) else ():
            if not isinstance(flow, dict):
                continue
            mac = flow.get("mac", mac)
            texts = flow.get("flowTuples")
            # A text that has ends of lines is no tuple, and would count as several.
            found += [
                " ".join(text.split()) or "-"
                for text in (texts if isinstance(texts, list) else ())
                if isinstance(text, str)
            ]
    return kind, mac if isinstance(mac, str) else "", found


def _parsed(kind: str, held: _Waiting, account: Account) -> Iterator[Numbered]:
    """Read tuples, which are lines of fields."""
    fields = np.array([text.count(",") for text in held.texts])
    places = np.array(held.places, dtype=object)
    full = fields != 7 if kind == "nsg" else np.ones(len(fields), dtype=bool)
    account.pass_over(_NO_COUNTS, int((~full).sum()))
    account.bad.lines += int((~full).sum())
    texts = [text for text, kept in zip(held.texts, full, strict=True) if kept]
    places = places[full]
    if not texts:
        return
    names = _NAMES[kind]
    whole_numbers = {"time", "src_port", "dst_port", *_COUNTS}
    wanted = {
        name: pa.int64() if name in whole_numbers else TEXT
        for name in names
        if name not in {"direction", "encryption"}
    }
    layout = Layout(names, wanted, frozenset(_ENDS), ",")
    data = "\n".join(texts).encode("utf-8", "replace") + b"\n"
    found = _delimited.read_block(
        Block(data, held.first, len(texts)), layout, account.bad
    )
    if found is None:
        return
    rows = found.table.num_rows
    at = np.arange(rows) if found.lines is None else found.lines - held.first
    table = found.table.combine_chunks().append_column(
        "place", pa.array(places[at], pa.string())
    )
    yield table, at + held.first


def _made(table: pa.Table, lines: Any, account: Account) -> Made:
    def column(name: str) -> Any:
        return table.column(name).combine_chunks()

    denied = pc.equal(column("state").cast(pa.string()), "D")
    if "decision" in table.column_names:
        refused = pc.equal(column("decision").cast(pa.string()), "D")
        denied = pc.or_kleene(denied, refused)
    kept = pc.invert(pc.fill_null(denied, False))
    table, lines = account.keep(_DENIED, kept, table, lines)
    begun = pc.fill_null(pc.equal(column("state").cast(pa.string()), "B"), False)
    time = column("time")
    time = pc.if_else(pc.less(pc.abs(time), 10**15), time, None)
    time = pc.if_else(
        pc.less(time, _MILLISECONDS),
        pc.multiply(time, 1_000_000),
        pc.multiply(time, 1000),
    )
    words = column("protocol")
    numbers = [_number(word.strip()) for word in words.dictionary.to_pylist()]
    columns: dict[str, Any] = {
        "start": time,
        "duration_s": pa.repeat(pa.scalar(0.0), table.num_rows),
        "src_ip": column("src_ip"),
        "src_port": column("src_port"),
        "dst_ip": column("dst_ip"),
        "dst_port": column("dst_port"),
        "protocol": pa.array(numbers, pa.int64()).take(words.indices),
        "sensor": column("place"),
        VANTAGE: column("place"),
    }
    for name in _COUNTS:
        columns[name] = pc.if_else(begun, pc.fill_null(column(name), 0), column(name))
    return pd.DataFrame(), flows_of(columns, lines, 0, account.bad)


def _number(word: str) -> int | None:
    if word.isdecimal() and len(word) < 9:
        return int(word)
    return _TRANSPORTS.get(word)
