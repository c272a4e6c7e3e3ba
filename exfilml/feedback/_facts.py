"""What is kept of a case: columns of a ranking, in dtypes that hold in any file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.columns import FIRST_YEAR, LAST_YEAR
from exfilml.declarations import quoted
from exfilml.exceptions import FeedbackError
from exfilml.export import printable

# Host names have at most 255 characters (RFC 1035); what else a table says is cut.
LONGEST_FACT: Final = 1000
MOST_NEAR: Final = 3
# More names than this are not compared one by one.
MOST_COMPARED: Final = 20_000

TIME: Final = "datetime64[us, UTC]"
FIRST: Final = pd.Timestamp(FIRST_YEAR, 1, 1, tz="UTC")
LAST: Final = pd.Timestamp(LAST_YEAR, 1, 1, tz="UTC")
FACTS: Final[Mapping[str, str]] = {
    "local_ip": "str",
    "place": "str",
    "direction": "str",
    "protocol": "Int64",
    "dst_port": "Int64",
    "app": "str",
    "server_name": "str",
    "fingerprint": "str",
    "suspicion": "float64",
    "p_value": "float64",
    "alert": "boolean",
    "rank": "Int64",
    "flows": "Int64",
    "addresses": "Int64",
    "first_seen": TIME,
    "last_seen": TIME,
    "up_bytes": "Int64",
    "capability": "str",
    "payload": "str",
}
"""What is kept of a case: columns of `exfilml.rank_cases`, and dtypes.

``fingerprint`` and ``payload`` (a class of `exfilml.policy`) are kept where a table has
them."""

COLUMNS: Final[Mapping[str, str]] = {
    "case": "str",
    "verdict": "str",
    "reason": "str",
    "analyst": "str",
    "judged_at": TIME,
    "model": "str",
    **FACTS,
}
"""Columns of a table of judgements, and dtypes."""


def check_cases(cases: Any, needed: tuple[str, ...]) -> None:
    """Refuse what is no table of cases.

    Raises
    ------
    FeedbackError
        With the columns that are missing.
    """
    if not isinstance(cases, pd.DataFrame):
        raise FeedbackError(
            f"cases: got {type(cases).__name__}, expected a table of cases as "
            "exfilml.rank_cases gives it."
        )
    if not cases.columns.is_unique:
        raise FeedbackError("cases: two columns have the same name.")
    missing = [name for name in needed if name not in cases.columns]
    if missing:
        hint = "; this is a ranking of flows" if "src_port" in cases.columns else ""
        raise FeedbackError(
            f"cases: {', '.join(missing)} missing{hint}; expected a table of cases as "
            "exfilml.rank_cases gives it (exfilml rank --by case --out FILE)."
        )


def facts_of(cases: pd.DataFrame, names: Iterable[str] = tuple(FACTS)) -> pd.DataFrame:
    """Return columns of `FACTS` of cases in their dtypes; missing where there is none.

    Columns may be texts, as CSV has them. What cannot be read as what it should be is
    missing: a judgement stands without it.
    """
    return pd.DataFrame(
        {
            name: _typed(
                cases[name]
                if name in cases.columns
                else pd.Series(pd.NA, index=cases.index, dtype="object"),
                FACTS[name],
            )
            for name in names
        },
        index=cases.index,
    )


def _typed(column: pd.Series, kind: str) -> pd.Series:
    if kind == "str":
        return column.map(_text, na_action="ignore").astype("str")
    if kind == "boolean":
        return column.map(_flag).astype("boolean")
    if kind == TIME:
        given = column if column.dtype.kind == "M" else column.astype("object")
        times = pd.to_datetime(given, utc=True, errors="coerce", format="ISO8601")
        times = times.astype(TIME)
        return times.where((times >= FIRST) & (times < LAST))
    numbers = pd.to_numeric(column, errors="coerce").astype("Float64")
    if kind == "float64":
        values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(values, index=column.index)
    whole = (numbers.abs() < 2**62) & (numbers == numbers.round())
    return numbers.where(whole.fillna(value=False)).astype("Int64")


def _text(value: Any) -> str | None:
    text = value if isinstance(value, str) else str(value)
    return printable(text[:LONGEST_FACT]) or None


_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


def _flag(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return _FLAGS.get(str(value).strip().lower(), pd.NA)


def positions(cases: pd.DataFrame, names: list[str]) -> list[int]:
    """Return the row of each case; of several the one that was seen last.

    Raises
    ------
    FeedbackError
        If one is not in the table, with those that are nearest to it.
    """
    known = cases["case"].astype("str")
    wanted = known.isin(names).to_numpy()
    rows = np.flatnonzero(wanted)
    if len(rows) > len(names) and "last_seen" in cases.columns:
        seen = _typed(cases["last_seen"].iloc[rows], TIME).to_numpy()
        rows = rows[np.argsort(seen, kind="stable")]
    found = dict(zip(known.iloc[rows].tolist(), rows.tolist(), strict=True))
    for name in names:
        if name not in found:
            raise FeedbackError(unknown_case(name, cases))
    return [found[name] for name in names]


def unknown_case(name: str, cases: pd.DataFrame) -> str:
    """Say that a case is not in a table, and which ones are near."""
    near = difflib.get_close_matches(
        name[:60], cases["case"].iloc[:MOST_COMPARED].astype("str"), n=MOST_NEAR
    )
    hint = f" (did you mean {', '.join(near)}?)" if near else ""
    if not near and "rank" in cases.columns and name.isdecimal():
        ranked = cases.loc[cases["rank"].astype("str") == name, "case"]
        hint = f" (the case of rank {name} is {ranked.iloc[0]})" if len(ranked) else ""
    return (
        f"case {quoted(name)}: not among the {len(cases):,} cases given{hint}; expected "
        "an id of the column case."
    )
