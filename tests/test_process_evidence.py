"""Processes in models: learned, judged, and said; silent where nothing shows them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from host_logs import lines, sysmon
from sites import office, theft

from exfilml import (
    Detector,
    add_processes,
    case_context,
    load_model,
    rank_cases,
    read_host_events,
    save_model,
    score_flows,
)
from exfilml.cli import app
from exfilml.schema import validate_flows

PROGRAMS = {
    443: r"C:\Program Files\Browser\{v}\browser.exe",
    80: r"C:\Program Files\Browser\{v}\browser.exe",
    53: r"C:\Windows\System32\svchost.exe",
    22: r"C:\Program Files\PuTTY\putty.exe",
    25: r"C:\Users\{user}\AppData\Local\Mail\mail.exe",
}
PLANTED_PORT = 61_000
PLANTED = r"C:\Users\ann\AppData\Local\Temp\rclone.exe"
MODELS = {"random_state": 0, "n_estimators": 30}


def logged(flows: pd.DataFrame, *, share: float = 1.0, seed: int = 0) -> str:
    """Sysmon's log of a part of the flows' connections, just before each."""
    rng = np.random.default_rng(seed)
    records = []
    for row in flows[rng.random(len(flows)) < share].itertuples():
        image = PROGRAMS.get(row.dst_port, "").format(
            v=f"120.0.{rng.integers(99)}.{rng.integers(99)}",
            user=f"user{row.src_ip.rpartition('.')[2]}",
        )
        if row.src_port == PLANTED_PORT:
            image = PLANTED
        at = row.start - pd.Timedelta(milliseconds=int(rng.integers(300)))
        records.append(
            sysmon(
                at=f"{at:%Y-%m-%d %H:%M:%S.%f}"[:-3], host=f"ws-{row.src_ip}",
                Image=image, SourceIp=row.src_ip, SourcePort=row.src_port,
                DestinationIp=row.dst_ip, DestinationPort=row.dst_port,
                Protocol="tcp" if row.protocol == 6 else "udp",
            )
        )  # fmt: skip
    return lines(*records)


def planted(flows: pd.DataFrame) -> pd.DataFrame:
    """A small upload over TLS to a place that the site knows, by a program of its own."""
    web = flows[(flows["dst_port"] == 443) & (flows["src_ip"] == "10.20.0.12")]
    row = web.iloc[[0]].copy()
    row["src_bytes"] += 26_000
    row["src_payload_bytes"] += 25_000
    row["src_port"] = PLANTED_PORT
    row["start"] += pd.Timedelta(minutes=5)
    return row


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """A baseline, a day with a theft, and what hosts logged of both."""
    folder = tmp_path_factory.mktemp("hosts")
    baseline = office(3000, days=6)
    today = office(500, seed=9, days=1, first_day="2026-03-09")
    stolen = planted(today)
    today = pd.concat([today, stolen], ignore_index=True)
    (folder / "before.json").write_text(logged(baseline))
    text = logged(today, seed=1)
    first = stolen["start"].iloc[0] - pd.Timedelta(minutes=4)
    packed = sysmon(
        1, at=f"{first:%Y-%m-%d %H:%M:%S.000}", host="ws-10.20.0.12",
        Image=r"C:\t\rar.exe", CommandLine=r"rar.exe a -hpX C:\t\d.rar C:\docs",
    )  # fmt: skip
    (folder / "today.json").write_text(text + lines(packed))
    baseline.to_parquet(folder / "before.parquet")
    today.to_parquet(folder / "today.parquet")
    before = read_host_events(folder / "before.json")
    now = read_host_events(folder / "today.json")
    return baseline, today, before, now, folder


@pytest.fixture(scope="module")
def informed(days):
    baseline, _, before, _, _ = days
    return Detector(**MODELS).fit(add_processes(baseline, before))


@pytest.fixture(scope="module")
def blind(days):
    return Detector(**MODELS).fit(days[0])


def rank_of(cases: pd.DataFrame, today: pd.DataFrame) -> int:
    stolen = today.iloc[-1]
    mine = (cases["local_ip"] == stolen["src_ip"]) & (cases["dst_port"] == 443)
    mine &= cases["up_bytes"] >= stolen["src_bytes"]
    return int(cases.loc[mine, "rank"].min())


def test_a_small_upload_by_a_new_process_rises_and_says_why(days, informed, blind):
    """The same flows, with what hosts logged and without."""
    _, today, _, now, _ = days
    named = add_processes(today, now)
    assert named["process"].notna().all()
    cases = rank_cases(informed, named)
    without = rank_of(rank_cases(blind, today), today)
    with_events = rank_of(cases, today)
    print(f"rank of the planted upload: {without} without host events, {with_events}")
    assert with_events == 1
    assert without > 3
    top = cases.iloc[0]
    assert (
        r"process c:\users\*\appdata\local\temp\rclone.exe never used the network here "
        "(0 of 10 hosts)"
    ) in top["reasons"]
    assert "process" not in top["not_visible"]
    told = case_context(cases.head(1), now)
    assert r"rar.exe a -hpX C:\t\d.rar C:\docs" in told["context"][0]


def test_usual_processes_are_no_evidence(days, informed):
    """Versions and users differ from day to day, and the name does not."""
    _, today, _, now, _ = days
    usual = add_processes(today, now).iloc[:-1]
    explained = informed.explain(usual)["process"]
    scores = informed.score_samples(usual)
    unnamed = informed.score_samples(usual.assign(process=pd.NA))
    assert explained["process"].abs().max() < 1e-9
    assert np.array_equal(scores, unnamed)


def test_where_nothing_shows_processes_all_is_as_it_was(days, blind):
    """The forest, the columns, and the scores of flows that do show one."""
    _, today, _, now, _ = days
    names = blind.learned_["payload"].features.names
    assert "process" not in names
    assert "new_process" in names
    named = score_flows(blind, add_processes(today, now))
    plain = score_flows(blind, today)
    assert np.array_equal(named["suspicion"], plain["suspicion"])
    assert named["not_visible"].str.contains("process").all()


def test_a_model_that_knows_processes_asks_the_new_feature_alone(informed):
    for name in ("payload", "volume"):
        learned = informed.learned_[name]
        assert "process" in learned.features.names
        assert "new_process" not in learned.features.names
        # The forest does not see it: a forest would isolate what few hosts show.
        assert learned.forest.n_features_in_ == len(learned.features.names) - 1


def test_a_flow_without_a_process_cannot_be_judged(days, informed):
    _, today, _, now, _ = days
    named = add_processes(today, now)
    hidden = named.assign(process=named["process"].where(named.index % 2 == 0))
    table = score_flows(informed, hidden)
    told = table["not_visible"].str.contains("process")
    assert np.array_equal(told, hidden["process"].isna())
    asked = informed.score(hidden).asked
    evidence = informed.learned_["payload"].features.table(asked)["process"]
    assert np.array_equal(evidence.isna(), hidden["process"].isna())


def test_hosts_that_report_are_not_isolated_for_it(days):
    """Two of ten hosts report processes: their usual flows score as the others'."""
    baseline, today, before, now, _ = days
    few = ["10.20.0.12", "10.20.0.13"]
    detector = Detector(**MODELS).fit(
        add_processes(baseline, before[before["local_ip"].isin(few)])
    )
    named = add_processes(today.iloc[:-1], now)
    reports = named["src_ip"].isin(few).to_numpy()
    scores = detector.score_samples(named)
    unnamed = detector.score_samples(named.assign(process=pd.NA))
    assert np.array_equal(scores[reports], unnamed[reports])
    # Of the others nothing is known, and what the two use is no surprise.
    asked = detector.score(named).asked
    evidence = detector.learned_["payload"].features.table(asked)["process"]
    assert evidence[~reports].max() < 2.0
    stolen = add_processes(today, now).iloc[[-1]]
    blind = detector.score_samples(stolen.assign(process=pd.NA))
    assert detector.score_samples(stolen)[0] < blind[0] - 2.0


