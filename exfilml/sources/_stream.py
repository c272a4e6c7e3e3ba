"""Flows of any length in bounded memory: tables of bounded size, one after the other.

pandas is loaded late, while the process that reads a capture starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from exfilml.exceptions import FlowsError, OptionError, SourceError, SourceWarning
from exfilml.sources._column_map import ColumnMap
from exfilml.sources._discover import (
    Columns,
    Source,
    expand,
    find_readers,
    lenders,
    summary,
)
from exfilml.sources._pool import WorkerPool
from exfilml.sources._reading import Options, Reader, Reading

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CHUNK: Final = 200_000
# No exporter counts further: the field has 32 bits, and rates in use end at 65,535.
MOST_SAMPLING: Final = 10**7


def iter_flows(
    source: Source | Iterable[Source],
    *,
    chunk: int = CHUNK,
    timezone: str | None = None,
    sampling: int | None = None,
    exports: bool = False,
    columns: Columns | None = None,
) -> Iterator[pd.DataFrame]:
    """Read captures, logs or stored flows tables in tables of bounded size.

    For what does not fit into memory at once. Files are read one after the other, by
    name; logs and Parquet files piece by piece, a capture at once.

    Parameters
    ----------
    source
        A file, several files, or a folder, as in `read_flows`.
    chunk
        The most rows of one table.
    timezone, sampling, exports, columns
        As in `read_flows`.

    Yields
    ------
    pandas.DataFrame
        Flows tables (`exfilml.schema`), each in order of start and with index
        0, 1, 2 …; none if there are no flows. Logs and captures are written in the
        order in which conversations end: the tables together are not in order of start.

    Raises
    ------
    SourceError
        If there is no such file, or nothing in it can be read.
    FlowsError
        If a Parquet file holds no flows table.
    OptionError
        If `chunk` or `sampling` is not 1 or more, or there is no such time zone.
    ColumnMapError
        If `columns` says what no column map can say.

    Warns
    -----
    SourceWarning
        As `read_flows`, after the last table.
    """
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise OptionError(f"chunk={chunk!r}: expected whole rows, 1 or more.")
    from exfilml.sources._headed import check_timezone

    check_timezone(timezone)
    check_sampling(sampling)
    paths, by_name = expand(source)
    explained = None if columns is None else ColumnMap.of(columns)
    readers, notes = find_readers(paths, named=by_name, columns=explained)
    asked = Asked(timezone, sampling, exports)
    return tables(readers, notes, chunk, asked)


class Asked(NamedTuple):
    """What files do not say themselves."""

    timezone: str | None
    sampling: int | None
    exports: bool


def check_sampling(rate: object) -> None:
    """Check that a sampling rate is one.

    Raises
    ------
    OptionError
        If it is not.
    """
    if rate is not None and not (
        isinstance(rate, int)
        and not isinstance(rate, bool)
        and 1 <= rate <= MOST_SAMPLING
    ):
        raise OptionError(
            f"sampling={rate!r}: expected one packet in how many, from 1 to "
            f"{MOST_SAMPLING:,}."
        )


def tables(
    readers: list[tuple[Path, Reader | SourceError]],
    notes: list[str],
    chunk: int,
    asked: Asked,
    together: tuple[Path, ...] | None = None,
) -> Iterator[pd.DataFrame]:
    """Read files one after the other; those whose templates serve may be others."""
    if together is None:
        together = lenders(readers)
    waiting: list[pa.Table | pd.DataFrame] = []
    failed: list[SourceError | FlowsError] = []
    losses: dict[str, list[str]] = {}
    with WorkerPool() as pool:
        options = Options(pool, together=together, **asked._asdict())
        for path, reader in readers:
            try:
                for reading in _pieces(path, reader, options):
                    for kind, text in reading.losses:
                        losses.setdefault(kind, []).append(text)
                    if len(reading.flows):
                        waiting.append(reading.flows)
                    if sum(map(len, waiting)) >= chunk:
                        yield from _cut(waiting, chunk, last=False)
            except (SourceError, FlowsError) as error:
                failed.append(error)
            except OSError as error:
                reason = f"cannot be read: {error.strerror or error}"
                failed.append(SourceError(f"{path}: {reason}."))
    yield from _cut(waiting, chunk, last=True)
    told = [*notes, *summary(failed, losses, len(readers))]
    for note in told:
        warnings.warn(note, SourceWarning, stacklevel=2)


def _pieces(
    path: Path, reader: Reader | SourceError, options: Options
) -> Iterator[Reading]:
    if isinstance(reader, SourceError):
        raise reader
    stream = getattr(reader, "stream", None)
    if stream is None:
        from exfilml.sources._tables import join

        # What readers of logs yield is checked line by line.
        reading = reader.read(path, options)
        tables = [reading.flows] if len(reading.flows) else []
        yield Reading(join(tables), reading.losses)
    else:
        yield from stream(path, options)


def _cut(
    waiting: list[pa.Table | pd.DataFrame], chunk: int, *, last: bool
) -> Iterator[pd.DataFrame]:
    """Yield full tables of what waits, and the rest of it at the end."""
    if not waiting:
        return
    import pyarrow as pa

    from exfilml.schema import complete_flows
    from exfilml.sources._logs import joined, to_frame
    from exfilml.sources._tables import in_order, rows_in_order

    every = joined(waiting)
    waiting.clear()
    start = 0
    while len(every) - start >= chunk or (last and start < len(every)):
        # Completed last: columns that are missing need no sorting.
        if isinstance(every, pa.Table):
            flows = to_frame(rows_in_order(every.slice(start, chunk)))
        else:
            flows = in_order(every.iloc[start : start + chunk])
        yield complete_flows(flows)
        start += chunk
    if start < len(every):
        waiting.append(
            every.slice(start) if isinstance(every, pa.Table) else every.iloc[start:]
        )
