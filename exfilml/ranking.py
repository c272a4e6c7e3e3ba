"""Scores to ordered, explained tables: of flows, and of cases.

`score_flows` is the function for pipelines: one row for each flow, in the order and
with the index of its input. `rank_flows` and `rank_cases` put the worst first and
say why, for people. An alert is a case opened: a flow is alerted when its case is.

One file because order, alert and reasons of a row come from the same scores.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from exfilml.baseline import BARE, Observed
from exfilml.calibration import check_budget, check_rate, false_discovery_threshold
from exfilml.detector import Detector, Scored
from exfilml.exceptions import CapabilityWarning, OptionError, SiteWarning
from exfilml.features import FAMILIES, Asked
from exfilml.features.cases import Cases, case_name, largest_of_case
from exfilml.names import Names
from exfilml.places import orient
from exfilml.policy import Policy
from exfilml.ruling import Ruling
from exfilml.schema import (
    CAPABILITIES,
    capability_level,
    validate_flows,
    warn_of_doubtful_rows,
)
from exfilml.tally import grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.state import State

SCORE_COLUMNS: Final = ("suspicion", "p_value", "alert", "capability", "not_visible")
FLOW_COLUMNS: Final = (
    "rank",
    "suspicion",
    "p_value",
    "alert",
    "case",
    "start",
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "protocol",
    "app",
    "server_name",
    "direction",
    "local_ip",
    "place",
    "up_bytes",
    "down_bytes",
    "capability",
    "not_visible",
    "reasons",
)
CASE_COLUMNS: Final = (
    "rank",
    "suspicion",
    "p_value",
    "alert",
    "case",
    "local_ip",
    "place",
    "direction",
    "src_ip",
    "dst_ip",
    "dst_port",
    "protocol",
    "app",
    "server_name",
    "flows",
    "addresses",
    "first_seen",
    "last_seen",
    "up_bytes",
    "down_bytes",
    "capability",
    "not_visible",
    "reasons",
)

_TEXTS: Final = frozenset(
    {"case", "local_ip", "place", "direction", "capability", "not_visible", "reasons"}
)

# A reason that explains less than this is noise to a reader.
# Of flows, that lead where their host never went before.
ELSEWHERE_SHARE: Final = 0.9
LEAST_HOSTS: Final = 5
LEAST_OVERLAP: Final = 0.01
# Where fewer go in or out, home networks are wrong, or the sensor is inside.
LEAST_CROSSING: Final = 0.01
FEWEST_TO_CROSS: Final = 100
LEAST_REASON_BITS: Final = 0.5
WORTH_TELLING_BITS: Final = 2.0
# Of what is worth telling: less is what smoothing leaves of the usual, and no reason,
# however many bits the forest gives it.
LEAST_EVIDENCE_SHARE: Final = 0.1


def score_flows(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    state: State | None = None,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Score flows for a pipeline: no plotting, input order kept.

    No file is touched, but a policy that is given as a path.

    Parameters
    ----------
    detector
        A fitted detector.
    flows
        A flows table.
    state
        Memory of earlier calls, `Detector.new_state`; the flows are added to it. Give
        tables in order of time. Without one, sums over windows begin with the table;
        ``attrs["windows_not_covered"]`` names those that reach back further.
    alerts_per_day
        Alert budget in cases a day; `None` for the detector's own.
    fdr
        False discovery rate over cases, instead of a budget.
    policy
        What the site declares, or the path of a policy file (`exfilml.policy`): home
        networks, before the detector's; approvals, which keep cases from alerting;
        rules, which add bits to what breaks them (`exfilml.ruling`).

    Returns
    -------
    pandas.DataFrame
        Index of `flows`; ``suspicion`` (float64, bits, higher = worse), ``p_value``
        (float64), ``alert`` (bool), ``capability`` and ``not_visible`` (str);
        ``attrs`` as in `rank_flows`.

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
    """
    check_options(alerts_per_day=alerts_per_day, fdr=fdr)
    judged = judged_here(detector, flows, state, alerts_per_day, fdr, policy)
    scored = judged.scored
    table = pd.DataFrame(
        {
            "suspicion": scored.suspicion,
            "p_value": scored.p_value,
            "alert": judged.alerted[scored.case],
            "capability": _capability(scored).array,
            "not_visible": _not_visible(scored).array,
        },
        index=scored.asked.oriented.flows.index,
    )
    return _noted(table, judged, by_case=False)


