"""Packets a second with payload evidence, side by side with bare NFStream.

Run as ``python tests/benchmarks/bench_extraction.py [CAPTURE] [--packets N]``.

All sides read the same file with the same options and one meter, in turns, in one
run; the median of the turns counts. Bare NFStream is its own streamer without any
plugin, with statistics, flows iterated; it meters in a process of its own, so it has
two cores. Ours are the meter as it runs in a worker, rows included, by the compiled
loop and by the plugin; the loop alone, nothing judged and no rows made; and
`exfilml.read_flows` as a whole, with the start of its worker process. For comparison,
the same evidence by an ordinary plugin that looks at every packet.

Then: how long reading a tiny file takes from the start of Python, how many tiny files
a second are read by one worker, and the peak memory of a worker over short flows.
"""

from __future__ import annotations

import argparse
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
from exfilml.sources import _engine, _engine_loop
from exfilml.sources._job import Job
from exfilml.sources._meter import meter, meter_by_plugin
from exfilml.sources._plugin import FlowState, transport
from exfilml.sources._rows import SNAPSHOT

ROUNDS = 5


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


def whole(path: Path) -> int:
    flows = read_flows(path, progress=False)
    return int(flows[list(PACKETS)].sum().sum())


def compare(path: Path) -> None:
    payload.warm_up()
    runs: dict[str, Callable[[Path], int]] = {
        "NFStream, no plugin": bare,
        "NFStream, ordinary plugin": lambda p: bare(p, OrdinaryPlugin()),
        "exfilml loop alone": loop_alone,
        "exfilml meter, plugin": lambda p: ours(p, meter_by_plugin),
        "exfilml meter": ours,
        "exfilml.read_flows": whole,
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counts = {}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            before = time.perf_counter()
            counts[name] = run(path)
            seconds[name].append(time.perf_counter() - before)
    assert len(set(counts.values())) == 1, counts
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["NFStream, no plugin"]
    print(f"{path.name}: {counts['exfilml meter']:,} packets, median of {ROUNDS}")
    for name, median in medians.items():
        rate = counts[name] / median
        print(f"  {name:28} {rate:10,.0f} packets/s   {base / median:5.2f} x")


def scale(path: Path, copies: int = 4) -> None:
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for jobs, values in times.items():
            before = time.perf_counter()
            read_flows([path] * copies, n_jobs=jobs, progress=False)
            values.append(time.perf_counter() - before)
    one, two = (statistics.median(values) for values in times.values())
    print(f"{copies} files: 1 job {one:.2f} s, 2 jobs {two:.2f} s, {one / two:.2f} x")


def start_up(folder: Path) -> None:
    path = captures.write_pcap(folder / "tiny.pcap", captures.udp_flow([b"x" * 80]))
    code = f"import exfilml; exfilml.read_flows({str(path)!r}, progress=False)"
    times = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - before)
    print(f"tiny file, from the start of Python: {statistics.median(times):.2f} s")


def many_files(folder: Path, count: int = 300) -> None:
    paths = [
        captures.write_pcap(
            folder / f"tiny{n}.pcap", captures.tcp_upload(captures.noise(9000, n))
        )
        for n in range(count)
    ]
    before = time.perf_counter()
    flows = read_flows(paths, n_jobs=1, progress=False)
    taken = time.perf_counter() - before
    assert len(flows) == count
    print(
        f"{count} tiny files, one worker: {count / taken:.0f} files/s, start included"
    )


def memory(folder: Path, flows: int) -> None:
    path = captures.write_short_flows(folder / "short.pcap", flows)
    code = (
        "import sys\n"
        "from exfilml.sources._job import Job\n"
        "from exfilml.sources._meter import meter\n"
        "for _ in range(3):\n"
        "    meter(Job(sys.argv[1], None, 120, 1800, True, ''), lambda _: None)\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(int(status.split('VmHWM:')[1].split()[0]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    peaks = ", ".join(done.stdout.split())
    print(f"{flows:,} flows of 10 packets: peak {peaks} MiB after runs 1, 2, 3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", nargs="?", type=Path)
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--short-flows", type=int, default=50_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = options.capture
        if path is None:
            path = Path(folder) / "mixed.pcap"
            frames = captures.traffic(5000, options.packets)
            captures.write_pcap(path, frames)
        compare(path)
        scale(path)
        start_up(Path(folder))
        many_files(Path(folder))
        memory(Path(folder), options.short_flows)


if __name__ == "__main__":
    main()
