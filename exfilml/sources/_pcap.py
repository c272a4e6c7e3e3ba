"""Captures: pcap and pcapng, also packed with gzip, bzip2, xz or zstd.

NFStream's engine meters them in a worker process (`_worker`, `_meter`), driven by a
compiled loop (`_engine`) or, where that cannot be used, by NFStream's own with a plugin
(`_plugin`). Both sample payload per direction and give the same flows. Bytes are IP bytes, times have NFStream's resolution of a
millisecond.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exfilml.sources._ftp import Announced, name_transfers
from exfilml.sources._job import Job
from exfilml.sources._packed import plain_file
from exfilml.sources._reading import (
    BAD_TIMES,
    DAMAGED,
    FRAGMENTED,
    NO_PACKETS,
    Options,
    Reading,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NAME: Final = "capture"
_LOG: Final = logging.getLogger(__name__)
MAGICS: Final = (
    b"\xd4\xc3\xb2\xa1",  # microseconds, little-endian
    b"\xa1\xb2\xc3\xd4",
    b"\x4d\x3c\xb2\xa1",  # nanoseconds
    b"\xa1\xb2\x3c\x4d",
    b"\x34\xcd\xb2\xa1",  # Kuznetzov's variant
    b"\xa1\xb2\xcd\x34",
    b"\x0a\x0d\x0d\x0a",  # pcapng
)


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a capture."""
    return head.startswith(MAGICS)


def read(path: Path, options: Options) -> Reading:
    """Read one capture.

    Raises
    ------
    SourceError
        If it cannot be read, or if the packet engine dies or hangs over it.
    OptionError
        If the filter is none.
    """
    if options.exports:
        from exfilml.sources import _exports

        return _exports.read(path, options)
    with plain_file(path, "capture") as (plain, damage):
        loss = () if damage is None else ((DAMAGED, f"{path}: {damage}"),)
        reading = _read_plain(path, plain, options)
        return Reading(reading.flows, (*loss, *reading.losses))


def _read_plain(path: Path, plain: Path, options: Options) -> Reading:
    job = Job(
        str(plain.resolve()),
        options.bpf_filter,
        options.idle_timeout,
        options.active_timeout,
        options.decode_tunnels,
        shown=str(path),
    )
    batches, found = options.pool.run(job, options.advance)
    if found.get("plain") is not None:
        _say_plain(found["plain"])
    damage, impossible = found["damage"], int(found["impossible"])
    flows = _table(batches, path.name, [Announced(**a) for a in found["announced"]])
    losses = []
    if damage is not None:
        losses.append((DAMAGED, f"{path}: damaged capture: it {damage}"))
    if found["oversized"]:
        count = f"{found['oversized']:,} packets"
        text = f"{path}: {count} are longer than the file's own snapshot length"
        losses.append((DAMAGED, f"{text}, and lost"))
    if impossible:
        times = f"{impossible:,} flows with impossible times left out"
        losses.append((BAD_TIMES, f"{path}: {times}, {len(flows):,} kept"))
    if found["fragments"]:
        size = (
            f"{found['fragments']:,} IP fragments ({found['fragment_bytes']:,} bytes)"
        )
        text = f"{path}: {size} are not counted: the engine sees first fragments only"
        losses.append((FRAGMENTED, text))
    if not len(flows) and not impossible:
        asked = f" that match {options.bpf_filter!r}" if options.bpf_filter else ""
        losses.append((NO_PACKETS, f"{path}: capture holds no IP packets{asked}"))
    return Reading(flows, tuple(losses))


@cache
def _say_plain(reason: str) -> None:
    """Say once that reading is slow, and why; the flows are the same."""
    _LOG.info("captures are read by NFStream's own loop, slowly: %s", reason)


def _table(
    batches: list[pa.RecordBatch], sensor: str, announced: list[Announced]
) -> pa.Table | pd.DataFrame:
    """Put a worker's batches together; name transfers, where any were announced."""
    import pyarrow as pa

    if not batches:
        return pa.table({})
    table = pa.Table.from_batches(batches)
    table = table.append_column("sensor", pa.repeat(sensor, table.num_rows))
    if not announced:
        return table
    from exfilml.sources._tables import to_frame

    return name_transfers(to_frame(table), announced)
