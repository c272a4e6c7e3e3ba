"""Small uploads over TLS to known places, with and without what hosts logged.

Into the sample's test days one upload is planted at a time: a flow of a host to a place
that it uses anyway, of so many bytes more, opened by a program that no host of the
baseline ever used. Hosts log each connection of their flows, by a program for each
service. Printed is the rank of the upload's case among all cases and its suspicion, by
models that were trained on the same flows with these logs and without: medians, and how
many alert at the default budget.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import exfilml
from exfilml.hosts._events import Event, table

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample"
SIZES = (10_000, 30_000, 100_000)
PLANTED_PORT = 61_999
PLANTED = r"C:\Users\ann\AppData\Local\Temp\sync.exe"


def events_of(flows: pd.DataFrame, local: str = "10.20.") -> pd.DataFrame:
    """Return what hosts would log of flows that they open: a program each service."""
    mine = flows[flows["src_ip"].str.startswith(local)]
    return table(
        Event(
            time=row.start.value // 1000 - 50_000, host=row.src_ip, kind="network",
            process=PLANTED
            if row.src_port == PLANTED_PORT
            else rf"C:\Program Files\for {row.protocol}-{min(row.dst_port, 32768)}.exe",
            protocol=row.protocol, local_ip=row.src_ip, local_port=row.src_port,
            remote_ip=row.dst_ip, remote_port=row.dst_port,
        )
        for row in mine.itertuples()
        if row.protocol in {6, 17}
    )  # fmt: skip


def planted(row: pd.DataFrame, size: int) -> pd.DataFrame:
    """Return a flow like this one with so many bytes more going out."""
    more = row.assign(src_port=PLANTED_PORT, start=row["start"] + pd.Timedelta("3min"))
    for column in ("src_bytes", "src_payload_bytes"):
        more[column] = more[column] + size
    more["src_packets"] = more["src_packets"] + size // 1400
    return more


def judged(detector: exfilml.Detector, flows: pd.DataFrame) -> tuple[int, float, bool]:
    """Return rank, bits and alert of the case that the last flow belongs to."""
    cases = exfilml.rank_cases(detector, flows)
    last = flows.iloc[-1]
    mine = cases[(cases["local_ip"] == last["src_ip"]) & (cases["dst_port"] == 443)]
    mine = mine[mine["place"] == place_of(detector, flows)]
    row = mine.iloc[0]
    return int(row["rank"]), float(row["suspicion"]), bool(row["alert"])


def place_of(detector: exfilml.Detector, flows: pd.DataFrame) -> str:
    """Return the place that the last flow leads to."""
    return str(detector.score(flows.iloc[[-1]]).asked.oriented["place"].iloc[0])


def main(n_planted: int = 12) -> None:
    """Print ranks by size of the upload."""
    baseline = exfilml.read_flows(SAMPLE / "baseline.pcap", progress=False)
    test = exfilml.read_flows(SAMPLE / "test.pcap", progress=False)
    blind = exfilml.Detector(random_state=0).fit(baseline)
    logs = events_of(baseline)
    informed = exfilml.Detector(random_state=0).fit(
        exfilml.add_processes(baseline, logs)
    )
    usual = test[(test["dst_port"] == 443) & (test["src_handshake"] == "tls")]
    chosen = usual.sample(n_planted, random_state=0).index
    n_cases = len(exfilml.rank_cases(blind, test))
    print(f"{n_planted} uploads each among {n_cases} cases, 10 of them thefts:\n")
    print("| upload | without host events: rank, bits, alerts | with |\n|---|---|---|")
    for size in SIZES:
        found = []
        for at in chosen:
            flows = pd.concat([test, planted(test.loc[[at]], size)], ignore_index=True)
            named = exfilml.add_processes(flows, events_of(flows))
            found.append((judged(blind, flows), judged(informed, named)))
        cells = []
        for each in zip(*found, strict=True):
            rank, bits, alert = map(np.array, zip(*each, strict=True))
            cells.append(f"{np.median(rank):.0f}, {np.median(bits):.1f}, {alert.sum()}")
        print(f"| {size // 1000} kB | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
