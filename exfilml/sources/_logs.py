"""What all log formats share: Arrow columns in, checked flows out, losses told once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.columns import COLUMNS, DTYPES, FIRST_YEAR, LAST_YEAR
from exfilml.exceptions import SourceError
from exfilml.schema import are_addresses
from exfilml.sources._lines import BadLines, shown
from exfilml.sources._reading import DAMAGED, Reading

BAD_LINES: Final = "with lines that could not be read"
NO_FLOWS: Final = "without flows"
FOREIGN: Final = "with lines of something else"
_ARROW: Final[dict[str, Any]] = {
    # What pandas keeps texts in.
    "str": pa.large_string(),
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
}
_UTC: Final = pa.timestamp("us", "UTC")
_EARLIEST: Final = int(np.datetime64(f"{FIRST_YEAR}-01-01", "us").astype(np.int64))
_TOO_LATE: Final = int(np.datetime64(f"{LAST_YEAR + 1}-01-01", "us").astype(np.int64))
# An IP header, and TCP's or UDP's and ICMP's.
_HEADERS: Final = {4: 20, 6: 40}
_LEAST_IP: Final = 20
_ETHERNET: Final = 14
_TCP_HEADER: Final = 20
_LEAST_HEADER: Final = 8


def flows_of(
    columns: Mapping[str, Any], lines: Any, first: int, bad: BadLines
) -> pd.DataFrame:
    """Make flows of Arrow columns that have the schema's names, as `checked` does."""
    return to_frame(checked(columns, lines, first, bad))


def checked(
    columns: Mapping[str, Any], lines: Any, first: int, bad: BadLines
) -> pa.Table:
    """Check Arrow columns that have the schema's names.

    What comes of it is sorted and put together faster than a frame; texts may be coded
    by dictionary until it becomes one.

    Rows in which a required column cannot be are counted as bad lines and left out;
    in other columns the value alone is left out. ``start`` is in microseconds since
    1970, in whichever type of number.

    Parameters
    ----------
    columns
        Arrow arrays, all of one length.
    lines
        Line numbers of the rows, None for one after the other from `first` on.
    first
        Number of the block's first line.
    bad
        The account of the file.
    """
    table = pa.table(dict(columns)).combine_chunks()
    number = np.arange(first, first + table.num_rows) if lines is None else lines
    keep = np.ones(table.num_rows, dtype=bool)
    whole: dict[str, Any] = {}
    for column in COLUMNS:
        if column.name not in table.column_names:
            continue
        values = _one(table.column(column.name))
        good = _possible(column.name, column.high, values)
        if column.required:
            wrong = keep & ~good
            if wrong.any():
                row = int(wrong.argmax())
                value = values[row].as_py()
                reason = f"{column.name} cannot be {shown(str(value))}"
                reason = f"{column.name} is missing" if value is None else reason
                bad.add(int(number[row]), reason, int(wrong.sum()))
            keep &= good
        elif not good.all():
            bad.blanked += int((keep & ~good).sum())
            values = pc.if_else(pa.array(good), values, pa.scalar(None, values.type))
        whole[column.name] = values
    # Columns of a source's own come last.
    whole |= {n: table.column(n) for n in table.column_names if n not in DTYPES}
    table = pa.table(whole)
    table = table if keep.all() else table.filter(pa.array(keep))
    at = table.column_names.index("start")
    times = pc.round(table.column(at)).cast(pa.int64()).cast(_UTC)
    return table.set_column(at, "start", times)


def _one(values: Any) -> Any:
    """Return a column of one chunk."""
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    return values


def _possible(name: str, high: float | None, values: Any) -> Any:
    """Say for each value whether the schema allows it; for optional columns, None too."""
    if name in {"src_ip", "dst_ip"}:
        coded = (
            values
            if pa.types.is_dictionary(values.type)
            else values.dictionary_encode()
        )
        texts = coded.dictionary.to_numpy(zero_copy_only=False)
        known = np.append(are_addresses(texts), False)
        return known[pc.fill_null(coded.indices, len(texts)).to_numpy()]
    if name == "start":
        times = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy()
        return (times >= _EARLIEST) & (times < _TOO_LATE)
    required = DTYPES[name] == "int64"
    if high is None or _all_possible(values, high, required=required):
        return np.ones(len(values), dtype=bool)
    numbers = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy()
    good = (numbers >= 0) & (numbers <= high)
    return good if required else good | np.isnan(numbers)


