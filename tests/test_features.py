"""Evidence: directed, vectorised, and NaN where it cannot be judged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sites import office, theft

import exfilml.features
from exfilml.baseline import Baseline, Observed
from exfilml.features import FAMILIES, FEATURES, Asked, FlowFeatures, human_bytes
from exfilml.features._feature import speaking_level
from exfilml.features.cases import Cases, largest_of_case
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.schema import validate_flows

ALL = FlowFeatures(payload=True)
# Evidence of names that the made-up site does not show.
NAMED = ["new_fingerprint", "new_user_agent", "new_process"]


@pytest.fixture(scope="module")
def baseline():
    return Baseline.learn(Observed.of(orient(office(1500), PRIVATE_NETWORKS)))


def ask(flows, baseline) -> Asked:
    oriented = orient(flows, PRIVATE_NETWORKS)
    return Asked(oriented, Observed.of(oriented), baseline, baseline)


def evidence(flows, baseline) -> pd.DataFrame:
    return ALL.table(ask(flows, baseline))


def test_every_feature_is_defined_and_has_a_family():
    assert {f.family for f in FEATURES} == set(FAMILIES)
    assert len({f.name for f in FEATURES}) == len(FEATURES)
    for feature in FEATURES:
        assert feature.definition.endswith("."), feature.name
        assert feature.unit in {"bits", "share"}


def test_normal_flows_show_little_and_never_negative_evidence(baseline):
    table = evidence(office(400, seed=3, first_day="2026-03-09"), baseline)
    assert (table >= 0).all(axis=None)
    assert (table.median() < 0.5).all()
    assert (table[NAMED] == 0).all(axis=None)


def test_each_family_sees_a_theft(baseline):
    flows = theft(office(200, seed=3)).assign(conn_state="one_sided")
    table = evidence(pd.concat([flows] * 20, ignore_index=True), baseline)
    for family in FAMILIES:
        columns = [f.name for f in FEATURES if f.family == family]
        assert table[columns].max(axis=None) > 1.0, family


@pytest.mark.parametrize("feature", [f.name for f in FEATURES])
def test_more_upload_never_lowers_evidence(feature, baseline):
    sizes = [10**k for k in range(2, 10)]
    named = {"fingerprint": "new", "user_agent": "new", "process": "new"}
    tables = [
        evidence(theft(office(50), up=u).assign(**named), baseline) for u in sizes
    ]
    values = pd.concat(tables)[feature].to_numpy()
    assert (np.diff(values) >= -1e-12).all()


def test_without_payload_its_evidence_is_missing_not_zero(baseline):
    table = evidence(office(50, payload=False), baseline)
    for feature in FEATURES:
        if feature.family == "conformance":
            continue
        assert table[feature.name].isna().all() == feature.needs_payload


def test_no_rows_in_no_rows_out(baseline):
    table = evidence(office(10).iloc[:0], baseline)
    assert table.shape == (0, len(FEATURES))


def test_an_empty_baseline_knows_nothing_and_does_not_break():
    nothing = Baseline.learn(Observed.of(orient(office(5).iloc[:0], PRIVATE_NETWORKS)))
    table = evidence(office(20), nothing)
    assert np.isfinite(table.to_numpy()).all()


def test_row_order_does_not_matter_and_the_index_is_kept(baseline):
    flows = office(100, seed=5)
    mixed = flows.sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(
        evidence(mixed, baseline).sort_index(), evidence(flows, baseline)
    )


def test_encryption_where_it_is_usual_is_no_surprise(baseline):
    """TLS on 443 is opaque all day; the same bytes without a handshake are not."""
    tls = office(400, seed=7)
    tls = tls[tls["dst_port"] == 443].iloc[:1]
    raw = theft(tls, up=2000, dst_port=443)
    usual = evidence(tls, baseline)["concealed"].iloc[0]
    strange = evidence(raw, baseline)["concealed"].iloc[0]
    assert usual < 0.1
    assert strange > 3.0


def test_the_registry_speaks_where_the_baseline_is_silent(baseline):
    """SMTP on 587 is silent although nobody used it before; raw bytes there shout."""
    smtp = office(400, seed=7)
    smtp = smtp[smtp["dst_port"] == 25].iloc[:1].assign(dst_port=587)
    raw = theft(smtp, dst_port=587)
    assert evidence(smtp, baseline)["mismatch"].iloc[0] < 0.5
    assert evidence(raw, baseline)["mismatch"].iloc[0] > 4.0


def test_novelty_is_more_surprising_where_it_is_rare(baseline):
    """A new place means more for a service whose places never change."""
    flows = pd.concat([theft(office(20), dst_port=p) for p in (443, 25)])
    new = evidence(flows.reset_index(drop=True), baseline)["new_place_service"]
    assert (new > 0).all()


def test_known_places_are_not_new(baseline):
    again = office(1500)
    novel = [f.name for f in FEATURES if f.family == "novelty"]
    assert (evidence(again, baseline)[novel].fillna(0.0) == 0).all(axis=None)


def test_a_case_adds_up(baseline):
    """Forty small uploads to one place weigh as their sum, from the last one on."""
    drip = pd.concat([theft(office(20), up=25_000)] * 40, ignore_index=True)
    drip["start"] += pd.to_timedelta(np.arange(40), unit="min")
    assert Cases.of(ask(drip, baseline)).n_cases == 1
    table = evidence(drip, baseline)
    for name in ("sum_case", "sum_place", "hidden_case", "hidden_host", "chunks"):
        assert (np.diff(table[name]) >= 0).all()
        assert table[name].iloc[-1] > table[name].iloc[0] + 2.0


def test_the_level_that_speaks_is_named(baseline):
    """A host of its own, a new host, and what was never seen anywhere."""
    web = office(400, seed=7)
    web = web[web["dst_port"] == 443].iloc[[0]]
    new = web.assign(src_ip=pd.array(["10.77.0.1"], dtype="str"))
    odd = theft(web, dst_port=4444)
    levels = ("site", "service", "subnet_service", "host_service")
    named = [
        speaking_level(ask(flows, baseline), levels, "n", site_first=True)
        for flows in (web, new, odd)
    ]
    assert named == [
        ["for this host and service"],
        ["for this service"],
        ["at this site"],
    ]
    hidden = speaking_level(
        ask(odd, baseline), ("site", "service"), "hidden", site_first=False
    )
    assert hidden == ["before any was seen"]


def test_what_comes_later_is_no_evidence(baseline):
    flows = pd.concat([office(100, seed=3), theft(office(100, seed=3))])
    flows = flows.sort_values("start", ignore_index=True)
    first = evidence(flows.iloc[:60], baseline)
    pd.testing.assert_frame_equal(evidence(flows, baseline).iloc[:60], first)


def test_a_service_nobody_uses_is_one_case_however_many_addresses(baseline):
    many = [
        theft(office(20), up=25_000, dst_ip=f"203.0.{k}.9", dst_port=6667)
        for k in range(30)
    ]
    cases = Cases.of(ask(pd.concat(many, ignore_index=True), baseline))
    assert cases.n_cases == 1


def test_concealed_uploads_to_new_addresses_are_one_case(baseline):
    """Over a service that all use; what is not concealed, or has a name, is not."""
    many = [
        theft(office(20), up=25_000, dst_ip=f"203.0.{k}.9", dst_port=443)
        for k in range(30)
    ]
    flows = pd.concat(many, ignore_index=True)
    assert Cases.of(ask(flows, baseline)).n_cases == 1
    table = evidence(flows, baseline)
    assert table["hidden_case"].iloc[-1] > table["hidden_host"].iloc[-1] - 1.0
    plain = flows.assign(src_concealed=False, src_verdict="text")
    assert Cases.of(ask(validate_flows(plain), baseline)).n_cases == 30
    names = pd.array([f"a{k}.site{k}.example" for k in range(30)], dtype="str")
    assert Cases.of(ask(flows.assign(server_name=names), baseline)).n_cases == 30


def test_control_and_data_of_ftp_are_one_case(baseline):
    flows = pd.concat([theft(office(20), dst_port=p) for p in (21, 20, 50_001)])
    flows["app"] = pd.array(["FTP_CONTROL", "FTP_DATA", "FTP_DATA"], dtype="str")
    ftp = Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))
    assert Cases.of(ask(flows, ftp)).n_cases == 1


def test_who_speaks_first_where_the_other_does_is_odd():
    """Of flow records, which do not say it, nothing is asked."""
    mail = office(400, seed=7)
    mail = mail[mail["dst_port"] == 25].assign(
        first_speaker="dst", conn_state="established"
    )
    known = Baseline.learn(Observed.of(orient(mail, PRIVATE_NETWORKS)))
    odd = theft(mail, dst_port=25).assign(first_speaker="src", conn_state="one_sided")
    table = evidence(odd, known)
    assert (table[["first_speaker", "conduct"]] > 3.0).all(axis=None)
    same = theft(mail, dst_port=25).assign(first_speaker="dst")
    assert (evidence(same, known)[["first_speaker", "conduct"]] == 0).all(axis=None)
    nobody = pd.array([None], dtype="str")
    silent = odd.assign(first_speaker=nobody, conn_state=nobody)
    assert evidence(silent, known)[["first_speaker", "conduct"]].isna().all(axis=None)


def test_novelty_without_an_upload_is_none(baseline):
    """Somewhere new, and nothing goes there."""
    new = theft(office(20), up=0)
    novel = [f.name for f in FEATURES if f.family == "novelty"]
    assert (evidence(new, baseline)[novel].fillna(0.0) == 0).all(axis=None)


def test_blocks_do_not_show(baseline, monkeypatch):
    flows = pd.concat([office(100, seed=3), office(60, seed=4, payload=False)])
    whole = evidence(flows, baseline)
    monkeypatch.setattr(exfilml.features, "BLOCK", 7)
    pd.testing.assert_frame_equal(evidence(flows, baseline), whole, check_exact=True)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1))
def test_the_largest_of_a_case_is_its_first_largest(rows):
    values, code = (np.array(x) for x in zip(*rows, strict=True))
    _, code = np.unique(code, return_inverse=True)
    expected = [
        max(np.flatnonzero(code == c), key=lambda row: (values[row], -row))
        for c in range(code.max() + 1)
    ]
    assert largest_of_case(values.astype(float), code).tolist() == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (48_000_000, "48 MB"),
        (999_999, "1.0 MB"),
        (10**16, "10000 TB"),
    ],
)
def test_bytes_as_an_analyst_reads_them(count, expected):
    assert human_bytes(count) == expected


def test_reasons_carry_the_numbers(baseline):
    asked = ask(theft(office(50)), baseline)
    said = {f.name: f.reason(asked)[0] for f in FEATURES}
    assert "5.0 MB" in said["volume_host"]
    assert "10.20.0.12" in said["volume_host"]
    assert "no TLS, SSH or other handshake" in said["concealed"]
    assert "(0 of 10 hosts)" in said["new_place_host"]
    assert "tcp/8443" in said["mismatch"]
