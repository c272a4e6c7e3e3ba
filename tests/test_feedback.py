"""The store of judgements: what was said is kept, shared, and read back."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from cases import case, triage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranked_cases import listed, ranked, unsynced

from exfilml import Feedback
from exfilml.exceptions import FeedbackError, FeedbackWarning
from exfilml.export import FORMATS, json_text, printable, write_table
from exfilml.feedback import _database, read_cases, read_judgements
from exfilml.feedback._database import APPLICATION
from exfilml.feedback._facts import COLUMNS, FACTS

BY = {"reason": "looked at", "analyst": "kim"}


@pytest.fixture(autouse=True, scope="module")
def _unsynced():
    with unsynced():
        yield


@pytest.fixture
def cases():
    return ranked(6)


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "office.feedback")


@pytest.fixture
def judged(store, cases):
    store.judge(cases, cases["case"][0], "false", **BY)
    return store


# What is kept


def test_a_judgement_keeps_what_the_case_was(store, cases):
    before = pd.Timestamp.now("UTC")
    count = store.judge(
        cases, cases["case"][2], "true", reason="a theft", analyst="kim", model="m1"
    )
    assert count == 1
    (row,) = store.latest().to_dict("records")
    expected = cases.iloc[2]
    for name in FACTS:
        if name in cases and pd.notna(expected[name]):
            assert row[name] == expected[name], name
    assert (row["verdict"], row["reason"], row["analyst"]) == ("true", "a theft", "kim")
    assert row["model"] == "m1"
    assert before <= row["judged_at"] <= pd.Timestamp.now("UTC")


def test_a_table_read_back_has_its_dtypes_also_when_empty(store, cases):
    store.path.touch()
    for table in (store.history(), store.latest()):
        assert len(table) == 0
        assert {n: str(t) for n, t in table.dtypes.items()} == dict(COLUMNS)
    store.judge(cases, cases["case"].tolist(), "fp", **BY)
    found = store.latest()
    assert {n: str(t) for n, t in found.dtypes.items()} == dict(COLUMNS)
    assert found["case"].tolist() == cases["case"].tolist()


def test_the_latest_counts_and_the_history_stays(judged, cases):
    case = cases["case"][0]
    # A clock that goes backwards changes nothing: the order of the file counts.
    judged.judge(cases, case, "true", at="2020-01-01", **BY)
    assert judged.latest()["verdict"].tolist() == ["true"]
    assert judged.history()["verdict"].tolist() == ["false", "true"]
    judged.withdraw(case, reason="wrong case", analyst="lee")
    assert len(judged.latest()) == 0
    assert judged.history()["verdict"].tolist() == ["false", "true", "withdrawn"]
    assert set(judged.history()["place"]) == {cases["place"][0]}
    judged.judge(cases, case, "fp", **BY)
    assert judged.latest()["verdict"].tolist() == ["false"]


def test_as_it_was_at_some_time(store, cases):
    for day, verdict in (("2026-03-10", "true"), ("2026-03-12", "false")):
        store.judge(cases, cases["case"][0], verdict, at=day, **BY)
    assert store.latest(at="2026-03-11")["verdict"].tolist() == ["true"]
    assert len(store.latest(at="2026-03-09")) == 0


def test_rows_can_neither_be_changed_nor_deleted(judged):
    base = sqlite3.connect(judged.path)
    for statement in ("DELETE FROM judgement", "UPDATE judgement SET verdict = 'true'"):
        with pytest.raises(sqlite3.IntegrityError, match="judgements are kept"):
            base.execute(statement)
    base.close()
    assert judged.latest()["verdict"].tolist() == ["false"]


def test_neither_table_is_changed(store, cases):
    before = cases.copy(deep=True)
    judgements = listed(cases, ["true", "false"])
    kept = judgements.copy(deep=True)
    store.judge(cases, cases["case"][0], "true", **BY)
    store.judge_each(cases, judgements, analyst="kim")
    pd.testing.assert_frame_equal(cases, before)
    pd.testing.assert_frame_equal(judgements, kept)


def test_of_rows_with_the_same_id_the_one_seen_last_is_kept(store, cases):
    both = pd.concat([cases, cases.assign(rank=99)], ignore_index=True)
    both.loc[6:, "last_seen"] += pd.Timedelta("1D")
    store.judge(both.sample(frac=1.0, random_state=1), cases["case"][0], "true", **BY)
    assert store.latest()["rank"].tolist() == [99]


# Words


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        *(("true", "true"), ("TP", "true"), ("true positive", "true"), (True, "true")),
        *(("False ", "false"), ("fp", "false"), ("false-positive", "false")),
    ],
)
def test_words_for_a_verdict(store, cases, word, verdict):
    store.judge(cases, cases["case"][0], word, **BY)
    assert store.latest()["verdict"].tolist() == [verdict]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        *(("flase", "did you mean 'false'"), ("yes", "expected true")),
        *(("", "expected true"), (None, "expected true"), (1, "expected true")),
        ("x" * 10**6, "expected true"),
    ],
)
def test_other_words_are_refused_and_nothing_is_written(store, cases, word, text):
    with pytest.raises(FeedbackError, match=text) as caught:
        store.judge(cases, cases["case"][0], word, **BY)
    assert len(str(caught.value)) < 400
    assert not store.path.exists()


def test_an_unknown_case_is_told_with_the_nearest(store, cases):
    case = cases["case"][0]
    wrong = ("f" if case[0] == "0" else "0") + case[1:]
    with pytest.raises(FeedbackError, match=f"not among the 6 cases.*{case}"):
        store.judge(cases, wrong, "true", **BY)
    with pytest.raises(
        FeedbackError, match=f"the case of rank 2 is {cases['case'][1]}"
    ):
        store.judge(cases, "2", "true", **BY)
    for names in ([case, wrong], "\udcff", "x" * 10**6):
        with pytest.raises(FeedbackError, match="not among the 6 cases"):
            store.judge(cases, names, "true", **BY)
    with pytest.raises(FeedbackError, match="expected ids of cases"):
        store.judge(cases, [1], "true", **BY)
    assert store.judge(cases, [], "true", **BY) == 0
    assert not store.path.exists()


def test_hostile_texts_are_kept_as_one_harmless_line(store, cases):
    hostile = cases.assign(place="a\x1b[2Jb\u202ec")
    store.judge(
        hostile,
        cases["case"][0],
        "true",
        reason="x\n\x1b[31my\x00\udcff",
        analyst="k\tm",
    )
    (row,) = store.latest().to_dict("records")
    assert row["reason"] == r"x \x1b[31my\x00\udcff"
    assert row["analyst"] == "k m"
    assert row["place"] == r"a\x1b[2Jb\u202ec"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"reason": "x" * 2**20}, "1,048,576 characters, expected at most 2,000"),
        ({"reason": "x" * 2001}, "2,001 characters, expected at most 2,000"),
        ({"reason": " \n "}, "reason: .* expected a text"),
        ({"reason": None}, "reason: got None"),
        ({"analyst": ""}, "analyst: got ''"),
        ({"at": "2999-01-01"}, "expected a time between"),
        ({"at": "2150-01-01"}, "lies ahead"),
        ({"at": "yesterday-ish"}, "expected a time such as"),
        ({"at": pd.NaT}, "got no time"),
        ({"at": "1900-01-01"}, "expected a time between"),
    ],
)
def test_what_cannot_be_kept_is_refused(store, cases, changes, text):
    with pytest.raises(FeedbackError, match=text):
        store.judge(cases, cases["case"][0], "true", **{**BY, **changes})
    assert not store.path.exists()


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (None, "got NoneType"),
        (pd.DataFrame({"x": [1]}), "case missing"),
        (pd.DataFrame({"src_port": [1]}), "ranking of flows"),
        (pd.DataFrame([[1, 2]], columns=["case", "case"]), "same name"),
    ],
)
def test_what_is_no_table_of_cases_is_refused(store, table, text):
    with pytest.raises(FeedbackError, match=text):
        store.judge(table, "a", "true", **BY)
    with pytest.raises(FeedbackError):
        Feedback(7)


def test_cases_with_absurd_columns_can_still_be_judged(store):
    cases = pd.DataFrame(
        {
            "case": ["a"],
            "protocol": ["x"],
            "dst_port": [2**70],
            "suspicion": [float("inf")],
            "alert": ["perhaps"],
            "first_seen": ["9999-99-99"],
            "last_seen": ["1066-10-14T00:00:00Z"],
            "up_bytes": [1.5],
            "place": [12],
        }
    )
    store.judge(cases, "a", "true", **BY)
    (row,) = store.latest().to_dict("records")
    assert row["place"] == "12"
    assert all(pd.isna(row[c]) for c in cases.columns if c not in {"case", "place"})


# Lists


def test_a_list_is_judged_at_once_and_bad_rows_are_counted(store, cases):
    judgements = listed(cases, ["true", "fp", "maybe", "false"])
    judgements.loc[len(judgements)] = ["nowhere", "true", "x"]
    judgements.loc[len(judgements)] = [cases["case"][5], "true", " "]
    with pytest.warns(FeedbackWarning, match=r"3 of 6 judgements .* row 2: verdict"):
        assert store.judge_each(cases, judgements, analyst="kim") == 3
    assert store.latest()["verdict"].tolist() == ["true", "false", "false"]


def test_a_list_says_who_judged_where_it_differs(store, cases):
    judgements = listed(cases, ["true", "false"]).assign(analyst=["lee", ""])
    store.judge_each(cases, judgements, analyst="kim")
    assert store.latest()["analyst"].tolist() == ["lee", "kim"]


def test_a_list_without_a_good_row_is_refused(store, cases):
    with pytest.raises(FeedbackError, match="None of 1 judgements"):
        store.judge_each(cases, listed(cases, ["maybe"]), analyst="kim")
    with pytest.raises(FeedbackError, match=r"None of 1 judgements.*analyst"):
        store.judge_each(cases, listed(cases, ["true"]))
    with pytest.raises(FeedbackError, match="expected a table with the columns"):
        store.judge_each(cases, cases, analyst="kim")
    assert store.judge_each(cases, listed(cases, []), analyst="kim") == 0
    assert not store.path.exists()


def test_withdrawing_what_was_never_judged_is_told(judged, cases, tmp_path):
    with pytest.raises(FeedbackError, match="no judgement of it"):
        judged.withdraw("nothing", **BY)
    case = cases["case"][0]
    with pytest.raises(FeedbackError, match=f"did you mean {case}"):
        judged.withdraw(case[:-1] + "x", **BY)
    judged.withdraw(case, **BY)
    with pytest.raises(FeedbackError, match="withdrawn already"):
        judged.withdraw(case, **BY)
    with pytest.raises(FeedbackError, match="no such feedback store"):
        Feedback(tmp_path / "none").withdraw("x", **BY)
    assert not (tmp_path / "none").exists()
    assert len(judged.history()) == 2


# Clocks


def test_a_clock_that_is_wrong_is_told(store, cases):
    store.judge(cases, cases["case"][0], "true", **BY)
    assert ahead_of(store, cases["case"][0])
    with pytest.warns(FeedbackWarning, match="ahead of this clock"):
        store.judge(cases, cases["case"][0], "false", **BY)
    assert store.latest()["verdict"].tolist() == ["false"]


def ahead_of(store: Feedback, case: str) -> bool:
    """Add a judgement from a clock that is a day ahead; say that it was added."""
    day_ahead = (time.time() + 86_400) * 1e6
    base = sqlite3.connect(store.path)
    base.execute(
        'INSERT INTO judgement ("case", verdict, reason, analyst, judged_at) '
        "VALUES (?, 'true', 'r', 'a', ?)",
        (case, int(day_ahead)),
    )
    base.commit()
    base.close()
    return True


# Files that are none, damaged, locked, or of others


def test_a_file_of_another_kind_is_refused_and_left_alone(cases, tmp_path):
    path = tmp_path / "cases.csv"
    write_table(cases, path)
    before = path.read_bytes()
    for call in calls(Feedback(path), cases):
        with pytest.raises(FeedbackError, match="no SQLite file"):
            call()
    assert path.read_bytes() == before


def test_an_sqlite_file_of_another_program_is_refused(cases, tmp_path):
    path = tmp_path / "places.sqlite"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE moz_places (id INTEGER)")
    base.commit()
    base.close()
    before = path.read_bytes()
    for call in calls(Feedback(path), cases):
        with pytest.raises(FeedbackError, match="SQLite file of another program"):
            call()
    assert path.read_bytes() == before


def test_a_newer_version_is_refused_in_one_clear_error(judged, cases):
    base = sqlite3.connect(judged.path)
    base.execute("PRAGMA user_version = 2")
    base.close()
    for call in calls(judged, cases):
        with pytest.raises(FeedbackError, match=r"newer exfilml \(version 2; this one"):
            call()


def test_the_file_says_whose_it_is(judged):
    assert int.from_bytes(judged.path.read_bytes()[68:72], "big") == APPLICATION


def test_a_store_that_another_holds_is_told(judged, cases, monkeypatch):
    monkeypatch.setattr(_database, "PATIENCE_S", 0.1)
    base = sqlite3.connect(judged.path, isolation_level=None)
    base.execute("BEGIN EXCLUSIVE")
    for call in calls(judged, cases):
        with pytest.raises(FeedbackError, match="locked by another program"):
            call()
    base.rollback()
    base.close()
    assert len(judged.latest()) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".", "cannot be opened"),
        ("no/such/folder", "cannot be opened"),
        ("x" * 300, "cannot be"),
        ("a\0b", "expected the path"),
    ],
)
def test_places_that_cannot_be_written_are_told(cases, tmp_path, name, text):
    with pytest.raises(FeedbackError, match=text):
        Feedback(tmp_path / name).judge(cases, cases["case"][0], "true", **BY)


def test_a_store_that_may_only_be_read_is_read(judged, cases, monkeypatch):
    """Whoever may not write opens it so; SQLite then refuses to write."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(judged.latest()) == 1
    real = sqlite3.connect

    def read_only(address, **options):
        return real(address.replace("mode=rwc", "mode=ro"), **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(FeedbackError, match="may not be written to"):
        judged.judge(cases, cases["case"][0], "true", **BY)


def calls(store, cases):
    return [
        store.history,
        store.latest,
        lambda: store.judge(cases, cases["case"][0], "true", **BY),
        lambda: store.withdraw(cases["case"][0], **BY),
    ]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=9)), max_size=6))
