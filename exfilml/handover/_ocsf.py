"""OCSF Detection Finding, one line for each case.

Source: OCSF schema 1.5.0, class 2004 and its objects,
https://schema.ocsf.io/1.5.0/classes/detection_finding.

**Severity and risk** are those of the decision. **Confidence** is the share of the
playbook's indicators and questions that were answered yes, in percent; what was not
visible adds nothing. Answers and techniques with their reasons stand in
``enrichments``, because ``attacks`` has no place for a reason.

One file because it is the map of one class of that schema.
"""

from __future__ import annotations

from typing import Any, Final

from exfilml.handover._attack import VERSION as ATTACK_VERSION
from exfilml.handover._attack import Named, is_part, parent_of, tactic_of
from exfilml.handover._told import (
    PROTOCOLS,
    Given,
    facts_of,
    flows_of,
    identity,
    is_ja4,
    json_line,
    known,
    made,
    milliseconds,
    numbers,
    ports_of,
    present,
    records,
    row_of,
    seen,
    sent,
    title,
)
from exfilml.triage.case import LEVELS, YES, Answer, Case, Technique, Triage

VERSION: Final = "1.5.0"
_SEVERITIES: Final = ("Informational", "Low", "Medium", "High", "Critical")
_RISKS: Final = ("Info", "Low", "Medium", "High", "Critical")
_CONFIDENCES: Final = ("Low", "Medium", "High")
_DIRECTIONS: Final = {
    "inbound": (1, "Inbound"),
    "outbound": (2, "Outbound"),
    "internal": (3, "Lateral"),
    "external": (99, "external"),
}
_FIGURES: Final = (
    *("start", "duration_s", "app", "fingerprint", "up_bytes", "down_bytes"),
    *("suspicion", "concealed", "hidden_bytes"),
)
_OBSERVED: Final = (
    (2, "evidences[].src_endpoint.ip", "IP Address", "src_ip"),
    (2, "evidences[].dst_endpoint.ip", "IP Address", "dst_ip"),
    (1, "evidences[].dst_endpoint.hostname", "Hostname", "server_name"),
    (16, "evidences[].http_request.user_agent", "HTTP User-Agent", "user_agent"),
)
# Of the row, what has a place of its own.
_PLACED: Final = ("case", "alert", "first_seen", "last_seen", "flows")


def text(triage: Triage, given: Given) -> str:
    """Return the findings."""
    return "".join(json_line(_finding(triage, c, given)) + "\n" for c in triage)


