"""Whether a model still fits: what is new in later flows, or at another site.

`drift` compares flows with what a model was trained on: which hosts, services and
places it never saw, whether the hours of the week are covered, whether evidence is
distributed as it was in the calibration block (`exfilml.stability`), whether as many
cases alert as was promised, and whether the calibration is long enough for the budget
and how many thefts in it the threshold would withstand.

Flows to be compared should be of normal operation: thefts among them are drift too.

One file because the verdict is read off all the tables together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.baseline import HOURS_OF_WEEK
from exfilml.calibration import CONFIDENCE, check_budget, share_interval
from exfilml.detector import (
    CALIBRATION_SHARE,
    DAY_S,
    Detector,
    Scored,
)
from exfilml.drawing import BLUE, RED, axes_for
from exfilml.exceptions import (
    CalibrationWarning,
    CapabilityWarning,
    FlowsError,
    OptionError,
)
from exfilml.ranking import is_elsewhere
from exfilml.schema import validate_flows
from exfilml.stability import MOVED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from exfilml.features import Asked

FITS: Final = "fits"
RETRAIN: Final = "retrain soon"
ELSEWHERE: Final = "another site"
# From so many flows on, what is unseen or not covered asks for training.
MOST_UNSEEN: Final = {"host": 0.1, "service": 0.02}
LEAST_COVERED: Final = 0.9
MOST_NAMED: Final = 5
MOST_DRAWN: Final = 15
# Shorter stretches would take for ever to score one by one.
MOST_STRETCHES: Final = 200
PLANTED: Final = (1, 2, 5, 10, 20)
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_COLUMNS: Final = {"host": "local_ip", "service": "service", "place": "place"}


@dataclass(frozen=True)
class Drift:
    """How flows differ from what a model was trained on.

    Attributes
    ----------
    verdict
        ``fits``, ``retrain soon`` or ``another site``.
    why
        What speaks for training anew, a sentence each; empty if the model fits.
    trained, compared
        First and last start of the baseline's flows and of these, UTC.
    n_flows, n_overlapping
        Flows compared, and those among them that lie in the baseline's time.
    unseen
        A row for each of ``host``, ``service`` and ``place``: ``kind``, ``names``
        and ``new_names`` (how many there are, and how many of them the model never
        saw), ``new_flows``, ``new_share`` (of flows).
    newcomers
        The unseen ones: ``kind name flows``, those with most flows first.
    hours
        A row for each hour of the week (UTC): ``weekday hour baseline flows``.
    covered
        Share of flows that start in an hour of the week that the baseline has seen.
    stability
        A row for each capability in use and column of evidence: ``capability
        feature index chance moved``, see `exfilml.stability.Bins.compare`.
    alerts
        A row for each capability in use: ``capability cases alerted share low high
        promised_low promised_high``: cases, how many reach the budget's threshold,
        their share with its 90 % interval, and the interval of the share that
        calibration promised (both of Clopper and Pearson).
    calibration
        A row for each capability of the model: ``capability days days_needed
        more_days withstands``: length of the calibration block, how long the budget
        needs it, how much longer the whole baseline would have to be for that, and
        how many thefts in the block a like one would still alert beside.
    poisoning
        A row for each capability and number of thefts: ``capability planted bits
        threshold normal_alerts_per_day``: where the alert threshold is, where it
        would be with so many thefts in the calibration block, both as suspicion of
        today, and how many normal cases a day would then alert.
    budget
        Alert budget in cases a day.
    notes
        What could not be compared.
    """

    verdict: str
    why: tuple[str, ...]
    trained: tuple[pd.Timestamp, pd.Timestamp]
    compared: tuple[pd.Timestamp, pd.Timestamp]
    n_flows: int
    n_overlapping: int
    unseen: pd.DataFrame
    newcomers: pd.DataFrame
    hours: pd.DataFrame
    covered: float
    stability: pd.DataFrame
    alerts: pd.DataFrame
    calibration: pd.DataFrame
    poisoning: pd.DataFrame
    budget: float
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the verdict and what it rests on as sentences."""
        meaning = {
            FITS: "the model fits these flows",
            RETRAIN: "retrain soon, on newer flows",
            ELSEWHERE: "another site: train a model on flows of this one",
        }[self.verdict]
        (was, until), (begin, end) = self.trained, self.compared
        lines = [
            f"verdict: {meaning}",
            *(f"because: {reason}" for reason in self.why),
            (
                f"trained on {was:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC, "
                f"compared with {self.n_flows:,} flows of {begin:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC"
            ),
            *map(self._say_unseen, self.unseen.to_dict("records")),
            f"hours: {self._say_hours()}",
        ]
        lines += [_say_alerts(row, self.budget) for row in self._of(self.alerts)]
        for name, rows in self.stability.groupby("capability", sort=False):
            worst = rows.sort_values("index", ascending=False).head(MOST_NAMED)
            said = ", ".join(
                f"{f} {i:.2f}" + " (moved)" * m
                for f, i, m in zip(
                    worst["feature"], worst["index"], worst["moved"], strict=True
                )
            )
            lines.append(f"stability seeing {name}: largest indices {said}")
        lines += [
            _say_calibration(row, self.poisoning, self.budget)
            for row in self._of(self.calibration)
            if row["capability"] in set(self.alerts["capability"])
        ]
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def _of(self, table: pd.DataFrame) -> list[dict[Any, Any]]:
        return table.to_dict("records")

    def _say_unseen(self, row: dict[Any, Any]) -> str:
        kind = row["kind"]
        theirs = self.newcomers[self.newcomers["kind"] == kind].head(MOST_NAMED)
        named = ", ".join(
            f"{n} ({k:,})" for n, k in zip(theirs["name"], theirs["flows"], strict=True)
        )
        return (
            f"{kind}s never seen: {row['new_names']:,} of {row['names']:,}, in "
            f"{row['new_share']:.1%} of flows" + (f": {named}" if named else "")
        )

    def _say_hours(self) -> str:
        lost = self.hours[(self.hours["baseline"] == 0) & (self.hours["flows"] > 0)]
        text = f"{self.covered:.1%} of flows start in hours that the baseline has seen"
        if lost.empty:
            return text
        # Hours of one day that follow each other are said together.
        run = (lost.index.to_series().diff() != 1).cumsum()
        spans = lost.groupby([run, "weekday"], sort=False)["hour"].agg(["min", "max"])
        said = [
            f"{row['weekday']} {row['min']:02}"
            + f"–{row['max']:02}" * (row["min"] < row["max"])
            for row in self._of(spans.reset_index("weekday"))
        ]
        return f"{text}; hours not seen (UTC): {', '.join(said)}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        tables = {
            name: [
                {k: None if pd.isna(v) else v for k, v in row.items()}
                for row in self._of(getattr(self, name))
            ]
            for name in (
                *("unseen", "newcomers", "hours", "stability"),
                *("alerts", "calibration", "poisoning"),
            )
        }
        return {
            "verdict": self.verdict,
            "why": list(self.why),
            "trained": [t.isoformat() for t in self.trained],
            "compared": [t.isoformat() for t in self.compared],
            "n_flows": self.n_flows,
            "n_overlapping": self.n_overlapping,
            "covered": self.covered,
            "budget": self.budget,
            **tables,
            "notes": list(self.notes),
        }

    def plot(self, ax: Axes | None = None, *, capability: str | None = None) -> Axes:
        """Draw how far evidence has moved, the columns that moved most at the top.

        Parameters
        ----------
        ax
            Where to draw; `None` for a new figure.
        capability
            ``payload`` or ``volume``; `None` for the first that was compared.

        Raises
        ------
        OptionError
            If there is no such capability.
        """
        known = list(self.stability["capability"].unique())
        shown = capability if capability is not None or not known else known[0]
        rows = self.stability[self.stability["capability"] == shown]
        if rows.empty:
            raise OptionError(
                f"capability={capability!r}: expected one of "
                f"{', '.join(known) or 'none, as nothing could be compared'}."
            )
        ax = axes_for(ax)
        rows = rows.sort_values("index", ascending=False).head(MOST_DRAWN)[::-1]
        at, index = np.arange(len(rows)), rows["index"].to_numpy()
        for some, colour, hatch, label in (
            (~rows["moved"].to_numpy(), BLUE, "", "as in the calibration block"),
            (rows["moved"].to_numpy(), RED, "//", "moved"),
        ):
            if some.any():
                ax.barh(
                    at[some], index[some], color=colour, hatch=hatch, label=label,
                    edgecolor="white", linewidth=0,
                )  # fmt: skip
        chance = rows["chance"].to_numpy()
        ax.plot(chance, at, "|", color="black", markersize=9, label="chance alone")
        ax.axvline(
            MOVED,
            color="black",
            linewidth=1,
            linestyle="--",
            label=f"moved: from {MOVED:g} on",
        )
        ax.set_yticks(at, rows["feature"].tolist(), fontsize=8)
        ax.set(
            xlim=(0.0, 1.1 * float(np.max([*index, *chance, MOVED]))),
            xlabel="population stability index",
            title=f"Evidence compared with calibration, seeing {shown}: {self.verdict}",
        )
        ax.legend(loc="lower right", fontsize=8)
        return ax


