"""`exfilml sources`: every file under a folder, what it is and what it shows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from logs import conn, json_lines, zeek_tsv
from sites import office

from exfilml import cli
from exfilml.exceptions import SourceError
from exfilml.sources import READERS, survey, write_flows
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
