"""A triage as text: a line for each case, and the answers of those that matter most."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import click

from exfilml.export import printable
from exfilml.features import human_bytes
from exfilml.terminal._layout import laid_out, width_of_terminal
from exfilml.triage.case import LEVELS, Case, Triage

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER: Final = (
    "#",
    "case",
    "goes to",
    "bits",
    "local",
    "place",
    "service",
    "up",
    "as",
)
LONGEST_PLACE: Final = 32
LABEL: Final = 16
MOST_LINKS: Final = 2
# Nobody reads further at a terminal.
MOST_CARDS: Final = 20
_NAMES: Final = {
    "external_port": "odd port",
    "encryption_signs": "encryption",
    "volume_rise": "volume rise",
    "unexpected_transfer": "unexpected",
    "nonstandard_encryption": "non-standard",
    "threat_intelligence": "intelligence",
}


def triage_text(triage: Triage, only: str | None = None) -> str:
    """Lay out a triage.

    Parameters
    ----------
    triage
        The cases.
    only
        Name of the one case to show; `None` for a line for each, and the answers of
        those that go to T2 or to the incident response.
    """
    if only is not None:
        return "\n".join(_card(triage[only])) + "\n"
    if len(triage) == 0:
        return "no cases\n"
    lines = laid_out(
        HEADER, [_facts(case) for case in triage], right={"#", "bits", "up"}
    )
    for case, at in zip(triage, range(1, len(lines)), strict=True):
        lines[at] = click.style(lines[at], bold=_is_urgent(case))
    for incident in triage.incidents:
        names = ", ".join(incident.cases)
        lines += ["", *_wrapped(f"incident {incident.name}: {names}")]
        # The links and the first facts say what it is; a hand-over holds them all.
        lines += _under("", (fact.text for fact in incident.links[:MOST_LINKS]))
        lines += _under("", (fact.text for fact in incident.scope[:MOST_LINKS]))
    urgent = list(filter(_is_urgent, triage))
    for case in urgent[:MOST_CARDS]:
        lines += ["", *_card(case)]
    if len(urgent) > MOST_CARDS:
        more = f"{len(urgent) - MOST_CARDS:,} more cases go to T2 or higher: "
        lines += ["", more + "--case NAME shows one, --out FILE.html all"]
    return "\n".join(lines) + "\n"


def _is_urgent(case: Case) -> bool:
    return LEVELS.index(case.decision.level) >= LEVELS.index("T2")


def _facts(case: Case) -> tuple[str, ...]:
    place = printable(str(case.row["place"]))
    if len(place) > LONGEST_PLACE:
        place = place[: LONGEST_PLACE - 1] + "…"
    technique = case.techniques[0].id if case.techniques else ""
    return (
        str(case.row["rank"]),
        case.name,
        case.decision.level,
        f"{case.row['suspicion']:.1f}",
        printable(str(case.row["local_ip"])),
        place,
        _service(case),
        human_bytes(case.row["up_bytes"]),
        technique,
    )


def _service(case: Case) -> str:
    names = case.flows["service"].dropna().unique().tolist()
    return printable(str(names[0])) if len(names) == 1 else "several"


def _card(case: Case) -> list[str]:
    """All that was answered about a case."""
    row = case.row
    head = (
        f"case {case.name}: {row['local_ip']} → {row['place']}, {_service(case)}, "
        f"{human_bytes(row['up_bytes'])} up in {row['flows']:,} flow"
        f"{'s' * (row['flows'] != 1)}, "
        f"{row['first_seen']:%Y-%m-%d %H:%M} UTC"
    )
    lines = [click.style(printable(head), bold=True)]
    lines += _under("goes to", [case.decision.text])
    later = [
        rule for rule in case.decision.rules if rule.text not in case.decision.text
    ]
    lines += _under("rules", (f"{rule.name}: {rule.text}" for rule in later))
    lines += _under("host", [_asset(case)])
    for answer in (*case.indicators, *case.questions):
        lines += _under(_NAMES[answer.name], [answer.text])
    lines += _under("against", (fact.text for fact in case.against))
    lines += _under("scope", (fact.text for fact in case.scope))
    lines += _under(
        "technique", (f"{t.id} {t.name}: {t.reason}" for t in case.techniques)
    )
    for step in case.next_steps:
        lines += _under("next", [step.text])
        if step.command:
            # A command that is broken over lines could not be copied.
            lines.append(f"{'':{LABEL}}$ {printable(step.command)}")
    return lines


def _asset(case: Case) -> str:
    if not case.asset:
        return "no assets were given (--assets)"
    if not case.asset.get("known"):
        return f"{case.row['local_ip']} is in no asset list: who owns it is unknown"
    named = ("hostname", "owner", "department", "role", "criticality")
    parts = [f"{name} {case.asset[name]}" for name in named if case.asset.get(name)]
    return ", ".join(parts) or "known, without owner or role"


def _under(label: str, texts: Iterable[str]) -> list[str]:
    lines = []
    for text in texts:
        first = f"  {label}".ljust(LABEL)
        lines += _wrapped(text, first, " " * LABEL)
        label = ""
    return lines


def _wrapped(text: str, first: str = "", rest: str = "  ") -> list[str]:
    return textwrap.wrap(
        printable(text),
        width_of_terminal(),
        initial_indent=first,
        subsequent_indent=rest,
    )
