"""Times as files of a site write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBER: Final = re.compile(r"(\d{9,10})(\.\d+)?|(\d{13})")
_ZONE: Final = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)
NEVER: Final = np.datetime64("NaT", "us")


def time_of(given: object) -> np.datetime64:
    """Return a time in UTC, NaT for what is none.

    ISO 8601, seconds or milliseconds since 1970; a time without a zone is UTC.
    """
    text = str(given).strip()
    number = _NUMBER.fullmatch(text)
    try:
        if number:
            seconds = int(number[3]) / 1e3 if number[3] else float(text)
            return np.datetime64(round(seconds * 1e6), "us")
        stamp = pd.Timestamp(_ZONE.sub("", text) if _looks(text) else "")
        if pd.isna(stamp):
            return NEVER
        if stamp.tzinfo is not None:
            stamp = stamp.tz_convert(None)
        return stamp.as_unit("us").to_datetime64()
    except (ValueError, OverflowError, TypeError):
        return NEVER


def _looks(text: str) -> bool:
    """Whether a text begins like a date: pandas takes `now` and bare years too."""
    return len(text) <= 40 and re.match(r"\d{4}-\d{2}-\d{2}", text) is not None


def times_of(texts: Any) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """Return the times of an Arrow array of texts, and which are there but are none."""
    coded = pa.array(texts, pa.string()).dictionary_encode()
    distinct = [*coded.dictionary.to_pylist(), ""]
    codes = coded.indices.fill_null(len(distinct) - 1).to_numpy(zero_copy_only=False)
    times = np.array([time_of(t) if t else NEVER for t in distinct], "datetime64[us]")
    odd = np.array([bool(t) for t in distinct]) & np.isnat(times)
    return times[codes], odd[codes]
