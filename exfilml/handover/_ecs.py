"""Elastic Common Schema, one line for each case, as an alert.

Source: ECS 9.4, https://www.elastic.co/docs/reference/ecs. What the schema has no
field for stands below ``exfilml``, the proper name that ECS asks custom fields to
have; what is known of the host's owner stands in ``labels``.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from exfilml.handover._attack import is_part, parent_of, tactic_of
from exfilml.handover._told import (
    PROTOCOLS,
    Given,
    deciding,
    flows_of,
    identity,
    is_ja3,
    json_line,
    known,
    made,
    numbers,
    ports_of,
    present,
    records,
    row_of,
    seen,
    sent,
    title,
)
from exfilml.triage._claims import tlp_of
from exfilml.triage.case import LEVELS, Answer, Case, Technique, Triage, plain

VERSION: Final = "9.4.0"
_DIRECTIONS: Final = frozenset({"inbound", "outbound", "internal", "external"})
_LABELS: Final = ("owner", "department", "role", "criticality")
_FIELDS: Final = {
    "src_ip": "source.ip",
    "dst_ip": "destination.ip",
    "server_name": "destination.domain",
    "fingerprint": "tls.client.ja3",
}
_KINDS: Final = {"domain": "domain-name", "url": "url"}
# Of the row, what has a field of the schema.
_PLACED: Final = ("case", "local_ip", "src_ip", "dst_ip", "dst_port", "protocol")


def text(triage: Triage, given: Given) -> str:
    """Return the alerts."""
    return "".join(json_line(_alert(triage, case, given)) + "\n" for case in triage)


def _alert(triage: Triage, case: Case, given: Given) -> dict[str, Any]:
    row, asset = row_of(case), known(case.asset)
    time, (first, last) = made(triage, case), seen(case)
    flows = flows_of(case)
    agents = _all(flows, "user_agent")
    prints = [f for f in _all(flows, "fingerprint") if is_ja3(f)]
    rule = deciding(case)
    marking = given.marking(case)
    up_down = [row[n] for n in ("up_bytes", "down_bytes") if n in row]
    labels = {f"host_{name}": asset.get(name) for name in _LABELS}
    labels |= {"decision": case.decision.level, "incident": case.incident}
    return present(
        {
            "@timestamp": plain(time),
            "ecs": {"version": VERSION},
            "message": f"{title(case)}: {case.decision.text}",
            "tags": [f"TLP:{marking.upper()}"] if marking else [],
            "labels": present(labels),
            "event": present(
                {
                    "kind": "alert",
                    "category": ["intrusion_detection", "network"],
                    "type": ["info"],
                    "module": "exfilml",
                    "dataset": "exfilml.case",
                    "provider": "exfilml",
                    "id": str(identity("ecs", case.name, time)),
                    "code": case.name,
                    "created": plain(time),
                    "start": plain(first),
                    "end": plain(last),
                    "duration": int((last - first).value),
                    "severity": LEVELS.index(case.decision.level),
                    "risk_score": row.get("suspicion"),
                    "reason": case.decision.text,
                }
            ),
            "rule": present(
                {
                    "name": rule.name,
                    "description": rule.text,
                    "ruleset": "exfilml escalation",
                    "version": known(triage.about).get("version"),
                }
            ),
            **_ends(case, flows),
            "network": present(
                {
                    "direction": _direction(row),
                    "transport": PROTOCOLS.get(row.get("protocol", -1)),
                    "iana_number": str(row["protocol"]) if "protocol" in row else None,
                    "type": f"ipv{ipaddress.ip_address(row['src_ip']).version}",
                    "application": str(row.get("app", "")).lower(),
                    "bytes": int(sum(up_down)) if up_down else None,
                }
            ),
            "host": present(
                {
                    "ip": [row["local_ip"]],
                    "hostname": asset.get("hostname"),
                    "name": asset.get("hostname"),
                }
            ),
            "user_agent": present({"original": next(iter(agents), None)}),
            "tls": {"client": {"ja3": prints[0]}} if prints else None,
            "threat": _threat(case),
            "related": present(
                {
                    "ip": _all(flows, "src_ip", "dst_ip"),
                    "hosts": _all(flows, "server_name")
                    + ([asset["hostname"]] if "hostname" in asset else []),
                    "hash": prints,
                }
            ),
            "exfilml": _custom(case, row, flows),
        }
    )


def _ends(case: Case, flows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return source and destination: of a case, those of its largest upload."""
    row = row_of(case)
    sides = sent(row)
    # Of several flows, the initiator's ports are many.
    port = ports_of(flows[0]).get("src_port") if len(case.flows) == 1 else None
    return {
        "source": present(
            {
                "ip": row["src_ip"],
                "address": row["src_ip"],
                "port": port,
                "bytes": sides.get("src"),
            }
        ),
        "destination": present(
            {
                "ip": row["dst_ip"],
                "address": row["dst_ip"],
                "domain": row.get("server_name"),
                "port": ports_of(row).get("dst_port"),
                "bytes": sides.get("dst"),
            }
        ),
    }