def rank_flows(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    top: int | None = None,
    state: State | None = None,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Rank flows, the most suspicious first, with reasons.

    Parameters
    ----------
    detector, flows, state, alerts_per_day, fdr, policy
        As in `score_flows`.
    top
        Number of rows to return; `None` for all.

    Returns
    -------
    pandas.DataFrame
        Columns `FLOW_COLUMNS`; the index is that of `flows`, so that
        ``flows.loc[ranking.index]`` gives the flows behind the rows. ``attrs`` has
        the number of rows before `top` cut them (``total``), of alerts among them
        (``alerted``) and of rows that stay inside the site (``inside``: ranked after all
        that leave, never alerted), the windows of `exfilml.state` that reach back
        further than is known (``windows_not_covered``), whether the flows go on where
        the state left off (``follows``), and by capability from which suspicion on a
        case alerts and how often normal operation then does (``thresholds``, see
        `_alerts`), and how well the model fits the flows (``fit``, see
        `how_well_it_fits`). Cases that only an approval keeps from alerting are ``suppressed``;
        where there is a policy, ``policy`` has `Ruling.counts`.
    """
    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    judged = judged_here(
        detector, flows, state, alerts_per_day, fdr, policy, ranked=True
    )
    scored = judged.scored
    oriented = scored.asked.oriented
    flows = oriented.flows
    begin = _begin(flows)
    ranked = judged.ranked_flows
    order = _order(ranked, scored.asked.up, begin, scored.asked.tie, top)
    chosen = flows.iloc[order]
    ours = oriented.rows(order)
    table = pd.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "suspicion": scored.suspicion[order],
            "p_value": scored.p_value[order],
            "alert": judged.alerted[scored.case[order]],
            "case": case_names(scored, order),
            "capability": _capability(scored, order).tolist(),
            "not_visible": _not_visible(scored, order).tolist(),
            "reasons": judged.ruling.about_flows(
                order, list(_reasons(detector, scored, order))
            ),
            **{c: chosen[c] for c in FLOW_COLUMNS[5:13]},
            **{c: ours[c] for c in FLOW_COLUMNS[13:18]},
        },
        index=chosen.index,
    )
    return _fitted(
        _noted(_typed(table[list(FLOW_COLUMNS)]), judged, by_case=False), judged
    )


def rank_cases(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    top: int | None = None,
    state: State | None = None,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Rank cases (one local host, place and service), the most suspicious first.

    Parameters
    ----------
    detector, flows, state, alerts_per_day, fdr, policy
        As in `score_flows`.
    top
        Number of rows to return; `None` for all.

    Returns
    -------
    pandas.DataFrame
        Columns `CASE_COLUMNS`, RangeIndex. ``src_ip``, ``dst_ip``, ``dst_port``,
        ``app`` and ``server_name`` are those of the case's largest upload;
        ``dst_port`` is missing where the port changes. ``case`` is the name that
        `rank_flows` gives to the case's flows; ``attrs`` as there.
    """
    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    judged = judged_here(
        detector, flows, state, alerts_per_day, fdr, policy, ranked=True
    )
    return case_table(detector, judged, case_order(judged, top))


def case_order(judged: Judged, top: int | None = None) -> NDArray[np.int64]:
    """Return cases, the worst first."""
    scored = judged.scored
    asked, code = scored.asked, scored.case
    n_cases = len(scored.case_suspicion)
    up = np.bincount(code, asked.up, minlength=n_cases)
    begin = _begin(asked.oriented.flows)
    first_seen = np.full(n_cases, np.iinfo(np.int64).max)
    np.minimum.at(first_seen, code, begin)
    return _order(judged.ranked_cases, up, first_seen, np.arange(n_cases), top)


def case_table(
    detector: Detector, judged: Judged, order: NDArray[np.int64]
) -> pd.DataFrame:
    """Return the rows of some cases, as `rank_cases` does, in the order given."""
    scored = judged.scored
    asked, code = scored.asked, scored.case
    flows, n_cases = asked.oriented.flows, len(scored.case_suspicion)
    largest = largest_of_case(asked.up, code, asked.tie)[order]
    leading, ours = flows.iloc[largest], asked.oriented.rows(largest)
    # Only the flows of ranked cases are summed up, each case under its rank.
    rank = np.full(n_cases, -1)
    rank[order] = np.arange(len(order))
    members = np.flatnonzero(rank[code] >= 0)
    rank = rank[code[members]]
    theirs = asked.oriented.rows(members)
    sums = theirs[["up_bytes", "down_bytes"]].groupby(rank).sum()
    lasting = pd.to_timedelta(theirs["duration_s"].fillna(0.0), unit="s")
    ends = theirs["start"] + lasting.astype("timedelta64[us]")
    ports = theirs["dst_port"].groupby(rank).agg(["min", "max"])
    changing = (ports["min"] != ports["max"]).to_numpy()
    worst = scored.worst[order]
    columns: dict[str, Any] = {
        "rank": np.arange(1, len(order) + 1),
        "suspicion": scored.case_suspicion[order],
        "p_value": scored.case_p_value[order],
        "alert": judged.alerted[order],
        "case": case_names(scored, worst),
        "dst_port": leading["dst_port"].astype("Int64").mask(changing).array,
        "flows": np.bincount(code, minlength=n_cases)[order],
        "addresses": theirs["remote_ip"].groupby(rank).nunique().array,
        "first_seen": theirs["start"].groupby(rank).min().array,
        "last_seen": ends.groupby(rank).max().array,
        "up_bytes": sums["up_bytes"].array,
        "down_bytes": sums["down_bytes"].array,
        "capability": _capability(scored, worst).tolist(),
        "not_visible": _not_visible(scored, worst).tolist(),
        "reasons": judged.ruling.about_cases(
            order, worst, _case_reasons(detector, scored, order)
        ),
    }
    for name in ("local_ip", "place", "direction"):
        columns[name] = ours[name].array
    for name in ("src_ip", "dst_ip", "protocol", "app", "server_name"):
        columns[name] = leading[name].array
    table = pd.DataFrame(columns, columns=list(CASE_COLUMNS))
    return _fitted(_noted(_typed(table), judged, by_case=True), judged)


def flows_of_case(
    detector: Detector,
    flows: pd.DataFrame,
    case: str,
    *,
    policy: Policy | str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Return the flows of one case, by the name that a ranking gives it.

    Parameters
    ----------
    detector, flows, policy
        As they were ranked: a case is named by host, place and service, and what is
        local, and whether the baseline knows the service, depend on them.
    case
        As in the column ``case`` of `rank_flows` and `rank_cases`.

    Returns
    -------
    pandas.DataFrame
        Rows of `flows`, in their order; none if there is no such case among them.

    Raises
    ------
    FlowsError
        If `flows` is no flows table.
    """
    declared = None if policy is None else Policy.of(policy)
    oriented = orient(validate_flows(flows), at_home(detector, declared).home_)
    observed = Observed.of(oriented, kinds=())
    asked = Asked(oriented, observed, detector.baseline_, detector.known_)
    keys, code = np.unique(Cases.of(asked).keys, return_inverse=True)
    named = [case_name(key) == case for key in keys.tolist()]
    return oriented.flows[np.array(named, dtype=bool)[code]]


def check_options(
    *,
    top: int | None = None,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
) -> None:
    """Refuse impossible options of the functions here, before any work.

    Raises
    ------
    OptionError
        With what was given and what was expected.
    """
    if (
        top is not None and not (isinstance(top, int | np.integer) and top >= 1)
    ) or top is True:
        raise OptionError(f"top: got {top!r}, expected a number of rows from 1 on.")
    if alerts_per_day is not None and fdr is not None:
        raise OptionError(
            "Both alerts per day and a false discovery rate were given; give one."
        )
    if alerts_per_day is not None:
        check_budget(alerts_per_day)
    if fdr is not None:
        check_rate(fdr)


def how_well_it_fits(asked: Asked) -> dict[str, int]:
    """Say how much of what some flows show a model has never seen.

    Returns
    -------
    dict
        ``hosts`` and ``services`` of the flows, and how many of them are new:
        ``new_hosts``, ``new_services``.
    """
    found: dict[str, int] = {}
    for what, names in (("hosts", "local_ip"), ("services", "service")):
        first, _ = grouped(asked.observed.hashes[names])
        new = asked.is_new(what.removesuffix("s"))[first]
        found |= {what: len(first), f"new_{what}": int(new.sum())}
    return found


def is_elsewhere(asked: Asked) -> str:
    """Say in a sentence that flows are not of the model's site, else return "".

    So it is if most hosts, and hosts with most of the flows, were never seen; or, as
    sites share private addresses, if nearly all flows lead to places that their host
    never used. A few hosts may well all be new, so it takes `LEAST_HOSTS` to say so.
    """
    if asked.n_flows < LEAST_HOSTS:
        return ""
    first, _ = grouped(asked.observed.hashes["local_ip"])
    if len(first) < LEAST_HOSTS:
        return ""
    new = asked.is_new("host")
    hosts, flows = float(new[first].mean()), float(new.mean())
    pairs = float(asked.is_new("host_place").mean())
    if not ((hosts > 0.5 and flows > 0.5) or pairs > ELSEWHERE_SHARE):
        return ""
    return (
        f"nearly everything is new: the model never saw {int(new[first].sum()):,} of "
        f"{len(first):,} local hosts, and {pairs:.0%} of flows lead where their host "
        "never went"
    )


def _warn_if_elsewhere(asked: Asked, home: tuple[str, ...]) -> None:
    crossing = asked.oriented.names("direction").each(
        lambda way: way in {"outbound", "inbound"}, missing=False
    )
    if asked.n_flows >= FEWEST_TO_CROSS and crossing.mean() < LEAST_CROSSING:
        warnings.warn(
            f"Only {int(crossing.sum()):,} of {asked.n_flows:,} flows have exactly one "
            f"end in the home networks ({', '.join(home)}): hardly any is seen to go "
            "out. If these networks are not yours, say which are: --home, or home in "
            "a policy.",
            SiteWarning,
            stacklevel=4,
        )
        return
    said = is_elsewhere(asked)
    if said:
        warnings.warn(
            f"The flows seem to be of another site than the model's: {said}. Novelty "
            "then says nothing; train a model on flows of this site. (Or the home "
            "networks differ: see --home.)",
            SiteWarning,
            stacklevel=4,
        )


def _warn_of_flows(detector: Detector, flows: pd.DataFrame) -> None:
    """Warn where a ranking is of what the model learned from, or of doubtful rows.

    A conversation that goes on while a baseline ends is no such case: it takes
    `LEAST_OVERLAP` of the flows.
    """
    warn_of_doubtful_rows(flows, stacklevel=5)
    named = sum(detector.shown_.get(name, 0) for name in CAPABILITIES[2:])
    nameless = flows[["app", "server_name"]].isna().all(axis=None)
    if nameless and len(flows) >= FEWEST_TO_CROSS and named > detector.n_flows_ / 2:
        warnings.warn(
            "No flow names an application or a server, but "
            f"{named:,} of {detector.n_flows_:,} flows of the model's baseline did: "
            "places that it knows by name look new, and more cases alert than the "
            "budget says. Train a model on flows of the kind that it is to rank.",
            CapabilityWarning,
            stacklevel=4,
        )
    first, last = detector.window_
    learned = flows["start"].between(first, last).to_numpy()
    if learned.sum() > LEAST_OVERLAP * len(learned):
        warnings.warn(
            f"{int(learned.sum()):,} of {len(learned):,} flows lie in the time of the "
            f"model's baseline ({first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC): "
            "what the model learned from them it finds normal. Rank flows of a later "
            "time; if these are, look at the clock of the sensor.",
            SiteWarning,
            stacklevel=4,
        )


@dataclass(frozen=True)
class Judged:
    """Flows that were scored and held against a policy; tables are views of this.

    Attributes
    ----------
    scored
        Suspicion with the bits of broken rules.
    ruling
        What the policy says.
    reached
        bool, shape (n_cases,): would alert if nothing were approved.
    thresholds
        As `_alerts` gives them.
    """

    scored: Scored
    ruling: Ruling
    reached: NDArray[np.bool_]
    thresholds: dict[str, dict[str, Any]]

    @property
    def alerted(self) -> NDArray[np.bool_]:
        """Which cases alert, shape (n_cases,)."""
        return self.reached & ~self.ruling.approved

    @property
    def suppressed(self) -> NDArray[np.bool_]:
        """Which cases only an approval keeps from alerting, shape (n_cases,)."""
        return self.reached & self.ruling.approved

    @property
    def ranked_cases(self) -> NDArray[np.float64]:
        """Suspicion of cases as they are ranked: approved ones come last."""
        return self.scored.ranked_cases - self.ruling.below

    @property
    def ranked_flows(self) -> NDArray[np.float64]:
        """Suspicion of flows as they are ranked: those of approved cases come last."""
        return self.scored.ranked_flows - self.ruling.below[self.scored.case]


def judge(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    state: State | None = None,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    trial: NDArray[np.int64] | None = None,
) -> Judged:
    """Score flows, hold them against a policy, and say which cases alert.

    Parameters
    ----------
    detector, flows, state, alerts_per_day, fdr, policy
        As in `score_flows`.
    trial
        As in `Ruling.leading`.
    """
    declared = None if policy is None else Policy.of(policy)
    scored, ruling = _held(detector, flows, declared, state)
    reached, thresholds = _alerts(detector, scored, alerts_per_day, fdr)
    if declared is not None:
        scored = _with_bits(scored, ruling)
        limit = np.full(len(reached), np.inf)
        for name, about in thresholds.items():
            if (bits := about["suspicion"]) is not None:
                limit[scored.case_with_payload == (name == "payload")] = bits
        ranked = scored.ranked_cases
        leading = ruling.leading(ranked - ruling.below, trial)
        reached |= leading & (ranked >= limit)
    return Judged(scored, ruling, reached, thresholds)


def ranked_suspicion(
    detector: Detector, flows: pd.DataFrame, policy: Policy | None = None
) -> NDArray[np.float64]:
    """Return `Judged.ranked_cases` alone, whatever the budget."""
    scored, ruling = _held(detector, flows, policy, None)
    return _with_bits(scored, ruling).ranked_cases - ruling.below


def at_home(detector: Detector, policy: Policy | None) -> Detector:
    """Return the detector with the home networks that a policy declares, if any."""
    if policy is None or policy.home is None:
        return detector
    moved = copy.copy(detector)
    moved.home_ = policy.home
    return moved


def _held(
    detector: Detector, flows: pd.DataFrame, policy: Policy | None, state: State | None
) -> tuple[Scored, Ruling]:
    scored = at_home(detector, policy).score(flows, state)
    ruling = Ruling.of(policy, scored.asked, scored.case, state)
    return replace(scored, apart=scored.apart & ~ruling.outward), ruling


def _with_bits(scored: Scored, ruling: Ruling) -> Scored:
    return replace(
        scored,
        suspicion=scored.suspicion + ruling.flow_bits,
        case_suspicion=scored.case_suspicion + ruling.case_bits,
    )


def judged_here(
    detector: Detector,
    flows: pd.DataFrame,
    state: State | None,
    alerts_per_day: float | None,
    fdr: float | None,
    policy: Policy | str | os.PathLike[str] | None,
    *,
    ranked: bool = False,
) -> Judged:
    """Judge flows, and warn if they are not of the detector's site.

    `ranked` warns of all that makes a ranking doubtful.
    """
    declared = None if policy is None else Policy.of(policy)
    judged = judge(
        detector,
        flows,
        state=state,
        alerts_per_day=alerts_per_day,
        fdr=fdr,
        policy=declared,
    )
    home = at_home(detector, declared).home_
    _warn_if_elsewhere(judged.scored.asked, home)
    if ranked:
        _warn_of_flows(detector, judged.scored.asked.oriented.flows)
    return judged


def _begin(flows: pd.DataFrame) -> NDArray[np.int64]:
    return flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)


def _order(
    suspicion: NDArray[np.float64],
    up: NDArray[Any],
    time: NDArray[np.int64],
    tie: NDArray[Any],
    top: int | None,
) -> NDArray[np.int64]:
    """Worst first; ties by upload, then by time, then by content."""
    rows = np.arange(len(suspicion))
    if top is not None and top < len(rows):
        # Only those are put in order that can be among the first.
        least = np.partition(suspicion, -top)[-top]
        rows = np.flatnonzero(suspicion >= least)
    keys = (tie[rows], time[rows], -up[rows], -suspicion[rows])
    order = rows[np.lexsort(keys)]
    return order[:top]


def alerted_cases(
    detector: Detector,
    scored: Scored,
    *,
    alerts_per_day: float | None = None,
    fdr: float | None = None,
) -> NDArray[np.bool_]:
    """Say which cases of a scored table alert, shape (n_cases,)."""
    return _alerts(detector, scored, alerts_per_day, fdr)[0]


def _alerts(
    detector: Detector,
    scored: Scored,
    alerts_per_day: float | None,
    fdr: float | None,
) -> tuple[NDArray[np.bool_], dict[str, dict[str, Any]]]:
    """Say which cases alert, and from which suspicion on.

    Returns
    -------
    alerted : numpy.ndarray of bool, shape (n_cases,)
    thresholds : dict
        By capability: ``suspicion`` from which on a case alerts (bits; `None` where
        nothing does), for a budget the 90 % ``interval`` of it, and
        ``normal_alerts_per_day``, the 90 % interval of how many cases of normal
        operation reach it a day, if all are of this capability.
    """
    alerted = np.zeros(len(scored.case_suspicion), dtype=bool)
    thresholds: dict[str, dict[str, Any]] = {}
    budget = detector.alerts_per_day if alerts_per_day is None else alerts_per_day
    # Volumes are seen of every case: the budget is shared by all of them.
    per_day = detector.learned_["volume"].cases.per_day
    limit = None
    if fdr is not None:
        limit = false_discovery_threshold(scored.case_p_value[~scored.apart], fdr)
        alerted = (scored.case_p_value <= limit) & ~scored.apart
    for name, learned in detector.learned_.items():
        mine = scored.case_with_payload == (name == "payload")
        if not mine.any():
            continue
        cases = learned.cases
        about: dict[str, Any] = {}
        if limit is None:
            bits: float | None = cases.threshold(budget, per_day)
            alerted[mine] = scored.ranked_cases[mine] >= bits
            about["suspicion"] = bits
            about["interval"] = list(cases.threshold_interval(budget, per_day))
        else:
            assert fdr is not None
            if limit < 0:
                cases.warn_if_too_short(scored.case_p_value[mine], len(mine), fdr)
            bits = float(-np.log2(limit)) if limit > 0 else None
            about["suspicion"] = bits
        rate = (0.0, 0.0) if bits is None else cases.alert_rate(bits, per_day)
        about["normal_alerts_per_day"] = list(rate)
        thresholds[name] = about
    return alerted, thresholds


def case_names(scored: Scored, rows: NDArray[np.int64]) -> list[str]:
    """Short names of the cases of some flows, the same from run to run."""
    return [case_name(key) for key in scored.case_key[rows].tolist()]


def _capability(scored: Scored, rows: NDArray[np.int64] | None = None) -> Names:
    """Name the most that could be judged about each flow, or some of them."""
    shown, flows = _some(scored, rows)
    level = capability_level(flows)
    payload = CAPABILITIES.index("payload")
    level[(level == payload) & ~shown] = CAPABILITIES.index("application")
    return Names.one_of(list(CAPABILITIES), level)


def _not_visible(scored: Scored, rows: NDArray[np.int64] | None = None) -> Names:
    """Name what could not be judged about each flow, or some of them."""
    shown, flows = _some(scored, rows)
    wrappers = scored.asked.observed.names["wrapper"]
    if rows is not None:
        wrappers = wrappers[rows]
    hidden = {
        "application": flows["app"].array.isna() & ~shown,
        "packets": flows["src_packets"].array.isna(),
        "process": flows["process"].array.isna() | (not _knows_processes(scored.asked)),
        "direction of bytes": _true(flows["undivided"]),
    }
    # One number for each combination: few are named, and each only once.
    key = np.where(shown, wrappers.codes + 1, 0)
    for missing in hidden.values():
        key = 2 * key + missing
    at, combinations = pd.factorize(key)
    named = []
    for combination in combinations.tolist():
        bits = [combination >> k & 1 for k in reversed(range(len(hidden)))]
        code = (combination >> len(hidden)) - 1
        inside = "payload" if code < 0 else _inside(wrappers.texts[code])
        parts = [name for name, bit in zip(hidden, bits, strict=True) if bit]
        named.append(", ".join(part for part in (inside, *parts) if part))
    return Names.one_of(named, at)


def _knows_processes(asked: Asked) -> bool:
    """Say whether the baseline shows any process, so that a new one can be told."""
    return len(asked.baseline.tables["host_process"].keys) > 0


def _true(flags: pd.Series) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = flags.array.to_numpy(dtype=bool, na_value=False)
    return found


def _inside(wrapper: str) -> str:
    return "" if wrapper == BARE else f"payload inside {wrapper}"


def _some(
    scored: Scored, rows: NDArray[np.int64] | None
) -> tuple[NDArray[np.bool_], pd.DataFrame]:
    """Return which flows were scored with payload evidence, and the flows."""
    shown, flows = scored.with_payload, scored.asked.oriented.flows
    return (shown, flows) if rows is None else (shown[rows], flows.iloc[rows])


def _reasons(
    detector: Detector, scored: Scored, rows: NDArray[np.int64]
) -> NDArray[np.object_]:
    """Say for each row what makes it suspicious, strongest family first."""
    text = np.full(len(rows), "", dtype=object)
    for payload in (True, False):
        at = np.flatnonzero(scored.with_payload[rows] == payload)
        if len(at):
            asked = scored.asked.only(rows[at])
            text[at] = _sentences(detector, asked, payload=payload)
    return text


class Told(NamedTuple):
    """What one family of evidence says of a flow.

    Attributes
    ----------
    bits
        What its columns add to the suspicion, as `Detector.explain` splits it, without
        those that show too little to be a reason.
    family
        Index into `FAMILIES`.
    worth
        Whether it is worth a reader's time.
    sentence
        What its strongest column shows.
    """

    bits: float
    family: int
    worth: bool
    sentence: str


def told_by_family(
    detector: Detector, asked: Asked, *, payload: bool
) -> list[list[Told]]:
    """Say of each flow, all of one capability, what each family of evidence shows."""
    features = detector.learned_["payload" if payload else "volume"].features
    share = detector.contributions(asked, payload=payload, exact=True)
    said = [feature.reason(asked.told) for feature in features.features]
    evidence = features.matrix(asked)
    least = LEAST_EVIDENCE_SHARE * features.worth_telling
    flows: list[list[Told]] = []
    for row in range(asked.n_flows):
        told = []
        for family in range(len(FAMILIES)):
            columns = np.flatnonzero(
                (features.families == family) & (evidence[row] >= least)
            )
            if len(columns) == 0:
                continue
            bits = float(share[row, columns].sum())
            strongest = columns[np.argmax(share[row, columns])]
            worth = evidence[row, strongest] >= features.worth_telling[strongest]
            # Several columns of a family may make up what none of them shows alone.
            enough = bits >= (LEAST_REASON_BITS if worth else WORTH_TELLING_BITS)
            told.append(Told(bits, family, enough, said[strongest][row]))
        flows.append(told)
    return flows


def _sentences(detector: Detector, asked: Asked, *, payload: bool) -> list[str]:
    return [in_words(told) for told in told_by_family(detector, asked, payload=payload)]


def in_words(told: list[Told]) -> str:
    """Put together what families of evidence say of a flow, the strongest first."""
    best = sorted((t for t in told if t.worth), key=lambda t: -t.bits)
    text = "; ".join(t.sentence for t in best)
    if not text and told:
        slight = max(told, key=lambda t: (t.bits, t.sentence))
        text = f"slight evidence only: {slight.sentence}"
    return text or "nothing unusual"


def _case_reasons(
    detector: Detector, scored: Scored, cases: NDArray[np.int64]
) -> list[str]:
    """Reasons of the worst flow, after what all flows of the case add up to."""
    flows = np.bincount(scored.case, minlength=len(scored.case_suspicion))[cases]
    reasons = _reasons(detector, scored, scored.worst[cases])
    return [
        reason if n == 1 else f"{n} flows; worst flow: {reason}"
        for n, reason in zip(flows, reasons, strict=True)
    ]


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give text columns one dtype."""
    kinds: dict[str, Any] = {c: "str" for c in table.columns if c in _TEXTS}
    return table.astype(kinds)


def _noted(table: pd.DataFrame, judged: Judged, *, by_case: bool) -> pd.DataFrame:
    """Note in ``attrs`` what the rows do not say."""
    scored, alerted = judged.scored, judged.alerted
    every = slice(None) if by_case else scored.case
    table.attrs = {
        "total": len(alerted[every]),
        "alerted": int(alerted[every].sum()),
        "thresholds": judged.thresholds,
        "windows_not_covered": list(scored.not_covered),
        "inside": int(scored.apart[every].sum()),
        "follows": scored.follows,
        "suppressed": int(judged.suppressed.sum()),
    }
    if (counts := judged.ruling.counts) is not None:
        table.attrs["policy"] = counts
    return table


def _fitted(table: pd.DataFrame, judged: Judged) -> pd.DataFrame:
    """Note in ``attrs`` how well the model fits the flows."""
    table.attrs["fit"] = how_well_it_fits(judged.scored.asked)
    return table
