"""The tables of the comparison, as Markdown.

One file because every table is a view of the same run (`Compared`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import exfilml
from comparison import ablation
from comparison.methods import learned
from exfilml.evaluation import (
    POSITIVE,
    Evaluation,
    Truth,
    evaluate,
    measure,
    measure_lead,
)
from exfilml.export import printable
from exfilml.features import human_bytes

if TYPE_CHECKING:
    from comparison.data import Data

CUTS = (10, 20, 50)
# So many cases looked at for nothing are a place where the detector loses.
MANY = 10
# A first page: so many cases for each scenario that there is.
PAGES = 2
OURS = "exfilml"
SILENT = "exfilml without its forest"
ABOUT = ["carrier", "via", "encoding", "pacing"]


@dataclass(frozen=True)
class Compared:
    """Each method's score of each case, and what the cases are."""

    data: Data
    seed: int
    detector: exfilml.Detector
    truth: Truth
    up: np.ndarray
    scores: dict[str, np.ndarray]
    found: Evaluation

    @classmethod
    def of(cls, data: Data, seed: int = 0) -> Compared:
        """Fit everything on the baseline and score the test days."""
        detector = exfilml.Detector(random_state=seed).fit(data.baseline)
        silent = ablation.fit(data.baseline, seed=seed, silent=True)
        flows = data.test
        scored = detector.score(flows)
        case, n = scored.case, len(scored.case_suspicion)
        up, down = (
            np.bincount(case, flows[f"{s}_bytes"], minlength=n) for s in ("src", "dst")
        )

        def highest(score: np.ndarray) -> np.ndarray:
            most = np.full(n, -np.inf)
            np.maximum.at(most, case, score)
            return most

        scores = {
            OURS: scored.ranked_cases,
            SILENT: silent.score(flows).ranked_cases,
            "largest total upload": up,
            "producer–consumer ratio": (up - down) / np.maximum(up + down, 1.0),
        }
        if not data.netflow:
            entropy = flows["src_entropy"].fillna(0.0).to_numpy()
            scores["upload entropy"] = highest(entropy)
        others = learned(data, seed)
        scores |= {name: highest(score) for name, score in others.items()}
        found = evaluate(detector, flows, data.labels, seed=seed)
        truth = Truth.of(flows, data.labels, case)
        return cls(data, seed, detector, truth, scored.asked.up, scores, found)

    @property
    def planted(self) -> np.ndarray:
        """Which cases hold a theft, shape (n_cases,)."""
        return self.truth.case_label == POSITIVE

    @property
    def scenario(self) -> np.ndarray:
        """The theft, or else the hard negative, of each case; "" for none."""
        named = np.full(len(self.planted), "", dtype=object)
        for theft in (False, True):
            rows = (self.truth.label == POSITIVE) == theft
            rows &= self.truth.scenario != ""
            named[self.truth.case[rows]] = self.truth.scenario[rows]
        return named

    @property
    def thefts(self) -> pd.DataFrame:
        """Rank of each planted scenario's best case among all, the best first."""
        return _thefts(self.found)

    @property
    def page(self) -> int:
        """Two cases for each scenario."""
        return PAGES * self.found.scenarios


def _thefts(found: Evaluation) -> pd.DataFrame:
    return found.table[found.table["label"] == POSITIVE].set_index("scenario")


