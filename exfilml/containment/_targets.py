"""What of a case can be contained: addresses, names and ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from exfilml.containment._ports import Stream
from exfilml.triage.case import Case


@dataclass(frozen=True)
class Target:
    """An address or a name that data went to.

    Attributes
    ----------
    value
        An address in canonical notation, or a name as `host_name` gives it.
    is_name
        Which of the two.
    below
        Whether the names below a name are meant as well.
    is_mail
        Whether the name is a recipient's domain.
    up_bytes
        IP bytes sent there.
    first, last
        Start of the first and of the last flow to it.
    shared
        Why others need it, empty if nothing says so.
    """

    value: str
    is_name: bool
    below: bool
    is_mail: bool
    up_bytes: int
    first: pd.Timestamp
    last: pd.Timestamp
    shared: str = ""


@dataclass(frozen=True)
class Targets:
    """What of one case can be contained.

    Attributes
    ----------
    case
        The case.
    hosts
        Its local addresses.
    found
        Addresses first, each the largest upload first.
    streams
        The largest upload first.
    left_out
        What is no target, and why.
    others
        A sentence on who else uses the place.
    """

    case: Case
    hosts: tuple[str, ...]
    found: tuple[Target, ...]
    streams: tuple[Stream, ...]
    left_out: tuple[tuple[str, str], ...]
    others: str

    def only(self, *, names: bool, shared: bool = False) -> tuple[Target, ...]:
        """Return addresses or names, that others need or that are the case's alone."""
        return tuple(
            t for t in self.found if t.is_name == names and bool(t.shared) == shared
        )

    def sharing(self, shared: Mapping[str, str]) -> Targets:
        """Return them with what other cases know to be shared."""
        found = tuple(
            t if t.shared else replace(t, shared=shared.get(t.value, ""))
            for t in self.found
        )
        return replace(self, found=found)

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        """What is left out, or not for blocking, and why."""
        shared = ((t.value, f"shared: {t.shared}") for t in self.found if t.shared)
        return (*self.left_out, *shared)
