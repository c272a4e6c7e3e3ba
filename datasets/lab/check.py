"""Whether a split is whole, and a rebuilt one statistically like the committed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sample_lab.check import checksums, table

from lab import tables

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

# What a split must hold at least.
LEAST_FLOWS = {"baseline": 3000, "test": 1000}
LEAST_CASES = {"baseline": 1000, "test": 300}
LEAST_SERVICES = 18
LEAST_SCENARIOS = {"exfil": 25, "hard-negative": 8}
# Headers, encodings and padding on top of the data; lookups ask in both directions.
MOST_OVERHEAD = 3.5
# How far a rebuilt split may be from the committed one. Sessions are the same, so
# counts differ by retries and what the caches of resolver and proxy happened to hold.
COUNTS, SERVICE_COUNTS, QUANTILES = 0.10, 0.30, 0.35
# Services below this many flows are too few to compare shares and quantiles.
COMMON = 25


@dataclass(frozen=True)
class Summary:
    """Counts of one half: what `differences` compares."""

    flows: int
    cases: int
    services: dict[str, int]
    uploads: dict[str, tuple[float, float]]


def summary(flows: pd.DataFrame) -> Summary:
    """Count flows, cases and services, and take upload quantiles of each service."""
    table = tables.with_places(flows)
    groups = table.groupby("service")
    counts = groups.size()
    quantiles = groups["up_volume"].quantile([0.5, 0.9]).unstack()  # noqa: PD010
    return Summary(
        len(table),
        int(table["case"].nunique()),
        {str(name): int(n) for name, n in counts.items()},
        {str(name): (row[0.5], row[0.9]) for name, row in quantiles.iterrows()},
    )


def differences(committed: Summary, rebuilt: Summary) -> list[str]:
    """Return in words where two summaries are further apart than they may be."""
    found = []

    def compare(what: str, a: float, b: float, most: float) -> None:
        if abs(a - b) > most * max(a, b):
            found.append(f"{what}: {a:,.0f} committed, {b:,.0f} rebuilt")

    compare("flows", committed.flows, rebuilt.flows, COUNTS)
    compare("cases", committed.cases, rebuilt.cases, COUNTS)
    for name in sorted({*committed.services, *rebuilt.services}):
        a, b = committed.services.get(name, 0), rebuilt.services.get(name, 0)
        if max(a, b) < COMMON:
            continue
        compare(f"flows of {name}", a, b, SERVICE_COUNTS)
        if min(a, b):
            for share, x, y in zip(
                ("median", "90 %"), committed.uploads[name], rebuilt.uploads[name],
                strict=True,
            ):  # fmt: skip
                compare(f"{share} upload of {name}", x, y, QUANTILES)
    return found


def unmatched(labels: pd.DataFrame, flows: pd.DataFrame) -> list[str]:
    """Return the label rows that meet no flow, in words.

    Parameters
    ----------
    labels
        As `exfilml.read_labels` gives it.
    flows
        Flows with a ``scenario``, from `tables.flows_of`.
    """
    ends = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol"]

    def keys(table: pd.DataFrame) -> list[tuple[object, ...]]:
        # Without ports a flow has 0, a label nothing; either side may be the first.
        rows = table[[*ends, "scenario"]].fillna({"src_port": 0, "dst_port": 0})
        return [
            (*sorted((row[0:2], row[2:4])), row[4], row[5])
            for row in rows.itertuples(index=False, name=None)
        ]

    seen = set(keys(flows[flows["scenario"].notna()]))
    return [f"label without a flow: {key}" for key in keys(labels) if key not in seen]


def carried(flows: pd.DataFrame, host: str) -> int:
    """Return the payload bytes that a host sent in flows, whoever opened them."""
    up = flows.loc[flows["src_ip"] == host, "src_payload_bytes"].sum()
    down = flows.loc[flows["dst_ip"] == host, "dst_payload_bytes"].sum()
    return int(up + down)


def report(folder: Path, against: Path | None) -> int:
    """Print what a split holds; return 1 if something does not hold."""
    problems = checksums(folder)
    for half in tables.HALVES:
        flows = tables.flows_of(folder, half)
        facts = summary(flows)
        size = (folder / f"{half}.pcap.gz").stat().st_size
        print(
            f"\n{half}: {size:,} bytes, {facts.flows:,} flows in {facts.cases:,} cases"
            f" of {len(facts.services)} services\n"
        )
        print(f"{'service':<18}{'flows':>7}{'median up':>12}{'90 % up':>12}")
        for name, count in sorted(facts.services.items(), key=lambda item: -item[1]):
            median, most = facts.uploads[name]
            print(f"{name:<18}{count:>7}{median:>12,.0f}{most:>12,.0f}")
        problems += _enough(half, facts)
        if half == "test":
            problems += _scenarios(folder, flows)
        if against:
            other = summary(tables.flows_of(against, half))
            problems += [f"{half}: {text}" for text in differences(facts, other)]
    if against:
        problems += _same_plan(folder, against)
    print("\n" + ("\n".join(f"PROBLEM: {p}" for p in problems) or "all checks hold"))
    return int(bool(problems))


def _enough(half: str, facts: Summary) -> list[str]:
    return [
        f"{half}: {found:,} {what}, at least {least:,} expected"
        for what, found, least in (
            ("flows", facts.flows, LEAST_FLOWS[half]),
            ("cases", facts.cases, LEAST_CASES[half]),
            ("services", len(facts.services), LEAST_SERVICES),
        )
        if found < least
    ]


def _scenarios(folder: Path, flows: pd.DataFrame) -> list[str]:
    import exfilml

    problems = unmatched(exfilml.read_labels(folder / "labels.csv"), flows)
    plans = table(folder / "scenarios.csv")
    print(f"\n{'scenario':<28}{'label':<15}{'flows':>5}{'data':>12}{'sent':>12}")
    for plan in plans:
        own = flows[flows["scenario"] == plan["scenario"]]
        sent, data = carried(own, plan["src_ip"]), int(plan["bytes"])
        print(
            f"{plan['scenario']:<28}{plan['label']:<15}{len(own):>5}"
            f"{data:>12,}{sent:>12,}"
        )
        # UDP has no retransmission; a receiver's full buffer costs nothing on the wire.
        if not 0.98 * data <= sent <= MOST_OVERHEAD * data + 20_000:
            problems.append(f"{plan['scenario']}: {sent:,} sent, {data:,} planned")
    for label, least in LEAST_SCENARIOS.items():
        count = sum(plan["label"] == label for plan in plans)
        if count < least:
            problems.append(f"{count} scenarios labelled {label}, expected {least}")
    return problems


def _same_plan(folder: Path, against: Path) -> list[str]:
    facts = ("scenario", "host", "to", "carrier", "cipher")
    mine, other = (
        [tuple(plan[f] for f in facts) for plan in table(where / "scenarios.csv")]
        for where in (folder, against)
    )
    return [] if mine == other else ["the rebuilt split plans other scenarios"]
