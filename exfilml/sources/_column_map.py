"""Column maps: what the columns of a table mean that no reader knows, in a TOML file.

.. code-block:: toml

    format = "csv"               # csv, jsonl or parquet; left out: told from the content
    files = "export-*.csv"       # names of the files that are read so; left out: all
    delimiter = ";"              # of csv: one character; left out: a comma
    quote = '"'                  # of csv: "" for none
    names = ["ts", "src", "dst"] # of csv without a line of names
    nulls = ["", "-"]            # texts that mean "no value"
    directions = "one"           # each record counts one direction, which are paired;
                                 # left out: "both"

    [time]                       # of start and end
    format = "ms"                # iso (if left out), s, ms, us, ns since 1970, or a
                                 # format such as "%d/%b/%Y:%H:%M:%S" (strptime)
    timezone = "Europe/Prague"   # of times that do not say where they are local

    [bytes]                      # of src_bytes and dst_bytes
    unit = "kB"                  # B (if left out), kB, MB, GB, KiB, MiB, GiB
    layer = "layer2"             # ip (if left out), layer2, payload

    [columns]                    # column of the flows table = column of the file
    start = "ts"
    src_ip = "src"
    src_port = "sport"
    dst_ip = "dst"
    dst_port = { value = 443 }   # the same for all records
    protocol = { column = "proto", values = { "tcp/ip" = "tcp" } }
    src_bytes = "out"
    dst_bytes = "in"
    duration_s = { column = "ms", unit = "ms" }

In JSON a dot leads into fields within fields: ``source.ip``. Protocols are names or
numbers. ``end`` may stand for ``duration_s``. A file says ``vantage`` where several
places saw the same conversation, which then counts once.

One file because the keys, their meaning and what is refused are read together.
"""

from __future__ import annotations

import fnmatch
import os
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from exfilml.columns import COLUMNS, CONN_STATES
from exfilml.declarations import Kind, Table, meant, quoted, read_toml
from exfilml.exceptions import ColumnMapError

FORMATS: Final = ("csv", "jsonl", "parquet")
LAYERS: Final = ("ip", "layer2", "payload")
TEXTS: Final = (
    *("conn_state", "app", "server_name", "fingerprint", "user_agent", "content_type"),
    *("process", "sensor", "uid", "label", "vantage"),
)
NUMBERS: Final = (
    *("src_port", "dst_port", "src_bytes", "dst_bytes", "src_packets", "dst_packets"),
    "duration_s",
)
NEEDED: Final = (
    *("start", "src_ip", "src_port", "dst_ip", "dst_port", "protocol", "src_bytes"),
)
MAPPED: Final = (
    *(c.name for c in COLUMNS if c.name in {*NEEDED, *NUMBERS, *TEXTS, "tcp_flags"}),
    *("end", "vantage"),
)
SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_SIZES: Final = {
    unit: float(size**power)
    for size, units in ((1000, "B kB MB GB"), (1024, "B KiB MiB GiB"))
    for power, unit in enumerate(units.split())
}
_TOP: Final = ("format", "files", "delimiter", "quote", "names", "nulls", "directions")


@dataclass(frozen=True)
class Field:
    """Where a column of the flows table comes from.

    Attributes
    ----------
    column
        The file's column, None for a constant.
    value
        The constant.
    values
        What texts of the file mean.
    scale
        What numbers are multiplied with.
    """

    column: str | None
    value: str | float | None = None
    values: tuple[tuple[str, str], ...] = ()
    scale: float = 1.0


@dataclass(frozen=True)
class ColumnMap:
    """What the columns of a table mean; the module's text says what may be told.

    Attributes
    ----------
    source
        Name of the file, for errors.
    format
        Of `FORMATS`, None if the content tells.
    files
        Pattern of the names of files that are read by it, None for all.
    delimiter, quote, names, nulls
        Of CSV.
    paired
        Whether each record counts one direction.
    time
        ``iso``, a key of `SECONDS`, or a format of strptime.
    timezone
        Of times without one.
    layer
        Of `LAYERS`.
    fields
        Column of the flows table, and where it comes from.
    """

    source: str
    format: str | None
    files: str | None
    delimiter: str
    quote: str | None
    names: tuple[str, ...] | None
    nulls: tuple[str, ...]
    paired: bool
    time: str
    timezone: str | None
    layer: str
    fields: tuple[tuple[str, Field], ...]

    @classmethod
    def of(cls, given: ColumnMap | Mapping[str, Any] | str | os.PathLike[str]) -> Self:
        """Return a map as it is, read a file, or check what one would say.

        Raises
        ------
        ColumnMapError
            If it is none of these, or wrong.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            return cls.parse(given)
        if not isinstance(given, str | os.PathLike):
            raise ColumnMapError(
                f"columns: got {quoted(given)}, expected the path of a column map."
            )
        return cls.parse(
            read_toml(given, ColumnMapError, "a column map"), os.fspath(given)
        )

    @classmethod
    def parse(cls, table: Mapping[str, Any], source: str = "columns") -> Self:
        """Check what a file says.

        Raises
        ------
        ColumnMapError
            With source, table and key, what was given and what was expected.
        """
        top = Table(source, table, (*_TOP, "time", "bytes", "columns"), ColumnMapError)
        time = top.table("time", ("format", "timezone"))
        octets = top.table("bytes", ("unit", "layer"))
        size = octets.get("unit", _UNIT) or 1.0
        paired = top.get("directions", _DIRECTIONS) == "one"
        columns = top.table("columns", MAPPED)
        fields = {}
        for name in MAPPED:
            field = columns.get(name, _field_kind(source, name))
            if field is not None:
                scale = size if name in {"src_bytes", "dst_bytes"} else field.scale
                fields[name] = Field(field.column, field.value, field.values, scale)
        needed = NEEDED if paired else (*NEEDED, "dst_bytes")
        missing = [name for name in needed if name not in fields]
        if missing:
            raise columns.refuse(f"{', '.join(missing)} missing, expected {_FIELD}.")
        layer = octets.get("layer", _LAYER) or "ip"
        if layer != "ip" and "src_packets" not in fields:
            raise columns.refuse(
                f"src_packets is missing, without which bytes of {layer} cannot be made "
                "IP bytes."
            )
        nulls = top.get("nulls", _TEXT_LIST)
        return cls(
            source=source,
            format=top.get("format", _FORMAT),
            files=top.get("files", _TEXT),
            delimiter=top.get("delimiter", _DELIMITER) or ",",
            quote='"' if (q := top.get("quote", _QUOTE)) is None else q or None,
            names=top.get("names", _NAMES),
            nulls=("",) if nulls is None else nulls,
            paired=paired,
            time=time.get("format", _TIME) or "iso",
            timezone=time.get("timezone", _ZONE),
            layer=layer,
            fields=tuple(fields.items()),
        )

    def covers(self, path: Path) -> bool:
        """Say whether a file is read by this map."""
        return self.files is None or fnmatch.fnmatchcase(path.name, self.files)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns of the file, each once."""
        named = (field.column for _, field in self.fields)
        return tuple(dict.fromkeys(name for name in named if name is not None))


