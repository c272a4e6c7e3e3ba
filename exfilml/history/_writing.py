"""How flows enter a store: staged as files that nobody knows, then known at once.

Flows come in tables of any size and order. Each is cut by day and written; of a day
with many small files those of one magnitude are merged, so that a row is rewritten a
few times at most, whatever the order in which it comes. Only the commit makes the files
part of the store.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exfilml.exceptions import HistoryError
from exfilml.history._engine import damage, engine, frame
from exfilml.history._locks import unread, unwritable
from exfilml.history._manifest import (
    Manifest,
    Part,
    clean,
    day_name,
    new_name,
    sync,
)
from exfilml.history._stored import IDENTITY, day_slices, start_us

if TYPE_CHECKING:
    import pyarrow as pa

# A day's files of one magnitude, from which on they are merged.
MOST_ALIKE: Final = 8
# Files of so many rows are large enough.
LARGE: Final = 4_000_000
ROW_GROUP: Final = 100_000
# Twelve years: more in one store are wrong clocks or forged times, a file for each.
MOST_DAYS: Final = 4_400


class Stage:
    """Files that are to become part of a store.

    Parameters
    ----------
    folder
        The store, whose lock the caller holds.
    manifest
        The state that stands.

    Attributes
    ----------
    gone, new
        What the next state lacks of the present one, and what it has more.
    known, added
        Rows that the store had already or that repeat one of this stage; and others.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.gone: set[Part] = set()
        self.new: list[Part] = []
        self.known = 0
        self.added = 0

    def add(self, table: pa.Table) -> None:
        """Stage flows, as `stored` gives them, that the store does not know.

        Raises
        ------
        HistoryError
            If a file of these days is damaged, or the days become too many.
        OSError
            If a file cannot be written.
        """
        slices = day_slices(table)
        days = {day for day, _ in slices}
        self._check_days(days)
        kept = self._unknown(table, days)
        self.known += len(table) - len(kept)
        self.added += len(kept)
        slices = slices if len(kept) == len(table) else day_slices(kept)
        self.new += [self.write("flows", day, rows) for day, rows in slices]
        for day, _ in slices:
            self._merge(day)

    def write(self, kind: str, day: int, rows: pa.Table) -> Part:
        """Write a file of rows in order of start."""
        import pyarrow.parquet as pq

        folder = self.folder / kind / f"day={day_name(day)}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / new_name()
        pq.write_table(
            rows,
            path,
            compression="zstd",
            row_group_size=ROW_GROUP,
            write_page_checksum=True,
        )
        return self._part(kind, day, path, rows)

    def current(self, kind: str) -> list[Part]:
        """Return the files of a kind in the next state."""
        stand = (part for part in self.manifest.of(kind) if part not in self.gone)
        return [*stand, *(part for part in self.new if part.kind == kind)]

    def replace(self, old: list[Part], new: list[Part]) -> None:
        """Put some files in the place of others, which are removed when unused."""
        self.gone |= set(old) & set(self.manifest.parts)
        staged = [part for part in old if part in self.new]
        self.new = [part for part in self.new if part not in staged] + new
        for part in staged:
            (self.folder / part.path).unlink(missing_ok=True)

    def commit(self) -> Manifest:
        """Make the staged files part of the store, and remove what is no longer.

        Raises
        ------
        OSError
            If the manifest cannot be written; the state before stands.
        """
        if not self.gone and not self.new:
            return self.manifest
        for folder in {(self.folder / part.path).parent for part in self.new}:
            sync(folder)
            sync(folder.parent)
        after = self.manifest.with_parts(self.gone, self.new)
        after.write(self.folder)
        self.manifest = after
        self.gone, self.new = set(), []
        sweep(self.folder, after)
        return after

    def discard(self) -> None:
        """Remove what was staged and is no part of the store.

        What the manifest on disk says counts: Ctrl-C may come when it is just written.

        Raises
        ------
        OSError, HistoryError
            If that cannot be told; the next writer removes it.
        """
        if not self.new:
            return
        stands = {part.path for part in Manifest.read(self.folder).parts}
        for part in self.new:
            if part.path not in stands:
                (self.folder / part.path).unlink(missing_ok=True)

    def _check_days(self, days: set[int]) -> None:
        every = {part.day for part in self.current("flows")} | days
        if len(every) > MOST_DAYS:
            raise HistoryError(
                f"{self.folder}: the flows would make it {len(every):,} days "
                f"({day_name(min(every))} to {day_name(max(every))}), a history has at "
                f"most {MOST_DAYS:,}: a clock is wrong, or times are forged. Leave out "
                "what is not of the time (--since, --until)."
            )

    def _unknown(self, table: pa.Table, days: set[int]) -> pa.Table:
        """Return the rows that neither the store nor the stage has."""
        start = start_us(table)
        low, high = int(start[0]), int(start[-1])
        near = [
            part
            for part in self.current("flows")
            if part.day in days and part.first <= high and part.last >= low
        ]
        if not near:
            return table
        same = " AND ".join(f"n.{name} = s.{name}" for name in IDENTITY)
        query = f"""
            WITH s AS (
                SELECT * FROM flows WHERE start >= make_timestamptz($low)
                AND start <= make_timestamptz($high)
            )
            SELECT n.row FROM incoming n SEMI JOIN s ON {same}
        """  # noqa: S608 - names of columns only
        incoming = table.select(list(IDENTITY)).append_column(
            "row", _numbers(len(table))
        )
        with engine(self.folder, near) as connection:
            connection.register("incoming", incoming)
            found = frame(connection, query, {"low": low, "high": high})
        kept = np.ones(len(table), dtype=bool)
        kept[found.column("row").to_numpy()] = False
        return table if kept.all() else table.filter(kept)

    def _merge(self, day: int) -> None:
        """Merge files of one magnitude where a day has many of them."""
        while True:
            mine = [p for p in self.current("flows") if p.day == day and p.rows < LARGE]
            sizes = Counter(_magnitude(part) for part in mine)
            magnitude = next((m for m, n in sizes.items() if n >= MOST_ALIKE), None)
            if magnitude is None:
                return
            alike = [part for part in mine if _magnitude(part) == magnitude]
            self.replace(alike, [self._merged(day, alike)])

    def _merged(self, day: int, parts: list[Part]) -> Part:
        import duckdb

        folder = self.folder / "flows" / f"day={day_name(day)}"
        path = folder / new_name()
        with engine(self.folder, parts) as connection:
            connection.execute("SET preserve_insertion_order = true")
            ordered = connection.sql("SELECT * FROM flows ORDER BY start")
            try:
                ordered.write_parquet(
                    str(path.absolute()), compression="zstd", row_group_size=ROW_GROUP
                )
            except duckdb.IOException as error:
                path.unlink(missing_ok=True)
                if any(damage(self.folder, part) for part in parts):
                    raise
                # What is read is whole: it is the writing that failed.
                raise OSError(str(error)) from error
        sync(path)
        return Part(
            *("flows", day, path.name, sum(part.rows for part in parts)),
            path.stat().st_size,
            min(part.first for part in parts),
            max(part.last for part in parts),
        )

    def _part(self, kind: str, day: int, path: Path, rows: pa.Table) -> Part:
        sync(path)
        start = start_us(rows)
        return Part(
            *(kind, day, path.name, len(rows), path.stat().st_size),
            int(start.min()),
            int(start.max()),
        )


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove files that are not part of the store, if nobody is reading.

    What cannot be removed is left to the next writer.
    """
    with suppress(OSError), unread(folder) as free:
        if free:
            clean(folder, manifest)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into ours."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error) from error


def _magnitude(part: Part) -> int:
    return int(math.log(max(part.rows, 1), MOST_ALIKE))


def _numbers(n: int) -> Any:
    import pyarrow as pa

    return pa.array(np.arange(n, dtype=np.int64))
