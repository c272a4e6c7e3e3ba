"""One row for each case, with all answers; formulas are disarmed by `exfilml.export`."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from exfilml.export import to_text
from exfilml.handover._told import Given, known, records, row_of
from exfilml.triage.case import Case, Triage

_FIRST: Final = ("rank", "case", "level", "why", "incident")
_ASSET: Final = ("hostname", "owner", "department", "role", "criticality")


def text(triage: Triage, _given: Given) -> str:
    """Return the table."""
    rows = [_row(case) for case in triage]
    columns = list(dict.fromkeys([*_FIRST, *(name for row in rows for name in row)]))
    return to_text(pd.DataFrame(rows, columns=columns, dtype=object), "csv")


def _row(case: Case) -> dict[str, Any]:
    row, asset = row_of(case), known(case.asset)
    asked = (*case.indicators, *case.questions)
    return {
        **{name: row.get(name) for name in map(str, case.row)},
        "level": case.decision.level,
        "why": case.decision.text,
        "rules": _joined(
            f"{r.name} ({r.effect} {r.level}): {r.text}" for r in case.decision.rules
        ),
        "incident": case.incident or None,
        **{answer.name: answer.answer for answer in asked},
        **{f"{a.name}_why": _joined(f.text for f in a.facts) for a in asked},
        "against": _joined(fact.text for fact in case.against),
        "scope": _joined(fact.text for fact in case.scope),
        "techniques": _joined(technique.id for technique in case.techniques),
        "technique_reasons": _joined(f"{t.id}: {t.reason}" for t in case.techniques),
        **{f"host_{name}": asset.get(name) for name in _ASSET},
        "intel": _joined(_told(match) for match in records(case.intel)),
        "history": _joined(_told(entry) for entry in records(case.history)),
        "next_steps": _joined(f"{s.text} {s.command}".strip() for s in case.next_steps),
    }


def _joined(parts: Any) -> str | None:
    return "; ".join(parts) or None


def _told(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.items())