def drift(
    detector: Detector, flows: pd.DataFrame, *, alerts_per_day: float | None = None
) -> Drift:
    """Say how flows differ from what a detector was trained on.

    Parameters
    ----------
    detector
        A fitted detector.
    flows
        A flows table of normal operation, later than the baseline.
    alerts_per_day
        Alert budget in cases a day; `None` for the detector's own.

    Raises
    ------
    FlowsError
        If `flows` is no flows table, or has no rows.
    OptionError
        If the budget is none.

    Warns
    -----
    CapabilityWarning
        If the flows show payload and the model never saw any.
    """
    budget = detector.alerts_per_day if alerts_per_day is None else alerts_per_day
    check_budget(budget)
    flows = validate_flows(flows)
    if len(flows) == 0:
        raise FlowsError("There are no flows to compare with the model.")
    scored = detector.score(flows)
    asked = scored.asked
    notes: list[str] = []
    start = flows["start"]
    first, last = detector.window_
    overlapping = int(((start >= first) & (start <= last)).sum())
    if overlapping:
        notes.append(
            f"{overlapping:,} of {len(flows):,} flows lie in the baseline's time; what "
            "the model learned from them it finds normal. Compare with later flows"
        )
    unseen, newcomers = _unseen(asked)
    hours, covered = _hours(asked)
    stability = _stability(detector, scored)
    alerts, cut = _alerts(detector, scored, budget)
    notes += cut
    calibration, poisoning = _calibration(detector, budget)
    elsewhere = is_elsewhere(asked)
    why = [
        *([elsewhere] if elsewhere else []),
        *_reasons(unseen, covered, stability, alerts, calibration),
    ]
    return Drift(
        verdict=ELSEWHERE if elsewhere else RETRAIN if why else FITS,
        why=tuple(why),
        trained=detector.window_,
        compared=(start.min(), start.max()),
        n_flows=len(flows),
        n_overlapping=overlapping,
        unseen=unseen,
        newcomers=newcomers,
        hours=hours,
        covered=covered,
        stability=stability,
        alerts=alerts,
        calibration=calibration,
        poisoning=poisoning,
        budget=float(budget),
        notes=tuple(notes),
    )


