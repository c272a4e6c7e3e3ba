"""Packets a second with payload evidence, side by side with bare NFStream.

Run as ``python tests/benchmarks/bench_extraction.py [CAPTURE] [--packets N] [--large]``.

All sides read the same file with the same options and one meter, in turns, in one
run; the median of the turns counts. Bare NFStream is its own streamer without any
plugin, with statistics, flows iterated; it meters in a process of its own, so it has
two cores. Ours are the meter as it runs in a worker, rows included, by the compiled
loop and by the plugin; the loop alone, nothing judged and no rows made; and
`exfilml.read_flows` as a whole, with the start of its worker process, and again, with
the worker that is left. For comparison, the same evidence by an ordinary plugin that
looks at every packet; and, where it is on the path, nDPI's own `ndpiReader`, which is
another program for another purpose: it classifies flows and counts, reads no payload
beyond that, and makes no table. It runs as it comes, and with as few packets of a flow
to classify it by as NFStream looks at, tunnels opened as ours are. It has one thread,
whatever it is told, for a file; our meter has three, and is compared on one core, too.

Beside the wall clock stands the processor time of all threads and processes. The traffic
that is made has whole packets. It is read twice: once all flows end with the capture, so
that nothing is judged before, and once they end throughout, as they do in any capture
of hours.

Then: what two cores are good for; how long reading a tiny file takes from the start of
Python, and how many tiny files a second are read; the peak memory of a worker over
short flows, a million of them with ``--large`` (1.3 GB in the folder for temporary
files, several minutes).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import captures
from nfstream import NFPlugin, NFStreamer

from exfilml import payload, read_flows
from exfilml.sources import _engine, _engine_loop, _pool
from exfilml.sources._job import Job
from exfilml.sources._meter import meter, meter_by_plugin
from exfilml.sources._plugin import FlowState, transport
from exfilml.sources._rows import DISSECTIONS, SNAPSHOT

ROUNDS = 5
AS_WE_DO = ("-t", "-T", str(DISSECTIONS), "-U", str(DISSECTIONS))


class OrdinaryPlugin(NFPlugin):
    """Samples as ours do, by NFStream's own means."""

    def on_init(self, packet: object, flow: object) -> None:
        """Begin."""
        flow.udps.state = FlowState(flow)
        self.on_update(packet, flow)

    def on_update(self, packet: object, flow: object) -> None:
        """Sample."""
        size = packet.payload_size
        if size:
            side = flow.udps.state.sides[packet.direction]
            side.payload += size
            if not side.full or side.is_due(size):
                start, _ = transport(packet.ip_packet)
                start += packet.transport_size - size
                side.keep(packet.ip_packet[start : start + size], size)

    def on_expire(self, flow: object) -> None:
        """Judge."""
        for side in flow.udps.state.sides:
            payload.judge_stream(
                bytes(side.head),
                bytes(side.slices),
                stream_bytes=side.payload,
                protocol=flow.protocol,
                packets=side.packets,
            )
        flow.udps.state = None


def bare(path: Path, plugin: NFPlugin | None = None) -> int:
    streamer = NFStreamer(
        source=str(path),
        n_meters=1,
        accounting_mode=1,
        statistical_analysis=True,
        snapshot_length=SNAPSHOT,
        udps=plugin,
    )
    return sum(flow.bidirectional_packets for flow in streamer)


def ours(path: Path, way: Callable = meter) -> int:
    batches: list = []
    way(Job(str(path), None, 120, 1800, True, str(path)), batches.append)
    return sum(sum(b.column(n).to_pylist()) for b in batches for n in PACKETS)


class Uncounted(_engine._Flows):
    """Takes the flows, and makes nothing of them."""

    packets = 0

    def add(self, outbox: _engine_loop.Outbox, count: int) -> None:
        """Count their packets."""
        rows = outbox.rows[:count]
        one, two = rows["src2dst_packets"], rows["dst2src_packets"]
        Uncounted.packets += int(one.sum() + two.sum())


