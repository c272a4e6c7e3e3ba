"""Months of flows: files in any order, one model; an interrupted run goes on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sites import office

from exfilml import (
    Detector,
    apply_labels,
    cli,
    load_model,
    read_flows,
    read_labels,
    save_model,
    spool,
)
from exfilml.chunks import LEARNED, in_time_order
from exfilml.cli import _train
from exfilml.exceptions import (
    BaselineError,
    OptionError,
    OutputError,
    SourceError,
    SourceWarning,
)
from exfilml.schema import validate_flows
from exfilml.sources import write_flows
from exfilml.spool import Span, Spool

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def flows():
    """Five days of a site; a third of the flows come from a sensor without payload."""
    seen, bare = office(1000), office(500, seed=1, payload=False)
    every = pd.concat([seen, bare], ignore_index=True)
    return every.assign(start=every["start"].dt.floor("1min"))


@pytest.fixture(scope="module")
def months(flows, tmp_path_factory):
    """Those flows in seven files: overlapping, unsorted, one without payload, one empty."""
    folder = tmp_path_factory.mktemp("months")
    rng = np.random.default_rng(0)
    cuts = np.array_split(rng.permutation(1000), 5)
    for number, rows in enumerate([*cuts, np.arange(1000, 1500), rows_of_none()]):
        write_flows(flows.iloc[rows], folder / f"{number}.parquet")
    return sorted(folder.iterdir())


def rows_of_none():
    return np.arange(0)


def model_bytes(detector, folder):
    save_model(detector, folder / "m")
    return (folder / "m").read_bytes()


def trained(folder, files, **options):
    """A model by way of a spool, as bytes."""
    kept = Spool(folder / "spool")
    kept.fill(files, **options)
    detector = Detector(random_state=0, n_estimators=10)
    detector.fit_stream(kept.tables(), kept.n_flows, home=kept.home)
    return model_bytes(detector, folder)


@pytest.fixture(scope="module")
def expected(flows, tmp_path_factory):
    fitted = Detector(random_state=0, n_estimators=10).fit(flows)
    return model_bytes(fitted, tmp_path_factory.mktemp("expected"))


# --- the same model ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_jobs", "order"), [(1, "names"), (1, "reverse"), (3, "reverse"), (2, "folder")]
)
def test_order_of_files_and_workers_do_not_matter(
    months, expected, tmp_path, n_jobs, order
):
    files = {"names": months, "reverse": months[::-1], "folder": months[0].parent}[
        order
    ]
    assert trained(tmp_path, files, n_jobs=n_jobs) == expected


def test_a_file_given_twice_counts_once(months, expected, tmp_path):
    (tmp_path / "link").symlink_to(months[0])
    assert trained(tmp_path, [*months, months[2], tmp_path / "link"]) == expected


def test_what_comes_back_is_what_went_in(months, flows, tmp_path):
    """In order of time, every column that is learned from, in its type."""
    kept = Spool(tmp_path)
    kept.fill(months)
    tables = list(kept.tables())
    assert all(len(set(t["start"].dt.floor("h"))) == 1 for t in tables)
    actual = in_time_order(validate_flows(pd.concat(tables, ignore_index=True)))
    expected = in_time_order(flows)[list(LEARNED)]
    pd.testing.assert_frame_equal(actual, validate_flows(expected))


def test_columns_that_no_flow_shows_take_no_memory(months, tmp_path):
    kept = Spool(tmp_path)
    kept.fill(months)
    shown = {c for table in kept.tables() for c in table}
    assert {"start", "src_payload_bytes", "server_name"} <= shown
    assert not {"user_agent", "process", "src_xor_period", "sensor"} & shown


# --- going on after an interruption ----------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Count which files are read; stop at the one named in `reads.stop`."""

    class Reads(list):
        stop = None

    reads = Reads()
    read = spool._tables

    def tables(path, *zone, **options):
        if reads.stop == path.name:
            raise KeyboardInterrupt
        reads.append(path.name)
        return read(path, *zone, **options)

    monkeypatch.setattr(spool, "_tables", tables)
    return reads


def test_an_interrupted_run_goes_on_where_it_stopped(months, expected, tmp_path, reads):
    reads.stop = "4.parquet"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, months)
    assert reads == [f"{n}.parquet" for n in range(4)]
    reads.stop = None
    assert trained(tmp_path, months) == expected
    assert reads == [f"{n}.parquet" for n in range(7)]
    assert not list((tmp_path / "spool").glob("*.part"))
    assert trained(tmp_path, months) == expected
    assert len(reads) == 7


