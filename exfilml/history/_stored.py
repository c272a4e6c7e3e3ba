"""What the store keeps of a flow: what an analyst asks for, oriented by the site.

What makes two rows the same flow is what `exfilml.schema.duplicate_flows` compares
(ends, protocol, bytes both ways), and the same start to the microsecond: a tolerance
would depend on the order in which sources are added, and would take two requests of a
busy second for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.history._manifest import DAY_US
from exfilml.names import Names
from exfilml.places import Oriented, orient

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

# Column of the store: of the oriented flows.
_TEXTS: Final = {
    "local_ip": "local_ip",
    "remote_ip": "remote_ip",
    "direction": "direction",
    "place": "place",
    "service": "service",
    "app": "app",
    "server_name": "server_name",
    "fingerprint": "fingerprint",
    "process": "process",
    "user_agent": "user_agent",
    "uid": "uid",
    "source": "sensor",
}
_NUMBERS: Final = {
    "src_port": "int32",
    "dst_port": "int32",
    "protocol": "int16",
    "up_bytes": "int64",
    "down_bytes": "int64",
}
COLUMNS: Final = ("start", "duration_s", "inbound", *_NUMBERS, *_TEXTS)
IDENTITY: Final = (
    *("start", "local_ip", "remote_ip", "src_port", "dst_port", "protocol"),
    *("up_bytes", "down_bytes", "inbound"),
)


def flow_schema() -> pa.Schema:
    """Return the columns of a file of flows, with their types."""
    import pyarrow as pa

    fields = [
        pa.field("start", pa.timestamp("us", "UTC")),
        pa.field("duration_s", pa.float64()),
        pa.field("inbound", pa.bool_()),
        *(pa.field(name, getattr(pa, kind)()) for name, kind in _NUMBERS.items()),
        *(pa.field(name, pa.string()) for name in _TEXTS),
    ]
    return pa.schema(fields)


def stored(flows: pd.DataFrame, home: tuple[str, ...]) -> tuple[pa.Table, int]:
    """Orient flows, drop what repeats an earlier row, and put them in order of start.

    Parameters
    ----------
    flows
        A validated flows table.
    home
        Home networks of the store.

    Returns
    -------
    table : pyarrow.Table
        With the columns of `flow_schema`; texts as dictionaries.
    crossing : int
        How many of them have exactly one end in the home networks.
    """
    oriented = orient(flows, home)
    direction = oriented.names("direction")
    crosses = direction.each(lambda way: way in {"outbound", "inbound"}, missing=False)
    rows = _distinct(oriented)
    return _table(oriented, rows), int(crosses[rows].sum())


def day_slices(table: pa.Table) -> list[tuple[int, pa.Table]]:
    """Cut a table that is in order of start by UTC day since 1970."""
    days = start_us(table) // DAY_US
    every, first = np.unique(days, return_index=True)
    sizes = np.diff(first, append=len(days))
    return [
        (day, table.slice(begin, size))
        for day, begin, size in zip(
            every.tolist(), first.tolist(), sizes.tolist(), strict=True
        )
    ]


def start_us(table: pa.Table) -> NDArray[np.int64]:
    """Return when each row starts, microseconds since 1970."""
    import pyarrow as pa

    found: NDArray[np.int64] = table.column("start").cast(pa.int64()).to_numpy()
    return found


def _distinct(oriented: Oriented) -> NDArray[np.int64]:
    """Return the rows that repeat no other, in order of start."""
    parts: dict[str, Any] = {"start": _start(oriented), "inbound": oriented.flipped}
    for name in IDENTITY:
        if name in _TEXTS:
            # One text may stand in two places of `Names`.
            names = oriented.names(name)
            parts[name] = pd.factorize(names.texts[:-1])[0][names.codes]
        elif name not in parts:
            parts[name] = oriented[name].to_numpy()
    first = np.flatnonzero(~pd.DataFrame(parts).duplicated().to_numpy())
    order = np.argsort(parts["start"][first], kind="stable")
    return first[order]


def _table(oriented: Oriented, rows: NDArray[np.int64]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "start": pa.array(_start(oriented)[rows], pa.int64()).cast(
            pa.timestamp("us", "UTC")
        ),
        "duration_s": pa.array(
            oriented.numbers("duration_s")[rows], pa.float64(), from_pandas=True
        ),
        "inbound": pa.array(oriented.flipped[rows]),
    }
    for name, kind in _NUMBERS.items():
        columns[name] = pa.array(oriented[name].to_numpy()[rows].astype(kind))
    for name, source in _TEXTS.items():
        columns[name] = _dictionary(oriented.names(source)[rows])
    return pa.table({name: columns[name] for name in COLUMNS})


def _start(oriented: Oriented) -> NDArray[np.int64]:
    start = oriented.flows["start"].to_numpy(dtype="datetime64[us]")
    return start.astype(np.int64)


def _dictionary(names: Names) -> pa.DictionaryArray:
    """Return names as Arrow keeps texts that repeat."""
    import pyarrow as pa

    # A missing text, and one that no row names, is no entry.
    shown = np.flatnonzero(~names.missing)
    codes = np.full(len(names), -1, dtype=np.int32)
    codes[shown], kept = pd.factorize(names.codes[shown])
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, mask=codes < 0), pa.array(names.texts[kept], pa.string())
    )
