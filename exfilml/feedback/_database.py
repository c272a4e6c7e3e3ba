"""The SQLite file: opened for each call, checked, and its errors told in one line.

The journal is SQLite's rollback journal, not WAL: judgements are few and small, one
file is easier to copy and to keep, and WAL needs shared memory, which network file
systems do not give (https://www.sqlite.org/wal.html). Who finds the file locked waits.
A change is in the file whole or not at all, also after Ctrl-C or a crash: what is left
of it in the journal is undone by whoever opens the file next.

Rows are only ever added. Triggers refuse to change or delete one, so that the history
is that of the site's judgements and not of its second thoughts; a person with another
program and the right to write can still do so.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exfilml.exceptions import FeedbackError
from exfilml.feedback._facts import COLUMNS, TIME

# "EXFB"; SQLite keeps it at offset 68 of the file.
APPLICATION: Final = 0x45584642
VERSION: Final = 1
PATIENCE_S: Final = 10.0
# SQLite itself waits no longer: while it does, no signal is seen.
_BREATH_S: Final = 0.1
# What a foreign file defines is not run.
SETTINGS: Final = ("trusted_schema = OFF",)

_SQL_TYPES: Final = {
    "str": "TEXT",
    "float64": "REAL",
    "Int64": "INTEGER",
    "boolean": "INTEGER",
    TIME: "INTEGER",
}
# Times are microseconds since 1970, UTC.
_COLUMNS: Final = ", ".join(f'"{n}" {_SQL_TYPES[kind]}' for n, kind in COLUMNS.items())
_TABLE: Final = (
    f"CREATE TABLE judgement (id INTEGER PRIMARY KEY AUTOINCREMENT, {_COLUMNS}, "
    "CHECK (verdict IN ('true', 'false', 'withdrawn')), "
    "CHECK (typeof(\"case\") = 'text' AND typeof(reason) = 'text'), "
    "CHECK (typeof(analyst) = 'text' AND typeof(judged_at) = 'integer'))"
)
_KEPT: Final = "RAISE(ABORT, 'judgements are kept: judge again, or withdraw')"
_SCHEMA: Final = (
    _TABLE,
    *(
        f"CREATE TRIGGER no_{way} BEFORE {way} ON judgement BEGIN SELECT {_KEPT}; END"
        for way in ("update", "delete")
    ),
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
_NAMES: Final = ", ".join(f'"{name}"' for name in COLUMNS)
_INSERT: Final = (
    f"INSERT INTO judgement ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - names of ours
)
_SELECT: Final = f"SELECT id, {_NAMES} FROM judgement ORDER BY id"  # noqa: S608 - names of ours

Row = tuple[object, ...]


def read(path: Path) -> list[Row]:
    """Return all rows in the order in which they were added: id, then `COLUMNS`.

    Raises
    ------
    FeedbackError
        If there is no store, or it cannot be read.
    """
    with _told(path):
        if not path.exists():
            raise FeedbackError(
                f"{path}: no such feedback store; look at the name, or begin one with "
                "exfilml feedback CASE true|false --store FILE."
            )
        # A writer's journal that a crash left can only be undone by who may write.
        mode = "rw" if os.access(path, os.W_OK) else "ro"
        with _opened(path, mode) as base:
            base.execute("BEGIN")
            _patiently(base, "SELECT count(*) FROM sqlite_master")
            return [] if _is_new(path, base) else rows_of(base)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection whose changes are kept together, or not at all.

    The store is made if there is none. While one writes, others wait.

    Raises
    ------
    FeedbackError
        If it cannot be written.
    """
    with _told(path), _opened(path, "rwc") as base:
        _patiently(base, "BEGIN IMMEDIATE")
        try:
            if _is_new(path, base):
                for statement in _SCHEMA:
                    base.execute(statement)
            yield base
            _patiently(base, "COMMIT")
        except BaseException:
            base.rollback()
            raise


def add(base: sqlite3.Connection, rows: list[Row]) -> None:
    """Add rows in the order of `COLUMNS`."""
    base.executemany(_INSERT, rows)


def rows_of(base: sqlite3.Connection) -> list[Row]:
    """Return all rows, as `read` does, of a connection that is open."""
    return base.execute(_SELECT).fetchall()


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    base = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BREATH_S,
        isolation_level=None,
    )
    try:
        for setting in SETTINGS:
            base.execute(f"PRAGMA {setting}")
        yield base
    finally:
        base.close()


def _patiently(base: sqlite3.Connection, statement: str) -> None:
    """Run a statement, and wait for who holds the file; Ctrl-C ends the wait."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            base.execute(statement)
        except sqlite3.OperationalError as error:
            name = error.sqlite_errorname
            if not name.startswith("SQLITE_BUSY") or time.monotonic() > end:
                raise
        else:
            return


def _is_new(path: Path, base: sqlite3.Connection) -> bool:
    """Say whether a file is empty; refuse one of another program or version."""
    (application,) = base.execute("PRAGMA application_id").fetchone()
    (version,) = base.execute("PRAGMA user_version").fetchone()
    (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == 0 and version == 0 and tables == 0:
        return True
    if application != APPLICATION:
        raise FeedbackError(
            f"{path}: an SQLite file of another program, not a feedback store; it is "
            "left as it is. Give the store a file of its own."
        )
    if version > VERSION:
        raise FeedbackError(
            f"{path}: a feedback store of a newer exfilml (version {version}; this one "
            f"knows {VERSION}); it is left as it is. Update exfilml."
        )
    return False


_ADVICE: Final = {
    "SQLITE_BUSY": f"locked by another program for {PATIENCE_S:g} s; try again when it "
    "is done",
    "SQLITE_LOCKED": "locked by another program; try again when it is done",
    "SQLITE_READONLY": "may not be written to; look at who owns file and folder",
    "SQLITE_CANTOPEN": "cannot be opened; expected a file in a folder that exists and "
    "that you may write to",
    "SQLITE_PERM": "may not be opened; look at who owns the file",
    "SQLITE_FULL": "the disk is full; nothing was written",
    "SQLITE_NOTADB": "not a feedback store: no SQLite file; it is left as it is. Give "
    "the store a file of its own",
    "SQLITE_CORRUPT": "damaged; restore it from a copy, or save what can be read with "
    "`sqlite3 FILE .recover`",
}


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into ours."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or ""
        known = next((text for n, text in _ADVICE.items() if name.startswith(n)), None)
        said = known or f"cannot be used as a feedback store: {_line(error)}"
        raise FeedbackError(f"{path}: {said}.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, FeedbackError):
            raise
        reason = getattr(error, "strerror", None) or _line(error)
        raise FeedbackError(f"{path}: cannot be used: {reason}.") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
