"""When flows of NetFlow 5 and 9 and IPFIX began and ended.

Times are relative to the exporter's start in version 5 and 9 (21, 22), with the
header's clock; absolute in IPFIX (150 to 157, microseconds before export 158, 159), or
relative to 160, which options tell. Where that is not told or cannot be, the latest flow
of a datagram ended when the datagram was sent. A record without any began then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from exfilml.sources._datagrams import IPFIX, V5, Datagram

Record = Mapping[str, Any]
# Counters are of 64 bits; Arrow's whole numbers have a sign.
MOST: Final = 2**62
_WRAP: Final = 2**32
_HOUR: Final = 3_600_000
# Active timeouts are half an hour, and never two weeks.
_OLDEST: Final = 14 * 86_400_000


def first_of(record: Record, *names: str) -> int | None:
    """Return the first of these fields that a record has, as a number.

    A field of an impossible length is text, or a number that no counter can be.
    """
    for name in names:
        value = record.get(name)
        if isinstance(value, int):
            return min(value, MOST)
    return None


def times_of(record: Record, clock: Clock) -> tuple[float, float | None]:
    """Return when a flow began and ended, in milliseconds since 1970."""
    start, end = (_absolute(record, way, clock.sent) for way in ("start", "end"))
    first, last = first_of(record, "first_switched"), first_of(record, "last_switched")
    if start is None and end is None and first is not None:
        start = clock.time(first, last)
        end = None if last is None else start + _lasted(first, last)
    if start is None:
        seen = first_of(record, "observation_time_ms")
        start = end if end is not None else float(seen or clock.sent)
    if end is None:
        lasted, micros = first_of(record, "ie161"), first_of(record, "ie162")
        if lasted is None and micros is not None:
            lasted = micros // 1000
        end = None if lasted is None else start + lasted
    return start, end


def _lasted(first: int, last: int) -> int:
    """Return the time between; the counter begins anew every 50 days."""
    around = (last - first) % _WRAP
    return around if around < _OLDEST else last - first


def _absolute(record: Record, way: str, sent: float) -> float | None:
    """Return the beginning or the end, where a record tells it; 0 tells nothing."""
    for unit, scale in (("ms", 1.0), ("s", 1000.0), ("us", 1000.0), ("ns", 1000.0)):
        value = record.get(f"flow_{way}_{unit}")
        if value and not isinstance(value, str):
            return float(value * scale)
    before = first_of(record, "ie158" if way == "start" else "ie159")
    return None if before is None else sent - before / 1000


class Clock:
    """The time on an exporter, by one datagram.

    Parameters
    ----------
    datagram
        The datagram.
    boot
        When the exporter said it was started, in milliseconds since 1970.
    records
        What the datagram holds.

    Attributes
    ----------
    sent
        When the datagram was, in milliseconds since 1970.
    """

    def __init__(
        self, datagram: Datagram, boot: float | None, records: Sequence[Record]
    ) -> None:
        data = datagram.data
        self.sent = datagram.seconds * 1000.0
        if datagram.version == V5:
            self.sent += int.from_bytes(data[12:16]) / 1e6
        if datagram.version != IPFIX:
            boot = self.sent - int.from_bytes(data[4:8])
        self._boot = boot
        self._records = records
        self._latest: int | None = None

    def time(self, first: int, last: int | None) -> float:
        """Return a time told as milliseconds since the exporter was started.

        Where nobody says when that was, or its counters do not fit, the latest flow of
        a datagram ended when that was sent.
        """
        if self._boot is not None:
            time = self._boot + first
            # Some exporters round their clock.
            time -= _WRAP if time > self.sent + _HOUR else 0
            if time > self.sent - _OLDEST:
                return time
        if self._latest is None:
            told = (
                first_of(r, "last_switched", "first_switched") for r in self._records
            )
            self._latest = max((t for t in told if t is not None), default=first)
        return self.sent - (self._latest - first)
