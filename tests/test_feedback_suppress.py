"""Drafts of approvals: never wider than what was judged, and they re-arm."""

from __future__ import annotations

import datetime as dt
import tomllib

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranked_cases import listed, ranked, unsynced
from sites import office, theft

from exfilml import Detector, Feedback, Policy, rank_cases
from exfilml.exceptions import FeedbackError, OutputError
from exfilml.feedback._suppress import MARK

TODAY = "2026-04-01"
BY = {"reason": "nightly backup", "analyst": "kim"}
# As cases of a source that shows no payload look in a ranking.
ADDRESS = {"place": "203.0.113.9", "dst_port": 8443, "protocol": 6}


@pytest.fixture(autouse=True, scope="module")
def _unsynced():
    with unsynced():
        yield


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=50).fit(office(1500))


@pytest.fixture(scope="module")
def normal():
    return office(400, seed=1, days=2, first_day="2026-03-09")


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "store")


def judged(store, verdicts=("false",), at=TODAY, **changes):
    """Judge cases like the first of `ranked`, with some columns changed."""
    cases = ranked(len(verdicts)).assign(**changes)
    said = listed(cases, list(verdicts))
    store.judge_each(cases, said, analyst="kim", at=at)
    return cases


def drafted(store, **options):
    """Return the one approval that was drafted."""
    found = store.suppressions(at=TODAY, **options)
    assert found.left_out.to_dict("records") == []
    ((_, approval),) = found.approvals
    return approval


def reason_of(store, **options):
    """Return why the one false positive got no approval."""
    found = store.suppressions(at=TODAY, **options)
    assert len(found) == 0
    (reason,) = found.left_out["reason"]
    return reason


# End to end


def of_theft(cases):
    (row,) = cases[cases["place"] == "203.0.113.9"].to_dict("records")
    return row


@pytest.fixture(scope="module")
def approved(detector, normal, tmp_path_factory):
    """Rank, judge the worst case false, and draft a policy."""
    folder = tmp_path_factory.mktemp("approved")
    flows = pd.concat([normal, theft(normal)], ignore_index=True)
    cases = rank_cases(detector, flows)
    assert of_theft(cases)["alert"]
    store = Feedback(folder / "store")
    store.judge(cases, of_theft(cases)["case"], "false", **BY)
    found = store.suppressions(flows=flows, detector=detector)
    found.write(folder / "draft.toml")
    return folder / "draft.toml", flows, cases


def test_a_case_judged_false_alerts_no_more_and_no_other_is_touched(detector, approved):
    draft, flows, before = approved
    after = rank_cases(detector, flows, policy=draft)
    row = of_theft(after)
    assert not row["alert"]
    assert row["reasons"].startswith("approved: nightly backup (kim, until ")
    assert after.attrs["policy"]["approved"] == 1
    assert after.attrs["alerted"] == before.attrs["alerted"] - 1
    others = before["case"] != row["case"]
    kept = after[after["case"] != row["case"]].set_index("case")
    expected = before[others].set_index("case")["alert"]
    assert (kept["alert"].loc[expected.index] == expected).all()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"up": 6_000_000}, None),  # within the slack
        ({"up": 7_000_000}, "upload"),
        ({"payload": "compressed"}, "payload"),
        ({"dst_ip": "203.0.113.10"}, "elsewhere"),
        ({"dst_port": 8444}, "elsewhere"),
        ({"src_ip": "10.20.0.13"}, "elsewhere"),
    ],
)
def test_it_re_arms_when_something_changes(detector, normal, approved, change, kind):
    draft, *_ = approved
    payload = change.pop("payload", None)
    row = theft(normal, **change)
    if payload:
        row = row.assign(src_verdict=payload, src_concealed=False)
    flows = pd.concat([normal, row], ignore_index=True)
    cases = rank_cases(detector, flows, policy=draft)
    place = change.get("dst_ip", "203.0.113.9")
    (found,) = cases[cases["place"] == place].to_dict("records")
    about = cases.attrs["policy"]
    change["payload"] = payload
    if kind is None:
        assert not found["alert"]
        assert about["approved"] == 1
        return
    assert not found["reasons"].startswith("approved")
    assert about["approved"] == 0
    if kind == "elsewhere":
        assert about["unused"] == 1
    else:
        assert about["changes"] == {kind: 1}
    if payload is None:
        assert found["alert"]


