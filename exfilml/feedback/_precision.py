"""Precision over time: how many of the alerts that were judged were true.

Weeks are those of ISO 8601 in UTC, by the first flow of a case. An alert is a case with
the time of its first flow, so that a case which comes back later is another alert; the
latest judgement of it counts. Intervals are Wilson's [1]_, at 90 %.

Only judged alerts are counted, and analysts do not judge at random: they take what
ranks high, or what looks easy. The share of true ones among them is not that of all
alerts (verification bias [2]_). Where all cases of the time are given, the share of
alerts that was judged is said, and between which values the precision of all alerts
must lie, whatever the others are [3]_. Thefts that raised no alert are not seen here
at all: recall takes labels (`exfilml.evaluate`).

References
----------
.. [1] E. B. Wilson (1927), "Probable Inference, the Law of Succession, and Statistical
   Inference", J. Am. Stat. Assoc. 22(158), 209-212.
.. [2] C. B. Begg and R. A. Greenes (1983), "Assessment of Diagnostic Tests When Disease
   Verification Is Subject to Selection Bias", Biometrics 39(1), 207-215.
.. [3] C. F. Manski (1989), "Anatomy of the Selection Problem", J. Human Resources
   24(3), 343-360.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd

from exfilml.feedback._facts import check_cases, facts_of
from exfilml.feedback._judgement import TRUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE: Final = 0.9
BIAS: Final = (
    "of judged alerts only: analysts choose what they judge, so this is not the "
    "precision of all alerts (verification bias), and thefts without an alert are not "
    "in it"
)


@dataclass(frozen=True, eq=False)
class Precision:
    """Precision of judged alerts by week.

    Attributes
    ----------
    table
        DataFrame, one row for each week with a judged alert (or with any, where cases
        were given), index ``week`` such as ``2026-W11``: ``judged``, ``true``,
        ``false`` (int64), ``precision``, ``low``, ``high`` (float64, Wilson's 90 %
        interval; missing where nothing was judged). Where cases were given also
        ``alerts`` (int64), ``judged_share`` and the bounds ``least`` and ``most`` of
        the precision of all alerts (float64).
    total
        The same of all weeks together.
    notes
        What is not counted, with numbers.
    """

    table: pd.DataFrame
    total: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, standing: pd.DataFrame, cases: pd.DataFrame | None = None) -> Self:
        """Count judgements.

        Parameters
        ----------
        standing
            Judgements that were not withdrawn, in the order in which they came.
        cases
            All cases of the time.

        Raises
        ------
        FeedbackError
            If `cases` is no table of cases.
        """
        alerts = standing["alert"].fillna(value=False).to_numpy(dtype=bool)
        unknown = int(standing["alert"].isna().sum())
        judged = _alerts(standing[alerts])
        judged["true"] = judged["verdict"] == TRUE
        judged["week"] = _weeks(judged["first_seen"])
        notes = []
        if quiet := int((~alerts).sum()) - unknown:
            notes.append(f"{quiet:,} judgements of cases without an alert: not counted")
        if unknown:
            notes.append(
                f"{unknown:,} judgements of cases of which it is not known whether they "
                "alerted: not counted"
            )
        table = judged.groupby("week").agg(
            judged=("true", "size"), true=("true", "sum")
        )
        if cases is not None:
            raised, other = _raised(cases, judged)
            table = table.join(raised, how="outer")
            if other:
                notes.append(
                    f"{other:,} judged alerts are not among the cases given, and not in "
                    "their share"
                )
        table = table.fillna(0).astype("int64")
        table.index = table.index.astype("str").rename("week")
        (whole,) = _measured(table.sum().to_frame().T).to_dict("records")
        return cls(
            _measured(table),
            {str(name): value for name, value in whole.items()},
            tuple(notes),
        )

    def lines(self) -> list[str]:
        """Say the whole in a few lines, what it is of first."""
        n, true = int(self.total["judged"]), int(self.total["true"])
        if n == 0:
            return ["no alert was judged: no precision", *self.notes]
        said = (
            f"precision {self.total['precision']:.2f} ({true:,} true of {n:,} judged; "
            f"90 % interval {self.total['low']:.2f} to {self.total['high']:.2f})"
        )
        lines = [said, BIAS]
        if self.total.get("alerts"):
            lines.append(
                f"{self.total['judged_share']:.0%} of {int(self.total['alerts']):,} "
                "alerts of the cases given were judged: the precision of all of them "
                f"lies between {self.total['least']:.2f} and {self.total['most']:.2f}"
            )
        return [*lines, *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in values that JSON knows."""
        weeks = self.table.reset_index().to_dict("records")
        return {
            "about": BIAS,
            "confidence": CONFIDENCE,
            "weeks": [_plain(week) for week in weeks],
            "total": _plain(self.total),
            "notes": list(self.notes),
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw precision over weeks with its intervals; return the Axes."""
        from matplotlib import pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        shown = self.table[self.table["judged"] > 0]
        at = np.flatnonzero(self.table["judged"] > 0)
        middle = shown["precision"].to_numpy()
        reach = [middle - shown["low"].to_numpy(), shown["high"].to_numpy() - middle]
        if "judged_share" in self.table:
            share = self.table["judged_share"].fillna(0.0)
            ax.bar(
                range(len(share)), share, color="0.88", label="share of alerts judged"
            )
        ax.errorbar(
            at,
            middle,
            yerr=reach,
            fmt="o-",
            capsize=3,
            label="precision, 90 % interval",
        )
        for x, y, n in zip(at, middle, shown["judged"], strict=True):
            ax.annotate(
                f"{n}", (x, y), textcoords="offset points", xytext=(6, 5), fontsize=8
            )
        ax.set(
            xlabel="week (UTC) of the alert",
            ylabel="precision of judged alerts",
            ylim=(0, 1.05),
            xlim=(-0.6, max(len(self.table) - 0.4, 0.6)),
        )
        ax.set_xticks(
            range(len(self.table)), self.table.index.tolist(), rotation=45, ha="right"
        )
        ax.legend(loc="lower left")
        return ax


def _alerts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each alert, the last of it."""
    return rows[~rows.duplicated(["case", "first_seen"], keep="last")].copy()


def _raised(cases: pd.DataFrame, judged: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Count alerts of the cases given, and those judged, by week.

    Returns
    -------
    raised : pandas.DataFrame
        ``alerts``, ``found`` and ``found_true`` by week.
    other : int
        Judged alerts that are not among them.
    """
    check_cases(cases, ("case", "alert", "first_seen"))
    facts = facts_of(cases, ("alert", "first_seen")).assign(
        case=cases["case"].astype("str")
    )
    alerts = _alerts(facts[facts["alert"].fillna(value=False).astype(bool)])
    said = judged[["case", "first_seen", "true"]]
    found = alerts.merge(said, on=["case", "first_seen"], how="left")
    found["week"] = _weeks(found["first_seen"])
    known = found["true"].notna()
    raised = found.assign(
        found=known, found_true=found["true"].fillna(value=False).astype(bool)
    )
    raised = raised.groupby("week").agg(
        alerts=("case", "size"),
        found=("found", "sum"),
        found_true=("found_true", "sum"),
    )
    return raised, len(judged) - int(known.sum())


def _weeks(times: pd.Series) -> pd.Series:
    """Name the week of each time, ISO 8601 in UTC; ``unknown`` where there is none."""
    weeks = times.dt.isocalendar()
    year, week = weeks["year"].astype("str"), weeks["week"].astype("str").str.zfill(2)
    named: pd.Series = (year + "-W" + week).fillna("unknown")
    return named


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """Add what follows from the counts."""
    from scipy.stats import binomtest

    judged, true = table["judged"].to_numpy(), table["true"].to_numpy()
    out = pd.DataFrame(
        {"judged": judged, "true": true, "false": judged - true}, index=table.index
    )
    some = np.maximum(judged, 1)
    spans = np.array(
        [
            binomtest(int(k), int(n)).proportion_ci(CONFIDENCE, "wilson")
            for k, n in zip(true, some, strict=True)
        ]
    ).reshape(-1, 2)
    for name, values in zip(
        ("precision", "low", "high"), (true / some, *spans.T), strict=True
    ):
        out[name] = np.where(judged > 0, values, np.nan)
    if "alerts" in table:
        alerts = table["alerts"].to_numpy()
        found, hits = table["found"].to_numpy(), table["found_true"].to_numpy()
        out["alerts"] = alerts
        for name, count in (
            ("judged_share", found),
            ("least", hits),
            ("most", hits + alerts - found),
        ):
            share = count / np.maximum(alerts, 1)
            out[name] = np.where(alerts > 0, share, np.nan)
    return out


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(name): (
            (None if np.isnan(value) else float(value))
            if isinstance(value, float)
            else value
        )
        for name, value in row.items()
    }
