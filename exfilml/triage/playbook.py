"""Ranked cases, answered: `triage_cases`."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml import __version__
from exfilml.detector import Detector
from exfilml.policy import Policy
from exfilml.ranking import (
    Judged,
    case_names,
    case_order,
    case_table,
    check_options,
    how_well_it_fits,
    judged_here,
)
from exfilml.triage._against import arguments, habit
from exfilml.triage._incidents import incidents
from exfilml.triage._material import Material
from exfilml.triage._playbook import ASKED, INDICATORS, WORTH, Answers, answer, by_case
from exfilml.triage._scope import scope_of
from exfilml.triage._steps import next_steps
from exfilml.triage._techniques import techniques
from exfilml.triage.assets import Assets
from exfilml.triage.case import Case, Fact, Triage
from exfilml.triage.escalation import Situation, decide
from exfilml.triage.intel import Intel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.history import History
    from exfilml.state import State

TOP: Final = 20
# What an indicator counts that does not say how sure it is.
UNSAID_CONFIDENCE: Final = 50.0


def triage_cases(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    top: int = TOP,
    cases: Iterable[str] = (),
    state: State | None = None,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    intel: Intel | None = None,
    assets: Assets | None = None,
    history: History | None = None,
) -> Triage:
    """Rank cases and answer the playbook for each.

    Parameters
    ----------
    detector, flows, state, alerts_per_day, fdr, policy
        As in `exfilml.score_flows`.
    top
        How many cases to answer for at least. All that alert, and all that a valid
        indicator meets, are answered for beyond that.
    cases
        Names of cases to answer for in any event; names that no case has are left out.
    intel
        Indicators, as `exfilml.read_intel` gives them.
    assets
        Whose hosts are whose, as `exfilml.read_assets` gives them.
    history
        What was seen before. Only what lies before a case counts, so that it may hold
        these flows as well.

    Returns
    -------
    Triage
        Cases in the order of `exfilml.rank_cases`. Nothing here changes a score.

    Raises
    ------
    FlowsError
        If `flows` is no flows table.
    OptionError
        If both thresholds are given, or one is out of range.
    PolicyError
        If the policy is none.
    StateError
        If the state was begun with another model.
    HistoryError
        If the history is damaged.
    """
    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    judged = judged_here(
        detector, flows, state, alerts_per_day, fdr, policy, ranked=True
    )
    matches = None if intel is None else intel.match(_numbered(judged))
    order = case_order(judged)
    chosen = _chosen(judged, order, top, matches, frozenset(cases))
    table = case_table(detector, judged, order[chosen]).assign(rank=chosen + 1)
    rows = _records(table)
    material = Material.of(detector, judged, order[chosen])
    answers = answer(material, matches, rows)
    met = (
        [pd.DataFrame()] * len(rows) if matches is None else by_case(material, matches)
    )
    seen = None if history is None else history.seen(_subjects(material, rows))
    against = arguments(material, answers.by_name["encryption_signs"], rows, seen)
    owners = _owners(assets, table)
    decisions = [
        decide(situation)
        for situation in _situations(material, rows, answers, met, against, owners)
    ]
    named, shares, tables, traffic = (
        techniques(material, answers),
        material.contributions(),
        material.tables(),
        material.traffic(),
    )
    answered = tuple(
        Case(
            row=row,
            flows=tables[case],
            contributions=shares[case],
            indicators=answers.of(case, *INDICATORS),
            questions=answers.of(case, *ASKED),
            against=against[case],
            decision=decisions[case],
            techniques=named[case],
            asset=owners[case],
            intel=_labelled(material, met[case]),
            history=_of_case(seen, str(row["case"])),
            scope=scope_of(traffic[case], {row["local_ip"]: owners[case]}),
        )
        for case, row in enumerate(rows)
    )
    declared = None if policy is None else Policy.of(policy)
    found = incidents(answered, traffic, baseline=detector.known_, policy=declared)
    whose = {name: incident.name for incident in found for name in incident.cases}
    return Triage(
        tuple(
            replace(
                case,
                incident=whose.get(case.name, ""),
                next_steps=next_steps(case),
            )
            for case in answered
        ),
        found,
        _about(detector, judged, intel=intel, assets=assets, history=seen),
    )


def _of_case(seen: pd.DataFrame | None, case: str) -> pd.DataFrame:
    return pd.DataFrame() if seen is None else seen[seen["case"] == case]


def _subjects(material: Material, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return what is asked of the history about each case."""
    service, fingerprint = material.at_largest(
        lambda asked: (
            asked.observed.names["service"].tolist(),
            asked.oriented["fingerprint"].tolist(),
        )
    )
    return pd.DataFrame(
        {
            "case": pd.array([row["case"] for row in rows], "str"),
            "local_ip": pd.array([row["local_ip"] for row in rows], "str"),
            "place": pd.array([row["place"] for row in rows], "str"),
            "service": pd.array(service, "str"),
            "fingerprint": pd.array(fingerprint, "str"),
            "before": pd.Series(
                [row["first_seen"] for row in rows], dtype="datetime64[us, UTC]"
            ),
        }
    )


