"""`exfilml sources`: every file under a folder, what it is and what it shows."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from logs import conn, json_lines, zeek_tsv
from sites import office

from exfilml import cli
from exfilml.exceptions import SourceError
from exfilml.sources import READERS, read_flows, survey, write_flows
from exfilml.sources._survey import format_name

REAL = os.environ.get("EXFILML_REAL_DATA")


@pytest.fixture
def folder(tmp_path):
    """A log with a bad line, one beside it, stored flows, what is none, and nothing."""
    bad = b"no line\n"
    (tmp_path / "conn.log").write_bytes(zeek_tsv([conn(), conn(uid="C2")]) + bad)
    (tmp_path / "dns.log").write_bytes(
        json_lines([{"ts": 1.0, "uid": "C", "query": "a.example"}])
    )
    write_flows(office(90), tmp_path / "flows.parquet")
    (tmp_path / "notes.txt").write_text("buy milk")
    (tmp_path / "rotated.log").touch()
    return tmp_path


def test_every_file_has_its_row(folder):
    table = survey(folder)
    table.index = table["file"].map(lambda f: Path(f).name)
    assert list(table.index) == sorted(p.name for p in folder.iterdir())
    told = table[["format", "rows", "capability"]].T.to_dict("list")
    assert told == {
        "conn.log": ["Zeek conn.log", 2, "application"],
        "dns.log": ["Zeek, beside conn.log", 0, ""],
        "flows.parquet": ["Parquet", 90, told["flows.parquet"][2]],
        "notes.txt": ["", 0, ""],
        "rotated.log": ["", 0, ""],
    }
    assert "payload" in told["flows.parquet"][2]
    assert "1 of 3 lines could not be read" in table["warnings"]["conn.log"]
    assert "beside conn.log" in table["warnings"]["dns.log"]
    assert "not a format that exfilml reads" in table["warnings"]["notes.txt"]
    assert "the file is empty" in table["warnings"]["rotated.log"]
    assert (table["seconds"] >= 0).all()


def test_shares_are_told_where_flows_show_different_things(tmp_path):
    both = [conn(), conn(uid="C2", service=None), *(conn() for _ in range(2))]
    (tmp_path / "conn.log").write_bytes(zeek_tsv(both))
    assert survey(tmp_path)["capability"].tolist() == ["application 75%, packets 25%"]


def test_the_command_prints_a_table_or_what_programs_read(folder, capsys):
    assert cli.run(["sources", str(folder), "-q"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"in {folder}"
    assert lines[1].split() == ["file", "format", "rows", "seconds", "capability"]
    assert lines[2].startswith("conn.log")
    assert "Zeek conn.log" in lines[2]
    assert "notes.txt: " not in out
    assert err == ""
    assert cli.run(["sources", str(folder), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rows"] for row in rows] == survey(folder)["rows"].tolist()


def test_a_name_of_the_attacker_does_not_reach_the_terminal(tmp_path, capsys):
    (tmp_path / "a\x1b[2Jb.log").write_text("x")
    (tmp_path / "c.log").write_text("x")
    assert cli.run(["sources", str(tmp_path)]) == 0
    assert "\x1b[2J" not in capsys.readouterr().out


def test_a_place_that_is_not_there_is_an_error(tmp_path, capsys):
    with pytest.raises(SourceError, match="no such file"):
        survey(tmp_path / "none")
    assert cli.run(["sources", str(tmp_path / "none")]) == 2


def test_every_reader_has_a_short_name():
    import importlib

    names = [
        format_name(importlib.import_module(f"exfilml.sources.{name}"))
        for name in READERS
    ]
    assert len(set(names)) == len(names)
    assert all(2 < len(name) < 80 for name in names)


def test_a_reader_without_a_name_is_called_as_its_text_begins():
    reader = SimpleNamespace(__doc__="Squid's access.log, native or not.\n\nMore.")
    assert format_name(reader) == "Squid's access.log"


@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
def test_every_real_log_is_read_or_refused_with_a_reason():
    table = survey(Path(REAL) / "logs", timezone="UTC")
    unread = table[table["rows"] == 0]
    assert len(table) > 200
    assert (unread["warnings"].str.len() > 10).all()


def test_an_http_log_counts_as_a_folder_is_read(tmp_path):
    fields = {"ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port"}
    fields |= {"id.resp_h": "addr", "id.resp_p": "port"}
    fields |= {"request_body_len": "count", "response_body_len": "count"}
    request = conn() | {"request_body_len": 10, "response_body_len": 20}
    log = zeek_tsv([request], path="http", fields=fields)
    (tmp_path / "http.log").write_bytes(log)
    assert survey(tmp_path)["rows"].tolist() == [1]
    (tmp_path / "conn.log").write_bytes(zeek_tsv([conn()]))
    table = survey(tmp_path)
    assert table["format"].tolist() == ["Zeek conn.log", "Zeek http.log"]
    assert table["rows"].tolist() == [1, 0]
    assert table["rows"].sum() == len(read_flows(tmp_path))
    assert "lies beside a conn.log" in table["warnings"][1]


def test_files_from_here_and_from_the_root_are_in_one_table(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_bytes(zeek_tsv([conn()]))
    assert cli.run(["sources", "a.log", str(tmp_path / "b.log"), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("a.log ")
    assert [line for line in lines if line.startswith(str(tmp_path / "b.log"))]


def test_a_long_name_does_not_widen_the_table(tmp_path, capsys):
    for name in ("a.log", "b" * 90 + ".log"):
        (tmp_path / name).write_bytes(zeek_tsv([conn()]))
    assert cli.run(["sources", str(tmp_path), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert max(map(len, lines)) <= 110
    assert lines[2] == "b" * 90 + ".log"
    assert lines[3].split()[:2] == ["Zeek", "conn.log"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x1f\x8b\x08\x00 no gzip", "the gzip data are cut off or damaged"),
        (gzip.compress(b""), "the file is empty"),
        (b"start,duration_s,src_ip,src_port\n", "flows that exfilml wrote as CSV"),
        ("#separator x".encode("utf-16"), "text in UTF-16"),
        ("#separator x".encode("utf-16-le"), "text in UTF-16"),
    ],
)
def test_the_reason_is_what_is_wrong_with_the_file(tmp_path, data, reason):
    (tmp_path / "log").write_bytes(data)
    assert survey(tmp_path)["warnings"][0].startswith(reason)


@pytest.mark.parametrize(
    "log",
    [
        zeek_tsv([conn()]),
        json_lines([conn()]),
        json.dumps(
            {
                "timestamp": "2023-11-14T22:13:20.0+0000",
                "event_type": "flow",
                "flow_id": 1,
                "src_ip": "10.0.0.5",
                "dest_ip": "203.0.113.7",
                "src_port": 1,
                "dest_port": 443,
                "proto": "TCP",
                "flow": {
                    "pkts_toserver": 1,
                    "pkts_toclient": 1,
                    "bytes_toserver": 80,
                    "bytes_toclient": 80,
                    "start": "2023-11-14T22:13:20.0+0000",
                },
            },
            indent=1,
        ).encode(),
    ],
)
def test_a_byte_order_mark_changes_nothing(tmp_path, log):
    (tmp_path / "log").write_bytes(b"\xef\xbb\xbf" + log)
    assert survey(tmp_path)["rows"].tolist() == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_a_name_that_is_no_text_is_refused(tmp_path, capsys):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.log"))
    path.write_bytes(zeek_tsv([conn()]))
    (tmp_path / "good.log").write_bytes(zeek_tsv([conn()]))
    assert survey(tmp_path)["rows"].tolist() == [1, 0]
    assert cli.run(["flows", str(path), "--out", str(tmp_path / "f.parquet")]) == 2
    assert "not UTF-8; rename the file" in capsys.readouterr().err


def test_standard_input_has_the_name_that_was_given(monkeypatch, capsys):
    log = zeek_tsv([conn()]) + b"no line\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(log)))
    assert cli.run(["sources", "-", "-q", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["file"] == "-"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"?")))
    assert cli.run(["rank", "-", "-q"]) == 2
    assert "error: -: not a format" in capsys.readouterr().err
