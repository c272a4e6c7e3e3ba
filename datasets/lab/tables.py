"""From committed captures to flows tables, and what can be counted of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

HALVES = ("baseline", "test")
HERE = Path(__file__).resolve().parent


def _library() -> None:
    """Make this checkout's library the one that is imported."""
    project = str(HERE.parent.parent)
    if project not in sys.path:
        sys.path.insert(0, project)


def flows_of(folder: Path, half: str) -> pd.DataFrame:
    """Return the flows of one half; those of the test half with their labels."""
    _library()
    import exfilml

    flows = exfilml.read_flows(folder / f"{half}.pcap.gz", progress=False)
    if half != "test":
        return flows
    return exfilml.apply_labels(flows, exfilml.read_labels(folder / "labels.csv"))


def write(folder: Path) -> int:
    """Write both halves of a split as Parquet beside the captures."""
    _library()
    import exfilml

    for half in HALVES:
        flows = flows_of(folder, half)
        exfilml.write_flows(flows, folder / f"{half}.parquet")
        print(f"{folder / half}.parquet: {len(flows):,} flows")
    return 0


def with_places(flows: pd.DataFrame) -> pd.DataFrame:
    """Return local host, place, service and upload of each flow, and its case."""
    _library()
    from exfilml.places import orient, parse_networks

    ends = ["local_ip", "place", "service"]
    oriented = orient(flows, parse_networks(None))
    table = oriented[[*ends, "up_volume"]].astype(dict.fromkeys(ends, "str"))
    table["case"] = table["local_ip"].str.cat([table["place"], table["service"]], " ")
    return table