def test_what_an_interruption_left_is_removed(months, expected, tmp_path, monkeypatch):
    """Also where nothing could be tidied up, as when the power fails."""
    with monkeypatch.context() as broken:
        broken.setattr(spool.shutil, "rmtree", lambda *_, **__: None)
        broken.setattr(Path, "rename", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, months)
    (left,) = (tmp_path / "spool").glob("*.part")
    assert list(left.glob("*.parquet"))
    assert trained(tmp_path, months) == expected
    assert not left.exists()


def raise_interrupt(*_):
    raise KeyboardInterrupt


def test_a_file_that_has_changed_is_read_again(tmp_path, flows, reads):
    file = tmp_path / "flows.parquet"
    kept = Spool(tmp_path / "spool")
    for n in (300, 200):
        write_flows(flows.iloc[:n], file)
        kept = Spool(tmp_path / "spool")
        kept.fill(file)
        assert kept.n_flows == n
    assert len(reads) == 2


def test_a_spool_holds_files_of_several_runs(months, tmp_path, reads):
    """Only those that are asked for are learned from."""
    for files, n_flows in ((months[:2], 400), (months[:4], 800), (months[1:2], 200)):
        kept = Spool(tmp_path)
        kept.fill(files)
        assert kept.n_flows == n_flows
        assert sum(len(table) for table in kept.tables()) == n_flows
    assert len(reads) == 4


# --- time -------------------------------------------------------------------------------


def test_only_flows_of_the_time_asked_for(months, flows, tmp_path, reads):
    span = Span.parse("2026-03-03", "2026-03-04T12:00")
    kept = Spool(tmp_path, span)
    kept.fill(months)
    read = pd.concat(list(kept.tables()))
    inside = flows["start"].between("2026-03-03", "2026-03-04T11:59:59Z")
    assert len(read) == kept.n_flows == inside.sum() > 0
    assert read["start"].min() >= span.since
    assert read["start"].max() < span.until
    Spool(tmp_path).fill(months)
    assert len(reads) == 2 * len(months)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-01", "2026-03-01T00:00Z"),
        ("2026-03-01T06:30", "2026-03-01T06:30Z"),
        ("2026-03-01T06:30:15.5+02:00", "2026-03-01T04:30:15.5Z"),
        ("2026-03-01 06:30Z", "2026-03-01T06:30Z"),
    ],
)
def test_times_are_utc_where_nothing_else_is_said(text, time):
    assert Span.parse(text, None).since == pd.Timestamp(time)
    assert Span.parse(None, text).until == pd.Timestamp(time)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "01.03.2026", "2026-03-01T25:00", "9" * 30]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(
        OptionError, match=r"since: got .*expected a date or time in UTC"
    ):
        Span.parse(text, None)
    with pytest.raises(OptionError, match="until: got"):
        Span.parse(None, text)


@pytest.mark.parametrize("since", ["2026-03-02", "2026-03-03"])
def test_a_time_without_length_is_refused(since):
    with pytest.raises(OptionError, match="nothing lies between"):
        Span.parse(since, "2026-03-02")


def test_no_flows_of_the_time_asked_for(months, tmp_path):
    with pytest.raises(BaselineError, match="None of 7 files holds flows since 2027"):
        Spool(tmp_path, Span.parse("2027-01-01", None)).fill(months)


# --- what goes wrong ----------------------------------------------------------------------


def test_a_file_among_others_that_cannot_be_read_is_told(months, tmp_path, reads):
    """And tried again by the next run."""
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 and nothing else")
    (tmp_path / "worse.parquet").write_bytes(b"PAR1")
    for n_reads in (8, 9):
        with pytest.warns(SourceWarning, match=r"1 of 8 files could not be read.*bad"):
            Spool(tmp_path / "spool").fill([*months, bad])
        assert len(reads) == n_reads
    with pytest.raises(SourceError, match="not a readable Parquet file"):
        Spool(tmp_path / "spool").fill(bad)
    with pytest.raises(SourceError, match="None of 2 files"):
        Spool(tmp_path / "spool").fill([bad, tmp_path / "worse.parquet"])


def test_losses_are_told_again_by_the_next_run(tmp_path):
    """A capture cut off in the middle: its flows count, and what is lost is said."""
    whole = (ROOT / "datasets" / "sample" / "test.pcap").read_bytes()
    (tmp_path / "cut.pcap").write_bytes(whole[:200_001])
    for _ in range(2):
        kept = Spool(tmp_path / "spool")
        with pytest.warns(SourceWarning, match=r"cut\.pcap"):
            kept.fill(tmp_path / "cut.pcap")
        assert kept.n_flows > 10


def test_a_damaged_spool_is_told(months, tmp_path):
    kept = Spool(tmp_path)
    kept.fill(months[:1])
    (name,) = kept.sources
    part = next((tmp_path / name).glob("*.parquet"))
    part.write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=r"the spool is damaged.*Remove the folder"):
        list(kept.tables())
    (tmp_path / name / "source.json").write_text("{}")
    with pytest.raises(OutputError, match="the spool is damaged"):
        Spool(tmp_path).fill(months[:1])


