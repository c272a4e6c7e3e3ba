"""What is compared: both halves of a dataset, its labels and its scenarios."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import exfilml

if TYPE_CHECKING:
    from collections.abc import Callable

DATASETS = Path(__file__).resolve().parent.parent
FOLDERS = {"sample": DATASETS / "sample"} | {
    split: DATASETS / "lab" / split for split in ("develop", "validate", "report")
}
REAL = "EXFILML_REAL_DATA"
HALVES = ("baseline", "test")
# What NetFlow v9 and IPFIX carry where nothing inspects packets (RFC 3954 §8, RFC 5103
# for both directions in one record).
FLOW_RECORD = [
    *("start", "duration_s", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"),
    *("src_bytes", "dst_bytes", "src_packets", "dst_packets", "tcp_flags"),
]


@dataclass(frozen=True)
class Data:
    """Both halves of a dataset.

    Attributes
    ----------
    captures
        Plain captures; `None` where methods that read them take no part.
    baseline, test, labels
        Flows tables, and what the flows of the second are.
    scenarios
        What each scenario is, by name; no rows for real attacks.
    netflow
        Whether payload and applications were taken away.
    """

    captures: tuple[Path, Path] | None
    baseline: pd.DataFrame
    test: pd.DataFrame
    labels: pd.DataFrame
    scenarios: pd.DataFrame
    netflow: bool = False

    @classmethod
    def of(cls, name: str, scratch: Path, keep: Path | None = None) -> Data:
        """Read a dataset; compressed captures are unpacked, for NFStream's sake.

        Flows tables are kept in `keep`, and read from there the next time.
        """
        folder = FOLDERS[name]
        captures, flows = [], []
        for half in HALVES:
            plain = folder / f"{half}.pcap"
            if not plain.exists():
                plain = scratch / plain.name
                with (
                    gzip.open(folder / f"{half}.pcap.gz") as packed,
                    plain.open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
            captures.append(plain)
            flows.append(_kept(keep, f"{name}-{half}", lambda: _read(captures[-1])))
        labels = exfilml.read_labels(folder / "labels.csv")
        scenarios = pd.read_csv(folder / "scenarios.csv", index_col="scenario")
        first, second = captures
        return cls((first, second), *flows, labels, scenarios)

    @classmethod
    def overlaid(cls, name: str, keep: Path | None = None) -> Data:
        """Read a split with real attacks laid over its test days."""
        from lab import attacks

        folder = FOLDERS[name]
        baseline = _kept(
            keep, f"{name}-baseline", lambda: _read(folder / "baseline.pcap.gz")
        )
        flows, labels = attacks.overlay(folder, Path(os.environ[REAL]))
        test = exfilml.validate_flows(flows)
        return cls(None, baseline, test, labels, pd.DataFrame())

    def as_netflow(self) -> Data:
        """Return the same traffic as flow records show it."""
        return replace(
            self,
            captures=None,
            baseline=exfilml.validate_flows(self.baseline[FLOW_RECORD]),
            test=exfilml.validate_flows(self.test[FLOW_RECORD]),
            netflow=True,
        )


def _read(capture: Path) -> pd.DataFrame:
    return exfilml.read_flows(capture, progress=False)


def _kept(
    keep: Path | None, name: str, make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """Return a table that was kept, or make and keep it."""
    if keep is None:
        return make()
    path = keep / f"{name}.parquet"
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        exfilml.write_flows(make(), path)
    return exfilml.read_flows(path, progress=False)
