"""Separated values under a line of names, as nfdump, Argus and SiLK print flows.

Names are matched, not places: programs print the columns they were asked for. The line
of names may come again, in files that were joined, with other columns.
"""

from __future__ import annotations

import itertools
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import OptionError, SourceError
from exfilml.sources import _delimited
from exfilml.sources._delimited import Layout, Records
from exfilml.sources._lines import BadLines, Block

_EPOCH: Final = r"^\s*[0-9]{1,11}(\.[0-9]+)?\s*$"
_DATED: Final = r"^[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}[ T][0-9:.]+$"


@dataclass(frozen=True, slots=True)
class Form:
    """What a format's lines look like.

    Attributes
    ----------
    header
        Matches a line of names.
    end
        Matches the line with which records end, until the next line of names.
    names
        Our field → the names that it goes under, and its Arrow type.
    needed
        Our fields without which a line is no record.
    quote
        As in `_delimited.Layout`.
    """

    header: re.Pattern[bytes]
    end: re.Pattern[bytes] | None
    names: Mapping[str, tuple[frozenset[str], Any]]
    needed: frozenset[str]
    quote: str | None = None


def read_blocks(
    blocks: Iterator[Block], form: Form, bad: BadLines
) -> Iterator[tuple[Records, int]]:
    """Read blocks; yield records with our names, and the number of their first line."""
    layout: Layout | None = None
    lacking, ended = "", False
    for block in blocks:
        # Most hold records alone, which is found out faster than where others stand.
        if layout is not None and not ended:
            found = _delimited.read_sound(block, layout, bad)
            if found is not None:
                yield _renamed(found, form), block.first
                continue
        for part in _parts(block, form):
            line, _, rest = part.data.partition(b"\n")
            records = part
            if form.header.match(line):
                layout, lacking = _layout(line, form)
                ended = False
                records = Block.of(rest, part.first + 1)
            ended = ended or (form.end is not None and form.end.match(line) is not None)
            if ended or not records.data or records.data.isspace():
                continue
            if layout is None:
                bad.lines += records.lines
                bad.add(records.first, lacking or "no names before it", records.lines)
                continue
            found = _delimited.read_block(records, layout, bad)
            if found is not None:
                yield _renamed(found, form), records.first


def _renamed(records: Records, form: Form) -> Records:
    names = [_ours(name, form) for name in records.table.column_names]
    return Records(records.table.rename_columns(names), records.lines)


def _parts(block: Block, form: Form) -> Iterator[Block]:
    """Cut a block at lines of names and at ends of records."""
    data = block.data
    cuts = {found.start() for found in form.header.finditer(data)}
    if form.end is not None:
        cuts |= {found.start() for found in form.end.finditer(data)}
    if not cuts - {0}:
        yield block
        return
    places = sorted({0, *cuts, len(data)})
    number = block.first
    for start, stop in itertools.pairwise(places):
        part = Block.of(data[start:stop], number)
        yield part
        number += part.lines


def _layout(line: bytes, form: Form) -> tuple[Layout | None, str]:
    text = line.decode("utf-8", "replace").strip("\r\n")
    separator = next((sign for sign in "\t|" if sign in text), ",")
    names = [
        name.strip() for name in _delimited.split_line(text, separator, form.quote)
    ]
    ours = [_ours(name, form) for name in names]
    missing = sorted(form.needed - set(ours))
    known = [name for name in ours if name in form.names]
    if missing or len(set(known)) != len(known) or len(set(names)) != len(names):
        what = f"without {', '.join(missing)}" if missing else "that repeat themselves"
        return None, f"follows names {what}"
    wanted = {
        name: form.names[our][1]
        for name, our in zip(names, ours, strict=True)
        if our in form.names
    }
    needed = frozenset(
        name for name, our in zip(names, ours, strict=True) if our in form.needed
    )
    return Layout(names, wanted, needed, separator, quote=form.quote), ""


def _ours(name: str, form: Form) -> str:
    return next((our for our, (known, _) in form.names.items() if name in known), name)


def times(texts: Any, timezone: str | None, path: Path) -> Any:
    """Read local times, or seconds since 1970, in microseconds; None if wrong.

    Raises
    ------
    SourceError
        If times are local and nobody said where.
    """
    local = _at_once(texts)
    if local is None:
        texts = pc.utf8_trim_whitespace(texts.cast(pa.string()))
        is_epoch = pc.match_substring_regex(texts, _EPOCH)
        if pc.all(pc.fill_null(is_epoch, True)).as_py():
            seconds = texts.cast(pa.float64())
            return pc.round(pc.multiply(seconds, 1e6)).cast(pa.int64())
        local = _one_by_one(texts)
    if timezone is None:
        raise SourceError(
            f"{path}: its times are local and do not say where. Say so with "
            "timezone='Europe/Prague' (--timezone), or 'UTC'."
        )
    # An hour comes twice in autumn, and one is lacking in spring.
    zoned = pc.assume_timezone(
        local, timezone, ambiguous="earliest", nonexistent="latest"
    )
    return zoned.cast(pa.int64())


def _at_once(texts: Any) -> Any | None:
    """Read dates, all of them or none."""
    if pa.types.is_timestamp(texts.type):
        return texts
    if "/" in (texts[0].as_py() or "" if len(texts) else ""):
        texts = pc.replace_substring(texts, "/", "-")
    try:
        return texts.cast(pa.timestamp("us"))
    except pa.ArrowException:
        return None


def _one_by_one(texts: Any) -> Any:
    """Read dates; None where there is none."""
    import pandas as pd

    dated = pc.replace_substring(texts, "/", "-")
    none = pa.scalar(None, pa.string())
    dated = pc.if_else(pc.match_substring_regex(texts, _DATED), dated, none)
    read = pd.to_datetime(
        pd.Series(dated.to_pylist(), dtype="str"), errors="coerce", format="ISO8601"
    )
    return pa.array(read.dt.as_unit("us"), pa.timestamp("us"))


def check_timezone(name: str | None) -> None:
    """Check that a name is one of a time zone.

    Raises
    ------
    OptionError
        If it is not.
    """
    try:
        if name is not None:
            zoneinfo.ZoneInfo(name)
    except (TypeError, ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise OptionError(
            f"timezone={name!r}: no such time zone. Expected a name such as "
            "'Europe/Prague' or 'UTC'."
        ) from error
