"""Events in the Elastic Common Schema: Packetbeat's flows, and what Filebeat ingests.

Fields: elastic.co, "ECS field reference"; Packetbeat's "Flow Event fields" and
"Configure flows". JSON lines or arrays, fields within fields or with dots in their
names, bare or as Elasticsearch returns them (``_source``).

**Bytes** are whatever the writer counts. Packetbeat counts captured packets whole
(``ci.Length`` in its decoder.go), and Suricata too (`_eve`): the Ethernet header is
taken off each packet. All others are taken as IP bytes, which is what Elastic's
pipelines for Zeek (``orig_ip_bytes``), NetFlow and VPC flow logs put there.

**Reports**: Packetbeat reports a flow that goes on every ten seconds, with all that it
counted so far: the last report counts (``flow.final``, or the last in the file). With
``enable_delta_flow_reports`` it counts from report to report, which only shows where
counts shrink: a warning says so then.

Events that are no flows (Packetbeat's transactions, Suricata's alerts) or count no
bytes are passed over and counted. Where the destination's bytes are not told, a record
is one direction, and those of both are paired (`_vantages`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    whole_numbers,
)
from exfilml.sources._logs import bare_bytes, flows_of, microseconds, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._pairs import MOST_HELD
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE
from exfilml.sources._words import (
    APPLICATIONS,
    UNKNOWN_PROTOCOL,
    named,
    protocol_numbers,
)

NAME: Final = "Elastic ECS"
_TEXTS: Final = (
    *("@timestamp", "source.ip", "destination.ip", "network.transport"),
    *("network.application", "network.protocol", "event.start", "event.end"),
    *("event.module", "event.dataset", "agent.type", "type", "flow.id", "process.name"),
    *("tls.client.server_name", "tls.client.ja3", "destination.domain", "url.domain"),
    *("user_agent.original", "observer.name", "agent.name", "event.id", "event.kind"),
    *("suricata.eve.event_type", "aws.vpcflow.interface_id", "network.iana_number"),
)
_COUNTS: Final = (
    *("source.port", "source.bytes", "source.packets", "destination.port"),
    *("destination.bytes", "destination.packets", "network.bytes", "network.packets"),
    "event.duration",
)
_NO_FLOW: Final = "events that are no flows"
_NO_COUNTS: Final = "events that count no bytes"
# Says of a report that it is not the last.
_GOES_ON: Final = "goes_on"
_DELTAS: Final = "with counts that shrink"
_ENDS: Final = tuple(
    re.compile(rf'"{way}"\s*:\s*\{{|"{way}\.(?:ip|bytes)"\s*:'.encode())
    for way in ("source", "destination")
)


def _schema(count: Any) -> pa.Schema:
    """Return fields within fields, and the same with dots in their names."""
    kinds = {
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict.fromkeys(_COUNTS, count),
        "flow.final": pa.bool_(),
    }
    tree: dict[str, Any] = {}
    for name, kind in kinds.items():
        *outer, last = name.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = kind
    dotted = {name: kind for name, kind in kinds.items() if "." in name}
    return pa.schema([*_struct(tree), *pa.schema(dotted)])


def _struct(tree: dict[str, Any]) -> Any:
    return pa.struct(
        {
            name: _struct(inner) if isinstance(inner, dict) else inner
            for name, inner in tree.items()
        }
    )


_SCHEMAS: Final = (_schema(pa.int64()), _schema(pa.string()))


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are events of ECS."""
    return (
        head.lstrip()[:1] in (b"{", b"[")
        and (b'"@timestamp"' in head or b'"event.start"' in head)
        and all(end.search(head) for end in _ENDS)
    )


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
    reports = _Reports()
    with open_plain(path, options.advance) as plain:
        tables = json_tables(plain, _SCHEMAS[0], account.bad, _SCHEMAS[1])
        make = functools.partial(_made, account=account, reports=reports)
        yield from flows_of_records(tables, make, account, options, last=reports.finish)
        damage = plain.damage
    account.note(
        _DELTAS,
        "flows count less in later reports than in earlier ones. Packetbeat wrote "
        "differences (enable_delta_flow_reports): their bytes are too few",
        reports.shrunk,
    )
    yield account.losses(damage)


def _field(table: pa.Table, name: str) -> Any:
    """Return a field, however its name is written."""
    outer, *inner = name.split(".")
    values = table.column(outer)
    for part in inner:
        values = pc.struct_field(values, part)
    if inner:
        values = pc.coalesce(values, table.column(name))
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _is(table: pa.Table, name: str, word: str) -> Any:
    return pc.fill_null(pc.equal(_field(table, name), word), False)


