"""The history store: flows of the past, to be asked when a case comes up.

A folder of Parquet files by UTC day, which DuckDB queries and any other tool can read.
It answers what an analyst asks of a case: have this host, this place, this client
fingerprint been seen before, when, how much, and has anything looked like this.

One writer at a time; any number of readers meanwhile, who see the store as it was
before or as it is after a change, never between. A process that dies in the middle of
adding leaves the store as it was.

One file because `History` is what its methods say together; how each is done stands
beside it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pandas as pd

from exfilml.exceptions import HistoryError, OptionError, SiteWarning
from exfilml.history import _asking, _seen, _similar
from exfilml.history._engine import (
    check_installed,
    damage,
    engine,
    frame,
    to_pandas,
)
from exfilml.history._locks import reading, unwritable, writing
from exfilml.history._manifest import DAY_US, NAME, Manifest, Part, day_name, is_ours
from exfilml.history._patterns import Patterns
from exfilml.history._stored import stored
from exfilml.history._writing import Stage, sweep, told
from exfilml.places import parse_networks
from exfilml.schema import Doubts, validate_flows

if TYPE_CHECKING:
    from exfilml.detector import Detector
    from exfilml.state import State

__all__ = ["Added", "History", "Pruned"]

# Rows that are oriented and written at once.
SLICE: Final = 500_000
WAIT_S: Final = 60.0
# Where fewer go in or out, home networks are wrong, or the sensor is inside.
LEAST_CROSSING: Final = 0.01
FEWEST_TO_CROSS: Final = 100


@dataclass(frozen=True, slots=True)
class Added:
    """What became of flows that were added.

    Attributes
    ----------
    read
        Flows given.
    added
        Flows that the history did not have.
    known
        Flows that it had, or that were given more than once: same start, ends, protocol
        and bytes.
    patterns
        Days of cases whose pattern was stored, or was there.
    """

    read: int
    added: int
    known: int
    patterns: int

    def __str__(self) -> str:
        text = f"{self.added:,} of {self.read:,} flows added"
        if self.known:
            text += (
                f", {self.known:,} were known (same start, ends, protocol and bytes)"
            )
        return text + (
            f"; patterns of {self.patterns:,} case-days" * (self.patterns > 0)
        )


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was dropped, and what is left.

    Attributes
    ----------
    days, flows
        How many were dropped.
    first, last
        First and last UTC day that is left, as 2026-03-01; `None` where nothing is.
    """

    days: int
    flows: int
    first: str | None
    last: str | None

    def __str__(self) -> str:
        left = f"{self.first} to {self.last} UTC are" if self.first else "nothing is"
        return f"{self.flows:,} flows of {self.days:,} days dropped; {left} left"


