"""Text logs, whatever they are packed in and however broken: the frame of all formats."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings

import captures
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import conn, zeek_header, zeek_line, zeek_tsv

import exfilml
from exfilml.exceptions import FlowsError, OptionError, SourceError, SourceWarning
from exfilml.schema import validate_flows
from exfilml.sources import _lines, _packed, _zeek
from exfilml.sources._lines import BadLines, blocks
from exfilml.sources._packed import open_plain


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


def many(n, **changed):
    return [conn(ts=1700000000.0 + i, uid=f"C{i}", **changed) for i in range(n)]


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "conn.log", zeek_tsv(many(40)))


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_logs_are_read_under_any_name(tmp_path, log, kind):
    plain = exfilml.read_flows(log).drop(columns="sensor")
    packed = write(tmp_path / "anything.dat", PACKERS[kind](log.read_bytes()))
    actual = exfilml.read_flows(packed)
    assert set(actual["sensor"]) == {"anything.dat"}
    pd.testing.assert_frame_equal(plain, actual.drop(columns="sensor"))


def test_captures_are_unpacked_too(tmp_path):
    plain = captures.write_pcap(tmp_path / "x.pcap", captures.tcp_upload(b"a" * 9000))
    expected = exfilml.read_flows(plain).drop(columns="sensor")
    for kind, pack in PACKERS.items():
        packed = write(tmp_path / f"{kind}.bin", pack(plain.read_bytes()))
        actual = exfilml.read_flows(packed).drop(columns="sensor")
        pd.testing.assert_frame_equal(actual, expected)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_joined_packed_members_are_one_log(tmp_path, log, kind):
    pack = PACKERS[kind]
    path = write(tmp_path / "x", pack(log.read_bytes()) + pack(zeek_tsv(many(3))))
    assert len(exfilml.read_flows(path)) == 43


@pytest.mark.parametrize("kind", PACKERS)
def test_what_stands_before_damage_is_read_and_the_damage_told(tmp_path, kind):
    rng = np.random.default_rng(0)
    rows = [conn(uid=f"C{rng.integers(1 << 60)}") for _ in range(30_000)]
    packed = PACKERS[kind](zeek_tsv(rows))
    path = write(tmp_path / "conn.log.x", packed[: len(packed) * 3 // 4])
    with pytest.warns(SourceWarning) as caught:
        flows = exfilml.read_flows(path)
    texts = [str(warning.message) for warning in caught]
    assert any(f"the {kind} data are cut off or damaged" in text for text in texts)
    # The line that the damage cut, and no other.
    assert any("1 of " in text and "could not be read" in text for text in texts)
    assert 10_000 < len(flows) < 30_000


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    st.booleans(),
    st.integers(1, 50),
    st.integers(1, 200),
)
def test_blocks_are_the_file_in_whole_lines(lines, ended, piece, size):
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    data = data.removeprefix(b"\xef\xbb\xbf")
    pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
    if pieces and pieces[0].startswith(b"\xef\xbb\xbf"):
        return
    bad, number, joined = BadLines(), 1, b""
    for block in blocks(pieces, bad, size):
        assert block.first == number
        assert (
            block.lines == len(block.data.splitlines())
            or b"\r" in block.data
            or any(c in block.data for c in b"\x0b\x0c\x1c\x1d\x1e\x85")
        )
        number += block.data.count(b"\n")
        joined += block.data
    assert joined == data
    assert bad.bad == 0


def test_a_line_without_end_is_passed_over_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_lines, "LONGEST_LINE", 1000)
    pieces = [b"a\nb\n", *[b"x" * 300] * 50, b"x\nc\n"]
    bad = BadLines()
    found = list(blocks(pieces, bad, 100))
    assert [(b.data, b.first) for b in found] == [(b"a\nb\n", 1), (b"c\n", 4)]
    assert (bad.bad, bad.first[0]) == (1, 3)


def test_bad_lines_are_counted_and_the_first_is_named(tmp_path):
    text = zeek_header() + "".join(map(zeek_line, many(41)))
    lines = text.split("\n")
    lines[16] = "only\ttwo"
    lines[20] = lines[20].replace("40000", "4000O")
    lines[24] = lines[24].replace("10.0.0.5", "10.0.0.555")
    path = write(tmp_path / "conn.log", "\n".join(lines).encode())
    with pytest.warns(SourceWarning) as caught:
        flows = exfilml.read_flows(path)
    assert len(flows) == 38
    (warning,) = caught
    assert str(warning.message) == (
        f"{path}: 3 of 41 lines could not be read; first: line 17: 2 of 21 fields: "
        r"'only\ttwo'."
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("10.0.0.5", "host.example", "src_ip cannot be 'host.example'"),
        ("40000", "70000", "src_port cannot be '70000'"),
        ("40000", "-", "src_port is missing"),
        ("1700000005.000000", "-", "start is missing"),
        ("1700000005.000000", "nan", "start"),
        ("1700000005.000000", "99999999999.0", "start cannot be"),
        ("1328", "-5", "src_bytes cannot be '-5'"),
        ("1328", str(2**53 + 2), "src_bytes cannot be"),
        ("1328", str(2**32 - 1), "src_bytes cannot be 4294967295 in so few packets"),
    ],
)
def test_what_cannot_be_in_a_needed_column_makes_a_bad_line(tmp_path, old, new, reason):
    lines = (zeek_header() + "".join(map(zeek_line, many(20)))).split("\n")
    lines[13] = lines[13].replace(old, new)
    path = write(tmp_path / "conn.log", "\n".join(lines).encode())
    with pytest.warns(
        SourceWarning, match="1 of 20 lines .* first: line 14: "
    ) as caught:
        assert len(exfilml.read_flows(path)) == 19
    assert reason in str(caught[0].message)


def test_impossible_values_of_other_columns_are_left_out_alone(tmp_path):
    rows = [*many(5), conn(duration=-1.0, orig_bytes=2**64 - 1), conn(resp_pkts="x")]
    path = write(tmp_path / "conn.log", zeek_tsv(rows))
    with pytest.warns(SourceWarning, match="3 impossible values left out"):
        flows = exfilml.read_flows(path)
    assert len(flows) == 7
    assert flows["duration_s"].isna().sum() == 1
    assert flows["src_payload_bytes"].isna().sum() == 1
    assert flows["dst_packets"].isna().sum() == 1


def test_a_half_written_last_line_is_a_bad_line(tmp_path):
    whole = (zeek_header() + "".join(map(zeek_line, many(9)))).encode()
    path = write(tmp_path / "conn.log", whole[:-40])
    with pytest.warns(
        SourceWarning, match="1 of 9 lines could not be read; first: line 17"
    ):
        assert len(exfilml.read_flows(path)) == 8


def test_a_last_line_that_lacks_its_end_alone_is_read(tmp_path):
    whole = (zeek_header() + "".join(map(zeek_line, many(9)))).encode()
    assert len(exfilml.read_flows(write(tmp_path / "conn.log", whole[:-1]))) == 9


def test_blank_lines_and_windows_line_ends_are_no_bad_lines(tmp_path):
    lines = (zeek_header() + "".join(map(zeek_line, many(9)))).replace("\n", "\r\n")
    path = write(tmp_path / "conn.log", (lines + "\r\n\r\n").encode())
    flows = exfilml.read_flows(path)
    assert len(flows) == 9
    assert flows["dst_bytes"].tolist() == [5368] * 9


def test_a_log_of_bad_lines_alone_is_refused(tmp_path):
    text = zeek_header() + "".join(map(zeek_line, many(5))).replace("\t", " ")
    path = write(tmp_path / "conn.log", text.encode())
    with pytest.raises(
        SourceError, match=r"no flow could be read: 5 of 5 .* line 9: 1 of 21"
    ):
        exfilml.read_flows(path)


def test_a_million_bad_lines_warn_once(tmp_path):
    good = "".join(map(zeek_line, many(1000)))
    path = write(
        tmp_path / "conn.log", (zeek_header() + good + "bad line\n" * 10**6).encode()
    )
    with pytest.warns(SourceWarning, match="1,000,000 of 1,001,000 lines") as caught:
        assert len(exfilml.read_flows(path)) == 1000
    assert len(caught) == 1


def test_a_log_without_records_has_no_flows_and_says_so(tmp_path):
    path = write(tmp_path / "conn.log", zeek_tsv([]))
    with pytest.warns(SourceWarning, match="holds no flows"):
        flows = exfilml.read_flows(path)
    pd.testing.assert_frame_equal(validate_flows(flows), flows)
    assert len(flows) == 0


def test_a_rotated_log_of_no_bytes_in_a_folder_is_passed_over_with_a_note(tmp_path):
    write(tmp_path / "conn.00.log", zeek_tsv(many(3)))
    write(tmp_path / "conn.01.log", b"")
    with pytest.warns(
        SourceWarning, match=r"1 of 2 files skipped.*conn\.01\.log.*empty"
    ):
        assert len(exfilml.read_flows(tmp_path)) == 3


def test_mixed_folders_are_one_table(tmp_path):
    stored = exfilml.read_flows(write(tmp_path / "conn.log", zeek_tsv(many(3))))
    exfilml.write_flows(stored, tmp_path / "old.parquet")
    write(tmp_path / "conn.json", zeek_tsv(many(2)))
    assert len(exfilml.read_flows(tmp_path)) == 8


def test_iter_flows_yields_bounded_checked_tables_that_are_the_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(_packed, "CHUNK", 3000)
    monkeypatch.setattr(_zeek, "blocks", lambda p, bad: blocks(p, bad, size=5000))
    folder = tmp_path / "logs"
    folder.mkdir()
    write(folder / "conn.a.log", zeek_tsv(many(300)))
    write(folder / "conn.b.log", zeek_tsv(many(211)))
    exfilml.write_flows(exfilml.read_flows(folder / "conn.a.log"), folder / "s.parquet")
    tables = list(exfilml.iter_flows(folder, chunk=100))
    assert [len(t) for t in tables] == [100] * 8 + [11]
    for table in tables:
        pd.testing.assert_frame_equal(validate_flows(table), table)
        assert table["start"].is_monotonic_increasing
        assert table.index.equals(pd.RangeIndex(len(table)))
    keys = ["start", "uid", "sensor"]
    together = pd.concat(tables).sort_values(keys, ignore_index=True)
    whole = exfilml.read_flows(folder).sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(whole, together)


def test_iter_flows_tells_after_the_last_table_what_was_lost(tmp_path):
    write(tmp_path / "conn.a.log", zeek_tsv(many(3)))
    write(tmp_path / "conn.b.log", zeek_tsv(many(2))[:-60])
    write(tmp_path / "conn.c.log", zeek_tsv(many(2)).replace(b"\t203", b" 203"))
    tables = exfilml.iter_flows(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(next(tables)) == 4
    with pytest.warns(SourceWarning) as caught:
        assert list(tables) == []
    texts = [str(w.message) for w in caught]
    assert any("1 of 3 files could not be read" in text for text in texts)
    assert any("1 of 2 files with lines that could not be read" in t for t in texts)


def test_iter_flows_refuses_before_it_begins(tmp_path):
    with pytest.raises(OptionError, match="chunk=0"):
        exfilml.iter_flows(tmp_path, chunk=0)
    with pytest.raises(SourceError, match="no such file"):
        exfilml.iter_flows(tmp_path / "none")


def test_iter_flows_raises_what_ends_a_single_file(tmp_path):
    frame = pd.DataFrame({"start": [1], "src_ip": ["a"]})
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(FlowsError, match="missing columns"):
        list(exfilml.iter_flows(tmp_path / "x.parquet"))


def test_iter_flows_holds_a_piece_at_a_time(tmp_path, monkeypatch):
    """The log behind it may be of any length: what was not asked for is not read."""
    path = write(tmp_path / "conn.log", zeek_tsv(many(20_000)))
    read = []
    monkeypatch.setattr(_packed, "CHUNK", 10_000)
    monkeypatch.setattr(_zeek, "blocks", lambda p, bad: blocks(p, bad, size=10_000))
    monkeypatch.setattr(_zeek, "open_plain", lambda p, _: open_plain(p, read.append))
    tables = exfilml.iter_flows(path, chunk=50)
    next(tables)
    assert sum(read) < path.stat().st_size / 10
    tables.close()
