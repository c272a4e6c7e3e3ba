"""How long a history of ten million flows takes to fill, and to ask.

Run as ``python tests/benchmarks/bench_history.py [N]``. A made-up site of 2,000 hosts
and 30 days is added day by day, in blocks of memory that do not grow with N. Then 200
cases ask what was seen before each of them, as triage does, and single questions are
asked. Seconds are processor time of all threads: other programs change those on the
wall. Peers, in the same run, on the same files:

- pyarrow and pandas: a filtered scan (`pyarrow.dataset`) of the columns needed, then a
  mask and sums for each case and kind of question. On some of the cases; it finds the
  same, which is checked.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

import exfilml
from exfilml.history._seen import BY
from exfilml.places import PRIVATE_NETWORKS, orient

SIZE = 10_000_000
DAYS = 30
BLOCK = 250_000
CASES = 200
PEER_CASES = 10
FIRST = pd.Timestamp("2026-03-01", tz="UTC")
PORTS = np.array([443, 80, 53, 22, 25, 993, 123, 8443, 3389, 5222])


def blocks(n: int) -> Iterator[pd.DataFrame]:
    """Yield flows in order of time."""
    rng = np.random.default_rng(0)
    done = 0
    while done < n:
        size = min(BLOCK, n - done)
        yield block(rng, done / n, (done + size) / n, size)
        done += size


def block(rng: np.random.Generator, begin: float, end: float, n: int) -> pd.DataFrame:
    """Return flows of a share of the time."""
    share = np.sort(rng.uniform(begin, end, n))
    host = rng.integers(0, 2_000, n)
    # Zipf: half of the flows go to a handful of places.
    site = np.minimum(rng.zipf(1.4, n), 50_000)
    at = rng.choice(len(PORTS), n, p=[0.5, 0.15, 0.2, *[0.15 / 7] * 7])
    named = at < 2
    hosts = np.array([f"10.20.{h // 250}.{h % 250}" for h in range(2_000)], object)
    sites = np.array([f"www.site{s}.example" for s in range(50_001)], object)
    remote = np.array(
        [f"198.{18 + s // 65536}.{s // 256 % 256}.{s % 256}" for s in range(50_001)],
        object,
    )
    prints = np.array([f"t13d{i:06x}" for i in range(600)], object)
    return exfilml.validate_flows(
        pd.DataFrame(
            {
                "start": (FIRST + pd.to_timedelta(share * DAYS, unit="D")).astype(
                    "datetime64[us, UTC]"
                ),
                "duration_s": rng.exponential(2.0, n),
                "src_ip": pd.array(hosts[host], "str"),
                "src_port": rng.integers(33000, 60000, n),
                "dst_ip": pd.array(remote[site], "str"),
                "dst_port": PORTS[at],
                "protocol": np.where(np.isin(at, (2, 6)), 17, 6),
                "src_bytes": np.exp(rng.normal(6.5, 1.5, n)).astype(int) + 60,
                "dst_bytes": np.exp(rng.normal(8.5, 1.5, n)).astype(int) + 60,
                "server_name": pd.array(np.where(named, sites[site], None), "str"),
                "fingerprint": pd.array(
                    np.where(at == 0, prints[(host * 7 + site) % 600], None), "str"
                ),
            }
        )
    )


class Took(float):
    """Seconds of processor time, of all threads; and those on the wall."""

    wall: float

    def __str__(self) -> str:
        return f"{self:.2f} s ({self.wall:.2f} s on the wall)"


def timed(work: Callable[[], Any]) -> tuple[Took, Any]:
    """Return how long some work takes, and its result."""
    began, cpu = time.perf_counter(), time.process_time()
    done = work()
    took = Took(time.process_time() - cpu)
    took.wall = time.perf_counter() - began
    return took, done


def megabytes() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cases() -> pd.DataFrame:
    """Return cases of the last day, those with the most common places among them."""
    rng = np.random.default_rng(7)
    flows = block(rng, 1 - 1 / DAYS, 1.0, 20_000).iloc[:: 20_000 // CASES].head(CASES)
    oriented = orient(flows, PRIVATE_NETWORKS)
    table = oriented[["local_ip", "place", "service", "fingerprint"]].copy()
    table.insert(0, "case", [f"{i:010x}" for i in range(len(table))])
    table["before"] = flows["start"]
    return table.reset_index(drop=True)


def scanned(folder: Path, subjects: pd.DataFrame) -> list[tuple[int, int, int]]:
    """Answer with pyarrow and pandas: flows, days and bytes of each case and question."""
    files = [str(path) for path in sorted(folder.glob("flows/*/*.parquet"))]
    columns = ["start", "local_ip", "place", "service", "fingerprint", "up_bytes"]
    near = ds.field("place").isin(subjects["place"].tolist())
    for name in ("local_ip", "fingerprint"):
        near |= ds.field(name).isin(subjects[name].dropna().tolist())
    table = ds.dataset(files).to_table(columns=columns, filter=near).to_pandas()
    answers = []
    for row in subjects.itertuples():
        earlier = (table["start"] < row.before).to_numpy()
        for keys in BY.values():
            mine = earlier.copy()
            for key in keys:
                mine &= (table[key] == getattr(row, key)).to_numpy(dtype=bool)
            some = table.loc[mine, ["start", "up_bytes"]]
            days = some["start"].dt.floor("D").nunique()
            answers.append((len(some), days, int(some["up_bytes"].sum())))
    return answers


def main(n: int) -> None:
    """Fill a history, ask it, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history"
        history = exfilml.History.open(path, create=True)
        made, _ = timed(lambda: [len(table) for table in blocks(n)])
        took, added = timed(lambda: history.add(blocks(n)))
        size = sum(file.stat().st_size for file in path.rglob("*.parquet"))
        print(
            f"{added}: {took}, of which {made} made them up: "
            f"{n / max(took - made, 1e-9):,.0f} flows a second\n  {size / 1e6:,.0f} MB "
            f"on disk in {len(list(path.rglob('*.parquet')))} files, {size / n:.0f} "
            f"bytes a flow; {megabytes():,.0f} MB of memory at most"
        )
        half = [table for i, table in enumerate(blocks(n)) if i < 2]
        took, added = timed(lambda: history.add(half))
        print(f"the first {added.read:,} again: {added}; {took}")
        subjects = cases()
        took, found = timed(lambda: history.seen(subjects))
        print(
            f"{len(subjects)} cases, {len(found):,} answers: {took}; "
            f"{megabytes():,.0f} MB of memory at most"
        )
        for what, asked in (
            ("a host", {"host": subjects["local_ip"][0]}),
            ("a place, by host", {"place": subjects["place"][0], "by": "host"}),
            ("a /24, by address", {"cidr": "198.18.7.0/24", "by": "address"}),
            ("all, by day", {"by": "day"}),
        ):
            one, rows = timed(lambda asked=asked: history.query(**asked))
            print(f"  query for {what}: {len(rows):,} rows in {one}")
        some = subjects.head(PEER_CASES)
        few, ours = timed(lambda: history.seen(some))
        peer, theirs = timed(lambda: scanned(path, some))
        mine = ours[["flows", "days", "up_bytes"]].fillna(0)
        assert [tuple(row) for row in mine.itertuples(index=False)] == theirs
        each = peer / len(some) * len(subjects)
        print(
            f"pyarrow and pandas, {len(some)} cases: the same answers, {peer} to "
            f"{few} here: {peer / few:.1f} times as long, "
            f"{megabytes():,.0f} MB of memory at most; {each / took:.0f} times for "
            f"{len(subjects)} cases, if that grows with their number"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SIZE)
