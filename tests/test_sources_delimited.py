"""Quoted fields, in blocks in which all is well and in others."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.sources._delimited import Layout, line_by_line, read_block, read_sound
from exfilml.sources._lines import BadLines, Block

NAMES = ("name", "size", "note")
LAYOUT = Layout(
    NAMES,
    {"name": pa.string(), "size": pa.int64(), "note": pa.string()},
    frozenset({"size"}),
    ",",
    quote='"',
)
FIELD = st.text(st.sampled_from("ab ,\"'="), max_size=8)


def block(rows) -> Block:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return Block.of(out.getvalue().encode(), 1)


@settings(deadline=None)
@given(st.lists(st.tuples(FIELD, st.integers(0, 10**15), FIELD), min_size=1))
def test_quoted_fields_are_what_was_written_at_once_and_line_by_line(rows):
    expected = [(name or None, size, note or None) for name, size, note in rows]
    for read in (read_sound, line_by_line):
        bad = BadLines()
        table = read(block(rows), LAYOUT, bad).table
        assert list(zip(*table.to_pydict().values(), strict=True)) == expected
        assert (bad.lines, bad.bad) == (len(rows), 0)


def test_lines_with_open_quotes_or_other_widths_are_named_and_take_no_others_along():
    text = b'a,1,x\n"b,2,y\n"c,d",3,"z ""z"""\ne,4\n"f",5,"g\n'
    bad = BadLines()
    records = read_block(Block.of(text, 7), LAYOUT, bad)
    assert records.table.column("name").to_pylist() == ["a", "c,d"]
    assert records.table.column("note").to_pylist() == ["x", 'z "z"']
    assert records.lines.tolist() == [7, 9]
    assert str(bad) == (
        "3 of 5 lines could not be read; first: line 8: a quote that does not close: "
        "'\"b,2,y'"
    )


def test_without_a_quote_quotes_are_text_like_any_other():
    plain = Layout(NAMES, LAYOUT.wanted, LAYOUT.needed, ",")
    for read in (read_sound, line_by_line):
        records = read(Block.of(b'"a,1,b"\n', 1), plain, BadLines())
        assert records.table.to_pylist() == [{"name": '"a', "size": 1, "note": 'b"'}]
