"""What the head of a page says: what was read, and what could not be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from exfilml.report.page._wording import (
    moment,
    name,
    plural,
    real,
    span_text,
    time_text,
)
from exfilml.ruling import sentence_of
from exfilml.schema import CAPABILITIES

if TYPE_CHECKING:
    from exfilml.detector import Detector

# Longer lists of networks are counted.
MOST_NETWORKS: Final = 12


@dataclass(frozen=True)
class Subject:
    """What a page is about, whichever way it was given.

    Attributes
    ----------
    kind
        ``case`` or ``flow``: what a row is.
    rows
        The rows that the page shows, best first, by column.
    ranked
        How many rows the ranking has.
    counted
        How many of these have which value, for ``capability`` and ``not_visible``.
    answered
        Whether the playbook was answered.
    about
        As `exfilml.triage.case.Triage.about`, as far as it is known, and what
        `exfilml.rank_cases` notes in ``attrs``.
    """

    kind: str
    rows: list[Mapping[Any, Any]]
    ranked: int
    counted: Mapping[str, Counter[str]]
    answered: bool
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many there were, before some were left out of the ranking."""
        count = self.about.get("total", self.about.get(f"{self.kind}s"))
        return max(int(real(count) or 0), self.ranked)

    @property
    def alerted(self) -> int:
        """How many of them alert."""
        return int(real(self.about.get("alerted")) or 0)


def period(subject: Subject) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
    """Return the first and the last time that is known of what was read."""
    about = subject.about
    first, last = moment(about.get("first")), moment(about.get("last"))
    if first is None or last is None:
        names = ("first_seen", "last_seen", "start")
        times = [moment(row.get(n)) for row in subject.rows for n in names]
        known = [time for time in times if time is not None]
        first = first or min(known, default=None)
        last = last or max(known, default=None)
    return first, last


def tiles(subject: Subject) -> list[dict[str, str]]:
    """Return the numbers that a reader looks for first."""
    found = [(f"{subject.alerted:,}", _noun("alert", subject.alerted))]
    found.append((f"{subject.total:,}", _noun(subject.kind, subject.total)))
    flows = real(subject.about.get("flows"))
    if subject.kind == "case" and flows is not None:
        found.append((f"{flows:,.0f}", _noun("flow", int(flows)) + " read"))
    return [{"value": value, "label": label} for value, label in found]


