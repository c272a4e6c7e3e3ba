"""What argues against exfiltration: told as plainly as what argues for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.features import human_bytes
from exfilml.triage._playbook import WORTH, destination
from exfilml.triage.case import NO, Answer, Fact

if TYPE_CHECKING:
    from exfilml.triage._material import Material

# A place that so many hosts use on so many days is part of the site's life.
MANY_HOSTS: Final = 3
MANY_DAYS: Final = 10
# A conversation that mostly brings in is a download with a request.
MOSTLY_DOWN: Final = 10.0


def arguments(
    material: Material,
    signs: list[Answer],
    rows: list[dict[str, Any]],
    history: pd.DataFrame | None = None,
) -> list[tuple[Fact, ...]]:
    """Return the facts that argue against exfiltration, for each case.

    Parameters
    ----------
    material, rows
        The cases.
    signs
        Whether there are signs of encryption.
    history
        As `exfilml.History.seen` gives it; `None` for none.
    """
    ruling = material.judged.ruling
    where = destination(material)
    _, above = material.leading("volume_place")
    _, summed = material.leading("sum_case")
    usual = material.said("volume_place")
    answered = _answered(material)
    found = []
    for case, row in enumerate(rows):
        facts: list[Fact] = []
        note = ruling.note_of(int(material.cases[case]))
        if note.startswith("approved"):
            facts.append(Fact("policy.approved", note, source="policy"))
        if material.judged.scored.apart[material.cases[case]]:
            facts.append(Fact("stays_inside", "both ends are inside the site"))
        if where[case].name == "destination.known":
            facts.append(where[case])
            excess = np.nan_to_num([above[case], summed[case]])
            if (excess < WORTH).all():
                at = material.leading("volume_place")[0][case]
                numbers = {"up_bytes": float(material.asked.up[at])}
                labels = material.labels([at])
                facts.append(
                    Fact("volume.usual", usual[case], numbers, labels, "baseline")
                )
        if signs[case].answer == NO:
            facts += signs[case].facts
        up, down = float(row["up_bytes"]), float(row["down_bytes"])
        if down > MOSTLY_DOWN * up:
            text = f"{human_bytes(down)} came in and {human_bytes(up)} went out"
            numbers = {"up_bytes": up, "down_bytes": down}
            labels = material.labels(material.members[case])
            facts.append(Fact("mostly_download", text, numbers, labels))
        if not answered[case]:
            text = "no flow was answered, so the data may not have arrived"
            numbers = {"down_bytes": down}
            labels = material.labels(material.members[case])
            facts.append(Fact("unanswered", text, numbers, labels))
        if history is not None:
            facts += _from_history(history, str(row["case"]))
        found.append(tuple(facts))
    return found


def _answered(material: Material) -> Any:
    """Say in which cases the other side of a flow over TCP sent something.

    What goes over other protocols needs no answer.
    """
    oriented = material.asked.oriented
    tcp = oriented["protocol"].to_numpy() == 6
    return material.any(~tcp | (oriented.numbers("down_bytes") > 0))


def _from_history(history: pd.DataFrame, case: str) -> list[Fact]:
    facts = []
    mine = history[(history["case"] == case) & (history["flows"] > 0)]
    for by, whose in (("host_place", "this host"), ("place", "hosts of the site")):
        for _, seen in mine[mine["by"] == by].iterrows():
            numbers = {
                name: seen[name] for name in ("flows", "days", "hosts", "up_bytes")
            }
            text = (
                f"the history has {seen['flows']:,} flows of {whose} to this place on "
                f"{seen['days']:,} days since {seen['first_seen']:%Y-%m-%d}, "
                f"{human_bytes(float(seen['up_bytes']))} in all"
            )
            if by == "place":
                text += f", from {seen['hosts']:,} hosts"
            facts.append(Fact(f"history.{by}", text, numbers, source="history"))
    return facts


def habit(facts: tuple[Fact, ...]) -> str:
    """Say that many hosts have used the destination for long, if they have, else ""."""
    for fact in facts:
        told = fact.numbers
        if fact.name == "history.place":
            hosts, days = told["hosts"], told["days"]
        elif fact.name == "destination.known":
            hosts, days = told["hosts_of_the_site"], told["days_of_host"]
        else:
            continue
        if hosts >= MANY_HOSTS and days >= MANY_DAYS:
            return fact.text
    return ""
