"""The lab: what its generator promises, and the committed splits.

One file because the committed splits are held against the same plans.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import exfilml

ROOT = Path(__file__).parent.parent
LAB = ROOT / "datasets" / "lab"
COMMITTED = ("develop", "validate", "report")
REAL = os.environ.get("EXFILML_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL is None, reason="EXFILML_REAL_DATA names no folder of real captures"
)
needs_cryptography = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("cryptography"),
    reason="sealing needs the package cryptography, the library does not",
)

sys.path.insert(0, str(ROOT / "datasets"))

from lab import attacks, check, clock, splits, tables  # noqa: E402
from lab.habits import Habits  # noqa: E402
from lab.scenarios import EXFIL, HARD, TRANSFERS, Planner  # noqa: E402
from lab.world import LabWorld  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def plan(name):
    split = splits.committed(name)
    return Planner(split, LabWorld(split))


@pytest.fixture(scope="module")
def plans():
    return {name: plan(name) for name in splits.NAMES}


def corpus():
    # The real one needs Pillow to make pictures.
    return SimpleNamespace(
        root=Path("corpus"),
        pages=["page1.html"],
        api=["api1.json"],
        photos=["photo1.jpg"],
        packages=["tool1.tar.gz"],
        documents=["report1.zip"],
        tables=["export1.csv"],
        mails=["mail1.eml"],
        size=lambda _: 1000,
    )


def habits(name):
    split = splits.choose(name, None)
    rng = random.Random(f"{split.seed} habits")
    return Habits(rng, LabWorld(split), corpus(), [f"large{i}.bin" for i in range(8)])


# The splits and their plans.


def test_report_is_refused_without_a_commit():
    with pytest.raises(ValueError, match="seed-from-commit"):
        splits.choose("report", None)
    with pytest.raises(ValueError, match="no full commit hash"):
        splits.choose("report", "abc")
    with pytest.raises(ValueError, match="has its seed"):
        splits.choose("develop", COMMIT)
    assert splits.choose("report", COMMIT).seed == COMMIT


def test_the_command_refuses_report_without_a_commit(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "datasets" / "make_lab.py"),
            *("--split", "report", "--out", tmp_path / "report"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "seed-from-commit" in done.stderr
    assert not (tmp_path / "report").exists()


def test_every_split_plans_enough(plans):
    for planner in plans.values():
        labels = [scenario.label for scenario in planner.scenarios]
        assert labels.count(EXFIL) >= 25
        assert labels.count(HARD) >= 8
        sizes = [s.n_bytes for s in planner.scenarios if s.label == EXFIL]
        assert min(sizes) >= 19_000
        assert max(sizes) <= 50_000_000


def test_splits_share_nothing(plans):
    """No name, address or instance of one split is in another."""
    for a in plans:
        for b in plans:
            if a >= b:
                continue
            one, other = plans[a], plans[b]
            assert not set(one.addresses) & set(other.addresses)
            assert not set(one.names) & set(other.names)
            assert not {s.name for s in one.scenarios} & {
                s.name for s in other.scenarios
            }
            for x, y in zip(one.scenarios, other.scenarios, strict=True):
                assert not x.cipher or x.cipher != y.cipher
                assert x.n_bytes != y.n_bytes or not x.n_bytes


def test_ports_differ_where_the_carrier_allows_it():
    free = [t for t in TRANSFERS if t.carrier.startswith(("tcp", "udp"))]
    same = [t.name for t in free if len(set(t.ports)) < 3]
    assert set(same) <= {"udp-dns-port", "udp-ntp-port", "udp-quic-port"}


def test_half_of_dns_and_http_goes_through_resolver_and_proxy():
    for family, via in (("dns", "resolver"), ("http", "proxy")):
        own = [t for t in TRANSFERS if t.carrier.startswith(family)]
        assert 2 * sum(t.via == via for t in own) >= len(own)
    assert any(t.via == "relay" for t in TRANSFERS)


def test_transfers_are_in_the_test_days_alone(plans):
    for planner in plans.values():
        days = planner.split.days("test")
        first, last = (planner.split.when(d, 0) for d in (days[0], days[-1] + 1))
        for scenario in planner.scenarios:
            assert scenario.sessions
            for session in scenario.sessions:
                assert first <= session.when < last, scenario.name


def test_same_seed_same_plan():
    one, other = plan("develop"), plan("develop")
    assert [s.sessions for s in one.scenarios] == [s.sessions for s in other.scenarios]
    assert habits("validate").half("test") == habits("validate").half("test")


def test_addresses_are_reserved_ones(plans):
    for planner in plans.values():
        for address in planner.places.outside(planner.addresses):
            assert address.startswith(("198.18.", "198.19.", "2001:db8:")), address


def test_people_work_by_day_and_rest_at_weekends():
    sessions = habits("develop").half("baseline")
    people = [s for s in sessions if s.host.role in ("sales", "developers")]
    times = pd.to_datetime([s.when for s in people], unit="s", utc=True)
    assert ((times.hour >= 6) & (times.hour < 20)).mean() > 0.95
    assert (times.day_of_week >= 5).mean() < 0.05
    roles = {s.host.role for s in sessions}
    assert {"cameras", "things", "fileserver", "build"} <= roles


def test_the_opaque_protocol_is_there_on_some_days_alone():
    sessions = habits("develop").half("baseline")
    own = [s.when for s in sessions if s.place == "license.planware.example"]
    days = set(pd.to_datetime(own, unit="s", utc=True).day_of_week)
    assert days <= {1, 3}
    assert len(own) > 5


# The network.


def can_make_namespaces():
    command = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "true"]
    try:
        return not subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not can_make_namespaces(), reason="namespaces need root on Linux")
@pytest.mark.skipif(
    not all(map(shutil.which, ("ip", "ping"))), reason="ip or ping is not installed"
)
def test_a_server_may_send_first(tmp_path):
    """The way out does not wait for a session of an office host."""
    from sample_lab.network import Network

    places = LabWorld(splits.committed("report"))
    (tmp_path / "resolv.conf").touch()
    (tmp_path / "pam.d").mkdir()
    with Network(tmp_path, places, places.outside([])) as net:
        net.open()
        ping = f"ping -q -c 1 -W 2 {places.upstream}"
        assert net.run_as(places.host["fileserver"], ping, {}) == 0


# What is sealed.


@needs_cryptography
def test_sealed_data_are_what_the_cipher_says():
    from lab import sealing

    plain = b"id;name;amount\n" * 5000
    nonce = bytes(range(32))
    for cipher in sealing.CIPHERS:
        sealed = sealing.seal(plain, cipher, nonce)
        assert len(plain) <= len(sealed) <= len(plain) + 64, cipher
        counts = np.bincount(np.frombuffer(sealed, np.uint8), minlength=256)
        share = counts / counts.sum()
        entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
        assert (entropy > 7.98) == (cipher != "xor-repeating"), cipher
    with pytest.raises(ValueError, match="no cipher"):
        sealing.seal(plain, "rot13", nonce)


# The clock and the cut.


def test_the_first_bytes_are_kept_then_slices_then_nothing():
    so_far = [0, 0]
    sizes = [clock.kept(3000, so_far, outward=True) for _ in range(100)]
    assert sizes[:3] == [3000, clock.HEAD_OUT - 3000, clock.SLICE]
    assert sum(sizes) == clock.HEAD_OUT + clock.TAIL_OUT
    assert sizes[-1] == 0
    so_far = [0, 0]
    assert sum(clock.kept(3000, so_far, outward=False) for _ in range(9)) == (
        clock.HEAD_IN + clock.TAIL_IN
    )
    # A small packet is no slice, and costs none.
    so_far = [clock.HEAD_OUT, 0]
    assert clock.kept(clock.SLICE - 1, so_far, outward=True) == 0
    assert so_far == [clock.HEAD_OUT, 0]


def test_pauses_are_stretched_and_work_is_not():
    out = clock.stretch([10.0, 10.0005, 10.0105, 12.0], 10.0, 60.0)
    assert out[0] == 0.0
    assert out[1] == pytest.approx(0.0005)
    assert out[2] == pytest.approx(0.0005 + 0.6)
    assert out[3] - out[2] == pytest.approx(clock.LONGEST_PAUSE_S)
    assert clock.LONGEST_PAUSE_S < 120


# The check.


def flow(i, dst_port=443, up=1000, **more):
    return {
        "start": pd.Timestamp("2024-03-18T10:00:00Z") + pd.Timedelta(seconds=i),
        "duration_s": 1.0,
        "src_ip": "10.20.1.11",
        "src_port": 40000 + i,
        "dst_ip": f"198.18.0.{i % 20 + 1}",
        "dst_port": dst_port,
        "protocol": 6,
        "src_bytes": up + 400,
        "dst_bytes": 3000,
        "src_payload_bytes": up,
        "dst_payload_bytes": 2600,
        **more,
    }


def test_equal_halves_have_no_differences():
    flows = exfilml.validate_flows(pd.DataFrame([flow(i) for i in range(60)]))
    facts = check.summary(flows)
    assert facts.flows == 60
    assert facts.cases == 20
    assert check.differences(facts, facts) == []


def test_differences_are_named():
    a = [flow(i) for i in range(60)]
    b = [flow(i, up=5000) for i in range(40)]
    one, other = (
        check.summary(exfilml.validate_flows(pd.DataFrame(rows))) for rows in (a, b)
    )
    found = check.differences(one, other)
    assert found == [
        "flows: 60 committed, 40 rebuilt",
        "flows of https: 60 committed, 40 rebuilt",
        "median upload of https: 1,000 committed, 5,000 rebuilt",
        "90 % upload of https: 1,000 committed, 5,000 rebuilt",
    ]


def test_labels_that_meet_no_flow_are_named():
    flows = exfilml.validate_flows(pd.DataFrame([flow(1), flow(2)]))
    labels = pd.DataFrame(
        {
            "src_ip": ["10.20.1.11", "10.20.1.11"],
            "src_port": [40001, 7],
            "dst_ip": ["198.18.0.2", "198.18.0.2"],
            "dst_port": [443, 443],
            "protocol": [6, 6],
            "start": pd.NaT,
            "end": pd.NaT,
            "label": "exfil",
            "scenario": ["there", "lost"],
        }
    )
    labelled = exfilml.apply_labels(flows, labels)
    found = check.unmatched(labels, labelled)
    assert len(found) == 1
    assert "lost" in found[0]


# The committed captures.


@pytest.fixture(scope="module", params=COMMITTED)
def split(request):
    return LAB / request.param


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_checksums_stand(split):
    assert check.checksums(split) == []


def test_committed_captures_are_small():
    total = sum(path.stat().st_size for path in LAB.rglob("*.gz"))
    assert total <= 12_000_000 * len(COMMITTED)


def test_scenarios_are_as_planned(split):
    planner = plan(split.name)
    facts = rows(split / "scenarios.csv")
    assert [f["scenario"] for f in facts] == [s.name for s in planner.scenarios]
    for fact, scenario in zip(facts, planner.scenarios, strict=True):
        assert fact["cipher"] == scenario.cipher
        assert fact["to"] == scenario.to
        assert int(fact["bytes"]) >= scenario.n_bytes
        assert int(fact["flows"]) >= 1


def test_labels_are_readable_and_in_the_test_days(split):
    labels = exfilml.read_labels(split / "labels.csv")
    assert set(labels["label"]) == {EXFIL, HARD}
    assert set(labels["scenario"]) == {
        fact["scenario"] for fact in rows(split / "scenarios.csv")
    }
    days = splits.committed(split.name)
    first = pd.to_datetime(days.when(14, 0), unit="s", utc=True)
    assert (labels["start"] >= first).all()
    assert (labels["end"] >= labels["start"]).all()


def test_captures_are_cut_and_in_order(split):
    """Read directly, because the library is not to be its own witness."""
    from sample_lab.capture import FILE_HEADER, MAGIC, RECORD

    raw = gzip.decompress((split / "test.pcap.gz").read_bytes())
    assert FILE_HEADER.unpack_from(raw)[0] == MAGIC
    at, last, cut = FILE_HEADER.size, (0, 0), 0
    while at < len(raw):
        seconds, micros, kept, length = RECORD.unpack_from(raw, at)
        assert (seconds, micros) >= last
        last = (seconds, micros)
        assert kept <= length
        assert kept <= clock.SNAP
        cut += kept < length
        at += RECORD.size + kept
    assert at == len(raw)
    assert cut > 1000


@pytest.mark.slow
def test_committed_splits_pass_their_check(split, capsys):
    """Flows, cases and services enough; labels meet flows; ciphertext is carried."""
    assert check.report(split, None) == 0, capsys.readouterr().out


@pytest.mark.slow
@needs_real_data
def test_real_attacks_lie_over_the_benign_test_days():
    flows, labels = attacks.overlay(LAB / "develop", Path(REAL))
    assert {"exfil", "exfil-like", "c2", "hard-negative"} <= set(labels["label"])
    assert flows["label"].isna().sum() > 1000
    # Every label meets its flow again, in a table without labels.
    bare = flows.drop(columns=["scenario"]).assign(label=None)
    again = exfilml.apply_labels(exfilml.validate_flows(bare), labels)
    assert (again["scenario"].notna() == flows["scenario"].notna()).all()
    days = splits.choose("develop", None)
    own = flows[flows["label"].notna()]
    assert own["start"].min().timestamp() >= days.when(14, 0)
    assert not (own["src_ip"].str.startswith("192.168.")).any()


@pytest.mark.slow
def test_flows_are_rebuilt_by_one_command(tmp_path):
    for name in ("baseline.pcap.gz", "test.pcap.gz", "labels.csv"):
        (tmp_path / name).write_bytes((LAB / "develop" / name).read_bytes())
    assert tables.write(tmp_path) == 0
    flows = exfilml.read_flows(tmp_path / "test.parquet", progress=False)
    assert {"exfil", "hard-negative"} == set(flows["label"].dropna())
    assert hashlib.sha256((tmp_path / "test.parquet").read_bytes()).digest()
