"""Flows of months, on disk by day, so that they stream in order of time.

Files of a site come in any order, unsorted and overlapping. A first pass reads each of
them once and writes its flows into Parquet files by UTC day, a row group for each hour;
a second pass reads hour by hour from all of them. So what is in memory is a chunk of a
file of the first pass for each worker (of a capture, the whole file), and one hour of
the second: **the flows of an hour have to fit into memory**.

A source is in the spool whole or not at all: it is written into a folder of another
name, with ``source.json`` as the last file, and renamed when it is complete. A run that
was interrupted therefore goes on with the next file, and nothing is there twice. The
folder's name is a hash of path, size and time of change, and of what was asked for, so
that a file that has changed is read again.

One file because what is written and what is read back must agree.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import secrets
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd

from exfilml import __version__
from exfilml.chunks import CHUNK, LEARNED, starts
from exfilml.columns import DTYPES
from exfilml.exceptions import (
    BaselineError,
    FlowsError,
    OptionError,
    OutputError,
    SourceError,
    SourceWarning,
)
from exfilml.places import PublicEnds
from exfilml.schema import validate_flows
from exfilml.sources import _parquet, iter_flows, read_flows
from exfilml.sources._column_map import ColumnMap
from exfilml.sources._discover import (
    Columns,
    Source,
    expand,
    find_readers,
    first_few,
    summary,
)

FORMAT: Final = "exfilml-spool-1"
ABOUT: Final = "source.json"
HOUR_US: Final = 3_600_000_000
DAY_HOURS: Final = 24
# Files that are open at once.
MOST_OPEN: Final = 64

# Called with flows read so far, and the share of the bytes that they are.
Report = Callable[[int, float], None]
# Name of a file; of each of its row groups the hour and the number of flows.
Part = tuple[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Span:
    """From when on and until when flows start that are meant; `None` for any time.

    Attributes
    ----------
    since
        The first moment that belongs to it.
    until
        The first one that does not.
    """

    since: pd.Timestamp | None = None
    until: pd.Timestamp | None = None

    @classmethod
    def parse(cls, since: str | None, until: str | None) -> Span:
        """Read dates or times of ISO 8601; UTC where no offset is given.

        Raises
        ------
        OptionError
            If one is none, or nothing lies between them.
        """
        span = cls(_time("since", since), _time("until", until))
        if span.since and span.until and span.since >= span.until:
            raise OptionError(
                f"since {since}, until {until}: nothing lies between; give a later "
                "end (a date means its 00:00 UTC)."
            )
        return span

    def of(self, flows: pd.DataFrame) -> pd.DataFrame:
        """Return the flows that start in it."""
        start, inside = flows["start"], np.ones(len(flows), dtype=bool)
        if self.since is not None:
            inside &= (start >= self.since).to_numpy()
        if self.until is not None:
            inside &= (start < self.until).to_numpy()
        return flows if inside.all() else flows[inside]

    def __str__(self) -> str:
        ends = (("since", self.since), ("until", self.until))
        said = [f"{word} {t:%Y-%m-%d %H:%M}" for word, t in ends if t is not None]
        return " ".join(said) or "of any time"


def _time(name: str, text: str | None) -> pd.Timestamp | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise OptionError(
            f"{name}: got {text!r}, expected a date or time in UTC such as 2026-03-01 "
            "or 2026-03-01T06:30."
        ) from None
    return pd.Timestamp(time)


@dataclass
class About:
    """What is known of a source in the spool, as ``source.json`` has it.

    Attributes
    ----------
    path, size, mtime_ns
        Which file it was.
    rows
        Its flows, those of the time asked for.
    columns
        Columns that any of them shows.
    parts
        Name of each Parquet file, and of each of its row groups the hour (UTC, since
        1970) and the number of flows.
    n_ends, pairs
        `exfilml.places.PublicEnds`.
    losses
        What could not be read.
    """

    path: str
    size: int
    mtime_ns: int
    rows: int = 0
    columns: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    n_ends: int = 0
    pairs: list[tuple[str, str, int]] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    @property
    def ends(self) -> PublicEnds:
        """Between which networks the flows go."""
        return PublicEnds(self.n_ends, {(a, b): n for a, b, n in self.pairs})


class Spool:
    """Flows on disk, in order of time.

    Parameters
    ----------
    folder
        Where; it is made if it is not there.
    span
        Which flows are meant.
    timezone, sampling, exports, columns
        As of `exfilml.read_flows`.
    also
        Columns to keep beside those that are learned from.

    Attributes
    ----------
    sources
        What `fill` found or read, in no order that matters.

    Examples
    --------
    >>> spool = Spool(Path("/data/spool"))  # doctest: +SKIP
    >>> spool.fill("/data/flows")  # doctest: +SKIP
    >>> detector.fit_stream(
    ...     spool.tables(), spool.n_flows, home=spool.home
    ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: Path,
        span: Span | None = None,
        timezone: str | None = None,
        *,
        sampling: int | None = None,
        exports: bool = False,
        columns: Columns | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        self.folder = Path(folder)
        self.names = (*LEARNED, *also)
        self.span = Span() if span is None else span
        self.asked: dict[str, Any] = {
            "timezone": timezone,
            "sampling": sampling,
            "exports": exports,
            "columns": None if columns is None else ColumnMap.of(columns),
        }
        self.sources: dict[str, About] = {}

    @property
    def n_flows(self) -> int:
        """Number of flows."""
        return sum(about.rows for about in self.sources.values())

    @property
    def home(self) -> tuple[str, ...]:
        """Home networks as all flows suggest them, see `infer_networks`."""
        every = (about.ends for about in self.sources.values())
        return functools.reduce(PublicEnds.merge, every, PublicEnds()).networks()

    def fill(
        self,
        source: Source | Iterable[Source],
        *,
        n_jobs: int = 1,
        progress: bool | None = False,
        report: Report | None = None,
    ) -> None:
        """Read what the spool does not hold yet.

        Parameters
        ----------
        source
            As of `exfilml.read_flows`.
        n_jobs
            Files read at the same time, each by a process of its own.
        progress
            Whether to show a bar for each file; for one file at a time.
        report
            Is told how far it is.

        Raises
        ------
        SourceError, FlowsError
            If nothing can be read.
        BaselineError
            If no flow is of the time asked for.
        OutputError
            If the folder cannot be written, or another run is using it.
        OptionError
            If the folder holds the sources.

        Warns
        -----
        SourceWarning
            If a file is damaged or, among several, cannot be read.
        """
        paths, named = expand(source)
        own = self.folder.resolve()
        # Once, under whatever names a file was given.
        files = list({path.resolve(): path for path in paths}.values())
        if any(own in file.resolve().parents for file in files):
            raise OptionError(
                f"{self.folder}: holds files that are to be read; the spool needs a "
                "folder of its own."
            )
        readers, notes = find_readers(files, named=named, columns=self.asked["columns"])
        failed: list[SourceError | FlowsError] = [
            r for _, r in readers if isinstance(r, SourceError)
        ]
        good = [p for p, r in readers if not isinstance(r, SourceError)]
        total = sum(path.stat().st_size for path in good if path.exists()) or 1
        read = 0
        with self._held():
            for path, found in self._read(good, n_jobs, progress):
                if isinstance(found, About):
                    name = self._name(path, found.size, found.mtime_ns)
                    self.sources[name] = found
                else:
                    failed.append(found)
                read += path.stat().st_size if path.exists() else 0
                if report is not None:
                    report(self.n_flows, min(read / total, 1.0))
        self._tell(notes, sorted(failed, key=str), len(readers))

    def _tell(
        self,
        notes: list[str],
        failed: list[SourceError | FlowsError],
        n_files: int,
    ) -> None:
        """Say what could not be read, and refuse to go on with nothing."""
        notes += summary(failed, {}, n_files)
        every = sorted(self.sources.values(), key=lambda about: about.path)
        losses = [text for about in every for text in about.losses]
        if len(losses) > 1:
            notes.append(f"{len(losses):,} losses. {first_few(losses)}.")
        else:
            notes.extend(losses)
        for note in notes:
            warnings.warn(note, SourceWarning, stacklevel=3)
        if self.n_flows == 0 and self.span != Span():
            raise BaselineError(
                f"None of {len(every):,} files holds flows {self.span}. Give others, "
                "or another time."
            )

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be written: {error.strerror or error}. Choose "
                "a folder for the spool that you may write to."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"{self.folder}: another run is using this spool; wait for it, or "
                    "choose another folder."
                ) from None
            # What an interrupted run left.
            for part in self.folder.glob("*.part"):
                shutil.rmtree(part, ignore_errors=True)
            yield

    def _read(
        self, files: list[Path], n_jobs: int, progress: bool | None
    ) -> Iterator[tuple[Path, About | SourceError | FlowsError]]:
        """Give what the spool holds, then read the others."""
        left = []
        for path in files:
            try:
                about = self._known(path)
            except OSError as error:
                yield path, SourceError(f"{path}: cannot be read: {error.strerror}.")
                continue
            if about is None:
                left.append(path)
            else:
                yield path, about
        if n_jobs == 1 or len(left) < 2:
            for path in left:
                yield path, self._store(path, progress=progress)
            return
        # The order in which they end must not matter, and does not.
        parallel = joblib.Parallel(
            n_jobs=min(n_jobs, len(left)), return_as="generator_unordered"
        )
        also = self.names[len(LEARNED) :]
        worker = Spool(self.folder, self.span, **self.asked, also=also)
        with _deaf():
            read = parallel(joblib.delayed(_in_worker)(worker, path) for path in left)
        yield from read

    def _known(self, path: Path) -> About | None:
        status = path.stat()
        name = self._name(path, status.st_size, status.st_mtime_ns)
        try:
            text = (self.folder / name / ABOUT).read_text(encoding="utf-8")
            return About(**json.loads(text))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> OutputError:
        return OutputError(
            f"{self.folder}: the spool is damaged ({str(error)[:200]}). Remove the "
            "folder, and train again."
        )

    def _name(self, path: Path, size: int, mtime_ns: int) -> str:
        """Name the folder of a source; of another state of a file it is another."""
        asked = dict(self.asked)
        if asked["columns"] is not None and not asked["columns"].covers(path):
            asked["columns"] = None
        told = f"{self.span!r}\t{asked}"
        if self.names != LEARNED:
            told += f"\t{self.names}"
        text = f"{__version__}\t{FORMAT}\t{path.resolve()}\t{size}\t{mtime_ns}\t{told}"
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8)
        return digest.hexdigest()

    def _store(
        self, path: Path, *, progress: bool | None = False
    ) -> About | SourceError | FlowsError:
        """Read one file into the spool; hand errors over that concern it alone."""
        status = path.stat()
        name = self._name(path, status.st_size, status.st_mtime_ns)
        part = self.folder / f"{name}-{secrets.token_hex(4)}.part"
        try:
            part.mkdir()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", SourceWarning)
                about = self._written(path, status, part, progress=progress)
            about.losses.extend(
                str(w.message) for w in caught if issubclass(w.category, SourceWarning)
            )
            (part / ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8")
            part.rename(self.folder / name)
        except (SourceError, FlowsError) as error:
            return error
        except OSError as error:
            raise OutputError(
                f"{self.folder}: flows cannot be kept there: {error.strerror or error}. "
                "Make room, or choose another folder for the spool (train --spool DIR)."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return about

    def _written(
        self, path: Path, status: os.stat_result, folder: Path, *, progress: bool | None
    ) -> About:
        """Write the flows of a file, and return what is known of them."""
        about = About(str(path), status.st_size, status.st_mtime_ns)
        ends = PublicEnds()
        tables = _tables(path, self.asked, self.names, progress=progress)
        for number, table in enumerate(tables):
            flows = self.span.of(table)
            ends = ends.merge(PublicEnds.of(flows))
            columns, parts = _write(flows, folder, number, self.names)
            about.columns = sorted({*about.columns, *columns})
            about.parts.extend(parts)
            about.rows += len(flows)
        about.n_ends = ends.n_flows
        about.pairs = [(*pair, n) for pair, n in sorted(ends.pairs.items())]
        return about

    def tables(self, report: Report | None = None) -> Iterator[pd.DataFrame]:
        """Read the flows in order of time, an hour at once.

        Yields
        ------
        pandas.DataFrame
            With the columns that any flow shows.

        Raises
        ------
        OutputError
            If the spool was damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        shown = {c for about in self.sources.values() for c in about.columns}
        columns = [name for name in self.names if name in shown]
        hours: dict[int, list[tuple[Path, int]]] = {}
        for name, about in sorted(self.sources.items()):
            for file, groups in about.parts:
                for number, (hour, _) in enumerate(groups):
                    hours.setdefault(hour, []).append(
                        (self.folder / name / file, number)
                    )
        # What reading and writing took does not stay taken.
        pa.default_memory_pool().release_unused()
        opened = functools.lru_cache(MOST_OPEN)(pq.ParquetFile)
        done, total = 0, self.n_flows
        for hour in sorted(hours):
            try:
                read = [opened(path).read_row_group(n) for path, n in hours[hour]]
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(error) from error
            flows = _flows(read, columns)
            yield flows
            done += len(flows)
            if report is not None:
                report(done, done / total)


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that are deaf to Ctrl-C: it is for the caller, who ends them.

    For the moment that this takes the caller is, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard or signal.SIG_DFL)


def _in_worker(
    spool: Spool, path: Path
) -> tuple[Path, About | SourceError | FlowsError]:
    """Read one file in a process of its own."""
    return path, spool._store(path)  # noqa: SLF001 - it is this module's


def _tables(
    path: Path, asked: dict[str, Any], names: tuple[str, ...], *, progress: bool | None
) -> Iterator[pd.DataFrame]:
    """Read a file, in pieces where its format allows; of Parquet what is needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ((_, reader),), _ = find_readers([path], named=True, columns=asked["columns"])
    if reader is not _parquet:
        if hasattr(reader, "stream"):
            yield from iter_flows(path, chunk=CHUNK, **asked)
        else:
            yield read_flows(path, n_jobs=1, progress=progress, **asked)
        return
    try:
        with pq.ParquetFile(path) as parquet:
            columns = [c for c in names if c in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(CHUNK, columns=columns):
                flows = validate_flows(batch.to_pandas())
                flows["sensor"] = flows["sensor"].fillna(path.name)
                yield flows
            if parquet.metadata.num_rows == 0:
                yield read_flows(path, n_jobs=1, progress=progress)
    except FlowsError as error:
        raise FlowsError(f"{path}: {error}") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{path}: not a readable Parquet file: {reason}") from error


def _write(
    flows: pd.DataFrame, folder: Path, number: int, columns: tuple[str, ...]
) -> tuple[list[str], list[Part]]:
    """Write flows by day and hour, in order of start.

    Returns
    -------
    columns, parts
        Columns with values, and what was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(flows) == 0:
        return [], []
    names = [name for name in columns if flows[name].notna().any()]
    table = pa.Table.from_pandas(flows[names], preserve_index=False)
    start = starts(flows)
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        # Arrow picks rows in a third of the time that pandas takes.
        table, start = table.combine_chunks().take(pa.array(order)), start[order]
    texts = [name for name in names if DTYPES[name] == "str"]
    hours, first = np.unique(start // HOUR_US, return_index=True)
    sizes = np.diff(first, append=len(flows))
    spans = zip(hours.tolist(), first.tolist(), sizes.tolist(), strict=True)
    parts: list[Part] = []
    for day, of_day in groupby(spans, key=lambda span: span[0] // DAY_HOURS):
        file = f"{np.datetime64(day, 'D')}-{number}.parquet"
        groups = []
        with pq.ParquetWriter(
            folder / file, table.schema, use_dictionary=texts, write_statistics=False
        ) as writer:
            for hour, begin, size in of_day:
                writer.write_table(table.slice(begin, size), row_group_size=size)
                groups.append((hour, size))
        parts.append((file, groups))
    return names, parts


def _flows(read: list[Any], columns: list[str]) -> pd.DataFrame:
    """Turn tables of Arrow into one flows table; what one of them lacks is missing."""
    import pyarrow as pa

    found = {}
    for name in columns:
        there = [
            table.schema.field(name).type
            for table in read
            if name in table.schema.names
        ]
        if not there:
            dtype = pd.api.types.pandas_dtype(DTYPES[name])
            n_rows = sum(len(table) for table in read)
            missing = np.nan if DTYPES[name] == "float64" else pd.NA
            found[name] = pd.Series(missing, index=range(n_rows), dtype=dtype)
            continue
        pieces = [
            piece
            for table in read
            for piece in (
                table.column(name).chunks
                if name in table.schema.names
                else [pa.nulls(len(table), there[0])]
            )
        ]
        found[name] = _series(pa.chunked_array(pieces, there[0]), DTYPES[name])
    return pd.DataFrame(found, copy=False)


def _series(column: Any, dtype: str) -> pd.Series:
    """Turn a column of Arrow into one of the flows table."""
    known: Any = pd.api.types.pandas_dtype(dtype)
    if isinstance(known, np.dtype):
        return pd.Series(column.to_numpy(), dtype=dtype)
    series: pd.Series = pd.Series(known.__from_arrow__(column), dtype=known)
    return series
