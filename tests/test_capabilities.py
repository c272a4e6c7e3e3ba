"""One model of captures, Zeek, nfdump and Suricata together: each row by what it shows.

A capture is read, and what it holds is written again as each of the others would have
logged it, on days of its own.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from logs import conn, zeek_tsv

import exfilml
from exfilml import cli
from exfilml.exceptions import CapabilityWarning
from exfilml.schema import capability

SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"
NAMES = {1: "ICMP", 6: "TCP", 17: "UDP"}
NFDUMP = "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows"
PAYLOAD = "payload"


def later(flows, days):
    flows = flows[flows["protocol"].isin(NAMES)].reset_index(drop=True)
    return flows.assign(start=flows["start"] + pd.Timedelta(days=days))


def write_zeek(path, flows):
    rows = [
        conn(
            ts=row.start.timestamp(),
            uid=f"C{at}",
            id__orig_h=row.src_ip,
            id__orig_p=row.src_port,
            id__resp_h=row.dst_ip,
            id__resp_p=row.dst_port,
            proto=NAMES[row.protocol].lower(),
            service="ssl" if row.dst_port == 443 else None,
            duration=row.duration_s,
            orig_bytes=None,
            resp_bytes=None,
            orig_pkts=row.src_packets,
            resp_pkts=row.dst_packets,
            orig_ip_bytes=row.src_bytes,
            resp_ip_bytes=row.dst_bytes,
        )
        for at, row in enumerate(flows.itertuples())
    ]
    path.write_bytes(zeek_tsv(rows))


def write_nfdump(path, flows):
    lines = [NFDUMP]
    for row in flows.itertuples():
        begin = f"{row.start:%Y-%m-%d %H:%M:%S}.{row.start.microsecond // 1000:03}"
        there = (row.src_ip, row.src_port, row.dst_ip, row.dst_port)
        for ends, sent in (
            (there, (row.src_packets, row.src_bytes)),
            (there[2:] + there[:2], (row.dst_packets, row.dst_bytes)),
        ):
            if sent[0]:
                parts = (begin, f"{row.duration_s:.3f}", NAMES[row.protocol], *ends)
                lines.append(",".join(map(str, (*parts, *sent, 1))))
    path.write_text("\n".join(lines) + "\n")


def write_eve(path, flows):
    def stamp(time):
        return f"{time:%Y-%m-%dT%H:%M:%S.%f}+0000"

    rows = []
    for at, row in enumerate(flows.itertuples()):
        end = row.start + pd.Timedelta(seconds=row.duration_s)
        about = {
            "pkts_toserver": row.src_packets,
            "pkts_toclient": row.dst_packets,
            "bytes_toserver": row.src_bytes + 14 * row.src_packets,
            "bytes_toclient": row.dst_bytes + 14 * row.dst_packets,
            "start": stamp(row.start),
            "end": stamp(end),
        }
        rows.append(
            {
                "timestamp": stamp(end),
                "flow_id": at + 1,
                "event_type": "flow",
                "src_ip": row.src_ip,
                "src_port": row.src_port,
                "dest_ip": row.dst_ip,
                "dest_port": row.dst_port,
                "proto": NAMES[row.protocol],
                "app_proto": "tls" if row.dst_port == 443 else "failed",
                "flow": about,
            }
        )
    path.write_text("\n".join(json.dumps(row, default=int) for row in rows))


@pytest.fixture(scope="module")
def captured():
    return exfilml.read_flows(SAMPLE / "baseline.pcap", progress=False)


@pytest.fixture(scope="module")
def site(captured, tmp_path_factory):
    """A folder of all four, a model of it, and a day of each afterwards."""
    folder = tmp_path_factory.mktemp("site")
    mixed = folder / "mixed"
    mixed.mkdir()
    (mixed / "baseline.pcap").symlink_to(SAMPLE / "baseline.pcap")
    for number, (name, write) in enumerate(
        (
            ("conn.log", write_zeek),
            ("nfdump.csv", write_nfdump),
            ("eve.json", write_eve),
        )
    ):
        # Into the same days: a block of the baseline holds flows of each.
        write(mixed / name, later(captured, 0).iloc[number::3])
        write(folder / name, later(captured, 14).iloc[:400])
    options = ["--timezone", "UTC", "--home", "10.0.0.0/8", "-q"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command = ["train", str(mixed), "--model", str(folder / "m"), *options]
        assert cli.run(command) == 0
        (folder / "net").mkdir()
        write_nfdump(folder / "net" / "a.csv", later(captured, 0))
        command = ["train", str(folder / "net"), "--model", str(folder / "n"), *options]
        assert cli.run(command) == 0
    return folder


@pytest.fixture(scope="module")
def model(site):
    return exfilml.load_model(site / "m")


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exfilml.read_flows(path, timezone="UTC", progress=False)


def test_a_mixed_folder_teaches_every_capability_and_the_model_says_which(
    site, model, captured, capsys
):
    assert set(model.learned_) == {"payload", "volume"}
    assert model.shown_[PAYLOAD] == int((capability(captured) == PAYLOAD).sum())
    assert set(model.shown_) >= {"packets", "application", PAYLOAD}
    assert sum(model.shown_.values()) == model.n_flows_
    assert model.n_flows_ > 1.9 * len(captured)
    assert cli.run(["inspect", str(site / "m")]) == 0
    out = capsys.readouterr().out
    assert f"payload {model.shown_[PAYLOAD]:,}" in out
    assert "seeing payload" in out
    assert "seeing volume" in out
    assert "not judged" not in out
    assert cli.run(["inspect", str(site / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"] == model.shown_


@pytest.mark.parametrize(
    ("name", "most", "hidden"),
    [
        ("conn.log", "application", "payload"),
        ("nfdump.csv", "packets", "payload, application"),
        ("eve.json", "application", "payload"),
    ],
)
def test_a_question_of_payload_to_a_log_is_answered_not_visible_never_zero(
    site, model, name, most, hidden
):
    flows = read(site / name)
    scores = exfilml.score_flows(model, flows)
    assert (scores["capability"] == most).any()
    assert PAYLOAD not in set(scores["capability"])
    assert scores["not_visible"].str.startswith("payload").all()
    assert scores["not_visible"].str.startswith(hidden).any()
    split = model.explain(flows)
    judged = split.loc[:, split.columns.get_level_values("family") == "payload"]
    assert judged.shape[1] > 0
    assert judged.isna().all(axis=None)
    assert np.allclose(split.sum(axis=1), scores["suspicion"])


def test_each_row_is_judged_by_what_it_shows_whatever_stands_beside_it(
    site, model, captured
):
    parts = [later(captured, 14).iloc[:400]]
    parts += [read(site / name) for name in ("conn.log", "nfdump.csv", "eve.json")]
    alone = [model.score(part) for part in parts]
    for part, scored in zip(parts, alone, strict=True):
        visible = part["src_sampled_bytes"].notna().to_numpy()
        assert np.array_equal(scored.with_payload, visible)
    assert alone[0].with_payload.any()
    split = model.explain(parts[0])
    rows = alone[0].with_payload
    judged = split.loc[:, split.columns.get_level_values("family") == "payload"]
    assert judged[rows].notna().any(axis=None)


def test_a_model_of_netflow_says_of_captures_what_it_cannot_judge(
    site, captured, capsys
):
    model = exfilml.load_model(site / "n")
    assert set(model.learned_) == {"volume"}
    assert set(model.shown_) == {"packets"}
    assert cli.run(["inspect", str(site / "n")]) == 0
    out = capsys.readouterr().out
    assert "not judged     payload: too few flows showed any" in out
    assert "applications: no flow named one" in out
    flows = later(captured, 14).iloc[:400]
    with pytest.warns(CapabilityWarning, match=r"flows is not judged\. Train on"):
        scores = exfilml.score_flows(model, flows)
    assert scores["not_visible"].str.startswith("payload").all()
    assert PAYLOAD not in set(scores["capability"])


def test_an_update_adds_what_its_flows_showed(site, captured):
    model = exfilml.load_model(site / "m")
    before = dict(model.shown_)
    flows = later(captured, 14)
    model.update([flows.sort_values("start")], len(flows))
    found = pd.Series(capability(flows)).value_counts().to_dict()
    assert model.shown_ == {
        name: before.get(name, 0) + found.get(name, 0) for name in model.shown_
    }
    assert sum(model.shown_.values()) == model.n_flows_
