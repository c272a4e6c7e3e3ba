"""The compiled loop gives what NFStream's own loop gives, or is not used."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import captures as c
import kept
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nfstream.engine import create_engine
from nfstream.meter import meter_workflow

from exfilml import payload
from exfilml.exceptions import SourceWarning
from exfilml.sources import (
    _engine,
    _engine_abi,
    _engine_loop,
    _meter,
    _pcap,
    _plugin,
    _tables,
    read_flows,
)
from exfilml.sources._job import Job
from exfilml.sources._meter import meter, meter_by_plugin
from exfilml.sources._reading import Options
from exfilml.sources._rows import MeterError

REAL = os.environ.get("EXFILML_REAL_DATA")
SOURCES = c.encapsulations()
OPTIONS = {
    "default": {},
    "short timeouts": {"idle_timeout": 1, "active_timeout": 2},
    "no tunnels": {"decode_tunnels": False},
    "filter": {"bpf_filter": "tcp or udp port 9999"},
}


def job(path: Path, **options) -> Job:
    defaults = {"bpf_filter": None, "idle_timeout": 120, "active_timeout": 1800}
    defaults["decode_tunnels"] = True
    return Job(str(path), **{**defaults, **options}, shown=path.name)


def outcome(way, task: Job) -> tuple:
    """Rows in their order and with their types, what else was found, or the error."""
    batches = []
    try:
        found = way(task, batches.append)
    except MeterError as error:
        return "refused", str(error)
    # As text, so that a missing figure equals a missing figure.
    rows = [repr(row) for batch in batches for row in batch.to_pylist()]
    return rows, asdict(found), {batch.schema.to_string() for batch in batches}


def ways(path: Path, **options) -> tuple[tuple, tuple]:
    """Read a capture by the compiled loop, and by the plugin."""
    task = job(path, **options)
    return outcome(_engine.meter_compiled, task), outcome(meter_by_plugin, task)


def both(path: Path, **options) -> tuple:
    compiled, plain = ways(path, **options)
    assert compiled == plain, path.name
    return compiled


def differs(path: Path, **options) -> bool:
    """Say whether the ways differ over a capture whose headers may be cut or forged.

    Of a packet that ends within its headers NFStream reads what lies behind it in
    memory, which is never the same: such captures agree nearly always. That they can
    be read at all, or not, is the same in any case.
    """
    compiled, plain = ways(path, **options)
    assert (compiled[0] == "refused") == (plain[0] == "refused"), path.name
    return compiled != plain


@pytest.fixture
def judged(monkeypatch) -> list[tuple]:
    """Record what is handed to the payload room."""
    seen = []
    judge = payload.judge_many

    def record(samples):
        seen.extend(kept.handed_on(samples))
        return judge(samples)

    monkeypatch.setattr(payload, "judge_many", record)
    return seen


def test_this_machine_uses_the_compiled_loop():
    """Else all other tests here would compare a loop with itself."""
    assert _meter.objection() is None


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", SOURCES)
def test_rows_types_order_and_samples_are_those_of_the_plugin(
    kind, options, tmp_path, judged
):
    link, frames = SOURCES[kind]
    path = c.write_pcap(tmp_path / "x.pcap", frames, link=link)
    task = job(path, **OPTIONS[options])
    plain, plainly = outcome(meter_by_plugin, task), judged.copy()
    judged.clear()
    assert outcome(_engine.meter_compiled, task) == plain
    assert judged == plainly


@pytest.mark.parametrize("snap", [142, 200])
@pytest.mark.parametrize("kind", ["ethernet", "ipv6 extensions", "vxlan", "errors"])
def test_snapshots_that_cut_payload_change_nothing(kind, snap, tmp_path):
    both(c.write_pcap(tmp_path / "x.pcap", SOURCES[kind][1], snap=snap))


@pytest.mark.parametrize("snap", [20, 34, 43, 54, 80])
@pytest.mark.parametrize("kind", ["ethernet", "ipv6 extensions", "vxlan", "errors"])
def test_snapshots_that_cut_headers_are_read_or_refused_alike(kind, snap, tmp_path):
    differs(c.write_pcap(tmp_path / "x.pcap", SOURCES[kind][1], snap=snap))


def test_pcapng_and_its_damage_change_nothing(tmp_path):
    path = c.write_pcapng(tmp_path / "x.pcapng", SOURCES["uploads"][1])
    assert len(both(path)[0]) == 3
    sound = path.read_bytes()
    for stop in (30, 200, 5000, len(sound) - 3):
        path.write_bytes(sound[:stop])
        both(path)


def test_what_cannot_be_opened_is_refused_in_the_same_words(tmp_path):
    path = tmp_path / "x.pcap"
    for data in (b"", b"\xd4\xc3\xb2\xa1", b"no capture at all" * 9):
        path.write_bytes(data)
        assert both(path)[0] == "refused"
    c.write_pcap(path, [])
    assert both(path, bpf_filter="no filter (")[0] == "refused"


def damage(data: bytes, rng: random.Random) -> bytes:
    """Change bytes, cut the end, or move a stretch, behind the file's header."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4, 20, 200))):
        at = rng.randrange(24, len(changed))
        how = rng.random()
        if how < 0.5:
            changed[at] = rng.randrange(256)
        elif how < 0.8:
            changed[at] ^= 1 << rng.randrange(8)
        elif how < 0.9:
            changed[at : at + 4] = rng.choice(
                (b"\xff" * 4, bytes(4), b"\x00\x00\x00\x7f")
            )
        else:
            other = rng.randrange(24, len(changed))
            changed[at : at + 40] = changed[other : other + 40]
    if rng.random() < 0.2:
        del changed[rng.randrange(24, len(changed)) :]
    return bytes(changed)


