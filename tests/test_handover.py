"""Cases in the formats of others: each valid by its published schema, and truthful."""

from __future__ import annotations

import csv
import functools
import io
import ipaddress
import json
import string
import uuid
from pathlib import Path

import cases
import jsonschema
import numpy as np
import pandas as pd
import pytest
import stix2
from hypothesis import given, settings
from hypothesis import strategies as st
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from stix2validator import ValidationOptions, validate_string

import exfilml
from exfilml.exceptions import OptionError, OutputError
from exfilml.export import printable
from exfilml.handover import FORMATS, FORMS, form_of, only, to_text, write
from exfilml.triage.case import LEVELS, Fact, Step, Technique, Triage

ECS = json.loads(
    (Path(__file__).parent / "schemas" / "ecs_9.4.0.json").read_text(encoding="utf-8")
)
PLACE = "exfil.example.net"
INDICATOR = "indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f"
HOSTILE = (
    '=HYPERLINK("http://203.0.113.9")',
    "<img src=x onerror=alert(1)>",
    "x' OR domain-name:value = 'y",
    "\\'] OR [url:value = '",
    'a","severity_id":6,"b":"',
    "\x1b[2J\u202ecba\x00\n\r\t",
    "http://203.0.113.9 @all | ` ``` # [a](b)",
    "e" * 4000,
)
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))


def intel(**more):
    """Build a match as `Intel.match` gives it."""
    match = {
        "indicator": "198.51.100.0/24",
        "kind": "network",
        "matched": "dst_ip",
        "value": "198.51.100.23",
        "port": None,
        "source": "feed.csv",
        "confidence": 80.0,
        "tlp": "green",
        "valid_from": pd.Timestamp("2026-01-01T00:00:00Z"),
        "valid_until": pd.NaT,
        "early": False,
        "unseen": None,
        "reference": None,
        "description": None,
        **more,
    }
    return pd.DataFrame([match], index=[0])


def full(level="T2", name="00c0ffee17", text="as seen", **flow):
    """Build a case that has something to say everywhere, with `text` in all of it."""
    fact = Fact("transfer.usual", text, {"days": 3, "share": 0.25})
    seen = {"server_name": text, "user_agent": text, "fingerprint": "c" * 32}
    return cases.case(
        {"server_name": PLACE, "fingerprint": "t13d1516h2_8daaf6152771_02713d6af862"},
        {"src_port": 50124, "src_bytes": 700, "dst_bytes": 90, "concealed": False}
        | {**seen, **flow},
        name=name,
        level=level,
        against=(fact,),
        scope=(fact,),
        techniques=(
            cases.T1048_001,
            Technique("T1030", "Data Transfer Size Limits", text),
            Technique("T1999", "Not yet known here", text),
        ),
        asset={"known": True, "owner": text, "hostname": "pc17", "criticality": "high"},
        intel=intel(description=text),
        history=pd.DataFrame({"place": [text], "flows": [3]}),
        incident=f"i{name}",
        next_steps=(Step(text, "exfilml carve 1"), Step(text)),
    )


def triage(*some):
    some = some or (full(),)
    return cases.triage(*some, incidents=(cases.incident(*some),))


def plain(level="L1"):
    """Build a case of which little is known: ICMP, and no name of anything."""
    flow = {"protocol": 1, "src_port": 0, "dst_port": 0, "duration_s": None}
    return cases.case(flow, level=level, techniques=(), scope=(), next_steps=())


VERSION_6 = {"src_ip": "fd00::17", "dst_ip": "2001:db8::9"}
SOME = {
    "full": triage,
    "little": lambda: cases.triage(plain()),
    "version 6": lambda: triage(cases.case(VERSION_6)),
    "unknown protocol": lambda: triage(cases.case({"protocol": 99})),
    "all levels": lambda: triage(
        *(full(level, f"00c0ffee{n:02}") for n, level in enumerate(LEVELS))
    ),
    "not made": lambda: Triage((full(),)),
    "no case": lambda: Triage(()),
}


@pytest.fixture(params=SOME)
def some(request):
    return SOME[request.param]()


# OCSF --------------------------------------------------------------------------------


@functools.cache
def ocsf_schema(version):
    return get_ocsf_schema(version)