def comparison(ran: Compared) -> str:
    """Return the methods, and who comes first, as Markdown."""
    truth, planted, found = ran.truth, ran.planted, ran.found
    honest = int((found.table["alert"] & (found.table["label"] != POSITIVE)).sum())
    lines = [
        (
            f"{len(ran.data.test):,} flows in {len(planted):,} cases, {planted.sum()} of "
            f"them planted; seed {ran.seed}."
        ),
        "",
        *_methods(ran),
        "",
        (
            f"At a budget of {found.budget:g} alerts a day exfilml finds "
            f"{found.scenarios_found} of {found.scenarios} scenarios and alerts "
            f"{found.false_alarms} of the {found.n_normal} cases that are no theft, in "
            f"{found.days:.1f} days; the budget allows {found.budget * found.days:.0f}. "
            f"{honest} scenarios among the false alarms are hard negatives."
        ),
        (
            f"False alarms: {found.false_alarms_per_1000_cases:.1f} per 1,000 cases; "
            f"{found.false_alarms_per_day_per_1000_hosts:.0f} per (virtual) day per 1,000 "
            "hosts."
        ),
        _first_page(ran),
        _without_hard(ran),
        "",
        (
            "How many cases that are no theft come before each scenario's best case, "
            f"by method; **bold** where exfilml has {MANY} or more and another method "
            "at most half as many before a theft."
        ),
        "",
        "| label | scenario | " + " | ".join(ran.scores) + " |",
        "|---|---|" + "---|" * len(ran.scores),
    ]
    before = {m: ahead(s, truth) for m, s in ran.scores.items()}
    about = pd.DataFrame(
        {"label": truth.label, "scenario": truth.scenario, "case": truth.case}
    )
    labelled = about[about["label"] != ""]
    for (label, scenario), group in labelled.groupby(["label", "scenario"]):
        cases = group["case"].unique()
        best = {m: int(n[cases].min()) for m, n in before.items()}
        lost = label == POSITIVE and best[OURS] >= MANY
        cells = [
            f"**{n}**"
            if lost and m not in (OURS, SILENT) and 2 * n <= best[OURS]
            else n
            for m, n in best.items()
        ]
        lines.append(f"| {label} | {scenario} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def ahead(score: np.ndarray, truth: Truth) -> np.ndarray:
    """Return how many cases that are no theft come before each case; ties do."""
    normal = np.sort(score[truth.judged & (truth.case_label != POSITIVE)])
    own = truth.judged & (truth.case_label != POSITIVE)
    return len(normal) - np.searchsorted(normal, score, side="left") - own


def _methods(ran: Compared) -> list[str]:
    """Average precision of each method, and how far exfilml is ahead of it."""
    counted, scores = ran.truth.judged, ran.scores
    planted, scenario = ran.planted[counted], ran.scenario[counted]
    lines = [
        "| method | average precision (90 % interval) | "
        + " | ".join(f"recall at {k}" for k in CUTS)
        + " | exfilml ahead by (90 % interval) |",
        "|---|---|" + "---|" * (len(CUTS) + 1),
    ]
    # Of the methods that are not exfilml: the best, and how far it is behind.
    best = ("", -np.inf, {})
    for method, score in scores.items():
        of = measure(score[counted], planted, seed=ran.seed)
        ap, low, high = (of[k] for k in ("average_precision", "low", "high"))
        recall = " | ".join(f"{of[f'recall_at_{k}']:.0%}" for k in CUTS)
        lead = ""
        if method != OURS:
            ours = scores[OURS][counted]
            by = measure_lead(
                ours, score[counted], planted, group=scenario, seed=ran.seed
            )
            lead = "{lead:+.2f} ({low:+.2f} to {high:+.2f})".format(**by)
            if method != SILENT and ap > best[1]:
                best = (method, ap, by)
        lines.append(
            f"| {method} | {ap:.2f} ({low:.2f}–{high:.2f}) | {recall} | {lead} |"
        )
    method, ap, by = best
    lies = "excludes" if by["low"] > 0 or by["high"] < 0 else "holds"
    says = "ahead of" if by["lead"] > 0 else "behind"
    return [
        *lines,
        "",
        (
            f"The best of the others is {method} ({ap:.3f}). exfilml is {says} it by "
            f"{abs(by['lead']):.3f}; the 90 % interval of its lead, {by['low']:+.3f} to "
            f"{by['high']:+.3f} (scenarios and cases that are no theft resampled, the "
            f"same for both), {lies} 0."
        ),
    ]


def _first_page(ran: Compared) -> str:
    """Say which scenarios have no case on the first page."""
    late = ran.thefts[ran.thefts["rank"] > ran.page]
    named = ", ".join(f"{name} ({row['rank']})" for name, row in late.iterrows())
    return (
        f"Within the first {ran.page} cases ({PAGES} for each scenario): "
        f"{ran.found.scenarios - len(late)} of {ran.found.scenarios} scenarios"
        + (f"; later, with the rank of the best case: {named}." if named else ".")
    )


def _without_hard(ran: Compared) -> str:
    """Say how much of what is missing to 1 is due to hard negatives."""
    ordinary = ran.truth.judged & (ran.truth.case_label != "hard-negative")
    ap = measure(ran.scores[OURS][ordinary], ran.planted[ordinary])
    return (
        "With the hard negatives left out, exfilml's average precision is "
        f"{ap['average_precision']:.2f}."
    )


def visibility(ran: Compared, full: Data) -> str:
    """Say which scenarios flow records show, and which only payload does."""
    detector = exfilml.Detector(random_state=ran.seed).fit(full.baseline)
    with_payload = _thefts(evaluate(detector, full.test, full.labels))["rank"]
    table = ran.thefts
    shown = table[table["rank"] <= ran.page]
    hidden = table[table["rank"] > ran.page]
    facts = ran.data.scenarios
    names = [name for name in ABOUT if name in facts]
    last = ("sent", "share of case", "rank from flow records", "rank with payload")
    lines = [
        (
            f"Flow records show {len(shown)} of {len(table)} scenarios within the first "
            f"{ran.page} cases: {', '.join(shown.index) or 'none'}."
        ),
        (
            f"They do not show {len(hidden)}: {', '.join(hidden.index) or 'none'}. With "
            f"payload {int((with_payload <= ran.page).sum())} are within the first "
            f"{ran.page}."
        ),
        "",
        (
            "What each scenario is, and the rank of its best case; **bold** beyond "
            f"{ran.page}. Share: how much of that case's upload is the theft. Where it is "
            "small, flow records put the theft together with honest traffic to the same "
            "proxy, relay or resolver."
        ),
        "",
        "| scenario | " + " | ".join([*names, *last]) + " |",
        "|---|" + "---|" * (len(names) + len(last)),
    ]
    of_case = np.bincount(ran.truth.case, ran.up)
    for name, row in table.iterrows():
        cases = ran.truth.case[ran.truth.scenario == name]
        best = cases[np.argmax(ran.scores[OURS][cases])]
        rank = f"**{row['rank']}**" if row["rank"] > ran.page else str(row["rank"])
        cells = [
            name,
            *(_text(facts.loc[name, c]) for c in names),
            human_bytes(row["up_bytes"]),
            f"{row['up_bytes'] / of_case[best]:.0%}",
            rank,
            str(with_payload[name]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def dismissals(ran: Compared, most: int) -> str:
    """List cases that are no theft and rank above some theft, with their reasons.

    Hard negatives are named: what an analyst needs to dismiss them is said elsewhere.
    """
    truth, flows = ran.truth, ran.data.test
    normal = truth.judged & ~ran.planted
    last = int(ran.thefts["rank"].max())
    table = exfilml.rank_cases(ran.detector, flows, top=last)
    # Both tables call a case by the same name.
    names = exfilml.rank_flows(ran.detector, flows)["case"].reindex(flows.index)
    code = dict(zip(names, truth.case, strict=True))
    table["code"] = [code[name] for name in table["case"]]
    rows = table[normal[table["code"]]]
    hard = int((truth.case_label[rows["code"]] != "").sum())
    lines = [
        (
            f"{len(rows)} cases that are no theft rank above some theft (the last one is "
            f"at {last}), {hard} of them hard negatives"
            + (f"; the first {most}:" if len(rows) > most else ":")
        ),
        "",
        "| rank | bits | what | local | place | service | sent | reasons |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.head(most).itertuples():
        what = f"{truth.case_label[row.code]} {ran.scenario[row.code]}".strip()
        port = "" if pd.isna(row.dst_port) else f"/{row.dst_port}"
        service = f"{row.protocol}{port} {_text(row.app)}"
        cells = [
            *(str(row.rank), f"{row.suspicion:.1f}", what or "ordinary"),
            *(row.local_ip, row.place, service, human_bytes(row.up_bytes), row.reasons),
        ]
        lines.append(f"| {' | '.join(map(_text, cells))} |")
    return "\n".join(lines)


def _text(value: object) -> str:
    """Return what may stand in a cell of a table."""
    return "" if pd.isna(value) else printable(str(value)).replace("|", "\\|")