def test_the_draft_expires(detector, normal, approved):
    draft, flows, _ = approved
    expires = Policy.read(draft).approvals[0].expires
    today = dt.datetime.now(dt.UTC).date()
    assert expires - today in {dt.timedelta(days=29), dt.timedelta(days=30)}
    late = pd.concat([normal, theft(normal)], ignore_index=True)
    ahead = pd.Timestamp(expires, tz="UTC") - flows["start"].min() + pd.Timedelta("3D")
    late["start"] = (late["start"] + ahead).astype(late["start"].dtype)
    row = of_theft(rank_cases(detector, late, policy=draft))
    assert row["alert"]
    assert "expired on" in row["reasons"]


def test_it_is_scoped_to_what_the_flows_show(detector, approved, store):
    _, flows, cases = approved
    store.judge(cases, of_theft(cases)["case"], "false", at=TODAY, **BY)
    assert drafted(store, flows=flows, detector=detector) == {
        "network": ["203.0.113.9"],
        "host": "10.20.0.12",
        "service": ["tcp/8443"],
        "payload": ["opaque"],
        "max_upload_per_day": 6_250_000,
        "reason": "nightly backup",
        "owner": "kim",
        "expires": dt.date(2026, 5, 1),
    }


def test_a_name_is_approved_by_its_place_and_a_busy_day_sets_the_ceiling(
    detector, normal, store
):
    """A case of several flows over two days: the larger day counts, by payload bytes."""
    base = normal[(normal["dst_port"] == 443)].iloc[[0, 0, 0]].reset_index(drop=True)
    starts = ["2026-03-09T10:00Z", "2026-03-09T23:00Z", "2026-03-10T10:00Z"]
    rows = base.assign(
        start=pd.to_datetime(starts, utc=True).astype(base["start"].dtype),
        server_name="www.new.example",
        src_payload_bytes=[400_000, 500_000, 600_000],
        src_bytes=[410_000, 512_000, 615_000],
    )
    flows = pd.concat([normal, rows], ignore_index=True)
    cases = rank_cases(detector, flows)
    (case,) = cases[cases["place"] == "new.example"]["case"]
    store.judge(cases, case, "false", at=TODAY, **BY)
    approval = drafted(store, flows=flows, detector=detector)
    assert approval["place"] == ["new.example"]
    assert approval["service"] == ["https/tcp"]
    assert approval["payload"] == ["tls"]
    assert approval["max_upload_per_day"] == 900_000 * 5 // 4
    policy = store.suppressions(flows=flows, detector=detector, at=TODAY).policy
    assert policy.approvals[0].services == {"https"}
    after = rank_cases(detector, flows, policy=policy)
    assert after.attrs["policy"]["approved"] == 1


def test_flows_that_were_not_judged_widen_nothing(detector, normal, approved, store):
    """Later ones are not looked at; others in the same time are refused."""
    _, flows, cases = approved
    store.judge(cases, of_theft(cases)["case"], "false", at=TODAY, **BY)
    expected = drafted(store, flows=flows, detector=detector)
    later = theft(normal, up=80_000_000)
    later["start"] += pd.Timedelta("5h")
    more = pd.concat([flows, later], ignore_index=True)
    assert drafted(store, flows=more, detector=detector) == expected
    twice = pd.concat([flows, theft(normal)], ignore_index=True)
    text = reason_of(store, flows=twice, detector=detector)
    assert "hold 10,333,332 bytes of it, 5,166,666 were judged" in text
    text = reason_of(store, flows=normal, detector=detector)
    assert "not among the flows given" in text
    with pytest.raises(FeedbackError, match="need the detector"):
        store.suppressions(flows=flows)
    with pytest.raises(FeedbackError, match="without a fitted detector"):
        store.suppressions(flows=flows, detector=Detector())