def loop_alone(path: Path) -> int:
    judging, _engine._Flows = _engine._Flows, Uncounted
    Uncounted.packets = 0
    ours(path)
    _engine._Flows = judging
    return Uncounted.packets


PACKETS = ("src_packets", "dst_packets")


def again(path: Path) -> int:
    flows = read_flows(path, progress=False)
    return int(flows[list(PACKETS)].sum().sum())


def whole(path: Path) -> int:
    _pool.RESERVE.clear()
    return again(path)


def on_one_core(path: Path) -> int:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:1])
    try:
        return ours(path)
    finally:
        os.sched_setaffinity(0, cores)


def ndpi_reader(path: Path, *options: str) -> int:
    done = subprocess.run(
        ["ndpiReader", *options, "-i", path],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(re.search(r"IP packets:\s+(\d+)", done.stdout)[1])


def ndpi_version() -> str | None:
    if shutil.which("ndpiReader") is None:
        return None
    done = subprocess.run(
        ["ndpiReader", "--help"], check=False, capture_output=True, text=True
    )
    return re.search(r"nDPI ([\w.-]+)", done.stdout + done.stderr)[1]


def processor_time() -> float:
    """Of this process and of all children that were waited for."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(r.ru_utime + r.ru_stime for r in map(resource.getrusage, who))


def compare(path: Path) -> None:
    payload.warm_up()
    runs: dict[str, Callable[[Path], int]] = {
        "NFStream, no plugin": bare,
        "NFStream, ordinary plugin": lambda p: bare(p, OrdinaryPlugin()),
        "exfilml loop alone": loop_alone,
        "exfilml meter, plugin": lambda p: ours(p, meter_by_plugin),
        "exfilml meter": ours,
        "exfilml meter, one core": on_one_core,
        "exfilml.read_flows": whole,
        "exfilml.read_flows, again": again,
    }
    ndpi = ndpi_version()
    if ndpi is None:
        print("ndpiReader is not on the path (Debian: libndpi-bin); not compared")
    else:
        runs[f"ndpiReader {ndpi}"] = ndpi_reader
        runs[f"ndpiReader {ndpi} -t -T20 -U20"] = lambda p: ndpi_reader(p, *AS_WE_DO)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    used: dict[str, list[float]] = {name: [] for name in runs}
    counts = {}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            before, cpu = time.perf_counter(), processor_time()
            counts[name] = run(path)
            seconds[name].append(time.perf_counter() - before)
            used[name].append(processor_time() - cpu)
    ours_alike = {n: count for n, count in counts.items() if "ndpiReader" not in n}
    assert len(set(ours_alike.values())) == 1, counts
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["NFStream, no plugin"]
    print(f"{path.name}: {counts['exfilml meter']:,} packets, median of {ROUNDS}")
    for name, median in medians.items():
        rate = counts["exfilml meter"] / median
        took = "" if name in ours_alike else f"   ({counts[name]:,} are IP, it says)"
        # A worker that is left is not waited for, and its time not known.
        cpu = "     - "
        if "read_flows" not in name:
            cpu = f"{statistics.median(used[name]):5.2f} s"
        print(
            f"  {name:28} {rate:10,.0f} packets/s   {base / median:5.2f} x"
            f"   processor {cpu}{took}"
        )


# Each in a process of its own, confined to as many cores, its workers with it.
TIMED = """
import os, sys, time, warnings
cores, jobs, copies, path = (*map(int, sys.argv[1:4]), sys.argv[4])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from exfilml import read_flows
read_flows([path] * jobs, n_jobs=jobs, progress=False)
before = time.perf_counter()
read_flows([path] * copies, n_jobs=jobs, progress=False)
print(time.perf_counter() - before)
"""


def scale(path: Path, copies: int = 4) -> None:
    """Workers started before."""
    ways = {
        (cores, jobs, count): []
        for count in (copies, 1)
        for cores, jobs in ((1, 1), (2, 1), (2, 2))[: 3 if count > 1 else 2]
    }
    if len(os.sched_getaffinity(0)) < 2:
        print("two cores against one: not measured, there is one only")
        return
    for _ in range(ROUNDS):
        for way, seconds in ways.items():
            arguments = [*map(str, way), str(path)]
            done = subprocess.run(
                [sys.executable, "-c", TIMED, *arguments],
                check=True,
                capture_output=True,
                text=True,
            )
            seconds.append(float(done.stdout))
    medians = {way: statistics.median(seconds) for way, seconds in ways.items()}
    for (cores, jobs, count), median in medians.items():
        ratio = medians[1, 1, count] / median
        print(
            f"files: {count}, cores: {cores}, jobs: {jobs}: {median:.2f} s, {ratio:.2f} x"
        )


def start_up(folder: Path) -> None:
    path = captures.write_pcap(folder / "tiny.pcap", captures.udp_flow([b"x" * 80]))
    code = (
        "import time, exfilml\n"
        f"read = lambda: exfilml.read_flows({str(path)!r}, progress=False)\n"
        "read()\n"
        "before = time.perf_counter()\n"
        "read()\n"
        "print(time.perf_counter() - before)"
    )
    first, second, pandas = [], [], []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True
        )
        second.append(float(done.stdout))
        first.append(time.perf_counter() - before - second[-1])
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pandas"], check=True)
        pandas.append(time.perf_counter() - before)
    print(
        f"a tiny file, from the start of Python: {statistics.median(first):.2f} s; "
        f"read again: {statistics.median(second):.2f} s; "
        f"Python and pandas alone: {statistics.median(pandas):.2f} s"
    )


def many_files(folder: Path, count: int = 300) -> None:
    names = folder / "many"
    names.mkdir()
    for n in range(count):
        frames = captures.tcp_upload(captures.noise(9000, n))
        captures.write_pcap(names / f"{n}.pcap", frames)
    code = (
        "import exfilml\n"
        "flows = exfilml.read_flows({!r}, n_jobs={}, progress=False)\n"
        "assert len(flows) == {}"
    )
    for jobs in (1, 2):
        before = time.perf_counter()
        whole = code.format(str(names), jobs, count)
        subprocess.run([sys.executable, "-c", whole], check=True)
        rate = count / (time.perf_counter() - before)
        print(
            f"{count} tiny files, {jobs} jobs, from the start of Python: "
            f"{rate:.0f} files/s"
        )


def memory(folder: Path, flows: int) -> None:
    path = captures.write_short_flows(folder / "short.pcap", flows)
    _pool.RESERVE.clear()
    peaks, took = [], []
    for _ in range(3):
        before = time.perf_counter()
        assert len(read_flows(path, progress=False)) == flows
        took.append(time.perf_counter() - before)
        (worker,) = _pool.RESERVE._idle
        status = Path(f"/proc/{worker._process.pid}/status").read_text()
        peaks.append(int(status.split("VmHWM:")[1].split()[0]) // 1024)
    print(
        f"{flows:,} flows of 10 packets: a worker's peak after runs 1, 2, 3: "
        f"{', '.join(map(str, peaks))} MiB; {statistics.median(took):.1f} s"
    )
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", nargs="?", type=Path)
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = options.capture
        if path is None:
            path = Path(folder) / "in-turn.pcap"
            frames = captures.traffic_in_turn(5000, options.packets)
            compare(captures.write_pcap(path, frames))
            path = Path(folder) / "mixed.pcap"
            frames = captures.traffic(5000, options.packets)
            captures.write_pcap(path, frames)
        compare(path)
        scale(path)
        start_up(Path(folder))
        many_files(Path(folder))
        memory(Path(folder), 50_000)
        if options.large:
            memory(Path(folder), 1_000_000)


if __name__ == "__main__":
    main()
