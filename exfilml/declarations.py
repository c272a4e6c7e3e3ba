"""TOML files that users write: read, and checked key by key.

One error says which file, table and key is wrong, what was given and what was expected.
"""

from __future__ import annotations

import difflib
import os
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LARGEST_FILE: Final = 16_000_000


def read_toml(
    path: str | os.PathLike[str], error: type[Exception], what: str
) -> dict[str, Any]:
    """Read a file.

    Parameters
    ----------
    path
        The file.
    error
        What is raised if it cannot be read, or is no TOML.
    what
        What the file is, with its article.
    """
    kind = what.partition(" ")[2]
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise error(
            f"{path}: the {kind} cannot be read: {reason}; expected a TOML file."
        ) from failure
    if len(data) > LARGEST_FILE:
        raise error(
            f"{path}: more than {LARGEST_FILE // 1_000_000} MB; expected a {kind} "
            "file in TOML."
        )
    try:
        # Windows editors begin a text with a mark of byte order.
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as failure:
        raise error(
            f"{path}: not a TOML file: no text in UTF-8; the documentation shows "
            f"an example of {what}."
        ) from failure
    except (ValueError, RecursionError) as failure:
        raise error(
            f"{path}: not a TOML file: {failure}; the documentation shows an example of {what}."
        ) from failure


@dataclass(frozen=True, slots=True)
class Kind:
    """What may stand behind a key; `parse` raises ValueError for anything else."""

    expected: str
    parse: Callable[[Any], Any]


class Table:
    """A table of the file; keys that it may not have are refused at once.

    Parameters
    ----------
    where
        Name of the file, and of the table in it.
    given
        As `tomllib` gives it.
    known
        The keys that it may have.
    error
        What is raised.
    """

    def __init__(
        self, where: str, given: Any, known: tuple[str, ...], error: type[Exception]
    ) -> None:
        self._where = where
        self._error = error
        if not isinstance(given, Mapping):
            raise error(f"{where}: got {quoted(given)}, expected a table.")
        for key in given:
            if key not in known:
                raise error(
                    f"{where}: unknown key {quoted(key)}{meant(str(key), known)}; "
                    f"known are {', '.join(known)}."
                )
        self._given = given

    def get(self, key: str, kind: Kind) -> Any:
        """Return what a key says, `None` if it is left out."""
        if key not in self._given:
            return None
        given = self._given[key]
        try:
            return kind.parse(given)
        except ValueError as error:
            raise self._error(
                f"{self._where}: {key} = {quoted(given)}: "
                + "; ".join(t for t in (str(error), f"expected {kind.expected}") if t)
                + "."
            ) from error

    def need(self, key: str, kind: Kind) -> Any:
        """Return what a key says, and refuse a table without it."""
        if key not in self._given:
            raise self._error(
                f"{self._where}: {key} is missing, expected {kind.expected}."
            )
        return self.get(key, kind)

    def tables(self, key: str, known: tuple[str, ...]) -> list[Table]:
        """Return an array of tables, in the order of the file."""
        given = self._given.get(key, [])
        if not isinstance(given, list):
            raise self._error(
                f"{self._where}: {key} = {quoted(given)}: expected tables that begin "
                f"with [[{key}]]."
            )
        return [
            Table(f"{self._where}, [[{key}]] number {n}", table, known, self._error)
            for n, table in enumerate(given, 1)
        ]

    def table(self, key: str, known: tuple[str, ...]) -> Table:
        """Return a table within; one that is left out says nothing."""
        given = self._given.get(key, {})
        return Table(f"{self._where}, [{key}]", given, known, self._error)

    def refuse(self, problem: str) -> Exception:
        """Return an error about the table as a whole."""
        return self._error(f"{self._where}: {problem}")


def quoted(given: Any) -> str:
    """Write a value as short as an error can bear it."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return short.repr(given)


def meant(given: str, known: Iterable[str]) -> str:
    """Ask whether something like it was meant."""
    near = difflib.get_close_matches(given[:60], known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