def test_uploads_to_many_addresses_are_approved_one_by_one(detector, normal, store):
    rows = [theft(normal, dst_ip=f"203.0.113.{n}") for n in (9, 10, 11)]
    flows = pd.concat([normal, *rows], ignore_index=True)
    cases = rank_cases(detector, flows)
    row = cases.iloc[0]
    assert row["addresses"] == 3
    store.judge(cases, row["case"], "false", at=TODAY, **BY)
    assert "payload class not known" in reason_of(store)
    approval = drafted(store, flows=flows, detector=detector)
    assert approval["network"] == ["203.0.113.10", "203.0.113.11", "203.0.113.9"]
    policy = store.suppressions(flows=flows, detector=detector, at=TODAY).policy
    assert rank_cases(detector, flows, policy=policy).attrs["policy"]["approved"] == 1
    fourth = pd.concat([flows, theft(normal, dst_ip="203.0.113.12")], ignore_index=True)
    about = rank_cases(detector, fourth, policy=policy).attrs["policy"]
    assert about["changes"]["destination"] == 1


# Without flows


def test_a_source_without_payload_needs_no_flows(store):
    judged(store, **ADDRESS, up_bytes=1_000_001, first_seen=day(9), last_seen=day(9, 5))
    approval = drafted(store)
    assert approval["payload"] == ["unseen"]
    assert approval["network"] == ["203.0.113.9"]
    assert approval["max_upload_per_day"] == 1_250_002
    assert approval["service"] == ["tcp/8443"]


def day(n, hour=0):
    return pd.Timestamp(2026, 3, n, hour, tz="UTC").as_unit("us")


def test_what_days_share_is_not_given_to_one_of_them(store):
    judged(store, up_bytes=4_000_000, first_seen=day(9, 23), last_seen=day(12, 1))
    assert drafted(store)["max_upload_per_day"] == 1_250_000


def test_a_payload_that_the_table_names_is_taken(store):
    judged(store, capability="payload", payload="tls, opaque")
    assert drafted(store)["payload"] == ["opaque", "tls"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"capability": "payload"}, "payload class not known"),
        ({"direction": "inbound"}, "opened from outside"),
        ({"local_ip": None}, "host or destination not known"),
        ({"local_ip": "nonsense"}, "expected networks"),
        ({"place": None}, "host or destination not known"),
        ({"place": "multicast 224.0.0.251"}, "no host name"),
        ({"dst_port": pd.NA}, "ports change"),
        ({"protocol": 132}, "is no service"),
        ({**ADDRESS, "addresses": 7}, "several addresses"),
        ({"up_bytes": pd.NA}, "not known"),
        ({"payload": "shh", "capability": "payload"}, "did you mean 'ssh'"),
    ],
)
def test_what_cannot_be_approved_is_told(store, tmp_path, changes, text):
    judged(store, **changes)
    found = store.suppressions(at=TODAY)
    assert len(found) == 0
    assert text in found.left_out["reason"].iloc[0]
    assert any(text in line for line in found.lines())
    with pytest.raises(FeedbackError, match="no approval to write"):
        found.write(tmp_path / "draft.toml")
    assert not (tmp_path / "draft.toml").exists()


def test_expired_ones_are_told_and_not_written(store):
    judged(store, at="2026-02-01")
    assert "expired: judged more than 30 days ago" in reason_of(store)
    assert drafted(store, days=60)["expires"] == dt.date(2026, 4, 2)
    for days in (0, 91, 3.5, True):
        with pytest.raises(FeedbackError, match="expected 1 to 90"):
            store.suppressions(days=days)