def _unseen(asked: Asked) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the model never saw, counted and by name."""
    places, _ = asked.known.tables["host_place"].by_second
    new = {
        "host": asked.is_new("host"),
        "service": asked.is_new("service"),
        "place": ~np.isin(asked.observed.hashes["place"], places),
    }
    counts, names = [], []
    for kind, column in _COLUMNS.items():
        table = pd.DataFrame({"name": asked.oriented[column].array, "new": new[kind]})
        of = table.groupby("name")["new"].agg(flows="size", new="first")
        theirs = of.loc[of["new"], "flows"].sort_values(ascending=False, kind="stable")
        n = int(table["new"].sum())
        counts.append((kind, len(of), len(theirs), n, n / len(table)))
        names.append(
            pd.DataFrame(
                {"kind": kind, "name": theirs.index.to_numpy(), "flows": theirs.array}
            )
        )
    columns = ["kind", "names", "new_names", "new_flows", "new_share"]
    return (
        pd.DataFrame(counts, columns=columns),
        pd.concat(names, ignore_index=True),
    )


def _hours(asked: Asked) -> tuple[pd.DataFrame, float]:
    hours = asked.observed.bins["hour_of_week"]
    mine = np.bincount(hours, minlength=HOURS_OF_WEEK).astype(np.float64)
    known = asked.known.hours_of_week
    hour = np.arange(HOURS_OF_WEEK)
    table = pd.DataFrame(
        {
            "weekday": np.array(DAYS)[hour // 24],
            "hour": hour % 24,
            "baseline": known,
            "flows": mine,
        }
    )
    return table, float(mine[known > 0].sum() / mine.sum())


def _stability(detector: Detector, scored: Scored) -> pd.DataFrame:
    """Compare evidence with that of the calibration block, described alike.

    Its evidence was measured before the block itself was known.
    """
    asked = replace(scored.asked, known=scored.asked.baseline)
    tables = []
    for name, learned in detector.learned_.items():
        rows = np.flatnonzero(scored.with_payload == (name == "payload"))
        if len(rows) == 0:
            continue
        index, chance = learned.bins.compare(learned.features.matrix(asked.only(rows)))
        tables.append(
            pd.DataFrame(
                {
                    "capability": name,
                    "feature": learned.features.names,
                    "index": index,
                    "chance": chance,
                    "moved": (index > MOVED) & (index > chance),
                }
            )
        )
    if tables:
        return pd.concat(tables, ignore_index=True)
    return pd.DataFrame(columns=["capability", "feature", "index", "chance", "moved"])


def _alerts(
    detector: Detector, scored: Scored, budget: float
) -> tuple[pd.DataFrame, list[str]]:
    """Count the cases that reach the threshold, in stretches as long as calibration.

    Cases grow with time, so that cases of a longer stretch are not like those of the
    calibration block.
    """
    per_day = detector.learned_["volume"].cases.per_day
    counts = {name: [0, 0] for name in detector.learned_}
    parts, notes = _stretches(detector, scored.asked.oriented.flows)
    with warnings.catch_warnings():
        # Said of the whole table, and by `calibration`.
        warnings.simplefilter("ignore", CalibrationWarning)
        warnings.simplefilter("ignore", CapabilityWarning)
        limits = {
            name: learned.cases.threshold(budget, per_day)
            for name, learned in detector.learned_.items()
        }
        for part in parts:
            theirs = scored if part is None else detector.score(part)
            for name, limit in limits.items():
                mine = theirs.case_with_payload == (name == "payload")
                counts[name][0] += int(mine.sum())
                counts[name][1] += int((theirs.ranked_cases[mine] >= limit).sum())
    rows = [
        (
            *(name, cases, alerted, alerted / cases),
            *share_interval(alerted, cases, CONFIDENCE),
            # Of one case a day: the share of cases.
            *detector.learned_[name].cases.alert_rate(limits[name], 1.0),
        )
        for name, (cases, alerted) in counts.items()
        if cases
    ]
    columns = [
        *("capability", "cases", "alerted", "share", "low", "high"),
        *("promised_low", "promised_high"),
    ]
    return pd.DataFrame(rows, columns=columns), notes


def _stretches(
    detector: Detector, flows: pd.DataFrame
) -> tuple[Iterator[pd.DataFrame | None], list[str]]:
    """Cut flows into stretches of the calibration block's length; None for all."""
    since = (flows["start"] - flows["start"].min()).dt.total_seconds().to_numpy()
    each = detector.learned_["volume"].cases.days * DAY_S
    notes = []
    if since.max() > MOST_STRETCHES * each:
        notes.append(
            f"the calibration block covers {each:,.0f} s only, so that cases of these "
            "flows are longer than those it knows, and more of them alert"
        )
        each = since.max() / MOST_STRETCHES
    turn = (since // each).astype(np.int64)
    if turn.max() == 0:
        return iter([None]), notes
    return (flows[turn == k] for k in np.unique(turn)), notes


def _calibration(
    detector: Detector, budget: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Say whether calibration is long enough, and what thefts in it would do."""
    per_day = detector.learned_["volume"].cases.per_day
    rows, poisoned = [], []
    for name, learned in detector.learned_.items():
        cases = learned.cases
        needed = cases.days_needed(budget, per_day)
        more = max(needed - cases.days, 0.0) / CALIBRATION_SHARE
        rows.append((name, cases.days, needed, more, cases.withstands(budget, per_day)))
        bits = cases.poisoned(0, budget, per_day)
        for planted in PLANTED:
            moved = cases.poisoned(planted, budget, per_day)
            poisoned.append((name, planted, bits, moved, per_day * 2.0**-moved))
    return (
        pd.DataFrame(
            rows,
            columns=["capability", "days", "days_needed", "more_days", "withstands"],
        ),
        pd.DataFrame(
            poisoned,
            columns=[
                *("capability", "planted", "bits", "threshold"),
                "normal_alerts_per_day",
            ],
        ),
    )


def _reasons(
    unseen: pd.DataFrame,
    covered: float,
    stability: pd.DataFrame,
    alerts: pd.DataFrame,
    calibration: pd.DataFrame,
) -> Iterator[str]:
    """Say what speaks for training anew."""
    for row in unseen.to_dict("records"):
        most = MOST_UNSEEN.get(row["kind"], 1.0)
        if row["new_share"] > most:
            yield (
                f"{row['new_share']:.0%} of flows are of {row['kind']}s that the model "
                "never saw"
            )
    if covered < LEAST_COVERED:
        yield (
            f"{1.0 - covered:.0%} of flows start in hours of the week that the baseline "
            "has not seen"
        )
    for name, rows in stability[stability["moved"] == True].groupby("capability"):  # noqa: E712
        yield (
            f"evidence seeing {name} is distributed otherwise than in calibration: "
            f"{', '.join(rows['feature'])}"
        )
    for row in alerts.to_dict("records"):
        if row["low"] > row["promised_high"]:
            yield (
                f"{row['share']:.1%} of cases seeing {row['capability']} alert, at most "
                f"{row['promised_high']:.1%} were promised (or there are thefts: look "
                "at the ranking first)"
            )
    for row in calibration.to_dict("records"):
        if row["more_days"] > 0 and row["capability"] in set(alerts["capability"]):
            yield (
                f"the calibration seeing {row['capability']} is too short for the "
                f"budget: a baseline {row['more_days']:.1f} days longer would support it"
            )


def _say_alerts(row: dict[Any, Any], budget: float) -> str:
    return (
        f"alerts seeing {row['capability']}: {row['alerted']:,} of {row['cases']:,} "
        f"cases ({row['share']:.1%}, 90 % interval {row['low']:.1%} to "
        f"{row['high']:.1%}) reach the threshold of {budget:g} a day; promised were "
        f"{row['promised_low']:.1%} to {row['promised_high']:.1%}"
    )


def _say_calibration(
    row: dict[Any, Any], poisoning: pd.DataFrame, budget: float
) -> str:
    one = poisoning[poisoning["capability"] == row["capability"]].iloc[0]
    enough = "supports" if row["more_days"] == 0 else "is too short for"
    return (
        f"calibration seeing {row['capability']}: {row['days']:.2g} days, "
        f"{enough} {budget:g} alerts a day; one theft in it would move the threshold "
        f"from {one['bits']:.2f} to {one['threshold']:.2f} bits, "
        + (
            f"and with {row['withstands']} in it one more of their kind still alerts"
            if row["withstands"] > 0
            else "and one more of its kind would not alert"
        )
    )
