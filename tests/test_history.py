"""The history store: what it answers equals what plain pandas counts."""

from __future__ import annotations

import ipaddress
import re
import warnings
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sites import office, theft

import exfilml
from exfilml.exceptions import (
    BaselineError,
    DependencyError,
    FlowsError,
    FlowsWarning,
    HistoryError,
    OptionError,
    SiteWarning,
)
from exfilml.features import FlowFeatures
from exfilml.history import _writing
from exfilml.history._asking import GROUPS
from exfilml.history._seen import BY
from exfilml.history._similar import LEAST_SHARED
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.schema import empty_flows, validate_flows

HOSTS = ("10.0.0.1", "10.0.0.2", "fd00::7", "198.51.100.5")
REMOTES = ("203.0.113.9", "203.0.113.77", "2001:db8::1", "10.0.0.2", "224.0.0.1")
# What an attacker may call himself.
NAMES = (
    None,
    "www.example.com",
    "a.example.com",
    "'; DROP TABLE flows; --",
    'quo"te.example',
    "line\nbreak.example",
    "nul\0byte.example",
    "star*[x]?.example",
    "=cmd|'/c calc'!A1",
    "\u202egnp.example",
    "",
)
TIMES = tuple(
    datetime.fromisoformat(text)
    for text in (
        *("1970-01-01", "2026-03-01T23:59:59.999999", "2026-03-02", "2026-03-02T12:00"),
        *("2026-03-02T12:00:00.000001", "2026-03-04T06:00"),
        "2200-12-31T23:59:59.999999",
    )
)
ROW = st.fixed_dictionaries(
    {
        "start": st.sampled_from(TIMES) | st.datetimes(TIMES[1], TIMES[-2]),
        "duration_s": st.none() | st.floats(0, 100),
        "src_ip": st.sampled_from(HOSTS),
        "src_port": st.integers(0, 3),
        "dst_ip": st.sampled_from(REMOTES),
        "dst_port": st.sampled_from((53, 443, 8443, 50_000)),
        "protocol": st.sampled_from((6, 17, 1)),
        "src_bytes": st.integers(0, 3) | st.just(2**53),
        "dst_bytes": st.integers(0, 3) | st.just(2**53),
        "server_name": st.sampled_from(NAMES),
        "fingerprint": st.sampled_from((None, "t13d", "'")),
        "user_agent": st.sampled_from((None, "curl", "\x1b[2J\n")),
        "app": st.sampled_from((None, "TLS")),
        "uid": st.none() | st.text(max_size=3).filter(lambda t: t.isprintable()),
    }
)
TEXTS = ("server_name", "fingerprint", "user_agent", "app", "uid")
COUNTS = ("flows", "days", "hosts", "up_bytes", "down_bytes", "largest_day_up_bytes")
MOST = 2**63 - 1


def table_of(rows) -> pd.DataFrame:
    if not rows:
        return empty_flows()
    flows = pd.DataFrame(rows)
    flows["start"] = pd.to_datetime(flows["start"]).astype("datetime64[us]")
    flows["start"] = flows["start"].dt.tz_localize("UTC")
    flows["duration_s"] = flows["duration_s"].astype(float)
    return validate_flows(flows.astype(dict.fromkeys(TEXTS, "str")))


@st.composite
def adds(draw):
    """Flows, in some tables that are added one after the other."""
    rows = draw(st.lists(ROW, max_size=14))
    # The same flow again, there or elsewhere.
    rows += draw(st.lists(st.sampled_from(rows), max_size=4)) if rows else []
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    ends = zip([0, *cuts], [*cuts, len(rows)], strict=True)
    return [table_of(rows[a:b]) for a, b in ends]


