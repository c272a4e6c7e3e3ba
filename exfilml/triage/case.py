"""What a case is, once the playbook was answered: statements that name their rows.

A `Case` holds answers, each with the `Fact`s it rests on, and a fact names the flows
and the numbers behind it. `Case.evidence` lists them all, so that nothing is said that
cannot be looked up. What was not visible is answered so, never with "no".

One file because all of it is one shape, which is written as JSON and read again.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.export import printable

YES: Final = "yes"
NO: Final = "no"
NOT_VISIBLE: Final = "not visible"
MOST_TOLD: Final = 2
"""Reasons that a sentence names; `Case.evidence` has all."""
LEVELS: Final = ("close", "watch", "L1", "T2", "incident")
"""Whom a case goes to, from nobody to the incident response."""


@dataclass(frozen=True)
class Fact:
    """A statement, and what it rests on.

    Attributes
    ----------
    name
        What is stated, the same word in every case, such as ``payload.concealed``.
    text
        A sentence part for people. It may hold names that came from the network.
    numbers
        What the sentence says, by name; units are in the names.
    flows
        Labels of the flows it is about, in the index of the flows table; none where
        it rests on something else.
    source
        ``flows``, ``baseline``, ``policy``, ``intel``, ``assets``, ``history`` or
        ``feedback``.
    """

    name: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    flows: tuple[Any, ...] = ()
    source: str = "flows"


@dataclass(frozen=True)
class Answer:
    """A question of the playbook, answered.

    Attributes
    ----------
    name
        ``external_port``, ``encryption_signs``, ``volume_rise`` (key indicators);
        ``unexpected_transfer``, ``nonstandard_encryption``, ``threat_intelligence``
        (questions).
    question
        In words.
    answer
        ``yes``, ``no`` or ``not visible``.
    facts
        Why, the strongest first; at least one.
    """

    name: str
    question: str
    answer: str
    facts: tuple[Fact, ...]

    @property
    def text(self) -> str:
        """The answer and its strongest reasons in a sentence."""
        told = [fact.text for fact in self.facts[:MOST_TOLD]]
        return f"{self.answer}: " + "; ".join(told)


@dataclass(frozen=True)
class Rule:
    """A rule of escalation that held for a case.

    Attributes
    ----------
    name
        As `exfilml.triage.escalation` lists it.
    effect
        ``at least``, ``at most`` or ``one lower``.
    level
        Of `LEVELS`; what the decision was after the rule.
    text
        Why it held.
    """

    name: str
    effect: str
    level: str
    text: str


@dataclass(frozen=True)
class Decision:
    """Whom a case goes to, and by which rules, in the order in which they held."""

    level: str
    rules: tuple[Rule, ...]

    @property
    def text(self) -> str:
        """The level, and the rule that set it."""
        setting = self.rules[-1]
        for rule in reversed(self.rules):
            if rule.level != self.level:
                break
            setting = rule
        return f"{self.level}: {setting.text}"


@dataclass(frozen=True)
class Technique:
    """A technique of MITRE ATT&CK that fits what was seen."""

    id: str
    name: str
    reason: str

    @property
    def url(self) -> str:
        """Where ATT&CK describes it."""
        return "https://attack.mitre.org/techniques/" + self.id.replace(".", "/")


@dataclass(frozen=True)
class Step:
    """Something to do next; `command` can be copied, and is empty where there is none."""

    text: str
    command: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A case with its answers.

    Attributes
    ----------
    row
        The row of `exfilml.rank_cases`, by column.
    flows
        DataFrame, the flows of the case in order of time, with the index of the flows
        table: its columns, and ``local_ip``, ``remote_ip``, ``place``, ``service``,
        ``direction``, ``up_bytes``, ``down_bytes``, ``suspicion`` (bits), ``concealed``
        (bool: opaque or obscured outside any handshake) and ``hidden_bytes`` (uploaded
        so, or in DNS names or echo data).
    contributions
        Bits of suspicion by family of evidence, of the flow that leads the case.
    indicators, questions
        The playbook, answered.
    against
        What argues against exfiltration.
    decision
        Whom it goes to.
    techniques
        The first is the one that fits best.
    asset
        What is known of the local host, as `exfilml.Assets.of` gives it.
    intel
        DataFrame, matches as `exfilml.Intel.match` gives them.
    history
        DataFrame, what the history knows, as `exfilml.History.seen` gives it.
    scope
        Facts on bytes, hosts, days and data paths.
    incident
        Name of the incident the case belongs to, empty if it stands alone.
    next_steps
        What to do, the most urgent first.
    """

    row: Mapping[str, Any]
    flows: pd.DataFrame = field(repr=False)
    contributions: Mapping[str, float]
    indicators: tuple[Answer, ...]
    questions: tuple[Answer, ...]
    against: tuple[Fact, ...]
    decision: Decision
    techniques: tuple[Technique, ...] = ()
    asset: Mapping[str, Any] = field(default_factory=dict)
    intel: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    scope: tuple[Fact, ...] = ()
    incident: str = ""
    next_steps: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        row = self.row
        return (
            f"<Case {self.name}: {row['local_ip']} to {printable(str(row['place']))}, "
            f"{self.decision.level}>"
        )

    @property
    def name(self) -> str:
        """Name of the case, as in a ranking."""
        return str(self.row["case"])

    def answer(self, name: str) -> Answer:
        """Return the answer to an indicator or a question.

        Raises
        ------
        KeyError
            If nothing of that name was asked.
        """
        for answer in (*self.indicators, *self.questions):
            if answer.name == name:
                return answer
        raise KeyError(name)

    @property
    def evidence(self) -> pd.DataFrame:
        """Every statement with its numbers and flows.

        Returns
        -------
        pandas.DataFrame
            One row for each number of each fact: ``about`` (the answer, ``against`` or
            ``scope``), ``fact``, ``text``, ``source``, ``number`` (its name),
            ``value``, and ``flows`` (labels in the index of the flows table). A fact
            without numbers has one row.
        """
        rows = [
            (about, fact.name, fact.text, fact.source, number, value, fact.flows)
            for about, fact in self._facts()
            for number, value in fact.numbers.items() or [(None, None)]
        ]
        columns = ["about", "fact", "text", "source", "number", "value", "flows"]
        return pd.DataFrame(rows, columns=columns, dtype=object)

    def _facts(self) -> Iterator[tuple[str, Fact]]:
        for answer in (*self.indicators, *self.questions):
            for fact in answer.facts:
                yield answer.name, fact
        for fact in self.against:
            yield "against", fact
        for fact in self.scope:
            yield "scope", fact

    def to_dict(self) -> dict[str, Any]:
        """Return the case in values that JSON knows; times in ISO 8601, UTC."""
        return {
            **{name: plain(value) for name, value in self.row.items()},
            "decision": {
                "level": self.decision.level,
                "rules": [dict(vars(rule)) for rule in self.decision.rules],
            },
            "indicators": [_answer(answer) for answer in self.indicators],
            "questions": [_answer(answer) for answer in self.questions],
            "against": [_fact(fact) for fact in self.against],
            "contributions": {k: plain(v) for k, v in self.contributions.items()},
            "techniques": [{**vars(t), "url": t.url} for t in self.techniques],
            "asset": {name: plain(value) for name, value in self.asset.items()},
            "intel": _records(self.intel),
            "history": _records(self.history, labels=False),
            "scope": [_fact(fact) for fact in self.scope],
            "incident": self.incident,
            "next_steps": [dict(vars(step)) for step in self.next_steps],
            "flow_table": _records(self.flows[list(_TOLD)]),
        }