def _one_of(words: tuple[str, ...]) -> Kind:
    def parse(given: Any) -> str:
        if given not in words:
            near = meant(given, words) if isinstance(given, str) else ""
            raise ValueError(near.strip(" ()"))
        return str(given)

    return Kind(f"one of {', '.join(words)}", parse)


def _text(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError
    return given


def _one_character(given: Any) -> str:
    if not isinstance(given, str) or len(given) != 1 or not given.isascii():
        raise ValueError
    if given in '\r\n"':
        raise ValueError
    return given


def _quote(given: Any) -> str:
    if given not in ('"', "'", ""):
        raise ValueError
    return str(given)


def _texts(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(t, str) for t in given):
        raise ValueError
    return tuple(given)


def _names(given: Any) -> tuple[str, ...]:
    names = _texts(given)
    if not names or len(set(names)) != len(names):
        raise ValueError
    return names


def _unit(given: Any) -> float:
    if given not in _SIZES:
        raise ValueError
    return _SIZES[given]


def _time(given: Any) -> str:
    text = _text(given)
    if text in {"iso", *SECONDS}:
        return text
    if not re.search("%[a-zA-Z]", text):
        raise ValueError
    import pandas as pd

    # Only pandas knows which formats it knows.
    try:
        pd.to_datetime(pd.Series(["1"], dtype="str"), format=text, errors="coerce")
    except (KeyError, re.error) as error:
        raise ValueError from error
    return text


def _zone(given: Any) -> str:
    try:
        zoneinfo.ZoneInfo(given)
    except (TypeError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise ValueError from error
    return str(given)


def _field_kind(source: str, name: str) -> Kind:
    def parse(given: Any) -> Field:
        if isinstance(given, str):
            return Field(_text(given))
        if not isinstance(given, Mapping):
            raise ValueError  # noqa: TRY004 - `Table.get` says what was expected
        units = ("unit",) if name == "duration_s" else ()
        table = Table(
            f"{source}, [columns], {name}",
            given,
            ("column", "value", "values", *units),
            ColumnMapError,
        )
        column, value = table.get("column", _TEXT), table.get("value", _VALUE)
        if (column is None) == (value is None):
            raise table.refuse("expected either column or value.")
        values = table.get("values", _VALUES) or ()
        if name == "conn_state":
            for word in [said for _, said in values] + (
                [] if value is None else [value]
            ):
                if word not in CONN_STATES:
                    raise table.refuse(
                        f"{quoted(word)} is no state; expected {', '.join(CONN_STATES)}."
                    )
        scale = table.get("unit", _SPAN) if units else None
        return Field(column, value, values, SECONDS[scale or "s"])

    return Kind(_FIELD, parse)


def _value(given: Any) -> str | float:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ValueError  # noqa: TRY004 - `Table.get` says what was expected
    return given


def _values(given: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, Mapping):
        raise ValueError  # noqa: TRY004 - `Table.get` says what was expected
    return tuple((str(text), str(_value(said))) for text, said in given.items())


_FIELD: Final = (
    "the name of a column of the file, or a table with column, values or value"
)
_FORMAT: Final = _one_of(FORMATS)
_LAYER: Final = _one_of(LAYERS)
_DIRECTIONS: Final = _one_of(("both", "one"))
_SPAN: Final = _one_of(tuple(SECONDS))
_TEXT: Final = Kind("a text", _text)
_DELIMITER: Final = Kind("one character, such as ';' or '\\t'", _one_character)
_QUOTE: Final = Kind("""'"', "'" or "" for none""", _quote)
_TEXT_LIST: Final = Kind("a list of texts", _texts)
_NAMES: Final = Kind("a list of texts that are all different", _names)
_UNIT: Final = Kind(f"one of {', '.join(_SIZES)}", _unit)
_TIME: Final = Kind(
    f"iso, {', '.join(SECONDS)} or a format such as '%d.%m.%Y %H:%M:%S'", _time
)
_ZONE: Final = Kind("a time zone such as 'Europe/Prague' or 'UTC'", _zone)
_VALUE: Final = Kind("a text or a number", _value)
_VALUES: Final = Kind("a table of texts and what they mean", _values)
