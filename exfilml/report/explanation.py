"""Why a flow is suspicious: its bits, family by family, with the reasons.

The bits of all columns add up to the suspicion of the flow (`Detector.explain`; the
rule stands in `exfilml.detector`). A case scores as its worst flow, so a case is
explained by that flow.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import FlowsError, OptionError
from exfilml.export import printable
from exfilml.features import FAMILIES
from exfilml.ranking import Judged, Told, case_names, in_words, judge, told_by_family
from exfilml.report._waterfall import Explanation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.detector import Detector
    from exfilml.features import Asked
    from exfilml.policy import Policy
    from exfilml.state import State

__all__ = ["Explanation", "explain"]

POLICY: Final = "policy"


def explain(
    detector: Detector,
    flows: pd.DataFrame,
    rows: Any = None,
    *,
    case: str | None = None,
    state: State | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    exact: bool = True,
) -> Explanation:
    """Explain why flows are as suspicious as they are.

    Parameters
    ----------
    detector
        A fitted detector.
    flows
        A flows table, whole: what a flow's host and place sent before it is evidence
        too.
    rows
        Which flows: a label of the index of `flows`, or several, such as
        ``ranking.index[:3]`` of `exfilml.rank_flows`.
    case
        Instead: the name of a case, as in the column ``case`` of `exfilml.rank_cases`;
        its worst flow is explained. If both are `None`: the most suspicious flow.
    state, policy
        As in `exfilml.score_flows`; the state is left as it is.
    exact
        Whether the forest's bits are split by exact Shapley values; else by credit
        along the paths, some ten times as fast. (Sentences take exact ones.)

    Returns
    -------
    Explanation
        A notebook shows it as a waterfall; ``plot`` draws it.

    Raises
    ------
    FlowsError
        If `flows` is no flows table, or has no rows.
    OptionError
        If there is no such flow or case, or both are given.
    """
    if rows is not None and case is not None:
        raise OptionError("Both rows and a case were given; give one.")
    earlier = None if state is None else state.copy()
    judged = judge(detector, flows, state=earlier, policy=policy)
    if judged.scored.asked.n_flows == 0:
        raise FlowsError("There are no flows to explain.")
    chosen = _chosen(judged, rows, case)
    about = _about(judged, chosen)
    parts = [_policy_parts(judged, chosen)]
    reasons = [""] * len(chosen)
    for payload in (True, False):
        at = np.flatnonzero(judged.scored.with_payload[chosen] == payload)
        if len(at):
            asked = judged.scored.asked.only(chosen[at])
            told_of = told_by_family(detector, asked, payload=payload)
            parts.append(
                _parts(detector, asked, at, told_of, payload=payload, exact=exact)
            )
            for number, told_ in zip(at.tolist(), told_of, strict=True):
                reasons[number] = in_words(told_)
    about["reasons"] = judged.ruling.about_flows(chosen, reasons)
    table, families = (
        pd.concat(frames, ignore_index=True)
        .sort_values(["number", "bits"], ascending=[True, False], kind="stable")
        .reset_index(drop=True)
        for frames in zip(*parts, strict=True)
    )
    for frame in (table, families):
        frame.insert(1, "flow", about.index.take(frame["number"]))
    return Explanation(about, table, families)


def _chosen(judged: Judged, rows: Any, case: str | None) -> NDArray[np.int64]:
    """Return the numbers of the flows that are asked about."""
    scored = judged.scored
    if case is not None:
        every = case_names(scored, scored.worst)
        if case not in every:
            raise OptionError(
                f"case={printable(repr(case)[:60])}: no flow is of such a case; expected "
                "a name from the column `case` of exfilml.rank_cases on the same flows."
            )
        return scored.worst[[every.index(case)]]
    if rows is None:
        return np.array([int(np.argmax(judged.ranked_flows))])
    index = scored.asked.oriented.flows.index
    several = isinstance(rows, list | np.ndarray | pd.Index | pd.Series)
    labels = list(rows) if several else [rows]
    if not labels:
        raise OptionError("rows: got none, expected one label of the index or more.")
    at = index.get_indexer_for(pd.Index(labels))
    if (at < 0).any():
        unknown = [label for label in labels if label not in index]
        raise OptionError(
            f"rows: {len(unknown):,} of {len(labels):,} are not in the index of the "
            f"flows, the first is {printable(repr(unknown[0])[:60])}; expected labels "
            "such as ranking.index[0] of exfilml.rank_flows."
        )
    return np.asarray(at, dtype=np.int64)


def _about(judged: Judged, rows: NDArray[np.int64]) -> pd.DataFrame:
    scored = judged.scored
    ours = scored.asked.oriented.rows(rows)
    case = scored.case[rows]
    columns: dict[str, Any] = {
        "suspicion": scored.suspicion[rows],
        "p_value": scored.p_value[rows],
        "alert": judged.alerted[case],
        "case": case_names(scored, rows),
        "case_suspicion": scored.case_suspicion[case],
    }
    for column in ("start", "local_ip", "place", "service", "up_bytes", "down_bytes"):
        columns[column] = ours[column].array
    return pd.DataFrame(columns, index=scored.asked.oriented.flows.index[rows])


def _parts(
    detector: Detector,
    asked: Asked,
    at: NDArray[np.int64],
    told_of: list[list[Told]],
    *,
    payload: bool,
    exact: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split flows of one capability: by column, and by family."""
    features = detector.learned_["payload" if payload else "volume"].features
    bits = detector.contributions(asked, payload=payload, exact=exact)
    evidence = features.matrix(asked)
    n, k = bits.shape
    said = [feature.reason(asked.told) for feature in features.features]
    table = pd.DataFrame(
        {
            "number": np.repeat(at, k),
            "family": [f.family for f in features.features] * n,
            "feature": [f.name for f in features.features] * n,
            "bits": bits.ravel(),
            "evidence": evidence.ravel(),
            "unit": [f.unit for f in features.features] * n,
            # A column that shows nothing has nothing to say.
            "reason": [
                said[column][row] if evidence[row, column] > 0 else ""
                for row in range(n)
                for column in range(k)
            ],
            "definition": [" ".join(f.definition.split()) for f in features.features]
            * n,
        }
    )
    families = table.groupby(["number", "family"], sort=False)["bits"].sum()
    worth = {
        (number, FAMILIES[t.family]): t.sentence
        for number, told_ in zip(at.tolist(), told_of, strict=True)
        for t in told_
        if t.worth
    }
    reasons = [worth.get(key, "") for key in families.index]
    return table, families.reset_index().assign(reason=reasons)


def _policy_parts(
    judged: Judged, chosen: NDArray[np.int64]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what rules of the policy add to flows that break one."""
    bits = judged.ruling.flow_bits[chosen]
    at = np.flatnonzero(bits > 0)
    said = judged.ruling.about_flows(chosen[at], [""] * len(at))
    families = pd.DataFrame(
        {"number": at, "family": POLICY, "bits": bits[at], "reason": said}
    )
    table = families.assign(
        feature="rules",
        evidence=np.nan,
        unit="bits",
        definition="Bits that a broken rule of the policy adds.",
    )
    return table, families
