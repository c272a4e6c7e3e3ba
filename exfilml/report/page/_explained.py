"""The flows behind the rows of a plain ranking, and what explains them.

A triage holds them already. For a ranking they are found again: the flows are judged
once more with the same detector, and named as the ranking names them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.baseline import Baseline
from exfilml.exceptions import ExfilmlWarning
from exfilml.features import FAMILIES
from exfilml.features.cases import case_name
from exfilml.policy import Policy
from exfilml.ranking import Judged, judge
from exfilml.tally import DAYS_KEPT, combine, hash_names, n_days

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.detector import Detector

# How many flows a level of the baseline needs before it says what is usual.
ENOUGH: Final = 20
LOW, HIGH = 0.05, 0.95
ORIENTED: Final = (
    *("local_ip", "remote_ip", "place", "service", "direction"),
    *("up_bytes", "down_bytes"),
)
PAYLOAD: Final = (
    *("sampled_bytes", "start_p_random", "head_entropy", "head_p_random"),
    *("body_entropy", "body_p_random", "verdict", "handshake", "magic", "encoding"),
    "opaque_from",
)
NAMED: Final = {
    "User agents": "user_agent",
    "Content types": "content_type",
    "Declared content": "src_declared",
    "Client fingerprints": "fingerprint",
    "Processes": "process",
}
SHOWN_COLUMNS: Final = (
    *("start", "src_ip", "src_port", "dst_ip", "dst_port", "protocol", "app"),
    *NAMED.values(),
    *(f"{side}_{column}" for side in ("src", "dst") for column in PAYLOAD),
    *ORIENTED,
)


@dataclass(frozen=True)
class Explained:
    """What stands behind a row of a ranking.

    Attributes
    ----------
    flows
        In order of time, as `exfilml.triage.case.Case.flows`: the columns that the
        page shows.
    contributions
        Bits of suspicion by family of evidence, of the flow that leads the row.
    """

    flows: pd.DataFrame
    contributions: Mapping[str, float]


def explain_rows(
    detector: Detector,
    flows: pd.DataFrame,
    ranking: pd.DataFrame,
    policy: Policy | str | os.PathLike[str] | None,
) -> list[Explained | None]:
    """Find the flows behind each row of a ranking; `None` where there are none.

    Nothing is known of earlier calls, so where a state was used the bits can be fewer
    than those of the ranking.
    """
    with warnings.catch_warnings():
        # Whoever made the ranking was warned then.
        warnings.simplefilter("ignore", ExfilmlWarning)
        judged = judge(detector, flows, policy=policy)
    scored = judged.scored
    names = (case_name(key) for key in scored.case_key[scored.worst].tolist())
    code_of = dict(zip(names, scored.case[scored.worst].tolist(), strict=True))
    codes = [code_of.get(str(case), -1) for case in ranking["case"].tolist()]
    theirs = _flows_of_cases(judged, sorted({code for code in codes if code >= 0}))
    lead = _leading(judged, flows, ranking, codes)
    bits = iter(_bits(detector, judged, lead[lead >= 0]).tolist())
    return [
        None
        if row < 0
        else Explained(theirs[code], dict(zip(FAMILIES, next(bits), strict=True)))
        for code, row in zip(codes, lead.tolist(), strict=True)
    ]


def _flows_of_cases(judged: Judged, cases: list[int]) -> dict[int, pd.DataFrame]:
    """Return the flows of each case in order of time, as a triage has them."""
    if not cases:
        return {}
    scored = judged.scored
    wanted = np.array(cases, dtype=np.int64)
    start = scored.asked.oriented.flows["start"].to_numpy(dtype="datetime64[us]")
    rows = np.flatnonzero(np.isin(scored.case, wanted))
    rows = rows[np.lexsort((start[rows], scored.case[rows]))]
    oriented = scored.asked.oriented.rows(rows)
    columns = [c for c in SHOWN_COLUMNS if c not in ORIENTED]
    table = oriented[columns].assign(
        **{name: oriented[name].array for name in ORIENTED},
        suspicion=scored.suspicion[rows],
    )
    cuts = np.searchsorted(scored.case[rows], wanted)
    ends = [*cuts[1:].tolist(), len(rows)]
    return {
        case: table.iloc[first:last]
        for case, first, last in zip(cases, cuts.tolist(), ends, strict=True)
    }


def _leading(
    judged: Judged, flows: pd.DataFrame, ranking: pd.DataFrame, codes: list[int]
) -> NDArray[np.int64]:
    """Return the flow that leads each row: the flow itself, or the worst of a case."""
    if "first_seen" not in ranking and flows.index.is_unique:
        lead: NDArray[np.int64] = flows.index.get_indexer(ranking.index).astype("int64")
        return np.where(np.array(codes, dtype=np.int64) < 0, -1, lead)
    worst = judged.scored.worst
    return np.array([worst[c] if c >= 0 else -1 for c in codes], dtype=np.int64)


def _bits(
    detector: Detector, judged: Judged, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Split the suspicion of flows over families, shape (n_rows, n_families)."""
    scored = judged.scored
    bits = np.zeros((len(rows), len(FAMILIES)))
    for name, learned in detector.learned_.items():
        at = np.flatnonzero(scored.with_payload[rows] == (name == "payload"))
        if len(at) == 0:
            continue
        asked = scored.asked.only(rows[at])
        split = detector.contributions(asked, payload=name == "payload", exact=True)
        families = learned.features.families
        for family in np.unique(families):
            bits[at, family] = split[:, families == family].sum(axis=1)
    return bits


