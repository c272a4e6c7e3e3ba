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
from exfilml.features._feature import PEERS, speaking_level
from exfilml.features._peers import Peers
from exfilml.features.cases import Cases, largest_of_case
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.schema import validate_flows
from exfilml.tally import hash_names

ALL = FlowFeatures(payload=True)
# Evidence of names that the made-up flows do not show.
NAMED = ["new_fingerprint", "new_user_agent", "new_process"]
PROGRAMS = {443: "browser", 80: "browser", 53: "resolver", 22: "ssh", 25: "mailer"}


def by_program(flows) -> pd.DataFrame:
    """Say which process opened each flow: one for each service, but the browser."""
    return flows.assign(process=flows["dst_port"].map(PROGRAMS).astype("str"))


@pytest.fixture(scope="module")
def baseline():
    flows = by_program(office(1500))
    return Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))


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
    flows = office(400, seed=3, first_day="2026-03-09")
    table = evidence(by_program(flows), baseline)
    assert (table >= 0).all(axis=None)
    assert (table.median() < 0.5).all()
    assert (table[NAMED] == 0).all(axis=None)


def test_each_family_sees_a_theft(baseline):
    odd = {"conn_state": "one_sided", "process": "new"}
    flows = theft(office(200, seed=3)).assign(**odd)
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
    table = evidence(by_program(office(50, payload=False)), baseline)
    for feature in FEATURES:
        if feature.family == "conformance":
            continue
        assert table[feature.name].isna().all() == feature.needs_payload


def test_no_rows_in_no_rows_out(baseline):
    table = evidence(office(10).iloc[:0], baseline)
    assert table.shape == (0, len(FEATURES))


def test_an_empty_baseline_knows_nothing_and_does_not_break():
    nothing = Baseline.learn(Observed.of(orient(office(5).iloc[:0], PRIVATE_NETWORKS)))
    table = evidence(by_program(office(20)), nothing)
    assert np.isfinite(table.drop(columns="process").to_numpy()).all()
    # It cannot tell new processes from old.
    assert table["process"].isna().all()
    assert (table["new_process"] == 0).all()


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


def test_to_a_new_host_only_what_hardly_anybody_uses_is_novel(baseline):
    """Ten hosts use the web; one service and one place are nobody's."""
    novel = ["new_service_host", "new_place_host"]
    common = theft(office(20), src_ip="10.20.0.99", dst_port=443, dst_ip="198.18.0.1")
    rare = theft(office(20), src_ip="10.20.0.99", dst_port=6667, dst_ip="203.0.113.7")
    known_host = theft(office(20), dst_port=6667, dst_ip="203.0.113.7")
    web, odd, usual = (
        evidence(flows, baseline)[novel].iloc[0] for flows in (common, rare, known_host)
    )
    assert (web < 0.5).all()
    assert odd["new_service_host"] > 4.0
    assert odd["new_place_host"] > web["new_place_host"] + 0.5
    # Of a host with habits they decide.
    assert usual["new_service_host"] > 4.0
    assert evidence(common, baseline)["volume_host"].iloc[0] == 0.0


def test_habits_come_to_decide_as_a_host_is_seen():
    """One flow is no habit, a hundred are."""
    bits = []
    for n in (0, 1, 10, 100, 1000):
        flows = office(1500)
        again = flows[(flows["src_ip"] == "10.20.0.12") & (flows["dst_port"] == 443)]
        mine = pd.concat([again] * 20, ignore_index=True).iloc[:n]
        mine = mine.assign(src_ip=pd.array(["10.20.0.99"] * n, dtype="str"))
        mixed = validate_flows(pd.concat([flows, mine], ignore_index=True))
        known = Baseline.learn(Observed.of(orient(mixed, PRIVATE_NETWORKS)))
        ssh = theft(office(20), src_ip="10.20.0.99", dst_port=22)
        bits.append(evidence(ssh, known)["new_service_host"].iloc[0])
    assert bits == sorted(bits)
    assert bits[0] < 0.5
    assert bits[-1] > 5.0


