"""Export: what goes into a file comes back the same, and does nothing on its way."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office, theft

from exfilml import Detector, rank_cases, rank_flows
from exfilml.exceptions import OptionError, OutputError
from exfilml.export import output_format, printable, to_text, write_table

SETTINGS = settings(max_examples=60, deadline=None)

TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["=1+1", "+x", "-2", "@SUM(A1)", "\t=1", "\r=1", 'a"b', "a,b", "a\nb", "", "'", "é"]
)
# Written out again here, so that a hole in the code's own list shows.
ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "＝1+1",
    "a\x1b[2J\x1b]0;title\x07b",
    "\x9b31m",
    "safe\u202egnp.exe",
    "a\u2066b\u2069",
    "a\u061cb",
    "a\u200bb",
    "tag\U000e0041",
    "nul\x00",
    "half\ud800",
    'quote"comma,line\nend',
    "café ☕ 中文 😀",
]


def frame(*texts, dtype="str") -> pd.DataFrame:
    return pd.DataFrame({"name": pd.Series(texts, dtype=dtype)})


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.fixture(scope="module")
def rankings() -> dict[str, pd.DataFrame]:
    flows = office(400)
    detector = Detector(random_state=0, n_estimators=10).fit(flows)
    day = office(400, first_day="2026-03-16")
    today = pd.concat([day, theft(day)], ignore_index=True)
    today.loc[today.index[-1], "server_name"] = "=HYPERLINK(1)\x1b\u202e"
    return {
        "flow": rank_flows(detector, today, alerts_per_day=50),
        "case": rank_cases(detector, today, alerts_per_day=50),
        "nothing": rank_cases(detector, flows.iloc[:0], alerts_per_day=50),
    }


# --- printable --------------------------------------------------------------------


@SETTINGS
@given(TEXT)
def test_nothing_that_a_terminal_acts_upon_is_left(text):
    assert not ACTS.search(printable(text))
    printable(text).encode("utf-8")


@SETTINGS
@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_harmless_text_stays_as_it_is(text):
    assert printable(text) == text


# --- CSV --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["str", "object", "category"])
@pytest.mark.parametrize("text", [t for t in HOSTILE if "\ud800" not in t])
def test_no_cell_begins_a_formula_or_moves_a_cursor(text, dtype):
    shown = cells(to_text(frame(text, dtype=dtype), "csv"))[1][0]
    assert shown[:1] not in {"=", "+", "-", "@", "\t", "\r", "\n", "＝"}
    assert not ACTS.search(shown)


@SETTINGS
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_hostile_text_never_adds_cells_or_rows(texts):
    table = pd.DataFrame({"a": texts, "b": 1}, dtype=object)
    rows = cells(to_text(table, "csv"))
    assert rows[0] == ["a", "b"]
    assert [len(row) for row in rows[1:]] == [2] * len(texts)
    assert all(row[0][:1] not in {"=", "+", "-", "@"} for row in rows[1:])


def test_a_formula_is_kept_readable_behind_an_apostrophe():
    assert cells(to_text(frame("=1+1"), "csv"))[1] == ["'=1+1"]


def test_a_formula_in_a_column_name_is_disarmed():
    assert cells(to_text(pd.DataFrame({"=1+1": [1]}), "csv"))[0] == ["'=1+1"]


def test_negative_numbers_stay_numbers():
    table = pd.DataFrame({"x": [-1.5], "n": pd.array([-3], dtype="Int64")})
    assert cells(to_text(table, "csv"))[1] == ["-1.5", "-3"]


def test_numbers_in_csv_are_exact():
    values = [0.1 + 0.2, 1 / 3, 1e-300, 2.0**60]
    rows = cells(to_text(pd.DataFrame({"x": values}), "csv"))
    assert [float(row[0]) for row in rows[1:]] == values


@pytest.mark.parametrize("dtype", ["str", "object"])
def test_missing_text_is_an_empty_cell(dtype):
    table = frame(None, "x", dtype=dtype).assign(n=1)
    assert cells(to_text(table, "csv")) == [["name", "n"], ["", "1"], ["x", "1"]]


def test_a_column_without_any_text_can_be_written():
    for table in (frame(None, None), frame()):
        assert len(cells(to_text(table.assign(n=1), "csv"))) == 1 + len(table)


# --- times ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", None])
def test_times_are_iso_8601_in_utc_to_the_microsecond(form, zone):
    time = pd.Timestamp("2026-03-02T23:30:00.000123Z")
    column = pd.Series([time, pd.NaT]).astype("datetime64[us, UTC]")
    column = column.dt.tz_convert(zone)
    text = to_text(pd.DataFrame({"start": column, "n": 1}), form)
    assert '2026-03-02T23:30:00.000123Z"' in text.replace("Z,", 'Z",')
    if form == "json":
        start = json.loads(text)[0]["start"]
        assert datetime.fromisoformat(start) == time
        assert json.loads(text)[1]["start"] is None


# --- JSON and JSON lines ------------------------------------------------------------


def parsed(table: pd.DataFrame, form: str):
    text = to_text(table, form)
    assert not text or text.endswith("\n")
    if form == "json":
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("form", ["json", "jsonl"])
@SETTINGS
@given(st.lists(TEXT | st.none(), max_size=5))
def test_text_comes_back_as_it_was(form, texts):
    table = pd.DataFrame({"name": texts}, dtype=object)
    assert parsed(table, form) == [{"name": t} for t in texts]
    assert not ACTS.search(to_text(table, form).replace("\n", ""))


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_values_come_back_as_they_were(form):
    table = pd.DataFrame(
        {
            "p_value": [1 / 3, 1e-12],
            "bits": [0.1 + 0.2, np.nan],
            "port": pd.array([443, None], dtype="Int64"),
            "bytes": np.array([2**62 + 1, 0]),
            "alert": [True, False],
            "verified": pd.array([None, True], dtype="boolean"),
            "app": pd.array(["TLS", None], dtype="str"),
            "rank": np.array([1, 2], dtype="int32"),
            "endless": [np.inf, -np.inf],
        },
        index=[7, 7],
    )
    assert parsed(table, form) == [
        {
            "p_value": 1 / 3,
            "bits": 0.1 + 0.2,
            "port": 443,
            "bytes": 2**62 + 1,
            "alert": True,
            "verified": None,
            "app": "TLS",
            "rank": 1,
            "endless": None,
        },
        {
            "p_value": 1e-12,
            "bits": None,
            "port": None,
            "bytes": 0,
            "alert": False,
            "verified": True,
            "app": None,
            "rank": 2,
            "endless": None,
        },
    ]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_no_rows_parse_to_no_rows(form):
    assert parsed(frame(), form) == []


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("by", ["flow", "case", "nothing"])
def test_a_ranking_parses_with_all_its_columns_and_rows(rankings, by, form):
    table = rankings[by]
    if form == "csv":
        rows = cells(to_text(table, form))
        assert rows[0] == list(table.columns)
        assert {len(row) for row in rows} == {len(table.columns)}
        assert len(rows) == 1 + len(table)
        return
    rows = parsed(table, form)
    assert len(rows) == len(table)
    assert all(list(row) == list(table.columns) for row in rows)
    assert [r["suspicion"] for r in rows] == table["suspicion"].tolist()
    assert [r["p_value"] for r in rows] == table["p_value"].tolist()
    names = [r["server_name"] for r in rows]
    assert names == [None if pd.isna(n) else n for n in table["server_name"]]


def test_the_table_is_not_changed(rankings):
    table = rankings["flow"]
    before = table.copy(deep=True)
    for form in ("csv", "json", "jsonl"):
        to_text(table, form)
    pd.testing.assert_frame_equal(table, before)


def test_an_unknown_format_is_an_option_error():
    with pytest.raises(OptionError, match="'xml': expected csv, json or jsonl"):
        to_text(frame("a"), "xml")


# --- files --------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["flow", "case", "nothing"])
def test_parquet_comes_back_the_same(rankings, by, tmp_path):
    table = rankings[by]
    write_table(table, tmp_path / "ranking.parquet")
    read = pd.read_parquet(tmp_path / "ranking.parquet")
    pd.testing.assert_frame_equal(read, table)


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_a_file_holds_the_text_in_utf8(rankings, form, tmp_path):
    path = tmp_path / f"ranking.{form}"
    write_table(rankings["case"], path)
    assert path.read_bytes() == to_text(rankings["case"], form).encode("utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_every_hostile_text_can_be_written(form, tmp_path):
    write_table(frame(*HOSTILE, dtype="object"), tmp_path / f"x.{form}")


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("a.csv", "csv"),
        ("A.CSV", "csv"),
        ("x.y/b.jsonl", "jsonl"),
        ("c.json", "json"),
        ("d.v2.parquet", "parquet"),
    ],
)
def test_the_suffix_names_the_format(path, form):
    assert output_format(path) == form


@pytest.mark.parametrize("path", ["a", "a.xlsx", "a.csv.gz", ".csv", "csv", "", "a."])
def test_a_suffix_that_names_none_is_refused_before_anything_is_written(path, tmp_path):
    with pytest.raises(OptionError, match=r"one of \.csv, \.json, \.jsonl, \.parquet"):
        write_table(frame("a"), tmp_path / path if path else path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_missing_folder_is_an_output_error(form, tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written.*folder"):
        write_table(frame("a"), tmp_path / "no" / f"x.{form}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_where_a_folder_should_be_is_an_output_error(form, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_table(frame("a"), tmp_path / "file" / f"x.{form}")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_folder_or_a_name_no_system_takes_is_an_output_error(form, tmp_path):
    (tmp_path / f"x.{form}").mkdir()
    for name in (f"x.{form}", f"{'n' * 300}.{form}", f"a\0b.{form}"):
        with pytest.raises(OutputError):
            write_table(frame("a"), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [f"x.{form}"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_no_part(
    error, tmp_path, monkeypatch
):
    path = tmp_path / "x.csv"
    write_table(frame("old"), path)
    before = path.read_bytes()

    def fail(self, target):
        raise error

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_table(frame("new"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_the_user_that_ends_in_part_survives(tmp_path):
    mine = tmp_path / "x.csv.part"
    mine.write_text("mine")
    write_table(frame("a"), tmp_path / "x.csv")
    assert mine.read_text() == "mine"
