"""The outside world in, flows tables out; one file per format.

`read_flows` is the door for everything. A format is a module with ``detect`` and
``read``, listed in `READERS`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exfilml.exceptions import FlowsError, OptionError, SourceError, SourceWarning
from exfilml.sources._column_map import ColumnMap
from exfilml.sources._discover import (
    READERS,
    Columns,
    Source,
    expand,
    find_readers,
    is_read,
    lenders,
    summary,
)
from exfilml.sources._doctor import examine
from exfilml.sources._labels import read_labels
from exfilml.sources._parquet import read_parquet
from exfilml.sources._pool import WorkerPool
from exfilml.sources._reading import Options, Reader, Reading
from exfilml.sources._store import write_flows
from exfilml.sources._stream import check_sampling, iter_flows
from exfilml.sources._survey import survey

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "READERS",
    "examine",
    "is_read",
    "iter_flows",
    "read_flows",
    "read_labels",
    "read_parquet",
    "survey",
    "write_flows",
]


def read_flows(
    source: Source | Iterable[Source],
    *,
    n_jobs: int | None = None,
    progress: bool | None = None,
    bpf_filter: str | None = None,
    idle_timeout: int = 120,
    active_timeout: int = 1800,
    decode_tunnels: bool = True,
    timezone: str | None = None,
    sampling: int | None = None,
    exports: bool = False,
    columns: Columns | None = None,
) -> pd.DataFrame:
    """Read captures, logs or stored flows tables into one flows table.

    Parameters
    ----------
    source
        A file, several files, or a folder, which is searched with its subfolders.
        The format is told from the content, not the name.
    n_jobs
        Files read at the same time; None or -1 for one per available core. A capture is
        read by one process, which then waits a minute for the next call.
    progress
        Whether to show progress on stderr; None for "if stderr is a terminal".
    bpf_filter
        For captures: keep what matches, in the language of tcpdump.
    idle_timeout
        Seconds of silence that end a flow, in captures and where a log's records are
        put together to flows.
    active_timeout
        For captures: seconds after which the packet engine reports a flow that goes
        on. Its parts are joined again, so the table does not depend on it.
    decode_tunnels
        For captures: whether flows inside tunnels (GTP, TZSP …) are shown as flows.
    timezone
        For logs in local time that do not say where (nfdump's CSV, Argus, some
        firewalls): the time zone's name, such as ``"Europe/Prague"`` or ``"UTC"``.
    sampling
        For NetFlow, IPFIX, nfdump and SiLK: one packet in how many was looked at, where
        the exporter does not tell, which cannot be seen in the counts. Bytes and
        packets are multiplied by it, or by what the exporter tells.
    exports
        For captures: whether to read the flows in the NetFlow and IPFIX that exporters
        sent, instead of the packets. Never told from the content: with a few forged
        datagrams an attacker could hide the rest of a capture.
    columns
        For tables of other tools: a TOML file that says what their columns mean, or
        what it would say.

    Returns
    -------
    pandas.DataFrame
        A flows table (`exfilml.schema`) in order of start, index 0, 1, 2 …; ``sensor``
        is the file's name. With no flows it has no rows, and all columns.

    Raises
    ------
    SourceError
        If there is no such file, or nothing in it can be read.
    FlowsError
        If a Parquet file holds no flows table.
    OptionError
        If an option has an impossible value.
    ColumnMapError
        If `columns` says what no column map can say.

    Warns
    -----
    SourceWarning
        If a file is damaged, holds no IP packets, or, among several, cannot be read:
        with counts, and the first ones by name.
    """
    _check_options(n_jobs, bpf_filter, idle_timeout, active_timeout)
    check_sampling(sampling)
    if exports and bpf_filter is not None:
        raise OptionError("bpf_filter with exports=True: expected one of them.")
    if timezone is not None:
        from exfilml.sources._headed import check_timezone

        check_timezone(timezone)
    paths, named = expand(source)
    explained = None if columns is None else ColumnMap.of(columns)
    readers, notes = find_readers(paths, named=named, columns=explained)
    jobs = min(
        _available_cores() if n_jobs in (None, -1) else n_jobs or 1, len(readers)
    )
    shown = _terminal() if progress is None else progress
    readings: list[Reading | SourceError | FlowsError] = []
    total = sum(path.stat().st_size for path, _ in readers if path.exists())
    with (
        _progress(total, shown=shown) as advance,
        ThreadPoolExecutor(max_workers=jobs) as threads,
        # Left first: ending the workers frees the threads that wait for them.
        WorkerPool() as pool,
    ):
        options = Options(
            *(pool, bpf_filter, idle_timeout, active_timeout, decode_tunnels, advance),
            timezone=timezone,
            sampling=sampling,
            exports=exports,
            together=lenders(readers),
        )
        futures = [
            threads.submit(_read_one, path, reader, options) for path, reader in readers
        ]
        try:
            # Loads pandas, while the workers start.
            from exfilml.sources._tables import join

            readings.extend(future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()
    read = _sound(readings, notes)
    flows = join(reading.flows for reading in read if len(reading.flows))
    for note in notes:
        warnings.warn(note, SourceWarning, stacklevel=2)
    return flows


def _terminal() -> bool:
    """Say whether there is a terminal to show progress on."""
    return sys.stderr is not None and sys.stderr.isatty()


def _check_options(
    n_jobs: int | None, bpf_filter: str | None, idle_timeout: int, active_timeout: int
) -> None:
    if n_jobs is not None and not (_is_whole(n_jobs) and (n_jobs > 0 or n_jobs == -1)):
        raise OptionError(f"n_jobs={n_jobs!r}: expected 1 or more, -1 or None.")
    if bpf_filter is not None and not (
        isinstance(bpf_filter, str) and bpf_filter.isprintable()
    ):
        raise OptionError(f"bpf_filter={bpf_filter!r}: expected text or None.")
    for name, value in (
        ("idle_timeout", idle_timeout),
        ("active_timeout", active_timeout),
    ):
        if not _is_whole(value) or not 1 <= value <= 10**9:
            raise OptionError(f"{name}={value!r}: expected whole seconds, 1 or more.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_one(
    path: Path, reader: Reader | SourceError, options: Options
) -> Reading | SourceError | FlowsError:
    """Read a file; hand errors over that concern this file alone."""
    if isinstance(reader, SourceError):
        return reader
    size = path.stat().st_size
    read = 0

    def advance(step: int) -> None:
        nonlocal read
        step = min(step, size - read)
        read += step
        options.advance(step)

    try:
        reading = reader.read(path, replace(options, advance=advance))
    except (SourceError, FlowsError) as error:
        return error
    except OSError as error:
        return SourceError(f"{path}: cannot be read: {error.strerror or error}.")
    advance(size)
    return reading


def _sound(
    readings: list[Reading | SourceError | FlowsError], notes: list[str]
) -> list[Reading]:
    """Return what could be read; note what was lost."""
    failed = [r for r in readings if not isinstance(r, Reading)]
    read = [r for r in readings if isinstance(r, Reading)]
    losses: dict[str, list[str]] = {}
    for kind, text in (loss for reading in read for loss in reading.losses):
        losses.setdefault(kind, []).append(text)
    notes += summary(failed, losses, len(readings))
    return read


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar over the bytes of all files on stderr, and clear it at the end."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        "reading",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("reading", total=total)
        yield lambda step: bar.advance(task, step)