def _noun(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def unseen(subject: Subject) -> list[dict[str, str]]:
    """Count for how many rows something could not be judged, the most first."""
    counts: Counter[str] = Counter()
    for text, n in subject.counted["not_visible"].items():
        for part in filter(None, (p.strip() for p in text.split(","))):
            counts[part] += n
    return _shares(counts.most_common(8), subject.ranked, subject.kind)


def seen(subject: Subject) -> list[dict[str, str]]:
    """Count the rows by the most that could be judged of them, the most telling first."""
    counts = subject.counted["capability"]
    order = [c for c in reversed(CAPABILITIES) if counts[c]]
    rest = [c for c in counts if c and c not in CAPABILITIES][:4]
    named = [(c, counts[c]) for c in (*order, *rest)]
    return _shares(named, subject.ranked, subject.kind)


def _shares(
    counts: Iterable[tuple[str, int]], total: int, kind: str
) -> list[dict[str, str]]:
    return [
        {
            "name": name(what),
            "count": f"all {total:,} {kind}s"
            if n == total > 1
            else f"{n:,} of {plural(total, kind)}",
            "width": f"{100 * n / max(total, 1):.0f}",
        }
        for what, n in counts
    ]


def about(
    subject: Subject, detector: Detector | None, home: tuple[str, ...] | None
) -> list[dict[str, Any]]:
    """Return terms with what is said of each: input, baseline, budget, model."""
    found = {
        "Read": _read(subject),
        "Baseline": _baseline(subject, detector),
        "Home networks": _networks(home),
        "Alerts": _budget(subject, detector),
        "Model": _model(detector),
        "Known besides": _besides(subject),
        "Policy": _policy(subject.about),
        "Made": _made(subject.about),
    }
    return [{"term": term, "lines": lines} for term, lines in found.items() if lines]


def _read(subject: Subject) -> list[str]:
    first, last = period(subject)
    flows = real(subject.about.get("flows")) if subject.kind == "case" else None
    counted = [] if flows is None else [plural(int(flows), "flow")]
    counted.append(plural(subject.total, subject.kind))
    lines = [", ".join(counted)]
    if first is not None and last is not None:
        lines.append(f"{time_text(first)} to {time_text(last)} UTC")
    else:
        lines.append("times are not known")
    inside = int(real(subject.about.get("inside")) or 0)
    if inside:
        lines.append(
            f"{plural(inside, subject.kind)} stay inside the site: they come last and "
            "raise no alert"
        )
    return lines


def _baseline(subject: Subject, detector: Detector | None) -> list[str]:
    begin = moment(subject.about.get("baseline_first"))
    end = moment(subject.about.get("baseline_last"))
    if detector is not None:
        begin, end = (moment(t) for t in detector.window_)
    if begin is None or end is None:
        return ["not known to this report"]
    lines = [f"{time_text(begin)} to {time_text(end)} UTC ({span_text(end - begin)})"]
    first, _ = period(subject)
    if first is not None:
        lines.append(
            f"ended {span_text(first - end)} before the first flow"
            if first > end
            else "overlaps the time of the flows: what it learned from them is normal"
        )
    return lines + _known(subject.about.get("fit"))


def _known(fit: object) -> list[str]:
    """Say how much of the flows the model knows; a stored triage may say anything."""
    if not isinstance(fit, Mapping):
        return []
    parts = []
    for what in ("hosts", "services"):
        total, new = real(fit.get(what)), real(fit.get(f"new_{what}"))
        if total is None or new is None:
            return []
        parts.append(f"{total - new:,.0f} of {total:,.0f} {what}")
    return [f"knows {' and '.join(parts)} of these flows"]


def _networks(home: tuple[str, ...] | None) -> list[str]:
    if home is None:
        return []
    shown = ", ".join(name(network) for network in home[:MOST_NETWORKS])
    more = len(home) - MOST_NETWORKS
    return [shown + (f" and {more:,} more" if more > 0 else "")]


def _budget(subject: Subject, detector: Detector | None) -> list[str]:
    lines = []
    budget = real(subject.about.get("alerts_per_day"))
    if budget is None and detector is not None:
        budget = real(detector.alerts_per_day)
        if budget is not None:
            lines.append(f"the model's budget: {budget:g} a day")
    elif budget is not None:
        lines.append(f"budget: {budget:g} a day")
    thresholds = subject.about.get("thresholds") or {}
    for seeing, limits in thresholds.items():
        bits = real(limits.get("suspicion"))
        low, high = limits.get("normal_alerts_per_day") or (None, None)
        text = f"judged by {name(seeing)}: "
        if bits is None:
            lines.append(text + "none reaches the false discovery rate asked for")
            continue
        text += f"alert from {bits:.1f} bits on"
        if real(low) is not None and real(high) is not None:
            text += (
                f", which normal operation reaches {low:.1f} to {high:.1f} times a day "
                "(90 % interval)"
            )
        lines.append(text)
    return lines


def _model(detector: Detector | None) -> list[str]:
    if detector is None:
        return []
    made_by = getattr(detector, "made_by_", {}).get("exfilml", "this version")
    trees = max(len(b.forest.trees_.start) - 1 for b in detector.learned_.values())
    sees = " and from ".join(
        {"payload": "payload", "volume": "volumes alone"}.get(k, k)
        for k in detector.learned_
    )
    return [
        (
            f"learned from {plural(detector.n_flows_, 'flow')} of "
            f"{plural(detector.known_.n_hosts, 'local host')}"
        ),
        f"judges from {sees}; {trees} trees; trained by exfilml {name(made_by)}",
    ]


def _besides(subject: Subject) -> list[str]:
    if not subject.answered:
        return []
    words = {"intel": "threat intelligence", "assets": "assets", "history": "history"}
    lines = []
    for key, what in words.items():
        if key in subject.about:
            count = real(subject.about[key])
            shown = "not given" if count is None else f"{count:,.0f} entries"
            lines.append(f"{what}: {shown}")
    return lines


def _policy(noted: Mapping[str, Any]) -> list[str]:
    counts = noted.get("policy")
    if not isinstance(counts, Mapping):
        return []
    text = sentence_of(dict(counts), int(real(noted.get("suppressed")) or 0))
    return [name(text.removeprefix("policy: "), 600)]


def _made(noted: Mapping[str, Any]) -> list[str]:
    made = moment(noted.get("made"))
    when = "" if made is None else f"{time_text(made)} UTC, "
    return [f"{when}exfilml {name(noted.get('version', ''))}"]


def notices(subject: Subject) -> list[str]:
    """Say what a reader would otherwise take for complete."""
    found = []
    shown = len(subject.rows)
    left_out = subject.total - shown
    if left_out > 0:
        found.append(
            f"{shown:,} of {subject.total:,} {subject.kind}s are shown; {left_out:,} less "
            "suspicious ones are left out. exfilml rank --out cases.csv lists all."
        )
    windows = subject.about.get("windows_not_covered")
    if windows:
        listed = ", ".join(map(str, windows))
        found.append(
            f"Sums over {name(listed)} reach back no further than what was read: a slow "
            "drip that began earlier shows less than it sent."
        )
    if subject.about.get("follows") is False:
        found.append(
            "These flows do not follow those that the state knows: sums over days may "
            "be wrong."
        )
    return found