def test_two_runs_do_not_share_a_spool(months, tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is using this spool"):
            Spool(tmp_path).fill(months)


def test_a_full_disk_is_told(months, tmp_path, monkeypatch):
    """The message names the folder: it may be a temporary one that nobody chose."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "_write", full)
    kept = Spool(tmp_path / "spool")
    with pytest.raises(OutputError, match=r"spool: flows cannot be kept .*No space"):
        kept.fill(months)
    assert not list(kept.folder.glob("*.part"))


def test_a_spool_must_not_hold_what_is_read(months, tmp_path):
    with pytest.raises(OptionError, match="a folder of its own"):
        Spool(months[0].parent).fill(months)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        Spool(tmp_path / "file").fill(months)


# --- the command line -------------------------------------------------------------------


@pytest.fixture
def run(capfd):
    def run(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert out == ""
        return status, err

    return run


def test_train_takes_files_in_any_order(months, tmp_path, run, monkeypatch):
    monkeypatch.setattr(_train, "SAY_EVERY_S", 0.0)
    monkeypatch.setattr(_train, "SAY_AFTER_S", 0.0)
    for name, files in (("a", months), ("b", [months[0].parent])):
        status, err = run("train", *files, "--model", tmp_path / name, "--jobs", 1)
        assert status == 0
        assert "trained on 1,500 flows" in err
        assert "reading: 1,500 flows (100%)" in err
        assert "flows/s" in err
        assert "learning: 1,500 flows (100%)" in err
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_train_of_a_time_and_update_of_what_follows(months, tmp_path, run):
    """An update of a model in place; what it knows is refused, and it stays as it is."""
    model, spool_ = tmp_path / "m", tmp_path / "spool"
    options = ("--until", "2026-03-05", "--spool", spool_, "-q")
    status, err = run("train", *months, "--model", model, *options)
    assert status == 0
    assert "2026-03-04 23:" in err
    before = model.read_bytes()
    status, err = run("train", *months, "--update", model, "-q")
    assert status == 2
    assert "before 2026-03-04 23:" in err
    assert "--since" in err
    assert model.read_bytes() == before
    later = ("--since", "2026-03-05", "--update", model, "-q")
    status, err = run("train", *months, *later, "--model", tmp_path / "n")
    assert status == 0
    assert "trained on 1,500 flows" in err
    assert model.read_bytes() == before
    status, err = run("train", *months, *later)
    assert status == 0
    assert model.read_bytes() == (tmp_path / "n").read_bytes() != before


@pytest.mark.slow
def test_quarantine_goes_with_a_spool_and_with_an_update(months, tmp_path, capsys):
    """And the spool is of use again: it holds all flows, the suspicious ones too."""

    def run(*arguments):
        return cli.run([str(a) for a in arguments]), capsys.readouterr().err

    model, spool_ = tmp_path / "m", tmp_path / "spool"
    options = ("--quarantine", "--spool", spool_, "-q")
    first = ("--until", "2026-03-05", "--model", model)
    status, err = run("train", *months, *first, *options)
    assert status == 0
    assert "flows are quarantined" in err
    before = model.read_bytes()
    assert run("train", *months, *first, *options) == (0, err)
    assert model.read_bytes() == before
    later = ("--since", "2026-03-05", "--update", model)
    status, err = run("train", *months, *later, *options)
    assert status == 0
    assert "flows are quarantined" in err
    assert model.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--model"),
        (("--model", "m", "--since", "never"), "since: got 'never'"),
        (("--update", "m", "--seed", 1), "--update keeps the model's"),
        (("--update", "m", "--home", "10.0.0.0/8"), "--update keeps the model's"),
    ],
)
def test_train_refuses_options_that_do_not_go_together(
    months, tmp_path, run, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    status, err = run("train", *months, *options)
    assert status == 2
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_go_on(months, tmp_path, run, reads):
    reads.stop = "4.parquet"
    command = ("train", *months, "--model", tmp_path / "m", "--jobs", 1, "-q")
    status, err = run(*command)
    assert (status, list(tmp_path.iterdir())) == (130, [])
    assert "with --spool DIR it is kept" in err
    kept = ("--spool", tmp_path / "spool")
    status, err = run(*command, *kept)
    assert status == 130
    assert f"what was read is kept in {tmp_path / 'spool'}" in err
    assert not (tmp_path / "m").exists()
    reads.stop = None
    before = len(reads)
    status, err = run(*command, *kept)
    assert status == 0
    assert reads[before:] == ["4.parquet", "5.parquet", "6.parquet"]
    assert (tmp_path / "m").exists()


def test_what_a_spool_knows_is_plain_text(months, tmp_path):
    kept = Spool(tmp_path)
    kept.fill(months[:1])
    (name,) = kept.sources
    about = json.loads((tmp_path / name / "source.json").read_text())
    assert about["path"] == str(months[0])
    assert about["rows"] == 200


# --- the lab ----------------------------------------------------------------------------


def test_p_values_of_an_updated_model_hold_in_the_lab(tmp_path):
    """Half of its baseline is learned, the other updates; later benign flows judge."""
    lab = ROOT / "datasets" / "lab" / "develop"
    baseline = read_flows(lab / "baseline.pcap.gz", progress=False)
    write_flows(baseline, tmp_path / "baseline.parquet")
    middle = baseline["start"].iloc[len(baseline) // 2].isoformat()
    model = tmp_path / "m"
    command = ["train", str(tmp_path / "baseline.parquet"), "-q"]
    assert cli.run([*command, "--until", middle, "--model", str(model)]) == 0
    assert cli.run([*command, "--since", middle, "--update", str(model)]) == 0
    detector = load_model(model)
    assert detector.n_flows_ == len(baseline)
    later = read_flows(lab / "test.pcap.gz", progress=False)
    labelled = apply_labels(later, read_labels(lab / "labels.csv"))["label"]
    scored = detector.score(later[labelled.isna()])
    learned = detector.learned_["payload"]
    for p, block in (
        (scored.p_value, learned.flows.block),
        (scored.case_p_value[~scored.apart], learned.cases.block),
    ):
        for alpha in (0.01, 0.05, 0.1, 0.2):
            error = np.sqrt(alpha * (1.0 - alpha) * (1.0 / len(block) + 1.0 / len(p)))
            assert (p <= alpha).mean() <= alpha + 3.0 * error
        # Nor are they large without reason.
        assert (p <= 0.2).mean() > 0.1


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_with_what_it_had_read(tmp_path):
    """Without a chance to tidy up: the next run reads the others, to the same model."""
    for number in range(6):
        write_flows(office(30_000, seed=number), tmp_path / f"{number}.parquet")
    files = [str(path) for path in sorted(tmp_path.glob("*.parquet"))]
    kept, model = tmp_path / "spool", tmp_path / "m"
    base = [sys.executable, "-m", "exfilml", "train", *files, "--jobs", "2"]
    command = [*base, "--model", str(model), "--spool", str(kept)]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not complete(kept):
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait(timeout=60) == -signal.SIGKILL
    first = complete(kept)
    assert 1 <= len(first) < 6
    assert not model.exists()
    subprocess.run(command, check=True, capture_output=True)
    assert not list(kept.glob("*.part"))
    known = complete(kept)
    assert len(known) == 6
    # What it had read was not read again.
    assert first.items() <= known.items()
    whole = [*base, "--model", str(tmp_path / "whole")]
    subprocess.run(whole, check=True, capture_output=True)
    assert model.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.slow
def test_ctrl_c_while_workers_read_leaves_what_the_next_run_goes_on_with(tmp_path):
    """A signal to the whole group, as a terminal sends it."""
    for number in range(6):
        write_flows(office(60_000, seed=number), tmp_path / f"{number}.parquet")
    files = [str(path) for path in sorted(tmp_path.glob("*.parquet"))]
    kept, model = tmp_path / "spool", tmp_path / "m"
    command = [sys.executable, "-m", "exfilml", "train", *files, "--model", str(model)]
    command += ["--spool", str(kept), "--jobs", "2"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    while not complete(kept):
        assert run.poll() is None
        time.sleep(0.02)
    # However far the workers have started: the caller alone hears it, and ends them.
    assert workers(run.pid) == [True, True]
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.decode().splitlines()[0].startswith("what was read is kept in ")
    assert "Traceback" not in err.decode()
    assert not model.exists()
    first = complete(kept)
    subprocess.run(command, check=True, capture_output=True)
    assert model.exists()
    assert not list(kept.glob("*.part"))
    known = complete(kept)
    assert len(known) == 6
    assert first.items() <= known.items()


def workers(caller):
    """Whether each process that reads for a caller is deaf to Ctrl-C."""
    deaf = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(
                line.split(":", 1)
                for line in (folder / "status").read_text().splitlines()
            )
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status["PPid"]) == caller and b"popen_loky" in command:
            ignored = int(status["SigIgn"], 16)
            deaf.append(bool(ignored >> (signal.SIGINT - 1) & 1))
    return deaf


def complete(kept):
    """Sources in a spool, and when each was written."""
    return {
        path: path.stat().st_mtime_ns
        for path in kept.glob("*/source.json")
        if path.parent.suffix != ".part"
    }
