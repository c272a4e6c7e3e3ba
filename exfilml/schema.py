"""The flows table: what its rows are, and the one door that checks it.

One row is one bidirectional flow. `src` is the initiator, `dst` the responder.
`src_bytes` and `dst_bytes` are **IP bytes**: IP header and everything above it, no
link layer, as in Zeek's ``orig_ip_bytes`` and in NFStream with
``accounting_mode=1``. Payload bytes are what the transport layer carries, without
retransmission being removed. Times are UTC; durations are seconds. The columns, their
dtypes and units are listed in `exfilml.columns`.

Payload columns exist once for each direction, prefixed ``src_`` and ``dst_``; what they
mean is told by `exfilml.payload.PayloadEvidence`, whose fields they are. They are missing where a source cannot see payload; a source that sees payload writes 0
into ``*_payload_bytes`` for a silent direction. That difference is what
`capability` reads.

Labels are a table of their own (`LABEL_COLUMNS`): a row matches every flow with the
same ends and protocol whose start lies between ``start`` and ``end``; empty ports
and times match all.

One file because it is one door: what may stand in the columns (`exfilml.columns`) and
the sentences for what may not are read together.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import warnings
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.columns import (
    COLUMNS,
    CONN_STATES,
    DTYPES,
    FIRST_YEAR,
    LAST_YEAR,
    REQUIRED,
    START_DTYPE,
    VERDICTS,
    Column,
)
from exfilml.exceptions import FlowsError, FlowsWarning, LabelsError
from exfilml.names import FEW, Names

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Clocks that are set by the network agree better.
DUPLICATE_WITHIN: Final = pd.Timedelta(seconds=1)
# A few duplicates change no volume that matters.
LEAST_DUPLICATES: Final = (10, 0.1)
# No baseline is as long, and no clock as wrong by drifting alone.
CLOCK_WITHIN: Final = np.timedelta64(366, "D")

_ENDS: Final = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol")
LABEL_COLUMNS: Final = (
    *_ENDS,
    *("start", "end", "label", "scenario"),
)
CAPABILITIES: Final = ("volume", "packets", "application", "payload")

_ENUMS: Final[dict[str, tuple[str, ...]]] = {
    "conn_state": CONN_STATES,
    "first_speaker": ("src", "dst"),
    "src_verdict": VERDICTS,
    "dst_verdict": VERDICTS,
}
_ADDRESSES: Final = ("src_ip", "dst_ip")
_NAMES: Final = list(DTYPES)
_TYPES: Final = [pd.api.types.pandas_dtype(dtype) for dtype in DTYPES.values()]
# Columns in which a value of the right type can still be wrong.
_BOUNDED: Final = tuple(
    c
    for c in COLUMNS
    if c.high is not None or c.name in {"start", *_ADDRESSES, *_ENUMS}
)
_MOST: Final = {c.name: c.high for c in COLUMNS if c.high is not None}


def empty_flows() -> pd.DataFrame:
    """Return a flows table with every column, typed, and no rows."""
    return pd.DataFrame({c.name: pd.Series([], dtype=c.dtype) for c in COLUMNS})


def validate_flows(flows: pd.DataFrame) -> pd.DataFrame:
    """Check a flows table and return it with every column in its dtype.

    Missing optional columns are added as missing values; columns that the schema
    does not know are kept as they are, after its own. Index and row order are kept;
    the input is not changed.

    Parameters
    ----------
    flows
        Any table with at least the required columns.

    Returns
    -------
    pandas.DataFrame
        Columns in the order of `COLUMNS`, then unknown ones.

    Raises
    ------
    FlowsError
        With one line for each column that is missing, of a wrong type or has
        impossible values, with counts and the first rows.
    """
    if not isinstance(flows, pd.DataFrame):
        raise FlowsError(
            f"Expected a flows table (pandas.DataFrame), got {type(flows).__name__}. "
            "exfilml.read_flows(path) makes one from a capture or a Parquet file."
        )
    if _is_flows_table(flows):
        table = flows.copy(deep=False)
        table.attrs = {}
        return table
    problems: list[str] = []
    if not flows.columns.is_unique:
        repeated = flows.columns[flows.columns.duplicated()].unique()
        raise FlowsError(
            f"Columns appear more than once: {', '.join(map(str, repeated))}. "
            "Rename or drop the copies."
        )
    missing = [name for name in REQUIRED if name not in flows.columns]
    if missing:
        problems.append(f"  missing columns: {', '.join(missing)}")
    checked: dict[str, pd.Series] = {}
    # pandas copies a column before it is written to, so that columns of missing
    # values can share one.
    absent = functools.cache(lambda dtype: _absent(dtype, flows.index))
    for column in COLUMNS:
        if column.name not in flows.columns:
            if not column.required:
                checked[column.name] = absent(column.dtype)
            continue
        series, problem = _convert(flows[column.name], column)
        problem = problem or _impossible(series, column)
        if problem:
            problems.append(f"  {column.name}: {problem}")
        checked[column.name] = series
    if problems:
        given = ", ".join(map(str, flows.columns[:12])) or "none"
        more = ", …" if len(flows.columns) > 12 else ""
        raise FlowsError(
            f"Not a flows table ({len(flows):,} rows; columns given: {given}{more}):\n"
            + "\n".join(problems)
            + "\nSee exfilml.columns.COLUMNS for names, dtypes and units."
        )
    extra = {c: flows[c] for c in flows.columns if c not in DTYPES}
    return pd.DataFrame({**checked, **extra}, index=flows.index, copy=False)


def complete_flows(flows: pd.DataFrame) -> pd.DataFrame:
    """Return a table of checked columns with those that are missing, as `validate_flows`.

    For readers, who check values where they can say on which line they stand.
    """
    absent = functools.cache(lambda dtype: _absent(dtype, flows.index))
    known = {
        c.name: flows[c.name] if c.name in flows.columns else absent(c.dtype)
        for c in COLUMNS
    }
    extra = {c: flows[c] for c in flows.columns if c not in DTYPES}
    return pd.DataFrame({**known, **extra}, index=flows.index, copy=False)


def _is_flows_table(flows: pd.DataFrame) -> bool:
    """Whether nothing needs to be added, moved, converted or refused.

    So it is with most tables that are scored, because they passed before.
    """
    given = flows.columns
    return (
        type(flows) is pd.DataFrame
        and given.is_unique
        and given.name is None
        and given.tolist()[: len(COLUMNS)] == _NAMES
        and flows.dtypes.tolist()[: len(COLUMNS)] == _TYPES
        and _in_bounds(flows)
    )


def _in_bounds(flows: pd.DataFrame) -> bool:
    """Whether the values of typed columns can be."""
    bounded = _BOUNDED
    if len(flows) <= FEW:
        # At once: to fetch column by column takes longer than to look at few rows.
        bounded = tuple(c for c in _BOUNDED if c.name not in _MOST)
        counts = flows[list(_MOST)].to_numpy(dtype="float64", na_value=np.nan)
        if ((counts < 0) | (counts > list(_MOST.values()))).any():
            return False
    return not any(_impossible(flows[column.name], column) for column in bounded)


def _absent(dtype: Any, index: pd.Index) -> pd.Series:
    """Return a column of missing values."""
    missing = np.nan if dtype == "float64" else pd.NA
    return pd.Series(missing, index=index, dtype=dtype)


def _convert(series: pd.Series, column: Column) -> tuple[pd.Series, str | None]:
    """Convert to the column's dtype, or say in one line why it cannot be done."""
    if _name(series.dtype) == column.dtype:
        return series, None
    if column.dtype == START_DTYPE:
        return _convert_time(series)
    # pandas-stubs knows dtypes only where they are written out.
    dtype: Any = column.dtype
    try:
        if dtype in {"int64", "Int64"}:
            return _convert_integer(series, column)
        if dtype == "str":
            return _convert_text(series)
        if dtype == "float64":
            series = pd.to_numeric(series, errors="raise")
        return series.astype(dtype), None
    except (TypeError, ValueError, OverflowError):
        return series, f"expected {column.dtype}, got {_shown(series)}"


