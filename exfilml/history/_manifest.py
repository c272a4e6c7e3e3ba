"""Which files a store consists of: one small file, replaced as a whole.

``history.json`` names every Parquet file with its day, rows and size. A file that it
does not name is not part of the store, whatever lies in the folder. So a change of any
size takes effect at one moment, when the manifest is renamed over the old one; before,
the old state stands, and after a crash too.

What the manifest says is checked before it is used: it may be of a newer version, cut
off, or name files outside the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from exfilml import __version__
from exfilml.exceptions import HistoryError, OptionError
from exfilml.places import parse_networks

FORMAT: Final = "exfilml-history"
VERSION: Final = 1
NAME: Final = "history.json"
KINDS: Final = ("flows", "patterns")
DAY_US: Final = 86_400_000_000

_FILE: Final = re.compile(r"[0-9a-f]{16}\.parquet")
_PARTIAL: Final = re.compile(r"\.history-[0-9a-f]{16}\.part")
# 1970 to 2200, the years that a flows table may hold, in days since 1970.
_DAYS: Final = range(84_371)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One Parquet file of the store.

    Attributes
    ----------
    kind
        One of `KINDS`.
    day
        UTC day of all its rows, since 1970.
    file
        Its name in the folder of the day.
    rows, size
        Its rows, and its bytes on disk.
    first, last
        First and last start among them, microseconds since 1970.
    """

    kind: str
    day: int
    file: str
    rows: int
    size: int
    first: int
    last: int

    @property
    def path(self) -> str:
        """Where it lies below the store."""
        return f"{self.kind}/day={day_name(self.day)}/{self.file}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A state of the store.

    Attributes
    ----------
    home
        Home networks, by which all flows were oriented.
    created
        When the store was made, ISO 8601.
    commit
        How many changes there were.
    parts
        Its files.
    """

    home: tuple[str, ...]
    created: str
    commit: int = 0
    parts: tuple[Part, ...] = ()

    @classmethod
    def new(cls, home: tuple[str, ...]) -> Manifest:
        """Return the first state of a store: nothing is in it."""
        return cls(home, datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the state that stands.

        Raises
        ------
        HistoryError
            If the folder is no store, or one of a newer version, or the manifest is
            damaged.
        """
        path = folder / NAME
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise _no_store(folder) from None
        except OSError as error:
            raise HistoryError(
                f"{path}: cannot be read: {error.strerror or error}."
            ) from error
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from error
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise _damaged(path, f"it does not say that its format is {FORMAT}")
        version = told.get("version")
        if isinstance(version, int) and version > VERSION:
            raise HistoryError(
                f"{folder}: a history store of version {version}, made by exfilml "
                f"{str(told.get('made_by'))[:40]}; this exfilml {__version__} reads "
                f"versions up to {VERSION}. Install a newer exfilml."
            )
        try:
            return cls._checked(told)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error

    @classmethod
    def _checked(cls, told: dict[str, Any]) -> Manifest:
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']!r}")
        if not _is_count(told["commit"]) or not isinstance(told["created"], str):
            raise ValueError("commit or created")
        parts = tuple(_part(entry) for entry in told["parts"])
        if len({part.path for part in parts}) < len(parts):
            raise ValueError("a file is named twice")
        home = told["home"]
        if not isinstance(home, list) or not all(isinstance(n, str) for n in home):
            raise ValueError("home networks")
        try:
            networks = parse_networks(home)
        except OptionError as error:
            raise ValueError(str(error)) from None
        return cls(networks, told["created"], told["commit"], parts)

    def write(self, folder: Path) -> None:
        """Make this the state that stands; an error leaves the one before.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        told = asdict(self) | {
            "format": FORMAT,
            "version": VERSION,
            "made_by": __version__,
        }
        partial = folder / f".history-{secrets.token_hex(8)}.part"
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(told, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(folder / NAME)
        finally:
            partial.unlink(missing_ok=True)
        # From here on it stands, whether or not the disk knows already.
        with contextlib.suppress(OSError):
            sync(folder)

    def with_parts(self, gone: set[Part], new: list[Part]) -> Manifest:
        """Return the next state, without some files and with others."""
        kept = [part for part in self.parts if part not in gone]
        parts = tuple(sorted([*kept, *new]))
        return replace(self, commit=self.commit + 1, parts=parts)

    def of(self, kind: str) -> list[Part]:
        """Return the files of a kind, by day."""
        return [part for part in self.parts if part.kind == kind]


def clean(folder: Path, manifest: Manifest) -> None:
    """Remove files of ours that the store does not consist of (any more)."""
    known = {part.path for part in manifest.parts}
    for partial in folder.iterdir():
        if _PARTIAL.fullmatch(partial.name):
            partial.unlink(missing_ok=True)
    for kind in KINDS:
        for day in sorted(folder.glob(f"{kind}/day=*")):
            for file in day.iterdir():
                path = f"{kind}/{day.name}/{file.name}"
                if _FILE.fullmatch(file.name) and path not in known:
                    file.unlink(missing_ok=True)
            if not any(day.iterdir()):
                day.rmdir()


def day_name(day: int) -> str:
    """Write a day since 1970 as 2026-03-01."""
    return datetime.fromtimestamp(day * DAY_US // 1_000_000, UTC).strftime("%Y-%m-%d")


def new_name() -> str:
    """Return a file name that nothing has."""
    return f"{secrets.token_hex(8)}.parquet"


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk.

    Raises
    ------
    OSError
        If it cannot be.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_ours(name: str) -> bool:
    """Say whether a name in the folder is one that an unfinished creation leaves."""
    return name in {"lock", "readers"} or _PARTIAL.fullmatch(name) is not None


def _part(entry: Any) -> Part:
    part = Part(**{field.name: entry[field.name] for field in fields(Part)})
    numbers = (part.day, part.rows, part.size, part.first, part.last)
    if not (
        part.kind in KINDS
        and isinstance(part.file, str)
        and _FILE.fullmatch(part.file)
        and all(_is_count(number) for number in numbers)
        and part.day in _DAYS
    ):
        raise ValueError(f"a file {str(entry)[:100]}")
    return part


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _no_store(folder: Path) -> HistoryError:
    if not folder.exists():
        return HistoryError(
            f"{folder}: does not exist, expected a history store. Make one: "
            "exfilml.History.open(folder, create=True), or exfilml history add."
        )
    return HistoryError(
        f"{folder}: is no history store (no {NAME} in it). Give the folder of one, or "
        "a new or empty folder to make one."
    )


def _damaged(path: Path, reason: object) -> HistoryError:
    text = re.sub(r"\s+", " ", str(reason))[:150]
    return HistoryError(
        f"{path}: damaged ({text}). Restore it from a backup, or make a new store and "
        "add the sources again."
    )
