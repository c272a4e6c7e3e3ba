"""From logs to ranked cases: the commands, and what they say they could not see."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from logs import conn, json_lines, zeek_tsv
from sites import office, theft

import exfilml
from exfilml import cli
from exfilml.exceptions import ExfilmlError

REAL = os.environ.get("EXFILML_REAL_DATA")


@pytest.fixture
def run(capfd):
    """Run a command; return its status and what it printed."""

    def call(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def as_zeek(flows: pd.DataFrame) -> list[dict[str, object]]:
    """Give a flows table's rows as Zeek would have logged them."""
    return [
        conn(
            ts=row.start.timestamp(),
            uid=f"C{at}",
            id__orig_h=row.src_ip,
            id__orig_p=row.src_port,
            id__resp_h=row.dst_ip,
            id__resp_p=row.dst_port,
            proto={6: "tcp", 17: "udp"}[row.protocol],
            service=None,
            duration=row.duration_s,
            orig_bytes=None,
            resp_bytes=None,
            conn_state=None,
            history=None,
            orig_pkts=row.src_packets,
            resp_pkts=row.dst_packets,
            orig_ip_bytes=row.src_bytes,
            resp_ip_bytes=row.dst_bytes,
        )
        for at, row in enumerate(flows.itertuples())
    ]


def write_zeek(folder: Path, flows: pd.DataFrame) -> None:
    """Write a conn.log and the ssl.log that knows its names."""
    folder.mkdir()
    (folder / "conn.log").write_bytes(zeek_tsv(as_zeek(flows)))
    names = flows["server_name"].reset_index(drop=True).dropna()
    fields = {"ts": "time", "uid": "string", "server_name": "string"}
    rows = [{"ts": 1.0, "uid": f"C{at}", "server_name": n} for at, n in names.items()]
    (folder / "ssl.log").write_bytes(zeek_tsv(rows, path="ssl", fields=fields))


def test_a_theft_in_a_conn_log_comes_first_and_says_what_was_not_visible(tmp_path, run):
    week = office(3000, payload=False)
    today = office(600, payload=False, seed=1, days=1, first_day="2026-03-09")
    today = pd.concat([today, theft(today)], ignore_index=True)
    write_zeek(tmp_path / "week", week)
    write_zeek(tmp_path / "today", today)
    model = tmp_path / "office.exfilml"
    status, _, err = run("train", tmp_path / "week", "--model", model, "--quiet")
    assert (status, "3,000 flows" in err) == (0, True), err
    status, out, err = run(
        *("rank", tmp_path / "today", "--model", model, "--format", "jsonl", "--quiet")
    )
    assert status == 0, err
    first = json.loads(out.splitlines()[0])
    assert (first["dst_ip"], first["dst_port"]) == ("203.0.113.9", 8443)
    assert first["not_visible"] == "payload, application, process"
    assert first["capability"] == "packets"


def test_a_log_ranks_as_the_flows_it_was_written_of(tmp_path):
    week, later = (
        office(2000, payload=False, seed=at, first_day=day).assign(
            conn_state="established"
        )
        for at, day in enumerate(("2026-03-02", "2026-03-09"))
    )
    write_zeek(tmp_path / "later", later)
    read = exfilml.read_flows(tmp_path / "later")
    detector = exfilml.Detector(random_state=0).fit(week)
    shown = ["suspicion", "local_ip", "place", "dst_port", "up_bytes"]
    pd.testing.assert_frame_equal(
        exfilml.rank_cases(detector, read, top=20)[shown],
        exfilml.rank_cases(detector, later, top=20)[shown],
    )


def test_patterns_standard_input_and_zones(tmp_path, run, monkeypatch):
    for name in ("conn.1.log", "conn.2.log", "conn.x.txt"):
        (tmp_path / name).write_bytes(zeek_tsv([conn(uid=name)]))
    out = tmp_path / "flows.parquet"
    assert run("flows", tmp_path / "conn.*.log", "--out", out, "-q")[0] == 0
    assert exfilml.read_flows(out)["uid"].tolist() == ["conn.1.log", "conn.2.log"]

    status, _, err = run("flows", tmp_path / "*.none", "--out", out)
    assert (status, "no file matches" in err) == (2, True)

    class Given:
        buffer = io.BytesIO(json_lines([conn(uid="piped")]))

    monkeypatch.setattr(sys, "stdin", Given)
    assert run("flows", "-", "--out", out, "-q")[0] == 0
    assert exfilml.read_flows(out)[["uid", "sensor"]].values.tolist() == [
        ["piped", "stdin"]
    ]

    text = (
        "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows\n"
    )
    text += "2023-07-14 12:00:00.250,1.5,TCP,10.0.0.5,40000,203.0.113.7,443,8,1328,1\n"
    (tmp_path / "flows.csv").write_text(text)
    status, _, err = run("flows", tmp_path / "flows.csv", "--out", out, "-q")
    assert (status, "--timezone" in err) == (2, True)
    zone = ("--timezone", "Europe/Prague")
    assert run("flows", tmp_path / "flows.csv", "--out", out, "-q", *zone)[0] == 0
    assert exfilml.read_flows(out)["start"][0].hour == 10
    status, _, err = run(
        "flows", tmp_path / "flows.csv", "--out", out, "--timezone", "x"
    )
    assert (status, "no such time zone" in err) == (2, True)


def test_a_model_is_trained_on_local_times_where_the_zone_is_given(tmp_path, run):
    """From a spool too, which does not take one zone's flows for another's."""
    text = "ts,td,pr,sa,sp,da,dp,ipkt,ibyt,fl\n"
    for at in range(200):
        text += (
            f"2023-07-{1 + at // 20:02d} 12:{at % 20:02d}:00,1.5,TCP,10.0.0.5,40000,"
            f"203.0.113.{at % 7},443,8,{1000 + at},1\n"
        )
    (tmp_path / "flows.csv").write_text(text)
    model, spool = tmp_path / "m.exfilml", tmp_path / "spool"
    asked = ("train", tmp_path / "flows.csv", "--model", model, "-q", "--spool", spool)
    status, _, err = run(*asked)
    assert (status, "--timezone" in err, model.exists()) == (2, True, False)
    for zone, hour in (("Europe/Prague", 10), ("UTC", 12)):
        status, _, err = run(*asked, "--timezone", zone)
        assert status == 0, err
        first, _ = exfilml.load_model(model).window_
        assert first.hour == hour


real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


@real
def test_every_file_of_the_real_logs_is_read_or_refused_with_its_name():
    read, refused = 0, []
    for path in sorted((Path(REAL) / "logs").rglob("*")):
        if not path.is_file():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                exfilml.read_flows(path, timezone="Europe/Prague")
                read += 1
            except ExfilmlError as error:
                refused.append((str(path), str(error)))
    assert read > 30
    assert len(refused) > 30
    assert [error for path, error in refused if path not in error] == []


@real
def test_real_zeek_logs_train_and_rank(tmp_path, run):
    logs = Path(REAL) / "logs" / "zeek"
    model = tmp_path / "real.exfilml"
    train, rank = (
        logs / "stratosphere-008-zeek-mixed",
        logs / "slips-test9-mixed-zeek-dir",
    )
    status, _, err = run("train", train, "--model", model, "--quiet")
    assert status == 0, err
    status, out, err = run(
        "rank", rank, "--model", model, "--format", "jsonl", "--by", "flow", "--quiet"
    )
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 576
    assert all(row["not_visible"].startswith("payload") for row in rows)
    named = [row for row in rows if row["app"]]
    assert named
    assert all("application" not in row["not_visible"] for row in named)