def known(tables) -> pd.DataFrame:
    """Return what a history of these tables has to know, by plain pandas."""
    flows = pd.concat(tables, ignore_index=True)
    same = ["start", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
    flows = flows.drop_duplicates([*same, "src_bytes", "dst_bytes"], ignore_index=True)
    oriented = orient(flows, PRIVATE_NETWORKS)
    columns = [
        column for name, column in GROUPS.items() if name not in {"day", "source"}
    ]
    table = oriented[[*columns, "start", "up_bytes", "down_bytes"]].copy()
    table["source"] = flows["sensor"]
    table["day"] = table["start"].dt.floor("D")
    return table


def counted(rows: pd.DataFrame) -> dict:
    daily = rows.groupby("day")["up_bytes"].apply(lambda c: sum(c.tolist()))
    return {
        "flows": len(rows),
        "days": len(daily),
        "hosts": rows["local_ip"].nunique(),
        "first_seen": rows["start"].min(),
        "last_seen": rows["start"].max(),
        "up_bytes": min(sum(rows["up_bytes"].tolist()), MOST),
        "down_bytes": min(sum(rows["down_bytes"].tolist()), MOST),
        "largest_day_up_bytes": min(daily.max(), MOST),
    }


def as_set(table: pd.DataFrame) -> set:
    """Return the rows of a table, whatever their order; missing is None."""
    return {
        tuple(None if pd.isna(v) else v for v in row)
        for row in table.itertuples(index=False)
    }


@pytest.fixture
def history(tmp_path):
    return exfilml.History.open(tmp_path / "history", create=True)


fast = settings(
    deadline=None,
    max_examples=5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _quiet():
    """Made-up flows are of odd times, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowsWarning)
        yield


@fast
@given(adds(), st.data())
def test_totals_are_those_of_pandas_however_flows_were_added(
    tmp_path_factory, cut, data
):
    """Any split into adds, any grouping, any condition gives the sums of pandas."""
    store = exfilml.History.open(tmp_path_factory.mktemp("h"), create=True)
    told = [store.add(table) for table in cut]
    rows = known(cut)
    assert len(rows) == len(store) == sum(added.added for added in told)
    assert [added.read for added in told] == [len(table) for table in cut]
    assert all(added.known == added.read - added.added for added in told)

    names = st.lists(st.sampled_from(list(GROUPS)), min_size=1, max_size=3, unique=True)
    by = data.draw(names)
    asked = {}
    for name in ("host", "place", "service", "fingerprint", "address"):
        values = sorted(rows[GROUPS[name]].dropna().unique())
        if values and data.draw(st.integers(0, 3)) == 0:
            asked[name] = data.draw(st.sampled_from([*values[:3], values[-1]]))
    for name in ("since", "until"):
        if data.draw(st.integers(0, 3)) == 0:
            asked[name] = pd.Timestamp(data.draw(st.sampled_from(TIMES)), tz="UTC")
    times = asked.get("since"), asked.get("until")
    if None not in times and times[0] >= times[1]:
        with pytest.raises(OptionError, match="nothing lies between"):
            store.query(by=by, **asked)
        return
    found = store.query(by=by, **asked)
    for name, value in asked.items():
        if name == "since":
            rows = rows[rows["start"] >= value]
        elif name == "until":
            rows = rows[rows["start"] < value]
        else:
            rows = rows[(rows[GROUPS[name]] == value).to_numpy(dtype=bool)]
    keys = [name if name == "day" else GROUPS[name] for name in by]
    expected = [
        (*(None if pd.isna(k) else k for k in key), *counted(some).values())
        for key, some in rows.groupby(keys, dropna=False)
    ]
    assert set(expected) == as_set(found)
    assert len(expected) == len(found)
    assert found["up_bytes"].is_monotonic_decreasing


@fast
@given(adds(), st.data())
def test_what_was_seen_is_counted_strictly_before_each_case(
    tmp_path_factory, cut, data
):
    """Every case and question equals a loop over the flows; its own never count."""
    store = exfilml.History.open(tmp_path_factory.mktemp("h"), create=True)
    for table in cut:
        store.add(table)
    rows = known(cut)
    pick = {
        name: st.sampled_from([*rows[name].dropna().unique(), "never seen", "'"])
        for name in ("local_ip", "place", "service", "fingerprint")
    }
    pick["fingerprint"] = st.none() | pick["fingerprint"]
    begins = [*map(pd.Timestamp, TIMES), *rows["start"].dt.tz_localize(None)]
    pick["before"] = st.sampled_from(begins)
    cases = data.draw(st.lists(st.fixed_dictionaries(pick), min_size=1, max_size=6))
    subjects = pd.DataFrame(cases)
    subjects["case"] = [f"{i:010x}" for i in range(len(cases))]
    subjects["before"] = subjects["before"].astype("datetime64[us]")
    subjects["before"] = subjects["before"].dt.tz_localize("UTC")
    found = store.seen(subjects)
    assert found.attrs["since"] == (None if rows.empty else rows["start"].min())
    expected = []
    for row in subjects.itertuples():
        for by, keys in BY.items():
            told = [getattr(row, key) for key in keys]
            if any(pd.isna(value) for value in told):
                expected.append((row.case, by, *[None] * 7))
                continue
            mine = rows["start"] < row.before
            for key, value in zip(keys, told, strict=True):
                mine &= (rows[key] == value).to_numpy(dtype=bool)
            if not mine.any():
                expected.append((row.case, by, 0, 0, 0, None, None, 0, 0))
                continue
            all_of = counted(rows[mine])
            del all_of["down_bytes"]
            expected.append((row.case, by, *all_of.values()))
    assert [
        tuple(None if pd.isna(v) else v for v in row)
        for row in found.itertuples(index=False)
    ] == expected


@fast
@given(adds(), st.integers(1, 400), st.sampled_from(TIMES))
def test_pruning_keeps_the_last_days_and_nothing_else(
    tmp_path_factory, cut, keep, today
):
    store = exfilml.History.open(tmp_path_factory.mktemp("h"), create=True)
    for table in cut:
        store.add(table)
    rows = known(cut)
    first = pd.Timestamp(today, tz="UTC").floor("D") - pd.Timedelta(days=keep - 1)
    left = rows[rows["start"] >= first]
    pruned = store.prune(keep, now=today.replace(tzinfo=UTC))
    assert pruned.flows == len(rows) - len(left)
    assert pruned.days == rows["day"].nunique() - left["day"].nunique()
    assert (pruned.first is None) == left.empty
    assert len(store) == len(left)
    table = store.query(by="day")
    assert table["flows"].sum() == len(left)
    assert set(table["day"]) == set(left["day"])
    on_disk = {path.parent.name for path in store.folder.glob("flows/*/*.parquet")}
    assert on_disk == {f"day={day:%Y-%m-%d}" for day in left["day"]}


@fast
@given(adds(), st.sampled_from(("203.0.113.0/24", "2001:db8::/32", "0.0.0.0/0")))
def test_networks_hold_what_the_standard_library_says(tmp_path_factory, cut, cidr):
    store = exfilml.History.open(tmp_path_factory.mktemp("h"), create=True)
    store.add(cut)
    rows, network = known(cut), ipaddress.ip_network(cidr)
    inside = [ipaddress.ip_address(text) in network for text in rows["remote_ip"]]
    found = store.query(cidr=cidr, by="address")
    assert found["flows"].sum() == sum(inside)
    assert set(found["address"]) == set(rows["remote_ip"][inside])


def test_an_address_is_the_same_however_it_is_written(history):
    flow = {**office(1).iloc[0].to_dict(), "src_ip": "fd00::7", "dst_ip": "2001:db8::1"}
    history.add(validate_flows(pd.DataFrame([flow])))
    for text in ("2001:db8::1", "2001:DB8:0::1", "2001:db8::/127"):
        assert history.query(cidr=text)["flows"].tolist() == [1]
    assert history.query(address="2001:0db8::1", host="FD00:0::7")["flows"].sum() == 1


def test_many_small_adds_are_merged_and_lose_nothing(history, monkeypatch):
    """Files of a day grow with the logarithm of the adds, not with their number."""
    flows = office(1_000, days=1)
    for begin in range(0, 1_000, 20):
        history.add(flows.iloc[begin : begin + 20])
    assert len(list(history.folder.rglob("*.parquet"))) < 3 * _writing.MOST_ALIKE
    rows = known([flows])
    found = history.query(by="host")
    assert found["up_bytes"].sum() == rows["up_bytes"].sum()
    assert found["flows"].sum() == len(rows) == len(history)
    assert history.add(flows).added == 0


def test_adding_the_same_again_adds_nothing_and_says_so(history):
    flows = office(300)
    assert str(history.add(flows)) == "300 of 300 flows added"
    again = history.add(pd.concat([flows, theft(flows)]).sample(frac=1, random_state=0))
    assert (again.read, again.added, again.known) == (301, 1, 300)
    assert "1 of 301 flows added, 300 were known" in str(again)


def test_an_add_is_all_or_nothing(history):
    history.add(office(100))

    def tables():
        yield office(100, seed=1)
        raise BaselineError("the source broke off")

    with pytest.raises(BaselineError, match="broke off"):
        history.add(tables())
    with pytest.raises(FlowsError):
        history.add([office(100, seed=2), pd.DataFrame({"a": [1]})])
    assert len(history) == 100
    stands = sum(len(pd.read_parquet(p)) for p in history.folder.rglob("*.parquet"))
    assert stands == 100, "no file is left behind"


def test_no_flows_are_no_error(history):
    for nothing in ([], empty_flows(), [empty_flows()]):
        added = history.add(nothing)
        assert (added.read, added.added, added.known) == (0, 0, 0)
    assert len(history) == 0
    assert str(history) == "no flows"
    assert len(history.days) == 0
    assert len(history.query()) == 0
    subjects = pd.DataFrame(
        {
            "case": ["a"],
            "local_ip": ["10.0.0.1"],
            "place": ["x"],
            "service": ["https"],
            "fingerprint": pd.array([None], "str"),
            "before": pd.DatetimeIndex(["2026-01-01"], tz="UTC").as_unit("us"),
        }
    )
    found = history.seen(subjects)
    assert found["flows"].tolist() == [0, 0, 0, 0, 0, pd.NA]
    assert found.attrs["since"] is None
    assert len(history.seen(subjects.iloc[:0])) == 0
    assert history.prune(1).flows == 0


def test_forged_times_do_not_fill_the_disk_with_days(history, monkeypatch):
    monkeypatch.setattr(_writing, "MOST_DAYS", 20)
    flows = office(200, days=300)
    with pytest.raises(HistoryError, match="at most 20: a clock is wrong"):
        history.add(flows)
    assert len(history) == 0
    assert list(history.folder.rglob("*.parquet")) == []


def test_home_networks_are_recorded_and_kept(tmp_path):
    folder = tmp_path / "h"
    store = exfilml.History.open(folder, create=True, home="198.51.100.0/24")
    assert exfilml.History.open(folder).home == ("198.51.100.0/24",)
    assert exfilml.History.open(folder, home=["198.51.100.7/24"]).home == store.home
    with pytest.raises(HistoryError, match=r"--home 198\.51\.100\.0/24\), or make"):
        exfilml.History.open(folder, create=True, home="10.0.0.0/8")
    detector = exfilml.Detector(n_estimators=40, random_state=0).fit(office(200))
    with pytest.raises(HistoryError, match="the model's are 10"):
        store.add(office(10), detector)
    with pytest.warns(SiteWarning, match=r"Only 0 of 200 flows .* \(198"):
        store.add(office(200))


def test_options_that_are_none_are_refused(history):
    for bad, said in (
        ({"by": "hosts"}, "expected one or more of host"),
        ({"by": []}, "expected one or more"),
        ({"by": ["host", "host"]}, "each once"),
        ({"limit": 0}, "1 or more"),
        ({"cidr": "example.net"}, "expected an address or a network"),
        ({"host": "x"}, "host='x'"),
        ({"since": "yesterday"}, "since"),
        ({"since": 7}, "expected dates or times"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "nothing lies between"),
    ):
        with pytest.raises(OptionError, match=said):
            history.query(**bad)
    for keep in (None, 0, -1, True):
        with pytest.raises(OptionError):
            history.prune(keep)
    for bad in (None, pd.DataFrame({"case": ["a"]})):
        with pytest.raises(OptionError, match="subjects: "):
            history.seen(bad)
    columns = ("case", "local_ip", "place", "service", "fingerprint", "before")
    with pytest.raises(OptionError, match="expected times with a zone"):
        history.seen(pd.DataFrame({c: ["a"] for c in columns}))


def test_without_duckdb_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(DependencyError, match=r"pip install 'exfilml\[triage\]'"):
        exfilml.History.open(tmp_path / "h", create=True)


@pytest.fixture(scope="module")
def scored():
    """A detector, and a day with two thefts that look alike."""
    detector = exfilml.Detector(n_estimators=40, random_state=0).fit(office(1_500))
    day = office(300, seed=5, days=1, first_day="2026-03-09")
    other = theft(day, src_ip="10.20.0.14", dst_ip="203.0.113.77")
    day = pd.concat([day, theft(day), other], ignore_index=True)
    return detector, day.sort_values("start", ignore_index=True)


def patterns_of(store) -> pd.DataFrame:
    parts = [pd.read_parquet(p) for p in store.folder.glob("patterns/*/*.parquet")]
    return pd.concat(parts).sort_values(["case", "start"], ignore_index=True)


def test_a_pattern_is_the_worst_flow_of_a_case(history, scored):
    """Suspicion and alert are those of the ranking; evidence, that of the flow."""
    detector, day = scored
    assert history.add(day, detector).patterns == len(patterns_of(history))
    rows = patterns_of(history).set_index("case")
    ranking = exfilml.rank_cases(detector, day).set_index("case")
    assert sorted(rows.index) == sorted(ranking.index)
    rows = rows.loc[ranking.index]
    np.testing.assert_allclose(rows["suspicion"], ranking["suspicion"], rtol=1e-12)
    assert rows["alerted"].tolist() == ranking["alert"].tolist()
    assert ranking["alert"].sum() >= 2
    assert rows["local_ip"].tolist() == ranking["local_ip"].tolist()
    score = detector.score(day)
    features = detector.learned_["payload"].features
    evidence = features.matrix(score.asked)[score.worst]
    names = [f"{k >> 24:010x}" for k in score.case_key[score.worst].tolist()]
    stored = rows.loc[names, [f"evidence_{name}" for name in features.names]]
    np.testing.assert_array_equal(stored.to_numpy(), evidence)


def test_a_case_of_several_days_has_a_pattern_for_each(history, scored):
    """The worst of its days is as suspicious as the case is in the ranking."""
    detector, _ = scored
    days = office(300, seed=5, days=4, first_day="2026-03-09")
    history.add(days, detector)
    rows = patterns_of(history)
    ranking = exfilml.rank_cases(detector, days).set_index("case")
    every = exfilml.rank_flows(detector, days)
    assert len(rows) == len(every.groupby(["case", every["start"].dt.floor("D")]))
    assert len(rows) > len(ranking)
    by_case = rows.groupby("case")[["suspicion", "alerted"]].max().loc[ranking.index]
    np.testing.assert_allclose(by_case["suspicion"], ranking["suspicion"], rtol=1e-12)
    assert by_case["alerted"].tolist() == ranking["alert"].tolist()


def test_patterns_do_not_depend_on_how_flows_come(tmp_path, scored):
    """Hour by hour or at once, once or twice: the same case-days."""
    detector, day = scored
    at_once = exfilml.History.open(tmp_path / "a", create=True)
    at_once.add(day, detector)
    by_hour = exfilml.History.open(tmp_path / "b", create=True)
    hours = [table for _, table in day.groupby(day["start"].dt.floor("h"))]
    by_hour.add(hours, detector)
    expected = patterns_of(at_once)
    pd.testing.assert_frame_equal(patterns_of(by_hour), expected, rtol=1e-9)
    at_once.add(day, detector)
    pd.testing.assert_frame_equal(patterns_of(at_once), expected)


def test_what_looks_alike_is_found_and_explained(history, scored):
    detector, day = scored
    history.add(day, detector)
    ranking = exfilml.rank_cases(detector, day)
    case, other = ranking["case"][:2]
    found = history.similar(case, n=5)
    assert found["case"][0] == other
    assert bool(found["alerted"][0])
    assert found["distance"].is_monotonic_increasing
    assert case not in set(found["case"])
    # Distances by hand, over the columns that both show.
    rows = patterns_of(history).set_index("case")
    features = FlowFeatures(payload=True)
    columns = [f"evidence_{n}" for n in features.names if f"evidence_{n}" in rows]
    unit = [
        w
        for n, w in zip(features.names, features.worth_telling, strict=True)
        if f"evidence_{n}" in rows
    ]
    mine = rows.loc[case, columns].to_numpy(dtype=float)
    asked = np.isfinite(mine).sum()
    for row in found.itertuples():
        apart = (rows.loc[row.case, columns].to_numpy(dtype=float) - mine) / unit
        shared = np.isfinite(apart)
        assert shared.sum() >= LEAST_SHARED * asked
        far = np.sqrt(np.nansum(apart**2) * asked / shared.sum())
        assert row.distance == pytest.approx(far, abs=1e-6)
    for row in found.itertuples():
        for text in (row.agrees, row.differs):
            for name, ours, theirs in re.findall(
                r"(\w+) (\S+) (?:and|against) (\S+)", text
            ):
                assert ours == f"{rows.loc[case, 'evidence_' + name]:.1f}"
                assert theirs == f"{rows.loc[row.case, 'evidence_' + name]:.1f}"
    assert "bare_volume" in found["agrees"][0]
    assert "bare_volume" in found["differs"][2]
    # Evidence of a case that is not in the store.
    evidence = rows.loc[case, columns].rename(lambda c: c.removeprefix("evidence_"))
    by_evidence = history.similar(evidence=evidence, n=2)
    assert by_evidence["case"].tolist() == [case, other]
    assert by_evidence["distance"][0] == pytest.approx(0.0, abs=1e-6)


def test_other_models_and_unknown_cases_are_no_neighbours(history, scored):
    detector, day = scored
    with pytest.raises(OptionError, match="the history has no patterns"):
        history.similar("0123456789")
    history.add(day, detector)
    with pytest.raises(OptionError, match="no pattern of it"):
        history.similar("0123456789")
    case = exfilml.rank_cases(detector, day)["case"][0]
    before = history.similar(case, n=100)
    another = exfilml.Detector(n_estimators=40, random_state=0).fit(office(500, seed=9))
    history.add(day, another)
    now = history.similar(case, n=100)
    assert len(set(now["model"])) == 1
    assert len(history.similar(evidence={"bare_host": 3.0}, n=10_000)) > len(before)
    for bad in ({"case": case, "evidence": {}}, {}, {"case": case, "n": 0}):
        with pytest.raises(OptionError):
            history.similar(**bad)
    with pytest.raises(OptionError, match="no such features: nonsense"):
        history.similar(evidence={"nonsense": 1.0})
    with pytest.raises(OptionError, match="expected numbers"):
        history.similar(evidence={"bare_host": "much"})


def test_volumes_alone_have_patterns_too(history):
    detector = exfilml.Detector(n_estimators=40, random_state=0).fit(
        office(1_500, payload=False)
    )
    day = office(300, seed=5, days=2, first_day="2026-03-09", payload=False)
    day = pd.concat([day, theft(day)], ignore_index=True).sort_values("start")
    history.add(day, detector)
    case = exfilml.rank_cases(detector, day)["case"][0]
    assert len(history.similar(case, n=3)) == 3
