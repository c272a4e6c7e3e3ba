"""Values as a reader of the page sees them.

Names come from whoever sent the packets. What would reorder or hide text is shown as
an escape, what is absurdly long is cut with a count, and names in scripts that run
from right to left are isolated, so that they move nothing that stands beside them.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from markupsafe import Markup, escape

from exfilml.export import printable
from exfilml.features import human_bytes

LONGEST_NAME: Final = 64
LONGEST_VALUE: Final = 300
LONGEST_TEXT: Final = 1200

# A word with a letter of Hebrew, Arabic, Syriac, Thaana, N'Ko and their like in it.
_RIGHT_TO_LEFT: Final = re.compile(
    r"[^\s;,()]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff"
    r"\U0001e800-\U0001efff][^\s;,()]*"
)


def is_missing(value: Any) -> bool:
    """Say whether a cell of a table holds nothing."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def value_of(row: Mapping[Any, Any], name: str) -> Any:
    """Return a value of a row, `None` where it is missing."""
    value = row.get(name)
    return None if is_missing(value) else value


def cut(text: str, most: int) -> str:
    """Shorten a text in its middle: the end of a host name says whose it is."""
    if len(text) <= most:
        return text
    count = f" … ({len(text):,} characters) … "
    head = most * 2 // 3
    return text[:head] + count + text[len(text) - (most - head) :]


def name(value: Any, most: int = LONGEST_VALUE) -> str:
    """Write a name that came from the network."""
    # Cut first: of ten thousand characters only those that are shown are escaped.
    return printable(cut(str(value), most))


def sentence(value: Any) -> str:
    """Write a sentence that may hold such names."""
    return printable(cut(str(value), LONGEST_TEXT))


def isolated(text: Any) -> Markup:
    """Escape a text for HTML and isolate what runs from right to left."""
    text = str(text)
    if text.isascii():
        return escape(text)
    parts = []
    end = 0
    for found in _RIGHT_TO_LEFT.finditer(text):
        parts.append(escape(text[end : found.start()]))
        parts.append(Markup("<bdi>{}</bdi>").format(found[0]))
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def moment(value: Any) -> pd.Timestamp | None:
    """Return a time in UTC, `None` for what is none."""
    if is_missing(value):
        return None
    try:
        time = pd.Timestamp(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if is_missing(time):
        return None
    return time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")


def time_text(value: Any, *, seconds: bool = False) -> str:
    """Write a time in UTC."""
    time = moment(value)
    if time is None:
        return "time unknown"
    return f"{time:%Y-%m-%d %H:%M:%S}" if seconds else f"{time:%Y-%m-%d %H:%M}"


def span_text(delta: dt.timedelta) -> str:
    """Write how long something takes, in the unit that fits."""
    seconds = max(delta.total_seconds(), 0.0)
    for unit, length in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            n = seconds / length
            shown = f"{n:.1f}" if n < 10 and n != round(n) else f"{n:,.0f}"
            return f"{shown} {unit}{'' if shown == '1' else 's'}"
    return f"{seconds:.0f} seconds"


def plural(count: int, word: str) -> str:
    """Write a count with its noun."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def bytes_text(value: Any) -> str:
    """Write a byte count, ``?`` where it is unknown."""
    number = real(value)
    return "?" if number is None else human_bytes(max(number, 0.0))


def real(value: Any) -> float | None:
    """Return a finite number, `None` for what is none."""
    if is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def chance_text(p_value: Any, kind: str) -> str:
    """Say how many normal cases or flows are as unusual, as far as p-values tell."""
    p = real(p_value)
    if p is None or not 0.0 < p <= 1.0:
        return ""
    if p > 0.1:
        return f"{p:.0%} of normal {kind}s are as unusual."
    return f"At most 1 in {1 / p:,.0f} normal {kind}s is as unusual."


def cell(value: Any) -> str:
    """Write a cell of a table whose columns the page does not know."""
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, pd.Timestamp | dt.datetime):
        text = time_text(value)
    elif isinstance(value, float):
        whole = math.isfinite(value) and value == round(value)
        text = f"{value:,.0f}" if whole else f"{value:.3g}"
    elif isinstance(value, int):
        text = f"{value:,}"
    elif isinstance(value, list | tuple | set | frozenset):
        text = name(", ".join(str(part) for part in value))
    else:
        text = name(value)
    return text
