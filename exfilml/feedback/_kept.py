"""Judgements as rows of the file and as a table, and which of them count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exfilml.exceptions import FeedbackError
from exfilml.feedback import _database
from exfilml.feedback._facts import COLUMNS, FIRST, LAST, TIME
from exfilml.feedback._judgement import WITHDRAWN, microseconds, moment_of


def rows_of(
    said: pd.DataFrame, facts: pd.DataFrame, moment: pd.Timestamp, model: str | None
) -> list[_database.Row]:
    """Return rows as SQLite takes them, in the order of `COLUMNS`."""
    table = pd.concat([said, facts.reset_index(drop=True)], axis=1)
    when = microseconds(moment)
    columns: list[list[Any]] = []
    for name, kind in COLUMNS.items():
        if name == "judged_at":
            columns.append([when] * len(table))
        elif name == "model":
            columns.append([model] * len(table))
        else:
            columns.append(_plain(table[name], kind))
    return list(zip(*columns, strict=True))


def _plain(column: pd.Series, kind: str) -> list[Any]:
    missing = column.isna().to_numpy()
    if kind == TIME:
        values: list[Any] = (
            column.dt.tz_convert("UTC").dt.tz_localize(None).astype("int64").tolist()
        )
    elif kind == "float64":
        # SQLite has no infinity of its own that all programs read.
        missing = missing | ~np.isfinite(column.to_numpy(dtype=np.float64))
        values = column.tolist()
    else:
        values = column.tolist()
    return [None if gap else v for v, gap in zip(values, missing, strict=True)]


def table_of(path: Path, rows: list[_database.Row]) -> pd.DataFrame:
    """Return rows of the file as a table in the dtypes of `COLUMNS`."""
    names = ["id", *COLUMNS]
    frame = pd.DataFrame(rows, columns=names, dtype="object").set_index("id")
    try:
        typed = {name: _typed(frame[name], kind) for name, kind in COLUMNS.items()}
        return pd.DataFrame(typed, index=frame.index.astype("int64"))
    except (ValueError, TypeError, OverflowError) as error:
        raise FeedbackError(
            f"{path}: damaged: it holds values that no judgement has; restore it from "
            "a copy."
        ) from error


def _typed(column: pd.Series, kind: Any) -> pd.Series:
    if kind == TIME:
        column = pd.to_datetime(column.astype("Int64"), unit="us", utc=True)
        if not (column.dropna() >= FIRST).all() or not (column.dropna() < LAST).all():
            raise ValueError("a time of another age")
    elif kind == "boolean":
        column = column.astype("Int64")
    return column.astype(kind)


def until(history: pd.DataFrame, at: Any) -> pd.DataFrame:
    """Return what was in the file at some time; `None` for all of it."""
    return history if at is None else history[history["judged_at"] <= moment_of(at)]


def standing(history: pd.DataFrame) -> pd.DataFrame:
    """Return judgements that no later withdrawal of their case took back."""
    order = np.arange(len(history))
    withdrawn = (history["verdict"] == WITHDRAWN).to_numpy()
    last = pd.Series(order[withdrawn], index=history["case"].to_numpy()[withdrawn])
    last = last.groupby(level=0).max()
    since = history["case"].map(last).to_numpy(dtype=np.float64, na_value=-1.0)
    those: pd.DataFrame = history[order > np.nan_to_num(since, nan=-1.0)]
    return those


def latest(history: pd.DataFrame) -> pd.DataFrame:
    """Return the judgement of each case that counts."""
    those = standing(history)
    return those[~those["case"].duplicated(keep="last")]
