"""Records of one direction each, as programs print them; made flows of.

What nfdump and SiLK print has the same fields under other names (`_headed`). `_pairs`
puts the directions together. What an exporter sampled is scaled up where the caller
says by how much (`sampling`): nothing in the text does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._delimited import Records
from exfilml.sources._headed import Form, read_blocks, times
from exfilml.sources._lines import BadLines, ahead, blocks
from exfilml.sources._logs import flows_of, losses
from exfilml.sources._pairs import Pairs
from exfilml.sources._reading import Options, Reading
from exfilml.sources._words import protocol_numbers, told_conversations

SAMPLED: Final = "of sampled traffic"
_BITS: Final = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}


class Printed(Protocol):
    """Pieces of text, and what is wrong with them, known when all are read."""

    damage: str | None

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces, once."""


def printed(
    pieces: Printed,
    form: Form,
    path: Path,
    options: Options,
    told: Sequence[tuple[str, str]] = (),
) -> Iterator[Reading]:
    """Make flows of records in text, one direction each; the last reading says losses.

    Raises
    ------
    SourceError
        If not one line could be read, or nobody said where its times are local.
    """
    bad, seen = BadLines(), BadLines()
    records = ahead(read_blocks(blocks(pieces, seen), form, seen))
    halves = (_halves(found, first, options, path, bad) for found, first in records)
    total = 0
    for flows in paired(halves, options, path):
        total += len(flows)
        yield Reading(flows)
    bad.merge(seen)
    lost = losses(path, bad, pieces.damage, total)
    yield Reading(lost.flows, (*told, *scaling(path, options), *lost.losses))


def scaling(path: Path, options: Options) -> tuple[tuple[str, str], ...]:
    """Say what counts were multiplied by because the caller said so."""
    if options.sampling is None:
        return ()
    told = f"scaled up by the sampling rate given, 1 packet in {options.sampling:,}"
    return ((SAMPLED, f"{path}: bytes and packets {told}"),)


def paired(
    halves: Iterable[pd.DataFrame], options: Options, path: Path
) -> Iterator[pd.DataFrame]:
    """Pair records of one direction each, whichever exporter they came from."""
    pairs = Pairs(options.idle_timeout)
    for half in halves:
        yield _told(pairs.add(half), path)
    yield _told(pairs.finish(), path)


def _told(flows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Say of paired flows what their records could not."""
    if len(flows):
        flows["conn_state"] = told_conversations(flows)
        if "sensor" not in flows:
            flows["sensor"] = path.name
    return flows


def _halves(
    records: Records, first: int, options: Options, path: Path, bad: BadLines
) -> pd.DataFrame:
    table = records.table.combine_chunks()
    n = table.num_rows

    def column(name: str) -> Any:
        return (
            table.column(name).combine_chunks() if name in table.column_names else None
        )

    start = times(column("start"), options.timezone, path)
    if column("end") is not None:
        end = times(column("end"), options.timezone, path)
        duration = pc.divide(
            pc.subtract(end, start).cast(pa.float64(), safe=False), 1e6
        )
        # Of events of firewalls, which end when they begin, nfdump prints 1970.
        duration = pc.if_else(pc.equal(end, 0), None, duration)
    else:
        duration = column("duration")
    src_ip = _trimmed(column("src_ip"))
    protocol = protocol_numbers(column("protocol"), src_ip)
    zero = pa.repeat(pa.scalar(0, pa.int64()), n)
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pa.nulls(n, pa.float64()) if duration is None else duration,
        "src_ip": src_ip,
        "src_port": _ports(column("src_port"), protocol),
        "dst_ip": _trimmed(column("dst_ip")),
        "dst_port": _ports(column("dst_port"), protocol),
        "protocol": protocol,
        "tcp_flags": _flags(column("flags"), protocol),
    }
    for way in ("src", "dst"):
        for what in ("packets", "bytes"):
            given = column(f"{way}_{what}")
            given = zero if given is None else given
            if options.sampling is not None:
                # As floats, because a product may be too long for whole numbers.
                counted = given.cast(pa.float64(), safe=False)
                given = pc.multiply(counted, float(options.sampling))
            columns[f"{way}_{what}"] = given
    if column("src_packets") is None:
        del columns["src_packets"], columns["dst_packets"]
    for name in ("label", "sensor"):
        if column(name) is not None:
            columns[name] = pc.utf8_trim_whitespace(column(name).cast(pa.string()))
    return flows_of(columns, records.lines, first, bad)


def _trimmed(coded: Any) -> Any:
    words = pc.utf8_trim_whitespace(coded.dictionary)
    return pa.DictionaryArray.from_arrays(coded.indices, words)


def _ports(numbers: Any, protocol: Any) -> Any:
    """Return ports; 0 for ICMP, whose type and code stand there as a fraction."""
    whole_numbers = pc.floor(numbers)
    ports = pc.if_else(pc.equal(whole_numbers, numbers), whole_numbers, None)
    ports = ports.cast(pa.int64(), safe=False)
    return pc.if_else(pc.is_in(protocol, pa.array([1, 58])), 0, ports)


def _flags(coded: Any, protocol: Any) -> Any:
    """Return TCP flags of ``...AP.SF``, ``FS PA``, ``0x1b`` or a number; None elsewhere."""
    if coded is None:
        return pa.nulls(len(protocol), pa.int64())
    values: list[int | None] = []
    for text in coded.dictionary.to_pylist():
        word = text.strip()
        if re.fullmatch(r"0x[0-9a-fA-F]{1,2}|[0-9]{1,3}", word):
            number = int(word, 0) if word.startswith("0x") else int(word)
            values.append(number if number <= 255 else None)
        elif re.fullmatch(r"[. A-Z]{0,8}", word):
            values.append(sum({_BITS.get(letter, 0) for letter in word}))
        else:
            values.append(None)
    found = pa.array(values, pa.int64()).take(coded.indices)
    return pc.if_else(pc.equal(protocol, 6), found, pa.scalar(None, pa.int64()))
