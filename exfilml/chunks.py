"""Flows that come in pieces: their order, where they are cut, and bounded samples.

Sums of floating-point numbers depend on the order of addition, so what is learned from
a long stream would depend on how it happens to be cut. `in_chunks` cuts it anew, at
places that the flows alone determine: a model then depends on its flows, and on
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import BaselineError
from exfilml.schema import complete_flows, validate_flows
from exfilml.tally import grouped, united

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Ties in time are broken by content, so that row order does not matter.
TIME_ORDER: Final = ["start", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
# What is learned from; other columns only tell reasons, or who saw a flow.
LEARNED: Final = (
    *TIME_ORDER,
    *("src_bytes", "dst_bytes", "src_packets", "dst_packets", "conn_state"),
    *("app", "app_verified", "server_name", "fingerprint", "user_agent", "process"),
    *("first_speaker", "via"),
    *(
        f"{side}_{name}"
        for side in ("src", "dst")
        for name in (
            *("payload_bytes", "sampled_bytes", "concealed", "handshake"),
            *("declared", "misdeclared", "carried_bytes"),
        )
    ),
)
# Rows of a chunk, and a few more.
CHUNK: Final = 250_000
MINUTE_US: Final = 60_000_000
# Rows that teach a forest and its edges: 200 trees draw 256 each.
MOST_EVIDENCE: Final = 250_000


def starts(flows: pd.DataFrame) -> NDArray[np.int64]:
    """Return when each flow starts, microseconds from 1970."""
    return flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)


def in_time_order(flows: pd.DataFrame) -> pd.DataFrame:
    """Return validated flows in `TIME_ORDER`, equal ones by the rest of their content.

    Flows that nothing learned from tells apart stay as given. Index 0, 1, 2 ….
    """
    return _taken(flows, _time_order(flows))


def _taken(flows: pd.DataFrame, places: NDArray[np.int64]) -> pd.DataFrame:
    """Return rows in an order, with an index of their own."""
    if (places[1:] > places[:-1]).all():
        return flows.reset_index(drop=True)
    return flows.take(places).reset_index(drop=True)


def _time_order(flows: pd.DataFrame) -> NDArray[np.int64]:
    """Return the place of each row of validated flows in `TIME_ORDER`."""
    start = starts(flows)
    places = np.arange(len(flows))
    if (start[1:] < start[:-1]).any():
        places = np.argsort(start, kind="stable")
        start = start[places]
    same = start[1:] == start[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    if len(tied):
        rows = places[tied]
        ends = flows[TIME_ORDER].take(rows).reset_index(drop=True)
        order = ends.sort_values(TIME_ORDER).index.to_numpy(copy=True)
        ends = ends.take(order)
        alike = np.flatnonzero(ends.duplicated(TIME_ORDER, keep=False).to_numpy())
        if len(alike):
            learned = flows[list(LEARNED)].take(rows[order[alike]])
            content = pd.util.hash_pandas_object(learned, index=False).to_numpy()
            group = ends.iloc[alike].groupby(TIME_ORDER, sort=False).ngroup()
            order[alike] = order[alike][np.lexsort((content, group.to_numpy()))]
        places[tied] = rows[order]
    return places


def in_chunks(
    tables: Iterable[pd.DataFrame], n_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Cut flows anew, into tables that do not depend on how they were cut before.

    Parameters
    ----------
    tables
        Flows tables, in order of time from one to the next.
    n_rows
        A chunk ends with the minute that its flow of this number lies in; `None` for
        `CHUNK`. What starts within one minute has to fit into memory.

    Yields
    ------
    pandas.DataFrame
        Validated flows tables in `TIME_ORDER`; what nothing is learned from is missing.

    Raises
    ------
    FlowsError
        If one is no flows table.
    BaselineError
        If a table begins before the end of the one before.
    """
    most = CHUNK if n_rows is None else n_rows
    kept: list[pd.DataFrame] = []
    size, latest = 0, -1
    for table in tables:
        if not isinstance(table, pd.DataFrame):
            # Refuses it.
            validate_flows(table)
        if len(table) == 0:
            continue
        more = table[[name for name in LEARNED if name in table]]
        if "start" not in more:
            validate_flows(more)
        start = starts(more)
        if start.min() < latest:
            first, last = (np.datetime64(int(t), "us") for t in (start.min(), latest))
            raise BaselineError(
                f"A table begins at {first} UTC, before the end of the one before, "
                f"{last} UTC. Give tables in order of time."
            )
        latest = int(start.max())
        kept.append(more)
        size += len(more)
        while size >= most:
            start = np.concatenate([starts(t) for t in kept])
            nth = np.partition(start, most - 1)[most - 1]
            end = (nth // MINUTE_US + 1) * MINUTE_US
            # The minute may go on.
            if end > latest:
                break
            early = [t if starts(t).max() < end else t[starts(t) < end] for t in kept]
            kept = [t[starts(t) >= end] for t in kept if starts(t).max() >= end]
            size = sum(map(len, kept))
            yield _checked(_joined(early))
    if kept:
        yield _checked(_joined(kept))


def _checked(flows: pd.DataFrame) -> pd.DataFrame:
    """Check flows and put them in order; columns that are missing need no sorting."""
    checked = validate_flows(flows)
    return complete_flows(_taken(checked[list(flows)], _time_order(checked)))


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put tables together; columns that only some of them have are filled up."""
    tables = [table for table in tables if len(table)]
    if len(tables) == 1:
        return tables[0].reset_index(drop=True)
    if any(not t.columns.equals(tables[0].columns) for t in tables):
        tables = [validate_flows(table)[list(LEARNED)] for table in tables]
    return pd.concat(tables, ignore_index=True)


class Sample:
    """A bounded sample of rows that their content picks: those of the smallest hashes.

    Of a stream of any length `most` rows are kept; which ones depends neither on how
    it was cut nor on the place of a row in it.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = MOST_EVIDENCE if most is None else most
        self._parts: list[tuple[NDArray[np.uint64], NDArray[np.float64]]] = []
        self._size = 0
        # From here on nothing is wanted; `None` for all.
        self._limit: np.uint64 | None = None

    def wanted(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return which rows may still be of the sample, so that others cost nothing."""
        if self._limit is None:
            return np.arange(len(hashes))
        return np.flatnonzero(hashes < self._limit)

    def add(self, hashes: NDArray[np.uint64], rows: NDArray[np.float64]) -> None:
        """Add rows, shape (n_rows, n_columns), with a hash each."""
        self._parts.append((hashes, rows))
        self._size += len(hashes)
        # Pruned seldom, in half again the memory.
        if self._size > self.most + self.most // 2:
            self._prune()

    def _prune(self) -> None:
        hashes, rows = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        if len(hashes) > self.most:
            smallest = np.argsort(hashes, kind="stable")[: self.most]
            self._limit = hashes[smallest[-1]]
            keep = np.sort(smallest)
            hashes, rows = hashes[keep], rows[keep]
        self._parts, self._size = [(hashes, rows)], len(hashes)

    def rows(self) -> NDArray[np.float64]:
        """Return the sample in the order in which its rows came."""
        self._prune()
        return self._parts[0][1]


class Largest:
    """The largest value of each key, and what was last said of it."""

    def __init__(self) -> None:
        self.keys: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self.values: NDArray[np.float64] = np.empty(0)
        self.flags: NDArray[np.bool_] = np.empty(0, dtype=bool)

    def add(
        self,
        keys: NDArray[np.uint64],
        values: NDArray[np.float64],
        flags: NDArray[np.bool_],
    ) -> None:
        """Add rows, all of shape (n_rows,)."""
        first, group = grouped(keys)
        largest = np.full(len(first), -np.inf)
        np.maximum.at(largest, group, values)
        last = np.empty(len(first), dtype=bool)
        # Of several values for one place the last stays.
        last[group] = flags
        every, mine, theirs = united(self.keys, keys[first])
        both = np.full(len(every), -np.inf)
        both[mine] = self.values
        both[theirs] = np.maximum(both[theirs], largest)
        said = np.empty(len(every), dtype=bool)
        said[mine] = self.flags
        said[theirs] = last
        self.keys, self.values, self.flags = every, both, said