@pytest.mark.parametrize(
    "shown", ["tables", "training", "calibration", "without payload", "few"]
)
def test_processes_that_only_a_part_of_the_baseline_shows(days, shown, tmp_path):
    """Whatever part that is, a model comes of it, is stored, and scores."""
    baseline, today, before, now, _ = days
    named = add_processes(baseline, before)
    row = np.arange(len(named)) / len(named)
    bare = (row > 0.45) & (row < 0.6)
    part = {
        "tables": row < 0.3,
        "training": (row > 0.45) & (row < 0.6),
        "calibration": row > 0.75,
        "without payload": (row < 0.3) | bare,
        "few": (row < 0.002) | ((row > 0.45) & (row < 0.452)),
    }[shown]
    named["process"] = named["process"].where(part)
    if shown == "without payload":
        # Where the forest is trained, only flows without payload show processes.
        named["src_sampled_bytes"] = named["src_sampled_bytes"].mask(bare)
    detector = Detector(**MODELS).fit(named)
    save_model(detector, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    flows = add_processes(today, now)
    scores = detector.score_samples(flows)
    assert np.array_equal(loaded.score_samples(flows), scores)
    # Where the forest is trained on flows that show none, nothing is asked of them.
    knows = shown in {"training", "without payload", "few"}
    for learned in detector.learned_.values():
        assert ("process" in learned.features.names) == knows
    if knows:
        unnamed = detector.score_samples(flows.assign(process=pd.NA))
        assert scores[-1] < unnamed[-1]


def test_explanations_sum_up_with_processes(days, informed):
    _, today, _, now, _ = days
    named = add_processes(today, now)
    for exact in (True, False):
        explained = informed.explain(named, exact=exact)
        suspicion = -informed.score_samples(named)
        assert np.abs(explained.sum(axis=1) - suspicion).max() < 1e-9
    assert informed.explain(named)["process"]["process"].iloc[-1] > 2.0


def test_a_model_file_keeps_what_was_learned_of_processes(days, informed, tmp_path):
    _, today, _, now, _ = days
    named = add_processes(today, now)
    save_model(informed, tmp_path / "a.exfilml")
    loaded = load_model(tmp_path / "a.exfilml")
    assert np.array_equal(loaded.score_samples(named), informed.score_samples(named))
    save_model(loaded, tmp_path / "b.exfilml")
    first, second = (tmp_path / f"{name}.exfilml" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_stream_teaches_the_same_model(days, informed, tmp_path):
    baseline, _, before, _, _ = days
    parts = [baseline.iloc[k : k + 700] for k in range(0, len(baseline), 700)]
    streamed = Detector(**MODELS).fit_stream(
        (add_processes(part, before) for part in parts), len(baseline)
    )
    for name, detector in (("whole", informed), ("parts", streamed)):
        save_model(detector, tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_an_update_teaches_a_model_processes_that_it_did_not_know(days, tmp_path):
    """And goes on with those that it did."""
    baseline, today, _, now, _ = days
    later = office(1500, seed=4, days=4, first_day="2026-03-09")
    path = tmp_path / "later.json"
    path.write_text(logged(later, seed=2))
    named = add_processes(later, read_host_events(path))
    detector = Detector(**MODELS).fit(baseline).update([named], len(named))
    assert "process" in detector.learned_["volume"].features.names
    stolen = add_processes(today, now).iloc[[-1]]
    blind = detector.score_samples(stolen.assign(process=pd.NA))
    assert detector.score_samples(stolen)[0] < blind[0] - 2.0


def test_more_upload_by_a_new_process_is_never_less_suspicious(days, informed):
    _, today, _, now, _ = days
    stolen = add_processes(today, now).iloc[[-1]]
    sizes = [100, 10**4, 10**5, 10**6, 10**7, 10**8]
    scores = [
        informed.score_samples(
            validate_flows(stolen.assign(src_bytes=up, src_payload_bytes=up))
        )[0]
        for up in sizes
    ]
    assert (np.diff(scores) <= 1e-9).all()
    # What hardly uploads is no theft, whoever opened it.
    few = theft(today, up=0).assign(process="new")
    assert informed.explain(few)["process"]["process"].iloc[0] == 0.0


def test_the_command_line_takes_logs_of_hosts(days):
    """Train, rank and store flows with the logs; the theft comes first, with context."""
    folder = days[-1]

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        return result

    model = folder / "office.exfilml"
    trained = run("train", folder / "before.parquet", "--model", model, "--quiet",
                  "--host-events", folder / "before.json")  # fmt: skip
    assert "3,000 of 3,000 flows have a process (3,000 by connection)" in trained.stderr
    events = ("--host-events", folder / "today.json")
    ranked = run("rank", folder / "today.parquet", "--model", model, *events,
                 "--top", 1, "--quiet")  # fmt: skip
    said = " ".join(ranked.stdout.split())
    assert r"rclone.exe never used the network here (0 of 10 hosts)" in said
    assert r"on the host:" in said
    assert r"rar.exe a -hpX C:\t\d.rar C:\docs" in said
    row = json.loads(
        run("rank", folder / "today.parquet", "--model", model, *events,
            "--top", 1, "--format", "jsonl", "--quiet").stdout
    )  # fmt: skip
    assert "rar.exe" in row["context"]
    out = folder / "flows.parquet"
    run("flows", folder / "today.parquet", "--out", out, *events, "--quiet")
    stored = pd.read_parquet(out)
    assert stored["process"].notna().sum() == 501
    # The same log, of which the command line says where it is from.
    address = ("--host-events", f"10.20.0.12={folder / 'today.json'}")
    run("flows", folder / "today.parquet", "--out", out, *address, "--quiet")
    log = str(folder / "today.json")
    for given, place, said in (
        (str(folder / "none.json"), str(folder / "x.json"), "no such file or folder"),
        (log, log, "is another file of this command"),
    ):
        bad = CliRunner().invoke(
            app, ["rank", str(out), "--host-events", given, "--out", place, "--quiet"]
        )
        assert said in f"{bad.output} {bad.exception}"
        assert (folder / "today.json").stat().st_size > 10_000
