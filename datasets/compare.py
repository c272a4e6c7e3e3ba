"""Where the planted transfers of the sample rank, beside three simple methods.

    python datasets/compare.py            print the tables
    python datasets/compare.py --write    and put them into datasets/README.md

Every method sees the same captures and the same cases (one local host, place and
service), and gives a case the score of its highest flow; the detector gives its own
case score, and once more the score without the forest's bits. The methods: largest upload in bytes; entropy of the upload; scikit-learn's
isolation forest on NFStream's statistics of the baseline.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from nfstream import NFStreamer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score

import exfilml

HERE = Path(__file__).parent
SAMPLE = HERE / "sample"
BEGIN, END = "<!-- comparison:begin -->", "<!-- comparison:end -->"
KEY = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol", "ms"]


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


def forest_on_statistics(flows: pd.DataFrame, seed: int) -> np.ndarray:
    """Score the test flows by a forest on NFStream's statistics of the baseline."""
    baseline = statistics(SAMPLE / "baseline.pcap")
    features = [c for c in baseline.columns if c not in KEY]
    forest = IsolationForest(random_state=seed).fit(baseline[features])
    test = statistics(SAMPLE / "test.pcap")
    test["score"] = -forest.score_samples(test[features])
    score = test.drop_duplicates(KEY).set_index(KEY)["score"]
    ms = flows["start"].astype("datetime64[ms, UTC]").astype("int64")
    keys = pd.MultiIndex.from_frame(flows[KEY[:-1]].assign(ms=ms))
    swapped = pd.MultiIndex.from_frame(
        flows[["dst_ip", "dst_port", "src_ip", "src_port", "protocol"]].assign(ms=ms)
    )
    found = score.reindex(keys).to_numpy()
    return np.where(np.isnan(found), score.reindex(swapped).to_numpy(), found)


def tables(seed: int = 0) -> str:
    """Return the tables as Markdown."""
    detector = exfilml.Detector(random_state=seed).fit(
        exfilml.read_flows(SAMPLE / "baseline.pcap", progress=False)
    )
    flows = exfilml.read_flows(SAMPLE / "test.pcap", progress=False)
    labels = exfilml.read_labels(SAMPLE / "labels.csv")
    flows = exfilml.apply_labels(flows, labels)
    ranking = exfilml.rank_flows(detector, flows)
    case = ranking["case"].reindex(flows.index)
    cases = exfilml.rank_cases(detector, flows).set_index("case")
    # The tails alone; order is all that counts here.
    silent = copy.copy(detector)
    silent.learned_ = {
        name: replace(learned, scale=0.0) for name, learned in detector.learned_.items()
    }
    tails = exfilml.rank_cases(silent, flows).set_index("case")
    entropy = flows["src_entropy"].fillna(0.0)
    by_method = {
        "exfilml": cases["suspicion"],
        "exfilml without its forest": tails["suspicion"],
        "largest upload": flows["src_bytes"].groupby(case).max(),
        "upload entropy": entropy.groupby(case).max(),
        "forest on NFStream's statistics": pd.Series(
            forest_on_statistics(flows, seed), index=flows.index
        )
        .groupby(case)
        .max(),
    }
    by_method = {
        m: s.reindex(cases.index).fillna(-np.inf) for m, s in by_method.items()
    }
    # A tie is counted against the method: equal scores rank last.
    ranks = pd.DataFrame(
        {
            m: s.rank(ascending=False, method="max").astype(int)
            for m, s in by_method.items()
        }
    )
    about = flows.assign(case=case).dropna(subset=["label"])
    planted = set(about.loc[about["label"] == "exfil", "case"])
    truth = np.array([c in planted for c in cases.index])
    n = int(truth.sum())
    lines = [
        f"{len(flows):,} flows in {len(cases):,} cases, {n} of them planted; seed {seed}.",
        "",
        f"| method | average precision | among first {n} | among first {2 * n} |",
        "|---|---|---|---|",
    ]
    for method, score in by_method.items():
        precision = average_precision_score(truth, score.clip(lower=-1e12))
        first = [(ranks.loc[truth, method] <= k * n).sum() for k in (1, 2)]
        lines.append(f"| {method} | {precision:.2f} | {first[0]} | {first[1]} |")
    honest = set(about.loc[about["label"] == "hard-negative", "case"])
    benign = cases[~cases.index.isin(planted)]
    quiet = benign[~benign.index.isin(honest)]
    days = (flows["start"].max() - flows["start"].min()).total_seconds() / 86400
    budget = detector.alerts_per_day
    spent = (
        f"At a budget of {budget:g} alerts a day exfilml alerts "
        f"{int(benign['alert'].sum())} of the {len(benign)} cases that are no theft, "
        f"in {days:.1f} days; the budget allows {budget * days:.0f}. "
        f"{int(benign['alert'].sum() - quiet['alert'].sum())} of them are the hard "
        f"negatives, {int(quiet['alert'].sum())} ordinary traffic."
    )
    lines += [
        "",
        spent,
        "",
        "Rank of each labelled scenario's best case (1 is best):",
        "",
        "| label | scenario | " + " | ".join(by_method) + " |",
        "|---|---|" + "---|" * len(by_method),
    ]
    scenarios = about.groupby(["label", "scenario"])["case"].agg(set).reset_index()
    for row in scenarios.itertuples():
        best = ranks.loc[sorted(row.case)].min()
        cells = " | ".join(str(best[m]) for m in by_method)
        lines.append(f"| {row.label} | {row.scenario} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update README.md")
    text = tables()
    print(text)
    if parser.parse_args().write:
        readme = HERE / "README.md"
        old = readme.read_text(encoding="utf-8")
        before, rest = old.split(BEGIN)
        after = rest.split(END)[1]
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
