"""Tactics and parents of the techniques of MITRE ATT&CK that a case can name.

Which technique fits is decided by the triage; here stands only what ATT&CK says of
it. Source: ATT&CK for Enterprise, version 18.1, https://attack.mitre.org/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exfilml.triage.case import Technique

VERSION: Final = "18.1"
_EXFILTRATION: Final = ("TA0010", "Exfiltration")
_COMMAND: Final = ("TA0011", "Command and Control")
# Names and tactics of techniques that have to do with transfers over a network.
_PARENTS: Final = {
    "T1011": ("Exfiltration Over Other Network Medium", _EXFILTRATION),
    "T1020": ("Automated Exfiltration", _EXFILTRATION),
    "T1029": ("Scheduled Transfer", _EXFILTRATION),
    "T1030": ("Data Transfer Size Limits", _EXFILTRATION),
    "T1041": ("Exfiltration Over C2 Channel", _EXFILTRATION),
    "T1048": ("Exfiltration Over Alternative Protocol", _EXFILTRATION),
    "T1537": ("Transfer Data to Cloud Account", _EXFILTRATION),
    "T1567": ("Exfiltration Over Web Service", _EXFILTRATION),
    "T1071": ("Application Layer Protocol", _COMMAND),
    "T1090": ("Proxy", _COMMAND),
    "T1095": ("Non-Application Layer Protocol", _COMMAND),
    "T1132": ("Data Encoding", _COMMAND),
    "T1571": ("Non-Standard Port", _COMMAND),
    "T1572": ("Protocol Tunneling", _COMMAND),
    "T1573": ("Encrypted Channel", _COMMAND),
}


@dataclass(frozen=True)
class Named:
    """A technique or tactic: its identifier, its name where known, and its address."""

    id: str
    name: str | None
    url: str


def tactic_of(technique: Technique) -> Named | None:
    """Return the tactic of a technique, `None` where it is not known here."""
    parent = _PARENTS.get(technique.id.partition(".")[0])
    if parent is None:
        return None
    number, name = parent[1]
    return Named(number, name, f"https://attack.mitre.org/tactics/{number}")


def parent_of(technique: Technique) -> Named:
    """Return the technique that a sub-technique is of; others are their own."""
    number, _, part = technique.id.partition(".")
    name = _PARENTS[number][0] if number in _PARENTS else None
    if not part:
        name = technique.name
    return Named(number, name, f"https://attack.mitre.org/techniques/{number}")


def is_part(technique: Technique) -> bool:
    """Say whether it is a sub-technique."""
    return "." in technique.id
