"""Lines of keys and values: what is quoted stays a value, whatever it says."""

from __future__ import annotations

import subprocess
import sys

import pytest
from firewall_logs import forti, forti_line
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.sources import _keyvalues
from exfilml.sources._keyvalues import KeyValues
from exfilml.sources._lines import Block

KEYS = ["src", "srcip", "srcip2", "bytes", "a_long_key_of_24_letters", "time", "ip"]
# What an attacker may put into a value to be taken for fields.
EVIL = st.lists(
    st.sampled_from(
        [*(f" {key}=" for key in KEYS), *(f",{key}=6" for key in KEYS), " ", ",", "=",
         '"', "\\", '\\"', "x", "6.6.6.6", ";", "[", "é", "\t", "srcip:", "'"]
    ),
    max_size=6,
).map("".join)  # fmt: skip
PLAIN = st.text(st.sampled_from("abc019.:/-é'="), max_size=9)


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


RECORD = st.dictionaries(st.sampled_from(KEYS), st.tuples(st.booleans(), EVIL, PLAIN))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(RECORD, min_size=1, max_size=6),
    st.sampled_from([(" ", "="), (",", "="), ("; ", ":"), ("|", "=")]),
    st.booleans(),
    st.booleans(),
)
def test_fields_are_what_was_written(records, form, returns, ended):
    separator, assign = form
    lines = [
        separator.join(
            f"{key}{assign}{quoted(evil) if is_quoted else plain}"
            for key, (is_quoted, evil, plain) in record.items()
        )
        for record in records
    ]
    end = "\r\n" if returns else "\n"
    text = end.join(["head", *lines]) + (end if ended else "")
    block = Block.of(text.encode(), 1)
    fields = KeyValues(block, separators=separator[:1].encode(), assign=assign.encode())
    assert len(fields) == block.lines
    assert not fields.open_quotes.any()
    # A last line without anything in it is none.
    lines = len(fields) - 1
    for key in KEYS:
        expected = [
            None if key not in record else record[key][1 if record[key][0] else 2]
            for record in records
        ]
        assert fields.texts(key).to_pylist() == [None, *expected[:lines]]


def test_a_quote_that_stays_open_spoils_its_line_and_no_other():
    text = b'a=1 b="x\na=2 b="y z" c=3\nb="u" a=4 c="\n'
    fields = KeyValues(Block.of(text, 1))
    assert fields.open_quotes.tolist() == [True, False, True]
    assert fields.numbers("a").to_pylist() == [None, 2, None]
    assert fields.texts("b").to_pylist() == [None, "y z", None]


def test_a_key_that_comes_again_is_counted_and_can_be_asked_for():
    fields = KeyValues(Block.of(b"src=1 dst=2 src=3\n\ndst=5  src=6 xsrc=7\n", 1))
    assert fields.times_of("src").tolist() == [2, 0, 1]
    assert fields.texts("src").to_pylist() == ["1", None, "6"]
    assert fields.texts("src", 1).to_pylist() == ["3", None, None]


def test_only_whole_numbers_are_numbers():
    text = b"n=1\nn=-1\nn=1.5\nn=\nn=x\nn=\xff\nn=0999\nn=" + b"9" * 19 + b"\n"
    fields = KeyValues(Block.of(text, 1))
    assert fields.numbers("n").to_pylist() == [1, *[None] * 5, 999, None]


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b" ", b",", b";["]))
def test_any_bytes_have_fields(data, separators):
    if data:
        block = Block.of(data, 1)
        fields = KeyValues(block, separators=separators)
        assert len(fields.texts("a")) == len(fields) == block.lines


@given(st.binary(min_size=1, max_size=30).map(lambda b: b.replace(b"x", b"\n")))
def test_portions_are_the_block_in_whole_lines(data):
    block = Block.of(data, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_keyvalues, "MOST_LINES", 3)
        parts = list(_keyvalues.portions([block]))
    assert b"".join(part.data for part in parts) == data
    assert sum(part.lines for part in parts) == block.lines
    number = 5
    for part in parts:
        assert part.first == number
        assert part.lines <= 3
        assert part.data.endswith(b"\n") or part is parts[-1]
        number += part.lines


def test_millions_of_empty_lines_are_read_in_bounded_memory(tmp_path):
    path = tmp_path / "fgt.log"
    path.write_bytes(forti_line(forti()).encode() + b"\n" * (6 << 20))
    # That of getrusage may be the parent's, of before exec.
    code = "import re, sys, exfilml; flows = exfilml.read_flows(sys.argv[1]); "
    code += "status = open('/proc/self/status').read(); "
    code += "peak = int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]); "
    code += "print(len(flows), peak < 700 << 10)"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "True"]