@functools.lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    """Return a dtype's name; pandas spells it anew each time."""
    return str(dtype)


def _convert_integer(series: pd.Series, column: Column) -> tuple[pd.Series, str | None]:
    numbers = pd.to_numeric(series, errors="raise")
    gaps = numbers.isna()
    if column.dtype == "int64" and gaps.any():
        return series, f"{_count(gaps)} missing, expected {column.unit}"
    as_float = numbers.to_numpy(dtype="float64", na_value=np.nan)
    odd = pd.Series(
        ~gaps.to_numpy() & (~np.isfinite(as_float) | (as_float != np.floor(as_float))),
        index=series.index,
    )
    if odd.any():
        return series, f"{_count(odd)} not whole numbers: {_examples(series, odd)}"
    dtype: Any = column.dtype
    return numbers.astype(dtype), None


def _convert_text(series: pd.Series) -> tuple[pd.Series, str | None]:
    if series.dtype == object or isinstance(series.dtype, pd.CategoricalDtype):
        values = series.astype(object)
        if pd.api.types.infer_dtype(values, skipna=True) not in {"string", "empty"}:
            odd = pd.Series(
                [not (isinstance(v, str) or pd.isna(v)) for v in values],
                index=series.index,
            )
            if odd.any():
                return series, f"{_count(odd)} not text: {_examples(series, odd)}"
        return values.astype("str"), None
    if isinstance(series.dtype, pd.StringDtype) or series.isna().all():
        return series.astype("str"), None
    return series, f"expected text, got {_shown(series)}"