class History:
    """Flows of the past on disk. `History.open` gives one.

    Parameters
    ----------
    folder
        Folder of the store.
    home
        Its home networks.
    wait_s
        How long to wait for another writer.

    Examples
    --------
    >>> history = exfilml.History.open("history", create=True)  # doctest: +SKIP
    >>> history.add(exfilml.read_flows("march.parquet"))  # doctest: +SKIP
    >>> history.query(place="example.net", by="host")  # doctest: +SKIP
    """

    def __init__(self, folder: Path, home: tuple[str, ...], wait_s: float) -> None:
        self.folder = folder
        self.home = home
        self.wait_s = wait_s

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        create: bool = False,
        home: Iterable[str] | str | None = None,
        wait_s: float = WAIT_S,
    ) -> Self:
        """Open a store, or make one.

        Parameters
        ----------
        folder
            Where it is.
        create
            Whether to make one where the folder is not there, or empty.
        home
            Home networks, by which all flows of the store are oriented; they are
            recorded when it is made. `None` for those recorded, or for the private
            networks.
        wait_s
            How long to wait for another writer, in seconds.

        Raises
        ------
        HistoryError
            If the folder is no store, or one of a newer version, damaged, or of other
            home networks.
        OutputError
            If a new one cannot be written.
        DependencyError
            If duckdb is not installed.
        """
        check_installed()
        path = Path(folder)
        networks = None if home is None else parse_networks(home)
        if "\0" in str(path):
            raise HistoryError(f"{str(path)!r}: no folder can have this name.")
        if create and not (path / NAME).exists():
            _make(path, networks, wait_s)
        manifest = Manifest.read(path)
        if networks is not None:
            _check_home(path, manifest.home, networks, "given")
        return cls(path, manifest.home, wait_s)

    def __repr__(self) -> str:
        return f"History({str(self.folder)!r}, {self})"

    def __str__(self) -> str:
        parts = Manifest.read(self.folder).of("flows")
        if not parts:
            return "no flows"
        days = len({part.day for part in parts})
        first, last = day_name(parts[0].day), day_name(parts[-1].day)
        return f"{len(self):,} flows of {days:,} days, {first} to {last} UTC"

    def __len__(self) -> int:
        """Return how many flows there are."""
        return sum(part.rows for part in Manifest.read(self.folder).of("flows"))

    @property
    def days(self) -> pd.DataFrame:
        """UTC days that have flows: ``day``, ``flows``, ``bytes_on_disk``."""
        parts = Manifest.read(self.folder).of("flows")
        table = pd.DataFrame(
            {
                "day": pd.to_datetime([p.day for p in parts], unit="D", utc=True),
                "flows": [part.rows for part in parts],
                "bytes_on_disk": [part.size for part in parts],
            }
        ).astype({"day": "datetime64[us, UTC]", "flows": int, "bytes_on_disk": int})
        return table.groupby("day", as_index=False).sum()

    def add(
        self,
        flows: pd.DataFrame | Iterable[pd.DataFrame],
        detector: Detector | None = None,
        *,
        state: State | None = None,
    ) -> Added:
        """Add flows; all of them or, after an error, none.

        Flows that the store has are left out: same start, ends, protocol and bytes.

        Parameters
        ----------
        flows
            A flows table, or several, one after the other: memory then depends on the
            size of one.
        detector
            Stores also what each case looked like, a row for each case and day
            (`similar`). Give tables in order of time. Its home networks have to be
            those of the store.
        state
            The detector's memory of flows before these; they are added to it.

        Raises
        ------
        FlowsError
            If one is no flows table.
        HistoryError
            If another process is writing, or the detector has other home networks, or a
            file of the same days is damaged.
        OutputError
            If the store cannot be written; it stands as it was.

        Warns
        -----
        FlowsWarning
            If many rows are duplicates, or some are of a wrong time.
        SiteWarning
            If hardly any flow crosses the border of the home networks.
        """
        if detector is not None:
            _check_home(self.folder, self.home, detector.home_, "the model's")
        patterns = None if detector is None else Patterns(detector, state)
        tables = [flows] if isinstance(flows, pd.DataFrame) else flows
        read = crossing = 0
        doubts = Doubts()
        with self._staging() as stage:
            for given in tables:
                table = validate_flows(given)
                doubts.add(table)
                read += len(table)
                if patterns is not None:
                    patterns.add(table, stage)
                table = table.sort_values("start", kind="stable")
                for begin in range(0, len(table), SLICE):
                    rows, across = stored(table.iloc[begin : begin + SLICE], self.home)
                    with told(self.folder):
                        stage.add(rows)
                    crossing += across
            with told(self.folder):
                n_patterns = 0 if patterns is None else patterns.stage(stage)
        doubts.warn(stacklevel=3)
        if read >= FEWEST_TO_CROSS and crossing < LEAST_CROSSING * read:
            warnings.warn(
                f"Only {crossing:,} of {read:,} flows have exactly one end in the home "
                f"networks of the history ({', '.join(self.home)}). If these are not "
                "yours, make a new history and say which are (home, --home).",
                SiteWarning,
                stacklevel=2,
            )
        return Added(read, stage.added, read - stage.added, n_patterns)

    def query(
        self,
        *,
        host: str | None = None,
        place: str | None = None,
        address: str | None = None,
        cidr: str | None = None,
        fingerprint: str | None = None,
        service: str | None = None,
        since: Any = None,
        until: Any = None,
        by: str | Iterable[str] = _asking.DEFAULT_BY,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Say what was seen of a host, a place …, in all or by day, service ….

        Parameters
        ----------
        host
            Local address.
        place, fingerprint, service
            As the store has them, see `exfilml.places` and the flows table.
        address, cidr
            Remote address; remote network.
        since, until
            Flows that start from then on; before then. Times with a zone, or text in
            ISO 8601 (UTC).
        by
            What a row stands for: one or more of `GROUPS` of this module's ``_asking``
            (host, place, service, address, fingerprint, server_name, app, process,
            user_agent, direction, protocol, dst_port, source, day).
        limit
            The most rows; `None` for all.

        Returns
        -------
        pandas.DataFrame
            The columns of `by`, then ``flows``, ``days``, ``hosts`` (local ones),
            ``first_seen`` and ``last_seen`` (first and last start), ``up_bytes``,
            ``down_bytes``, ``largest_day_up_bytes`` (IP bytes; 2⁶³ − 1 where they would
            be more). Largest upload first.

        Raises
        ------
        OptionError
            If an option is impossible.
        HistoryError
            If a file is missing or damaged, by name.
        """
        groups = _asking.check_groups(by)
        if limit is not None and (isinstance(limit, bool) or limit < 1):
            raise OptionError(f"limit={limit!r}: expected rows, 1 or more.")
        ends = {"host": host, "address": address, "cidr": cidr}
        networks = {
            name: _asking.check_network(name, text)
            for name, text in ends.items()
            if text is not None
        }
        own = networks.pop("host", None)
        if own is not None:
            # As the flows table writes it: the address alone.
            own = own.rpartition("/")[0] if own.endswith(("/32", "/128")) else own
        equal = {
            "local_ip": own,
            "place": place,
            "fingerprint": fingerprint,
            "service": service,
        }
        span = _asking.span_of_time(since, until)
        with self._asked(span) as connection:
            return _asking.totals(
                connection,
                by=groups,
                equal=equal,
                networks=list(networks.values()),
                span=span,
                limit=limit,
            )

    def seen(self, subjects: pd.DataFrame) -> pd.DataFrame:
        """Say of many cases at once what was seen before each of them.

        Parameters
        ----------
        subjects
            A row for each case: ``case``, ``local_ip``, ``place``, ``service``,
            ``fingerprint`` (may be missing) and ``before`` (datetime64[us, UTC]); only
            flows that start earlier than that count.

        Returns
        -------
        pandas.DataFrame
            A row for each row of `subjects` and each ``by``: ``host_place_service``,
            ``host_place``, ``place``, ``host_service``, ``host``, ``fingerprint``.
            ``flows``, ``days``, ``hosts``, ``up_bytes``, ``largest_day_up_bytes``
            (Int64; missing where the subject does not say what is asked about, 0 where
            nothing was seen), ``first_seen``, ``last_seen`` (first and last start).
            ``attrs["since"]`` is the first start that the store knows, `None` for none:
            what is older cannot have been seen.

        Raises
        ------
        OptionError
            If `subjects` is no such table.
        HistoryError
            If a file is missing or damaged, by name.
        """
        asked = _seen.check_subjects(subjects)
        latest = None if len(asked) == 0 else asked["before"].max()
        with self._parts() as parts:
            span = _asking.span_of_time(None, latest)
            mine = _in_span([p for p in parts if p.kind == "flows"], span)
            if len(asked) == 0:
                mine = []
            since = min((p.first for p in parts if p.kind == "flows"), default=None)
            with engine(self.folder, mine) as connection:
                found = _seen.seen(connection, asked)
        known = None if since is None else pd.Timestamp(since, unit="us", tz="UTC")
        found.attrs["since"] = known
        return found

    def similar(
        self, case: str | None = None, *, evidence: Any = None, n: int = 10
    ) -> pd.DataFrame:
        """Find case-days whose evidence looks like that of a case.

        Parameters
        ----------
        case
            Name of a case that was added with a detector; its most suspicious day.
            Neighbours are then other cases, judged by the same model.
        evidence
            Instead, evidence by name of feature: a row of
            `exfilml.features.FlowFeatures.table`, or a mapping.
        n
            How many neighbours.

        Returns
        -------
        pandas.DataFrame
            Nearest first: ``distance`` (1 is what is worth telling in one column),
            ``shared`` (columns compared), ``case``, ``start`` and names of its worst
            flow, ``suspicion``, ``alerted``, and in words with numbers, what was asked
            about first: ``agrees``, ``differs``.

        Raises
        ------
        OptionError
            If the case or a feature is not known, or `n` is not 1 or more.
        HistoryError
            If a file is missing or damaged, by name.
        """
        if isinstance(n, bool) or n < 1:
            raise OptionError(f"n={n!r}: expected neighbours, 1 or more.")
        with (
            self._parts() as parts,
            engine(
                self.folder, [p for p in parts if p.kind == "patterns"]
            ) as connection,
        ):
            patterns = to_pandas(frame(connection, "SELECT * FROM patterns", {}))
        if len(patterns) == 0:
            raise OptionError(
                f"{self.folder}: the history has no patterns. They are stored when flows "
                "are added with a model (exfilml history add --model)."
            )
        order = ["start", "case", "model"]
        patterns = patterns.sort_values(order, kind="stable", ignore_index=True)
        mine, among = _similar.asked_evidence(patterns, case, evidence)
        return _similar.nearest(patterns, mine, among, n)

    def prune(
        self,
        keep_days: int | None = None,
        *,
        damaged: bool = False,
        now: datetime | None = None,
    ) -> Pruned:
        """Drop whole days: old ones, or files that are damaged.

        Parameters
        ----------
        keep_days
            UTC days to keep, today included; days in the future are kept. `None` for
            all.
        damaged
            Whether to drop files that are missing or cannot be read; all are read.
        now
            What today is; `None` for the clock.

        Raises
        ------
        OptionError
            If `keep_days` is not 1 or more, or nothing is to be dropped.
        HistoryError
            If another process is writing.
        OutputError
            If the store cannot be written; it stands as it was.
        """
        if keep_days is None and not damaged:
            raise OptionError(
                "Expected days to keep (--keep-days N), or that damaged files be "
                "dropped (--damaged)."
            )
        if keep_days is not None and (isinstance(keep_days, bool) or keep_days < 1):
            raise OptionError(f"keep_days={keep_days!r}: expected days, 1 or more.")
        today = (now or datetime.now(UTC)).timestamp() * 1e6 // DAY_US
        with self._staging() as stage:
            every = stage.manifest.parts
            gone = {
                part
                for part in every
                if (keep_days is not None and part.day <= today - keep_days)
                or (damaged and damage(self.folder, part))
            }
            stage.replace(list(gone), [])
        left = [part.day for part in stage.manifest.of("flows")]
        flows = [part for part in gone if part.kind == "flows"]
        return Pruned(
            len({part.day for part in flows} - set(left)),
            sum(part.rows for part in flows),
            day_name(min(left)) if left else None,
            day_name(max(left)) if left else None,
        )

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Stage]:
        """Be the writer; what was staged becomes the store if nothing goes wrong."""
        with writing(self.folder, self.wait_s):
            manifest = Manifest.read(self.folder)
            stage = Stage(self.folder, manifest)
            try:
                # What one that died left.
                sweep(self.folder, manifest)
                yield stage
                with told(self.folder):
                    stage.commit()
            finally:
                with contextlib.suppress(OSError, HistoryError):
                    stage.discard()

    @contextlib.contextmanager
    def _parts(self) -> Iterator[list[Part]]:
        """Give the files of the state that stands, and keep them from removal."""
        with reading(self.folder):
            yield list(Manifest.read(self.folder).parts)

    @contextlib.contextmanager
    def _asked(self, span: Any) -> Iterator[Any]:
        with self._parts() as parts:
            mine = _in_span([p for p in parts if p.kind == "flows"], span)
            with engine(self.folder, mine) as connection:
                yield connection


def _in_span(parts: list[Part], span: Any) -> list[Part]:
    """Return the files that may hold flows of a time."""
    if span.since is not None:
        since = _asking.microseconds(span.since)
        parts = [part for part in parts if part.last >= since]
    if span.until is not None:
        until = _asking.microseconds(span.until)
        parts = [part for part in parts if part.first < until]
    return parts


def _make(folder: Path, home: tuple[str, ...] | None, wait_s: float) -> None:
    """Make a store in a folder that is not there, or empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [path.name for path in folder.iterdir() if not is_ours(path.name)]
    except OSError as error:
        raise unwritable(folder, error) from error
    if foreign and not (folder / NAME).exists():
        raise HistoryError(
            f"{folder}: is no history store, and not empty ({foreign[0]!r} is in it). "
            "Give the folder of one, or a new or empty folder."
        )
    with writing(folder, wait_s):
        # Another one may have made it meanwhile.
        if (folder / NAME).exists():
            return
        with told(folder):
            (folder / "readers").touch()
            Manifest.new(parse_networks(home)).write(folder)


def _check_home(
    folder: Path, recorded: tuple[str, ...], other: tuple[str, ...], whose: str
) -> None:
    if set(recorded) == set(other):
        return
    raise HistoryError(
        f"{folder}: its flows were oriented by the home networks {', '.join(recorded)}, "
        f"{whose} are {', '.join(other)}. Use those of the history "
        f"({' '.join(f'--home {n}' for n in recorded)}), or make a new history in "
        "another folder and add the sources there."
    )
