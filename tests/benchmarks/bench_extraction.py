"""Packets a second with payload evidence, side by side with bare NFStream.

Run as ``python tests/benchmarks/bench_extraction.py [CAPTURE] [--packets N]``.

All sides read the same file with the same options and one meter, in turns, in one
run; the median of the turns counts. Bare NFStream is its own streamer without any
plugin, flows iterated; it meters in a process of its own, so it has two cores. Ours
are the meter as it runs in a worker, rows included, and `exfilml.read_flows` as a
whole, with the start of its worker process. For comparison, the same evidence by an
ordinary plugin that looks at every packet.
"""

from __future__ import annotations

import argparse
import statistics
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
        flow.udps.state.judge()
        flow.udps.state = None


def bare(path: Path, plugin: NFPlugin | None = None) -> int:
    streamer = NFStreamer(
        source=str(path),
        n_meters=1,
        accounting_mode=1,
        snapshot_length=SNAPSHOT,
        udps=plugin,
    )
    return sum(flow.bidirectional_packets for flow in streamer)


def ours(path: Path, way: Callable = meter) -> int:
    batches: list = []
    way(Job(str(path), None, 120, 1800, True, str(path)), batches.append)
    return sum(sum(b.column(n).to_pylist()) for b in batches for n in PACKETS)


PACKETS = ("src_packets", "dst_packets")


def whole(path: Path) -> int:
    flows = read_flows(path, progress=False)
    return int(flows[list(PACKETS)].sum().sum())


def compare(path: Path) -> None:
    payload.warm_up()
    runs: dict[str, Callable[[Path], int]] = {
        "NFStream, no plugin": bare,
        "NFStream, ordinary plugin": lambda p: bare(p, OrdinaryPlugin()),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", nargs="?", type=Path)
    parser.add_argument("--packets", type=int, default=200_000)
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


if __name__ == "__main__":
    main()