@functools.cache
def ocsf_validator(version):
    schema = OcsfJsonSchemaEmbedded(ocsf_schema(version))
    return jsonschema.Draft202012Validator(schema.get_class_schema("detection_finding"))


@pytest.fixture(scope="module", params=["1.5.0", "1.6.0", "1.7.0", "1.8.0"])
def ocsf(request):
    """Give a validator of findings, of the version that is said and of later ones."""
    return ocsf_validator(request.param)


def findings(of, **more):
    return [json.loads(line) for line in to_text(of, "ocsf", **more).splitlines()]


def test_ocsf_is_valid(ocsf, some):
    assert len(findings(some)) == len(some)
    for finding in findings(some, tlp="amber"):
        ocsf.validate(finding)


def test_the_validator_of_ocsf_refuses(ocsf):
    (finding,) = findings(triage())
    for broken in ({"severity_id": 9}, {"unheard_of": 1}, {"time": "now"}):
        with pytest.raises(jsonschema.ValidationError):
            ocsf.validate({**finding, **broken})


@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
def test_ocsf_stays_valid_whatever_was_sent(text):
    written = to_text(triage(full(text=text)), "ocsf")
    assert set(written) <= set(string.printable) - set("\r\t\x0b\x0c")
    (line,) = written.splitlines()
    finding = json.loads(line)
    ocsf_validator("1.5.0").validate(finding)
    assert finding["severity_id"] == 4
    assert text in [
        e["desc"] for e in finding["enrichments"] if e["name"] == "technique"
    ]


def test_ocsf_names_are_those_of_its_numbers():
    """A number and its name say the same by the published schema."""
    attributes = ocsf_schema("1.5.0")["classes"]["detection_finding"]["attributes"]
    for finding in findings(SOME["all levels"]()):
        for name in ("activity", "severity", "status", "confidence", "risk_level"):
            told = finding["activity_name" if name == "activity" else name]
            caption = attributes[f"{name}_id"]["enum"][str(finding[f"{name}_id"])]
            assert told == caption["caption"]
    objects = ocsf_schema("1.5.0")["objects"]
    (finding,) = findings(triage())
    of_observables = objects["observable"]["attributes"]["type_id"]["enum"]
    for observable in finding["observables"]:
        caption = of_observables[str(observable["type_id"])]["caption"]
        assert observable["type"] == caption
    analytic = finding["finding_info"]["analytic"]
    of_analytics = objects["analytic"]["attributes"]["type_id"]["enum"]
    assert of_analytics[str(analytic["type_id"])]["caption"] == analytic["type"]


def test_ocsf_levels_are_severities():
    told = [
        (f["severity"], f["finding_info"]["types"])
        for f in findings(SOME["all levels"]())
    ]
    assert told == [
        ("Informational", ["close"]),
        ("Low", ["watch"]),
        ("Medium", ["L1"]),
        ("High", ["T2"]),
        ("Critical", ["incident"]),
    ]


def test_ocsf_tells_the_flows_and_their_bytes():
    case = full()
    (finding,) = findings(triage(case))
    told = [e["data"] for e in finding["evidences"]]
    assert [e["src_bytes"] for e in told] == [cases.FLOW["src_bytes"], 700]
    assert [e["dst_bytes"] for e in told] == [cases.FLOW["dst_bytes"], 90]
    assert finding["unmapped"]["up_bytes"] == cases.FLOW["src_bytes"] + 700
    assert [e["concealed"] for e in told] == [True, False]
    first = finding["evidences"][0]
    assert first["dst_endpoint"] == {
        "ip": "198.51.100.23",
        "port": 8443,
        "hostname": PLACE,
    }
    assert first["connection_info"]["protocol_name"] == "tcp"
    assert finding["start_time"] == 1772662200000  # date -d 2026-03-04T22:10Z +%s


def test_bytes_are_of_the_end_that_sent_them():
    """In a connection from outside, what leaves is sent by the responder."""
    inbound = cases.case({"src_ip": "198.51.100.23", "dst_ip": "10.20.0.17"})
    (finding,) = findings(cases.triage(inbound))
    told = finding["evidences"][0]
    assert told["connection_info"]["direction"] == "Inbound"
    assert told["data"]["src_bytes"] == cases.FLOW["src_bytes"]
    assert told["data"]["up_bytes"] == cases.FLOW["dst_bytes"]
    (alert,) = alerts(cases.triage(inbound))
    assert alert["source"]["bytes"] == cases.FLOW["src_bytes"]
    assert alert["destination"]["bytes"] == cases.FLOW["dst_bytes"]


