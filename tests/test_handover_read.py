"""A triage in its file: what is read is what was written, or an error says why not."""

from __future__ import annotations

import json
import os

import cases
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_handover import SOME, full, triage

import exfilml
from exfilml.exceptions import TriageFileError
from exfilml.handover import FORMATS, to_text, write


@pytest.mark.parametrize("name", SOME)
def test_what_is_read_is_what_was_written(name, tmp_path):
    """Also every hand-over made of it, to the byte."""
    of = SOME[name]()
    write(of, tmp_path / "triage.json")
    read = exfilml.read_triage(tmp_path / "triage.json")
    assert read.to_dict() == of.to_dict()
    for form in FORMATS:
        assert to_text(read, form) == to_text(of, form)


def test_types_are_those_of_a_triage(tmp_path):
    of = triage()
    write(of, tmp_path / "triage.json")
    case = exfilml.read_triage(tmp_path / "triage.json")["00c0ffee17"]
    assert case.row["first_seen"] == of[0].row["first_seen"]
    assert case.flows["start"].dtype == of[0].flows["start"].dtype
    told = ["src_port", "protocol", "src_ip", "app", "duration_s", "up_bytes"]
    for column in [*told, "suspicion", "local_ip"]:
        assert list(case.flows[column].dropna()) == list(of[0].flows[column].dropna())
    for column in told[:5]:
        assert case.flows[column].dtype == of[0].flows[column].dtype
    assert list(case.flows.index) == list(of[0].flows.index)
    assert case.evidence.equals(of[0].evidence)
    assert case.decision == of[0].decision
    assert case.techniques == of[0].techniques
    assert exfilml.read_triage(tmp_path / "triage.json").table.equals(of.table)


def test_flows_are_a_flows_table_with_the_bytes_of_each_end(tmp_path):
    inbound = {"src_ip": "198.51.100.23", "dst_ip": "10.20.0.17", "via": "proxy"}
    of = cases.triage(cases.case({}, inbound))
    write(of, tmp_path / "triage.json")
    flows = exfilml.read_triage(tmp_path / "triage.json")[0].flows
    assert list(flows["src_bytes"]) == [cases.FLOW["src_bytes"]] * 2
    assert list(flows["dst_bytes"]) == [cases.FLOW["dst_bytes"]] * 2
    assert list(flows["via"].fillna("")) == ["", "proxy"]
    assert exfilml.validate_flows(flows).equals(flows)


def test_drafts_of_containment_can_be_made_of_the_file(tmp_path):
    of = SOME["all levels"]()
    write(of, tmp_path / "triage.json")
    read = exfilml.read_triage(tmp_path / "triage.json")
    drafted = exfilml.draft_containment(of)
    assert drafted.files
    assert exfilml.draft_containment(read).files == drafted.files


def test_labels_of_flows_and_what_was_known_come_back(tmp_path):
    """Labels can be texts or pairs, and about a triage there can be records."""
    case = cases.case({}, {"src_port": 1025})
    case.flows.index = pd.Index([("a", 1), "b"], tupleize_cols=False)
    known = {"payload": {"suspicion": 9.5, "normal_alerts_per_day": (0.1, 0.4)}}
    of = cases.triage(case, thresholds=known)
    write(of, tmp_path / "triage.json")
    read = exfilml.read_triage(tmp_path / "triage.json")
    assert list(read[0].flows.index) == [("a", 1), "b"]
    assert read.about["thresholds"] == known
    assert read.about["made"] == cases.MADE