def _all_possible(values: Any, high: float, *, required: bool) -> bool:
    """Whether all are, which is told faster than which are."""
    ends = pc.min_max(values)
    low, most = ends["min"].as_py(), ends["max"].as_py()
    if low is None:
        return not required
    return low >= 0 and most <= high and not (required and values.null_count)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Make a frame of columns of the flows table, each in its dtype."""
    frame: dict[str, Any] = {}
    for name in table.column_names:
        dtype: Any = pd.api.types.pandas_dtype(DTYPES.get(name, "str"))
        values = table.column(name)
        if str(dtype) in _ARROW and dtype != "int64":
            values = values.cast(_ARROW[str(dtype)])
        if hasattr(dtype, "__from_arrow__"):
            frame[name] = dtype.__from_arrow__(values)
        else:
            # Copied, because Arrow's memory cannot be written.
            frame[name] = values.to_numpy().astype(dtype, copy=True)
    return pd.DataFrame(frame, copy=False)


def most_payload(octets: Any, packets: Any, protocol: Any, version6: Any) -> Any:
    """Return what packets can have carried at most, in bytes.

    IP bytes less the shortest possible headers of each packet.
    """
    headers = _shortest_headers(packets, protocol, version6)
    return pc.max_element_wise(pc.subtract(octets, headers), 0)


def with_headers(payload: Any, packets: Any, protocol: Any, version6: Any) -> Any:
    """Return IP bytes of payload, with the shortest possible headers of each packet."""
    return pc.add(payload, _shortest_headers(packets, protocol, version6))


def _shortest_headers(packets: Any, protocol: Any, version6: Any) -> Any:
    header = pc.if_else(version6, _HEADERS[6], _HEADERS[4])
    transport = pc.if_else(pc.equal(protocol, 6), _TCP_HEADER, _LEAST_HEADER)
    return pc.multiply(pc.fill_null(packets, 0), pc.add(header, transport))


def bare_bytes(octets: Any, packets: Any) -> Any:
    """Take the Ethernet headers off, down to bare IP headers."""
    bare = pc.subtract(octets, pc.multiply(packets, _ETHERNET))
    least = pc.min_element_wise(octets, pc.multiply(packets, _LEAST_IP))
    return pc.coalesce(pc.max_element_wise(bare, least, skip_nulls=False), octets)


def losses(path: Path, bad: BadLines, damage: str | None, flows: int) -> Reading:
    """Say what was lost of a file, as the last reading of its stream.

    Raises
    ------
    SourceError
        If not one line could be read.
    """
    if bad.bad and not flows:
        raise SourceError(f"{path}: no flow could be read: {bad}.")
    told = []
    if damage is not None:
        told.append((DAMAGED, f"{path}: {damage}"))
    if str(bad):
        told.append((BAD_LINES, f"{path}: {bad}"))
    if bad.foreign:
        every = bad.foreign + bad.lines
        text = f"{path}: {bad.foreign:,} of {every:,} lines are of something else"
        told.append((FOREIGN, f"{text}; passed over"))
    if not flows:
        told.append((NO_FLOWS, f"{path}: holds no flows"))
    return Reading(pd.DataFrame(), tuple(told))


def whole(readings: Iterable[Reading]) -> Reading:
    """Put the readings of a stream together."""
    every = list(readings)
    flows = joined([reading.flows for reading in every if len(reading.flows)])
    if isinstance(flows, pa.Table):
        flows = to_frame(flows)
    return Reading(flows, tuple(loss for r in every for loss in r.losses))


def joined(parts: Sequence[pa.Table | pd.DataFrame]) -> pa.Table | pd.DataFrame:
    """Put tables together, as Arrow's where all are and have the same columns."""
    first = parts[0] if parts else pd.DataFrame()
    if len(parts) < 2:
        return first
    if isinstance(first, pa.Table) and all(
        isinstance(part, pa.Table) and part.schema.equals(first.schema)
        for part in parts
    ):
        return pa.concat_tables(parts)
    frames = [to_frame(p) if isinstance(p, pa.Table) else p for p in parts]
    return pd.concat(frames, ignore_index=True)


_ZONED: Final = r"(?i)(z|[+-][0-9]{2}:?([0-9]{2})?)$"


def microseconds(texts: Any) -> Any:
    """Read times in ISO 8601 with a zone, in microseconds since 1970; None if wrong."""
    zoned = pa.timestamp("us", "UTC")
    try:
        return texts.cast(zoned).cast(pa.int64())
    except pa.ArrowException:
        right = pc.match_substring_regex(texts, _ZONED)
        texts = pc.if_else(right, texts, pa.scalar(None, pa.string()))
        times = pd.to_datetime(
            pd.Series(texts.to_pylist(), dtype="str"),
            errors="coerce",
            format="ISO8601",
            utc=True,
        )
        return pa.array(times.dt.as_unit("us"), zoned).cast(pa.int64())
