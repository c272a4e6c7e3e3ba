"""What would be missed here: recall over size, pacing, carrier and novelty.

Synthetic uploads (`exfilml.inject`) are planted into a site's own flows many times,
scored by a detector, and counted: of so many trials of a kind, how many alert at the
budget. A trial alerts if one of its cases does.

**What is scored.** The planted flows alone. No two trials that are scored together
share a case, and each is moved 28 days from the next, so that none is in the windows
over which another is summed up. What the same host sends to a known place on the same
day of its own accord would add to the case; leaving it out counts a little too few
alerts rather than too many.

**Recall** of a cell is the share of its trials that alert, with Wilson's interval
(E. B. Wilson, J. Am. Stat. Assoc. 22, 1927). Trials of one carrier and place use the
same hosts and known places at every size and pacing, so that sizes are compared on
equal terms.

**The smallest upload** is where recall reaches `REACHED` and stays there for all
larger sizes of the grid, interpolated linearly in log(size) between the last size
below and the first size at or above. If the smallest size of the grid is reached
already, the answer is "at most": such an upload alerts for what it is or where it goes
rather than for its size. If the largest is not reached, there is none. Bytes are data,
before any encoding and header.

**With a policy** trials alert as cases do in `exfilml.rank_cases`: broken rules add bits,
and what an approval covers raises no alert. Such trials are counted apart: a place
that is approved is a blind spot that the site has made itself. Approvals hold as they
do on the last day of the flows, and rules as if each trial were alone.

One file because a figure means nothing apart from how it was counted.
"""

from __future__ import annotations

import datetime as dt
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.calibration import check_budget
from exfilml.columns import PAYLOAD_COLUMNS
from exfilml.drawing import axes_for
from exfilml.exceptions import CalibrationWarning, OptionError
from exfilml.features import human_bytes
from exfilml.inject import (
    CARRIERS,
    PLACES,
    Planter,
    Site,
    Transfer,
    check_count,
    reserved_networks,
)
from exfilml.names import Names
from exfilml.places import EPHEMERAL_FROM
from exfilml.policy import Policy
from exfilml.ranking import at_home, judge
from exfilml.schema import capability, validate_flows
from exfilml.tally import combine, hash_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from exfilml.detector import Detector

SIZES: Final = (
    *(1_000, 3_000, 10_000, 30_000, 100_000, 300_000),
    *(1_000_000, 3_000_000, 10_000_000, 50_000_000),
)
PACINGS: Final = (1, 20, 100)
TRIALS: Final = 20
REACHED: Final = 0.9
CONFIDENCE: Final = 0.9
APART_DAYS: Final = 28
BATCH_ROWS: Final = 50_000
MOST_TRIALS: Final = 10_000
# How often progress is told, at most.
TOLD: Final = 20
SEEING: Final = {"payload": "seeing payload", "volume": "from volumes alone"}

_CELL: Final = ["capability", "carrier", "place", "flows", "up_bytes"]
_CURVE: Final = _CELL[:-1]