def test_a_damaged_store_is_read_or_one_error(tmp_path, edits):
    cases = ranked(20, hosts=5)
    path = tmp_path / "whole"
    if not path.exists():
        store = Feedback(path)
        store.judge_each(cases, listed(cases, ["true", "false"] * 10), analyst="kim")
    data = bytearray(path.read_bytes())
    for where, part in edits:
        at = where % len(data)
        data[at : at + len(part)] = part
    broken = Feedback(tmp_path / "broken")
    broken.path.write_bytes(data)
    said = error_of(broken.latest)
    if said is None:
        table = broken.latest()
        assert {n: str(t) for n, t in table.dtypes.items()} == dict(COLUMNS)
    else:
        assert str(broken.path) in said


def error_of(call):
    """Return the one line of the one error that a call may raise; None for none."""
    try:
        call()
    except FeedbackError as error:
        text = str(error)
    else:
        return None
    assert "\n" not in text
    return text


# Several at once, and Ctrl-C


def _judge_some(path: Path, number: int) -> None:
    cases = ranked(6)
    for _ in range(5):
        Feedback(path).judge(
            cases, cases["case"][number], "true", reason="r", analyst=f"a{number}"
        )


def test_analysts_judge_at_the_same_time_and_nothing_is_lost(tmp_path):
    path = tmp_path / "shared"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_judge_some, args=(path, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    history = Feedback(path).history()
    assert history["analyst"].value_counts().to_dict() == dict.fromkeys(
        ("a0", "a1", "a2", "a3"), 5
    )


def test_who_finds_another_writing_waits_for_it(judged, cases):
    base = sqlite3.connect(judged.path, isolation_level=None, check_same_thread=False)
    base.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.6, base.rollback)
    done.start()
    judged.judge(cases, cases["case"][1], "true", **BY)
    done.join()
    base.close()
    assert len(judged.latest()) == 2