# Columns of a flow that a case tells of.
_TOLD: Final = (
    *("start", "duration_s", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"),
    *("app", "server_name", "fingerprint", "user_agent", "uid", "local_ip"),
    *("remote_ip", "place", "service", "via", "process", "src_domain", "dst_domain"),
    *("direction", "up_bytes", "down_bytes", "suspicion", "concealed", "hidden_bytes"),
)


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "name": answer.name,
        "question": answer.question,
        "answer": answer.answer,
        "facts": [_fact(fact) for fact in answer.facts],
    }


def _fact(fact: Fact) -> dict[str, Any]:
    return {
        "name": fact.name,
        "text": fact.text,
        "numbers": {name: plain(value) for name, value in fact.numbers.items()},
        "flows": [plain(label) for label in fact.flows],
        "source": fact.source,
    }


def _records(table: pd.DataFrame, *, labels: bool = True) -> list[dict[str, Any]]:
    """Return rows as dictionaries, each with the label of its flow where there is one."""
    columns = {str(name): column.tolist() for name, column in table.items()}
    if labels:
        columns = {"flow": table.index.tolist(), **columns}
    return [
        {name: plain(value) for name, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]


def plain(value: Any) -> Any:
    """Return a value that JSON knows: `None` for what is missing or not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if value is None or pd.isna(value) or value in {np.inf, -np.inf}:
        return None
    if isinstance(value, pd.Timestamp | dt.datetime):
        moment = pd.Timestamp(value)
        if moment.tzinfo is not None:
            moment = moment.tz_convert("UTC").tz_localize(None)
        return f"{moment.isoformat(timespec='microseconds')}Z"
    return value if isinstance(value, str | bool | int | float) else str(value)


@dataclass(frozen=True, eq=False)
class Incident:
    """Cases that probably belong to one event.

    Attributes
    ----------
    name
        The name of its worst case with an ``i`` before it.
    cases
        Names, the worst first.
    links
        Why they belong together, one fact for each pair that was joined.
    scope
        Facts on bytes, hosts, days and data paths of all of them.
    """

    name: str
    cases: tuple[str, ...]
    links: tuple[Fact, ...]
    scope: tuple[Fact, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the incident in values that JSON knows."""
        return {
            "name": self.name,
            "cases": list(self.cases),
            "links": [_fact(fact) for fact in self.links],
            "scope": [_fact(fact) for fact in self.scope],
        }


@dataclass(frozen=True, eq=False, repr=False)
class Triage:
    """The ranked cases of some flows, each with its answers.

    Attributes
    ----------
    cases
        The most suspicious first.
    incidents
        Cases that belong together.
    about
        What was read and what was known: ``flows``, ``cases`` (numbers), ``first``,
        ``last`` (of the flows), ``alerted``, ``baseline_first``, ``baseline_last``,
        ``intel``, ``assets`` (how many entries, `None` where not given), ``history``
        (its first flow, `None` where there is none), ``thresholds`` and ``fit`` (as in
        `exfilml.rank_flows`), ``made`` (time of the triage), ``version`` (of exfilml).
    """

    cases: tuple[Case, ...]
    incidents: tuple[Incident, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = Counter(case.decision.level for case in self.cases)
        levels = [f"{counts[level]} {level}" for level in LEVELS[::-1] if counts[level]]
        return f"<Triage: {len(self):,} cases, {', '.join(levels) or 'none'}>"

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case: int | str) -> Case:
        """Return a case by its place in the ranking, from 0, or by its name.

        Raises
        ------
        KeyError
            If no case has that name.
        """
        if isinstance(case, str):
            for one in self.cases:
                if one.name == case:
                    return one
            raise KeyError(case)
        return self.cases[case]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each case.

        Returns
        -------
        pandas.DataFrame
            ``rank``, ``case``, ``level`` (of the decision), ``incident``,
            ``suspicion``, ``alert``, ``local_ip``, ``place``, ``up_bytes``, the
            answers by name, ``technique``, ``owner`` and ``criticality`` of the host,
            and ``why`` (the rule that set the level).
        """
        rows = [
            {
                "rank": case.row["rank"],
                "case": case.name,
                "level": case.decision.level,
                "incident": case.incident,
                **{name: case.row[name] for name in TABLE_COLUMNS[4:9]},
                **{a.name: a.answer for a in (*case.indicators, *case.questions)},
                "technique": case.techniques[0].id if case.techniques else None,
                "owner": case.asset.get("owner"),
                "criticality": case.asset.get("criticality"),
                "why": case.decision.text,
            }
            for case in self.cases
        ]
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))

    def to_dict(self) -> dict[str, Any]:
        """Return the triage in values that JSON knows."""
        return {
            "format": FORMAT,
            "about": {name: plain(value) for name, value in self.about.items()},
            "cases": [case.to_dict() for case in self.cases],
            "incidents": [incident.to_dict() for incident in self.incidents],
        }


FORMAT: Final = "exfilml-triage-1"
TABLE_COLUMNS: Final = (
    *("rank", "case", "level", "incident", "suspicion", "alert", "local_ip", "place"),
    *("up_bytes", "external_port", "encryption_signs", "volume_rise"),
    *("unexpected_transfer", "nonstandard_encryption", "threat_intelligence"),
    *("technique", "owner", "criticality", "why"),
)
