"""nfdump's own files, read through the program: totals, failures, leftovers."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import stat
import warnings
from pathlib import Path

import pandas as pd
import pytest
from collectors import collect, own_totals, totals
from exports import COMMON, back, data_set, template_set, there, v5, v9
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.sources import _nfcapd

REAL = os.environ.get("EXFILML_REAL_DATA")
NFDUMP = Path(REAL) / "logs" / "nfdump" if REAL else Path()
installed = pytest.mark.skipif(
    shutil.which("nfdump") is None or shutil.which("nfcapd") is None,
    reason="nfdump is not installed (apt-get install nfdump)",
)
real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


V6 = {27: 16, 28: 16} | {k: v for k, v in COMMON.items() if k not in {8, 12}}


@installed
def test_what_nfcapd_collected_is_read_as_what_was_sent(tmp_path, monkeypatch):
    """Times are UTC wherever nfdump runs, and IPv6 addresses are whole."""
    monkeypatch.setenv("TZ", "America/New_York")
    v6 = there(e27=0x20010DB8_00000000_00000000_00000005, e28=2**128 - 2)
    sent = [
        v9(template_set(256, COMMON), data_set(256, COMMON, there(), back())),
        v9(template_set(257, V6), data_set(257, V6, v6)),
    ]
    path = collect(tmp_path / "nf", *sent)
    flows = exfilml.read_flows(path)
    (tmp_path / "sent.dat").write_bytes(b"".join(sent))
    direct = exfilml.read_flows(tmp_path / "sent.dat")
    assert len(flows) == 2
    pd.testing.assert_frame_equal(
        flows.drop(columns=["sensor"]), direct.drop(columns=["sensor"])
    )
    assert totals(flows) == own_totals(path)
    (streamed,) = exfilml.iter_flows(path)
    pd.testing.assert_frame_equal(streamed, flows)


@installed
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("how", [(), ("-z",), ("-y",), ("-j",)])
def test_packed_by_nfdump_or_by_others(tmp_path, how, pack):
    path = collect(tmp_path / "nf", v5(there(), back()), options=how)
    packed = tmp_path / "packed"
    packed.write_bytes(pack(path.read_bytes()))
    for source in (path, packed):
        assert totals(exfilml.read_flows(source)) == (1328 + 5368, 17)


@installed
def test_sampling_is_applied_by_nfcapd_and_told(tmp_path):
    path = collect(tmp_path / "nf", v5(there(), back(), sampling=1 << 14 | 100))
    with pytest.warns(SourceWarning, match="sampled 1 packet in 100; nfcapd has"):
        flows = exfilml.read_flows(path, sampling=7)
    assert totals(flows) == own_totals(path) == (100 * (1328 + 5368), 1700)
    path = collect(tmp_path / "other", v5(there(), back()))
    with pytest.warns(SourceWarning, match="sampling rate given, 1 packet in 7"):
        flows = exfilml.read_flows(path, sampling=7)
    assert totals(flows) == (7 * (1328 + 5368), 7 * 17)


def program(folder: Path, script: str, monkeypatch) -> None:
    """Put another nfdump before the real one."""
    folder.mkdir()
    file = folder / "nfdump"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


FILE = b"\x0c\xa5\x02\x00" + bytes(300)
LINE = (
    "2023-07-14 12:00:00.000,2023-07-14 12:00:01.000,10.0.0.5,203.0.113.7,4,5,17,......"
)
LINE += ",1,60,0,0"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, r"apt-get install nfdump"),
        ('echo "bad version" >&2', r"nfdump says: 'bad version' .*another version"),
        ("exit 250", "failed with status 250"),
        ("kill -SEGV $$", "failed with status"),
        ("echo No matching flows; echo Cannot >&2", "nfdump says: 'Cannot'"),
    ],
)
def test_a_program_that_is_missing_or_fails_is_one_clear_error(
    tmp_path, monkeypatch, script, expected
):
    (tmp_path / "nfcapd.1").write_bytes(FILE)
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        program(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(SourceError, match=expected):
        exfilml.read_flows(tmp_path / "nfcapd.1")


def test_what_a_failing_program_printed_is_kept_and_told(tmp_path, monkeypatch):
    (tmp_path / "nfcapd.1").write_bytes(FILE)
    program(tmp_path / "bin", f'echo "{LINE}"; echo Short read >&2', monkeypatch)
    with pytest.warns(SourceWarning, match="Short read"):
        assert len(exfilml.read_flows(tmp_path / "nfcapd.1")) == 1


def test_a_program_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / "nfcapd.1").write_bytes(FILE)
    mine = tmp_path / "pid"
    script = f'case "$1" in -q) echo $$ >{mine}; echo "{LINE}"; exec sleep 600;; esac'
    program(tmp_path / "bin", script, monkeypatch)
    monkeypatch.setattr(_nfcapd, "_SILENCE", 1.0)
    with pytest.warns(SourceWarning, match="said nothing for 1 s, and was ended"):
        assert len(exfilml.read_flows(tmp_path / "nfcapd.1")) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(mine.read_text()), 0)


def test_nobody_who_stops_reading_leaves_a_program_behind(tmp_path, monkeypatch):
    (tmp_path / "nfcapd.1").write_bytes(FILE)
    mine = tmp_path / "pid"
    script = f'case "$1" in -q) echo $$ >{mine}; exec yes "{LINE}";; esac'
    program(tmp_path / "bin", script, monkeypatch)
    pieces = _nfcapd.stream(tmp_path / "nfcapd.1", options())
    next(pieces)
    pieces.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mine.read_text()), 0)


def options():
    from exfilml.sources._pool import WorkerPool
    from exfilml.sources._reading import Options

    return Options(WorkerPool())


@installed
@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 600), st.integers(0, 30), st.binary(max_size=20)),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, edits):
    folder = tmp_path_factory.getbasetemp() / "sound"
    made = list(folder.glob("nfcapd.2*")) if folder.exists() else []
    path = made[0] if made else collect(folder, v5(there(), back()))
    data = bytearray(path.read_bytes())
    for at, cut, put in edits:
        data[at : at + cut] = put
    damaged = tmp_path_factory.mktemp("fuzz") / "nfcapd"
    damaged.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(damaged, timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


@installed
@real
@pytest.mark.parametrize(
    "path", sorted([*NFDUMP.glob("*.nfcapd"), *NFDUMP.glob("*.nfdump")]),
    ids=lambda p: p.name,
)  # fmt: skip
def test_totals_equal_those_that_nfdump_adds_up(path):
    assert totals(exfilml.read_flows(path)) == own_totals(path)


@installed
@real
def test_a_file_of_nfcapd_and_its_csv_are_the_same_flows():
    own = exfilml.read_flows(NFDUMP / "slips-test1-malicious.nfdump")
    printed = exfilml.read_flows(
        NFDUMP / "slips_test1-malicious.nfdump.csv", timezone="Europe/Prague"
    )
    assert (len(own), totals(own)) == (len(printed), totals(printed))