def test_hosts_are_grouped_by_the_service_that_tells_them_apart():
    """All use the web; some send mail, two share a service that no one else has."""
    flows = office(3000, hosts=12)
    host = flows["src_ip"].str.rpartition(".")[2].astype(int)
    flows["dst_port"] = 443
    flows.loc[(host < 14) & (flows.index % 5 == 0), "dst_port"] = 25
    flows.loc[(host >= 14) & (host < 16) & (flows.index % 5 == 0), "dst_port"] = 6667
    # Once is no habit.
    flows.loc[flows.index[host == 20][:1], "dst_port"] = 6667
    known = Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))
    peers = Peers.of(known.tables["host_service"])
    names = [f"10.20.0.{h}" for h in range(10, 23)]
    groups = peers.groups_of(hash_names(pd.Series(names, dtype="str"))).tolist()
    mail, chat, rest, nobody = groups[:4], groups[4:6], groups[6:12], groups[12]
    assert [len(set(group)) for group in (mail, chat, rest)] == [1, 1, 1]
    assert len({mail[0], chat[0], rest[0], nobody}) == 4
    assert peers.tally.count.sum() == known.tables["host_service"].count.sum()


def test_peers_speak_where_a_host_has_done_little():
    """Four hosts send mail; three of them use SSH too, and so do no clients."""
    flows = office(3000, hosts=8)
    server = flows["src_ip"].isin([f"10.20.0.{h}" for h in range(10, 14)])
    new = flows["src_ip"] == "10.20.0.10"
    flows["dst_port"] = np.where(server & (flows.index % 2 == 0), 25, 443)
    flows.loc[server & ~new & (flows.index % 10 == 0), "dst_port"] = 22
    known = Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))
    said = [
        speaking_level(
            ask(theft(office(20), src_ip=f"10.20.0.{host}", dst_port=22), known),
            ("site", "service", PEERS, "host_service"),
            "n",
            site_first=True,
        )
        for host in (10, 11, 14)
    ]
    assert said == [
        ["for hosts of its kind and this service"],
        ["for this host and service"],
        ["for this service"],
    ]


@pytest.mark.parametrize(
    ("port", "protocol", "column", "usual", "odd"),
    [
        (25, 6, "first_speaker", "dst", "src"),
        (514, 17, "conn_state", "one_sided", "established"),
    ],
)
def test_what_standards_say_holds_before_a_site_has_seen_it(
    port, protocol, column, usual, odd, baseline
):
    """No flow of these services was seen."""
    flows = office(1500)
    flows = flows[flows["dst_port"] != port]
    known = Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))
    name = {"conn_state": "conduct"}.get(column, column)
    sent = theft(office(20), dst_port=port).assign(protocol=protocol)
    bits = [
        evidence(
            validate_flows(sent.assign(**{column: pd.array([how], dtype="str")})), known
        )[name].iloc[0]
        for how in (usual, odd)
    ]
    assert bits[0] == 0.0
    assert bits[1] > 2.0


def test_the_server_that_greets_may_be_the_local_one(baseline):
    """A mail server of the site is asked from outside, and greets."""
    flows = theft(office(20), dst_port=110)
    swapped = flows.assign(
        src_ip=flows["dst_ip"].to_numpy(),
        dst_ip=flows["src_ip"].to_numpy(),
        first_speaker=pd.array(["dst"], dtype="str"),
        src_bytes=flows["dst_bytes"].to_numpy(),
        dst_bytes=flows["src_bytes"].to_numpy(),
    )
    assert evidence(validate_flows(swapped), baseline)["first_speaker"].iloc[0] == 0.0