def write_damaged(folder: Path, seed: int) -> Path:
    rng = random.Random(seed)
    kinds = [kind for kind in SOURCES if kind not in ("many", "nothing", "no ip")]
    link, frames = SOURCES[rng.choice(kinds)]
    if link == c.ETHERNET and rng.random() < 0.2:
        path = c.write_pcapng(folder / f"{seed}.pcap", frames)
    else:
        path = c.write_pcap(folder / f"{seed}.pcap", frames, link=link)
    path.write_bytes(damage(path.read_bytes(), rng))
    return path


def test_damaged_captures_give_the_same(tmp_path):
    others = sum(differs(write_damaged(tmp_path, seed)) for seed in range(60))
    assert others <= 3


COMPARE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_engine
others = 0
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    path = test_engine.write_damaged(Path(sys.argv[2]), seed)
    others += test_engine.differs(path)
    others += test_engine.differs(path, idle_timeout=1, active_timeout=2)
    path.unlink()
assert others <= 10, others
"""


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_two_thousand_damaged_captures_give_the_same(block, tmp_path):
    """In processes of their own, which a crash would end."""
    first = 1000 + 250 * block
    arguments = [
        str(Path(__file__).parent),
        str(tmp_path),
        str(first),
        str(first + 250),
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_two_thousand_damaged_captures_are_read_through_the_door(block, tmp_path):
    """None ends or stops a worker, and each is in the table or told of."""
    seeds = range(5000 + 500 * block, 5500 + 500 * block)
    paths = [write_damaged(tmp_path, seed) for seed in seeds]
    with pytest.warns(SourceWarning) as warned:
        flows = read_flows(paths, progress=False)
    texts = [str(one.message) for one in warned]
    assert not any("stopped" in text for text in texts), texts

    def told(what: str) -> int:
        found = (re.match(rf"(\d+) of \d+ files {what}", text) for text in texts)
        return sum(int(one[1]) for one in found if one)

    absent = len(paths) - flows["sensor"].nunique()
    least = told("could not be read") + told("without IP packets")
    assert least <= absent <= least + told("with impossible times")


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
@pytest.mark.parametrize("folder", ["benign", "attack"])
def test_real_captures_give_the_same(folder):
    paths = sorted(
        p for p in Path(REAL, "pcap", folder).rglob("*.pcap*") if p.is_file()
    )
    assert len(paths) > 20
    for path in paths:
        both(path)
        both(path, idle_timeout=5, active_timeout=10)


@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
def test_in_parts_of_a_capture_flows_are_named_otherwise(monkeypatch):
    """Why a capture is not split over cores: a limit of NFStream's own fan-out."""

    def read(roots: int, root: int) -> list[str]:
        def part(**options):
            lock = threading.Lock()
            # The last of the meters lets all others begin.
            if root == roots - 1:
                lock.acquire()
            options |= {"n_roots": roots, "root_idx": root, "lock": lock}
            return meter_workflow(**options)

        monkeypatch.setattr(_meter, "meter_workflow", part)
        return outcome(meter_by_plugin, job(path))[0]

    path = Path(REAL, "pcap", "benign", "stun_signal.pcapng")
    whole, parts = read(1, 0), [row for root in range(2) for row in read(2, root)]
    assert len(parts) == len(whole)
    assert sorted(parts) != sorted(whole)


# --- memory ----------------------------------------------------------------------