@pytest.mark.parametrize(
    ("changes", "blocked"),
    [
        ({}, True),
        ({"local_ip": ["10.0.0.1", "10.0.0.2"]}, True),
        ({"dst_port": [443, 8443]}, True),
        ({"place": ["vault.example", "b.vault.example"]}, True),
        ({"local_ip": ["10.0.0.1", "10.0.0.2"], "dst_port": [443, 8443]}, False),
        ({"place": ["vault.example", "other.example"]}, False),
    ],
)
def test_a_theft_to_the_same_destination_blocks(store, changes, blocked):
    same = {"place": "vault.example", "local_ip": "10.0.0.1", "dst_port": 443}
    judged(store, ["true", "false"], protocol=6, **{**same, **changes})
    found = store.suppressions(at=TODAY)
    assert (len(found) == 0) == blocked
    if blocked:
        assert "was judged true" in found.left_out["reason"].iloc[0]


def test_only_judgements_that_count_are_approved(store):
    cases = judged(store, ["false", "false", "true"])
    store.withdraw(cases["case"][0], **BY)
    store.judge(cases, cases["case"][1], "true", **BY)
    store.judge(cases, cases["case"][2], "false", **BY)
    found = store.suppressions()
    assert [case for case, _ in found.approvals] + found.left_out["case"].tolist() == [
        cases["case"][2]
    ]


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from(["true", "false", None]), min_size=8, max_size=8),
    st.integers(0, 4),
)
def test_each_approval_is_of_one_false_judgement_and_no_wider(
    tmp_path_factory, verdicts, seed
):
    folder = tmp_path_factory.mktemp("each")
    store = Feedback(folder / "store")
    store.path.touch()
    cases = ranked(8, seed=seed, hosts=2, places=2)
    store.judge_each(cases, listed(cases, verdicts), analyst="kim", at=TODAY)
    found = store.suppressions(at=TODAY)
    false = {c for c, v in zip(cases["case"], verdicts, strict=True) if v == "false"}
    assert {c for c, _ in found.approvals} | set(found.left_out["case"]) == false
    assert len(found) + len(found.left_out) == len(false)
    by_case = cases.set_index("case")
    thefts = cases[np.array(verdicts) == "true"]
    for (case, _), approval in zip(
        found.approvals, found.policy.approvals, strict=True
    ):
        row = by_case.loc[case]
        assert approval.places == {row["place"]}
        assert approval.hosts.texts == (row["local_ip"],)
        assert len(approval.services) == 1
        assert approval.max_upload_per_day <= row["up_bytes"] * 5 // 4 + 1
        assert approval.expires == dt.date(2026, 5, 1)
        there = thefts[thefts["place"] == row["place"]]
        assert not (there["local_ip"] == row["local_ip"]).any()
        assert not (there["dst_port"] == row["dst_port"]).any()
    if len(found):
        found.write(folder / "draft.toml")
        assert Policy.read(folder / "draft.toml") == found.policy


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=20))
@settings(max_examples=8, deadline=None)
def test_any_text_is_a_text_of_the_draft(tmp_path_factory, reason, analyst):
    folder = tmp_path_factory.mktemp("texts")
    store = Feedback(folder / "store")
    cases = ranked(1)
    try:
        store.judge(
            cases, cases["case"][0], "false", reason=reason, analyst=analyst, at=TODAY
        )
    except FeedbackError:
        return
    store.suppressions(at=TODAY).write(folder / "draft.toml")
    data = tomllib.loads((folder / "draft.toml").read_text(encoding="utf-8"))
    (kept,) = store.latest().to_dict("records")
    assert data["approve"][0]["reason"] == kept["reason"]
    assert data["approve"][0]["owner"] == kept["analyst"]


def test_a_policy_that_a_person_wrote_is_not_written_over(store, tmp_path):
    judged(store)
    found = store.suppressions(at=TODAY)
    policy = tmp_path / "office.toml"
    policy.write_text('home = ["10.0.0.0/8"]\n')
    with pytest.raises(OutputError, match="something else than a draft"):
        found.write(policy)
    assert policy.read_text() == 'home = ["10.0.0.0/8"]\n'
    draft = tmp_path / "draft.toml"
    found.write(draft)
    found.write(draft)
    assert draft.read_text().startswith(MARK)
    with pytest.raises(OutputError, match="cannot be written"):
        found.write(tmp_path / "no" / "folder.toml")