def test_of_many_flows_the_largest_are_told_and_the_rest_counted():
    flows = [{"src_port": 1024 + n, "src_bytes": 1000 + n % 97} for n in range(300)]
    many = cases.triage(cases.case(*flows))
    largest = sorted((f["src_bytes"] for f in flows), reverse=True)[:50]
    (finding,) = findings(many)
    told = [e["data"]["up_bytes"] for e in finding["evidences"]]
    assert sorted(told, reverse=True) == largest
    assert finding["count"] == 300
    assert finding["unmapped"]["evidences_left_out"] == 250
    assert "the 20 largest uploads of 300 flows" in to_text(many, "markdown")
    assert "Of 300 flows, the 20 with" in to_text(many, "stix")


def test_what_was_not_visible_is_left_out():
    for form in ("ocsf", "ecs", "stix"):
        written = to_text(cases.triage(plain()), form)
        told = json.loads(written)
        assert list(empty_in(told, form)) == []
        assert "port" not in told.get("source", {})
        assert "src_port" not in written


def empty_in(value, path):
    """Yield where something is said that is nothing."""
    if value is None or value in ("", [], {}):
        yield path
    elif isinstance(value, dict | list):
        names = value if isinstance(value, dict) else range(len(value))
        for name in names:
            yield from empty_in(value[name], f"{path}.{name}")


# ECS ---------------------------------------------------------------------------------


def alerts(of, **more):
    return [json.loads(line) for line in to_text(of, "ecs", **more).splitlines()]


def check_ecs(value, path=""):
    """Check a document by the published fields: names, types, lists, allowed values."""
    if path.split(".")[0] in {"exfilml", "labels"}:
        return
    field = ECS["fields"].get(path)
    if isinstance(value, dict):
        assert field is None or field["type"] == "object", path
        for name, part in value.items():
            check_ecs(part, f"{path}.{name}" if path else name)
        return
    assert field is not None, f"{path} is no field of ECS"
    assert isinstance(value, list) == field.get("array", False), path
    for one in value if isinstance(value, list) else [value]:
        if field["type"] == "nested":
            for name, part in one.items():
                check_ecs(part, f"{path}.{name}")
            continue
        _check_type(one, field, path)


def _check_type(one, field, path):
    kind = field["type"]
    if kind in {"keyword", "match_only_text"}:
        assert isinstance(one, str), path
    elif kind == "long":
        assert type(one) is int, path
        assert -(2**63) <= one < 2**63, path
    elif kind == "float":
        assert type(one) in {int, float}, path
    elif kind == "ip":
        ipaddress.ip_address(one)
    else:
        assert kind == "date", path
        assert pd.Timestamp(one).tzinfo is not None
    for limit in ("allowed", "expected"):
        assert limit not in field or one in field[limit], path


def test_ecs_is_valid(some):
    told = alerts(some, tlp="red")
    assert len(told) == len(some)
    for alert in told:
        check_ecs(alert)
        for category in alert["event"]["category"]:
            assert set(alert["event"]["type"]) <= set(ECS["expected_types"][category])
        assert all(isinstance(v, str | bool | int) for v in alert["labels"].values())
        assert alert["ecs"]["version"] == ECS["version"]


def test_the_check_of_ecs_refuses():
    (alert,) = alerts(triage())
    for broken in (
        {"unheard_of": 1},
        {"event": {"kind": "theft"}},
        {"source": {"ip": "here"}},
        {"tags": "one"},
        {"network": {"bytes": "1"}},
    ):
        with pytest.raises((AssertionError, ValueError)):
            check_ecs({**alert, **broken})


@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
def test_ecs_stays_valid_whatever_was_sent(text):
    (line,) = to_text(triage(full(text=text)), "ecs").splitlines()
    alert = json.loads(line)
    check_ecs(alert)
    assert alert["event"]["kind"] == "alert"
    assert alert["exfilml"]["techniques"][1]["reason"] == text


