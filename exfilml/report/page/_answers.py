"""What the page says of a case whose playbook was answered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from exfilml.report.page._wording import (
    LONGEST_NAME,
    cell,
    is_missing,
    name,
    plural,
    sentence,
)

if TYPE_CHECKING:
    from exfilml.triage.case import Answer, Case, Fact, Triage

MOST_ROWS: Final = 8
MOST_INCIDENTS: Final = 20
MOST_TOGETHER: Final = 12
MOST_COLUMNS: Final = 8
# Facts to read at once, and to open.
FIRST_FACTS: Final = 3
MOST_FACTS: Final = 15

UNANSWERED: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("level", "decision", "incident"), ""),
    **dict.fromkeys(("rules", "answers", "techniques", "steps", "asset"), ()),
    **dict.fromkeys(("against", "scope", "intel", "history")),
}


def answered(case: Case) -> dict[str, Any]:
    """Return what was answered about a case."""
    return {
        "level": case.decision.level,
        "decision": _deciding(case),
        "rules": [
            {
                "name": name(rule.name),
                "effect": f"{rule.effect} → {rule.level}",
                "text": sentence(rule.text),
            }
            for rule in case.decision.rules
        ],
        "answers": [_answer(a) for a in (*case.indicators, *case.questions)],
        "against": facts(case.against) if case.against else None,
        "scope": facts(case.scope) if case.scope else None,
        "incident": name(case.incident, LONGEST_NAME),
        "techniques": [
            {
                "id": name(technique.id),
                "name": name(technique.name),
                "reason": sentence(technique.reason),
                # Only to where ATT&CK is; nothing else becomes a link.
                "url": technique.url
                if re.fullmatch(r"T\d{4}(\.\d{3})?", technique.id)
                else "",
            }
            for technique in case.techniques
        ],
        "steps": [
            {"text": sentence(step.text), "command": name(step.command, 2000)}
            for step in case.next_steps
        ],
        "asset": [
            (name(key), cell(value))
            for key, value in case.asset.items()
            if not is_missing(value) and cell(value)
        ],
        "intel": any_table(case.intel),
        "history": any_table(case.history),
    }


def _deciding(case: Case) -> str:
    """Return why the case has its level, without the level."""
    rules = [rule for rule in case.decision.rules if rule.level == case.decision.level]
    return sentence(rules[-1].text) if rules else ""


def _answer(answer: Answer) -> dict[str, Any]:
    known = {"yes": "yes", "no": "no", "not visible": "unseen"}
    return {
        "name": name(answer.name.replace("_", " ")),
        "question": sentence(answer.question),
        "answer": name(answer.answer, 40),
        "class": known.get(answer.answer, "unseen"),
        "facts": facts(answer.facts),
    }


def facts(given: Iterable[Fact]) -> dict[str, Any]:
    """Return facts to read at once, others to open, and how many are left out."""
    every = list(given)
    shown = [
        {"text": sentence(fact.text), "source": name(fact.source, 40)}
        for fact in every[:MOST_FACTS]
    ]
    # A single one takes no more room than the offer to open it.
    first = FIRST_FACTS if len(every) > FIRST_FACTS + 1 else len(every)
    return {
        "first": shown[:first],
        "rest": shown[first:],
        "left_out": max(len(every) - MOST_FACTS, 0),
    }


def any_table(table: pd.DataFrame) -> dict[str, Any] | None:
    """Lay out a table whose columns the page does not know."""
    if len(table) == 0:
        return None
    columns = [c for c in table.columns if table[c].notna().any()][:MOST_COLUMNS]
    rows = table[columns].head(MOST_ROWS).itertuples(index=False, name=None)
    return {
        "head": [name(str(c).replace("_", " ")) for c in columns],
        "rows": [[cell(value) for value in values] for values in rows],
        "more": max(len(table) - MOST_ROWS, 0),
        "total": plural(len(table), "row"),
    }


def incidents(triage: Triage, shown: int) -> list[dict[str, Any]]:
    """Return cases that belong together, with links to those of the first `shown`."""
    here = {case.name for case in triage.cases[:shown]}
    return [
        {
            "name": name(incident.name, LONGEST_NAME),
            "cases": [
                {
                    "name": name(case, LONGEST_NAME),
                    "href": f"case-{case}" if case in here else "",
                }
                for case in incident.cases[:MOST_TOGETHER]
            ],
            "more": max(len(incident.cases) - MOST_TOGETHER, 0),
            "facts": facts((*incident.scope, *incident.links)),
        }
        for incident in triage.incidents[:MOST_INCIDENTS]
    ]
