"""How fast a baseline is learned in one pass, and whether its memory stays flat.

Run as ``python tests/benchmarks/bench_baseline.py [MILLIONS ...]`` (default 10 and 40).
A made-up site of 5,000 hosts sends flows, a day at a time in chunks of 500,000 rows, to
names and addresses by Zipf's law, of which one flow in a hundred meets one that was
never there before. The pass is orient, `Observed.of`, `Baseline.learn` and `merge`;
making the flows is not timed. Each line is a process of its own: seconds are its
processor time, memory its peak resident set, which includes the making of flows.

Before that, sketches of upload sizes by key are timed against those of Apache
DataSketches, one object a key, if that is installed.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import resource
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from exfilml.baseline import Baseline
from exfilml.histograms import Histograms, upload_bins, upload_of_bin
from exfilml.places import PRIVATE_NETWORKS
from exfilml.schema import validate_flows
from exfilml.tally import combine

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 500_000
HOSTS, ADDRESSES, NAMES = 5_000, 200_000, 100_000
NEW_SHARE = 0.01
ROWS, KEYS = 1_000_000, 100_000
FIRST_DAY = pd.Timestamp("2026-03-02", tz="UTC")
# Port, protocol, application, handshake, verdict, share of the flows.
SERVICES = (
    (443, 6, "TLS", "tls", "opaque", 0.45),
    (53, 17, "DNS", None, "structured", 0.25),
    (80, 6, "HTTP", None, "text", 0.15),
    (25, 6, "SMTP", None, "text", 0.05),
    (22, 6, "SSH", "ssh", "opaque", 0.04),
    (0, 1, "ICMP", None, "unknown", 0.03),
    (None, 6, None, None, "opaque", 0.03),
)


def chunks(n_flows: int, *, payload: bool, seed: int = 0) -> Iterator[pd.DataFrame]:
    """Yield flows tables of `CHUNK` rows, a day each."""
    rng = np.random.default_rng(seed)
    shares = [s[-1] for s in SERVICES]
    for day in range(n_flows // CHUNK):
        kind = rng.choice(len(SERVICES), CHUNK, p=shares)
        port, protocol, app, handshake, verdict = (
            np.array(column, dtype=object)[kind]
            for column in list(zip(*SERVICES, strict=True))[:5]
        )
        port = np.where(port == None, rng.integers(1024, 65536, CHUNK), port)  # noqa: E711
        host = np.minimum(rng.zipf(1.2, CHUNK), HOSTS)
        remote = rng.zipf(1.3, CHUNK) % ADDRESSES
        fresh = np.flatnonzero(rng.random(CHUNK) < NEW_SHARE)
        remote[fresh] = ADDRESSES + day * CHUNK + np.arange(len(fresh))
        address, at = _told(remote, lambda r: f"{20 + r // 2**24}.{_octets(r)}")
        local, from_ = _told(host, lambda h: f"10.{_octets(h)}")
        name, of = _told(
            np.where(
                np.isin(kind, [0, 2]), remote % NAMES + remote // NAMES * NAMES, -1
            ),
            lambda r: f"www.site{r}.example" if r >= 0 else None,
        )
        up = np.exp(rng.normal(6.5, 1.5, CHUNK)).astype(np.int64)
        down = np.exp(rng.normal(8.5, 2.0, CHUNK)).astype(np.int64)
        seconds = np.sort(rng.normal(12.0, 3.0, CHUNK).clip(0, 23.99)) * 3600.0
        start = FIRST_DAY + pd.Timedelta(days=day) + pd.to_timedelta(seconds, unit="s")
        columns = {
            "start": start.astype("datetime64[us, UTC]"),
            "src_ip": local[from_],
            "src_port": rng.integers(32768, 61000, CHUNK),
            "dst_ip": address[at],
            "dst_port": port.astype(np.int64),
            "protocol": protocol.astype(np.int64),
            "src_bytes": up + 160,
            "dst_bytes": down + 160,
            "src_packets": 3 + up // 1400,
            "dst_packets": 3 + down // 1400,
            "server_name": name[of],
        }
        if payload:
            columns |= {"app": app, "app_verified": app != None}  # noqa: E711
            for side, size in (("src", up), ("dst", down)):
                columns |= {
                    f"{side}_payload_bytes": size,
                    f"{side}_sampled_bytes": np.minimum(size, 6144),
                    f"{side}_verdict": verdict,
                    f"{side}_concealed": verdict == "opaque",
                    f"{side}_handshake": handshake,
                }
        yield validate_flows(pd.DataFrame(columns))


def _octets(n: int) -> str:
    return f"{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"


def _told(numbers, tell):
    """Name each distinct number once: the texts and where each row's text stands."""
    codes, distinct = pd.factorize(numbers)
    return pd.array([tell(n) for n in distinct.tolist()], dtype="str"), codes


