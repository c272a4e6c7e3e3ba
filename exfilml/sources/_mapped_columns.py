"""What a column map says of the columns of a table, as columns of the flows table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.columns import CONN_STATES
from exfilml.sources._column_map import SECONDS, ColumnMap, Field
from exfilml.sources._headed import times
from exfilml.sources._logs import bare_bytes, microseconds, with_headers
from exfilml.sources._vantages import VANTAGE
from exfilml.sources._words import conversations, is_version_6, named, protocol_numbers

_ZONED: Final = r"(?i)(z|[+-][0-9]{2}:?[0-9]{2})$"
_LOCAL: Final = r"^[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}([ T][0-9:.]+)?$"
_NUMBER: Final = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"
_FLAGS: Final = re.compile(r"[.FSRPAUECW_-]{1,17}")
_BITS: Final = {
    "F": 1,
    "S": 2,
    "R": 4,
    "P": 8,
    "A": 16,
    "U": 32,
    "E": 64,
    "C": 128,
    "W": 128,
}
_NONE: Final = pa.scalar(None, pa.string())
_NAMES: Final = (
    *("app", "server_name", "fingerprint", "user_agent", "content_type", "process"),
    *("sensor", "uid", "label"),
)


def flow_columns(
    table: pa.Table, told: ColumnMap, zone: str | None, path: Path
) -> dict[str, Any]:
    """Make columns of the flows table, and the vantage.

    Raises
    ------
    SourceError
        If times are local and nobody said where.
    """
    given = _Given(table, told)
    src_ip = given.texts("src_ip").dictionary_encode()
    protocol = protocol_numbers(given.texts("protocol"), src_ip)
    start, end = (given.times(name, zone, path) for name in ("start", "end"))
    span = pc.divide(pc.subtract(end, start).cast(pa.float64(), safe=False), 1e6)
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pc.coalesce(given.numbers("duration_s"), span),
        "src_ip": src_ip,
        "src_port": given.counts("src_port"),
        "dst_ip": given.texts("dst_ip").dictionary_encode(),
        "dst_port": given.counts("dst_port"),
        "protocol": protocol,
        "tcp_flags": pc.if_else(
            pc.equal(protocol, 6), _flags(given.texts("tcp_flags")), None
        ),
        **{name: given.texts(name) for name in _NAMES},
        VANTAGE: given.texts("vantage"),
    }
    columns |= _sizes(given, told, protocol, is_version_6(src_ip))
    if "conn_state" in given.fields:
        state = given.texts("conn_state")
        known = pc.is_in(state, pa.array(CONN_STATES))
        columns["conn_state"] = pc.if_else(known, state, _NONE)
    elif not told.paired:
        columns["conn_state"] = conversations(columns)
    return columns


def _sizes(
    given: _Given, told: ColumnMap, protocol: Any, version6: Any
) -> dict[str, Any]:
    """Return bytes, as IP bytes, and packets, where they are told."""
    columns: dict[str, Any] = {}
    counted = any(name.endswith("_packets") for name in given.fields)
    zero = pa.repeat(pa.scalar(0, pa.int64()), len(protocol))
    for way in ("src", "dst"):
        back = told.paired and way == "dst"
        octets = zero if back else given.counts(f"{way}_bytes")
        packets = given.counts("src_packets" if back else f"{way}_packets")
        if back:
            packets = pc.if_else(pc.is_valid(packets), zero, None)
        if told.layer == "layer2":
            octets = bare_bytes(octets, packets)
        elif told.layer == "payload":
            octets = with_headers(octets, packets, protocol, version6)
        columns[f"{way}_bytes"] = octets
        if counted:
            columns[f"{way}_packets"] = packets
    return columns


class _Given:
    """The columns of a table, by the names that a map gives them."""

    def __init__(self, table: pa.Table, told: ColumnMap) -> None:
        self._table = table
        self._time = told.time
        self.fields = dict(told.fields)

    def texts(self, name: str) -> Any:
        """Return texts; None where there is none."""
        field = self.fields.get(name)
        if field is None:
            return pa.nulls(self._table.num_rows, pa.string())
        return _texts(self._table, field)

    def numbers(self, name: str) -> Any:
        """Return numbers, in the unit of the flows table."""
        field = self.fields.get(name)
        if field is None:
            return pa.nulls(self._table.num_rows, pa.float64())
        return _numbers(self._table, field)

    def counts(self, name: str) -> Any:
        """Return whole numbers."""
        return pc.round(self.numbers(name)).cast(pa.int64(), safe=False)

    def times(self, name: str, zone: str | None, path: Path) -> Any:
        """Return microseconds since 1970."""
        field = self.fields.get(name)
        if field is None:
            return pa.nulls(self._table.num_rows, pa.int64())
        return _times(_given(self._table, field), self._time, zone, path)


def _given(table: pa.Table, field: Field) -> Any:
    """Return a column of the file, or a constant."""
    if field.column is None:
        return pa.array([str(field.value)]).take(pa.array(np.zeros(len(table), int)))
    return table.column(field.column).combine_chunks()


def _texts(table: pa.Table, field: Field) -> Any:
    values = _given(table, field)
    kind = values.type
    if pa.types.is_floating(kind):
        # Whole numbers that a gap among them has made decimal.
        whole_ones = pc.fill_null(pc.equal(pc.floor(values), values), False)
        small = pc.fill_null(pc.less(pc.abs(values), 2.0**53), False)
        exact = pc.if_else(pc.and_(whole_ones, small), values, None)
        texts = pc.coalesce(
            exact.cast(pa.int64()).cast(pa.string()), values.cast(pa.string())
        )
    elif pa.types.is_nested(kind):
        texts = pa.nulls(len(values), pa.string())
    else:
        texts = values.cast(pa.string())
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), _NONE, texts)
    return named(pa.string(), texts, dict(field.values)) if field.values else texts


def _numbers(table: pa.Table, field: Field) -> Any:
    values = _given(table, field)
    kind = values.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if number and not field.values:
        found = values.cast(pa.float64(), safe=False)
    else:
        texts = _texts(table, field)
        good = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
        texts = pc.utf8_ltrim(pc.if_else(good, texts, _NONE), "+")
        found = texts.cast(pa.float64())
    # No count and no port is as large; more would not be whole numbers any more.
    possible = pc.fill_null(pc.less(pc.abs(found), 2.0**62 / field.scale), False)
    found = pc.if_else(possible, found, pa.scalar(None, pa.float64()))
    return pc.multiply(found, field.scale)


def _times(values: Any, form: str, zone: str | None, path: Path) -> Any:
    """Return microseconds since 1970."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            return times(values.cast(pa.timestamp("us"), safe=False), zone, path)
        return values.cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
    if form in SECONDS:
        return _since_1970(values, SECONDS[form])
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    if form != "iso":
        return _by_format(texts, form, zone, path)
    return _iso(texts, zone, path)


