"""Logs that were made to do harm: endless lines, millions of bad ones, fuzzed ones."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import firewall_logs as firewall
import pytest
import test_sources_cloud as cloud
import test_sources_normalised as normalised
import test_sources_proxy as proxy
import test_sources_silk as silk
from logs import conn, json_lines, zeek_tsv

from exfilml.sources import READERS

REAL = os.environ.get("EXFILML_REAL_DATA")
ROOT = Path(__file__).parent.parent
# Captures and what programs of others unpack: not texts.
NOT_TEXT = {"_pcap", "_parquet", "_nfcapd", "_exports"}
TEXT = [name for name in READERS if name not in NOT_TEXT]
SECONDS = int(os.environ.get("EXFILML_FUZZ_SECONDS", "6"))
MIB = 1 << 20

NFDUMP = (
    "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows\n"
    "2023-07-14 12:00:00.250,1.5,TCP,10.0.0.5,40000,203.0.113.7,443,8,1328,1\n"
    "2023-07-14 12:00:00.250,1.5,TCP,203.0.113.7,443,10.0.0.5,40000,9,5368,1\n"
)
ARGUS = (
    "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,"
    "TotBytes,SrcBytes,SrcPkts,Label\n"
    "2023/07/14 12:00:00.250000,1.5,tcp,10.0.0.5,40000,   ->,203.0.113.7,443,"
    "FSPA_FSPA,0,0,17,6934,1440,8,Background\n"
)
EVE = {
    "timestamp": "2023-11-14T22:14:00.000000+0100",
    "flow_id": 1,
    "event_type": "flow",
    "src_ip": "10.0.0.5",
    "src_port": 40000,
    "dest_ip": "203.0.113.7",
    "dest_port": 443,
    "proto": "TCP",
    "app_proto": "tls",
    "flow": {
        "pkts_toserver": 8,
        "pkts_toclient": 9,
        "bytes_toserver": 1440,
        "bytes_toclient": 5494,
        "start": "2023-11-14T23:13:20.250000+0100",
        "end": "2023-11-14T23:13:21.750000+0100",
    },
}
# Good logs by reader, the first one with a line that may be repeated at its end.
SEEDS: dict[str, list[bytes]] = {
    "_zeek": [zeek_tsv([conn(), conn(uid="C2")]), json_lines([conn()])],
    "_eve": [
        json_lines([EVE, EVE | {"flow_id": 2}]),
        json.dumps([EVE], indent=1).encode(),
    ],
    "_nfdump": [NFDUMP.encode()],
    "_argus": [ARGUS.encode(), ARGUS.replace(",", "\t").encode()],
}


# Good logs of all other formats, as their own tests have them.
OTHERS = [
    *(log if isinstance(log, bytes) else log.encode() for log in (
        *cloud.WHOLE, *normalised.WHOLE, *proxy.TEXTS.values(),
        silk.rwcut(silk.there(), silk.back()),
        *(firewall.pan_line(firewall.pan()) * 2, firewall.pan_export([firewall.pan()])),
        *(firewall.forti_line(firewall.forti()), firewall.asa_line(firewall.asa())),
        *(firewall.firepower_line(firewall.firepower()),),
        firewall.check_point_line(firewall.check_point()),
        firewall.conntrack_line(firewall.tracked()),
        firewall.gprint_line(firewall.ulogd()),
    )),
]  # fmt: skip


def seeds(reader):
    """Good logs for a reader: built here, or real ones that it takes for its own."""
    built = SEEDS.get(reader, [])
    module = importlib.import_module(f"exfilml.sources.{reader}")
    assert all(module.detect(seed) for seed in built)
    built = [*built, *(log for log in OTHERS if module.detect(log))]
    for path in sorted(Path(REAL, "logs").rglob("*")) if REAL else ():
        if path.is_file() and path.stat().st_size < MIB:
            data = path.read_bytes()
            if module.detect(data[: 1 << 16]) and len(built) < 6:
                built = [*built, data[:20_000]]
    if not built:
        pytest.skip(f"no seed for {reader}: add one to SEEDS")
    return built


@pytest.mark.slow
@pytest.mark.parametrize("reader", TEXT)
def test_fuzzed_logs_end_in_flows_or_one_clear_error(reader, tmp_path):
    """Coverage-guided, for `EXFILML_FUZZ_SECONDS` each."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (pip install -e '.[fuzz]')")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(reader)):
        (corpus / f"seed{number}").write_bytes(seed)
    script = Path(__file__).parent / "fuzzing" / "fuzz_reader.py"
    done = subprocess.run(
        [sys.executable, script, reader, corpus, str(SECONDS)],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS + 300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = [p.read_bytes()[:300] for p in tmp_path.glob("corpus-*")]
    assert done.returncode == 0, f"{found}\n{done.stderr[-3000:]}"
    assert "stat::number_of_executed_units" in done.stderr


# The peak that getrusage tells may be the parent's, of before exec.
READ = r"""
import re, sys, warnings
from pathlib import Path
import exfilml
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = 0
    try:
        for flows in exfilml.iter_flows(sys.argv[1], timezone="UTC"):
            rows += len(flows)
    except exfilml.exceptions.SourceError as error:
        print("error", error)
peak = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) >> 10
print(rows, peak, len(caught), *(str(w.message)[:300] for w in caught), sep="\n")
"""


def read_apart(path):
    """Read a log in a process of its own: rows, peak of memory in MiB, what was said."""
    done = subprocess.run(
        [sys.executable, "-c", READ, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = done.stdout.splitlines()
    error = lines.pop(0) if lines[0].startswith("error") else ""
    rows, peak, n_warnings = map(int, lines[:3])
    assert len(lines) == 3 + n_warnings
    return rows, peak, [*lines[3:], *([error] if error else [])]


def hostile(path, seed, line, times):
    """Write a good log, and then something many times."""
    with path.open("wb") as file:
        file.write(seed)
        for _ in range(times):
            file.write(line)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("reader", TEXT)
def test_a_line_of_200_mib_takes_no_more_memory_than_a_log(reader, tmp_path):
    seed = seeds(reader)[0]
    fine, base, before = read_apart(hostile(tmp_path / "fine", seed, b"", 0))
    path = hostile(tmp_path / "long", seed, b"x" * MIB, 200)
    rows, peak, said = read_apart(path)
    assert rows in {fine, 0}
    assert 1 <= len(said) <= len(before) + 1
    assert peak < base + 100


@pytest.mark.slow
@pytest.mark.parametrize("reader", TEXT)
def test_millions_of_bad_lines_are_told_once_in_bounded_memory(reader, tmp_path):
    seed = seeds(reader)[0]
    fine, _, before = read_apart(hostile(tmp_path / "fine", seed, b"", 0))
    _, base, _ = read_apart(hostile(tmp_path / "few", seed, b"no\n" * 100_000, 5))
    path = hostile(tmp_path / "bad", seed, b"no\n" * 100_000, 30)
    rows, peak, said = read_apart(path)
    assert rows in {fine, 0}
    assert 1 <= len(said) <= len(before) + 1
    assert any("3,000,000 " in text for text in said)
    assert peak < base + 150