def _convert_time(series: pd.Series) -> tuple[pd.Series, str | None]:
    """Convert times; they need a zone, so that no log is read an hour off."""
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        return series.astype(START_DTYPE), None
    if len(series) == 0:
        return pd.Series([], index=series.index, dtype=START_DTYPE), None
    if series.dtype.kind == "M":
        return series, (
            "times without a zone; say which one, for example "
            'flows["start"].dt.tz_localize("UTC")'
        )
    return series, f"expected {START_DTYPE}, got {_shown(series)}"


def _impossible(series: pd.Series, column: Column) -> str | None:
    """Say in one line which values cannot be, or return None."""
    if column.dtype == START_DTYPE:
        times = series.to_numpy(dtype="datetime64[us]")
        bad = np.isnat(times) | (times < _EARLIEST) | (times >= _TOO_LATE)
        what = f"missing or outside {FIRST_YEAR}–{LAST_YEAR}"
    elif column.name in _ADDRESSES:
        names = Names.of(series)
        bad = ~are_addresses(names.texts)[names.codes]
        what = "not an IPv4 or IPv6 address"
    elif column.name in _ENUMS:
        known = _ENUMS[column.name]
        bad = Names.of(series).each(lambda text: text not in known, missing=False)
        what = f"not one of {', '.join(_ENUMS[column.name])}"
    elif column.high is not None:
        values = numbers(series)
        bad = (values < 0) | (values > column.high)
        what = f"outside 0 … {column.high:g} {column.unit}"
    else:
        return None
    if not bad.any():
        return None
    rows = pd.Series(bad, index=series.index)
    return f"{_count(rows)} {what}: {_examples(series, rows)}"


_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_VERSION_4: Final = rf"^{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}\z"
_MIXER: Final = np.uint64(0x9E3779B97F4A7C15)
_EARLIEST: Final = np.datetime64(f"{FIRST_YEAR}-01-01", "us")
_TOO_LATE: Final = np.datetime64(f"{LAST_YEAR + 1}-01-01", "us")