def run(n_flows: int, *, payload: bool, told) -> None:
    """Learn from so many flows and tell speed, memory and size."""
    used = 0.0

    def timed() -> Iterator[pd.DataFrame]:
        nonlocal used
        making = chunks(n_flows, payload=payload)
        while True:
            begin = time.process_time()
            flows = next(making, None)
            used -= time.process_time() - begin
            if flows is None:
                return
            yield flows

    begin = time.process_time()
    baseline = Baseline.of_chunks(timed(), PRIVATE_NETWORKS)
    used += time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    keys = {name: len(t.keys) for name, t in baseline.tables.items()}
    keys |= {name: len(h.cells) for name, h in baseline.histograms.items()}
    both = {**baseline.tables, **baseline.histograms}
    lost = {name: int(t.forgotten[0]) for name, t in both.items() if t.forgotten[0]}
    told.put((n_flows / used, peak, keys, lost))


def sketches() -> None:
    """Time quantile sketches by key, learned in two halves, merged and asked once."""
    rng = np.random.default_rng(0)
    keys = combine((rng.zipf(1.1, ROWS) % KEYS).astype(np.uint64))
    up = np.floor(np.exp(rng.normal(6.5, 1.5, ROWS)))
    distinct = np.unique(keys)
    halves = (slice(0, ROWS // 2), slice(ROWS // 2, ROWS))
    begin = time.process_time()
    one, two = (Histograms.group(keys[h], upload_bins(up[h])) for h in halves)
    ours = one.merge(two)
    upload_of_bin(ours.quantile(distinct, 0.95))
    used = time.process_time() - begin
    size = (ours.cells.nbytes + ours.counts.nbytes) / len(distinct)
    print(
        f"sketches of {ROWS:,} uploads of {len(distinct):,} keys, two halves merged: "
        f"{used:.2f} s, {size:.0f} bytes a key"
    )
    try:
        import datasketches
    except ImportError:
        print("not measured: datasketches is not installed")
        return
    for name, sketch in (
        ("KLL", lambda: datasketches.kll_floats_sketch(200)),
        ("t-digest", lambda: datasketches.tdigest_double(100)),
    ):
        begin = time.process_time()
        known: dict[int, Any] = {}
        for half in halves:
            for key, piece in _pieces(keys[half], up[half]):
                learned = sketch()
                if name == "KLL":
                    learned.update(piece)
                else:
                    for value in piece.tolist():
                        learned.update(value)
                if key in known:
                    known[key].merge(learned)
                else:
                    known[key] = learned
        for learned in known.values():
            learned.get_quantile(0.95)
        took = time.process_time() - begin
        stored = sum(len(learned.serialize()) for learned in known.values())
        print(
            f"  datasketches {importlib.metadata.version('datasketches')} {name}: "
            f"{took:.2f} s, {took / used:.1f} times as long; "
            f"{stored / len(known):.0f} bytes a key serialised"
        )


def _pieces(keys, up) -> Iterator[tuple[int, Any]]:
    """Uploads of each key in turn."""
    order = np.argsort(keys, kind="stable")
    ordered, values = keys[order], up[order].astype(np.float32)
    starts = np.flatnonzero(np.diff(ordered, prepend=np.uint64(0)))
    pieces = np.split(values, starts[1:])
    return zip(ordered[starts].tolist(), pieces, strict=True)


def main() -> None:
    """Print a line for each size, with payload and without."""
    warnings.simplefilter("ignore")
    sketches()
    millions = [int(m) for m in sys.argv[1:]] or [10, 40]
    start = multiprocessing.get_context("spawn")
    for payload in (True, False):
        kind = "with payload" if payload else "volumes alone"
        peaks = []
        for size in millions:
            told = start.Queue()
            child = start.Process(
                target=run,
                args=(size * 1_000_000,),
                kwargs={"payload": payload, "told": told},
            )
            child.start()
            speed, peak, keys, lost = told.get()
            child.join()
            peaks.append(peak)
            most = max(keys, key=keys.__getitem__)
            print(
                f"{kind}, {size} million flows: {speed:,.0f} flows/s, peak {peak:,.0f} MB "
                f"({peak / peaks[0]:.2f} × the first); {sum(keys.values()):,} keys and "
                f"cells, most in {most} ({keys[most]:,}); forgot in {lost}",
                flush=True,
            )


if __name__ == "__main__":
    main()