def test_icmp_replies_that_nothing_asked_for_are_odd(baseline):
    """Where pings are answered."""
    pings = office(200, seed=5).assign(dst_port=0, src_port=0, protocol=1)
    known = Baseline.learn(
        Observed.of(
            orient(
                validate_flows(pd.concat([office(1500), pings], ignore_index=True)),
                PRIVATE_NETWORKS,
            )
        )
    )
    sent = theft(office(20), dst_port=0).assign(
        protocol=1, src_port=0, conn_state=pd.array(["unsolicited"], dtype="str")
    )
    asked = ask(validate_flows(sent), known)
    assert ALL.table(asked)["conduct"].iloc[0] > 4.0
    (said,) = (f.reason(asked)[0] for f in FEATURES if f.name == "conduct")
    assert said.startswith("conversation of replies that nothing asked for (0 of 200")


def test_novelty_without_an_upload_is_none(baseline):
    """Somewhere new, and nothing goes there."""
    new = theft(office(20), up=0)
    novel = [f.name for f in FEATURES if f.family == "novelty"]
    assert (evidence(new, baseline)[novel].fillna(0.0) == 0).all(axis=None)


def test_a_process_says_what_hosts_of_its_kind_use():
    """Rarer at the site, rarer among its kind: more bits; known to the host: none."""
    flows = office(3000, hosts=12)
    host = flows["src_ip"].str.rpartition(".")[2].astype(int)
    server = host < 14
    flows["dst_port"] = np.where(server & (flows.index % 2 == 0), 25, 443)
    names = np.where(server, "mailer", "browser")
    names = np.where(server & (host != 10) & (flows.index % 20 == 1), "backup", names)
    names = np.where((host == 20) & (flows.index % 10 == 0), "player", names)
    flows["process"] = pd.array(names, dtype="str")
    known = Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))
    tried = ["mailer", "backup", "browser", "player", "rclone", None]
    many = pd.concat([theft(flows, src_ip="10.20.0.10")] * len(tried))
    many = many.assign(process=pd.array(tried, dtype="str")).reset_index(drop=True)
    bits = evidence(many, known)["process"].to_numpy()
    assert bits[0] == 0.0
    assert np.isnan(bits[-1])
    # What three of four servers use, what all clients use, one client, nobody.
    assert (np.diff(bits[:4]) > 0).all()
    assert bits[4] >= bits[3]
    (said,) = (f.reason(ask(many, known)) for f in FEATURES if f.name == "process")
    assert said[1] == (
        "process backup never used the network from 10.20.0.10 (3 of 12 hosts, 3 of its "
        "kind)"
    )
    assert said[2].endswith("(8 of 12 hosts, none of its kind)")
    assert said[4] == "process rclone never used the network here (0 of 12 hosts)"


def test_a_host_where_much_is_new_surprises_less():
    """A new process on a server that runs one, and on one that runs many."""
    flows = office(1500)
    host = flows["src_ip"].str.rpartition(".")[2].astype(int)
    busy = (host == 12) & (flows.index % 3 == 0)
    names = np.where(busy, [f"tool{k}" for k in flows.index], "browser")
    flows["process"] = pd.array(names, dtype="str")
    known = Baseline.learn(Observed.of(orient(flows, PRIVATE_NETWORKS)))
    bits = [
        evidence(theft(flows, src_ip=f"10.20.0.{h}").assign(process="new"), known)[
            "process"
        ].iloc[0]
        for h in (12, 13, 99)
    ]
    assert bits[0] < bits[1] - 2.0
    # A host of which nothing is known has no habits.
    assert bits[2] < bits[1]


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
    asked = ask(theft(office(50)).assign(process="rclone"), baseline)
    said = {f.name: f.reason(asked)[0] for f in FEATURES}
    assert said["process"].startswith(
        "process rclone never used the network here (0 of"
    )
    assert "5.0 MB" in said["volume_host"]
    assert "10.20.0.12" in said["volume_host"]
    assert "no TLS, SSH or other handshake" in said["concealed"]
    assert "(0 of 10 hosts)" in said["new_place_host"]
    assert "tcp/8443" in said["mismatch"]
