"""A ticket in Markdown for each case: what an analyst decides by and hands over.

Every text that may hold names from the network goes through `exfilml.handover._markdown`
and stands behind words of ours, so that it can begin no list, heading or table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from exfilml.handover._markdown import bullets, code, fenced, link, table, text
from exfilml.handover._told import (
    PROTOCOLS,
    Given,
    deciding,
    flows_of,
    hidden_questions,
    known,
    made,
    moment,
    ports_of,
    records,
    row_of,
    seen,
)
from exfilml.triage.case import Answer, Case, Fact, Incident, Triage

MOST_FLOWS: Final = 20
"""Flows in the table of a ticket."""
MOST_PATHS: Final = 10
MOST_HOURS: Final = 48
_ASSET: Final = {
    "hostname": "Name",
    "owner": "Owner",
    "department": "Department",
    "role": "Role",
    "criticality": "Criticality",
    "inherited": "Taken over from a less specific entry",
    "source": "Said by",
}
_CONTENT: Final = frozenset({"encryption_signs", "nonstandard_encryption"})


def ticket(triage: Triage, given: Given) -> str:
    """Return an overview, the tickets, and the incidents that cases belong to."""
    parts = [_overview(triage)] if len(triage) > 1 else []
    parts += ["\n\n".join(_case(triage, case, given)) for case in triage]
    parts += [_incident(incident) for incident in triage.incidents]
    if not parts:
        parts = ["No case was handed over."]
    return "\n\n---\n\n".join(parts) + "\n"


def _overview(triage: Triage) -> str:
    """Return a line for each case, in the order of the tickets below."""
    rows = []
    for case in triage:
        row = row_of(case)
        rows.append(
            [
                code(case.name),
                text(case.decision.level),
                f"{row['suspicion']:.1f}" if "suspicion" in row else "—",
                code(row["local_ip"]),
                code(row.get("place", "")),
                _count(row.get("up_bytes")),
                ", ".join(text(t.id) for t in case.techniques[:1]) or "—",
                code(case.incident),
            ]
        )
    header = ("Case", "Decision", "Bits", "Host", "Place", "Sent", "Technique")
    return f"# {len(rows):,} cases\n\n" + table((*header, "Incident"), rows)


def _incident(incident: Incident) -> str:
    parts = [
        f"# Incident {text(incident.name)}",
        "Cases that probably belong to one event: "
        + ", ".join(code(name) for name in incident.cases)
        + ".",
    ]
    facts = [("Because", f) for f in incident.links] + [
        ("Scope", f) for f in incident.scope
    ]
    if facts:
        parts.append(bullets(f"**{word}:** {text(f.text)}" for word, f in facts))
    return "\n\n".join(parts)


def _case(triage: Triage, case: Case, given: Given) -> Iterator[str]:
    row = row_of(case)
    first, last = seen(case)
    where = f" to {text(row['place'])}" if "place" in row else ""
    yield f"# Case {text(case.name)}: {text(row['local_ip'])}{where}"
    marking = given.marking(case)
    about = {
        "Handling": text(f"TLP:{marking.upper()}") if marking else None,
        "Decision": f"**{text(case.decision.level)}**",
        "Incident": code(case.incident) if case.incident else None,
        "Seen": f"{_time(first)} to {_time(last)}",
        "Suspicion": f"{row['suspicion']:.1f} bits" if "suspicion" in row else None,
        "Sent": _bytes(row.get("up_bytes")),
        "Received": _bytes(row.get("down_bytes")),
        "Flows": f"{row['flows']:,}" if "flows" in row else None,
        "Why it ranks": text(row["reasons"]) if "reasons" in row else None,
        "Not visible": text(row["not_visible"]) if "not_visible" in row else None,
    }
    yield bullets(f"**{n}:** {told}" for n, told in about.items() if told is not None)
    yield "## Decision"
    yield bullets(
        f"**{text(r.effect)} {text(r.level)}** by {code(r.name)}: {text(r.text)}"
        for r in case.decision.rules
    )
    yield "## Key indicators"
    yield _answers(case.indicators)
    yield "## Questions"
    yield _answers(case.questions)
    yield "## Against exfiltration"
    yield _facts(case.against, "Nothing that was visible argues against it.")
    yield "## Scope"
    yield _facts(case.scope, "Nothing is known beyond the flows below.")
    yield "## Flows"
    yield from _flows(case)
    yield "## Host"
    yield _host(case)
    yield "## Threat intelligence"
    yield _records(case.intel, "No indicator was met, or none was given.")
    yield "## History"
    yield _records(case.history, "Nothing is known, or no history was given.")
    yield "## Techniques"
    yield (
        bullets(
            f"{link(t.id, t.url)} {text(t.name)}: {text(t.reason)}"
            for t in case.techniques
        )
        or "No technique was named."
    )
    yield "## Next steps"
    yield from _steps(case)
    yield "## For legal and compliance"
    yield _legal(case, given)
    yield "## For the response plan"
    yield _lessons(triage, case)


def _answers(answers: tuple[Answer, ...]) -> str:
    """Return questions with their answers, and below each why."""
    lines = []
    for answer in answers:
        lines.append(f"**{text(answer.answer)}**: {text(answer.question)}")
        lines += [f"  - because {text(fact.text)}" for fact in answer.facts]
    return "\n".join(line if line[0] == " " else f"- {line}" for line in lines)


def _facts(facts: tuple[Fact, ...], none: str) -> str:
    return bullets(f"{code(fact.name)}: {text(fact.text)}" for fact in facts) or none


def _flows(case: Case) -> Iterator[str]:
    flows = flows_of(case, MOST_FLOWS)
    rows = [
        [
            text(_time(moment(flow["start"]))),
            code(_end(flow, "src")),
            code(_end(flow, "dst")),
            text(PROTOCOLS.get(flow["protocol"], str(flow["protocol"]))),
            code(flow.get("server_name", "")),
            _count(flow.get("up_bytes")),
            _count(flow.get("down_bytes")),
            {True: "yes", False: "no"}.get(flow.get("concealed", ""), "—"),
            code(flow["flow"]),
        ]
        for flow in flows
    ]
    header = ("Start", "From", "To", "Protocol", "Name", "Sent", "Received")
    yield table((*header, "Concealed", "Flow"), rows)
    if len(flows) < len(case.flows):
        yield (
            f"These are the {len(flows)} largest uploads of {len(case.flows):,} flows, "
            "in order of time. Bytes are IP bytes."
        )


def _end(flow: dict[str, Any], side: str) -> str:
    port = ports_of(flow).get(f"{side}_port")
    address = flow[f"{side}_ip"]
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _host(case: Case) -> str:
    asset = known(case.asset)
    if not asset.get("known", bool(asset)):
        return "The assets given do not name this host, or none were given."
    named = [(label, asset[n]) for n, label in _ASSET.items() if n in asset]
    return bullets(f"**{label}:** {text(str(value))}" for label, value in named)


def _records(found: pd.DataFrame, none: str) -> str:
    """Return a table of the columns that say something."""
    rows = records(found)
    columns = [str(c) for c in found.columns if any(str(c) in row for row in rows)]
    if not columns:
        return none
    cells = [[code(row.get(column, "")) for column in columns] for row in rows]
    return table(map(text, columns), cells)


def _steps(case: Case) -> Iterator[str]:
    if not case.next_steps:
        yield "No step was named."
    for number, step in enumerate(case.next_steps, 1):
        yield f"Step {number}: {text(step.text)}"
        if step.command:
            yield fenced(step.command)


def _legal(case: Case, given: Given) -> str:
    """Say what a notification asks for, and what is not known of it."""
    row, asset = row_of(case), known(case.asset)
    first, last = seen(case)
    remotes = sorted({str(f["remote_ip"]) for f in flows_of(case) if "remote_ip" in f})
    facts = [
        f
        for a in (*case.indicators, *case.questions)
        if a.name in _CONTENT
        for f in a.facts
    ]
    content = list(dict.fromkeys(fact.text for fact in facts))
    hidden = list(filter(None, [row.get("not_visible"), *hidden_questions(case)]))
    files = [f"{code(n)} SHA-256 {code(d)}" for n, d in sorted(given.digests.items())]
    told = {
        "Host": code(asset.get("hostname", row["local_ip"])),
        "Owner": text(asset["owner"]) if "owner" in asset else "not known",
        "Department": text(asset["department"])
        if "department" in asset
        else "not known",
        "Period": f"{_time(first)} to {_time(last)}",
        "Sent": _bytes(row.get("up_bytes")) or "not known",
        "Recipient": f"{code(row.get('place', row['dst_ip']))}, "
        f"addresses {', '.join(map(code, remotes))}",
        "Data paths": _paths(case),
        "Extent": "; ".join(text(fact.text) for fact in case.scope) or "not known",
        "Known of the content": "; ".join(map(text, content)) or "nothing",
        "Not known of the content": "flows do not show which data these were, or "
        "whether personal data are among them; ask the owner of the host",
        "Not visible": "; ".join(map(text, hidden)) or "nothing of what was asked",
        "Integrity": "; ".join(files) or "no digest of the captures or logs was given",
    }
    return bullets(f"**{name}:** {value}" for name, value in told.items())


def _paths(case: Case) -> str:
    """Name the services and directions of a case, the most frequent first."""
    ends = case.flows[["service", "direction"]].astype("str").fillna("—")
    counts = Counter(zip(ends["service"], ends["direction"], strict=True))
    ways = sorted(counts.items(), key=lambda way: (-way[1], way[0]))
    told = [
        f"{code(service)} {text(direction)} ({n:,} flow{'s' * (n > 1)})"
        for (service, direction), n in ways[:MOST_PATHS]
    ]
    if len(ways) > MOST_PATHS:
        told.append(f"and {len(ways) - MOST_PATHS:,} more")
    return ", ".join(told)


def _lessons(triage: Triage, case: Case) -> str:
    first, _ = seen(case)
    hours = (made(triage, case) - first).total_seconds() / 3600
    hidden = hidden_questions(case)
    told = {
        "From the first flow to this triage": f"{hours:,.1f} hours"
        if hours < MOST_HOURS
        else f"{hours / 24:,.1f} days",
        "Rule that decided": code(deciding(case).name),
        "Techniques to plan for": ", ".join(text(t.id) for t in case.techniques),
        "Questions that could not be answered here": "; ".join(map(text, hidden)),
        "What argued against it": "; ".join(text(f.text) for f in case.against),
    }
    return bullets(f"**{name}:** {value}" for name, value in told.items() if value)


def _time(time: pd.Timestamp) -> str:
    return f"{time.tz_convert('UTC'):%Y-%m-%d %H:%M:%S} UTC"


def _count(number: int | None) -> str:
    return "—" if number is None else f"{number:,}"


def _bytes(number: int | None) -> str | None:
    return None if number is None else f"{number:,} IP bytes"