def are_addresses(texts: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Say for each text whether it is an address of IP version 4 or 6."""
    if len(texts) <= FEW:
        return np.array([_is_address(text) for text in texts], dtype=bool)
    import pyarrow as pa
    import pyarrow.compute as pc

    # Most are of version 4, and many are told at once faster than one by one.
    plain = pc.match_substring_regex(pa.array(texts, pa.string()), _VERSION_4)
    right: NDArray[np.bool_] = pc.fill_null(plain, False).to_numpy(zero_copy_only=False)
    right = right.copy()
    for at in np.flatnonzero(~right):
        right[at] = _is_address(texts[at])
    return right


def _is_address(text: str | None) -> bool:
    if text is None:
        return False
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
    return True


def _count(bad: pd.Series) -> str:
    return f"{int(bad.sum()):,} of {len(bad):,} rows"


def _examples(series: pd.Series, bad: pd.Series, most: int = 3) -> str:
    rows = np.flatnonzero(bad.to_numpy(dtype=bool))[:most]
    return ", ".join(
        f"row {i}: " + ("missing" if pd.isna(v) else repr(str(v)[:60]))
        for i, v in zip(rows, series.iloc[rows], strict=True)
    )


def _shown(series: pd.Series) -> str:
    first = repr(series.iloc[0])[:60] if len(series) else "no rows"
    return f"{series.dtype} (first: {first})"


def numbers(column: pd.Series) -> NDArray[np.float64]:
    """Return a column of numbers as float64, NaN where missing."""
    if isinstance(column.dtype, np.dtype):
        plain: NDArray[np.float64] = column.to_numpy().astype(np.float64, copy=False)
        return plain
    filled: NDArray[np.float64] = column.array.to_numpy(
        dtype="float64", na_value=np.nan
    )
    return filled


def capability(flows: pd.DataFrame) -> NDArray[np.str_]:
    """Say for each flow the most that its source could see.

    Parameters
    ----------
    flows
        A validated flows table.

    Returns
    -------
    numpy.ndarray of str, shape (n_flows,)
        ``payload``, ``application``, ``packets`` or ``volume``.
    """
    return np.array(CAPABILITIES)[capability_level(flows)]


def capability_level(flows: pd.DataFrame) -> NDArray[np.int64]:
    """Return what `capability` says as positions in `CAPABILITIES`."""
    level = np.where(flows["src_packets"].array.isna(), 0, 1)
    level[~flows["app"].array.isna()] = 2
    level[~flows["src_sampled_bytes"].array.isna()] = 3
    return level


def duplicate_flows(flows: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which rows repeat an earlier one, as where two sensors see the same link.

    A row is a duplicate if another has the same ends, protocol and bytes both ways and
    starts at most a second earlier, as clocks differ: a conversation that used its
    ports again so soon would be the same flow. ``flows[~duplicate_flows(flows)]``
    drops them. Flows that the sensors cut or count differently are not found.

    Parameters
    ----------
    flows
        A flows table.

    Returns
    -------
    numpy.ndarray of bool, shape (n_flows,)
        False for the first of each group.
    """
    return _duplicates(validate_flows(flows))


def _duplicates(flows: pd.DataFrame) -> NDArray[np.bool_]:
    same = [*_ENDS, "src_bytes", "dst_bytes"]
    # Most rows have no equal: only rows whose mixed numbers agree are compared.
    mixed = np.zeros(len(flows), dtype=np.uint64)
    for name in same:
        part = Names.of(flows[name]).codes if name in _ADDRESSES else flows[name]
        mixed = (mixed ^ np.asarray(part).astype(np.uint64)) * _MIXER
        mixed ^= mixed >> np.uint64(29)
    rows = np.flatnonzero(pd.Series(mixed).duplicated(keep=False).to_numpy())
    some = flows[["start", *same]].iloc[rows].reset_index(drop=True)
    some = some.sort_values("start", kind="stable")
    since = some.groupby(same)["start"].diff()
    repeated = np.zeros(len(flows), dtype=bool)
    repeated[rows[some.index[since <= DUPLICATE_WITHIN]]] = True
    return repeated


def warn_of_doubtful_rows(flows: pd.DataFrame, stacklevel: int = 3) -> None:
    """Warn of rows that would distort volumes or time, if they are what they seem.

    Parameters
    ----------
    flows
        A validated flows table.
    stacklevel
        Whose line the warning names, as in `warnings.warn`.

    Warns
    -----
    FlowsWarning
        If many rows are duplicates, or some start more than a year from the others.
    """
    doubts = Doubts()
    doubts.add(flows)
    doubts.warn(stacklevel + 1)


class Doubts:
    """Rows that would distort volumes or time, counted over tables one by one.

    Attributes
    ----------
    n_rows
        Rows counted.
    repeated
        How many of them are duplicates of others of the same table.
    days
        Rows by UTC day since 1970.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self.repeated = 0
        self.days: dict[int, int] = {}

    def add(self, flows: pd.DataFrame) -> None:
        """Count the rows of a validated flows table."""
        self.n_rows += len(flows)
        self.repeated += int(_duplicates(flows).sum())
        start = flows["start"].to_numpy(dtype="datetime64[us]")
        days, counts = np.unique(start.astype("datetime64[D]"), return_counts=True)
        for day, n in zip(days.astype(int).tolist(), counts.tolist(), strict=True):
            self.days[day] = self.days.get(day, 0) + n

    def warn(self, stacklevel: int = 2) -> None:
        """Warn as `warn_of_doubtful_rows` does, of all tables together."""
        least, share = LEAST_DUPLICATES
        if self.n_rows < least:
            return
        if self.repeated >= least and self.repeated > share * self.n_rows:
            warnings.warn(
                f"{self.repeated:,} of {self.n_rows:,} rows are duplicates of others "
                "(same ends, protocol and bytes, starts less than a second apart), as "
                "if two sensors saw the same link: volumes count twice. Drop them with "
                "flows[~exfilml.duplicate_flows(flows)].",
                FlowsWarning,
                stacklevel=stacklevel,
            )
        days = np.array(sorted(self.days))
        counts = np.array([self.days[day] for day in days.tolist()])
        middle = days[np.searchsorted(np.cumsum(counts), self.n_rows // 2, "right")]
        odd = np.abs(days - middle) > CLOCK_WITHIN.astype(int)
        if odd.any():
            first, median = (
                np.datetime64(int(day), "D") for day in (days[odd][0], middle)
            )
            warnings.warn(
                f"{int(counts[odd].sum()):,} of {self.n_rows:,} flows start more than "
                f"a year from the others (first: {first} UTC; median: {median}): the "
                "clock of a sensor is wrong, or these are records of several times. "
                "Correct or drop them, or give one time only.",
                FlowsWarning,
                stacklevel=stacklevel,
            )


def apply_labels(flows: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return `flows` with ``label`` and ``scenario`` filled from a labels table.

    Parameters
    ----------
    flows
        A validated flows table.
    labels
        As `exfilml.read_labels` gives it; see `label_rows` for what matches.
    """
    check_labels(labels)
    labelled = validate_flows(flows).copy()
    label = labelled["label"].astype(object).to_numpy().copy()
    scenario = np.full(len(flows), None, dtype=object)
    rows, matched = label_rows(flows, labels)
    label[rows] = labels["label"].to_numpy(dtype=object)[matched]
    scenario[rows] = labels["scenario"].to_numpy(dtype=object)[matched]
    labelled["label"] = pd.Series(label, index=flows.index).astype("str")
    labelled["scenario"] = pd.Series(scenario, index=flows.index).astype("str")
    return labelled


def check_labels(labels: pd.DataFrame) -> None:
    """Refuse what is no labels table.

    Raises
    ------
    LabelsError
        With the columns that are missing.
    """
    if not isinstance(labels, pd.DataFrame):
        raise LabelsError(
            f"Expected a labels table (pandas.DataFrame), got {type(labels).__name__}. "
            "exfilml.read_labels(path) reads one."
        )
    missing = [name for name in LABEL_COLUMNS if name not in labels.columns]
    if missing:
        raise LabelsError(
            f"No labels table, columns missing: {', '.join(missing)}. Expected: "
            f"{', '.join(LABEL_COLUMNS)}."
        )


def label_rows(
    flows: pd.DataFrame, labels: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match each flow to the last label row that it fits; see `label_pairs`.

    Returns
    -------
    rows, matched : numpy.ndarray of int64, shape (n_labelled,)
        Positions of the labelled flows, in order, and of the label row of each.
    """
    rows, matched = label_pairs(flows, labels)
    last = np.append(rows[1:] != rows[:-1], True)[: len(rows)]
    return rows[last], matched[last]


def label_pairs(
    flows: pd.DataFrame, labels: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match label rows to flows.

    A label row matches a flow in either orientation, so that a flow whose initiator
    was not seen is still labelled; empty ports and times match all.

    Returns
    -------
    rows, matched : numpy.ndarray of int64, shape (n_pairs,)
        Positions of flows, in order, and of the label rows that each fits, in order.
    """
    # A table made by hand may hold times of another kind, or none at all.
    times = {name: pd.to_datetime(labels[name], utc=True) for name in ("start", "end")}
    labels = labels.assign(**times)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    whole = labels[list(_ENDS)].notna().all(axis=1).to_numpy(dtype=bool)
    asked = labels.loc[whole, [*_ENDS, "start", "end"]].assign(
        matched=np.flatnonzero(whole)
    )
    known = flows[list(_ENDS)].reset_index(drop=True)
    start = flows["start"].reset_index(drop=True)
    for theirs in (_ENDS, (*_ENDS[2:4], *_ENDS[:2], "protocol")):
        turned = asked.rename(columns=dict(zip(theirs, _ENDS, strict=True)))
        turned = turned.astype({name: known[name].dtype for name in _ENDS})
        pairs = known.assign(row=np.arange(len(known))).merge(turned, on=list(_ENDS))
        began = start.iloc[pairs["row"]].reset_index(drop=True)
        early, late = began < pairs["start"], began > pairs["end"]
        pairs = pairs[~(early | late)]
        parts.append((pairs["row"].to_numpy(), pairs["matched"].to_numpy()))
    for at in np.flatnonzero(~whole):
        row = labels.iloc[at].to_dict()
        match = _ends_match(flows, row, "src", "dst")
        match |= _ends_match(flows, row, "dst", "src")
        match &= (flows["protocol"] == row["protocol"]).to_numpy()
        if pd.notna(row["start"]):
            match &= (flows["start"] >= row["start"]).to_numpy()
        if pd.notna(row["end"]):
            match &= (flows["start"] <= row["end"]).to_numpy()
        rows = np.flatnonzero(match)
        parts.append((rows, np.full(len(rows), at)))
    rows, matched = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((matched, rows))
    return rows[order], matched[order]


def _ends_match(
    flows: pd.DataFrame, row: Mapping[Hashable, Any], src: str, dst: str
) -> NDArray[np.bool_]:
    match = np.ones(len(flows), dtype=bool)
    for ours, theirs in (("src", src), ("dst", dst)):
        for field in ("ip", "port"):
            value = row[f"{theirs}_{field}"]
            if pd.notna(value):
                match &= (flows[f"{ours}_{field}"] == value).to_numpy(dtype=bool)
    return match