def _made(table: pa.Table, lines: Any, account: Account, reports: _Reports) -> Made:
    event = _field(table, "suricata.eve.event_type")
    flow_events = pc.is_in(event, pa.array(["flow", "netflow"]))
    is_report = pc.or_(_is(table, "event.dataset", "flow"), _is(table, "type", "flow"))
    transaction = pc.and_not(_is(table, "agent.type", "packetbeat"), is_report)
    other = pc.and_(pc.is_valid(event), pc.invert(flow_events))
    other = pc.or_(pc.or_(other, transaction), _is(table, "event.kind", "alert"))
    is_flow = pc.invert(other)
    table, lines = account.keep(_NO_FLOW, is_flow, table, lines)
    counts = [
        whole_numbers(_field(table, f"{what}.bytes"))
        for what in ("source", "destination", "network")
    ]
    kept = pc.is_valid(pc.coalesce(*counts))
    table, lines = account.keep(_NO_COUNTS, kept, table, lines)
    both = pc.or_(
        pc.is_valid(_field(table, "destination.bytes")),
        pc.is_valid(_field(table, "flow.id")),
    )
    complete, halves = (
        flows_of(
            _columns(table.filter(mask).combine_chunks(), both=told),
            lines[mask.to_numpy(zero_copy_only=False)],
            0,
            account.bad,
        )
        for mask, told in ((both, True), (pc.invert(both), False))
    )
    return reports.add(complete), halves


def _columns(table: pa.Table, *, both: bool) -> dict[str, Any]:
    def number(name: str) -> Any:
        return whole_numbers(_field(table, name))

    def text(*names: str) -> Any:
        return pc.coalesce(*(_field(table, name) for name in names))

    taken, begun, ended = (
        microseconds(_field(table, name))
        for name in ("@timestamp", "event.start", "event.end")
    )
    start = pc.coalesce(begun, taken)
    span = pc.divide(pc.subtract(ended, start).cast(pa.float64(), safe=False), 1e6)
    length = pc.divide(number("event.duration").cast(pa.float64(), safe=False), 1e9)
    src_ip = text("source.ip").dictionary_encode()
    words = pc.coalesce(
        text("network.iana_number", "network.transport"),
        pa.scalar(str(UNKNOWN_PROTOCOL)),
    )
    layer2 = pc.or_(
        pc.or_(_is(table, "agent.type", "packetbeat"), _is(table, "type", "flow")),
        pc.or_(
            _is(table, "event.dataset", "flow"), _is(table, "event.module", "suricata")
        ),
    )
    back = number("destination.bytes")
    sent = pc.coalesce(
        number("source.bytes"),
        pc.subtract(number("network.bytes"), pc.fill_null(back, 0)),
        pa.scalar(0, pa.int64()),
    )
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pc.coalesce(length, span),
        "src_ip": src_ip,
        "src_port": pc.fill_null(number("source.port"), 0),
        "dst_ip": text("destination.ip").dictionary_encode(),
        "dst_port": pc.fill_null(number("destination.port"), 0),
        "protocol": protocol_numbers(words, src_ip),
        "app": named(
            pa.string(), text("network.application", "network.protocol"), APPLICATIONS
        ),
        "server_name": text(
            "tls.client.server_name", "url.domain", "destination.domain"
        ),
        "fingerprint": text("tls.client.ja3"),
        "user_agent": text("user_agent.original"),
        "process": text("process.name"),
        "sensor": text("aws.vpcflow.interface_id", "observer.name", "agent.name"),
        "uid": text("flow.id", "event.id"),
    }
    if both:
        going = pc.fill_null(pc.invert(_field(table, "flow.final")), False)
        going = pc.and_(going, pc.is_valid(text("flow.id")))
        columns[_GOES_ON] = going.cast(pa.string())
    else:
        columns[VANTAGE] = columns["sensor"]
    packets = number("source.packets"), number("destination.packets")
    told = pc.or_(pc.is_valid(packets[0]), pc.is_valid(packets[1]))
    ways = zip(("src", "dst"), (sent, pc.fill_null(back, 0)), packets, strict=True)
    for way, octets, count in ways:
        # A direction without packets is left out by Packetbeat.
        whole_count = pc.if_else(told, pc.fill_null(count, 0), None)
        bare = bare_bytes(octets, whole_count)
        columns[f"{way}_packets"] = whole_count
        columns[f"{way}_bytes"] = pc.if_else(layer2, bare, octets)
    return columns


@dataclass(slots=True)
class _Reports:
    """Flows that go on, as they were reported last."""

    held: pd.DataFrame = field(default_factory=pd.DataFrame)
    shrunk: int = 0

    def add(self, flows: pd.DataFrame) -> pd.DataFrame:
        """Take reports in the order of the file; return the flows that are over."""
        going = flows[_GOES_ON].eq("true")
        if not len(self.held) and not going.any():
            return flows.drop(columns=_GOES_ON)
        every = pd.concat([self.held, flows], ignore_index=True)
        of_reports = every["uid"].isin(every["uid"][every[_GOES_ON].eq("true")])
        reports, rest = every[of_reports], every[~of_reports]
        less = reports.groupby("uid", sort=False)["src_bytes"].diff() < 0
        self.shrunk += int(reports["uid"][less].nunique())
        reports = reports.drop_duplicates("uid", keep="last")
        over = ~reports[_GOES_ON].eq("true")
        if (~over).sum() > MOST_HELD:
            over[:] = True
        self.held = reports[~over].reset_index(drop=True)
        done = pd.concat([rest, reports[over]], ignore_index=True)
        return done.drop(columns=_GOES_ON)

    def finish(self) -> pd.DataFrame:
        """Return the flows that nobody said the end of."""
        held, self.held = self.held, pd.DataFrame()
        return held.drop(columns=_GOES_ON, errors="ignore")