@dataclass(frozen=True)
class Usual:
    """What the baseline finds usual for uploads of one flow.

    Attributes
    ----------
    whose
        A sentence part that names the level.
    flows
        How many it was learned from.
    low, high
        Quantiles `LOW` and `HIGH` of upload bytes.
    largest
        Bytes.
    """

    whose: str
    flows: int
    low: float
    high: float
    largest: float


def usual_upload(known: Baseline, local_ip: str, service: str) -> Usual | None:
    """Say what is usual, from the most specific level that saw enough flows."""
    host, named = _hashed(local_ip), _hashed(service)
    levels = {
        "host_service": (combine(host, named), f"{local_ip} to {service}"),
        "service": (named, f"any host to {service}"),
        "host": (host, f"{local_ip} to any service"),
        "site": (np.zeros(1, dtype=np.uint64), "any host to any service"),
    }
    for level, (key, whose) in levels.items():
        if level in {"service", "host"}:
            key = combine(key)  # noqa: PLW2901 (tables combine also single parts)
        (row,) = known.tables[level].find(key).tolist()
        if row < 0 or (n := known.tables[level].values["n"][row]) < ENOUGH:
            continue
        bits = [float(known.quantile(level, key, q)[0]) for q in (LOW, HIGH)]
        bits.append(float(known.tables[level].values["peak_bits"][row]))
        if np.isfinite(bits).all():
            return Usual(whose, int(n), *(2.0**b - 1.0 for b in bits))
    return None


def seen_before(
    known: Baseline, local_ip: str, service: str, place: str
) -> list[tuple[str, str]]:
    """Say what the baseline knows of a destination, in pairs of who and what."""
    host, named, where = _hashed(local_ip), _hashed(service), _hashed(place)
    pairs = known.tables["host_place"]
    hosts = int((pairs.second == where[0]).sum())
    return [
        (f"{local_ip} to this place", _seen(known, "host_place", combine(host, where))),
        (
            f"any host to this place by {service}",
            _seen(known, "service_place", combine(named, where)),
        ),
        ("hosts that went there", f"{hosts:,} of {known.n_hosts:,}"),
    ]


def _seen(known: Baseline, table: str, key: NDArray[np.uint64]) -> str:
    tally = known.tables[table]
    (row,) = tally.find(key).tolist()
    if row < 0:
        return "never"
    values = {name: tally.values[name][row] for name in ("n", "first_day", "last_day")}
    days = int(n_days(tally.values["days"][row : row + 1])[0])
    first, last = (
        f"{pd.Timestamp(int(values[day]), unit='D'):%Y-%m-%d}"
        for day in ("first_day", "last_day")
    )
    n = int(values["n"])
    flows = f"{n:,} flow{'' if n == 1 else 's'}"
    if first == last:
        return f"{flows} on {first}"
    # Days further apart than are kept can fall on the same bit.
    least = "at least " * bool(values["last_day"] - values["first_day"] >= DAYS_KEPT)
    return f"{flows} on {least}{days} days, {first} to {last}"


def _hashed(name: str) -> NDArray[np.uint64]:
    return hash_names(pd.Series([name], dtype="str"))