def _direction(row: dict[str, Any]) -> str:
    direction = str(row.get("direction", ""))
    return direction if direction in _DIRECTIONS else "unknown"


def _all(flows: list[dict[str, Any]], *columns: str) -> list[str]:
    """Return the different values of columns, in the order in which they appear."""
    return list(dict.fromkeys(str(f[c]) for f in flows for c in columns if c in f))


def _threat(case: Case) -> dict[str, Any]:
    techniques = [_parent(t) for t in case.techniques]
    parts = [t for t in case.techniques if is_part(t)]
    tactics = [t for t in map(tactic_of, case.techniques) if t is not None]
    of_parts = {"id": [t.id for t in parts], "name": [t.name for t in parts]}
    of_parts["reference"] = [t.url for t in parts]
    return present(
        {
            "framework": "MITRE ATT&CK" if techniques else None,
            "tactic": _columns([(t.id, t.name, t.url) for t in tactics]),
            "technique": _columns(techniques)
            | ({"subtechnique": of_parts} if parts else {}),
            "enrichments": [_match(match) for match in records(case.intel)],
        }
    )


def _parent(technique: Technique) -> tuple[str, str | None, str]:
    parent = parent_of(technique)
    return parent.id, parent.name, parent.url


def _columns(named: list[tuple[str, str | None, str]]) -> dict[str, Any]:
    """Return identifiers, names and addresses as ECS lists them, each once."""
    once = list(dict.fromkeys(named))
    names = [name for _, name, _ in once if name is not None]
    return present(
        {
            "id": [number for number, _, _ in once],
            # Lists are read side by side.
            "name": names if len(names) == len(once) else [],
            "reference": [url for _, _, url in once],
        }
    )


def _match(match: dict[str, Any]) -> dict[str, Any]:
    value = str(match.get("indicator", match.get("value", "")))
    tlp, address = tlp_of(match.get("tlp")), _address(value)
    kind = (
        f"ipv{address.version}-addr" if address else _KINDS.get(match.get("kind", ""))
    )
    return {
        "indicator": present(
            {
                "name": value,
                "type": kind,
                "ip": str(address) if address else None,
                "port": match.get("port"),
                "provider": match.get("source"),
                "confidence": _confidence(match.get("confidence")),
                "description": match.get("description"),
                "reference": match.get("reference"),
                "marking": {"tlp": tlp.upper(), "tlp_version": "2.0"} if tlp else None,
            }
        ),
        "matched": present(
            {
                "atomic": match.get("value"),
                "field": _FIELDS.get(match.get("matched", "")),
                "type": "indicator_match_rule",
            }
        ),
    }


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _confidence(percent: float | None) -> str:
    """Return the word for a confidence from 0 to 100, by the scale that ECS cites.

    Source: STIX 2.1, appendix A, "None / Low / Med / High".
    """
    if percent is None:
        return "Not Specified"
    steps = ((1, "None"), (30, "Low"), (70, "Medium"))
    return next((word for below, word in steps if percent < below), "High")


def _custom(
    case: Case, row: dict[str, Any], flows: list[dict[str, Any]]
) -> dict[str, Any]:
    return present(
        {
            **{name: v for name, v in row.items() if name not in _PLACED},
            "indicators": {a.name: _answer(a) for a in case.indicators},
            "questions": {a.name: _answer(a) for a in case.questions},
            "against": [numbers(fact) for fact in case.against],
            "scope": [numbers(fact) for fact in case.scope],
            "rules": [dict(vars(rule)) for rule in case.decision.rules],
            "contributions": known(case.contributions),
            "techniques": [{"id": t.id, "reason": t.reason} for t in case.techniques],
            "next_steps": [present(vars(step)) for step in case.next_steps],
            # `flows` is their number already.
            "flow_table": flows,
        }
    )


def _answer(answer: Answer) -> dict[str, Any]:
    facts = [numbers(fact) for fact in answer.facts]
    return {"answer": answer.answer, "question": answer.question, "facts": facts}
