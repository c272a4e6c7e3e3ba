"""STIX 2.1: what was observed, of what it is a sighting, and a note with the answers.

Source: STIX 2.1, https://docs.oasis-open.org/cti/stix/v2.1/stix-v2.1.html, and the
extension for TLP 2.0 markings,
https://github.com/oasis-open/cti-stix-common-objects.

Every case gives observed data (`network-traffic` with its addresses and names), an
indicator for the place that people are to review, with a sighting of it, sightings of
the indicators of the site's intelligence that it met, and a note. A case whose decision
is to close it gives no indicator: nobody should act on its place. Identifiers follow
from the triage, so that the same triage gives the same bundle, and a second import
changes nothing.

One file because the objects of a bundle refer to each other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from exfilml.exceptions import DependencyError
from exfilml.handover._told import (
    PROTOCOLS,
    Given,
    flows_of,
    identity,
    made,
    moment,
    ports_of,
    present,
    records,
    row_of,
    seen,
    sent,
    title,
    whole,
)
from exfilml.triage._stix import TLP_2_IDS
from exfilml.triage.case import Case, Incident, Technique, Triage

MISSING: Final = "STIX needs stix2; install it with pip install 'exfilml[triage]'."
MOST_FLOWS: Final = 20
"""Flows of a case in a bundle; consumers keep each as objects of their own."""
_TLP_EXTENSION: Final = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d"
_TLP_MADE: Final = "2022-10-01T00:00:00.000Z"
_INDICATOR: Final = re.compile(r"indicator--[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# RFC 1034 and 1123, and the underscore that service names have.
_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})+")
_MOST_OBSERVED: Final = 999_999_999
# Of what is the same in every bundle; an object's time of making never changes.
_ALWAYS: Final = pd.Timestamp("2026-01-01T00:00:00Z")


def text(triage: Triage, given: Given) -> str:
    """Return the bundle."""
    try:
        from stix2 import v21
    except ImportError as error:
        raise DependencyError(MISSING) from error
    bundle = _Bundle(v21, triage, given)
    for case in triage:
        bundle.add_case(case)
    for incident in triage.incidents:
        bundle.add_incident(incident)
    return bundle.text()


class _Bundle:
    """The objects of a triage, each once."""

    def __init__(self, v21: Any, triage: Triage, given: Given) -> None:
        self._v21 = v21
        self._triage = triage
        self._objects: dict[str, Any] = {}
        self._observed: dict[str, str] = {}
        self._marking: list[str] = []
        self._time: pd.Timestamp | None = None
        label = given.marking(*triage.cases)
        if label is not None:
            marking = f"marking-definition--{TLP_2_IDS[label]}"
            self._marking = [marking]
            self._objects[marking] = v21.MarkingDefinition(
                id=marking,
                created=_TLP_MADE,
                name=f"TLP:{label.upper()}",
                extensions={
                    _TLP_EXTENSION: {
                        "extension_type": "property-extension",
                        "tlp_2_0": label,
                    }
                },
            )
        self._me = ""

    def text(self) -> str:
        name = identity("bundle", *self._objects)
        objects = list(self._objects.values())
        bundle = self._v21.Bundle(id=f"bundle--{name}", objects=objects)
        return str(bundle.serialize(indent=1, ensure_ascii=True)) + "\n"

    def _observe(self, kind: Any, **properties: Any) -> str:
        """Add an observable; the standard says which identifier it has."""
        made_of = kind(object_marking_refs=self._marking, **present(properties))
        self._objects.setdefault(made_of.id, made_of)
        return str(made_of.id)

    def _say(
        self,
        kind: str,
        key: tuple[Any, ...],
        time: pd.Timestamp | None = None,
        **properties: Any,
    ) -> str:
        """Add an object of the domain, named by what it is about."""
        number = f"{kind}--{identity(kind, *key)}"
        make = getattr(self._v21, "".join(map(str.title, kind.split("-"))))
        if number not in self._objects:
            self._objects[number] = make(
                id=number,
                created=time or self._time,
                modified=time or self._time,
                # What is the same everywhere is nobody's secret.
                object_marking_refs=[] if time is not None else self._marking,
                **present(whole(properties)),
            )
        return number

    def add_case(self, case: Case) -> None:
        self._time = made(self._triage, case)
        self._me = self._say(
            "identity",
            ("exfilml",),
            _ALWAYS,
            name="exfilml",
            identity_class="system",
            description="Finds data theft in network flows.",
        )
        first, last = seen(case)
        key = (case.name, self._time)
        row = row_of(case)
        observed = self._say(
            "observed-data",
            key,
            created_by_ref=self._me,
            first_observed=first,
            last_observed=last,
            external_references=[{"source_name": "exfilml", "external_id": case.name}],
            number_observed=min(max(int(row["flows"]), 1), _MOST_OBSERVED),
            object_refs=list(dict.fromkeys(self._traffic(case))),
        )
        self._observed[case.name] = observed
        about = [observed]
        patterns = [self._technique(technique) for technique in case.techniques]
        pattern = _pattern_of_place(row)
        if case.decision.level != "close" and pattern:
            indicator = self._say(
                "indicator",
                key,
                created_by_ref=self._me,
                name=f"For review: {title(case)}",
                description=case.decision.text,
                indicator_types=["anomalous-activity"],
                pattern=pattern,
                pattern_type="stix",
                pattern_version="2.1",
                valid_from=first,
                labels=["for-review"],
            )
            about += [indicator, *self._seen(case, indicator)]
            for technique in patterns:
                self._say(
                    "relationship",
                    (indicator, technique),
                    created_by_ref=self._me,
                    relationship_type="indicates",
                    source_ref=indicator,
                    target_ref=technique,
                )
        for indicator in self._met(case):
            about += self._seen(case, indicator)
        self._say(
            "note",
            key,
            created_by_ref=self._me,
            abstract=f"{title(case)}: {case.decision.level}",
            content=_note(case),
            object_refs=about,
        )

    def add_incident(self, incident: Incident) -> None:
        refs = [
            self._observed[name] for name in incident.cases if name in self._observed
        ]
        if refs:
            why = [fact.text for fact in (*incident.links, *incident.scope)]
            self._say(
                "grouping",
                (incident.name, *refs),
                created_by_ref=self._me,
                name=f"Incident {incident.name}",
                description="\n".join(why),
                context="suspicious-activity",
                object_refs=refs,
            )

    def _seen(self, case: Case, indicator: str) -> Iterator[str]:
        first, last = seen(case)
        yield self._say(
            "sighting",
            (case.name, self._time, indicator),
            created_by_ref=self._me,
            first_seen=first,
            last_seen=last,
            count=min(len(case.flows), _MOST_OBSERVED),
            sighting_of_ref=indicator,
            observed_data_refs=[self._observed[case.name]],
            where_sighted_refs=[self._me],
        )

    def _traffic(self, case: Case) -> Iterator[str]:
        for flow in flows_of(case, MOST_FLOWS):
            source, target = (self._address(flow[f"{s}_ip"]) for s in ("src", "dst"))
            yield source
            yield target
            name = str(flow.get("server_name", ""))
            if _NAME.fullmatch(name) and _address(name) is None:
                yield self._observe(self._v21.DomainName, value=name)
            start, number = moment(flow["start"]), int(flow["protocol"])
            lasted = flow.get("duration_s")
            end = None if lasted is None else start + pd.Timedelta(lasted, "s")
            version = ipaddress.ip_address(flow["src_ip"]).version
            sides = sent(flow)
            yield self._observe(
                self._v21.NetworkTraffic,
                start=start,
                end=end,
                is_active=None if end is None else False,
                src_ref=source,
                dst_ref=target,
                **ports_of(flow),
                protocols=[f"ipv{version}", *_named(number)],
                src_byte_count=sides.get("src"),
                dst_byte_count=sides.get("dst"),
            )

    def _address(self, address: str) -> str:
        version = ipaddress.ip_address(address).version
        kind = self._v21.IPv4Address if version == 4 else self._v21.IPv6Address
        return self._observe(kind, value=address)

    def _technique(self, technique: Technique) -> str:
        reference = {"source_name": "mitre-attack", "external_id": technique.id}
        return self._say(
            "attack-pattern",
            (technique.id,),
            _ALWAYS,
            created_by_ref=self._me,
            name=technique.name,
            external_references=[reference | {"url": technique.url}],
        )

    def _met(self, case: Case) -> list[str]:
        """Return the indicators of intelligence that a case met, each once."""
        met = []
        for match in records(case.intel):
            reference = str(match.get("reference", ""))
            if _INDICATOR.fullmatch(reference):
                met.append(reference)
                continue
            pattern = _pattern_of_match(match)
            if pattern is None:
                continue
            source = str(match.get("source", "intelligence of the site"))
            since = match.get("valid_from")
            met.append(
                self._say(
                    "indicator",
                    ("intel", source, pattern, self._time),
                    created_by_ref=self._me,
                    name=str(match["indicator"]),
                    description=match.get(
                        "description", f"{match['kind']} of {source}"
                    ),
                    pattern=pattern,
                    pattern_type="stix",
                    pattern_version="2.1",
                    valid_from=moment(since) if since else seen(case)[0],
                    external_references=[
                        present(
                            {"source_name": source, "description": reference or source}
                        )
                    ],
                )
            )
        return list(dict.fromkeys(met))


def _named(protocol: int) -> list[str]:
    return [PROTOCOLS[protocol]] if protocol in PROTOCOLS else []


def _address(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _pattern(value: str) -> str | None:
    """Return the pattern of an address, a network or a name, `None` for all else."""
    network = _address(value)
    if network is not None:
        alone = network.num_addresses == 1
        told = str(network.network_address) if alone else str(network)
        relation = "=" if alone else "ISSUBSET"
        return f"[ipv{network.version}-addr:value {relation} '{told}']"
    if _NAME.fullmatch(value):
        return f"[domain-name:value = '{value.lower()}']"
    return None


def _pattern_of_place(row: dict[str, Any]) -> str | None:
    return _pattern(str(row.get("place", "")))


def _pattern_of_match(match: dict[str, Any]) -> str | None:
    # Of fingerprints and paths of URLs the standard's traffic knows nothing.
    if match.get("kind") not in {"address", "network", "domain"}:
        return None
    return _pattern(str(match.get("indicator", "")))


def _note(case: Case) -> str:
    row = row_of(case)
    parts = [f"Case {case.name}, decision {case.decision.text}"]
    parts += [f"{a.question} {a.text}" for a in (*case.indicators, *case.questions)]
    parts += [f"Against: {fact.text}" for fact in case.against]
    parts += [f"Scope: {fact.text}" for fact in case.scope]
    parts += [f"{t.id} ({t.name}): {t.reason}" for t in case.techniques]
    parts += [f"Next: {s.text} {s.command}".strip() for s in case.next_steps]
    if "not_visible" in row:
        parts.append(f"Not visible: {row['not_visible']}")
    if len(case.flows) > MOST_FLOWS:
        parts.append(
            f"Of {len(case.flows):,} flows, the {MOST_FLOWS} with the largest uploads "
            "are in this bundle."
        )
    return "\n".join(parts)
