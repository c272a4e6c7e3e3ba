"""exfilml feedback: from a ranking to a judgement to an approval, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ranked_cases import ranked, unsynced
from sites import office, theft

from exfilml import Feedback, Policy, cli
from exfilml.cli import _feedback
from exfilml.export import write_table
from exfilml.sources import write_flows

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="module")
def _unsynced():
    with unsynced():
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A test day with a theft, a model, and the cases that rank wrote."""
    folder = tmp_path_factory.mktemp("site")
    write_flows(office(600), folder / "baseline.parquet")
    day = office(300, seed=1, days=2, first_day="2026-03-09")
    day = pd.concat([day, theft(day)], ignore_index=True)
    write_flows(day, folder / "today.parquet")
    model = str(folder / "m.exfilml")
    assert cli.run(["train", str(folder / "baseline.parquet"), "--model", model]) == 0
    today = [str(folder / "today.parquet"), "--model", model]
    out = ["--out", str(folder / "cases.csv")]
    assert cli.run(["rank", *today, *out]) == 0
    return folder


@pytest.fixture
def run(capfd):
    def run(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture
def files(tmp_path):
    """A store's place and a file of made-up cases."""
    write_table(ranked(6), tmp_path / "cases.csv")
    return ("--store", tmp_path / "store", "--cases", tmp_path / "cases.csv")


CASES = ranked(6)["case"].tolist()
WHY = ("--reason", "nightly backup", "--analyst", "kim")


def test_from_a_ranking_to_a_policy_and_back(site, run, tmp_path):
    """The case that was judged false alerts no more; the file says why."""
    today = (site / "today.parquet", "--model", site / "m.exfilml", "--quiet")
    cases = pd.read_csv(site / "cases.csv", dtype={"case": str})
    worst = cases.iloc[0]
    assert worst["alert"]
    store = ("--store", tmp_path / "store")
    status, out, err = run(
        *("feedback", worst["case"], "false", *WHY, *store),
        *("--cases", site / "cases.csv", "--model", site / "m.exfilml"),
    )
    assert (status, out) == (0, "")
    assert "judgements added" in err
    assert Feedback(tmp_path / "store").latest()["model"][1].startswith("sha256:")

    draft = tmp_path / "draft.toml"
    status, out, err = run("feedback", "suppress", *store, "--out", draft)
    assert (status, out) == (0, "")
    assert "payload class not known" in err
    assert "nothing to approve" in err
    assert not draft.exists()
    status, out, err = run("feedback", "suppress", *today, *store, "--out", draft)
    assert (status, out) == (0, "")
    assert "approvals drafted: 1" in err
    assert Policy.read(draft).approvals[0].owner == "kim"

    status, out, err = run("rank", *today, "--policy", draft, "--format", "json")
    after = {row["case"]: row for row in json.loads(out)}
    assert not after[worst["case"]]["alert"]
    assert "cases approved: 1, of them above the threshold: 1" in err


def test_rank_shows_feedback_and_changes_no_alert(site, run, tmp_path):
    today = ("rank", site / "today.parquet", "--model", site / "m.exfilml", "--quiet")
    _, plain, _ = run(*today, "--format", "json")
    plain = json.loads(plain)
    store = tmp_path / "store"
    store.touch()
    _, out, err = run(*today, "--format", "json", "--feedback", store)
    rows = json.loads(out)
    assert [r["case"] for r in rows] == [r["case"] for r in plain]
    assert "feedback: 0 of" in err
    Feedback(store).judge(
        pd.DataFrame(plain), plain[1]["case"], "false", reason="known", analyst="kim"
    )
    _, out, err = run(*today, "--format", "json", "--feedback", store)
    rows = json.loads(out)
    new = {"feedback_bits", "feedback_reason"}
    old = {r["case"]: {k: v for k, v in r.items() if k not in new} for r in rows}
    assert old == {r["case"]: r for r in plain}
    assert {r["case"]: r["feedback_bits"] for r in rows}[plain[1]["case"]] < 0
    status, out, err = run(*today, "--top", "2", "--feedback", store)
    assert status == 0
    assert "feedback -1.0 bits: 1 of 1 similar case judged false" in " ".join(
        out.split()
    )
    assert "no alert changes" in err
    status, _, err = run(*today, "--by", "flow", "--feedback", store)
    assert status == 2
    assert "--feedback orders cases" in err
    status, _, err = run(*today, "--feedback", tmp_path / "none")
    assert status == 2
    assert "no such feedback store" in err


def test_every_way_to_say_it(files, run, tmp_path):
    """With and without the word judge, options first or last, several at once."""
    assert run("feedback", CASES[0], "true", *WHY, *files)[0] == 0
    assert run("feedback", "judge", CASES[1], "FP", *WHY, *files)[0] == 0
    assert run("feedback", *WHY, *files, CASES[2], CASES[3], "tp")[0] == 0
    (tmp_path / "list.csv").write_text(
        f'case,verdict,reason\n{CASES[4]},false,"a, b"\nx,true,y\n{CASES[5]},maybe,z\n'
    )
    status, out, err = run("feedback", "--list", tmp_path / "list.csv", *files)
    assert (status, out) == (0, "")
    assert "2 of 3 judgements could not be read" in err
    assert "row 2: case 'x'" in err
    latest = Feedback(tmp_path / "store").latest()
    assert dict(zip(latest["case"], latest["verdict"], strict=True)) == {
        CASES[0]: "true",
        CASES[1]: "false",
        CASES[2]: "true",
        CASES[3]: "true",
        CASES[4]: "false",
    }


def test_withdrawing_and_listing(files, run):
    store = files[:2]
    hostile = "x\n\x1b[31m=cmd()"
    run("feedback", CASES[0], "true", "--reason", hostile, "--analyst", "kim", *files)
    run("feedback", CASES[1], "false", *WHY, *files)
    status, out, err = run("feedback", "withdraw", CASES[1], *WHY, *store)
    assert (status, out) == (0, "")
    assert "withdrawn" in err
    _, out, err = run("feedback", "list", *store)
    assert CASES[0] in out
    assert CASES[1] not in out
    assert "\x1b[31m" not in out
    assert r"\x1b[31m=cmd()" in out
    _, out, _ = run("feedback", "list", *store, "--history", "--format", "json")
    assert [row["verdict"] for row in json.loads(out)] == ["true", "false", "withdrawn"]
    run("feedback", CASES[2], "true", "--reason", "=1+1", "--analyst", "@kim", *files)
    _, out, _ = run("feedback", "list", *store, "--format", "csv")
    assert "'=1+1" in out
    assert "'@kim" in out


def test_precision_over_time(files, run, tmp_path):
    for case, verdict in zip(CASES[:2], ("true", "false"), strict=True):
        run("feedback", case, verdict, *WHY, *files)
    plot = tmp_path / "precision.png"
    status, out, _ = run("feedback", "precision", *files, "--plot", plot)
    assert status == 0
    assert "verification bias" in " ".join(out.split())
    assert "judged share" in out
    assert plot.stat().st_size > 5000
    status, out, _ = run("feedback", "precision", *files, "--json")
    found = json.loads(out)
    alerts = int(ranked(6)["alert"].sum())
    assert found["total"]["alerts"] == alerts
    assert found["total"]["judged"] == min(2, alerts)
    status, out, _ = run("feedback", "precision", *files[:2])
    assert status == 0
    assert "judged share" not in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((CASES[0], "yes", *WHY), "verdict 'yes': unknown"),
        ((CASES[0], "treu", *WHY), "did you mean 'true'"),
        ((CASES[0][:-1] + "x", "true", *WHY), f"did you mean {CASES[0]}"),
        (("2", "true", *WHY), f"the case of rank 2 is {CASES[1]}"),
        ((CASES[0], *WHY), "a case is missing"),
        (("lst", *WHY), "did you mean 'list'"),
        ((*WHY,), "a case is missing"),
        ((CASES[0], "true"), "--reason is missing"),
        ((CASES[0], "true", "--reason", " "), "reason: got"),
        ((CASES[0], "true", "--reason", "x" * 100_000), "at most 2,000"),
        ((CASES[0], "true", *WHY, "--model", "/nowhere"), "model cannot be read"),
        ((CASES[0], "true", *WHY, "--list", "/nowhere"), "give it alone"),
        (("--list", "/nowhere"), "cannot be read"),
    ],
)
def test_one_line_for_each_mistake(files, run, tmp_path, arguments, text):
    status, out, err = run("feedback", *arguments, *files)
    assert (status, out) == (2, "")
    assert text in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_a_store_is_no_other_file_of_the_command(files, run, tmp_path):
    cases = tmp_path / "cases.csv"
    before = cases.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(cases)
    for store in (cases, link):
        status, _, err = run(
            *("feedback", CASES[0], "true", *WHY, "--store", store, "--cases", cases)
        )
        assert status == 2
        assert "is another file of this command" in err
    run("feedback", CASES[0], "false", *WHY, *files)
    store = ("--store", tmp_path / "store")
    for out in (tmp_path / "store", tmp_path / "office.toml"):
        (tmp_path / "office.toml").write_text("home = '10.0.0.0/8'\n")
        kept = out.read_bytes()
        status, _, err = run("feedback", "suppress", *store, "--out", out)
        assert status == 2
        assert "overwritten" in err
        assert out.read_bytes() == kept
    assert cases.read_bytes() == before


