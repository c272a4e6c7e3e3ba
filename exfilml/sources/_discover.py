"""Finds the files meant by a source, and the reader for each.

Formats are told from content: names lie, and captures have many.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from exfilml.exceptions import FlowsError, SourceError
from exfilml.sources._column_map import ColumnMap
from exfilml.sources._foreign import CompanionError, refusal
from exfilml.sources._packed import damaged_head, plain_head
from exfilml.sources._reading import Reader

# Loaded when asked: those of logs load pandas, and a capture needs not wait for that.
READERS: Final = (
    *("_pcap", "_parquet", "_zeek", "_eve", "_nfdump", "_argus", "_nfcapd", "_silk"),
    *("_zeek_http", "_squid", "_w3c"),
    *("_palo_alto", "_fortinet", "_firepower", "_cisco", "_check_point"),
    *("_conntrack", "_ulogd", "_exports"),
    *("_aws", "_azure", "_gcp", "_ocsf", "_ecs", "_nfstream"),
)
FORMATS: Final = (
    "pcap or pcapng, a flows table in Parquet, Zeek's conn.log or http.log, Suricata's "
    "eve.json, nfdump's CSV or its own files, NetFlow or IPFIX as exporters send it, "
    "SiLK's rwcut, Argus' binetflow, a firewall's log (Palo Alto, Fortinet, Cisco, Check "
    "Point, netfilter), a proxy's (Squid's with %>st, the W3C's format), flow logs of "
    "AWS, Azure or Google Cloud, OCSF, Elastic's ECS, NFStream's CSV, or with a column "
    "map any table (CSV, JSON, Parquet); also packed with gzip, bzip2, xz or zstd"
)
# A line of JSON may be long.
_HEAD_BYTES: Final = 1 << 16
_BOM: Final = b"\xef\xbb\xbf"
_SHOWN: Final = 3

Source = str | os.PathLike[str]
Columns = ColumnMap | Mapping[str, Any] | str | os.PathLike[str]


def expand(source: Source | Iterable[Source]) -> tuple[list[Path], bool]:
    """List the files meant, and whether they were named one by one."""
    if isinstance(source, (str, os.PathLike)):
        if not os.fspath(source):
            raise SourceError("A source has an empty name; expected a file or folder.")
        path = Path(source)
        # A name that was typed is a name that was meant: nothing is read without it.
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder.")
        if not path.is_dir():
            return [path], True
        files = sorted(_walk(path))
        if not files:
            raise SourceError(f"{path}: the folder holds no files. Expected {FORMATS}.")
        return files, False
    if not isinstance(source, Iterable):
        raise SourceError(
            f"Expected a path or a list of paths, got {type(source).__name__}."
        )
    named = list(source)
    if not named:
        raise SourceError("The list of files is empty. Expected at least one path.")
    parts = [expand(item) for item in named]
    return [path for files, _ in parts for path in files], all(s for _, s in parts)


def is_read(
    path: Path, source: Source | Iterable[Source], columns: Columns | None = None
) -> bool:
    """Say whether a file is one of those that are read for a source.

    Raises
    ------
    SourceError
        If there is no such source.
    """
    files, named = expand(source)
    if not any(f.exists() and path.exists() and path.samefile(f) for f in files):
        return False
    if named:
        return True
    explained = None if columns is None else ColumnMap.of(columns)
    if explained is not None and explained.covers(path):
        return True
    try:
        detect_reader(path)
    except SourceError:
        # What is passed over in a folder may well be the output of an earlier run.
        return False
    return True


def _walk(folder: Path) -> Iterator[Path]:
    # Links to folders are not followed: they may go round in circles.
    for here, _, names in os.walk(folder):
        yield from (Path(here) / name for name in names)


def find_readers(
    paths: list[Path], *, named: bool, columns: ColumnMap | None = None
) -> tuple[list[tuple[Path, Reader | SourceError]], list[str]]:
    """Find a reader for each file; in folders, pass over those that have none.

    Files that a column map covers are read by it.
    """
    found: list[tuple[Path, Reader | SourceError]] = []
    skipped: list[SourceError] = []
    companions: list[tuple[Path, SourceError]] = []
    for path in paths:
        try:
            mapped = columns is not None and columns.covers(path)
            found.append((path, detect_reader(path, columns if mapped else None)))
        except SourceError as error:
            refused = error
            if named and columns is not None and not columns.covers(path):
                told = str(error).removeprefix(f"{path}: ")
                refused = SourceError(
                    f"{path}: the column map is for files named {columns.files!r}; "
                    f"without it: {told}"
                )
            if len(paths) == 1 and named:
                raise refused from error
            if named:
                found.append((path, refused))
            else:
                skipped.append(error)
                if isinstance(error, CompanionError):
                    companions.append((path, error))
    if not any(not isinstance(reader, SourceError) for _, reader in found):
        reasons = [e for _, e in found if isinstance(e, SourceError)] or skipped
        raise SourceError(
            f"None of {len(paths):,} files can be read. {first_few(map(str, reasons))}"
        )
    notes = []
    # Read together with the conn.log beside them.
    used = {path.parent for path, reader in found if reader_name(reader) == "_zeek"}
    found = counted_once(found, used, skipped)
    read = [error for path, error in companions if path.parent in used]
    skipped = [error for error in skipped if error not in read]
    if skipped:
        notes.append(
            f"{len(skipped):,} of {len(paths):,} files skipped: no format that exfilml "
            f"reads. {first_few(map(str, skipped))}."
        )
    return found, notes


def counted_once(
    found: list[tuple[Path, Reader | SourceError]],
    used: set[Path],
    skipped: list[SourceError],
) -> list[tuple[Path, Reader | SourceError]]:
    """Leave out each http.log whose requests a conn.log beside it counts."""
    doubled = [
        path
        for path, r in found
        if reader_name(r) == "_zeek_http" and path.parent in used
    ]
    if not doubled:
        return found
    from exfilml.sources._zeek_names import beside

    conns = [path for path, reader in found if reader_name(reader) == "_zeek"]
    read = {other for path in conns for other in beside(path, "http")}
    skipped += [
        SourceError(f"{path}: lies beside a conn.log; to read it alone, name it alone.")
        for path in doubled
        if path not in read
    ]
    return [(path, reader) for path, reader in found if path not in doubled]


def lenders(readers: list[tuple[Path, Reader | SourceError]]) -> tuple[Path, ...]:
    """List the files whose templates may serve others."""
    return tuple(path for path, reader in readers if reader_name(reader) == "_exports")


def reader_name(reader: Reader | SourceError) -> str:
    """Name the module of a reader."""
    return getattr(reader, "__name__", "").rpartition(".")[2]


def detect_reader(path: Path, columns: ColumnMap | None = None) -> Reader:
    """Find the reader for a file, or say why there is none."""
    head = _head(path)
    if columns is not None:
        from exfilml.sources._mapped import MappedReader

        return MappedReader(columns)
    for name in READERS:
        reader = cast("Reader", importlib.import_module(f"exfilml.sources.{name}"))
        if reader.detect(head):
            # Of one format many tables, which its last bytes tell apart.
            choose = getattr(reader, "reader_of", None)
            return reader if choose is None else cast("Reader", choose(path))
    known = refusal(str(path), head)
    if known is not None:
        raise known
    raise SourceError(
        f"{path}: not a format that exfilml reads (it begins with {head[:8]!r}). "
        f"Expected {FORMATS}."
    )


def _head(path: Path) -> bytes:
    """Return the first plain bytes of a file."""
    if path.is_dir():
        raise SourceError(f"{path}: is a folder. Expected a file: {FORMATS}.")
    if not path.exists():
        raise SourceError(f"{path}: no such file. Expected {FORMATS}.")
    if not path.is_file():
        raise SourceError(f"{path}: not a regular file. Expected {FORMATS}.")
    try:
        # It names the sensor of flows, and tables hold nothing but text.
        path.name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{path}: its name is not UTF-8; rename the file.") from error
    try:
        head = plain_head(path, _HEAD_BYTES).removeprefix(_BOM)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror}.") from error
    if not head:
        damage = damaged_head(path)
        if damage is not None:
            raise SourceError(f"{path}: {damage.replace('the rest', 'all')}.")
        raise SourceError(f"{path}: the file is empty. Expected {FORMATS}.")
    return head


def first_few(texts: Iterable[str]) -> str:
    """Join the first few texts, and say how many are left."""
    every = list(texts)
    more = f"; and {len(every) - _SHOWN:,} more" if len(every) > _SHOWN else ""
    lead = "First: " if len(every) > 1 else ""
    return lead + "; ".join(text.rstrip(".") for text in every[:_SHOWN]) + more


def summary(
    failed: list[SourceError | FlowsError], losses: dict[str, list[str]], files: int
) -> list[str]:
    """Say in one sentence each what was lost of several files.

    Raises
    ------
    SourceError, FlowsError
        If none could be read.
    """
    if len(failed) == files:
        if files == 1:
            raise failed[0]
        raise SourceError(
            f"None of {files:,} files could be read. {first_few(map(str, failed))}."
        )
    notes = []
    if failed:
        notes.append(
            f"{len(failed):,} of {files:,} files could not be read; their "
            f"flows are missing. {first_few(map(str, failed))}."
        )
    read = files - len(failed)
    for kind, texts in losses.items():
        lead = f"{len(texts):,} of {read:,} files {kind}. {first_few(texts)}."
        notes.append(f"{'; '.join(texts)}." if files == 1 else lead)
    return notes
