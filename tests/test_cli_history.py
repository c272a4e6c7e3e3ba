"""The history on the command line: add, query, similar, prune."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pytest
from sites import office, theft

import exfilml
from exfilml import cli
from exfilml.sources import write_flows

HOSTILE = "=cmd|'/c'!A1.\x1b[31m\u202eevil.example"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Flows of two days with two thefts, a model, and the most suspicious case."""
    folder = tmp_path_factory.mktemp("site")
    detector = exfilml.Detector(n_estimators=40, random_state=0).fit(office(800))
    exfilml.save_model(detector, folder / "m.exfilml")
    day = office(200, seed=1, days=2, first_day="2026-03-09")
    other = theft(day, src_ip="10.20.0.14", dst_ip="203.0.113.77")
    hostile = office(1, seed=2, first_day="2026-03-09").assign(server_name=HOSTILE)
    every = pd.concat([day, theft(day), other, hostile], ignore_index=True)
    write_flows(every, folder / "today.parquet")
    case = exfilml.rank_cases(detector, every)["case"][0]
    return folder, every, case


@pytest.fixture
def run(capfd):
    def run(*arguments):
        status = cli.run(["history", *(str(a) for a in arguments)])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_what_is_added_is_told_and_found(site, run, tmp_path):
    folder, flows, _ = site
    history = tmp_path / "history"
    status, out, err = run("add", folder / "today.parquet", "--history", history)
    assert (status, out) == (0, "")
    assert "a new history; home networks: 10.0.0.0/8" in err
    assert f"{len(flows)} of {len(flows)} flows added" in err
    status, out, err = run("add", folder / "today.parquet", "--history", history)
    assert f"0 of {len(flows)} flows added, {len(flows)} were known" in err
    status, out, err = run(
        *("query", "--history", history, "--by", "host,address", "--format", "csv"),
        *("--address", "203.0.113.0/24"),
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    thefts = flows[flows["dst_ip"].str.startswith("203.0.113.")]
    assert {(r["host"], r["address"]) for r in rows} == set(
        zip(thefts["src_ip"], thefts["dst_ip"], strict=True)
    )
    assert sum(int(r["up_bytes"]) for r in rows) == thefts["src_bytes"].sum()
    status, out, _ = run("query", "--history", history, "--by", "day")
    assert status == 0
    assert len(out.splitlines()) == 1 + flows["start"].dt.date.nunique()
    _, out, _ = run(
        *("query", "--history", history, "--since", "2026-03-10", "--format", "jsonl"),
        *("--by", "direction"),
    )
    later = flows["start"] >= pd.Timestamp("2026-03-10", tz="UTC")
    assert json.loads(out)["flows"] == later.sum()


def test_names_of_attackers_do_not_reach_the_terminal(site, run, tmp_path):
    folder, _, _ = site
    run("add", folder / "today.parquet", "--history", tmp_path / "h")
    for form in ("table", "csv", "json", "jsonl"):
        status, out, err = run(
            *("query", "--history", tmp_path / "h", "--by", "server_name"),
            *("--format", form, "--top", 1000),
        )
        assert status == 0
        assert "evil.example" in out
        assert "\x1b[31m" not in out + err
        assert "\u202e" not in out + err
        if form == "csv":
            assert "\n=cmd" not in out


def test_with_a_model_cases_that_look_alike_are_found(site, run, tmp_path):
    folder, _, case = site
    history = ("--history", tmp_path / "h")
    model = ("--model", folder / "m.exfilml", "--quiet")
    status, _, err = run("add", folder / "today.parquet", *history, *model)
    assert status == 0, err
    assert "patterns of" in err
    status, out, err = run("similar", case, *history, "--format", "json")
    rows = json.loads(out)
    assert status == 0
    assert rows[0]["alerted"] is True
    assert rows[0]["up_bytes"] == 5_166_666
    assert "bare_volume" in rows[0]["agrees"]
    status, out, _ = run("similar", case, *history, "--top", 2)
    assert "agrees: " in out
    assert "differs: " in out
    # What a model sees in order of time is what is stored without one.
    (stored,) = exfilml.History.open(tmp_path / "h").query(by="source")["source"]
    assert stored == "today.parquet"
    again = tmp_path / "without"
    run("add", folder / "today.parquet", "--history", again)
    ours, theirs = (
        exfilml.History.open(path).query() for path in (tmp_path / "h", again)
    )
    pd.testing.assert_frame_equal(ours, theirs)


def test_old_days_are_dropped(site, run, tmp_path):
    folder, flows, _ = site
    run("add", folder / "today.parquet", "--history", tmp_path / "h")
    status, out, err = run("prune", "--history", tmp_path / "h", "--keep-days", 1)
    assert (status, out) == (0, "")
    assert f"{len(flows)} flows of" in err
    assert "nothing is left" in err
    assert run("prune", "--history", tmp_path / "h")[0] == 2


def test_only_the_time_asked_for_is_added(site, run, tmp_path):
    folder, flows, _ = site
    since = pd.Timestamp("2026-03-10", tz="UTC")
    for extra in ((), ("--model", folder / "m.exfilml", "--quiet")):
        history = tmp_path / f"h{len(extra)}"
        _, _, err = run(
            *("add", folder / "today.parquet", "--history", history),
            *("--since", "2026-03-10", *extra),
        )
        n = int((flows["start"] >= since).sum())
        assert f"{n} of {n} flows added" in err


def test_mistakes_are_one_line(site, run, tmp_path):
    folder, _, _ = site
    history = tmp_path / "h"
    run("add", folder / "today.parquet", "--history", history)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    for arguments, said in (
        (("query", "--history", tmp_path / "nowhere"), "does not exist"),
        (("query", "--history", tmp_path / "other"), "is no history store"),
        (("query", "--history", history, "--by", "x"), "expected one or more of host"),
        (("query", "--history", history, "--address", "x"), "address or a network"),
        (("query", "--history", history, "--since", "x"), "expected a date"),
        (("similar", "0000000000", "--history", history), "has no patterns"),
        (("add", tmp_path / "none", "--history", history), "no such file"),
        (("add", history, "--history", history), "a folder of its own"),
        (("add", tmp_path, "--history", history), "a folder of its own"),
        (
            ("add", folder / "today.parquet", "--history", tmp_path / "other"),
            "not empty",
        ),
        (
            *(("add", folder / "today.parquet", "--history", history),),
            "",
        ),
        (
            (
                *("add", folder / "today.parquet", "--history", history),
                *("--home", "1.0.0.0/8"),
            ),
            "or make a new history",
        ),
    ):
        status, out, err = run(*arguments)
        assert out == ""
        if said:
            assert status == 2
            assert said in err
            assert len([line for line in err.splitlines() if "error" in line]) == 1
            assert "Traceback" not in err
        else:
            assert status == 0
