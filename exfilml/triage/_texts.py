"""Files of a site as text or JSON, whatever wrote them.

Spreadsheets begin a text with a mark of byte order and write UTF-16.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from exfilml.exceptions import ExfilmlError
from exfilml.triage._account import shown

LARGEST_FILE: Final = 1 << 30
# Python keeps JSON in about ten times the space of its text.
LARGEST_JSON: Final = 256 << 20
_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """A file's text and its name."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.path.name

    @property
    def is_json(self) -> bool:
        """Whether it begins as JSON does; a defanged list can begin with a bracket."""
        return re.match(r'\s*(\{|\[\s*[{"\[\]])', self.text) is not None

    def json(self, error: type[ExfilmlError], expected: str) -> Any:
        """Return what stands in a JSON file.

        Raises
        ------
        ExfilmlError
            Of the class given, if it is no JSON or too large.
        """
        if len(self.text) > LARGEST_JSON:
            raise error(
                f"{self.path}: more than {LARGEST_JSON >> 20} MiB of JSON; split it "
                "into several files."
            )
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as reason:
            raise error(
                f"{self.path}: begins like JSON but is none: {reason}; expected "
                f"{expected}."
            ) from reason


def texts(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    error: type[ExfilmlError],
    expected: str,
) -> Iterator[Text]:
    """Read files, and all files of folders in the order of their names.

    Raises
    ------
    ExfilmlError
        Of the class given, if one cannot be read.
    """
    given = list(paths) if isinstance(paths, Iterable) else [paths]
    if isinstance(paths, str | os.PathLike):
        given = [paths]
    if not given:
        raise error(f"got no path, expected {expected}.")
    for path in given:
        if not isinstance(path, str | os.PathLike):
            raise error(f"got {shown(path)}, expected the path of {expected}.")
        root = Path(path)
        files = [root]
        if root.is_dir():
            files = [
                Path(folder) / name
                for folder, folders, names in os.walk(root)
                for name in sorted(names)
                if not name.startswith(".") and folders.sort() is None
            ]
            if not files:
                raise error(f"{root}: an empty folder, expected {expected}.")
        for file in files:
            yield Text(file, _read(file, error, expected))


def _read(path: Path, error: type[ExfilmlError], expected: str) -> str:
    try:
        # A pipe or device could keep us waiting for its end.
        if path.exists() and not path.is_file():
            raise error(f"{path}: not a regular file, expected {expected}.")
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as reason:
        why = getattr(reason, "strerror", None) or reason
        raise error(f"{path}: cannot be read: {why}; expected {expected}.") from reason
    if len(data) > LARGEST_FILE:
        raise error(f"{path}: more than {LARGEST_FILE >> 30} GiB; split the file.")
    if data.startswith(
        (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
    ):
        raise error(f"{path}: compressed; unpack it first, expected {expected}.")
    encoding = next((e for mark, e in _MARKS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding, "replace")
    if "\0" in text[:4096]:
        raise error(f"{path}: a binary file, expected {expected}.")
    return text.replace("\r\n", "\n").replace("\r", "\n")