def _iso(texts: Any, zone: str | None, path: Path) -> Any:
    zoned = pc.fill_null(pc.match_substring_regex(texts, _ZONED), False)
    if pc.all(zoned).as_py():
        return microseconds(texts)
    found = microseconds(pc.if_else(zoned, texts, _NONE))
    dated = pc.fill_null(pc.match_substring_regex(texts, _LOCAL), False)
    if not pc.any(dated).as_py():
        return found
    local = times(pc.if_else(dated, texts, _NONE), zone, path)
    return pc.coalesce(found, local)


def _since_1970(values: Any, unit: float) -> Any:
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        texts = values.cast(pa.string())
        good = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
        texts = pc.utf8_trim_whitespace(pc.if_else(good, texts, _NONE))
        values = pc.utf8_ltrim(texts, "+")
    scaled = pc.multiply(values.cast(pa.float64(), safe=False), unit * 1e6)
    possible = pc.fill_null(pc.less(pc.abs(scaled), 2.0**60), False)
    scaled = pc.if_else(possible, scaled, pa.scalar(None, pa.float64()))
    return pc.round(scaled).cast(pa.int64())


def _by_format(texts: Any, form: str, zone: str | None, path: Path) -> Any:
    # Without utc=True a format that has no zone gives local times.
    zoned = "%z" in form.replace("%%", "")
    read = pd.to_datetime(
        pd.Series(texts.to_pylist(), dtype="str"),
        errors="coerce",
        format=form,
        utc=zoned,
    ).dt.as_unit("us")
    if zoned:
        return pa.array(read, pa.timestamp("us", "UTC")).cast(pa.int64())
    return times(pa.array(read, pa.timestamp("us")), zone, path)


def _flags(texts: Any) -> Any:
    """Return TCP flags of numbers, of 0x1b, and of letters."""
    coded = texts.dictionary_encode()
    found: list[int | None] = []
    for word in coded.dictionary.to_pylist():
        if re.fullmatch(r"0[xX][0-9a-fA-F]{1,4}|[0-9]{1,4}", word):
            found.append(int(word, 16 if word[1:2] in {"x", "X"} else 10) & 0xFF)
        elif _FLAGS.fullmatch(word.upper()):
            bits = {_BITS.get(letter, 0) for letter in word.upper()}
            found.append(sum(bits))
        else:
            found.append(None)
    return pa.array(found, pa.int64()).take(coded.indices)
