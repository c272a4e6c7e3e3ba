"""Connections as Check Point's Log Exporter sends them.

Forms: its ``syslog`` (``[action:"Accept"; src:"…"; …]``), its ``splunk`` and ``generic``
(``src=…|dst=…|``), and the older structured data of the management server
(``[Fields@1.3.6.1.4.1.2620 src="…" …]``). Fields: sk144192, "Description of Fields in
Check Point Logs"; forms and updates: Logging and Monitoring Administration Guide R81,
"Log Exporter" and its appendix.

**Bytes** are ``sent_bytes`` and ``received_bytes`` of the client. They are counted where
a rule's tracking has Accounting on; Check Point does not say of which layer, and they
are taken as they are. Records without them are passed over and counted. So are those
that have only ``client_inbound_bytes``, ``client_outbound_bytes`` and the like: which
direction is whose is not documented, and taking one for the other would turn downloads
into uploads.

**Records** of one connection are updated every few minutes under the same ``loguid``,
each time with all that was counted so far: the last one counts, until an hour passes
without any.

**Times** are seconds since 1970 (``start_time``, ``time``), else those of syslog's
header, which is in UTC or says where; in the older form it may not, and `timezone` does.

**Application** is ``appi_name``, of the blade Application Control. **Ends** are those
before translation; ``service`` is the port. Nothing is said of packets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._keyvalues import (
    KeyValues,
    line_texts,
    portions,
    sound_lines,
)
from exfilml.sources._lines import BadLines, Block, ahead, blocks
from exfilml.sources._logs import flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._sessions import LongSessions
from exfilml.sources._words import APPLICATIONS, named, protocol_numbers
from exfilml.sources._zones import offsets, told_times

NOT_COUNTED: Final = "with connections whose bytes are not counted"
# Of each form what shows it, what stands between fields, and between key and value, and
# whether values are quoted.
_FORMS: Final = (
    (b"[Fields@1.3.6.1.4.1.2620 ", b" []", b"=", True),
    (b'loguid:"', b";[]", b":", True),
    (b"|loguid=", b"|", b"=", False),
)
_TEXTS: Final = ("src", "dst", "proto", "appi_name", "loguid", "dst_domain_name")
_COUNTS: Final = (
    *("s_port", "service", "sent_bytes", "received_bytes"),
    *("start_time", "lastupdatetime"),
)
_ONCE: Final = ("src", "dst", "proto", *_COUNTS)
_HEAD: Final = (
    r"(?P<local>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?)"
    r"(?P<zone>Z|[+-]{1,2}[0-9]{1,2}:?[0-9]{2})?\s"
)
_APPS: Final = {name.upper(): app for name, app in APPLICATIONS.items()}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether a Log Exporter of Check Point sent these."""
    return any(shows in head for shows, *_ in _FORMS)


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read, or nobody said where its times are local.
    """
    bad, seen = BadLines(), BadLines()
    sessions = LongSessions()
    total = uncounted = 0
    with open_plain(path, options.advance) as plain:
        found = (_records(block, seen) for block in portions(blocks(plain, seen)))
        for records, passed in ahead(found):
            uncounted += passed
            flows = _flows(sessions.add(records), options, path, bad)
            total += len(flows)
            yield Reading(flows)
    last = sessions.finish()
    if last is not None:
        flows = _flows(last, options, path, bad)
        total += len(flows)
        yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = list(reading.losses)
    if uncounted:
        text = f"{path}: {uncounted:,} records of connections without sent_bytes and"
        text = f"{text} received_bytes (Accounting is off, or counters that do not say"
        told.append((NOT_COUNTED, f"{text} whose they are); passed over"))
    yield Reading(reading.flows, tuple(told))


def _records(block: Block, bad: BadLines) -> tuple[pa.Table, int]:
    """Read records that count bytes; say how many of connections do not."""
    form = next((form for form in _FORMS if form[0] in block.data), _FORMS[1])
    _, separators, assign, quoted = form
    fields = KeyValues(block, separators=separators, assign=assign, quoted=quoted)
    columns = {name: fields.texts(name) for name in _TEXTS}
    columns |= {name: fields.numbers(name) for name in _COUNTS}
    # Some forms give the time of the record twice, and mean the same.
    columns["time"] = fields.numbers("time")
    ends = pc.and_(columns["src"].is_valid(), columns["dst"].is_valid())
    counted = pc.and_(ends, fields.texts("sent_bytes").is_valid())
    wanted = pc.and_(counted, fields.texts("received_bytes").is_valid())
    passed = pc.sum(pc.and_not(ends, wanted)).as_py() or 0
    wanted = wanted.to_numpy(zero_copy_only=False)
    kept = sound_lines(fields, wanted, _ONCE, block, bad, passed=passed)
    head = pc.extract_regex(line_texts(block), _HEAD)
    none = pa.scalar(None, pa.string())
    for name in ("local", "zone"):
        texts = pc.struct_field(head, name)
        columns[name] = pc.if_else(pc.equal(texts, ""), none, texts)
    columns["local"] = pc.replace_substring(columns["local"], "T", " ")
    line = pa.array(np.arange(block.first, block.first + len(fields)))
    columns["line"] = line
    columns["session"] = pc.coalesce(columns["loguid"], line.cast(pa.string()))
    columns["seen"] = pc.coalesce(
        *(_seconds(columns[name]) for name in ("lastupdatetime", "time", "start_time"))
    )
    columns["goes_on"] = pa.repeat(pa.scalar(True), len(fields))
    return pa.table(columns).filter(pa.array(kept)), passed


def _flows(
    records: pa.Table, options: Options, path: Path, bad: BadLines
) -> pd.DataFrame:
    if not records.num_rows:
        return pd.DataFrame()
    records = records.combine_chunks()

    def column(name: str) -> Any:
        return records.column(name).chunk(0)

    src_ip = column("src").dictionary_encode()
    protocol = protocol_numbers(column("proto").dictionary_encode(), src_ip)
    has_ports = pc.is_in(protocol, pa.array([6, 17, 33, 132]))
    began = _seconds(column("start_time"))
    start = pc.coalesce(began, _seconds(column("time")))
    lacking = pc.is_null(start)
    if pc.any(lacking).as_py():
        local = pc.if_else(lacking, column("local"), pa.scalar(None, pa.string()))
        told = told_times(local, offsets(column("zone")), options.timezone, path)
        start = pc.coalesce(start, told)
    updated = _seconds(column("lastupdatetime"))
    lasted = pc.max_element_wise(pc.subtract(updated, began), 0, skip_nulls=False)
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pc.divide(lasted.cast(pa.float64(), safe=False), 1e6),
        "src_ip": src_ip,
        "dst_ip": column("dst").dictionary_encode(),
        "src_port": pc.if_else(has_ports, column("s_port"), 0),
        "dst_port": pc.if_else(has_ports, column("service"), 0),
        "protocol": protocol,
        "src_bytes": column("sent_bytes"),
        "dst_bytes": column("received_bytes"),
        "app": named(pa.string(), column("appi_name"), _APPS),
        "server_name": column("dst_domain_name"),
        "uid": column("loguid"),
        "sensor": pa.repeat(path.name, records.num_rows),
    }
    return flows_of(columns, column("line").to_numpy(), 0, bad)


def _seconds(values: Any) -> Any:
    """Turn seconds since 1970 into microseconds; None if wrong."""
    right = pc.and_(pc.greater(values, 0), pc.less(values, 10**11))
    values = pc.if_else(right, values, pa.scalar(None, pa.int64()))
    return pc.multiply(values, 10**6)
