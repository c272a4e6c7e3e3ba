"""What the flows of judged cases show: where they went, what they carried, how much."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.baseline import Observed
from exfilml.exceptions import FeedbackError
from exfilml.features import Asked
from exfilml.features.cases import Cases, case_name
from exfilml.feedback._judgement import microseconds
from exfilml.places import orient, service_name
from exfilml.ruling import payload_classes
from exfilml.schema import validate_flows

if TYPE_CHECKING:
    from exfilml.detector import Detector

_DAY_US: Final = 86_400_000_000
_ELSEWHERE: Final = (
    "not among the flows given: give those that were ranked, with the same model and "
    "home networks"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a case was, as an approval has to name it.

    Attributes
    ----------
    services
        As `exfilml.places.orient` names them.
    places
        Names, or addresses where there is no name.
    addresses
        All remote ones.
    payload
        Classes of `exfilml.policy.CLASSES`.
    upload
        The most that was sent on one UTC day, in bytes as approvals count them.
    """

    services: tuple[str, ...]
    places: tuple[str, ...]
    addresses: tuple[str, ...]
    payload: tuple[str, ...]
    upload: int


class JudgedFlows:
    """Flows that were ranked, by the case that they belong to.

    Parameters
    ----------
    flows
        A flows table.
    detector
        What they were ranked with: it says what is local, and which service is new.
    """

    def __init__(self, flows: pd.DataFrame, detector: Detector) -> None:
        if not hasattr(detector, "known_"):
            raise FeedbackError(
                "flows were given without a fitted detector; give the one that ranked "
                "them: cases are named after what it knows."
            )
        oriented = orient(validate_flows(flows), detector.home_)
        observed = Observed.of(oriented, kinds=())
        self._asked = Asked(oriented, observed, detector.baseline_, detector.known_)
        keys, code = np.unique(Cases.of(self._asked).keys, return_inverse=True)
        self._place = {case_name(key): at for at, key in enumerate(keys.tolist())}
        self._order = np.argsort(code, kind="stable")
        self._code = code[self._order]
        start = oriented["start"].to_numpy(dtype="datetime64[us]")
        self._start = start.astype(np.int64)

    def scope(self, judged: dict[Any, Any]) -> Scope | str:
        """Return the scope of a judged case, or why there is none.

        Only flows of the time that was judged count, and they must not be more than
        was judged: an approval is never wider than a judgement.

        Parameters
        ----------
        judged
            A row of `exfilml.Feedback.latest`.
        """
        at = self._place.get(judged["case"])
        begin, end = judged["first_seen"], judged["last_seen"]
        if at is None or pd.isna(begin) or pd.isna(end) or pd.isna(judged["up_bytes"]):
            return _ELSEWHERE
        rows = self._order[slice(*np.searchsorted(self._code, [at, at + 1]))]
        first, last = (microseconds(t) for t in (begin, end))
        rows = rows[(self._start[rows] >= first) & (self._start[rows] <= last)]
        asked = self._asked.only(rows)
        oriented = asked.oriented
        hosts = _distinct(oriented.names("local_ip").tolist())
        if hosts != (judged["local_ip"],):
            return _ELSEWHERE
        up = float(oriented.numbers("up_bytes").sum())
        if up > judged["up_bytes"]:
            return (
                f"the flows given hold {up:,.0f} bytes of it, "
                f"{judged['up_bytes']:,} were judged"
            )
        sent = pd.Series(asked.up).groupby(self._start[rows] // _DAY_US).sum()
        classes = _distinct(payload_classes(asked, np.arange(len(rows))).tolist())
        return Scope(
            _distinct(asked.observed.names["service"].tolist()),
            _distinct(oriented.names("place").tolist()),
            _distinct(oriented.names("remote_ip").tolist()),
            tuple(c for c in classes if c) or ("unknown",),
            int(np.ceil(sent.max())),
        )


def scope_of_facts(row: dict[Any, Any]) -> Scope | str:
    """Return the scope of a case as far as its row tells it, or what is missing."""
    needed = ("up_bytes", "first_seen", "last_seen", "protocol")
    if any(pd.isna(row[name]) for name in needed):
        return "volume, time or protocol not known"
    if isinstance(row["payload"], str):
        payload = tuple(sorted(part.strip() for part in row["payload"].split(",")))
    elif row["capability"] != "payload" and isinstance(row["capability"], str):
        payload = ("unseen",)
    else:
        return "payload class not known: give the flows that were ranked"
    service = service_of(row)
    if not service:
        return "ports change within it: give the flows that were ranked"
    if is_address(row["place"]) and (pd.isna(row["addresses"]) or row["addresses"] > 1):
        return "leads to several addresses: give the flows that were ranked"
    span = row["last_seen"].date() - row["first_seen"].date()
    daily = -(-int(row["up_bytes"]) // max(span.days + 1, 1))
    return Scope((service,), (row["place"],), (row["place"],), payload, daily)


def service_of(row: dict[Any, Any]) -> str:
    """Name the service of a case as the ranking does; "" where its port changes."""
    if pd.isna(row["protocol"]) or pd.isna(row["dst_port"]):
        return ""
    return service_name(int(row["protocol"]), int(row["dst_port"]))


def is_address(text: str) -> bool:
    """Say whether a place is an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _distinct(texts: list[str | None]) -> tuple[str, ...]:
    return tuple(sorted({text for text in texts if text is not None}))
