"""What was seen before, of many cases at once.

Each case asks about the time before its own begin. Flows are therefore first added up
by day, and on days in which some case begins also by which of the begins they precede:
flow and begin then compare as whole numbers, and each case adds up a few rows instead
of all flows. How many that are does not depend on the number of cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.columns import START_DTYPE
from exfilml.exceptions import OptionError
from exfilml.history._engine import MOST_BYTES, saturated, to_pandas
from exfilml.history._manifest import DAY_US

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

SUBJECT: Final = ("case", "local_ip", "place", "service", "fingerprint", "before")
BY: Final = {
    "host_place_service": ("local_ip", "place", "service"),
    "host_place": ("local_ip", "place"),
    "place": ("place",),
    "host_service": ("local_ip", "service"),
    "host": ("local_ip",),
    "fingerprint": ("fingerprint",),
}
SEEN: Final = (
    *("case", "by", "flows", "days", "hosts", "first_seen", "last_seen"),
    *("up_bytes", "largest_day_up_bytes"),
)
_COUNTS: Final = ("flows", "days", "hosts", "up_bytes", "largest_day_up_bytes")
_KEYS: Final = ("local_ip", "place", "service", "fingerprint")


def check_subjects(subjects: pd.DataFrame) -> pd.DataFrame:
    """Return what is asked about, with its columns typed, and rows numbered.

    Raises
    ------
    OptionError
        If it is no such table.
    """
    if not isinstance(subjects, pd.DataFrame):
        raise OptionError(
            f"subjects: got {type(subjects).__name__}, expected a table with the "
            f"columns {', '.join(SUBJECT)}."
        )
    missing = [name for name in SUBJECT if name not in subjects]
    if missing:
        raise OptionError(
            f"subjects: columns missing: {', '.join(missing)}; expected "
            f"{', '.join(SUBJECT)}."
        )
    before = subjects["before"]
    if not isinstance(before.dtype, pd.DatetimeTZDtype) or before.isna().any():
        raise OptionError(
            f"subjects: before is {before.dtype}"
            f"{', with gaps' * bool(before.isna().any())}; expected times with a zone "
            f"({START_DTYPE}) in every row."
        )
    table = pd.DataFrame({name: subjects[name].astype("str") for name in SUBJECT[:-1]})
    table["before"] = before.astype(START_DTYPE)
    return table.reset_index(drop=True)


def seen(connection: duckdb.DuckDBPyConnection, subjects: pd.DataFrame) -> pd.DataFrame:
    """Add up what each case asks about, see `History.seen`."""
    begins = subjects["before"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    distinct, turn = np.unique(begins, return_inverse=True)
    _ask(connection, subjects, begins, turn)
    _add_up(connection, distinct)
    _meet(connection, "place")
    _meet(connection, "fingerprint")
    parts = []
    for by, columns in BY.items():
        found = to_pandas(connection.sql(_query(columns)).to_arrow_table())
        # Before rows are missing: as float64 large sums would be rounded.
        found = found.astype(dict.fromkeys(_COUNTS, "Int64"))
        found = found.set_index("asker").reindex(range(len(subjects)))
        found.index.name = None
        found.insert(0, "by", by)
        found.insert(0, "case", subjects["case"])
        told = subjects[list(columns)].notna().all(axis=1)
        for name in _COUNTS:
            found[name] = found[name].fillna(0)
            found.loc[~told, name] = pd.NA
        found["asker"] = np.arange(len(subjects))
        parts.append(found)
    table = pd.concat(parts).sort_values("asker", kind="stable", ignore_index=True)
    for name in ("first_seen", "last_seen"):
        table[name] = table[name].astype(START_DTYPE)
    return table[list(SEEN)].astype({"case": "str", "by": "str"})


def _ask(
    connection: duckdb.DuckDBPyConnection,
    subjects: pd.DataFrame,
    begins: NDArray[np.int64],
    turn: NDArray[np.int64],
) -> None:
    """Make the table ``asked``, and for each key one of its texts, ``asked_place`` etc.

    A text is known by a small number from here on.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {
        "asker": np.arange(len(subjects)),
        "turn": turn,
        "before": begins,
    }
    for name in _KEYS:
        codes, texts = pd.factorize(subjects[name])
        columns[name] = pa.array(codes, pa.int32(), mask=codes < 0)
        known = {name: pa.array(texts, pa.string()), "id": np.arange(len(texts))}
        connection.register(f"asked_{name}", pa.table(known))
    connection.register("asked", pa.table(columns))