def test_memory_follows_the_flows_that_live(tmp_path, monkeypatch):
    """Pages come back when flows end; one after the other, flows need one block."""
    runs = []

    class Watched(_engine._Run):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            runs.append(self)

    monkeypatch.setattr(_engine, "_Run", Watched)
    frames = [
        frame
        for n in range(3000)
        for frame in c.udp_flow(
            [c.noise(400, n)] * 8, sport=10_000 + n, start=c.START + 2 * n
        )
    ]
    path = c.write_pcap(tmp_path / "x.pcap", frames)
    rows, _, _ = outcome(_engine.meter_compiled, job(path, idle_timeout=1))
    assert len(rows) == 3000
    (run,) = runs
    assert len(run._blocks) == 1
    assert run._memory.flows.size == _engine.FIRST_FLOWS
    assert run._clocks[0]["free_pages"] == _engine_loop.PAGES_PER_BLOCK
    assert (run._memory.table < 0).all()
    # The same, all at once: everything grows, and nothing changes.
    together = sorted((c.START + n % 8, frame) for n, (_, frame) in enumerate(frames))
    rows, *_ = both(c.write_pcap(path, together))
    assert len(rows) == 3000
    run = next(r for r in runs[1:] if r._blocks)
    assert len(run._blocks) > 1
    assert run._clocks[0]["free_pages"] == len(run._blocks) * 4096
    assert (run._memory.pages < 0).all()


def test_a_flow_in_many_parts_is_one(tmp_path):
    """Cut by the active timeout, and turned round by it: one row, all samples."""
    frames = [
        (time + 0.001 * n, frame)
        for n in range(3)
        for time, frame in c.tcp_upload(
            c.noise(60_000, n), sport=40_000 + n, step=0.4, answer=c.text(3000)
        )
    ]
    path = c.write_pcap(tmp_path / "x.pcap", sorted(frames))
    cut = both(path, active_timeout=1)
    assert len(cut[0]) == 3
    assert sorted(cut[0]) == sorted(both(path, active_timeout=1000)[0])


def test_an_interrupted_caller_does_not_wait_for_the_end(tmp_path, monkeypatch):
    """However few flows there are to tell of meanwhile."""
    calls = []
    run = _engine_loop.run

    def slowly(*arguments):
        calls.append(run(*arguments[:-1], 10))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        return calls[-1]

    monkeypatch.setattr(_engine_loop, "run", slowly)
    path = c.write_pcap(tmp_path / "x.pcap", c.udp_flow([b"x"] * 50_000, step=0.0001))
    # What runs in the background of a shell is deaf to it.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _engine.meter_compiled(job(path), lambda _: None)
    finally:
        signal.signal(signal.SIGINT, heard)
    assert len(calls) < 1000


# --- parts of the loop -----------------------------------------------------------


QUOTES = st.builds(
    lambda packet, cut, tail: packet[:cut] + tail,
    st.one_of(
        st.builds(
            lambda kind, size, options: c.ip4(
                c.CLIENT, c.SERVER, kind, bytes(size), options=options
            ),
            st.sampled_from([1, 6, 17, 99]),
            st.integers(0, 80),
            st.sampled_from([0, 8, 40]),
        ),
        st.builds(
            lambda kind, size: c.ip6(c.CLIENT6, "ff02::1", kind, bytes(size)),
            st.sampled_from([6, 17, 58, 99]),
            st.integers(0, 80),
        ),
        st.binary(max_size=200),
    ),
    st.integers(20, 400),
    st.sampled_from([b"", bytes(120), bytes(128) + b"\x20\x00", b"x"]),
)


@given(QUOTES, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3))
@settings(max_examples=400, deadline=None)
def test_quotes_are_told_as_the_payload_room_does(data, changes):
    changed = bytearray(data)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    told = _engine_loop.is_quote(np.frombuffer(bytes(changed), np.uint8))
    assert bool(told) == payload.is_quote(bytes(changed))