def test_an_interrupted_list_is_not_written_at_all(judged, cases, monkeypatch):
    def broken_off(base, rows):
        base.executemany(_database._INSERT, rows[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(_database, "add", broken_off)
    with pytest.raises(KeyboardInterrupt):
        judged.judge_each(cases, listed(cases, ["true"] * 6), analyst="kim")
    assert len(judged.history()) == 1


def test_a_writer_that_is_killed_leaves_the_store_as_it_was(judged, tmp_path):
    """Its journal is undone by whoever opens the store next."""
    code = (
        "import os, sys, sqlite3\n"
        "base = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "base.execute('PRAGMA cache_size = 1')\n"
        "base.execute('BEGIN')\n"
        "base.execute('DROP TRIGGER no_update')\n"
        "base.executemany(\"INSERT INTO judgement ('case', verdict, reason, analyst, "
        "judged_at) VALUES (?, 'true', ?, 'x', 1)\", "
        "((str(i), 'r' * 900) for i in range(200)))\n"
        "base.execute('UPDATE judgement SET reason = upper(reason)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, judged.path], check=False)
    assert judged.path.with_name(judged.path.name + "-journal").stat().st_size > 0
    assert judged.history()["reason"].tolist() == ["looked at"]


# Files of cases and of judgements


@pytest.mark.parametrize("suffix", FORMATS)
def test_cases_are_read_as_they_were_written(cases, store, tmp_path, suffix):
    """Also ids that look like numbers, and names that a spreadsheet would run."""
    cases.loc[0, "case"] = "0012345678"
    cases.loc[1, "case"] = "12e4567890"
    cases.loc[2, "place"] = "=cmd.example"
    cases.loc[3, "dst_port"] = pd.NA
    write_table(cases, tmp_path / f"cases.{suffix}")
    read = read_cases(tmp_path / f"cases.{suffix}")
    store.judge(read, cases["case"].tolist(), "true", **BY)
    other = Feedback(tmp_path / "direct")
    other.judge(cases, cases["case"].tolist(), "true", **BY)
    pd.testing.assert_frame_equal(
        store.latest().drop(columns="judged_at"),
        other.latest().drop(columns="judged_at"),
    )
    assert store.latest()["place"].iloc[2] == "=cmd.example"


def test_a_triage_as_json_holds_cases_too(store, tmp_path):
    """What the case was is kept as from a ranking; its answers are not looked at."""
    path = tmp_path / "triage.json"
    other = case({"src_ip": "10.20.0.9"}, name="a", rank=2)
    found = triage(case(name="0012345678"), other)
    path.write_text(json_text(found.to_dict()))
    store.judge(read_cases(path), "0012345678", "true", **BY)
    (row,) = store.latest().to_dict("records")
    expected = found["0012345678"].row
    for name in set(FACTS) & set(expected):
        if pd.notna(expected[name]):
            assert row[name] == expected[name], name


def test_a_table_without_rows_is_read(tmp_path):
    (tmp_path / "c.csv").write_text("case,rank\n")
    assert read_cases(tmp_path / "c.csv").shape == (0, 2)


def test_lines_that_are_no_cases_are_counted(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text('{"case": "a"}\n\nnothing\n[1]\n{"case": "b"}\n')
    with pytest.warns(
        FeedbackWarning, match="2 lines could not be read; first: line 3"
    ):
        assert read_cases(path)["case"].tolist() == ["a", "b"]
    path = tmp_path / "cases.csv"
    path.write_text("case,rank\na,1\nb\nc,2,3\nd,4\n")
    with pytest.warns(FeedbackWarning, match="2 lines could not be read; first: 1 col"):
        assert read_cases(path)["case"].tolist() == ["a", "d"]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("c.csv", b"", "empty"),
        ("c.csv", b"x,y\n1,2\n", "case missing"),
        ("c.json", b"{", "not JSON"),
        ("c.json", b"[" * 100_000, "not JSON"),
        ("c.json", b"[1]", "expected a list of cases"),
        ("c.json", b'{"flows": []}', "expected a list of cases"),
        ("c.parquet", b"PAR1nothing", "not Parquet"),
        ("c.xlsx", b"x", "suffix must name a format"),
    ],
)
def test_files_that_hold_no_cases_are_told(tmp_path, name, data, text):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(FeedbackError, match=text) as caught:
        read_cases(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FeedbackError, match="cannot be read"):
        read_cases(tmp_path / "none.csv")
    with pytest.raises(FeedbackError, match="cannot be read"):
        read_cases(str(tmp_path / "a\0b.csv"))


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.filterwarnings("ignore::exfilml.exceptions.FeedbackWarning")
@given(
    st.sampled_from(FORMATS),
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from(['{"case": "a"}', "case,rank", "a,1", '"', "[", "]", ",", "\r"])
    ).map(lambda lines: "\n".join(lines).encode()),
)
def test_any_file_is_cases_or_one_error(tmp_path, suffix, data):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(data)
    said = error_of(lambda: read_cases(path))
    if said is None:
        assert "case" in read_cases(path).columns
    else:
        assert str(path) in said
    error_of(lambda: read_judgements(path))


def test_a_list_of_judgements_is_read(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(
        b"\xef\xbb\xbfcase,verdict,reason\r\n"
        b'0012,false,"nightly, ""as agreed""\nby all"\r\n34,true,\r\n'
    )
    table = read_judgements(path)
    assert table["case"].tolist() == ["0012", "34"]
    assert table["reason"].tolist() == ['nightly, "as agreed"\nby all', ""]
    assert table.index.tolist() == [1, 2]
    path.write_text("case,verdict\n1,true\n")
    with pytest.raises(FeedbackError, match=r"reason missing.*case,verdict,reason"):
        read_judgements(path)


@given(st.text(max_size=60), st.text(max_size=30))
@settings(max_examples=15, deadline=None)
def test_any_reason_and_any_place_are_kept_or_refused(tmp_path_factory, reason, place):
    store = Feedback(tmp_path_factory.mktemp("any") / "store")
    cases = ranked(1).assign(place=place)
    case = cases["case"][0]
    said = error_of(
        lambda: store.judge(cases, case, "true", reason=reason, analyst="kim")
    )
    assert (said is None) == bool(reason.strip())
    if said is not None:
        return
    (row,) = store.latest().to_dict("records")
    assert row["reason"] == printable(" ".join(reason.split()))
    assert row["place"] == printable(place) or (pd.isna(row["place"]) and not place)
