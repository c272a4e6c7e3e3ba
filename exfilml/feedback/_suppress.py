"""Drafts of approvals from cases that were judged false.

An approval (`exfilml.policy`) lets a case go on without an alert while nothing changes.
One that is drafted here is never wider than what was judged:

- **scope**: the host, the destination (addresses as ``network``, a name as ``place``)
  and the service of the case, no list of several cases in one;
- **payload**: the classes that its flows showed. The flows tell them; without flows
  only a source that shows no payload is sure (``unseen``);
- **ceiling**: 5/4 of the most that was sent on one UTC day. Without flows, of all that
  the case sent, shared out over its days: it may re-arm early, never late. (IP bytes
  then; approvals count payload bytes, where they are known, which are fewer.)
- **expires**: 30 days after the judgement, or what is asked for up to 90.

A case that was judged true blocks approvals of its destination for its host and, over
its service, for all hosts. What cannot be approved is told with the reason. The draft
is checked by `exfilml.Policy` before it is written, and a person puts it in force.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pandas as pd

from exfilml.domains import registered_domain
from exfilml.exceptions import FeedbackError, OutputError, PolicyError
from exfilml.export import complete_file
from exfilml.feedback._judgement import FALSE, TRUE, moment_of
from exfilml.feedback._observed import (
    JudgedFlows,
    is_address,
    scope_of_facts,
    service_of,
)
from exfilml.policy import Policy
from exfilml.services import iana_services

if TYPE_CHECKING:
    from exfilml.detector import Detector

DAYS: Final = 30
MOST_DAYS: Final = 90
SLACK: Final = (5, 4)
MOST_ADDRESSES: Final = 20
MARK: Final = "# A draft of approvals, made by exfilml feedback from judgements."
_HEADER: Final = (
    MARK,
    "# Nothing is in force yet: read each one, then give this file to --policy, or copy",
    "# what you agree with into the policy of the site. An approval holds only while",
    "# host, destination, service, payload and volume stay what they were.",
)


@dataclass(frozen=True, eq=False)
class Suppressions:
    """Approvals that follow from judgements, and what does not.

    Attributes
    ----------
    approvals
        Each as the policy file has it, with the name of its case before it.
    left_out
        DataFrame ``case``, ``reason``: false positives without an approval.
    """

    approvals: tuple[tuple[str, dict[str, Any]], ...]
    left_out: pd.DataFrame
    _notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        latest: pd.DataFrame,
        *,
        flows: pd.DataFrame | None = None,
        detector: Detector | None = None,
        days: int = DAYS,
        at: Any = None,
    ) -> Self:
        """Draft approvals, see `exfilml.Feedback.suppressions`.

        Raises
        ------
        FeedbackError
            If days are out of range, or flows come without what ranked them.
        """
        if (
            isinstance(days, bool)
            or not isinstance(days, int)
            or not (1 <= days <= MOST_DAYS)
        ):
            raise FeedbackError(
                f"days: got {days!r}, expected 1 to {MOST_DAYS} after the judgement."
            )
        shown: JudgedFlows | None = None
        if flows is not None:
            if detector is None:
                raise FeedbackError("flows need the detector that ranked them.")
            shown = JudgedFlows(flows, detector)
        today = moment_of(at).date()
        stolen = _Stolen(latest[latest["verdict"] == TRUE])
        approvals, left, notes = [], [], []
        for row in latest[latest["verdict"] == FALSE].to_dict("records"):
            try:
                approval = _approval(row, shown, stolen, days, today)
                Policy.parse({"approve": [approval]}, "approval")
            except (_NoApproval, PolicyError) as error:
                left.append((row["case"], str(error)))
            else:
                approvals.append((row["case"], approval))
                notes.append(_note(row))
        table = pd.DataFrame(left, columns=["case", "reason"], dtype="str")
        return cls(tuple(approvals), table, tuple(notes))

    def __len__(self) -> int:
        return len(self.approvals)

    @property
    def policy(self) -> Policy:
        """The approvals as a policy."""
        return Policy.parse({"approve": [dict(a) for _, a in self.approvals]}, "draft")

    def lines(self) -> list[str]:
        """Say what was drafted and what was not, with counts."""
        counts = Counter(self.left_out["reason"])
        missing = f"false positives without one: {len(self.left_out):,}"
        return [
            f"approvals drafted: {len(self):,}; {missing}",
            *(f"not approved: {n:,}: {reason}" for reason, n in counts.most_common()),
        ]

    def text(self) -> str:
        """Return the draft as a policy file."""
        parts = ["\n".join(_HEADER)]
        for (case, approval), note in zip(self.approvals, self._notes, strict=True):
            keys = (f"{key} = {_toml(value)}" for key, value in approval.items())
            parts.append("\n".join((f"# case {case}: {note}", "[[approve]]", *keys)))
        return "\n\n".join(parts) + "\n"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the draft; an older draft is replaced, no other file.

        Raises
        ------
        OutputError
            If the place cannot be written, or holds a file that is no draft.
        FeedbackError
            If there is nothing to approve.
        """
        if not len(self):
            raise FeedbackError("no approval to write: see what was left out.")
        path = Path(path)
        check_draft(path)
        with complete_file(path) as part:
            part.write_text(self.text(), encoding="utf-8")
            read = Policy.read(part)
            assert read.approvals == self.policy.approvals