@dataclass(frozen=True)
class Blindspots:
    """What a detector would see and miss at a site.

    Attributes
    ----------
    table
        A row for each cell of the grid: ``capability`` (``payload`` or ``volume``),
        ``carrier``, ``place``, ``flows`` (a day), ``up_bytes`` (of data, a day),
        ``trials``, ``alerted``, ``suppressed`` (only an approval keeps them from
        alerting), ``recall``, and its 90 % interval ``low`` and ``high``.
    smallest
        A row for each capability, carrier, place and number of flows: ``up_bytes``,
        the smallest upload a day seen 9 times of 10 (NaN for none), ``bound``
        (``at most``, ``about`` or ``none``), ``largest``, the largest tried, and
        ``suppressed``, over all sizes.
    budget
        Alert budget in cases a day.
    trials
        Trials in each cell.
    notes
        What could not be asked.
    """

    table: pd.DataFrame
    smallest: pd.DataFrame
    budget: float
    trials: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what is seen least, what approvals keep quiet, and the notes."""
        lines = [
            f"seen least, {SEEING[str(name)]}: {_least(rows)}"
            for name, rows in self.smallest.groupby("capability", sort=False)
        ]
        for name, rows in self.table.groupby("capability", sort=False):
            if quiet := int(rows["suppressed"].sum()):
                lines.append(
                    f"hidden by approvals, {SEEING[str(name)]}: {quiet:,} of "
                    f"{int(rows['trials'].sum()):,} trials, which would alert"
                )
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        smallest = self.smallest.astype(object)
        return {
            "budget": self.budget,
            "trials": self.trials,
            "reached": REACHED,
            "table": self.table.to_dict("records"),
            "smallest": smallest.where(smallest.notna(), None).to_dict("records"),
            "notes": list(self.notes),
        }

    def plot(
        self,
        ax: Axes | None = None,
        *,
        capability: str | None = None,
        flows: int | None = None,
    ) -> Axes:
        """Draw recall as a heat map, carriers and places over sizes.

        Parameters
        ----------
        ax
            Where to draw; `None` for a new figure.
        capability
            ``payload`` or ``volume``; `None` for the most that was seen.
        flows
            Only uploads cut into so many flows; `None` for all pacings together.

        Raises
        ------
        OptionError
            If there are no such cells.
        """
        known = list(self.table["capability"].unique())
        shown = known[0] if capability is None else capability
        rows = self.table[self.table["capability"] == shown]
        if flows is not None:
            rows = rows[rows["flows"] == flows]
        if rows.empty:
            raise OptionError(
                f"capability={capability!r}, flows={flows!r}: expected one of "
                f"{', '.join(known)}, and one of the pacings "
                f"{', '.join(map(str, self.table['flows'].unique()))}."
            )
        kinds = (rows["carrier"] + ", " + rows["place"]).to_numpy()
        names = list(dict.fromkeys(kinds))
        sizes = np.unique(rows["up_bytes"])
        at = (
            pd.Index(names).get_indexer(kinds),
            np.searchsorted(sizes, rows["up_bytes"]),
        )
        sums = np.zeros((2, len(names), len(sizes)))
        np.add.at(sums[0], at, rows["alerted"])
        np.add.at(sums[1], at, rows["trials"])
        recall = np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1.0), np.nan)
        height = 1.2 + 0.3 * len(recall)
        ax = axes_for(ax, (2.5 + 0.7 * len(sizes), height))
        image = ax.imshow(recall, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
        ax.set_xticks(range(len(sizes)), [human_bytes(float(size)) for size in sizes])
        ax.set_yticks(range(len(names)), names)
        for (i, j), value in np.ndenumerate(recall):
            if np.isfinite(value):
                colour = "black" if value > 0.5 else "white"
                ax.text(
                    j, i, f"{value:.2f}", ha="center", va="center", color=colour, size=7
                )
        pace = "all pacings" if flows is None else f"{flows} flows a day"
        ax.set(
            xlabel="data uploaded in a day",
            title=f"Recall at {self.budget:g} alerts a day, {SEEING[shown]}, {pace}",
        )
        ax.figure.colorbar(image, ax=ax, label="recall")
        return ax


def _least(rows: pd.DataFrame) -> str:
    """Name the upload that may be largest before it alerts 9 times of 10."""
    size = rows["up_bytes"].fillna(np.inf)
    worst = rows[size == size.max()].to_dict("records")
    row = worst[0]
    unseen = row["bound"] == "none"
    much = "> " * unseen + human_bytes(row["largest"] if unseen else row["up_bytes"])
    more = f", and {len(worst) - 1} others alike" if len(worst) > 1 else ""
    pace = "one flow" if row["flows"] == 1 else f"{row['flows']} flows"
    return (
        f"{CARRIERS[row['carrier']].title} to {row['place']} places, in {pace}: "
        f"{much}{more}"
    )


def blindspots(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    sizes: Sequence[int] = SIZES,
    pacings: Sequence[int] = PACINGS,
    carriers: Sequence[str] | None = None,
    places: Sequence[str] = PLACES,
    trials: int = TRIALS,
    alerts_per_day: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Blindspots:
    """Say which uploads a detector would miss at a site.

    Parameters
    ----------
    detector
        Fitted on normal traffic of the site.
    flows
        A flows table of the site, for its hosts, their hours and the places they
        know; also the baseline will do.
    sizes
        Bytes of data uploaded in a day.
    pacings
        Into how many flows a day an upload is cut.
    carriers
        Keys of `exfilml.inject.CARRIERS`; `None` for all.
    places
        Some of ``new``, ``near`` and ``known``, see `exfilml.Transfer`.
    trials
        Uploads of each kind, from other hosts or at other times.
    alerts_per_day
        Alert budget in cases a day; `None` for the detector's own.
    policy
        What the site declares, or the path of a policy file, as in
        `exfilml.rank_cases`.
    seed
        Of all draws.
    progress
        Called with a sentence now and then.

    Raises
    ------
    FlowsError
        If there are no flows, or none leaves the site.
    OptionError
        If an option has an impossible value.
    PolicyError
        If the policy is none.

    Warns
    -----
    CalibrationWarning
        If the detector's calibration is too short for the budget.
    """
    tell = progress or (lambda _: None)
    grid = _grid(sizes, pacings, carriers, places, trials)
    budget = detector.alerts_per_day if alerts_per_day is None else alerts_per_day
    check_budget(budget)
    declared = None if policy is None else Policy.of(policy)
    detector = at_home(detector, declared)
    tell("surveying the site")
    flows = validate_flows(flows)
    site = Site.of(flows, detector.home_)
    seen, notes = _capabilities(detector, flows)
    for name in seen:
        # Said once, not with every batch.
        detector.learned_[name].cases.threshold(budget)
    planter = Planter(site, seed=seed, avoid=_known_networks(detector))
    plan = planter.plan(
        [transfer for transfer in grid for _ in range(trials)],
        [trial for _ in grid for trial in range(trials)],
    )
    notes += _lacking(plan)
    if declared is not None and len(flows):
        declared, gone = _standing(declared, flows["start"].max().date())
        notes += gone
    plan = plan[plan["place"] == plan["asked"]]
    if plan.empty:
        raise OptionError(
            f"places {tuple(places)!r}: the flows lead to no such place for any of the "
            "carriers. Ask for new places too, or give more flows."
        )
    outcome = {name: np.zeros((len(plan), 2), dtype=bool) for name in seen}
    done, total = 0, int(plan["flows"].sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        for batch in _batches(plan):
            rows = _apart(planter.rows(plan.iloc[batch]))
            for name in seen:
                of_batch = _alerts(detector, rows, name, budget, declared)
                for column, transfers in enumerate(of_batch):
                    outcome[name][np.isin(plan.index, transfers), column] = True
            before, done = done, done + int(plan["flows"].iloc[batch].sum())
            if done * TOLD // total > before * TOLD // total:
                tell(f"{done:,} of {total:,} flows planted and scored")
    table = _count(plan, outcome)
    return Blindspots(
        table=table,
        smallest=_smallest(table),
        budget=float(budget),
        trials=trials,
        notes=tuple(notes),
    )


def _grid(
    sizes: Sequence[int],
    pacings: Sequence[int],
    carriers: Sequence[str] | None,
    places: Sequence[str],
    trials: int,
) -> list[Transfer]:
    """Return the kinds of upload; `Transfer` refuses what is none."""
    check_count("trials", trials, MOST_TRIALS)
    chosen = tuple(CARRIERS) if carriers is None else carriers
    given = {
        "sizes": sizes,
        "pacings": pacings,
        "carriers": chosen,
        "places": places,
    }
    for name, values in given.items():
        if isinstance(values, str) or not np.iterable(values) or len(values) == 0:
            raise OptionError(f"{name}: got {values!r}, expected a list, not empty.")
        if len(set(values)) < len(values):
            raise OptionError(f"{name}: got {values!r}, expected no value twice.")
    return [
        Transfer(carrier, size, flows, place)
        for carrier, place, flows, size in product(
            chosen, places, sorted(pacings), sorted(sizes)
        )
    ]


def _capabilities(
    detector: Detector, flows: pd.DataFrame
) -> tuple[list[str], list[str]]:
    """Return what flows of the site are judged by, best first, and what is not."""
    visible = (capability(flows) == "payload").any()
    known = "payload" in detector.learned_
    if visible and known:
        return ["payload", "volume"], []
    why = "the flows show no payload" if known else "the model never saw payload"
    return ["volume"], [f"{why}: only volumes, places and services were judged"]


def _known_networks(detector: Detector) -> list[str]:
    """Return reserved networks that the detector knows a service in.

    The table at hand may have none of them; a lab's baseline has.
    """
    networks = [str(n) for six in (False, True) for n in reserved_networks(six=six)]
    hosts = hash_names(Names.one_of(networks, np.arange(len(networks))))
    tally = detector.known_.tables["service_network"]
    services = detector.known_.tables["service"].keys
    known = np.zeros(len(networks), dtype=bool)
    for service in services:
        key = combine(np.full(len(hosts), service, dtype=np.uint64), hosts)
        known |= tally.find(key) >= 0
    return [n for n, k in zip(networks, known, strict=True) if k]


def _batches(plan: pd.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Yield positions in the plan, so that no two of a batch share a case.

    Batches have `BATCH_ROWS` flows at most, or one trial.
    """
    # Host and service: over a service that is new all places are one case. FTP has both
    # a dialogue and data, on ports that nothing else here uses.
    keys = pd.DataFrame(
        {
            "host": plan["local_ip"],
            "port": plan["dst_port"].clip(upper=EPHEMERAL_FROM),
            "protocol": [CARRIERS[c].protocol for c in plan["carrier"]],
        }
    )
    turn = keys.groupby(list(keys.columns)).cumcount().to_numpy()
    flows = plan["flows"].to_numpy() * np.where(plan["carrier"] == "ftp", 2, 1)
    order = np.argsort(turn, kind="stable")
    first, rows = 0, 0
    for at in range(len(order)):
        full = rows + flows[order[at]] > BATCH_ROWS
        if at > first and (full or turn[order[at]] != turn[order[first]]):
            yield order[first:at]
            first, rows = at, 0
        rows += int(flows[order[at]])
    if first < len(order):
        yield order[first:]


