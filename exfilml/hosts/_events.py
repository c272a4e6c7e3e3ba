"""Host events as a table: what a process did on a host, and when.

`COLUMNS` lists the columns. Of a network event the *local* end is that of the host that
logged it, whoever opened the connection. What a log does not say is missing; an
unspecified address (``0.0.0.0``, ``::``) is one that it does not say.
"""

from __future__ import annotations

import functools
import ipaddress
import zoneinfo
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import pandas as pd

from exfilml.columns import FIRST_YEAR, LAST_YEAR, START_DTYPE
from exfilml.exceptions import SourceError

KINDS: Final = ("network", "process", "file")
COLUMNS: Final[Mapping[str, str]] = {
    "time": START_DTYPE,
    "host": "str",
    "kind": "str",
    "process": "str",
    "pid": "Int64",
    "user": "str",
    "protocol": "Int64",
    "local_ip": "str",
    "local_port": "Int64",
    "remote_ip": "str",
    "remote_port": "Int64",
    "detail": "str",
}
_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EARLIEST: Final = (datetime(FIRST_YEAR, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_TOO_LATE: Final = (datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
# Longer paths and command lines are cut: no reader looks at more, and no log is safe
# from one that is made to be long.
LONGEST_TEXT: Final = 4096
# What logs write for a process or user that they do not know.
_NOTHING: Final = frozenset(
    {"", "-", "?", "(null)", "<unknown process>", "<na>", "null", "nan"}
)


# With blanks around it.
_LONGEST_NOTHING: Final = 40


class BadEventError(ValueError):
    """A record that says it is a host event, and cannot be one."""


class LocalTimeError(SourceError):
    """A log in local time that does not say where, and neither does the caller."""


class Event(NamedTuple):
    """One event; its fields are `COLUMNS`, with the time in microseconds since 1970."""

    time: int
    host: str | None
    kind: str
    process: str | None
    pid: int | None = None
    user: str | None = None
    protocol: int | None = None
    local_ip: str | None = None
    local_port: int | None = None
    remote_ip: str | None = None
    remote_port: int | None = None
    detail: str | None = None


def table(events: Iterable[Event]) -> pd.DataFrame:
    """Make a typed table of events, in the order given."""
    columns: list[Any] = list(zip(*events, strict=True)) or [()] * len(COLUMNS)
    made: dict[str, Any] = {}
    for (name, dtype), values in zip(COLUMNS.items(), columns, strict=True):
        if name == "time":
            made[name] = pd.to_datetime(pd.Series(values, dtype="int64"), unit="us")
            made[name] = made[name].dt.tz_localize("UTC").astype(START_DTYPE)
        else:
            kind: Any = dtype
            made[name] = pd.array(list(values), dtype=kind)
    return pd.DataFrame(made)


def text(value: Any) -> str | None:
    """Return what a field says, shortened; None for nothing."""
    if value is None or isinstance(value, (dict, list, bool)):
        return None
    said = str(value)[:LONGEST_TEXT]
    if len(said) <= _LONGEST_NOTHING and said.strip().lower() in _NOTHING:
        return None
    if said.isascii() and "\0" not in said:
        return said
    # Halves of surrogate pairs are possible in JSON, and nowhere else.
    return said.encode("utf-8", "replace").decode().replace("\0", "")


def number(value: Any) -> int | None:
    """Return a whole number that is written in decimal or, with 0x, in hexadecimal."""
    if type(value) is int:
        return value if 0 <= value < 2**63 else None
    if value is None or isinstance(value, (bool, dict, list)):
        return None
    said = str(value).strip().lower()
    if len(said) > 20:
        return None
    try:
        found = int(said, 16) if said.startswith("0x") else int(said)
    except ValueError:
        return None
    return found if 0 <= found < 2**63 else None


def port(value: Any) -> int | None:
    """Return a port; None where it is not said.

    Raises
    ------
    BadEventError
        If it is none.
    """
    found = number(value)
    if found is None and text(value) is None:
        return None
    if found is None or found > 65535:
        raise BadEventError(f"port cannot be {str(value)[:20]!r}")
    return found


@functools.lru_cache(maxsize=65536)
def _address(said: str) -> str | None:
    try:
        found = ipaddress.ip_address(said.partition("%")[0])
    except ValueError:
        raise BadEventError(f"address cannot be {said[:60]!r}") from None
    found = getattr(found, "ipv4_mapped", None) or found
    return None if found.is_unspecified else str(found)


def address(value: Any) -> str | None:
    """Return an address in its shortest form; None where it is not said.

    Raises
    ------
    BadEventError
        If it is none.
    """
    said = text(value)
    return None if said is None else _address(said.strip())


def canonical(said: str | None) -> str | None:
    """Return an address in its shortest form, and any other text as it is."""
    try:
        return address(said)
    except BadEventError:
        return said


def protocol(value: Any) -> int | None:
    """Return an IANA number of a name or number; None where it is not said."""
    said = text(value)
    if said is None:
        return None
    name = said.strip().lower().removeprefix("ipproto_")
    found = _PROTOCOLS.get(name, number(name))
    return found if found is not None and found < 256 else None


def moment(value: Any, zone: str | None = "UTC") -> int:
    """Return a time of ISO 8601 or seconds since 1970 in microseconds since 1970.

    Parameters
    ----------
    value
        The time.
    zone
        Where it is, if it does not say so; `None` if nobody knows.

    Raises
    ------
    BadEventError
        If it is no time.
    LocalTimeError
        If it does not say where, and nobody knows.
    """
    said = text(value)
    if said is None:
        raise BadEventError("time is missing")
    try:
        time = _seconds(said) if said.replace(".", "", 1).isdecimal() else _iso(said)
        if time.tzinfo is None:
            if zone is None:
                raise LocalTimeError(
                    f"times such as {said[:40]!r} do not say where; say it: timezone, "
                    "--timezone."
                )
            time = time.replace(tzinfo=_zone(zone))
        found = (time - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise BadEventError(f"time cannot be {said[:40]!r}") from None
    if not _EARLIEST <= found < _TOO_LATE:
        raise BadEventError(f"time cannot be {said[:40]!r}")
    return found


@functools.lru_cache(maxsize=16)
def _zone(name: str) -> Any:
    return UTC if name == "UTC" else zoneinfo.ZoneInfo(name)


def _seconds(said: str) -> datetime:
    whole, _, part = said.partition(".")
    fraction = int(part[:6].ljust(6, "0")) if part else 0
    return _EPOCH + timedelta(seconds=int(whole[:12]), microseconds=fraction)


def _iso(said: str) -> datetime:
    return datetime.fromisoformat(said.strip())


def network(
    time: int,
    host: str | None,
    process: Any,
    ends: tuple[Any, Any, Any, Any],
    *,
    pid: Any = None,
    user: Any = None,
    transport: Any = None,
) -> Event:
    """Make a network event of a local and a remote end: address, port, address, port.

    Raises
    ------
    BadEventError
        If an address or port is none, if either end is not said at all, or the process
        is not.
    """
    name = text(process)
    if name is None:
        raise BadEventError("process is missing")
    local_ip, remote_ip = address(ends[0]), address(ends[2])
    local_port, remote_port = port(ends[1]), port(ends[3])
    if remote_ip is None and local_port is None:
        raise BadEventError("neither a remote address nor a local port")
    if remote_ip is None:
        # Of a socket that is not connected yet.
        remote_port = None
    return Event(
        *(time, host, "network", name, number(pid), text(user), protocol(transport)),
        *(local_ip, local_port or None, remote_ip, remote_port),
    )
