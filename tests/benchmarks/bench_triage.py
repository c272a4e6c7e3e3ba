"""How long the triage of 200 cases takes over a history of ten million flows.

Run as ``python tests/benchmarks/bench_triage.py [N]``. The site and its history are
those of `bench_history`, the million indicators those of `bench_intel`; a detector
learned a day of it, and ranks the last. Told are seconds on the wall and of processor
time of `exfilml.triage_cases` alone, of its parts, and of what a run reads before.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_history import DAYS, block, blocks
from bench_intel import list_of

import exfilml

SIZE = 10_000_000
INDICATORS = 1_000_000
CASES = 200
# Indicators that a flow meets.
MET = 20
FLOWS = 100_000
# What "Must hold" asks for, on two cores.
MOST_S = 30.0


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do some work, and print its seconds on the wall and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall:.1f} s, {cpu:.1f} s of processor time", flush=True)
    return done


def day(number: int, n: int) -> pd.DataFrame:
    """Return flows of one day."""
    rng = np.random.default_rng(number)
    return block(rng, number / DAYS, (number + 1) / DAYS, n)


def owners(folder: Path) -> Path:
    """Write assets: networks, and every host by its address."""
    path = folder / "assets.csv"
    rows = [f"10.20.{h // 250}.{h % 250},owner{h % 90},high" for h in range(2_000)]
    text = "\n".join(["address,owner,criticality", *rows])
    path.write_text(text, encoding="utf-8")
    return path


def main(n: int) -> None:
    """Fill a history, and triage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        history = exfilml.History.open(folder / "history", create=True)
        timed(f"history of {n:,} flows filled", lambda: history.add(blocks(n)))
        flows = day(DAYS - 1, FLOWS)
        names = flows["server_name"].value_counts()
        listed = list_of(np.random.default_rng(1), INDICATORS - MET)
        listed += sorted(names.index[names == 1])[:MET]
        (folder / "indicators.txt").write_text("\n".join(listed), encoding="utf-8")
        intel = timed(
            f"{INDICATORS:,} indicators read",
            lambda: exfilml.read_intel(folder / "indicators.txt"),
        )
        assets = timed("assets read", lambda: exfilml.read_assets(owners(folder)))
        detector = timed(
            f"detector fitted on {FLOWS:,} flows",
            lambda: exfilml.Detector(random_state=0).fit(day(DAYS - 2, FLOWS)),
        )
        flows = day(DAYS - 1, FLOWS)
        timed(
            "rank_cases alone", lambda: exfilml.rank_cases(detector, flows, top=CASES)
        )
        # About as many alert, so that they are looked at for incidents, too.
        options = {"top": CASES, "alerts_per_day": CASES - MET}
        timed(
            "triage of 200 cases, nothing else given",
            lambda: exfilml.triage_cases(detector, flows, **options),
        )
        wall = time.perf_counter()
        found = timed(
            "triage with history, intel and assets",
            lambda: exfilml.triage_cases(
                detector,
                flows,
                intel=intel,
                assets=assets,
                history=history,
                **options,
            ),
        )
        wall = time.perf_counter() - wall
    met = sum(len(case.intel) > 0 for case in found)
    seen = sum(int((case.history["flows"].fillna(0) > 0).any()) for case in found)
    load, _, _ = os.getloadavg()
    print(
        f"{len(found):,} cases of {found.about['cases']:,} and {len(flows):,} flows, "
        f"{len(found.incidents)} incidents; {seen:,} with a past, {met:,} met by "
        f"indicators: {'within' if wall <= MOST_S else 'OVER'} {MOST_S:.0f} s "
        f"on the wall, at a load of {load:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SIZE)
