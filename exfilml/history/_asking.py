"""Questions to the flows of a store: what was seen, when, how much."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import OptionError
from exfilml.history._engine import MOST_BYTES, frame, saturated, to_pandas
from exfilml.history._manifest import DAY_US
from exfilml.networks import Networks, address_numbers
from exfilml.spool import Span

if TYPE_CHECKING:
    import duckdb

DEFAULT_BY: Final = ("host", "place", "service")
# What a row of a query may stand for: column of the store.
GROUPS: Final = {
    "host": "local_ip",
    "place": "place",
    "service": "service",
    "address": "remote_ip",
    "fingerprint": "fingerprint",
    "server_name": "server_name",
    "app": "app",
    "process": "process",
    "user_agent": "user_agent",
    "direction": "direction",
    "protocol": "protocol",
    "dst_port": "dst_port",
    "source": "source",
    "day": f"make_timestamptz(epoch_us(start) // {DAY_US} * {DAY_US})",
}
TOTALS: Final = (
    *("flows", "days", "hosts", "first_seen", "last_seen"),
    *("up_bytes", "down_bytes", "largest_day_up_bytes"),
)


def check_groups(by: str | Iterable[str]) -> tuple[str, ...]:
    """Return what a row of the answer is to stand for.

    Raises
    ------
    OptionError
        If it is nothing that flows are told apart by.
    """
    names = (by,) if isinstance(by, str) else tuple(by)
    if not names or len(set(names)) < len(names) or not set(names) <= set(GROUPS):
        raise OptionError(
            f"by={list(names)!r}: expected one or more of {', '.join(GROUPS)}, each "
            "once."
        )
    return names


def span_of_time(since: Any, until: Any) -> Span:
    """Return the time that is meant.

    Parameters
    ----------
    since, until
        A timestamp with a zone, a date or time in ISO 8601 (UTC), or `None`.

    Raises
    ------
    OptionError
        If one is neither, or nothing lies between.
    """

    def text(value: Any) -> str | None:
        return value if value is None or isinstance(value, str) else value.isoformat()

    try:
        return Span.parse(text(since), text(until))
    except AttributeError:
        raise OptionError(
            f"since={since!r}, until={until!r}: expected dates or times."
        ) from None


def totals(
    connection: duckdb.DuckDBPyConnection,
    *,
    by: tuple[str, ...],
    equal: dict[str, str | None],
    networks: Sequence[str],
    span: Span,
    limit: int | None,
) -> pd.DataFrame:
    """Add up the flows that are meant, see `History.query`."""
    where, values = _conditions(equal, span)
    if networks:
        _keep_networks(connection, networks, where, values)
        where.append("remote_ip IN (SELECT address FROM within)")
    keys = [f"{GROUPS[name]} AS {_quoted(name)}" for name in by]
    names = ", ".join(_quoted(name) for name in by)
    condition = " AND ".join(where) or "true"
    # By day and host first: what is counted once is few rows then.
    query = f"""
        WITH daily AS (
            SELECT {", ".join(keys)}, local_ip AS own,
                epoch_us(start) // {DAY_US} AS its_day, count(*) AS n,
                min(start) AS first, max(start) AS last,
                sum(up_bytes) AS up, sum(down_bytes) AS down
            FROM flows WHERE {condition} GROUP BY ALL
        ), by_day AS (
            SELECT {names}, its_day, sum(n) AS n, min(first) AS first,
                max(last) AS last, sum(up) AS up, sum(down) AS down
            FROM daily GROUP BY {names}, its_day
        ), by_host AS (
            SELECT {names}, count(DISTINCT own) AS hosts FROM daily GROUP BY {names}
        ), every AS (
            SELECT {names}, CAST(sum(n) AS BIGINT) AS flows, count(*) AS days,
                min(first) AS first_seen, max(last) AS last_seen,
                {saturated("up")} AS up_bytes, {saturated("down")} AS down_bytes,
                CAST(least(max(up), {MOST_BYTES}) AS BIGINT) AS largest_day_up_bytes
            FROM by_day GROUP BY {names}
        )
        SELECT {", ".join(f"e.{_quoted(name)}" for name in by)},
            {", ".join(TOTALS)}
        FROM every e JOIN by_host h
            ON {" AND ".join(_same(name) for name in by)}
        ORDER BY up_bytes DESC, {", ".join(f"e.{_quoted(name)}" for name in by)}
    """  # noqa: S608 - names of columns only; what is asked for are parameters
    if limit is not None:
        query += " LIMIT $most"
        values["most"] = limit
    return to_pandas(frame(connection, query, values))


def _same(name: str) -> str:
    return f"e.{_quoted(name)} IS NOT DISTINCT FROM h.{_quoted(name)}"


def _quoted(name: str) -> str:
    """Quote a name of `GROUPS`: some are words of SQL."""
    return f'"{name}"'


def _conditions(
    equal: dict[str, str | None], span: Span
) -> tuple[list[str], dict[str, Any]]:
    where: list[str] = []
    values: dict[str, Any] = {}
    for column, text in equal.items():
        if text is not None:
            where.append(f"{column} = ${column}")
            values[column] = text
    for name, moment, sign in (("since", span.since, ">="), ("until", span.until, "<")):
        if moment is not None:
            where.append(f"start {sign} make_timestamptz(${name})")
            values[name] = microseconds(moment)
    return where, values


def microseconds(moment: pd.Timestamp) -> int:
    """Return a time as microseconds since 1970."""
    return int(moment.as_unit("us").asm8.astype(np.int64))


def check_network(name: str, text: str) -> str:
    """Return an address or a network in canonical notation.

    Raises
    ------
    OptionError
        If it is none.
    """
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise OptionError(
            f"{name}={text!r}: {error}; expected an address or a network such as "
            "203.0.113.0/24."
        ) from None


def _keep_networks(
    connection: duckdb.DuckDBPyConnection,
    networks: Sequence[str],
    where: list[str],
    values: dict[str, Any],
) -> None:
    """Make a table ``within`` of the remote addresses in all of some networks."""
    import pyarrow as pa

    condition = " AND ".join(where) or "true"
    query = f"SELECT DISTINCT remote_ip FROM flows WHERE {condition}"  # noqa: S608
    every = frame(connection, query, values).column("remote_ip").to_pylist()
    inside = np.ones(len(every), dtype=bool)
    numbers = address_numbers(every)
    for text in networks:
        inside &= Networks.parse([text]).among(numbers)
    kept = [text for text, there in zip(every, inside, strict=True) if there]
    connection.register("within", pa.table({"address": pa.array(kept, pa.string())}))