def damaged(tmp_path, change):
    """Read a triage after a change of its document, and return the error's text."""
    document = triage().to_dict()
    change(document)
    path = tmp_path / "triage.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(TriageFileError) as error:
        exfilml.read_triage(path)
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda d: d.update(format="exfilml-triage-2"),
            "format 'exfilml-triage-2' is of another version of exfilml, expected 'ex",
        ),
        (lambda d: d.update(format="sarif"), "no triage, expected JSON with format"),
        (lambda d: d.pop("incidents"), "damaged: incidents is missing"),
        (
            lambda d: d["cases"][0]["decision"].update(level="L9"),
            'damaged: cases[0].decision.level is "L9", expected one of close, watch',
        ),
        (
            lambda d: d["cases"][0]["questions"][1].update(answer="maybe"),
            'cases[0].questions[1].answer is "maybe", expected one of yes, no, not',
        ),
        (
            lambda d: d["cases"][0].update(first_seen="yesterday"),
            'cases[0].first_seen is "yesterday", expected a time in UTC',
        ),
        (
            lambda d: d["cases"][0].update(last_seen="2026-03-01T00:00:00Z"),
            "expected a time that is not before first_seen",
        ),
        (lambda d: d["cases"][0].pop("local_ip"), "cases[0].local_ip is missing"),
        (
            lambda d: d["cases"][0]["flow_table"][0].update(dst_ip="here"),
            'cases[0].flow_table[0].dst_ip is "here", expected an address',
        ),
        (
            lambda d: d["cases"][0]["flow_table"][0].update(dst_port=70_000),
            "flow_table[0].dst_port is 70000, expected a whole number up to 65,535",
        ),
        (
            lambda d: d["cases"][0].update(flow_table=[]),
            "cases[0].flow_table is [], expected at least one flow",
        ),
        (
            lambda d: d["cases"][0]["techniques"][0].update(id="T1048/../../x"),
            "expected a technique such as T1048.001",
        ),
        (
            lambda d: d["cases"][0]["against"][0].update(numbers=[1]),
            "cases[0].against[0].numbers is [1], expected an object",
        ),
    ],
)
def test_the_place_of_damage_is_told(change, told, tmp_path):
    assert told in damaged(tmp_path, change)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"format": "exfilml-triage-1", "cases": NaN}', "NaN is no value of JSON"),
        (b"[]", "no triage"),
        (b"7", "no triage"),
        (b'{"rank": 1}\n{"rank": 2}\n', "no JSON"),
    ],
)
def test_what_is_no_triage_is_refused(content, told, tmp_path):
    path = tmp_path / "triage.json"
    path.write_bytes(content)
    with pytest.raises(TriageFileError, match=told):
        exfilml.read_triage(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    whole = to_text(triage(), "json").encode()
    path = tmp_path / "triage.json"
    for end in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(TriageFileError):
            exfilml.read_triage(path)


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(TriageFileError, match="cannot be read: No such file"):
        exfilml.read_triage(tmp_path / "none.json")
    with pytest.raises(TriageFileError, match="is no regular file"):
        exfilml.read_triage(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TriageFileError, match="is no regular file"):
        exfilml.read_triage(tmp_path / "pipe")
    with pytest.raises(TriageFileError, match="cannot be read"):
        exfilml.read_triage("a\0b")


def places(value, path=()):
    """Yield the way to every value of a document."""
    yield path
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in inside:
            yield from places(part, (*path, name))


DOCUMENT = json.dumps(triage(full()).to_dict())
PLACES = [path for path in places(json.loads(DOCUMENT)) if path]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.integers(-2, 70_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        ["\ud800", "2026-13-01", "9999-01-01T00:00:00Z", "0.0.0.0", "::", "T1048"]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=2),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=4),
)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_triage_is_refused_or_handed_over(data, tmp_path):
    """Whatever stands in the file: one clear error, or hand-overs that can be made."""
    document = json.loads(DOCUMENT)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(PLACES))
        try:
            inside = document
            for name in way:
                inside = inside[name]
            if data.draw(st.booleans()):
                del inside[last]
            else:
                inside[last] = data.draw(ODD)
        except (KeyError, IndexError, TypeError):
            continue  # An earlier change has taken the place away.
    path = tmp_path / "triage.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        read = exfilml.read_triage(path)
    except TriageFileError as error:
        told = str(error)
    else:
        for form in FORMATS:
            to_text(read, form).encode("utf-8")
        return
    assert str(path) in told
    assert "\n" not in told


@settings(max_examples=60, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_noise_is_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "triage.json"
    path.write_bytes(content)
    with pytest.raises(TriageFileError):
        exfilml.read_triage(path)