def _apart(rows: pd.DataFrame) -> pd.DataFrame:
    """Move each transfer out of the windows of the others, by whole windows."""
    turn = pd.factorize(rows["transfer"])[0]
    return rows.assign(start=rows["start"] + pd.to_timedelta(turn * APART_DAYS, "D"))


def _lacking(plan: pd.DataFrame) -> Iterator[str]:
    """Say which carriers have no known place, or none that is near one."""
    for asked, rows in plan.groupby("asked", sort=False):
        titles = [
            CARRIERS[str(name)].title + ("" if lack.all() else " (some hosts)")
            for name, lack in (rows["place"] != asked).groupby(
                rows["carrier"], sort=False
            )
            if lack.any()
        ]
        if titles:
            yield (
                f"left out, because the site's flows lead to no {asked} place: "
                f"{', '.join(titles)}"
            )


def _standing(policy: Policy, day: dt.date) -> tuple[Policy, list[str]]:
    """Return a policy with the approvals that hold on a day, for good.

    Trials are moved far apart in time, and must not outlive an approval by that.
    """
    standing = tuple(
        replace(approval, expires=dt.date.max)
        for approval in policy.approvals
        if approval.expires >= day
    )
    gone = len(policy.approvals) - len(standing)
    notes = [f"approvals that have expired by {day}, and hide nothing: {gone:,}"]
    return replace(policy, approvals=standing), notes * bool(gone)


