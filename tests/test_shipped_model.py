"""The model that comes with exfilml: what its card says, and that it comes along."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import exfilml
from exfilml.persistence import default_model, model_card
from exfilml.places import PRIVATE_NETWORKS

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "default.exfilml"
README = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
BASELINE = ROOT / "datasets" / "lab" / "report" / "baseline.pcap.gz"
SAMPLE = ROOT / "datasets" / "sample" / "test.pcap"
REAL = os.environ.get("EXFILML_REAL_DATA")


@pytest.fixture(scope="module")
def shipped():
    return exfilml.load_model(MODEL)


def test_the_default_is_the_file_whose_checksum_is_told():
    assert default_model() == MODEL
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in README


def test_the_readme_tells_what_inspect_shows(shipped):
    card = model_card(shipped)
    first, last = shipped.window_
    seen = card["capabilities"]["payload"]
    for told in (
        f"{card['flows']:,} flows of {card['hosts']:,} local hosts",
        f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
        f"`exfilml {card['exfilml']}`",
        *(f"`{name} {version}`" for name, version in card["libraries"].items()),
        f"{seen['calibration']['flows']:,} flows of it",
        f"{seen['calibration']['cases']:,} cases of {seen['calibration']['days']:.1f}",
        f"payload ({len(seen['features'])} kinds of evidence)",
        f"as NetFlow has them ({len(card['capabilities']['volume']['features'])})",
    ):
        assert told in README, told


def test_private_networks_are_home_to_it(shipped):
    """At other sites, too: nothing of the lab's addresses was made a home network."""
    assert shipped.home_ == PRIVATE_NETWORKS


def test_figures_told_are_those_of_the_report_split():
    told = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    told = told.partition("## The lab's report split")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (?:exfilml|largest total upload) \|.*$", README, re.MULTILINE
    )
    assert len(rows) == 2
    for row in rows:
        assert row in told
    budget = re.search(r"^At a budget of .*$", README, re.MULTILINE)[0]
    assert budget in told


@pytest.mark.slow
def test_training_again_gives_the_same_model(shipped):
    flows = exfilml.read_flows(BASELINE, progress=False)
    fresh = exfilml.Detector(random_state=0).fit(flows)
    expected = shipped.score_samples(flows)
    actual = fresh.score_samples(flows)
    assert np.allclose(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA names no real captures")
# The captures are of other sites and years.
@pytest.mark.filterwarnings("ignore::exfilml.exceptions.ExfilmlWarning")
def test_files_and_tunnels_over_icmp_and_dns_come_first(shipped):
    """A first look at real attacks, among every eighth of the benign captures."""
    real = Path(REAL) / "pcap"
    benign = sorted(path for path in (real / "benign").iterdir() if path.is_file())
    sources = [str(real / "attack"), *map(str, benign[::8])]
    flows = exfilml.read_flows(sources, progress=False)
    cases = exfilml.rank_cases(shipped, flows)
    assert len(cases) > 500
    labels = pd.read_csv(Path(REAL) / "labels.csv")
    by_name = labels["path"].str.contains("dns|icmp")
    stolen = labels[by_name & labels["label"].str.contains("exfil")]
    ends = {frozenset(pair) for pair in stolen[["src_ip", "dst_ip"]].to_numpy()}
    for case in cases.head(4).itertuples():
        assert case.alert
        assert case.app in {"DNS", "ICMP"}
        assert frozenset((case.src_ip, case.dst_ip)) in ends


@pytest.mark.slow
def test_a_wheel_ranks_without_the_repository(tmp_path):
    """A new environment with the wheel in it, and libraries only from this one."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, *build, str(ROOT)], check=True, env=clean)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "env"
    venv.create(place)
    python = str(place / "bin" / "python")
    install = ["--python", python, "install", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True, env=clean)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    assert (libraries / "exfilml" / "models" / MODEL.name).read_bytes() == (
        MODEL.read_bytes()
    )
    (libraries / "here.pth").write_text(sysconfig.get_path("purelib"))
    captures = [SAMPLE]
    if REAL is not None:
        captures.append(Path(REAL) / "pcap" / "attack" / "ndpi" / "icmp-tunnel.pcap")
    for capture in captures:
        ran = subprocess.run(
            [str(place / "bin" / "exfilml"), "rank", str(capture), "-q"],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=clean,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        assert "no --model given: using the shipped model" in ran.stderr
        assert (
            "the shipped model (learned 2025-02-03 to 2025-02-14) knows" in ran.stderr
        )
        assert len(ran.stdout.splitlines()) > 2
    where = "import exfilml; print(exfilml.__file__)"
    ran = subprocess.run(
        [python, "-c", where],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env=clean,
        text=True,
    )
    assert Path(ran.stdout.strip()).is_relative_to(place)
