"""Rules of Sigma for the pattern of a case: firewall, DNS and proxy logs.

Fields are those of Sigma's taxonomy, which names logs by category and leaves to each
site how its products spell them. Sources: https://github.com/SigmaHQ/sigma-specification
(rules 2.1.0 and the taxonomy appendix). Ids are UUIDs of version 5 from case and
category, so that a rule keeps its id. Rules about what others need ask for the case's
own host too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from exfilml.containment._draft import ATTACK, Draft, stamp
from exfilml.containment._targets import Target
from exfilml.containment._texts import quoted_yaml

_SPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, ATTACK)
_LEVELS: Final = {"L1": "medium", "T2": "high", "incident": "critical"}
_MOST_AGAINST: Final = 10


@dataclass(frozen=True)
class _Rule:
    """What differs between the rules of a case.

    Attributes
    ----------
    key
        Tells it from the others.
    category
        Of Sigma's log sources.
    what
        End of the title.
    selections
        Lists of alternatives by field, by name of the selection.
    condition
        Over the names of selections.
    """

    key: str
    category: str
    what: str
    selections: dict[str, dict[str, list[str]]]
    condition: str


def rules(draft: Draft) -> str:
    """Write the rules of a case; empty if there is nothing to look for."""
    found = list(_rules(draft))
    if not found:
        return ""
    what = ["Finds the same pattern in logs; blocks nothing."]
    head = draft.header(what)
    return head + "---\n".join(_written(rule, draft) for rule in found)


def _rules(draft: Draft) -> Iterator[_Rule]:
    targets = draft.targets
    for shared in (False, True):
        addresses = [t.value for t in targets.only(names=False, shared=shared)]
        names = targets.only(names=True, shared=shared)
        mark = " shared" if shared else ""
        local = list(targets.hosts) if shared else []
        # A remote side that opened the connection is the source of its log lines.
        inbound = any(s.from_remote for s in targets.streams)
        outbound = any(not s.from_remote for s in targets.streams)
        ports = [s.port for s in targets.streams if not s.to_own]
        for is_there, way, theirs, ours in (
            (outbound, "to", "dst_ip", "src_ip"),
            (inbound, "from", "src_ip", "dst_ip"),
        ):
            if not addresses or not is_there:
                continue
            selection = {theirs: addresses}
            if ports and None not in ports:
                selection["dst_port"] = sorted({str(p) for p in ports}, key=int)
            if local:
                selection[ours] = local
            yield _Rule(
                f"firewall {theirs}{mark}",
                "firewall",
                f"connection {way} {addresses[0]}{_and_more(addresses)}",
                {"selection": selection},
                "selection",
            )
        if names:
            yield _named("dns", "query", names, mark, {"src_ip": local})
            web = tuple(t for t in names if not t.is_mail)
            if web:
                yield _named("proxy", "cs-host", web, mark, {"c-ip": local})


def _named(
    category: str,
    column: str,
    names: tuple[Target, ...],
    mark: str,
    local: dict[str, list[str]],
) -> _Rule:
    selections = {"name": {column: [t.value for t in names]}}
    below = [f".{t.value}" for t in names if t.below]
    if below:
        selections["below"] = {f"{column}|endswith": below}
    condition = "1 of them" if below else "name"
    host = {field: values for field, values in local.items() if values}
    if host:
        condition = f"({' or '.join(selections)}) and host"
        selections["host"] = host
    what = f"{category} asks for {names[0].value}{_and_more(names)}"
    return _Rule(f"{category}{mark}", category, what, selections, condition)


def _and_more(found: Sequence[object]) -> str:
    return f" and {len(found) - 1} more" if len(found) > 1 else ""


def _written(rule: _Rule, draft: Draft) -> str:
    case = draft.targets.case
    against = [fact.text for fact in case.against[:_MOST_AGAINST]]
    falsepositives = against or ["None known to the triage of the case"]
    references = dict.fromkeys([draft.url, ATTACK])
    title = f"Exfiltration Case {draft.case}: {rule.what}"
    description = (
        f"DRAFT for review of exfilml's case {draft.case}, level {draft.level}, "
        f"expires {stamp(draft.expires)}. For others: {draft.targets.others}."
    )
    lines = [
        f"title: {quoted_yaml(title)}",
        f"id: {uuid.uuid5(_SPACE, f'{draft.case} {rule.key}')}",
        "status: experimental",
        f"description: {quoted_yaml(description)}",
        "references:",
        *_items(list(references)),
        "author: exfilml",
        f"date: {draft.at:%Y-%m-%d}",
        "tags:",
        "    - attack.exfiltration",
        *(f"    - attack.{i.lower()}" for i in _techniques(draft)),
        "logsource:",
        f"    category: {rule.category}",
        "detection:",
        *_detection(rule),
        f"    condition: {rule.condition}",
        "falsepositives:",
        *_items(falsepositives),
        f"level: {_LEVELS[draft.level]}",
    ]
    return "\n".join(lines) + "\n"


def _techniques(draft: Draft) -> list[str]:
    ids = [technique.id for technique in draft.targets.case.techniques]
    return list(dict.fromkeys(ids)) or [draft.technique]


def _items(texts: list[str], indent: str = "    ") -> list[str]:
    return [f"{indent}- {quoted_yaml(text)}" for text in texts]


def _detection(rule: _Rule) -> Iterator[str]:
    for name, fields in rule.selections.items():
        yield f"    {name}:"
        for field, values in fields.items():
            yield f"        {field}:"
            if field.endswith("_port"):
                yield from (f"            - {value}" for value in values)
            else:
                yield from _items(values, " " * 12)
