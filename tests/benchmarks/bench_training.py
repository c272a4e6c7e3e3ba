"""How fast months of flows are learned from disk, and whether memory stays flat.

Run as ``python tests/benchmarks/bench_training.py [MILLIONS ...] [--netflow] [--folder
DIR]`` (default 1 and 4; the figures in the changelog are of 10 and 40). The baseline
of the lab (``datasets/lab/develop``) is repeated in Parquet, a day in a file of some
500,000 rows that are in no order of time: each repetition has local hosts of its own
and other starts; one flow in a hundred goes to a place that was never there before.
``--netflow`` leaves out what only packets show.

Then ``exfilml train`` is done, in a process of its own for each size, with one worker:
files are read, checked and sorted in the spool (pass one), and learned from (pass two).
Rates are flows by second of processor time, that of all threads; memory is the peak
resident set.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from exfilml import Detector, read_flows, save_model
from exfilml.names import Names
from exfilml.schema import DTYPES
from exfilml.sources import write_flows
from exfilml.spool import Spool

LAB = Path(__file__).parents[2] / "datasets" / "lab" / "develop" / "baseline.pcap.gz"
MILLION = 1_000_000
DAY_ROWS = 500_000
NEW_SHARE = 0.01
FIRST_DAY = pd.Timestamp("2026-01-05", tz="UTC")
SEEN_IN_PACKETS = ("app", "app_verified", "conn_state", "server_name", "fingerprint")
MOST_MIB, MOST_GROWTH, LEAST_RATE = 3 * 1024, 1.3, 200_000


def make(folder: Path, n_files: int, *, netflow: bool) -> None:
    """Write so many days of flows, those that are not there yet."""
    lab = read_flows(LAB, progress=False)
    if netflow:
        lab = lab.drop(
            columns=[
                name
                for name in DTYPES
                if name in SEEN_IN_PACKETS
                or (name.startswith(("src_", "dst_")) and name not in _netflow())
            ]
        )
    folder.mkdir(parents=True, exist_ok=True)
    for day in range(n_files):
        path = folder / f"{day:03}.parquet"
        if not path.exists():
            write_flows(_day(lab, day), path)


def _netflow() -> set[str]:
    return {
        f"{s}_{c}" for s in ("src", "dst") for c in ("ip", "port", "bytes", "packets")
    }


def _day(lab: pd.DataFrame, day: int) -> pd.DataFrame:
    """Repeat the lab's flows within one day."""
    rng = np.random.default_rng(day)
    repeats = DAY_ROWS // len(lab)
    row = np.tile(np.arange(len(lab)), repeats)
    copy = np.repeat(np.arange(repeats), len(lab))
    flows = lab.take(row).reset_index(drop=True)
    second = (flows["start"] - flows["start"].dt.floor("D")).dt.total_seconds()
    second = (second + rng.uniform(0.0, 3600.0, len(flows))) % 86400.0
    start = FIRST_DAY + pd.Timedelta(days=day) + pd.to_timedelta(second, unit="s")
    flows["start"] = start.astype("datetime64[us, UTC]")
    flows["src_port"] = np.where(
        flows["src_port"] < 1024,
        flows["src_port"],
        rng.integers(32768, 61000, len(flows)),
    )
    new = rng.random(len(flows)) < NEW_SHARE
    number = day * DAY_ROWS + np.arange(len(flows))
    for side in ("src_ip", "dst_ip"):
        names = Names.of(lab[side])
        texts = names.texts[:-1].tolist()
        # Each repetition has hosts of its own; the outside is the same for all.
        local = np.array([t.startswith("10.") for t in texts])
        shifted = [
            f"10.{(int(t.split('.')[1]) + 100 * c) % 256}.{c}.{t.split('.')[3]}"
            if is_local
            else t
            for c in range(repeats)
            for t, is_local in zip(texts, local, strict=True)
        ]
        codes = copy * len(texts) + names.codes[row]
        fresh = [
            f"{20 + n // 2**24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
            for n in number[new]
        ]
        column = pd.array(shifted, dtype="str")[codes]
        outside = new & ~local[names.codes[row]]
        column[outside] = pd.array(fresh, dtype="str")[outside[new]]
        flows[side] = column
    if "server_name" in flows:
        named = new & flows["server_name"].notna().to_numpy()
        flows.loc[named, "server_name"] = [
            f"www.site{n}.example" for n in number[named]
        ]
    return flows.take(rng.permutation(len(flows))).reset_index(drop=True)


def train(files: list[Path], folder: Path, told) -> None:
    """Train on files and tell rates and peak memory."""
    warnings.simplefilter("ignore")
    used = [time.process_time()]
    kept = Spool(folder)
    kept.fill(files)
    used.append(time.process_time())
    detector = Detector(random_state=0)
    detector.fit_stream(kept.tables(), kept.n_flows, home=kept.home)
    used.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    save_model(detector, folder / "model.exfilml")
    saved = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = (folder / "model.exfilml").stat().st_size / 1e6
    spooled = sum(f.stat().st_size for f in folder.rglob("*.parquet")) / 1e6
    both = {**detector.known_.tables, **detector.known_.histograms}
    lost = {name: int(t.forgotten[0]) for name, t in both.items() if t.forgotten[0]}
    told.put((kept.n_flows, np.diff(used), peak, saved, size, spooled, lost))


def main() -> None:
    """Print a line for each size, and how the last compares with the first."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("millions", type=int, nargs="*", default=[1, 4])
    asked.add_argument("--netflow", action="store_true")
    asked.add_argument("--folder", type=Path, help="keep the made files here")
    options = asked.parse_args()
    start = multiprocessing.get_context("spawn")
    peaks = []
    with tempfile.TemporaryDirectory(prefix="exfilml-bench-") as temporary:
        kind = "netflow" if options.netflow else "payload"
        folder = (options.folder or Path(temporary)) / kind
        days = -(-max(options.millions) * MILLION // DAY_ROWS)
        # In a process of its own, so that making flows leaves no memory behind.
        making = start.Process(
            target=make, args=(folder, days), kwargs={"netflow": options.netflow}
        )
        making.start()
        making.join()
        files = sorted(folder.glob("*.parquet"))
        print(
            f"{kind}: {sum(f.stat().st_size for f in files) / 1e6:,.0f} MB", flush=True
        )
        for millions in options.millions:
            told = start.Queue()
            spool = Path(temporary) / "spool"
            mine = files[: -(-millions * MILLION // DAY_ROWS)]
            child = start.Process(target=train, args=(mine, spool, told))
            child.start()
            n, used, peak, saved, size, spooled, lost = told.get()
            child.join()
            shutil.rmtree(spool)
            peaks.append(peak)
            print(
                f"{kind}, {n / 1e6:.1f} million flows: pass one {n / used[0]:,.0f}, pass "
                f"two {n / used[1]:,.0f}, both {n / used.sum():,.0f} flows/s of one core "
                f"({n / used.sum() / LEAST_RATE:.2f} × {LEAST_RATE:,}); peak "
                f"{peak:,.0f} MiB ({peak / MOST_MIB:.2f} × 3 GiB), "
                f"{peak / peaks[0]:.2f} × the first (at most {MOST_GROWTH}); when the "
                f"model was written {saved:,.0f} MiB, model {size:,.0f} MB, spool "
                f"{spooled:,.0f} MB; forgot in {lost}",
                flush=True,
            )


if __name__ == "__main__":
    main()
