"""Logs of hosts in, one table of events out; the format is told from content."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import pandas as pd

from exfilml.exceptions import SourceError, SourceWarning
from exfilml.hosts import _auditd, _ebpf, _osquery, _windows
from exfilml.hosts import _events as made
from exfilml.hosts._events import Event
from exfilml.sources._discover import Source, expand, first_few
from exfilml.sources._headed import check_timezone
from exfilml.sources._lines import BadLines, blocks
from exfilml.sources._packed import damaged_head, open_plain, plain_head

FORMATS: Final = (
    "Sysmon's or Windows Security events (JSON or CSV), Linux audit.log, osquery's "
    "results, or Tetragon's or Falco's JSON; also packed with gzip, bzip2, xz or zstd"
)
# What holds events, but not as they are read.
_FOREIGN: Final[dict[bytes, str]] = {
    rb"\Z": "the file is empty",
    rb"ElfFile\0": "an event log of Windows; `evtx_dump -o jsonl` prints it",
    rb"\s*<": "XML; export the events as JSON or CSV",
    rb"(?:\S+ )?(?:node=\S+ )?type=\S+ msg=audit\([0-9]+/": "an audit log that was "
    "interpreted; give the raw one, as `ausearch --raw` prints it",
    rb"(?:TIME(?:\(s\))?[, ]+)*(?:UID[, ]+)?PID[, ]+COMM[, ]": "what bcc's tools print, "
    "whose times have no date",
}
_HEAD_BYTES: Final = 1 << 16
# Events that are made into a table at once.
_AT_ONCE: Final = 200_000


class _Format(Protocol):
    """A module that knows one kind of log."""

    def detect(self, head: bytes) -> int | None:
        """Say where in the first bytes a record of this kind shows, if one does."""

    def read(
        self, blocks: Iterator[Any], bad: BadLines, zone: str | None
    ) -> Iterator[Event]:
        """Yield events; count what cannot be read."""


_READERS: Final = tuple(
    cast("_Format", module) for module in (_auditd, _osquery, _ebpf, _windows)
)


def read_host_events(
    source: Source | Iterable[Source],
    *,
    timezone: str | None = None,
    address: str | None = None,
) -> pd.DataFrame:
    """Read what hosts logged of processes: connections, started programs, new files.

    Parameters
    ----------
    source
        A file, several files, or a folder: events of Sysmon (1, 3, 11) and of Windows
        Security (4688, 5156, 5158) as JSON or CSV, Linux' audit.log, results of
        osquery (``socket_events``, ``process_open_sockets``), Tetragon's or Falco's
        JSON. The format is told from the content.
    timezone
        For logs in local time that do not say where, such as ``"Europe/Prague"``.
    address
        Address of the host that wrote the logs, for events that do not say it (the
        audit log of Linux; processes and files). Without it, it is that of the same
        host's last event that does, or the next one.

    Returns
    -------
    pandas.DataFrame
        In order of time, index 0, 1, 2 …: ``time`` (UTC), ``host`` (its name), ``kind``
        (``network``, ``process`` or ``file``), ``process`` (path of the program, as
        logged), ``pid``, ``user``, ``protocol`` (IANA number), ``local_ip``,
        ``local_port``, ``remote_ip``, ``remote_port`` and ``detail`` (the command line
        or the file). What is not said is missing. Texts come from whoever runs
        programs: escape them where they are shown.

    Raises
    ------
    SourceError
        If there is no such source, or nothing in it can be read.
    OptionError
        If there is no such time zone.

    Warns
    -----
    SourceWarning
        If lines could not be read, with counts and the first one; or if, among
        several, a file could not.
    """
    check_timezone(timezone)
    if address is not None:
        try:
            address = made.address(address)
        except made.BadEventError as error:
            raise SourceError(f"address: {error}; expected that of a host.") from None
    paths, named = expand(source)
    tables: list[pd.DataFrame] = []
    failed: list[str] = []
    notes: list[str] = []
    for path in paths:
        try:
            tables += _read_one(path, timezone, notes)
        except SourceError as error:
            if len(paths) == 1:
                raise
            failed.append(str(error))
    if failed and not tables:
        raise SourceError(
            f"None of {len(paths):,} files holds host events. {first_few(failed)}."
        )
    if failed:
        what = "could not be read" if named else "are skipped"
        notes.append(
            f"{len(failed):,} of {len(paths):,} files {what}. {first_few(failed)}."
        )
    for note in notes:
        warnings.warn(note, SourceWarning, stacklevel=2)
    events = pd.concat(tables, ignore_index=True) if tables else made.table(())
    return _placed(events, address)


def _read_one(path: Path, zone: str | None, notes: list[str]) -> list[pd.DataFrame]:
    """Read a file; note what was lost of it."""
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise SourceError(f"{path}: {what}. Expected {FORMATS}.")
    bad = BadLines()
    try:
        tables, damage = _tables(path, zone, bad)
    except OSError as error:
        reason = error.strerror or error
        raise SourceError(f"{path}: cannot be read: {reason}.") from error
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    if bad.bad and not tables:
        raise SourceError(f"{path}: no host event could be read: {bad}.")
    told = [text for text in (damage, str(bad)) if text]
    if not tables:
        told.append("holds no host events of the kinds that are read")
    if told:
        notes.append(f"{path}: {'; '.join(told)}.")
    return tables


def _tables(
    path: Path, zone: str | None, bad: BadLines
) -> tuple[list[pd.DataFrame], str | None]:
    """Return the events of a file in tables, and what is damaged of it."""
    head = plain_head(path, _HEAD_BYTES)
    shown = [(at, r) for r in _READERS if (at := r.detect(head)) is not None]
    if not shown:
        what = next((t for form, t in _FOREIGN.items() if re.match(form, head)), "")
        what = (None if head else damaged_head(path)) or what
        what = what or f"it begins with {head[:16]!r}"
        raise SourceError(f"no host events ({what}). Expected {FORMATS}.")
    # What the first record is, whatever others hold.
    _, reader = min(shown, key=lambda pair: pair[0])
    tables = []
    with open_plain(path, lambda _: None) as plain:
        events = reader.read(blocks(plain, bad), bad, zone)
        while some := list(islice(events, _AT_ONCE)):
            tables.append(made.table(some))
    return tables, plain.damage


def _placed(events: pd.DataFrame, address: str | None) -> pd.DataFrame:
    """Put events in order, and say on which address what does not say it happened."""
    order = np.argsort(events["time"].to_numpy(), kind="stable")
    events = events.take(order).reset_index(drop=True)
    local = events["local_ip"]
    told = local.where(~_loopback(local))
    # Of a host with several addresses one of IPv4, and none that holds on a link only.
    on_link = told.str.match(r"169\.254\.|fe[89ab]", case=False).fillna(False)
    narrow = on_link | told.str.contains(":", regex=False).fillna(False)
    near = pd.Series(pd.NA, index=events.index, dtype="str")
    for some in (told.mask(narrow), told.mask(on_link), told):
        by_host = some.groupby(events["host"], sort=False)
        near = near.fillna(by_host.ffill()).fillna(by_host.bfill())
    if address is not None:
        near = near.fillna(address)
    return events.assign(local_ip=local.fillna(near).astype("str"))


def _loopback(addresses: pd.Series) -> pd.Series:
    return addresses.str.startswith("127.").fillna(False) | (addresses == "::1")
