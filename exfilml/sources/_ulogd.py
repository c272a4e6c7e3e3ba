"""Connections of Linux' netfilter as ulogd2 writes them: JSON, or GPRINT's key=value.

Names are those of ulogd's input NFCT (its ``ulogd_inpflow_NFCT.c``): ``orig.ip.saddr``,
``orig.raw.pktlen``, ``flow.start.sec`` …; with the filter IP2STR addresses end in
``.str``, which JSON calls ``src_ip`` and ``dest_ip``.

**Bytes** are of IP, as for `_conntrack`; ``nf_conntrack_acct`` has to be on. **Records**
are of connections that ended: ``ct.event``, where it stands, is 4 (or NFCT's hash table
is in use, and nothing else is written); 1 and 2 count nothing yet and are passed over.
A connection whose beginning ulogd did not see starts when it ended. **Ends** are those
of the original direction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources import _jsonl
from exfilml.sources._keyvalues import KeyValues, portions, sound_lines, whole_numbers
from exfilml.sources._lines import BadLines, Block, ahead, blocks
from exfilml.sources._logs import flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._sessions import session_states
from exfilml.sources._words import protocol_numbers

_TEXTS: Final = {
    "src_ip": ("orig.ip.saddr.str", "src_ip", "orig.ip.saddr"),
    "dst_ip": ("orig.ip.daddr.str", "dest_ip", "orig.ip.daddr"),
}
_COUNTS: Final = {
    "protocol": ("orig.ip.protocol",),
    "src_port": ("orig.l4.sport", "src_port"),
    "dst_port": ("orig.l4.dport", "dest_port"),
    "src_bytes": ("orig.raw.pktlen",),
    "dst_bytes": ("reply.raw.pktlen",),
    "src_packets": ("orig.raw.pktcount",),
    "dst_packets": ("reply.raw.pktcount",),
    "start": ("flow.start.sec",),
    "start_us": ("flow.start.usec",),
    "end": ("flow.end.sec",),
    "end_us": ("flow.end.usec",),
    "event": ("ct.event",),
    "uid": ("ct.id",),
}
# JSON writes addresses that nobody turned into text as numbers, which say nothing of
# the order of their bytes.
_SCHEMA: Final = pa.schema(
    [(key, pa.string()) for keys in _TEXTS.values() for key in keys[:2]]
    + [(key, pa.int64()) for keys in _COUNTS.values() for key in keys]
)
_RAW: Final = re.compile(rb'(?:"|^|,|>)orig\.raw\.pktlen["=]', re.MULTILINE)
_DESTROY: Final = 4


def detect(head: bytes) -> bool:
    """Say from the first bytes whether ulogd wrote these."""
    return _RAW.search(head) is not None


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read.
    """
    bad, seen = BadLines(), BadLines()
    total = 0
    with open_plain(path, options.advance) as plain:
        for ends in ahead(
            _ends(block, seen) for block in portions(blocks(plain, seen))
        ):
            flows = _flows(ends, path, bad)
            total += len(flows)
            yield Reading(flows)
    bad.merge(seen)
    yield losses(path, bad, plain.damage, total)


def _ends(block: Block, bad: BadLines) -> pa.Table:
    if block.data.lstrip()[:1] == b"{":
        return _of_json(block, bad)
    fields = KeyValues(block, separators=b",", quoted=False)
    keys = [key for keys in _COUNTS.values() for key in keys]
    wanted = fields.texts("orig.raw.pktlen").is_valid().to_numpy(zero_copy_only=False)
    kept = sound_lines(fields, wanted, keys, block, bad)
    columns = {
        name: pc.coalesce(*(fields.texts(key) for key in keys))
        for name, keys in (_TEXTS | _COUNTS).items()
    }
    columns |= {name: whole_numbers(columns[name]) for name in _COUNTS}
    columns["line"] = pa.array(np.arange(block.first, block.first + len(fields)))
    return pa.table(columns).filter(pa.array(kept))


def _of_json(block: Block, bad: BadLines) -> pa.Table:
    records = _jsonl.read_block(block, _SCHEMA, frozenset(), bad)
    names = [*_TEXTS, *_COUNTS, "line"]
    if records is None:
        return pa.table({name: pa.array([], pa.int64()) for name in names})
    table = records.table.combine_chunks()
    columns = {
        name: pc.coalesce(*(table.column(key) for key in keys if key in _SCHEMA.names))
        for name, keys in (_TEXTS | _COUNTS).items()
    }
    lines = records.lines
    if lines is None:
        lines = np.arange(block.first, block.first + table.num_rows)
    columns["line"] = pa.array(lines)
    return pa.table(columns)


def _flows(ends: pa.Table, path: Path, bad: BadLines) -> pd.DataFrame:
    ended = pc.fill_null(pc.equal(ends.column("event"), _DESTROY), True)
    ends = ends.filter(ended).combine_chunks()
    if not ends.num_rows:
        return pd.DataFrame()

    def column(name: str) -> Any:
        return ends.column(name).chunk(0)

    src_ip = column("src_ip").dictionary_encode()
    words = column("protocol").cast(pa.string()).dictionary_encode()
    protocol = protocol_numbers(words, src_ip)
    has_ports = pc.is_in(protocol, pa.array([6, 17, 33, 132, 136]))
    start, end = (
        pc.add(
            pc.multiply(_seconds(column(name)), 10**6),
            pc.fill_null(column(f"{name}_us"), 0),
        )
        for name in ("start", "end")
    )
    columns: dict[str, Any] = {
        "start": pc.coalesce(start, end),
        "duration_s": pc.divide(
            pc.subtract(end, start).cast(pa.float64(), safe=False), 1e6
        ),
        "src_ip": src_ip,
        "dst_ip": column("dst_ip").dictionary_encode(),
        "protocol": protocol,
        "uid": column("uid").cast(pa.string()),
        "sensor": pa.repeat(path.name, ends.num_rows),
    }
    for way in ("src", "dst"):
        port = column(f"{way}_port")
        columns[f"{way}_port"] = pc.if_else(has_ports, port, 0)
        columns[f"{way}_bytes"] = column(f"{way}_bytes")
        columns[f"{way}_packets"] = column(f"{way}_packets")
    never = pa.repeat(pa.scalar(False), ends.num_rows)
    columns["conn_state"] = session_states(columns, never)
    return flows_of(columns, column("line").to_numpy(), 0, bad)


def _seconds(values: Any) -> Any:
    """Leave out what is no time: 0, and what no multiplication would hold."""
    right = pc.and_(pc.greater(values, 0), pc.less(values, 10**11))
    return pc.if_else(right, values, pa.scalar(None, pa.int64()))
