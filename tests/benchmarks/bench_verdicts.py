"""Share of opaque uploads and downloads per application, on real captures.

Run as ``python tests/benchmarks/bench_verdicts.py [CAPTURES]``; without an argument
the benign captures below the folder that ``EXFILML_REAL_DATA`` names. A direction
counts where at least 64 bytes of payload were seen. Only verified applications are
listed: a name that nDPI took from the port or the address says nothing about bytes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

from exfilml import read_flows
from exfilml.schema import VERDICTS

LEAST_BYTES = 64
LEAST_DIRECTIONS = 3


def verdicts(source: Path) -> pd.DataFrame:
    """Count the verdicts of both directions for each application."""
    flows = read_flows(source, progress=False)
    sides = []
    for side in ("src", "dst"):
        enough = flows[f"{side}_sampled_bytes"] >= LEAST_BYTES
        chosen = flows[enough & flows["app_verified"].fillna(value=False)]
        sides.append(
            pd.DataFrame(
                {
                    "application": chosen["app"].str.replace(r"\..*", "", regex=True),
                    "verdict": chosen[f"{side}_verdict"],
                }
            )
        )
    both = pd.concat(sides)
    table = pd.crosstab(both["application"], both["verdict"])
    table = table.reindex(columns=list(VERDICTS), fill_value=0)
    table.insert(0, "directions", table.sum(axis=1))
    table.insert(1, "opaque_share", (table["opaque"] / table["directions"]).round(3))
    table = table[table["directions"] >= LEAST_DIRECTIONS]
    return table.sort_values(["opaque_share", "directions"], ascending=False)


def main() -> None:
    """Print the table, or say why there is none."""
    if len(sys.argv) > 1:
        source = Path(sys.argv[1])
    elif "EXFILML_REAL_DATA" in os.environ:
        source = Path(os.environ["EXFILML_REAL_DATA"]) / "pcap" / "benign"
    else:
        print("skipped: EXFILML_REAL_DATA names no folder of real captures")
        return
    print(verdicts(source).to_string())


if __name__ == "__main__":
    main()
