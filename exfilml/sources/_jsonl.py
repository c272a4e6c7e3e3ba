"""JSON lines into Arrow tables, fast where all is well.

As `_delimited`: a block that Arrow refuses is read again line by line, to say which
lines those are.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from exfilml.sources._delimited import Records
from exfilml.sources._lines import BadLines, Block, shown

_MOST: Final = 2**63
_NULL: Final = re.compile(rb"(?:\A|[}\n])[ \t\r]*null\b")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,9})?")


def read_block(
    block: Block,
    schema: pa.Schema,
    needed: frozenset[str],
    bad: BadLines,
    other: pa.Schema | None = None,
) -> Records | None:
    """Read the fields of a schema; count lines that cannot be read.

    Fields that the schema does not know are passed over. ``lines`` is None where all
    is well: rows are lines then. `other` is tried where `schema` does not fit, for
    writers that put numbers into texts.
    """
    if block.data.isspace():
        return None
    table = _at_once(block.data, schema)
    if table is None and other is not None:
        table = _at_once(block.data, other)
    if table is not None and table.num_rows == block.lines:
        lacking = [table.column(name).null_count for name in needed]
        if not any(lacking):
            bad.lines += table.num_rows
            return Records(table, None)
    return _line_by_line(block, schema, needed, bad)


def crashes_arrow(data: bytes) -> bool:
    """Say whether a null stands where an object should.

    Arrow's reader ends the process then (pyarrow 26), instead of raising an error.
    """
    return b"null" in data and _NULL.search(data) is not None


def _at_once(data: bytes, schema: pa.Schema) -> pa.Table | None:
    if crashes_arrow(data):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(block_size=1 << 20),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
        # Arrow's reader takes bytes and escapes for text that are none.
        if not data.isascii() or b"\\u" in data:
            table.validate(full=True)
    except (pa.ArrowException, UnicodeError):
        return None
    return table


def _line_by_line(
    block: Block, schema: pa.Schema, needed: frozenset[str], bad: BadLines
) -> Records | None:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(block.data.split(b"\n"), block.first):
        if not line.strip():
            continue
        bad.lines += 1
        try:
            row = _row(json.loads(line.decode("utf-8", "replace")), schema, bad)
        except (ValueError, RecursionError):
            bad.add(number, f"no JSON object: {shown(line)}")
            continue
        missing = [
            name for name in schema.names if name in needed and row[name] is None
        ]
        if missing:
            bad.add(number, f"without {' and '.join(missing)}: {shown(line)}")
            continue
        rows.append(row)
        lines.append(number)
    if not rows:
        return None
    return Records(pa.Table.from_pylist(rows, schema), np.array(lines))


def _row(record: Any, fields: Any, bad: BadLines) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError("not an object")  # noqa: TRY004
    return {f.name: _value(record.get(f.name), f.type, bad) for f in fields}


def _value(value: Any, kind: Any, bad: BadLines) -> Any:  # noqa: PLR0911
    """Return a value if it is of a kind, else None."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return _row(value, kind, bad) if isinstance(value, dict) else None
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            return None
        return [_value(item, kind.value_type, bad) for item in value]
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if pa.types.is_string(kind):
        # Halves of surrogate pairs are possible in JSON, and nowhere else.
        return (
            value.encode("utf-8", "replace").decode()
            if isinstance(value, str)
            else None
        )
    number = _number(value, kind)
    bad.blanked += number is None
    return number


def _number(value: Any, kind: Any) -> float | int | None:
    """Return a number if it is one of a kind, else None."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and -_MOST <= value < _MOST:
        if pa.types.is_floating(kind):
            return float(value)
        if value == int(value):
            return int(value)
    return None
