"""Triages handed over on the command line: by `triage` itself, and from its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from test_handover import check_ecs, check_stix, full, ocsf_validator, triage

import exfilml
from exfilml import cli
from exfilml.handover import FORMATS, to_text, write

SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"
OF = triage(full(), full(name="00c0ffee18"))


@pytest.fixture
def file(tmp_path):
    write(OF, tmp_path / "triage.json")
    return str(tmp_path / "triage.json")


def run(*arguments, capfd):
    status = cli.run(list(arguments))
    return status, *capfd.readouterr()


@pytest.mark.parametrize("form", FORMATS)
def test_a_triage_is_handed_over_from_its_file(form, file, capfd):
    status, out, err = run("handover", file, "--format", form, capfd=capfd)
    assert (status, err) == (0, "")
    assert out == to_text(OF, form)


def test_cases_label_and_digests_can_be_said(file, tmp_path, capfd):
    capture = tmp_path / "day.pcap"
    capture.write_bytes(b"packets")
    digest = hashlib.sha256(b"packets").hexdigest()
    status, out, _ = run(
        *("handover", file, "--case", "00c0ffee18", "--tlp", "red"),
        *("--digest", str(capture)),
        capfd=capfd,
    )
    assert status == 0
    assert "# Case 00c0ffee18" in out
    assert "# Case 00c0ffee17" not in out
    assert "**Handling:** TLP:RED" in out
    assert f"`day.pcap` SHA-256 `{digest}`" in out


def test_what_out_ends_with_is_the_format(file, tmp_path, capfd):
    out = tmp_path / "case.ecs.jsonl"
    status, shown, err = run("handover", file, "--out", str(out), capfd=capfd)
    assert (status, shown) == (0, "")
    assert err == f"2 cases written to {out}\n"
    for line in out.read_text(encoding="utf-8").splitlines():
        check_ecs(json.loads(line))


def test_a_page_can_be_made_of_the_file(file, tmp_path, capfd):
    out = tmp_path / "cases.html"
    status, _, err = run("handover", file, "--out", str(out), capfd=capfd)
    assert (status, err) == (0, f"2 cases written to {out}\n")
    assert "00c0ffee18" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--case", "00c0ffee19"), "--case 00c0ffee19: none of the 2 cases has this"),
        (("--tlp", "purple"), "tlp 'purple': expected one of clear, green"),
        (("--out", "{}/case.xml"), "the suffix must name a format"),
        (("--out", "{}/no/case.md"), "the folder"),
        (("--out", "{}/a.html", "--format", "csv"), ".html is for a page"),
        (("--out", "{}/triage.json"), "is another file of this command"),
        (("--digest", "{}/none.pcap"), "cannot be read: No such file"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, told, file, tmp_path, capfd):
    given = [argument.format(tmp_path) for argument in arguments]
    status, out, err = run("handover", file, *given, capfd=capfd)
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_a_damaged_file_is_told_in_a_line(tmp_path, capfd):
    (tmp_path / "triage.json").write_text('{"format": "exfilml-triage-1"}')
    status, _, err = run("handover", str(tmp_path / "triage.json"), capfd=capfd)
    assert status == 2
    assert "damaged: cases is missing" in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    path = tmp_path_factory.mktemp("handover") / "flows.parquet"
    assert cli.run(["flows", str(SAMPLE / "test.pcap"), "--out", str(path), "-q"]) == 0
    return str(path)


def test_triage_writes_what_handover_reads(flows, sample_model, tmp_path, capfd):
    """The real thing: the sample's triage, its file, and hand-overs of both alike."""
    (tmp_path / "feed.txt").write_text("203.0.113.200\n", encoding="utf-8")
    intel = ("--intel", str(tmp_path / "feed.txt"))
    model = ("--model", str(sample_model), "-q", *intel)
    path = tmp_path / "triage.json"
    status, _, err = run("triage", flows, *model, "--out", str(path), capfd=capfd)
    assert status == 0
    assert f"22 cases written to {path}" in err
    read = exfilml.read_triage(path)
    assert len(read) == 22
    name = read[0].name
    for form in ("ocsf", "stix", "markdown", "ecs", "csv"):
        arguments = ("--format", form, "--case", name)
        status, out, _ = run("handover", str(path), *arguments, capfd=capfd)
        assert status == 0
        assert name in out
        assert "T1048.001" in out
    for line in to_text(read, "ocsf").splitlines():
        ocsf_validator("1.5.0").validate(json.loads(line))
    for line in to_text(read, "ecs").splitlines():
        check_ecs(json.loads(line))
    check_stix(to_text(read, "stix"))
    told = json.loads(path.read_text(encoding="utf-8"))
    assert read.to_dict() == told
    # Bytes of a case are those of its flows, by plain addition.
    for case in told["cases"]:
        assert case["up_bytes"] == sum(f["up_bytes"] for f in case["flow_table"])


def test_triage_hands_over_one_case(flows, sample_model, tmp_path, capfd):
    model = ("--model", str(sample_model), "-q")
    path = tmp_path / "all.ocsf.jsonl"
    status, _, _ = run("triage", flows, *model, "--out", str(path), capfd=capfd)
    assert status == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["class_uid"] for line in lines] == [2004] * 22
    name = json.loads(lines[3])["finding_info"]["uid"]
    arguments = ("--case", name, "--format", "markdown", "--tlp", "amber")
    status, out, _ = run("triage", flows, *model, *arguments, capfd=capfd)
    assert status == 0
    assert out.startswith(f"# Case {name}: ")
    assert out.count("\n# Case") == 0
    arguments = ("--format", "table", "--out", str(path))
    status, _, err = run("triage", flows, *model, *arguments, capfd=capfd)
    assert status == 2
    assert "a table is for the terminal" in err
