"""Whom a case goes to: rules in a fixed order, each with its reason.

Levels are *close* (nobody), *watch* (look again if it goes on), *L1* (the analyst on
duty), *T2* (the specialist, the same day) and *incident* (the incident response, now).
A case begins at close. Each rule of `RULES` that holds raises it to its level at least,
lowers it to its level at most, or moves it by one; all that held are kept with the case.

Suspicion and answers decide; how critical an asset is only moves what already reached
L1. Approvals come last, so that nothing overrides what the site declared, but they
never cover what threat intelligence knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from exfilml.triage.case import LEVELS, YES, Decision, Rule

# Below the threshold by no more than this, a case is worth a second look: it is
# at most eight times as usual as one that alerts.
NEAR_BITS: Final = 3.0
SURE: Final = 75.0
"""Confidence from which on an indicator is taken at its word, of 100."""


@dataclass(frozen=True)
class Situation:
    """What the rules ask about a case.

    Attributes
    ----------
    suspicion, threshold
        Bits; the threshold is `None` where nothing alerts.
    alert
        Whether the case alerts.
    inside, approved
        Stays inside the site; is covered by an approval.
    answers
        Answers of the playbook by name.
    confidence
        Of the surest indicator that meets the case and was valid, 0 to 100; `None`
        where none does. One without a confidence counts as 50.
    habit
        Says that many hosts have used the destination for long, or "".
    surprising_place
        Whether such encryption is surprising at that destination.
    criticality
        Of the asset, or `None`.
    """

    suspicion: float
    threshold: float | None
    alert: bool
    inside: bool
    approved: bool
    answers: dict[str, str]
    confidence: float | None = None
    habit: str = ""
    surprising_place: bool = True
    criticality: str | None = None

    def says(self, *names: str) -> bool:
        """Say whether all of some answers are yes."""
        return all(self.answers[name] == YES for name in names)


@dataclass(frozen=True)
class Standing:
    """A rule as it stands in the list.

    Attributes
    ----------
    name, effect, level
        As in `Rule`; the level is empty where a rule moves a case by one.
    when
        Says why the rule holds for a case at a level, or "".
    meaning
        What the rule says, in words.
    """

    name: str
    effect: str
    level: str
    when: Callable[[Situation, str], str]
    meaning: str


def _quiet(case: Situation, _: str) -> str:
    if case.alert:
        return ""
    if case.threshold is None:
        return f"suspicion is {case.suspicion:.1f} bits, and no case alerts"
    if case.suspicion >= case.threshold:
        # An approval or the inside of the site keeps it quiet, not its suspicion.
        return (
            f"it does not alert, in spite of its {case.suspicion:.1f} bits (others alert "
            f"from {case.threshold:.1f} bits on)"
        )
    return (
        f"suspicion of {case.suspicion:.1f} bits does not alert (from "
        f"{case.threshold:.1f} bits on)"
    )


def _near(case: Situation, _: str) -> str:
    if case.alert or case.threshold is None:
        return ""
    if case.inside:
        would = case.suspicion >= case.threshold
        return "it would alert if it left the site" if would else ""
    near = case.suspicion >= case.threshold - NEAR_BITS
    return f"within {NEAR_BITS:.0f} bits of the threshold" if near else ""


def _alert(case: Situation, _: str) -> str:
    if not case.alert:
        return ""
    over = "" if case.threshold is None else f" (threshold {case.threshold:.1f})"
    return f"it alerts with {case.suspicion:.1f} bits{over}"


def _opaque_to_new(case: Situation, _: str) -> str:
    holds = case.alert and case.says("nonstandard_encryption", "unexpected_transfer")
    return (
        "it alerts, it is encrypted or hidden in a way that is not usual here, and the "
        "transfer is not expected"
        if holds
        else ""
    )


def _opaque_rise(case: Situation, _: str) -> str:
    holds = case.alert and case.says("nonstandard_encryption", "volume_rise")
    return (
        "it alerts, it is encrypted or hidden in a way that is not usual here, and the "
        "host sends more than ever"
        if holds
        else ""
    )


def _known_to_intel(case: Situation, _: str) -> str:
    if case.confidence is None:
        return ""
    return f"threat intelligence knows it (confidence {case.confidence:.0f} of 100)"


def _sure_intel(case: Situation, _: str) -> str:
    sure = case.confidence is not None and case.confidence >= SURE
    if sure and (case.alert or case.says("unexpected_transfer")):
        return "threat intelligence is sure, and the transfer is suspicious by itself"
    return ""


def _intel_and_encryption(case: Situation, _: str) -> str:
    known = case.confidence is not None and case.alert
    if known and case.says("nonstandard_encryption"):
        return (
            "it alerts, threat intelligence knows the destination, and it is encrypted or "
            "hidden in a way that is not usual here"
        )
    return ""


def _habit(case: Situation, _: str) -> str:
    if case.habit and case.confidence is None and not case.surprising_place:
        return case.habit
    return ""


def _critical(case: Situation, level: str) -> str:
    important = case.criticality in {"high", "critical"}
    if important and LEVELS.index(level) >= LEVELS.index("L1"):
        return f"one level higher: the criticality of the host is {case.criticality}"
    return ""


def _inside(case: Situation, _: str) -> str:
    return "both ends are inside the site" if case.inside else ""


def _approved(case: Situation, _: str) -> str:
    if case.approved and case.confidence is None:
        return "the policy approves it, and nothing about it has changed"
    return ""


RULES: Final = (
    Standing("quiet", "at least", "close", _quiet, "It does not alert."),
    Standing(
        "near",
        "at least",
        "watch",
        _near,
        f"It does not alert, by no more than {NEAR_BITS:.0f} bits, or only because it stays "
        "inside the site.",
    ),
    Standing("alert", "at least", "L1", _alert, "It alerts."),
    Standing(
        "opaque-to-new",
        "at least",
        "T2",
        _opaque_to_new,
        "It alerts, and both the encryption and the transfer are out of the ordinary.",
    ),
    Standing(
        "opaque-rise",
        "at least",
        "T2",
        _opaque_rise,
        "It alerts, the encryption is out of the ordinary, and so is the volume for "
        "this host, wherever it goes.",
    ),
    Standing(
        "known-to-intel",
        "at least",
        "L1",
        _known_to_intel,
        "A valid indicator meets it.",
    ),
    Standing(
        "sure-intel",
        "at least",
        "T2",
        _sure_intel,
        f"An indicator of confidence {SURE:.0f} or more meets it, and it alerts or the "
        "transfer is unexpected.",
    ),
    Standing(
        "intel-and-encryption",
        "at least",
        "incident",
        _intel_and_encryption,
        "It alerts, an indicator meets it, and the encryption is out of the ordinary.",
    ),
    Standing(
        "habit",
        "at most",
        "L1",
        _habit,
        "Many hosts have used the destination for long, such uploads are usual there, "
        "and no indicator meets it.",
    ),
    Standing(
        "critical-asset",
        "one higher",
        "",
        _critical,
        "It reached L1 or more, and the host is an asset of high or critical "
        "criticality.",
    ),
    Standing("inside", "at most", "watch", _inside, "It stays inside the site."),
    Standing(
        "approved",
        "at most",
        "close",
        _approved,
        "An approval covers it, and no indicator meets it.",
    ),
)
"""In the order in which they are asked."""


def decide(case: Situation) -> Decision:
    """Decide whom a case goes to.

    >>> answers = dict.fromkeys(
    ...     ("nonstandard_encryption", "unexpected_transfer", "volume_rise"), "yes"
    ... )
    >>> decide(Situation(40.0, 20.0, True, False, False, answers)).level
    'T2'
    """
    level, held = 0, []
    for rule in RULES:
        why = rule.when(case, LEVELS[level])
        if not why:
            continue
        if rule.effect == "at least":
            level = max(level, LEVELS.index(rule.level))
        elif rule.effect == "at most":
            level = min(level, LEVELS.index(rule.level))
        else:
            level = min(level + 1, len(LEVELS) - 1)
        held.append(Rule(rule.name, rule.effect, LEVELS[level], why))
    return Decision(LEVELS[level], tuple(held))
