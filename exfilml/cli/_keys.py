"""Keys, IVs and salts as they are given on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from exfilml.exceptions import OptionError, SourceError

_MOST_KEYS: Final = 1000
_LONGEST_FILE: Final = 1 << 20


def from_hex(
    _: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[bytes, ...]:
    try:
        return tuple(bytes.fromhex(text.removeprefix("hex:")) for text in given)
    except ValueError as error:
        raise OptionError(f"--{option.name[:-1]}: {error}; expected hex.") from error


def keys_of(files: tuple[Path, ...]) -> list[str]:
    """Read keys: a text has one a line, anything else is one key."""
    keys: list[str] = []
    for file in files:
        try:
            with file.open("rb") as opened:
                data = opened.read(_LONGEST_FILE + 1)
        except OSError as error:
            raise SourceError(f"{file}: cannot be read: {error.strerror}.") from error
        if not data or len(data) > _LONGEST_FILE:
            raise OptionError(
                f"{file}: {len(data):,} bytes; expected keys, one a line, or the bytes of "
                "one key."
            )
        keys += _lines(data) or [f"hex:{data.hex()}"]
    if len(keys) > _MOST_KEYS:
        raise OptionError(f"{len(keys):,} keys; expected at most {_MOST_KEYS:,}.")
    return keys


def _lines(data: bytes) -> list[str]:
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    return [line for line in lines if line] if all(map(str.isprintable, lines)) else []
