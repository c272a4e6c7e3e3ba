"""`--out cases.html` of the commands that rank."""

from __future__ import annotations

import pandas as pd
import pytest
from sites import office, theft

from exfilml import cli
from exfilml.sources import write_flows


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A model, and a day with a theft."""
    folder = tmp_path_factory.mktemp("site")
    write_flows(office(600), folder / "baseline.parquet")
    day = office(200, seed=1, days=2, first_day="2026-03-09")
    write_flows(pd.concat([day, theft(day)]), folder / "today.parquet")
    model = str(folder / "m.exfilml")
    given = [str(folder / "baseline.parquet"), "--model", model]
    assert cli.run(["train", *given]) == 0
    return folder


def run(command, site, out, *options):
    given = [str(site / "today.parquet"), "--model", str(site / "m.exfilml")]
    return cli.run([command, *given, "--out", str(out), *map(str, options)])


@pytest.mark.parametrize("by", ["case", "flow"])
def test_rank_writes_a_page(site, tmp_path, capfd, by):
    assert run("rank", site, tmp_path / "cases.html", "--by", by, "--top", 5) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "5 rows written to" in err
    drawn = (tmp_path / "cases.html").read_text(encoding="utf-8")
    assert drawn.startswith("<!doctype html>")
    assert drawn.count('class="toggle"') == 5
    # The flows are at hand, so what stands behind each row is drawn.
    assert drawn.count('<svg class="plot"') == 5


def test_a_page_names_cases_as_the_policy_has_them(site, tmp_path):
    """Home networks of the command line are those that cases are made with."""
    options = ("--top", 3, "--home", "10.20.0.0/16")
    assert run("rank", site, tmp_path / "cases.html", *options) == 0
    drawn = (tmp_path / "cases.html").read_text(encoding="utf-8")
    assert "10.20.0.0/16" in drawn
    assert drawn.count('<svg class="plot"') == 3


def test_triage_writes_a_page(site, tmp_path, capfd):
    assert run("triage", site, tmp_path / "triage.HTML", "--top", 3) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "cases written to" in err
    drawn = (tmp_path / "triage.HTML").read_text(encoding="utf-8")
    assert "<h3>Playbook</h3>" in drawn
    assert "not visible</span> Does threat intelligence know" in drawn


def test_a_triage_that_was_stored_is_made_a_page_later(site, tmp_path):
    stored = tmp_path / "triage.json"
    assert run("triage", site, stored, "--top", 3) == 0
    assert cli.run(["handover", str(stored), "--out", str(tmp_path / "t.html")]) == 0
    drawn = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "<h3>Playbook</h3>" in drawn
    assert '<svg class="plot"' in drawn
    # What a stored triage does not know, its page does not make up.
    assert "Payload along the stream" not in drawn
    assert "Home networks" not in drawn


@pytest.mark.parametrize("command", ["rank", "triage"])
def test_another_suffix_is_refused_before_the_work(site, tmp_path, capfd, command):
    assert run(command, site, tmp_path / "cases.docx") == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "cases.docx" in err
    assert ".html" in err
    assert not any(tmp_path.iterdir())