def test_ecs_tells_techniques_and_their_parents():
    (alert,) = alerts(triage())
    threat = alert["threat"]
    assert threat["framework"] == "MITRE ATT&CK"
    assert threat["technique"]["id"] == ["T1048", "T1030", "T1999"]
    assert threat["technique"]["subtechnique"]["id"] == ["T1048.001"]
    assert threat["tactic"]["id"] == ["TA0010"]
    reasons = {t["id"]: t["reason"] for t in alert["exfilml"]["techniques"]}
    assert reasons["T1048.001"] == cases.T1048_001.reason


# STIX --------------------------------------------------------------------------------


def bundle(of, **more):
    return stix2.parse(to_text(of, "stix", **more), version="2.1")


def of_type(kind, of, **more):
    return [o for o in bundle(of, **more).get("objects", []) if o["type"] == kind]


def check_stix(written):
    # What the standard recommends but no flow can follow: ports (301), which ICMP has
    # not; hashes of what an external reference leads to (302).
    options = ValidationOptions(version="2.1", strict=True, disabled="301,302")
    result = validate_string(written, options)
    assert result.is_valid, [str(error) for error in result.errors]


def test_stix_is_valid(some):
    if len(some) == 0:
        assert bundle(some)["type"] == "bundle"
        return
    check_stix(to_text(some, "stix", tlp="amber+strict"))
    check_stix(to_text(some, "stix"))


def test_the_validator_of_stix_refuses():
    told = json.loads(to_text(triage(), "stix"))
    told["objects"][0]["name"] = 5
    with pytest.raises(AssertionError):
        check_stix(json.dumps(told))


@settings(max_examples=12, deadline=None)
@given(text=TEXTS)
def test_stix_stays_valid_whatever_was_sent(text):
    case = full(text=text, dst_ip="203.0.113.9")
    case.row["place"] = text
    met = intel(indicator=text, kind="domain", reference=text, source=text or "s")
    object.__setattr__(case, "intel", met)
    written = to_text(triage(case), "stix")
    check_stix(written)
    said = json.loads(written)["objects"]
    patterns = [o["pattern"] for o in said if o["type"] == "indicator"]
    assert all(p.count("'") == 2 for p in patterns)


def test_identifiers_of_observables_are_those_of_the_standard():
    """UUID version 5 of the contributing properties as canonical JSON (STIX 2.9)."""
    space = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")
    (name,) = (d for d in of_type("domain-name", triage()) if d["value"] == PLACE)
    expected = uuid.uuid5(space, f'{{"value":"{PLACE}"}}')
    assert name["id"] == f"domain-name--{expected}"


def test_stix_tells_what_was_seen_and_of_what_it_is_a_sighting():
    of = triage()
    (observed,) = of_type("observed-data", of)
    assert observed["number_observed"] == 2
    traffic = of_type("network-traffic", of)
    sent = [t["src_byte_count"] for t in traffic]
    assert sorted(sent) == [700, cases.FLOW["src_bytes"]]
    assert {t["id"] for t in traffic} <= set(observed["object_refs"])
    patterns = {i["id"]: i["pattern"] for i in of_type("indicator", of)}
    assert sorted(patterns.values()) == [
        "[domain-name:value = 'example.net']",
        "[ipv4-addr:value ISSUBSET '198.51.100.0/24']",
    ]
    sightings = of_type("sighting", of)
    assert {s["sighting_of_ref"] for s in sightings} == set(patterns)
    assert all(s["observed_data_refs"] == [observed["id"]] for s in sightings)
    ids = {
        p["external_references"][0]["external_id"]
        for p in of_type("attack-pattern", of)
    }
    assert ids == {"T1048.001", "T1030", "T1999"}
    (note,) = of_type("note", of)
    assert cases.T1048_001.reason in note["content"]
    assert "not visible: no indicators were given" in note["content"]


def test_indicators_of_stix_intelligence_are_sighted_by_their_identifier():
    case = cases.case({}, intel=intel(reference=INDICATOR))
    sighted = {s["sighting_of_ref"] for s in of_type("sighting", cases.triage(case))}
    assert INDICATOR in sighted
    assert len(sighted) == 2


def test_indicators_without_a_description_are_told_by_their_source():
    of = cases.triage(cases.case({}, intel=intel()))
    check_stix(to_text(of, "stix"))
    told = {i["name"]: i["description"] for i in of_type("indicator", of)}
    assert told["198.51.100.0/24"] == "network of feed.csv"