def _numbered(judged: Judged) -> pd.DataFrame:
    """Return the flows with their places as labels."""
    return judged.scored.asked.oriented.flows.reset_index(drop=True)


def _chosen(
    judged: Judged,
    order: NDArray[np.int64],
    top: int,
    matches: pd.DataFrame | None,
    names: frozenset[str],
) -> NDArray[np.int64]:
    """Return the places in the order of the cases to answer for."""
    wanted = judged.alerted.copy()
    wanted[order[:top]] = True
    if matches is not None:
        wanted[judged.scored.case[matches.index.to_numpy(dtype=np.int64)]] = True
    answered = wanted[order]
    if names:
        known = case_names(judged.scored, judged.scored.worst[order])
        answered |= np.isin(known, sorted(names))
    return np.flatnonzero(answered)


def _situations(
    material: Material,
    rows: list[dict[str, Any]],
    answers: Answers,
    met: list[pd.DataFrame],
    against: list[tuple[Fact, ...]],
    owners: list[dict[str, Any]],
) -> Iterator[Situation]:
    judged = material.judged
    payload = judged.scored.case_with_payload[material.cases]
    _, at_place = material.leading("bare_place")
    for case, row in enumerate(rows):
        capability = "payload" if payload[case] else "volume"
        about = judged.thresholds.get(capability, {})
        yield Situation(
            suspicion=row["suspicion"],
            threshold=about.get("suspicion"),
            alert=row["alert"],
            inside=bool(judged.scored.apart[material.cases[case]]),
            approved=bool(judged.ruling.approved[material.cases[case]]),
            answers={a.name: a.answer for a in answers.of(case, *INDICATORS, *ASKED)},
            confidence=_confidence(met[case]),
            habit=habit(against[case]),
            surprising_place=bool(at_place[case] >= WORTH),
            criticality=owners[case].get("criticality"),
        )


def _confidence(matches: pd.DataFrame) -> float | None:
    """Return the confidence of the surest indicator that was valid, if any."""
    if len(matches) == 0 or matches["early"].all():
        return None
    valid = matches.loc[~matches["early"], "confidence"]
    return float(valid.fillna(UNSAID_CONFIDENCE).max())


def _owners(assets: Assets | None, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Say whose each case's host is; nothing where no assets were given."""
    if assets is None:
        return [{} for _ in range(len(table))]
    found = assets.of(table["local_ip"], at=table["first_seen"])
    return _records(found.astype(object).where(found.notna(), None))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _labelled(material: Material, matches: pd.DataFrame) -> pd.DataFrame:
    """Give matches the labels of their flows."""
    if len(matches) == 0:
        return matches
    index = material.judged.scored.asked.oriented.index
    return matches.set_axis(index[matches.index.to_numpy(dtype=np.int64)])


def _about(
    detector: Detector,
    judged: Judged,
    *,
    intel: Intel | None,
    assets: Assets | None,
    history: pd.DataFrame | None,
) -> dict[str, Any]:
    flows = judged.scored.asked.oriented.flows
    first, last = detector.window_
    return {
        "flows": len(flows),
        "cases": len(judged.alerted),
        "alerted": int(judged.alerted.sum()),
        "first": flows["start"].min(),
        "last": flows["start"].max(),
        "baseline_first": first,
        "baseline_last": last,
        "thresholds": judged.thresholds,
        "fit": how_well_it_fits(judged.scored.asked),
        "intel": None if intel is None else len(intel),
        "assets": None if assets is None else len(assets),
        "history": None if history is None else history.attrs["since"],
        "made": pd.Timestamp.now(tz=dt.UTC),
        "version": __version__,
    }
