"""What every draft says about itself: what it is, of which case, until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from exfilml.containment._targets import Targets
from exfilml.containment._texts import commented

ATTACK: Final = "https://attack.mitre.org/techniques/T1048/001"
_DEFAULT_ID: Final = "T1048.001"


@dataclass(frozen=True)
class Draft:
    """A case, and the time for which it is drafted.

    Attributes
    ----------
    targets
        What of the case can be contained.
    at, expires
        UTC.
    """

    targets: Targets
    at: pd.Timestamp
    expires: pd.Timestamp

    @property
    def case(self) -> str:
        """Name of the case."""
        return self.targets.case.name

    @property
    def level(self) -> str:
        """Whom the case goes to."""
        return self.targets.case.decision.level

    @property
    def technique(self) -> str:
        """Id of the technique that fits best."""
        techniques = self.targets.case.techniques
        return techniques[0].id if techniques else _DEFAULT_ID

    @property
    def url(self) -> str:
        """Where that technique is described."""
        techniques = self.targets.case.techniques
        return techniques[0].url if techniques else ATTACK

    def header(self, what: list[str]) -> str:
        """Return the comment that a draft begins with."""
        decision = self.targets.case.decision
        return commented(
            [
                "DRAFT for review. exfilml applied nothing; read it before you load it.",
                f"Case {self.case}, decided {decision.text}",
                f"Made {stamp(self.at)}, expires {stamp(self.expires)}.",
                *what,
                f"For others: {self.targets.others}.",
            ]
        )


def stamp(moment: pd.Timestamp) -> str:
    """Return a time in ISO 8601, UTC, to the second."""
    return f"{moment.tz_convert('UTC'):%Y-%m-%dT%H:%M:%SZ}"
