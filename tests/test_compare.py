"""The comparison: flow records show no payload, and what is left out is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sites import office, theft

from exfilml import Detector, validate_flows
from exfilml.features import FAMILIES, FEATURES
from exfilml.schema import capability

sys.path.insert(0, str(Path(__file__).parent.parent / "datasets"))

import compare
from comparison import ablation, newcomers, tables
from comparison.data import Data


@pytest.fixture(scope="module")
def data():
    """Three thefts, one of them a mere name to flow records, and a hard negative."""
    normal = office(600, seed=1, days=2, first_day="2026-03-09")
    ends = [(f"203.0.113.{i}", port) for i, port in enumerate((4444, 8443, 53, 443))]
    planted = [
        theft(normal, up=size, dst_ip=ip, dst_port=port)
        for (ip, port), size in zip(ends, (500_000, 80_000, 900, 300_000), strict=True)
    ]
    labels = pd.DataFrame(
        {
            "src_ip": [str(t["src_ip"].iloc[0]) for t in planted],
            "src_port": pd.array([pd.NA] * 4, dtype="Int64"),
            "dst_ip": [ip for ip, _ in ends],
            "dst_port": pd.array([port for _, port in ends], dtype="Int64"),
            "protocol": [int(t["protocol"].iloc[0]) for t in planted],
            "start": pd.Series([pd.NaT] * 4, dtype="datetime64[us, UTC]"),
            "end": pd.Series([pd.NaT] * 4, dtype="datetime64[us, UTC]"),
            "label": ["exfil"] * 3 + ["hard-negative"],
            "scenario": ["large", "middle", "small", "honest"],
        }
    )
    scenarios = pd.DataFrame(
        {"carrier": ["tcp/4444", "tcp/8443", "tcp|53", "tcp/443"], "via": pd.NA},
        index=labels["scenario"],
    )
    test = validate_flows(pd.concat([normal, *planted], ignore_index=True))
    return Data(None, validate_flows(office(1500)), test, labels, scenarios)


def test_flow_records_show_volumes_alone(data):
    seen = data.as_netflow()
    for flows in (seen.baseline, seen.test):
        assert set(capability(flows)) == {"packets"}
        hidden = flows[["app", "server_name", "src_entropy", "conn_state"]]
        assert hidden.isna().to_numpy().all()
    assert seen.test["src_bytes"].tolist() == data.test["src_bytes"].tolist()
    assert "payload" not in Detector(n_estimators=10).fit(seen.baseline).learned_


def test_what_is_left_out_is_in_no_capability(data):
    for name, left_out in ablation.pieces(data, each=False).items():
        detector = ablation.fit(data.baseline, seed=0, n_estimators=5, **left_out)
        for learned in detector.learned_.values():
            gone = left_out.get("without", frozenset())
            assert not gone & set(learned.features.names), name
            assert (learned.scale == 0.0) == left_out.get("silent", False), name


def test_every_family_and_every_feature_has_a_row(data):
    rows = ablation.pieces(data, each=True)
    gone = [row.get("without", frozenset()) for row in rows.values()]
    for feature in FEATURES:
        assert frozenset([feature.name]) in gone
    for family in FAMILIES:
        assert frozenset(f.name for f in FEATURES if f.family == family) in gone


def test_nothing_left_out_is_the_detector_itself(data):
    plain = Detector(n_estimators=10, random_state=3).fit(data.baseline)
    whole = ablation.fit(data.baseline, seed=3, n_estimators=10)
    assert np.array_equal(
        plain.score(data.test).suspicion, whole.score(data.test).suspicion
    )


def test_an_ablation_that_leaves_nothing_is_refused(data):
    everything = frozenset(f.name for f in FEATURES)
    with pytest.raises(ValueError, match="No evidence is left"):
        ablation.fit(data.baseline, seed=0, without=everything)


@pytest.fixture(scope="module")
def asked():
    return lambda *arguments: compare.parse([*arguments])


def test_the_tables_say_who_is_ahead_and_what_is_not_shown(data, asked):
    text = compare.text_of(asked("--netflow"), data)
    assert "exfilml ahead by (90 % interval)" in text
    assert "forest on netflow statistics" in text
    assert "upload entropy" not in text
    assert "The best of the others is" in text
    assert "Within the first 6 cases (2 for each scenario)" in text
    assert "Flow records show" in text
    assert "They do not show" in text
    assert "tcp\\|53" in text


def test_honest_cases_before_a_theft_are_listed_with_reasons(data):
    ran = tables.Compared.of(data)
    text = tables.dismissals(ran, 5)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    last = ran.thefts["rank"].max()
    assert len(rows) <= 5
    for row in rows:
        rank, _, what, *_, reasons = (c.strip() for c in row.strip("|").split(" | "))
        assert int(rank) < last
        assert what == "ordinary" or what.startswith("hard-negative ")
        assert reasons
    assert not any("large" in row.split(" | ")[2] for row in rows)


def test_an_ablation_is_of_develop_unless_told(asked):
    assert asked("--ablate").data == "develop"
    assert asked("--ablate").ablate == "families"
    assert asked().data == "sample"


@pytest.mark.parametrize(
    "wrong", [["--seeds", "0"], ["--honest", "0"], ["--ablate", "--honest", "3"]]
)
def test_options_that_make_no_sense_are_refused(asked, wrong):
    with pytest.raises(SystemExit) as refused:
        asked(*wrong)
    assert refused.value.code == 2


def test_writing_where_there_is_no_place_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="no place"):
        compare.write(readme, "sample", "text")


def test_hosts_left_out_of_the_baseline_are_counted_apart(data):
    text = newcomers.table(data)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == newcomers.SHARES
    assert "10 hosts" in text
    new = [int(row.split("|")[1]) for row in rows]
    assert sum(new) == 10
    # The one host that steals is new once, and its three thefts are in that row.
    assert sorted(row.split(" of ")[1].split()[0] for row in rows) == ["0"] * 3 + ["3"]
