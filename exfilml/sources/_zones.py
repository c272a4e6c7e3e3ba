"""Local times, and the zone that stands beside them or that somebody has to tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._headed import times

_OFFSET: Final = r"(?P<sign>[+-])(?P<hours>[0-1]?[0-9]):?(?P<minutes>[0-5][0-9])$"
_MINUTE: Final = 60_000_000


def offsets(texts: Any) -> Any:
    """Return how far zones are ahead of UTC, in microseconds; None where none stands.

    Texts end in it: ``+0200``, ``+02:00`` or ``Z``.
    """
    texts = texts.cast(pa.string())
    parts = pc.extract_regex(texts, _OFFSET)
    hours, minutes = (
        pc.struct_field(parts, name).cast(pa.int64()) for name in ("hours", "minutes")
    )
    ahead = pc.multiply(pc.add(pc.multiply(hours, 60), minutes), _MINUTE)
    west = pc.equal(pc.struct_field(parts, "sign"), "-")
    ahead = pc.if_else(west, pc.negate(ahead), ahead)
    return pc.if_else(pc.fill_null(pc.ends_with(texts, "Z"), False), 0, ahead)


def told_times(local: Any, ahead: Any, timezone: str | None, path: Path) -> Any:
    """Read local times, in microseconds since 1970; None if wrong.

    Parameters
    ----------
    local
        Texts, as `_headed.times` reads them.
    ahead
        What `offsets` found beside each.
    timezone
        Where the others are local.
    path
        The file, for the error.

    Raises
    ------
    SourceError
        If times are local and nobody said where.
    """
    alone = pc.and_(pc.is_null(ahead), pc.is_valid(local))
    if not pc.any(alone).as_py():
        return pc.subtract(times(local, "UTC", path), ahead)
    asked = times(local, timezone, path)
    if pc.all(alone).as_py():
        return asked
    return pc.coalesce(pc.subtract(times(local, "UTC", path), ahead), asked)
