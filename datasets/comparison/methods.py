"""Simple and well-known methods: each gives every test flow a score, higher = worse.

The forests and ECOD learn from the baseline's flows. From captures they see payload;
from flow records bytes, packets, durations and their ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from nfstream import NFStreamer
from sklearn.ensemble import IsolationForest

if TYPE_CHECKING:
    from pathlib import Path

    from comparison.data import Data

KEY = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol", "ms"]


def learned(data: Data, seed: int) -> dict[str, np.ndarray]:
    """Scores of the test flows by what learns from the baseline's."""
    columns = record if data.netflow else card
    what = "netflow statistics" if data.netflow else "entropy, ratio, mismatch, volumes"
    train, rows = columns(data.baseline), columns(data.test)
    forest = IsolationForest(random_state=seed).fit(train)
    found = {f"forest on {what}": -forest.score_samples(rows)}
    if data.captures is not None:
        of_captures = forest_on_statistics(data.captures, data.test, seed)
        found = {"forest on NFStream's statistics": of_captures} | found
    try:
        from pyod.models.ecod import ECOD
        from pyod.models.iforest import IForest
    except ImportError:
        return found
    found["PyOD IForest on the same"] = (
        IForest(random_state=seed).fit(train).decision_function(rows)
    )
    found["PyOD ECOD on the same"] = ECOD().fit(train).decision_function(rows)
    return found


def card(flows: pd.DataFrame) -> np.ndarray:
    """Entropy, ratio, mismatch and volumes of each flow, as a textbook would."""
    entropy = flows["src_entropy"].fillna(0.0)
    mismatch = ~flows["app_verified"].fillna(value=False).astype(bool)
    ratio, *sizes = volumes(flows).T
    return np.column_stack([entropy, ratio, mismatch, *sizes])


def record(flows: pd.DataFrame) -> np.ndarray:
    """Volumes, duration, bytes a packet and bytes a second of each flow."""
    seconds = flows["duration_s"].fillna(0.0).to_numpy("float64")
    columns = [volumes(flows), np.log2(1.0 + seconds)]
    for side in ("src", "dst"):
        size = flows[f"{side}_bytes"].to_numpy("float64")
        packets = _packets(flows, side)
        columns.append(size / np.maximum(packets, 1.0))
        columns.append(np.log2(1.0 + size / np.maximum(seconds, 1e-3)))
    return np.column_stack(columns)


def volumes(flows: pd.DataFrame) -> np.ndarray:
    """Producer–consumer ratio, and log2 of bytes and packets each way."""
    up, down = (flows[f"{s}_bytes"].to_numpy("float64") for s in ("src", "dst"))
    return np.column_stack(
        [
            (up - down) / np.maximum(up + down, 1.0),
            *(np.log2(1.0 + size) for size in (up, down)),
            *(np.log2(1.0 + _packets(flows, side)) for side in ("src", "dst")),
        ]
    )


def _packets(flows: pd.DataFrame, side: str) -> np.ndarray:
    return flows[f"{side}_packets"].fillna(0).to_numpy("float64")


def statistics(path: Path) -> pd.DataFrame:
    """Return NFStream's numeric columns of each flow, indexed by its key."""
    rows = []
    columns: list[str] = []
    streamer = NFStreamer(
        source=str(path),
        statistical_analysis=True,
        accounting_mode=1,
        snapshot_length=65535,
        n_meters=1,
    )
    for flow in streamer:
        columns = columns or [
            c
            for c in flow.keys()  # noqa: SIM118 - a flow is no mapping
            if c.startswith(("bidirectional", "src2dst", "dst2src"))
        ]
        values = [getattr(flow, c) for c in columns]
        key = (flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port, flow.protocol)
        rows.append((*key, flow.bidirectional_first_seen_ms, *values))
    table = pd.DataFrame(rows, columns=[*KEY, *columns])
    return table.drop(columns=[c for c in columns if c.endswith("_seen_ms")])


def forest_on_statistics(
    captures: tuple[Path, Path], flows: pd.DataFrame, seed: int
) -> np.ndarray:
    """Score the test flows by a forest on NFStream's statistics of the baseline."""
    baseline, test = map(statistics, captures)
    features = [c for c in baseline.columns if c not in KEY]
    forest = IsolationForest(random_state=seed).fit(baseline[features])
    test["score"] = -forest.score_samples(test[features])
    score = test.drop_duplicates(KEY).set_index(KEY)["score"]
    ms = flows["start"].astype("datetime64[ms, UTC]").astype("int64")
    keys = pd.MultiIndex.from_frame(flows[KEY[:-1]].assign(ms=ms))
    swapped = pd.MultiIndex.from_frame(
        flows[["dst_ip", "dst_port", "src_ip", "src_port", "protocol"]].assign(ms=ms)
    )
    found = score.reindex(keys).to_numpy()
    found = np.where(np.isnan(found), score.reindex(swapped).to_numpy(), found)
    # What has no flow of the same key there (parts that were joined) is not found.
    return np.nan_to_num(found, nan=-1.0)
