"""The account of a reading: what was left out of files, why, and how often."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pandas as pd

if TYPE_CHECKING:
    from exfilml.exceptions import ExfilmlWarning

_SHOWN: Final = 60


@dataclass(slots=True)
class _Entry:
    count: int
    first: str
    is_news: bool


@dataclass(slots=True)
class Account:
    """Counts what was left out, by file and reason, and remembers the first.

    Attributes
    ----------
    entries
        By file and reason, in the order in which they came up.
    """

    entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)

    def add(
        self,
        file: str,
        reason: str,
        count: int = 1,
        first: object = None,
        *,
        is_news: bool = True,
    ) -> None:
        """Count entries of a file that were left out for the same reason.

        Parameters
        ----------
        file
            Name of the file.
        reason
            In the plural, as it follows a count.
        count
            How many; 0 changes nothing.
        first
            One of them.
        is_news
            Whether `warn` speaks of it. A list is not worse for naming files too.
        """
        if not count:
            return
        known = self.entries.get((file, reason))
        if known is None:
            text = "" if first is None else shown(first)
            self.entries[file, reason] = _Entry(count, text, is_news)
        else:
            known.count += count

    def reasons(self, file: str) -> list[str]:
        """Return why something of a file was left out."""
        return [reason for name, reason in self.entries if name == file]

    def table(self) -> pd.DataFrame:
        """Return the account: ``file``, ``reason``, ``count`` and ``first``."""
        rows = [(*key, e.count, e.first) for key, e in self.entries.items()]
        table = pd.DataFrame(rows, columns=["file", "reason", "count", "first"])
        return table.astype(
            {"file": "str", "reason": "str", "count": "int64", "first": "str"}
        )

    def warn(self, category: type[ExfilmlWarning], stacklevel: int) -> None:
        """Warn once of all that is news."""
        told: dict[str, list[str]] = {}
        for (file, reason), entry in self.entries.items():
            if entry.is_news:
                first = f" (first: {entry.first})" if entry.first else ""
                told.setdefault(file, []).append(f"{entry.count:,} {reason}{first}")
        if told:
            text = "; ".join(f"{file}: {', '.join(t)}" for file, t in told.items())
            warnings.warn(f"Left out: {text}.", category, stacklevel=stacklevel + 1)


def shown(given: object) -> str:
    """Quote what stands in a file, shortened and without control characters."""
    text = given if isinstance(given, str) else repr(given)
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))