def check_draft(path: Path) -> None:
    """Refuse to write over a file that is no draft of ours.

    Raises
    ------
    OutputError
        Such as of a policy that a person wrote.
    """
    try:
        with path.open("rb") as stream:
            begin = stream.read(len(MARK))
    except (OSError, ValueError):
        return
    if begin and begin != MARK.encode():
        raise OutputError(
            f"{path}: holds something else than a draft of approvals, which would be "
            "overwritten; give the draft a file of its own."
        )


class _NoApproval(Exception):  # noqa: N818 - no error: the reason why there is none
    """Why a false positive gets no approval."""


class _Stolen:
    """Where judged thefts went: by destination, and its hosts and services."""

    def __init__(self, true: pd.DataFrame) -> None:
        self._ends: dict[str, list[tuple[Any, str]]] = {}
        for row in true.to_dict("records"):
            if isinstance(row["place"], str):
                ends = self._ends.setdefault(_key(row["place"]), [])
                ends.append((row["local_ip"], service_of(row)))

    def blocks(
        self, destinations: tuple[str, ...], host: str, services: tuple[str, ...]
    ) -> str | None:
        """Name a host that stole to one of some destinations, if that blocks this."""
        for destination in destinations:
            for thief, service in self._ends.get(_key(destination), []):
                if thief == host or service in services:
                    return str(thief)
        return None


def _key(place: str) -> str:
    return registered_domain(place) or place.lower()


def _approval(
    row: dict[Any, Any],
    shown: JudgedFlows | None,
    stolen: _Stolen,
    days: int,
    today: dt.date,
) -> dict[str, Any]:
    """Return the approval of a case that was judged false."""
    expires = row["judged_at"].date() + dt.timedelta(days=days)
    if expires < today:
        raise _NoApproval(f"expired: judged more than {days} days ago")
    if row["direction"] == "inbound":
        raise _NoApproval("opened from outside: approvals cover what the host opens")
    host = row["local_ip"]
    if not isinstance(host, str) or not isinstance(row["place"], str):
        raise _NoApproval("host or destination not known")
    scope = scope_of_facts(row) if shown is None else shown.scope(row)
    if isinstance(scope, str):
        raise _NoApproval(scope)
    named = tuple(place for place in scope.places if not is_address(place))
    if named and len(scope.places) > len(named):
        raise _NoApproval("leads to names and to addresses without a name")
    destinations = named or scope.addresses
    if len(destinations) > MOST_ADDRESSES:
        raise _NoApproval(f"leads to more than {MOST_ADDRESSES} destinations")
    if thief := stolen.blocks(destinations, host, scope.services):
        raise _NoApproval(f"a theft by {thief} to the same destination was judged true")
    much, over = SLACK
    return {
        ("place" if named else "network"): list(destinations),
        "host": host,
        "service": [_declared(service) for service in scope.services],
        "payload": list(scope.payload),
        "max_upload_per_day": max(-(-scope.upload * much // over), 1),
        "reason": row["reason"],
        "owner": row["analyst"],
        "expires": expires,
    }


def _declared(service: str) -> str:
    """Write a service so that a policy takes it for this one alone.

    A registered name alone stands for both transports there.
    """
    over_tcp = {name for (way, _), name in iana_services().items() if way == 6}
    return f"{service}/tcp" if service in over_tcp else service


def _note(row: dict[Any, Any]) -> str:
    seen = (f"{row[name]:%Y-%m-%d %H:%M}" for name in ("first_seen", "last_seen"))
    return (
        f"seen {' to '.join(seen)} UTC, judged false on {row['judged_at']:%Y-%m-%d}, "
        f"{row['up_bytes']:,} bytes sent"
    )


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, dt.date):
        return value.isoformat()
    # The escapes of JSON are those of TOML, and texts of the store have no others.
    return json.dumps(value, ensure_ascii=False)