def _add_up(connection: duckdb.DuckDBPyConnection, begins: NDArray[np.int64]) -> None:
    """Make the table ``near``: sums by host, place, service, fingerprint and day.

    What nobody asks about has no number: its flows add up to one row. ``turn`` is how
    many begins are not after a flow: one precedes the k-th begin if it is at most k.
    """
    import pyarrow as pa

    turns = np.arange(len(begins)) + 1
    connection.register("begins", pa.table({"moment": begins, "turn": turns}))
    # Days without a begin in their midst need no comparison by flow.
    inside = np.unique(begins[begins % DAY_US != 0] // DAY_US)
    connection.register("split_days", pa.table({"day": inside}))
    ids = ", ".join(f"asked_{name}.id AS {name}" for name in _KEYS)
    joins = " ".join(f"LEFT JOIN asked_{name} USING ({name})" for name in _KEYS)
    sums = (
        "count(*) AS n, sum(up_bytes) AS up, "
        "min(mine.moment) AS first, max(mine.moment) AS last"
    )
    keys = ", ".join(_KEYS)
    connection.execute(
        f"""
        CREATE TEMP TABLE near AS
        WITH mine AS NOT MATERIALIZED (
            SELECT {ids}, up_bytes, epoch_us(start) AS moment,
                epoch_us(start) // {DAY_US} AS day
            FROM flows {joins}
            WHERE start < make_timestamptz({_latest(begins)}) AND (
                asked_local_ip.id IS NOT NULL OR asked_place.id IS NOT NULL
                OR asked_fingerprint.id IS NOT NULL)
        ), whole AS (
            SELECT {keys}, day, {sums}
            FROM mine WHERE day NOT IN (SELECT day FROM split_days)
            GROUP BY {keys}, day
        )
        SELECT whole.*, coalesce(b.turn, 0) AS turn
        FROM whole ASOF LEFT JOIN begins b ON whole.first >= b.moment
        UNION ALL BY NAME
        SELECT {keys}, day, {sums}, coalesce(b.turn, 0) AS turn
        FROM (SELECT * FROM mine WHERE day IN (SELECT day FROM split_days)) mine
        ASOF LEFT JOIN begins b ON mine.moment >= b.moment
        GROUP BY {keys}, day, b.turn
        """  # noqa: S608 - names of columns and whole numbers only
    )


def _meet(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Make a table of which hosts met each place or fingerprint, and when first."""
    connection.execute(
        f"""
        CREATE TEMP TABLE met_{name} AS
        SELECT a.id AS {name}, local_ip, min(epoch_us(start)) AS first
        FROM flows JOIN asked_{name} a USING ({name}) GROUP BY a.id, local_ip
        """  # noqa: S608 - names of columns only
    )


def _latest(begins: NDArray[np.int64]) -> int:
    return int(begins[-1]) if len(begins) else 0


def _query(columns: tuple[str, ...]) -> str:
    """Write the query that adds up for each asker what its columns name."""
    keys = ", ".join(columns)
    # A place or a fingerprint is met by several hosts.
    met = (
        f"SELECT count(*) FROM met_{keys} m WHERE m.{keys} = d.{keys} "  # noqa: S608
        "AND m.first < d.before"
    )
    hosts = "1" if columns[0] == "local_ip" else f"({met})"
    return f"""
        WITH mine AS (
            SELECT {keys}, day, turn, sum(n) AS n, sum(up) AS up,
                min(first) AS first, max(last) AS last
            FROM near SEMI JOIN asked USING ({keys}) GROUP BY {keys}, day, turn
        ), daily AS (
            SELECT asker, {keys}, before, day, sum(n) AS n, sum(up) AS up,
                min(first) AS first, max(last) AS last
            FROM asked a JOIN mine m USING ({keys}) WHERE m.turn <= a.turn
            GROUP BY asker, {keys}, before, day
        ), d AS (
            SELECT asker, {keys}, before, CAST(sum(n) AS BIGINT) AS flows,
                count(*) AS days, make_timestamptz(min(first)) AS first_seen,
                make_timestamptz(max(last)) AS last_seen, {saturated("up")} AS up_bytes,
                CAST(least(max(up), {MOST_BYTES}) AS BIGINT) AS largest_day_up_bytes
            FROM daily GROUP BY asker, {keys}, before
        )
        SELECT asker, flows, days, {hosts} AS hosts, first_seen, last_seen, up_bytes,
            largest_day_up_bytes
        FROM d
    """  # noqa: S608 - names of columns only
