"""A triaged case as a notebook shows it: the decision, the answers, what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pandas as pd

from exfilml.export import printable
from exfilml.features import human_bytes
from exfilml.report._html import (
    LEAST_SCALE,
    LONGEST_REASON,
    Shown,
    bar,
    name,
    page,
    plain_table,
    rows_of,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exfilml.triage.case import Answer, Case, Triage

MOST_ITEMS: Final = 20
# Of an answer; `Case.evidence` has all.
MOST_FACTS: Final = 4
TITLES: Final = {
    "external_port": "external port",
    "encryption_signs": "signs of encryption",
    "volume_rise": "rise in volume",
    "unexpected_transfer": "unexpected transfer",
    "nonstandard_encryption": "non-standard encryption",
    "threat_intelligence": "threat intelligence",
}


def shown_triage(triage: Triage, rows: int) -> Shown:
    """Show the cases of a triage, each with its answers folded up under it."""
    first = triage.cases[:rows]
    said = [f"{len(triage):,} cases answered for"]
    if "cases" in triage.about and triage.about["cases"] is not None:
        said[0] += f" of {triage.about['cases']:,}"
    if len(first) < len(triage):
        said.append(f"the first {len(first):,} are shown")
    if not first:
        empty = "No cases to answer for: there were none to rank."
        return Shown(page(f"<p>{empty}</p>"), empty)
    scale = max([LEAST_SCALE, *(float(case.row["suspicion"]) for case in first)])
    cells = [
        [
            f"{case.row['rank']:,}",
            _bits(case, scale),
            f'<span class="x">{told(case.decision.level)}</span>',
            _time(case.row["first_seen"]),
            name(case.row["local_ip"]),
            f'<div class="p">{name(case.row["place"])}</div>',
            human_bytes(case.row["up_bytes"]),
            name(case.asset.get("owner") or "–"),
        ]
        for case in first
    ]
    header = (
        *("#rank", "suspicion (bits)", "goes to", "first seen (UTC)"),
        *("local host", "place", "#up", "owner"),
    )
    under = (
        f"<details><summary>{told(case.decision.text, LONGEST_REASON)}</summary>"
        f"{_answers(case)}</details>"
        for case in first
    )
    table = rows_of(cells, header, told("; ".join(said), LONGEST_REASON), under)
    lines = ["; ".join(said), *(_line(case) for case in first)]
    return Shown(page(table), "\n".join(lines))


def shown_case(case: Case) -> Shown:
    """Show one case whole."""
    row = case.row
    title = (
        f"<p><strong>{told(case.decision.level)}</strong> "
        f"{_bits(case, LEAST_SCALE)} bits {name(row['local_ip'])} → "
        f"{name(row['place'])}, {row['flows']:,} flow{'s' * (row['flows'] != 1)}, "
        f"{human_bytes(row['up_bytes'])} up, case {told(case.name)}</p>"
    )
    return Shown(page(title, _answers(case)), _line(case))


def _answers(case: Case) -> str:
    """Return all that was answered, as a list of small tables."""
    pieces = [_of_rules(case), _of_answers((*case.indicators, *case.questions))]
    pieces.append(_of_families(case))
    pieces.append(_listed("Against exfiltration", (f.text for f in case.against)))
    pieces.append(_listed("Scope", (f.text for f in case.scope)))
    pieces.append(
        _listed("ATT&CK", (f"{t.id} {t.name}: {t.reason}" for t in case.techniques))
    )
    steps = (
        f"{s.text.removesuffix('.')}: {s.command}" if s.command else s.text
        for s in case.next_steps
    )
    pieces.append(_listed("Next steps", steps))
    if case.incident:
        pieces.insert(0, f"<p>Part of incident {told(case.incident)}.</p>")
    for title, table in (("Indicators", case.intel), ("History", case.history)):
        if len(table):
            shown = plain_table(table, MOST_ITEMS)
            pieces.append(f"<details><summary>{title}</summary>{shown}</details>")
    return "".join(pieces)


def _of_rules(case: Case) -> str:
    rules = (f"{r.effect} {r.level}: {r.text}" for r in case.decision.rules)
    return _listed(f"Goes to {case.decision.level}, because", rules)


def _of_answers(answers: Iterable[Answer]) -> str:
    cells = []
    for answer in answers:
        facts = "; ".join(fact.text for fact in answer.facts[:MOST_FACTS])
        if len(answer.facts) > MOST_FACTS:
            facts += f"; and {len(answer.facts) - MOST_FACTS} more"
        title = TITLES.get(answer.name, answer.name)
        why = f'<div class="w">{told(facts, LONGEST_REASON)}</div>'
        cells.append([told(title), f"<strong>{told(answer.answer)}</strong>", why])
    return rows_of(cells, ("asked", "answer", "because"), "") if cells else ""


def _of_families(case: Case) -> str:
    bits = sorted(case.contributions.items(), key=lambda pair: -pair[1])
    shown = [(family, value) for family, value in bits if abs(value) >= 0.05]
    if not shown:
        return ""
    most = max(abs(value) for _, value in shown)
    cells = (
        [told(family), f"{bar(abs(value) / most, alert=value > 0)} {value:+.1f}"]
        for family, value in shown
    )
    return rows_of(cells, ("evidence", "bits of its leading flow"), "")


def _listed(title: str, texts: Iterable[str]) -> str:
    lines = list(texts)
    if not lines:
        return ""
    items = "".join(
        f"<li>{told(text, LONGEST_REASON)}</li>" for text in lines[:MOST_ITEMS]
    )
    more = len(lines) - MOST_ITEMS
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<p><strong>{told(title)}</strong></p><ul>{items}</ul>{rest}"


def _bits(case: Case, scale: float) -> str:
    bits, alert = float(case.row["suspicion"]), case.row["alert"] is True
    return f'<span class="o">{bar(bits / scale, alert=alert)} {bits:.1f}</span>'


def _time(seen: object) -> str:
    if not isinstance(seen, pd.Timestamp):
        return "?"
    return f'<span class="o">{seen:%Y-%m-%d %H:%M}</span>'


def _line(case: Case) -> str:
    row = case.row
    return printable(
        f"{row['rank']}  {case.decision.level}  {row['suspicion']:.1f} bits  "
        f"{row['local_ip']} → {row['place']}: {case.decision.text}"
    )