def test_nobody_is_to_act_on_the_place_of_a_closed_case():
    case = cases.case({}, level="close")
    assert of_type("indicator", cases.triage(case)) == []
    assert of_type("observed-data", cases.triage(case)) != []


def test_the_strictest_label_marks_the_bundle():
    """Of what was asked for and of the indicators that were met."""
    mild, strict = full(), full(name="00c0ffee18")
    strict.intel["tlp"] = "red"
    for of, asked, label in (
        (triage(mild), None, "TLP:GREEN"),
        (triage(mild), "clear", "TLP:GREEN"),
        (triage(mild), "amber", "TLP:AMBER"),
        (triage(mild, strict), "amber", "TLP:RED"),
    ):
        (marking,) = of_type("marking-definition", of, tlp=asked)
        assert marking["name"] == label
        (observed, *_) = of_type("observed-data", of, tlp=asked)
        assert observed["object_marking_refs"] == [marking["id"]]
    assert of_type("marking-definition", cases.triage(plain())) == []


def test_a_bundle_is_intelligence_that_meets_its_own_flows(tmp_path):
    """What is handed over can be searched for, here or elsewhere."""
    case = full()
    path = tmp_path / "case.stix.json"
    write(triage(case), path)
    known = exfilml.read_intel(path)
    met = known.match(case.flows)
    assert set(met.index) == set(case.flows.index)
    assert set(met["tlp"]) == {"green"}


# CSV ---------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(text=TEXTS)
def test_csv_has_a_row_for_each_case_and_no_formula(text):
    of = triage(full(text=text), full(name="00c0ffee18"))
    rows = list(csv.DictReader(io.StringIO(to_text(of, "csv"), newline="")))
    assert [row["case"] for row in rows] == [case.name for case in of]
    first = rows[0]
    for answer in (*of[0].indicators, *of[0].questions):
        assert first[answer.name] == answer.answer
        assert first[f"{answer.name}_why"] != ""
    assert first["technique_reasons"].endswith(f"T1999: {printable(text)}")
    assert first["host_owner"].removeprefix("'") == printable(text)
    for cell in first.values():
        assert not cell.startswith(("=", "+", "-", "@"))


# All ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_triage_gives_the_same_bytes(form):
    assert to_text(triage(), form) == to_text(triage(), form)


@pytest.mark.parametrize("form", FORMATS)
def test_techniques_have_their_reasons_everywhere(form):
    written = to_text(triage(), form)
    assert "T1048.001" in written
    assert cases.T1048_001.reason in written


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_suffix_names_the_format(form, tmp_path):
    for suffix in form.suffixes:
        path = tmp_path / f"case{suffix}"
        assert form_of(path) == form.name
        write(triage(), path)
        assert path.read_text(encoding="utf-8") == to_text(triage(), form.name)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(OptionError, match="format 'xml': expected one of ocsf, ecs"):
        to_text(triage(), "xml")
    with pytest.raises(OptionError, match=r"suffix must name a format, one of \.ocsf"):
        write(triage(), tmp_path / "case.xml")
    with pytest.raises(OptionError, match="tlp 'purple': expected one of clear"):
        to_text(triage(), "stix", tlp="purple")
    with pytest.raises(OptionError, match=r"digest of a\.pcap: got 'abc'"):
        to_text(triage(), "markdown", digests={"a.pcap": "abc"})
    with pytest.raises(OutputError, match="cannot be written"):
        write(triage(), tmp_path / "no" / "case.csv")


def test_some_cases_alone_take_their_incidents_along():
    first, second = full(), full(name="00c0ffee18")
    of = cases.triage(first, second, incidents=(cases.incident(first),))
    assert [i.name for i in only(of, [first.name]).incidents] == ["i00c0ffee17"]
    assert only(of, ["00c0ffee18"]).incidents == ()
    assert [case.name for case in only(of, "00c0ffee18")] == ["00c0ffee18"]
    assert [case.name for case in only(of, ["00c0ffee18"])] == ["00c0ffee18"]


def test_numbers_of_numpy_and_missing_ones_are_told_as_plain():
    case = cases.case({})
    case.row.update(up_bytes=np.float64(5e6), p_value=np.nan, app=pd.NA)
    (finding,) = findings(cases.triage(case))
    assert finding["unmapped"]["up_bytes"] == 5_000_000
    assert not {"p_value", "app"} & set(finding["unmapped"])
