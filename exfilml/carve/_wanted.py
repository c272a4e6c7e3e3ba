"""The flows of a case, as the walk over a capture looks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exfilml.carve._packets import ANY_PORT, Wanted, fill
from exfilml.exceptions import CarveError, FlowsError
from exfilml.networks import address_numbers

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NEEDED: Final = (
    *("src_ip", "src_port", "dst_ip", "dst_port", "protocol"),
    *("start", "duration_s"),
)
TOLD_APART: Final = ("src_ip", "dst_ip", "protocol", "start")
"""Without one of these a flow cannot be looked for."""

PORTED: Final = (6, 17, 33, 132, 136)
"""Protocols with ports where the walk reads them: TCP, UDP, DCCP, SCTP, UDP-Lite."""

_OFTEN_WITHOUT: Final = (33, 132, 136)
_MOST_SECONDS: Final = 1e9


def check_flows(flows: pd.DataFrame) -> None:
    """Refuse a table that is not one of flows, or has none.

    Raises
    ------
    FlowsError
        If columns are missing, or rows cannot be told apart.
    CarveError
        If there are no rows.
    """
    missing = [name for name in NEEDED if name not in flows]
    if missing:
        raise FlowsError(
            f"The flows of the case have no column {', '.join(missing)}. Expected a "
            "flows table, as read_flows gives."
        )
    if not flows.index.is_unique:
        raise FlowsError(
            "The index of the flows names some rows twice, expected each once: call "
            "flows.reset_index(drop=True) first."
        )
    if not len(flows):
        raise CarveError("The case has no flows: there is nothing to look for.")


def times_of(flows: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return begin and end of each flow, in ns since 1970."""
    begins = flows["start"].to_numpy("datetime64[ns]").astype(np.int64)
    seconds = flows["duration_s"].to_numpy(np.float64, na_value=0.0)
    seconds = np.clip(np.nan_to_num(seconds), 0.0, _MOST_SECONDS)
    # Rounded up: a float of seconds may lie a little before the last packet.
    return begins, begins + np.ceil(seconds * 1e9).astype(np.int64) + 1000


def wanted(flows: pd.DataFrame, slack_s: float) -> tuple[Wanted, NDArray[np.bool_]]:
    """Put flows into a table of keys; say which can be looked for at all.

    A flow without an address cannot. One without a port (logs of proxies) is looked for
    with any.
    """
    begins, finishes = times_of(flows)
    ends = np.hstack([_addresses(flows[name]) for name in ("src_ip", "dst_ip")])
    known = flows[list(TOLD_APART)].notna().all(axis=1).to_numpy(bool)
    protocol = _whole(flows["protocol"], 0)
    ports = [_whole(flows[name], ANY_PORT) for name in ("src_port", "dst_port")]
    anyhow = ~np.isin(protocol, PORTED)
    anyhow |= np.isin(protocol, _OFTEN_WITHOUT) & (ports[0] == 0) & (ports[1] == 0)
    src, dst = (np.where(anyhow, ANY_PORT, port) for port in ports)
    packed = protocol << 40 | src << 20 | dst
    order = np.lexsort((begins, packed, *ends.T))
    order = order[known[order]]
    ends, packed = ends[order], packed[order]
    begins, finishes = begins[order], finishes[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (ends[1:] != ends[:-1]).any(axis=1) | (packed[1:] != packed[:-1])
    first = np.flatnonzero(fresh)
    count = np.diff(np.append(first, len(order)))
    keys, slots = packed[first], np.zeros(_table_size(len(first)), np.int32)
    pairs = np.zeros(1 << 16, np.uint8)
    fill(ends[first], keys, slots, pairs)
    use = (keys >> 20 & ANY_PORT != 0) + 2 * (keys & ANY_PORT != 0)
    table = Wanted(
        *(pairs, slots, np.ascontiguousarray(ends[first]), keys, first, count),
        *(begins, finishes, _furthest(finishes, first, count), order),
        *(np.isin(np.arange(4), use).astype(np.uint8), round(slack_s * 1e9)),
    )
    return table, known


def _addresses(column: pd.Series) -> NDArray[np.uint64]:
    """Return addresses as numbers; what is missing is left out later."""
    import pandas as pd

    code, texts = pd.factorize(column.astype(object))
    try:
        numbers = address_numbers([*map(str, texts), None])
    except ValueError as error:
        raise FlowsError(
            f"{column.name} of the case: {error}; expected IP addresses."
        ) from error
    return numbers[code]


def _whole(column: pd.Series, missing: int) -> NDArray[np.int64]:
    numbers: Any = column.to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isnan(numbers), missing, numbers).astype(np.int64)


def _table_size(keys: int) -> int:
    return 1 << max(4, int(2 * keys).bit_length())


def _furthest(
    finishes: NDArray[np.int64], first: NDArray[np.int64], count: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how far the flows of a key reach that begin no later than each."""
    reach = np.empty_like(finishes)
    single = count == 1
    reach[first[single]] = finishes[first[single]]
    for at, size in zip(first[~single].tolist(), count[~single].tolist(), strict=True):
        reach[at : at + size] = np.maximum.accumulate(finishes[at : at + size])
    return reach
