"""How long it takes to carve a case from a large capture, and what others take.

Run as ``python tests/benchmarks/bench_carve.py [MEGABYTES]``. The capture mixes flows
of all lengths; the case has twenty of them. Seconds of processor time, best of three
turns, each program started anew, the file in memory. Peers, in the same run, for the same
packets, which is checked:

- tcpdump: ``-r -w`` with the expression of `packet_filters`;
- tshark: ``-r -Y -w``, on the first tenth;
- dpkt: its reader and writer with the plain comparison of ends, on the first tenth.

Then the streams of one long upload are put together, against tshark's ``follow`` and a
loop over dpkt's packets that takes them as they come.
"""

from __future__ import annotations

import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dpkt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import captures

from exfilml.carve import carve_packets, follow_streams, packet_filters

MEGABYTES = 300
TURNS = 3
FLOWS = 20


def timed(work: Callable[[], Any], turns: int = TURNS) -> tuple[float, Any]:
    """Return the best processor time, programs' included, and what came out."""
    best, result = float("inf"), None
    for _ in range(turns):
        start = processor_time()
        result = work()
        best = min(best, processor_time() - start)
    return best, result


def processor_time() -> float:
    """Return seconds that this process and programs it waited for have used."""
    of = [
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return sum(used.ru_utime + used.ru_stime for used in of)


def build(path: Path, megabytes: int) -> int:
    """Write the same mix of flows again and again; return the packets."""
    captures.write_pcap(path, captures.traffic(flows=3000, packets=60_000))
    once = path.read_bytes()
    turns = max(1, round(megabytes * 1e6 / len(once)))
    with path.open("ab") as file:
        for _ in range(turns - 1):
            file.write(once[24:])
    return 60_000 * turns


def case() -> pd.DataFrame:
    """Return twenty flows of the mix: long and short ones."""
    ranks = np.unique(np.geomspace(40, 2900, FLOWS).astype(int))
    return pd.DataFrame(
        {
            "src_ip": [f"10.0.{n >> 8}.{n & 255}" for n in ranks],
            "src_port": [30000 + n for n in ranks],
            "dst_ip": captures.SERVER,
            "dst_port": [(443, 80, 53, 8443)[n % 4] for n in ranks],
            "protocol": [17 if n % 4 == 2 else 6 for n in ranks],
            "start": pd.Timestamp(captures.START, unit="s", tz="UTC"),
            "duration_s": 3600.0,
        }
    )


def tenth(path: Path, packets: int) -> Path:
    """Write the first tenth of a capture to a file of its own."""
    part, left = path.with_suffix(".part"), packets // 10
    with path.open("rb") as file, part.open("wb") as out:
        out.write(file.read(24))
        for _ in range(left):
            head = file.read(16)
            out.write(head + file.read(struct.unpack_from("<I", head, 8)[0]))
    return part


def by_dpkt(path: Path, out: Path, flows: pd.DataFrame) -> int:
    """Carve with dpkt, the plain way."""
    wanted = set()
    for row in flows.itertuples(index=False):
        ends = (
            (captures.address(row.src_ip), row.src_port),
            (captures.address(row.dst_ip), row.dst_port),
        )
        wanted |= {(*ends, row.protocol), (*ends[::-1], row.protocol)}
    count = 0
    with path.open("rb") as file, out.open("wb") as target:
        writer = dpkt.pcap.Writer(target)
        for moment, frame in dpkt.pcap.Reader(file):
            packet = dpkt.ethernet.Ethernet(frame).data
            inner = packet.data
            key = ((packet.src, inner.sport), (packet.dst, inner.dport), packet.p)
            if key in wanted:
                writer.writepkt(frame, ts=moment)
                count += 1
    return count


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main(megabytes: int) -> None:
    """Build, carve, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture, out = folder / "all.pcap", folder / "case.pcap"
        packets = build(capture, megabytes)
        size, flows = capture.stat().st_size / 1e6, case()
        # Compiles, or loads what was compiled.
        carve_packets(tenth(capture, packets), flows, out)
        ours, carved = timed(lambda: carve_packets(capture, flows, out))
        print(
            f"{size:,.0f} MB, {packets:,} packets, {carved.packets:,} of them in "
            f"{len(flows)} flows: {ours:.2f} s, {packets / ours / 1e6:.1f} million packets "
            f"a second, {size / ours:,.0f} MB/s"
        )
        compare(capture, folder, flows, packets, ours, carved.packets)
        follow(folder)


def compare(
    capture: Path,
    folder: Path,
    flows: pd.DataFrame,
    packets: int,
    ours: float,
    found: int,
) -> None:
    """Carve the same with others."""
    filters = packet_filters(flows)
    theirs, part = folder / "theirs.pcap", capture.with_suffix(".part")
    mine = folder / "case.pcap"
    if shutil.which("tcpdump"):
        took, _ = timed(
            lambda: run(
                "tcpdump", "-r", str(capture), "-w", str(theirs), filters.tcpdump
            )
        )
        assert theirs.read_bytes()[24:] == mine.read_bytes()[24:]
        print(f"tcpdump, same packets: {took:.2f} s, {took / ours:.1f} times as long")
    else:
        print("tcpdump is not installed: not compared")
    if shutil.which("tshark"):
        command = (
            "-r",
            str(part),
            "-Y",
            filters.tshark,
            "-F",
            "pcap",
            "-w",
            str(theirs),
        )
        took, _ = timed(lambda: run("tshark", *command), 1)
        few = carve_packets(part, flows, folder / "few.pcap")
        assert theirs.stat().st_size == few.out.stat().st_size
        print(f"tshark, a tenth: {took:.2f} s, {10 * took / ours:.0f} times as long")
    else:
        print("tshark is not installed: not compared")
    took, count = timed(lambda: by_dpkt(part, theirs, flows), 1)
    assert count == carve_packets(part, flows, folder / "few.pcap").packets
    print(f"dpkt, a tenth: {took:.2f} s, {10 * took / ours:.0f} times as long")


def follow(folder: Path) -> None:
    """Put together an upload of 50 MB, with a tenth sent again."""
    data, capture = captures.noise(50_000_000), folder / "upload.pcap"
    frames, seq = [], 1
    for number, at in enumerate(range(0, len(data), 1400)):
        body = captures.tcp(
            40000, 9999, data[at : at + 1400], seq=(seq + at) % (1 << 32)
        )
        frame = captures.ethernet(
            captures.ip4(captures.CLIENT, captures.SERVER, 6, body), pad=False
        )
        frames += [(captures.START, frame)] * (2 if number % 10 == 0 else 1)
    captures.write_pcap(capture, frames)
    flows = pd.DataFrame(
        {
            "src_ip": [captures.CLIENT],
            "src_port": [40000],
            "dst_ip": [captures.SERVER],
            "dst_port": [9999],
            "protocol": [6],
            "start": pd.Timestamp(captures.START, unit="s", tz="UTC"),
            "duration_s": 1.0,
        }
    )
    target = folder / "upload.bin"

    def ours() -> bytes:
        (stream,) = follow_streams(capture, flows)
        stream.write(target)
        return target.read_bytes()

    took, got = timed(ours)
    assert got == data
    print(f"an upload of 50 MB put together and written: {took:.2f} s")

    def plain() -> bytes:
        with capture.open("rb") as file:
            parts = {
                (tcp := dpkt.ethernet.Ethernet(frame).data.data).seq: tcp.data
                for _, frame in dpkt.pcap.Reader(file)
            }
        return b"".join(parts[seq] for seq in sorted(parts))

    loop, got = timed(plain, 1)
    assert got == data
    print(f"dpkt, joined by number, unchecked: {loop:.2f} s, {loop / took:.0f} times")
    if shutil.which("tshark"):
        shark, _ = timed(
            lambda: run("tshark", "-r", str(capture), "-q", "-z", "follow,tcp,raw,0"), 1
        )
        print(f"tshark -z follow: {shark:.2f} s, {shark / took:.0f} times as long")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES)
