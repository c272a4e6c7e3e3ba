"""Who may use a store at the same time: one writer, any number of readers.

Locks are of the kind that the system gives back when their holder dies (flock). The
file ``lock`` is held by who changes the store. ``readers`` is shared by all who read;
files that are not part of the store any more are removed while nobody holds it, so that
a reader finds every file of the state that it began with.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from exfilml.exceptions import HistoryError, OutputError

_STEP_S: Final = 0.05


@contextlib.contextmanager
def writing(folder: Path, wait_s: float) -> Iterator[None]:
    """Be the only writer.

    Parameters
    ----------
    folder
        The store.
    wait_s
        How long to wait for another one.

    Raises
    ------
    HistoryError
        If another one is still at it.
    OutputError
        If the folder may not be written to.
    """
    try:
        file = (folder / "lock").open("a")
    except OSError as error:
        raise unwritable(folder, error) from error
    with file:
        until = time.monotonic() + wait_s
        while not _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB, folder):
            if time.monotonic() >= until:
                raise HistoryError(
                    f"{folder}: another process is writing to this history (waited "
                    f"{wait_s:.0f} s); try again when it is done."
                )
            time.sleep(_STEP_S)
        yield


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep the files that there are now.

    Raises
    ------
    HistoryError
        If the folder is no store, or keeps no locks.
    """
    try:
        file = (folder / "readers").open("rb")
    except OSError as error:
        raise HistoryError(
            f"{folder}: is no history store, or may not be read: "
            f"{error.strerror or error}."
        ) from error
    with file:
        _locked(file, fcntl.LOCK_SH, folder)
        yield


@contextlib.contextmanager
def unread(folder: Path) -> Iterator[bool]:
    """Say whether nobody is reading, and keep readers waiting meanwhile.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    with (folder / "readers").open("a") as file:
        yield _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB, folder)


def _locked(file: IO[bytes] | IO[str], how: int, folder: Path) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise HistoryError(
            f"{folder}: the file system keeps no locks ({error.strerror or error}); "
            "put the history on a local disk."
        ) from error
    return True


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Say that a store cannot be written, and what holds."""
    return OutputError(
        f"{folder}: the history cannot be written: {error.strerror or error}. Make room "
        "or choose a folder that you may write to; what was in the history stands."
    )
