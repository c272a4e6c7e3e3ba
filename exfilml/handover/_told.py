"""A case in the values that every format shares: plain, and without what is missing.

What was not seen is left out, so that no format says "null" or 0 for it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from exfilml.exceptions import OptionError
from exfilml.triage._claims import TLP, strictest, tlp_of
from exfilml.triage.case import NOT_VISIBLE, Case, Fact, Rule, Triage, plain

MOST_FLOWS: Final = 50
"""Flows that are told one by one; those with the largest uploads of a case."""
PROTOCOLS: Final = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
}
WITH_PORTS: Final = frozenset({6, 17, 132})

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "exfilml")
# Halves of pairs, which no file can hold.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_JA4: Final = re.compile(r"[tqd]\w{9}_[0-9a-f]{12}_[0-9a-f]{12}")
_MD5: Final = re.compile("[0-9a-f]{32}")
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Given:
    """What is said of a hand-over beside its triage.

    Attributes
    ----------
    tlp
        The label that was asked for; `marking` may be stricter.
    digests
        SHA-256 of the files that were read, by name.
    """

    tlp: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tlp is not None and tlp_of(self.tlp) is None:
            raise OptionError(
                f"tlp {self.tlp!r}: expected one of " + ", ".join(TLP) + "."
            )
        for name, digest in self.digests.items():
            if not _SHA256.fullmatch(digest):
                raise OptionError(
                    f"digest of {name}: got {digest!r}, expected SHA-256 in 64 "
                    "lower-case hexadecimal digits."
                )

    def marking(self, *cases: Case) -> str | None:
        """Return the strictest label of what was asked for and of indicators met."""
        labels = [tlp_of(self.tlp)] if self.tlp is not None else []
        for case in cases:
            if "tlp" in case.intel:
                labels += [tlp_of(t) for t in case.intel["tlp"] if isinstance(t, str)]
        return strictest([label for label in labels if label is not None])


def known(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says in values that JSON knows; bytes are whole."""
    told = {str(name): plain(value) for name, value in record.items()}
    return {
        name: int(v) if name.endswith("_bytes") and isinstance(v, float) else v
        for name, v in told.items()
        if v is not None and v != ""
    }


def present(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without what is missing or empty."""
    return {n: v for n, v in record.items() if v is not None and v not in ("", [], {})}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what the rows of a table say."""
    columns = [column.tolist() for _, column in table.items()]
    return [
        known(dict(zip(table.columns, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]


def flows_of(case: Case, most: int = MOST_FLOWS) -> list[dict[str, Any]]:
    """Return what is known of the flows with the largest uploads, in order of time."""
    largest = case.flows["up_bytes"].astype("float64").fillna(-1.0).to_numpy()
    chosen = sorted((-largest).argsort(kind="stable")[:most].tolist())
    told = case.flows.iloc[chosen]
    labels = map(plain, told.index.tolist())
    return [
        {**_without_no_ports(flow), "flow": label}
        for flow, label in zip(records(told[list(_FLOW)]), labels, strict=True)
    ]


def row_of(case: Case) -> dict[str, Any]:
    """Return what is known of a case in its ranking."""
    return _without_no_ports(known(case.row))


def _without_no_ports(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out the 0 that stands for the ports of protocols without any."""
    if record.get("protocol") in WITH_PORTS:
        return record
    return {n: v for n, v in record.items() if n not in {"src_port", "dst_port"}}


_FLOW: Final = (
    *("start", "duration_s", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"),
    *("app", "server_name", "fingerprint", "user_agent", "uid", "local_ip"),
    *("remote_ip", "direction", "up_bytes", "down_bytes", "suspicion", "concealed"),
    "hidden_bytes",
)


def ports_of(flow: Mapping[str, Any]) -> dict[str, int]:
    """Return the ports of a flow or a row, where its protocol has any."""
    if flow.get("protocol") not in WITH_PORTS:
        return {}
    return {n: int(flow[n]) for n in ("src_port", "dst_port") if n in flow}


def sent(flow: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes that each end sent, by ``src`` and ``dst``."""
    sides = ("src", "dst") if flow.get("local_ip") == flow["src_ip"] else ("dst", "src")
    up_down = zip(sides, ("up_bytes", "down_bytes"), strict=True)
    return {side: int(flow[name]) for side, name in up_down if name in flow}


def moment(value: Any) -> pd.Timestamp:
    """Return a time of `known` values."""
    time = pd.Timestamp(value)
    return time if time.tzinfo is not None else time.tz_localize("UTC")


def made(triage: Triage, case: Case) -> pd.Timestamp:
    """Return when the triage was made; of one that does not say, the case's end."""
    about, row = known(triage.about), row_of(case)
    return moment(about.get("made", row["last_seen"]))


def seen(case: Case) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return when the first flow of a case began and the last one ended."""
    row = row_of(case)
    return moment(row["first_seen"]), moment(row["last_seen"])


def milliseconds(time: pd.Timestamp) -> int:
    """Return milliseconds since 1970."""
    return int(time.value // 1_000_000)


def identity(*parts: object) -> uuid.UUID:
    """Return the UUID of what the parts name: the same from run to run."""
    return uuid.uuid5(_NAMESPACE, "\0".join(map(str, parts)))


def title(case: Case) -> str:
    """Say in a line what a case is."""
    row = row_of(case)
    where = f" to {row['place']}" if "place" in row else ""
    return f"Possible exfiltration from {row['local_ip']}{where}"


def numbers(fact: Fact) -> dict[str, Any]:
    """Return a fact without its flows."""
    told = {"name": fact.name, "text": fact.text, "source": fact.source}
    figures = known(fact.numbers)
    return {**told, **({"numbers": figures} if figures else {})}


def facts_of(case: Case) -> list[Fact]:
    """Return all that is stated of a case."""
    asked = (*case.indicators, *case.questions)
    return [*(f for a in asked for f in a.facts), *case.against, *case.scope]


def deciding(case: Case) -> Rule:
    """Return the rule that set the level, as `Decision.text` tells it."""
    rules = case.decision.rules
    since = len(rules) - 1
    while since > 0 and rules[since - 1].level == case.decision.level:
        since -= 1
    return rules[since]


def only(triage: Triage, names: str | Iterable[str]) -> Triage:
    """Return a triage of some of its cases, with the incidents that they belong to.

    Parameters
    ----------
    triage
        The cases.
    names
        The name of one, or of several.

    Raises
    ------
    KeyError
        If no case has one of the names.
    """
    wanted = [names] if isinstance(names, str) else dict.fromkeys(names)
    cases = tuple(triage[name] for name in wanted)
    chosen = {case.name for case in cases}
    incidents = tuple(i for i in triage.incidents if chosen.intersection(i.cases))
    return Triage(cases, incidents, triage.about)


def hidden_questions(case: Case) -> list[str]:
    """Return the questions that could not be answered."""
    asked = (*case.indicators, *case.questions)
    return [a.question for a in asked if a.answer == NOT_VISIBLE]


def is_ja4(fingerprint: str) -> bool:
    """Say whether a client's fingerprint is JA4, not JA3 or another hash."""
    return _JA4.fullmatch(fingerprint) is not None


def is_ja3(fingerprint: str) -> bool:
    """Say whether a client's fingerprint has the form of JA3, an MD5."""
    return _MD5.fullmatch(fingerprint) is not None


def json_line(record: Mapping[str, Any]) -> str:
    """Write a record on one line of ASCII."""
    return json.dumps(whole(record), allow_nan=False)


def whole(value: Any) -> Any:
    """Return a value whose texts any reader of JSON takes."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {whole(name): whole(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [whole(part) for part in value]
    return value
