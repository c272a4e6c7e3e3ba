"""The three splits: their seeds, their days, and what keeps them apart.

Each split has its own third of the address space, its own ports for planted transfers
and its own ciphers for each carrier, so that none shares a scenario with another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

DAY = 86_400.0
BASELINE_DAYS = 12  # Monday to the Friday of the second week
TEST_DAYS = 3
FIRST_TEST_DAY = 14


@dataclass(frozen=True)
class Split:
    """One part of the evidence: a baseline and the days that are judged.

    Attributes
    ----------
    name
        ``develop``, ``validate`` or ``report``.
    index
        Which third of addresses, ports and ciphers is its own.
    seed
        Source of every choice; text, so that a commit's hash can be one.
    monday
        Virtual first day, 00:00 UTC.
    """

    name: str
    index: int
    seed: str
    monday: datetime

    def when(self, day: int, hour: float) -> float:
        """Return a virtual time, seconds of the epoch; day 0 is the first Monday."""
        return self.monday.timestamp() + day * DAY + hour * 3600

    def days(self, half: str) -> range:
        """Return the days of a half; weekends are days too."""
        if half == "baseline":
            return range(BASELINE_DAYS)
        return range(FIRST_TEST_DAY, FIRST_TEST_DAY + TEST_DAYS)


_FIXED = {
    "develop": Split("develop", 0, "1048", datetime(2024, 3, 4, tzinfo=UTC)),
    "validate": Split("validate", 1, "2048", datetime(2024, 9, 2, tzinfo=UTC)),
}
NAMES = (*_FIXED, "report")
# Its hash seeds the committed captures of ``report``.
REPORT_COMMIT = "c06a6b60899e21ba73ca529d8b2517c05fb54ba4"


def choose(name: str, commit: str | None) -> Split:
    """Return a split.

    Parameters
    ----------
    name
        One of `NAMES`.
    commit
        Hash of the commit whose digits seed ``report``; nobody chose them. Refused
        for the others.

    Raises
    ------
    ValueError
        If the seed is missing, is none, or is not for this split.
    """
    if name in _FIXED:
        if commit is not None:
            raise ValueError(f"--seed-from-commit is for report; {name} has its seed")
        return _FIXED[name]
    if name != "report":
        raise ValueError(f"no split {name!r}; there are {', '.join(NAMES)}")
    if commit is None:
        raise ValueError(
            "report is made once, from a seed that nobody chose: give"
            " --seed-from-commit HASH of the commit that closed the work it judges"
        )
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ValueError(f"{commit!r} is no full commit hash (40 hex digits)")
    return Split("report", 2, commit, datetime(2025, 2, 3, tzinfo=UTC))


def committed(name: str) -> Split:
    """Return the split whose captures are committed; errors as in `choose`."""
    return choose(name, REPORT_COMMIT if name == "report" else None)