@given(
    st.sampled_from([0x45, 0x4F, 0x60, 0x00]),
    st.lists(st.sampled_from([0, 6, 17, 43, 44, 60, 135, 255, 1]), max_size=120),
)
@settings(max_examples=300, deadline=None)
def test_transport_headers_are_found_as_the_plugin_does(first, rest):
    packet = bytes([first, *rest])
    found = _engine_loop.transport_start(
        np.frombuffer(packet, np.uint8), packet[0] >> 4 == 4
    )
    if packet[0] >> 4 == 4 and len(packet) < 10:
        return  # the plugin asks for the protocol, too
    assert found == _plugin.transport(packet)[0]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=120),
    st.sampled_from([1, 3, 2**32 - 1]),
)
@settings(max_examples=150, deadline=None)
def test_the_table_finds_what_is_in_it(steps, spread):
    """Whatever was put in and taken out, also with colliding hashes."""
    flows = np.zeros(41, _engine_loop.FLOW)
    flows["hash"] = [number % 5 * spread for number in range(41)]
    table = np.full(128, -1, np.int64)
    inside = set()
    for put, number in steps:
        if put and number not in inside:
            _engine_loop._insert(table, flows, number)
            inside.add(number)
        elif not put and number in inside:
            _engine_loop._remove(table, flows, number)
            inside.discard(number)
        assert set(table[table >= 0].tolist()) == inside
        for one in inside:
            at = flows["hash"][one] & 127
            while table[at] != one:
                assert table[at] >= 0
                at = (at + 1) & 127


def test_hashes_are_seeded_anew_for_every_file():
    """No capture can be made to force collisions."""
    packets = np.zeros(1, _engine_abi.layout("nf_packet"))
    engine = _engine_loop.Engine(*[0] * len(_engine_loop.Engine._fields))
    one, two = (_engine._Run(packets, engine)._memory.keys for _ in range(2))
    assert (one != two).all()
    assert one.size == 13


# --- the guard -------------------------------------------------------------------


@pytest.fixture
def unsure(monkeypatch):
    """Ask for objections anew, now and afterwards."""
    _meter.objection.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    _meter.objection.cache_clear()


class OtherEngine:
    """The engine, calling itself something else."""

    def __getattr__(self, name):
        return getattr(create_engine()[1], name)

    def engine_lib_version(self):
        """Answer in C, as the engine does."""
        return create_engine()[0].new("char[]", b"6.6.1")


def other_version(monkeypatch):
    monkeypatch.setattr("nfstream.__version__", "6.7.0")


def other_engine(monkeypatch):
    ffi, _ = create_engine()
    monkeypatch.setattr(_engine_abi, "engine", lambda: (ffi, OtherEngine()))


def other_prototype(monkeypatch):
    monkeypatch.setitem(_engine_abi.FUNCTIONS, "meter_free_flow", "void(*)(void *)")


def other_field(monkeypatch):
    monkeypatch.setitem(_engine_abi._PACKET, "payload_size", "uint32_t")


def missing_field(monkeypatch):
    monkeypatch.setitem(_engine_abi._FLOW, "ja4", "char[48]")


def other_compiler(monkeypatch):
    def fail():
        raise AttributeError("as_pointer")

    monkeypatch.setattr(_engine, "warm_up", fail)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_version, "NFStream 6.7.0 was not tested with it, only 6.6.0"),
        (other_engine, "NFStream's engine calls itself 6.6.1"),
        (other_prototype, "meter_free_flow of NFStream's engine is a void"),
        (other_field, "payload_size in nf_packet of NFStream's engine is uint16_t"),
        (missing_field, "ja4 in nf_flow of NFStream's engine is missing"),
        (other_compiler, "it cannot be made ready (AttributeError: as_pointer)"),
    ],
)
def test_an_engine_that_is_not_the_tested_one_is_driven_by_nfstream(
    change, reason, tmp_path, unsure
):
    change(unsure)
    assert reason in _meter.objection()
    unsure.setattr(_engine, "meter_compiled", None)
    path = c.write_pcap(tmp_path / "x.pcap", SOURCES["ethernet"][1])
    assert len(outcome(meter, job(path))[0]) > 3


def test_the_slow_way_is_told_once(tmp_path, caplog):
    class Plain:
        def run(self, job, advance):
            found = {"damage": None, "oversized": 0, "fragments": 0, "impossible": 0}
            return [], {**found, "announced": [], "plain": "a reason\x1b"}

    caplog.set_level(logging.INFO)
    path = c.write_pcap(tmp_path / "x.pcap", [])
    for _ in range(3):
        _pcap.read(path, Options(Plain()))
    (record,) = [r for r in caplog.records if r.name.startswith("exfilml")]
    assert record.levelno == logging.INFO
    assert "slowly: a reason" in record.getMessage()


def test_flows_through_the_worker_are_those_of_the_plugin(tmp_path):
    """The worker, its transfer and the table included."""
    path = c.write_pcap(tmp_path / "x.pcap", SOURCES["many"][1])

    class Here:
        def run(self, job, advance):
            batches = []
            found = asdict(meter_by_plugin(job, batches.append))
            return batches, {**found, "damage": None, "oversized": 0, "fragments": 0}

    plain = _tables.join([_pcap.read(path, Options(Here())).flows])
    assert read_flows(path, progress=False).equals(plain)
