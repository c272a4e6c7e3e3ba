"""Times as files of a site write them."""

from __future__ import annotations

import datetime as dt
import functools
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

REMEMBERED: Final = 65_536
_NUMBER: Final = re.compile(r"(\d{9,10})(?:\.\d+)?|(\d{13})", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ZONE: Final = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)
_LONGEST: Final = 40
NEVER: Final = np.datetime64("NaT", "us")


def time_of(given: object) -> np.datetime64:
    """Return a time in UTC, NaT for what is none.

    ISO 8601, or seconds or milliseconds since 1970; a time without a zone is UTC.
    """
    # What is remembered must be bounded: no longer text is a time.
    text = str(given).strip() if isinstance(given, str | int | float | dt.date) else ""
    return _time(text) if 0 < len(text) <= _LONGEST else NEVER


@functools.lru_cache(REMEMBERED)
def _time(text: str) -> np.datetime64:
    number = _NUMBER.fullmatch(text)
    if number:
        seconds = int(number[2]) / 1e3 if number[2] else float(text)
        return np.datetime64(round(seconds * 1e6), "us")
    if not _DATE.match(text):
        return NEVER
    try:
        # Python reads no space before a zone, pandas's own reading is slower.
        time = dt.datetime.fromisoformat(_ZONE.sub("", text).replace(" +", "+"))
        plain = time.astimezone(dt.UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return NEVER
    return np.datetime64(plain, "us")


def times_of(texts: Any) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """Return the times of an Arrow array of texts, and which are there but are none."""
    coded = pa.array(texts, pa.string()).dictionary_encode()
    distinct = [*coded.dictionary.to_pylist(), ""]
    codes = coded.indices.fill_null(len(distinct) - 1).to_numpy(zero_copy_only=False)
    times = np.array([time_of(t) if t else NEVER for t in distinct], "datetime64[us]")
    odd = np.array([bool(t) for t in distinct]) & np.isnat(times)
    return times[codes], odd[codes]