def test_a_missing_store_is_told_by_all_that_read_it(run, tmp_path):
    store = ("--store", tmp_path / "none")
    for command in (
        ("list",),
        ("precision",),
        ("suppress", "--out", tmp_path / "d.toml"),
        ("withdraw", CASES[0], *WHY),
    ):
        status, out, err = run("feedback", *command, *store)
        assert (status, out) == (2, "")
        assert "no such feedback store" in err
    assert list(tmp_path.iterdir()) == []


def test_who_judges_is_asked_for_where_the_system_does_not_say(files, run, monkeypatch):
    def nobody():
        raise OSError

    monkeypatch.setattr(_feedback.getpass, "getuser", nobody)
    status, _, err = run("feedback", CASES[0], "true", "--reason", "x", *files)
    assert status == 2
    assert "--analyst is missing" in err


def test_help_names_the_short_form_and_the_commands(run):
    _, out, _ = run("feedback", "--help")
    assert "exfilml feedback CASE true|false --reason TEXT" in " ".join(out.split())
    for name in ("judge", "list", "precision", "suppress", "withdraw"):
        assert name in out


def test_ctrl_c_while_another_holds_the_store(files, run, tmp_path):
    """It waits, is broken off, and leaves nothing."""
    run("feedback", CASES[0], "true", *WHY, *files)
    base = sqlite3.connect(tmp_path / "store", isolation_level=None)
    base.execute("BEGIN EXCLUSIVE")
    code = "import exfilml.cli as c; print('ready', flush=True); c.main()"
    given = ["feedback", CASES[1], "true", *WHY, *map(str, files)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    base.rollback()
    base.close()
    assert process.returncode == 130
    assert "interrupted; nothing was written" in err
    assert Feedback(tmp_path / "store").history()["case"].tolist() == [CASES[0]]