def _alerts(
    detector: Detector,
    rows: pd.DataFrame,
    name: str,
    budget: float,
    policy: Policy | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the transfers of which a case alerts, and those that are hushed up.

    Of the latter an approval covers a case that would alert, and no other does.
    """
    if name == "volume":
        hidden = [f"{side}_{c}" for side in ("src", "dst") for c in PAYLOAD_COLUMNS]
        rows = validate_flows(rows.drop(columns=[*hidden, "first_speaker"]))
    transfer = rows["transfer"].to_numpy(dtype=np.int64)
    judged = judge(detector, rows, alerts_per_day=budget, policy=policy, trial=transfer)
    alerts, quiet = (
        np.unique(transfer[cases[judged.scored.case]])
        for cases in (judged.alerted, judged.suppressed)
    )
    return alerts, np.setdiff1d(quiet, alerts)


def _count(plan: pd.DataFrame, outcome: dict[str, NDArray[np.bool_]]) -> pd.DataFrame:
    """Return recall and its interval for each cell."""
    from scipy.stats import norm

    parts = [
        plan[["carrier", "place", "flows", "up_bytes"]].assign(
            capability=name, alerted=hits[:, 0], suppressed=hits[:, 1]
        )
        for name, hits in outcome.items()
    ]
    cells = pd.concat(parts).groupby(_CELL, sort=False)
    table = cells.agg(
        trials=("alerted", "size"),
        alerted=("alerted", "sum"),
        suppressed=("suppressed", "sum"),
    ).reset_index()
    n, share = table["trials"], table["alerted"] / table["trials"]
    z = float(norm.ppf(0.5 + CONFIDENCE / 2.0))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return table.assign(
        recall=share, low=(middle - half).clip(0), high=(middle + half).clip(upper=1)
    )


def _smallest(table: pd.DataFrame) -> pd.DataFrame:
    """Return where each curve reaches `REACHED` for good."""
    rows = []
    for key, curve in table.groupby(_CURVE, sort=False):
        size = curve["up_bytes"].to_numpy(dtype=np.float64)
        recall = curve["recall"].to_numpy()
        below = np.flatnonzero(recall < REACHED)
        if len(below) == 0:
            found, bound = size[0], "at most"
        elif below[-1] == len(size) - 1:
            found, bound = np.nan, "none"
        else:
            at = below[-1]
            share = (REACHED - recall[at]) / (recall[at + 1] - recall[at])
            found = size[at] * (size[at + 1] / size[at]) ** share
            bound = "about"
        quiet = int(curve["suppressed"].sum())
        rows.append((*key, found, bound, int(size[-1]), quiet))
    columns = [*_CURVE, "up_bytes", "bound", "largest", "suppressed"]
    return pd.DataFrame(rows, columns=columns)
