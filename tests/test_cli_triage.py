"""The command `triage`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from exfilml import cli

SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    path = tmp_path_factory.mktemp("triage") / "flows.parquet"
    assert cli.run(["flows", str(SAMPLE / "test.pcap"), "--out", str(path), "-q"]) == 0
    return str(path)


@pytest.fixture
def run(sample_model, capfd):
    """Run `triage` with the sample's model; give status, standard output and error."""

    def run(*arguments):
        status = cli.run(["triage", *arguments, "--model", str(sample_model), "-q"])
        return status, *capfd.readouterr()

    return run


def test_thefts_go_to_t2_and_hard_negatives_to_l1(flows, run):
    """The sample's ten transfers, and its six hard negatives among what alerts."""
    status, out, err = run(flows)
    assert status == 0
    assert "22 answered: 10 T2, 12 L1" in err
    assert "knows 24 of 29 hosts and 19 of 22 services of these flows" in err
    assert out.count("T1048.001 Exfiltration Over Symmetric") == 10
    first = out.splitlines()[1]
    assert "T2" in first
    assert "goes to       T2: it alerts" in out


def test_one_case_can_be_shown(flows, run):
    _, out, _ = run(flows, "--format", "json")
    told = json.loads(out)
    name = told["cases"][12]["case"]
    status, out, _ = run(flows, "--case", name)
    assert status == 0
    assert out.splitlines()[0].lstrip("\x1b[1m").startswith(f"case {name}: ")
    status, _, err = run(flows, "--case", name[:-1] + "z")
    assert status == 2
    assert f"like it: {name}" in err


def test_answers_are_written_whole(flows, tmp_path, run):
    path = tmp_path / "triage.json"
    status, out, err = run(flows, "--out", str(path))
    assert status == 0
    assert out == ""
    assert f"22 cases written to {path}" in err
    told = json.loads(path.read_text(encoding="utf-8"))
    assert len(told["cases"]) == 22
    fit = {"hosts": 29, "new_hosts": 5, "services": 22, "new_services": 3}
    assert told["about"]["fit"] == fit


def test_intelligence_and_assets_are_told(flows, tmp_path, run):
    (tmp_path / "feed.txt").write_text("203.0.113.200\n", encoding="utf-8")
    (tmp_path / "cmdb.csv").write_text(
        "address,owner,criticality\n10.20.0.20,Bob,critical\n", encoding="utf-8"
    )
    status, out, err = run(
        flows,
        *("--intel", str(tmp_path / "feed.txt")),
        *("--assets", str(tmp_path / "cmdb.csv")),
    )
    assert status == 0
    assert "2 incident" in err
    assert "owner Bob, criticality critical" in out
    assert "is in no asset list: who owns it is unknown" in out
    assert "address 203.0.113.200 of feed.txt meets 1 flows" in out


def test_mistakes_are_told_before_the_work(flows, tmp_path, run):
    status, _, err = run(flows, "--out", str(tmp_path / "no" / "t.json"))
    assert status == 2
    assert "the folder" in err
    status, _, err = run(flows, "--intel", str(tmp_path / "none.txt"))
    assert status == 2
    assert "none.txt" in err
    status, _, err = run(flows, "--top", "0")
    assert status == 2
    assert "top: got 0" in err


def test_drafts_for_containment_are_written_into_a_folder(flows, tmp_path, run):
    folder = tmp_path / "new" / "drafts"
    status, out, err = run(flows, "--drafts", str(folder))
    assert status == 0
    assert out
    assert "nothing was applied" in err
    told = (folder / "REVIEW.txt").read_text(encoding="utf-8")
    assert told.count("\nCase ") == 22
    name = next(folder.glob("*.rules")).stem
    alone = tmp_path / "alone"
    status, _, _ = run(flows, "--case", name, "--drafts", str(alone))
    assert status == 0
    assert {path.stem for path in alone.glob("*.rules")} == {name}
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    status, _, err = run(flows, "--drafts", str(tmp_path / "file"))
    assert status == 2
    assert "is no folder" in err


def test_commands_of_next_steps_name_the_sources_and_the_model(
    flows, run, sample_model
):
    """What can be copied asks the same question again, of the same model."""
    _, out, _ = run(flows, "--home", "10.20.0.0/16")
    commands = [line.strip()[2:] for line in out.splitlines() if " $ exfilml" in line]
    assert commands
    for command in commands:
        words = shlex.split(command)
        if words[1] in {"triage", "carve"}:
            assert words[words.index("--model") + 1] == str(sample_model)
            assert words[words.index("--home") + 1] == "10.20.0.0/16"
            assert "SOURCE" not in words
        if words[1] == "triage":
            assert words[2] == flows
        if words[1] == "carve":
            # A table of flows holds no packets.
            assert "CAPTURE" in words
    _, out, _ = run(flows, "--format", "json")
    assert str(sample_model) not in out


def test_commands_of_next_steps_name_captures(run):
    capture = str(SAMPLE / "test.pcap")
    _, out, _ = run(capture)
    carve = next(line for line in out.splitlines() if "$ exfilml carve" in line)
    assert capture in shlex.split(carve)


@pytest.mark.parametrize("name", ["a\x1b[31m.parquet", "-x.parquet"])
def test_commands_of_next_steps_leave_out_names_that_act(
    flows, tmp_path, monkeypatch, name, sample_model, capfd
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(Path(flows).read_bytes())
    assert cli.run(["triage", "--model", str(sample_model), "-q", "--", name]) == 0
    assert "exfilml triage SOURCE " in capfd.readouterr().out


def test_a_ranked_case_that_is_not_answered_otherwise_can_be_asked_for(
    flows, run, sample_model, capfd
):
    """Every name that a ranking shows is one that can be asked about."""
    status = cli.run(
        ["rank", flows, "--model", str(sample_model), "-q", "--format", "csv"]
    )
    assert status == 0
    last = capfd.readouterr().out.splitlines()[400]
    name = re.search(r"\b[0-9a-f]{10}\b", last)[0]
    status, out, _ = run(flows, "--case", name)
    assert status == 0
    assert f"case {name}: " in out


def test_a_terminal_shows_no_more_cards_than_are_read(
    monkeypatch, flows, capfd, sample_model
):
    monkeypatch.setattr("exfilml.terminal._triage.MOST_CARDS", 3)
    status = cli.run(["triage", flows, "--model", str(sample_model), "-q"])
    out, _ = capfd.readouterr()
    assert status == 0
    assert out.count("\n  goes to ") == 3
    assert "7 more cases go to T2 or higher: --case NAME shows one" in out