def _finding(triage: Triage, case: Case, given: Given) -> dict[str, Any]:
    row = row_of(case)
    time, (first, last) = made(triage, case), seen(case)
    level = LEVELS.index(case.decision.level)
    asked = (*case.indicators, *case.questions)
    score = round(100 * sum(a.answer == YES for a in asked) / max(len(asked), 1))
    confidence = min(score // 34, 2)
    evidences = [_evidence(flow) for flow in flows_of(case)]
    return present(
        {
            "activity_id": 1,
            "activity_name": "Create",
            "category_uid": 2,
            "category_name": "Findings",
            "class_uid": 2004,
            "class_name": "Detection Finding",
            "type_uid": 200401,
            "type_name": "Detection Finding: Create",
            "time": milliseconds(time),
            "start_time": milliseconds(first),
            "end_time": milliseconds(last),
            "severity_id": level + 1,
            "severity": _SEVERITIES[level],
            "status_id": 1,
            "status": "New",
            "status_detail": case.decision.text,
            "is_alert": bool(row.get("alert", False)),
            "confidence_score": score,
            "confidence_id": confidence + 1,
            "confidence": _CONFIDENCES[confidence],
            "risk_level_id": level,
            "risk_level": _RISKS[level],
            "risk_score": round(row["suspicion"]) if "suspicion" in row else None,
            "risk_details": case.decision.text,
            "count": int(row["flows"]),
            "message": f"{title(case)}: {case.decision.text}",
            "metadata": _metadata(triage, case, given),
            "finding_info": _info(triage, case),
            "evidences": evidences,
            "resources": [_resource(case)],
            "observables": _observables(case),
            "enrichments": [
                *(_answer(a) for a in asked),
                *(_reason(t) for t in case.techniques),
                *(_match(m) for m in records(case.intel)),
            ],
            "remediation": _remediation(case),
            "unmapped": present(
                {
                    **{n: v for n, v in row.items() if n not in _PLACED},
                    "contributions": known(case.contributions),
                    "rules": [dict(vars(rule)) for rule in case.decision.rules],
                    "against": [numbers(fact) for fact in case.against],
                    "scope": [numbers(fact) for fact in case.scope],
                    "evidences_left_out": len(case.flows) - len(evidences) or None,
                }
            ),
        }
    )


def _product(triage: Triage) -> dict[str, Any]:
    version = known(triage.about).get("version")
    return present({"name": "exfilml", "vendor_name": "exfilml", "version": version})


def _metadata(triage: Triage, case: Case, given: Given) -> dict[str, Any]:
    marking = given.marking(case)
    return present(
        {
            "version": VERSION,
            "product": _product(triage),
            "uid": str(identity("ocsf", case.name, made(triage, case))),
            "correlation_uid": case.incident,
            "labels": [f"TLP:{marking.upper()}"] if marking else [],
        }
    )


def _info(triage: Triage, case: Case) -> dict[str, Any]:
    first, last = seen(case)
    return present(
        {
            "uid": case.name,
            "title": title(case),
            "desc": row_of(case).get("reasons"),
            "created_time": milliseconds(made(triage, case)),
            "first_seen_time": milliseconds(first),
            "last_seen_time": milliseconds(last),
            "types": [case.decision.level],
            "data_sources": sorted({fact.source for fact in facts_of(case)}),
            "analytic": present(
                {
                    "name": "exfilml",
                    "type_id": 4,
                    "type": "Learning (ML/DL)",
                    "algorithm": "isolation forest, conformal calibration",
                    "version": _product(triage).get("version"),
                }
            ),
            "attacks": [_attack(technique) for technique in case.techniques],
        }
    )


def _attack(technique: Technique) -> dict[str, Any]:
    parent, tactic = parent_of(technique), tactic_of(technique)
    part = {"uid": technique.id, "name": technique.name, "src_url": technique.url}
    return present(
        {
            "version": ATTACK_VERSION,
            "tactic": _named(tactic) if tactic else None,
            "technique": _named(parent),
            "sub_technique": part if is_part(technique) else None,
        }
    )


def _named(one: Named) -> dict[str, Any]:
    return present({"uid": one.id, "name": one.name, "src_url": one.url})


def _evidence(flow: dict[str, Any]) -> dict[str, Any]:
    ports, bytes_of = ports_of(flow), sent(flow)
    number = int(flow["protocol"])
    direction, told = _DIRECTIONS.get(flow.get("direction", ""), (0, "Unknown"))
    fingerprint = str(flow.get("fingerprint", ""))
    ja4 = {"type_id": 1, "type": "JA4", "value": fingerprint}
    agent = flow.get("user_agent")
    return present(
        {
            "name": f"flow {flow['flow']}",
            "src_endpoint": present(
                {"ip": flow["src_ip"], "port": ports.get("src_port")}
            ),
            "dst_endpoint": present(
                {
                    "ip": flow["dst_ip"],
                    "port": ports.get("dst_port"),
                    "hostname": flow.get("server_name"),
                }
            ),
            "connection_info": present(
                {
                    "uid": flow.get("uid"),
                    "protocol_num": number,
                    "protocol_name": PROTOCOLS.get(number),
                    "direction_id": direction,
                    "direction": told,
                }
            ),
            "http_request": {"user_agent": agent} if agent else None,
            "ja4_fingerprint_list": [ja4] if is_ja4(fingerprint) else [],
            "data": {
                **{f"{side}_bytes": n for side, n in bytes_of.items()},
                **{n: flow[n] for n in _FIGURES if n in flow},
            },
        }
    )


def _resource(case: Case) -> dict[str, Any]:
    asset = known(case.asset)
    owner, department = asset.get("owner"), asset.get("department")
    address = row_of(case)["local_ip"]
    return present(
        {
            "uid": address,
            "ip": address,
            "type": "host",
            "hostname": asset.get("hostname"),
            "owner": {"name": owner} if owner else None,
            "group": {"name": department} if department else None,
            "criticality": asset.get("criticality"),
            "labels": [asset["role"]] if "role" in asset else [],
        }
    )


def _observables(case: Case) -> list[dict[str, Any]]:
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for flow in flows_of(case):
        for kind, name, what, column in _OBSERVED:
            if column in flow:
                value = str(flow[column])
                about = {"name": name, "type_id": kind, "type": what, "value": value}
                found.setdefault((kind, value), about)
    return list(found.values())


def _answer(answer: Answer) -> dict[str, Any]:
    facts = [numbers(fact) for fact in answer.facts]
    return {
        "name": answer.name,
        "value": answer.answer,
        "type": "playbook",
        "provider": "exfilml",
        "desc": answer.text,
        "data": {"question": answer.question, "facts": facts},
    }


def _reason(technique: Technique) -> dict[str, Any]:
    return {
        "name": "technique",
        "value": technique.id,
        "type": "MITRE ATT&CK",
        "provider": "exfilml",
        "desc": technique.reason,
        "src_url": technique.url,
        "data": {"name": technique.name, "reason": technique.reason},
    }


def _match(match: dict[str, Any]) -> dict[str, Any]:
    return present(
        {
            "name": match.get("matched", "indicator"),
            "value": str(match.get("value", match.get("indicator", ""))),
            "type": "threat intelligence",
            "provider": match.get("source"),
            "desc": match.get("description"),
            "data": match,
        }
    )


def _remediation(case: Case) -> dict[str, Any] | None:
    if not case.next_steps:
        return None
    steps = [f"{step.text}\n{step.command}".strip() for step in case.next_steps]
    return present(
        {
            "desc": "\n".join(f"{n}. {step}" for n, step in enumerate(steps, 1)),
            "references": [technique.url for technique in case.techniques],
        }
    )
