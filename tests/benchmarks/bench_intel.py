"""How long a million indicators take to read, and to match with a million flows.

Run as ``python tests/benchmarks/bench_intel.py [N]``. The list holds addresses and
overlapping networks of both IP versions, domains and URLs; every flow has a remote
address of its own (the worst case), and half have a name. Seconds are processor time. Peers, in the same
run:

- pandas: a merge of flows and single addresses, the naive way. It knows neither networks
  nor subdomains, and so finds less;
- netaddr: an `IPSet` of the addresses and networks, on a sample of the flows;
- `ipaddress` and `dict`: the plain loop over prefix lengths and labels, on a sample; it
  finds the same, which is checked.
"""

from __future__ import annotations

import ipaddress
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import exfilml

SIZE = 1_000_000
SAMPLE = 20_000
NETADDR_ENTRIES = 50_000


def fours(rng: np.random.Generator, n: int) -> list[str]:
    """Return public addresses of version 4."""
    a, b, c, d = rng.integers(
        [[11], [0], [0], [0]], [[99], [256], [256], [256]], (4, n)
    )
    return [f"{w}.{x}.{y}.{z}" for w, x, y, z in zip(a, b, c, d, strict=True)]


def sixes(rng: np.random.Generator, n: int) -> list[str]:
    """Return public addresses of version 6."""
    parts = rng.integers(1, 65536, (n, 4))
    return [f"2a02:{a:x}:{b:x}::{c:x}:{d:x}" for a, b, c, d in parts.tolist()]


def list_of(rng: np.random.Generator, n: int) -> list[str]:
    """Return indicators of all kinds."""
    four = [
        str(ipaddress.ip_network(f"{text}/{length}", strict=False))
        for text, length in zip(
            fours(rng, n // 10), rng.integers(20, 31, n // 10), strict=True
        )
    ]
    six = [
        str(ipaddress.ip_network(f"{text}/{length}", strict=False))
        for text, length in zip(
            sixes(rng, n // 100), rng.integers(32, 65, n // 100), strict=True
        )
    ]
    names = [f"evil{i}.example{i % 977}.com" for i in range(n // 4)]
    urls = [f"hxxp://cdn{i}.bad{i % 97}[.]org/x.php" for i in range(n // 20)]
    rest = n - len(four) - len(six) - len(names) - len(urls)
    single = [*fours(rng, rest * 9 // 10), *sixes(rng, rest - rest * 9 // 10)]
    return [*four, *six, *names, *urls, *single]


def flows_of(rng: np.random.Generator, n: int, known: list[str]) -> pd.DataFrame:
    """Return flows, each to an address of its own; few of them meet something."""
    remote = [*fours(rng, n * 9 // 10), *sixes(rng, n - n * 9 // 10)]
    single = [text for text in known if text[0].isdigit() and "/" not in text]
    remote[:: n // 1000] = rng.choice(single, len(remote[:: n // 1000])).tolist()
    names: list[str | None] = [f"www{i}.site{i % 9973}.net" for i in range(n)]
    names[:: n // 500] = [
        f"a.b.evil{i}.example{i % 977}.com" for i in range(len(names[:: n // 500]))
    ]
    names[1::2] = [None] * len(names[1::2])
    return pd.DataFrame(
        {
            "start": pd.Timestamp("2026-01-05", tz="UTC"),
            "src_ip": "10.0.0.1",
            "src_port": 50000,
            "dst_ip": pd.array(remote, "str"),
            "dst_port": 443,
            "protocol": 6,
            "src_bytes": 1000,
            "dst_bytes": 1000,
            "server_name": pd.array(names, "str"),
        }
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how much processor time some work takes, and its result.

    All of it is work of one thread: other programs change the seconds on the wall only.
    """
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


class Loop:
    """The plain way: one dictionary for each prefix length, one for names."""

    def __init__(self, known: list[str]) -> None:
        self.nets: dict[tuple[int, int], set[int]] = {}
        self.names: set[str] = set()
        self.urls: set[str] = set()
        for text in known:
            if text.startswith("hxxp"):
                self.urls.add(text[7:].replace("[.]", ".").partition("/")[0])
            elif text[0].isdigit():
                net = ipaddress.ip_network(text)
                key = net.version, net.prefixlen
                bits = net.max_prefixlen - net.prefixlen
                self.nets.setdefault(key, set()).add(int(net.network_address) >> bits)
            else:
                self.names.add(text)

    def count(self, address: str, name: str | None) -> int:
        """Return how many indicators a flow meets."""
        ip = ipaddress.ip_address(address)
        n = sum(
            int(ip) >> (ip.max_prefixlen - length) in nets
            for (version, length), nets in self.nets.items()
            if version == ip.version
        )
        if isinstance(name, str):
            labels = name.split(".")
            n += sum(".".join(labels[i:]) in self.names for i in range(len(labels)))
            n += name in self.urls
        return n


def main(n: int) -> None:
    """Write the list, read it, match, and compare."""
    rng = np.random.default_rng(0)
    known = list(dict.fromkeys(list_of(rng, n)))
    flows = exfilml.validate_flows(flows_of(rng, n, known))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_text("\n".join(known) + "\n")
        warnings.simplefilter("ignore")
        took, intel = timed(lambda: exfilml.read_intel(path))
        print(f"{intel!r}\n  read in {took:.1f} s, {len(intel) / took:,.0f} a second")
    took, met = timed(lambda: intel.match(flows))
    print(f"{len(flows):,} flows: {len(met):,} matches in {took:.2f} s")
    few = intel.match(flows.iloc[:1])
    took_few = min(timed(lambda: intel.match(flows.iloc[:1]))[0] for _ in range(3))
    print(f"  one flow: {len(few)} matches in {took_few * 1e3:.0f} ms")

    single = intel.indicators.query("kind == 'address'")[["indicator"]]
    naive, merged = timed(
        lambda: flows.merge(single, left_on="dst_ip", right_on="indicator")
    )
    print(
        f"pandas merge, single addresses only: {len(merged):,} matches in {naive:.2f} s;"
        f" exfilml takes {took / naive:.1f} times as long for all kinds"
    )

    sample = flows.iloc[rng.choice(len(flows), min(SAMPLE, n), replace=False)]
    built, loop = timed(lambda: Loop(known))
    ends = list(zip(sample["dst_ip"], sample["server_name"], strict=True))
    looped, count = timed(lambda: sum(loop.count(*end) for end in ends))
    ours = int(np.isin(met.index, sample.index).sum())
    assert ours == count, (ours, count)
    whole = looped / len(sample) * n
    print(
        f"ipaddress and dict, {len(sample):,} flows: {count} matches, as exfilml; "
        f"{built:.1f} s to build, {whole:.1f} s for all flows: "
        f"{whole / took:.1f} times as long"
    )
    compare_netaddr(known, sample, took / n)


def compare_netaddr(known: list[str], sample: pd.DataFrame, ours: float) -> None:
    """Compare with netaddr, whose set takes minutes to build from a million."""
    try:
        import netaddr
    except ImportError:
        print("netaddr is not installed: not compared")
        return
    some = [t for t in known if t[0].isdigit()][:NETADDR_ENTRIES]
    built, entries = timed(lambda: netaddr.IPSet(some))
    asked = sample["dst_ip"].iloc[:2_000].tolist()
    took, _ = timed(lambda: [netaddr.IPAddress(text) in entries for text in asked])
    print(
        f"netaddr, {len(some):,} entries and {len(asked):,} flows: {built:.1f} s to "
        f"build, {took / len(asked) / ours:.0f} times as long for each flow, without "
        "saying which entry it was"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SIZE)
