"""Which process opened each flow: host events joined to flows by ends and time.

An event and a flow belong together if they have the same ends and protocol, whichever
of them is the initiator, and the event lies in the flow's time or within a tolerance
of its start or end: a process connects just before the first packet, a snapshot of open
sockets comes at any time, and clocks differ. Of several events the nearest to the
flow's start is taken; of two as near the earlier one, and of those of one moment the
first process by name. Where another process has one of the others, the flow counts as
ambiguous.

Not every log says both ends. Those that say one alone are asked where nothing says more:
the *remote end* (Linux' audit log: the local address, the remote address and port), then
the *local end* (a bound UDP socket: the local address and port).

Behind a translator of addresses hosts know other addresses than a sensor outside sees:
such flows find no process. What an event says of a flow depends on nothing but these
two, so that flows can be joined piece by piece.

One file because events are indexed as they are looked up.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from exfilml.exceptions import FlowsError, OptionError, SourceWarning
from exfilml.hosts._events import COLUMNS, canonical
from exfilml.hosts._programs import program
from exfilml.names import Names
from exfilml.schema import numbers, validate_flows
from exfilml.tally import combine

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE_S: Final = 10.0
LONGEST_TOLERANCE_S: Final = 86400.0
CONNECTION, REMOTE_END, LOCAL_END = "connection", "remote end", "local end"
BY: Final = "process_by"
_TCP, _UDP = 6, 17
_HOW: Final = (CONNECTION, REMOTE_END, LOCAL_END)


def add_processes(
    flows: pd.DataFrame, events: pd.DataFrame, *, tolerance: float = TOLERANCE_S
) -> pd.DataFrame:
    """Say in ``process`` which program opened each flow, as far as hosts logged it.

    Parameters
    ----------
    flows
        A flows table. Where ``process`` is there already, it stays.
    events
        From `read_host_events`.
    tolerance
        Seconds by which an event may lie before a flow's start or behind its end.

    Returns
    -------
    pandas.DataFrame
        The flows, in their order and with their index. ``process`` is the program's
        path without what differs from host to host (user folders, versions; lower case
        for Windows: `exfilml.hosts`), ``process_by`` what it was found by:
        ``connection``, ``remote end`` or ``local end``. ``attrs["processes"]`` counts
        flows by that, ``ambiguous`` ones among them, and ``events``.

    Raises
    ------
    FlowsError
        If one of the tables is none.
    OptionError
        If the tolerance is not 0 … 86,400 seconds.

    Warns
    -----
    SourceWarning
        If events do not say on which address they happened.
    """
    check_tolerance(tolerance)
    flows = validate_flows(flows)
    if not isinstance(events, pd.DataFrame) or not set(COLUMNS) <= set(events.columns):
        raise FlowsError(
            "Expected host events (read_host_events gives them); columns needed: "
            f"{', '.join(COLUMNS)}."
        )
    within = round(tolerance * 1e6)
    if not events["time"].is_monotonic_increasing:
        events = events.sort_values("time", kind="stable")
    used = joinable(_near(events, flows, within))
    found, how, doubtful = _found(flows, used, within)
    known = ~flows["process"].isna().to_numpy()
    how = np.where(known, -1, how)
    programs = Names.of(used["process"]).map(program)
    named = np.where(how >= 0, programs.codes[found], -1) if len(used) else found
    mine = Names.of(flows["process"])
    joined = mine.where(known, Names(named, programs.texts))
    ways = Names.one_of(list(_HOW), how.astype(np.int64))
    if BY in flows:
        # Joined before, to other events.
        ways = ways.where(~known, Names.of(flows[BY].astype("str")))
    table = flows.assign(
        **{"process": joined.series(flows.index), BY: ways.series(flows.index)}
    )
    table.attrs = {
        "processes": {
            "flows": len(flows),
            "events": len(used),
            **{name: int((how == at).sum()) for at, name in enumerate(_HOW)},
            "ambiguous": int((doubtful & (how >= 0)).sum()),
        }
    }
    return table


def check_tolerance(tolerance: float) -> None:
    """Refuse what is no tolerance.

    Raises
    ------
    OptionError
        With what was given and what was expected.
    """
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not number or not 0.0 <= tolerance <= LONGEST_TOLERANCE_S:
        raise OptionError(
            f"tolerance={tolerance!r}: expected 0 … {LONGEST_TOLERANCE_S:,.0f} seconds."
        )


def joinable(events: pd.DataFrame, stacklevel: int = 2) -> pd.DataFrame:
    """Return the network events that say on which address which process was at work.

    Warns
    -----
    SourceWarning
        If some do not say where.
    """
    network = events[(events["kind"] == "network") & events["process"].notna()]
    homeless = int(network["local_ip"].isna().sum())
    if homeless:
        warnings.warn(
            f"{homeless:,} of {len(network):,} network events do not say on which "
            "address they happened, and are not joined; say it (read_host_events: "
            "address; --host-events ADDRESS=SOURCE).",
            SourceWarning,
            stacklevel=stacklevel + 1,
        )
        network = network[network["local_ip"].notna()]
    return network


def _near(events: pd.DataFrame, flows: pd.DataFrame, tolerance: int) -> pd.DataFrame:
    """Return the events, which stand in order, of the time of the flows."""
    if len(flows) == 0:
        return events.iloc[:0]
    start, end = _lasting(flows)
    times = events["time"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    first = np.searchsorted(times, start.min() - tolerance, "left")
    return events.iloc[first : np.searchsorted(times, end.max() + tolerance, "right")]


def _lasting(flows: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return start and end of flows, microseconds since 1970."""
    start = flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    lasting = np.clip(np.nan_to_num(numbers(flows["duration_s"])), 0.0, 1e9) * 1e6
    return start, start + lasting.astype(np.int64)


class _Ends(NamedTuple):
    """Ends as numbers: codes of addresses, and ports."""

    near_ip: NDArray[np.uint64]
    near_port: NDArray[np.uint64]
    far_ip: NDArray[np.uint64]
    far_port: NDArray[np.uint64]

    @property
    def swapped(self) -> _Ends:
        return _Ends(self.far_ip, self.far_port, self.near_ip, self.near_port)

    def keys(self, protocol: NDArray[np.uint64], how: int) -> NDArray[np.uint64]:
        """Return hashes of what has to be alike."""
        shift = np.uint64(16)
        near = (self.near_ip << shift) | self.near_port
        far = (self.far_ip << shift) | self.far_port
        if how == 0:
            return combine(protocol, np.minimum(near, far), np.maximum(near, far))
        if how == 1:
            return combine(protocol, self.near_ip, far)
        return combine(protocol, near)


def _found(
    flows: pd.DataFrame, events: pd.DataFrame, tolerance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each flow the row of its event, what it was found by, and doubts.

    −1 where there is none.
    """
    n = len(flows)
    found = np.full(n, -1, dtype=np.int64)
    how = np.full(n, -1, dtype=np.int64)
    doubtful = np.zeros(n, dtype=bool)
    if len(events) == 0 or n == 0:
        return found, how, doubtful
    columns = [
        flows["src_ip"],
        flows["dst_ip"],
        events["local_ip"],
        events["remote_ip"],
    ]
    src, dst, local, remote = _codes(columns)
    ends = _Ends(src, _unsigned(flows["src_port"]), dst, _unsigned(flows["dst_port"]))
    theirs = _Ends(
        *(local, _unsigned(events["local_port"])),
        *(remote, _unsigned(events["remote_port"])),
    )
    protocol = flows["protocol"].to_numpy().astype(np.uint64)
    start, end = _lasting(flows)
    window = (start - tolerance, end + tolerance)
    whole = events["local_port"].notna().to_numpy()
    far = events["remote_ip"].notna().to_numpy()
    for at, rows in enumerate((whole & far, ~whole & far, whole & ~far)):
        index = _Index.of(events, np.flatnonzero(rows), theirs, at)
        # Either end of a connection may be the local one; keys of both ends are alike.
        for mine in (ends,) if at == 0 else (ends, ends.swapped):
            left = np.flatnonzero(how < 0)
            if len(index.rows) == 0 or len(left) == 0:
                break
            keys = mine.keys(protocol, at)[left]
            row, doubt = index.nearest(
                keys, start[left], window[0][left], window[1][left]
            )
            hit = row >= 0
            found[left[hit]] = row[hit]
            how[left[hit]] = at
            doubtful[left[hit]] = doubt[hit]
    return found, how, doubtful


class _Index(NamedTuple):
    """Events in order of key, time and process.

    Attributes
    ----------
    keys
        Hashes of ends, strictly increasing.
    times
        Distinct times, in order.
    places
        Key and time of each event as one number, in order.
    rows
        Which event each is.
    changes
        How often the process changed up to each event.
    """

    keys: NDArray[np.uint64]
    times: NDArray[np.int64]
    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    changes: NDArray[np.int64]

    @classmethod
    def of(
        cls, events: pd.DataFrame, rows: NDArray[np.int64], ends: _Ends, how: int
    ) -> _Index:
        """Index some of the events; one that does not say the protocol counts twice."""
        said = events["protocol"].to_numpy(dtype="int64", na_value=-1)[rows]
        both = np.concatenate([rows, rows[said < 0]])
        protocol = np.concatenate(
            [np.where(said < 0, _TCP, said), np.full((said < 0).sum(), _UDP)]
        )
        mine = _Ends(*(column[both] for column in ends))
        keys, key = np.unique(
            mine.keys(protocol.astype(np.uint64), how), return_inverse=True
        )
        time = events["time"].to_numpy(dtype="datetime64[us]").astype(np.int64)[both]
        times, moment = np.unique(time, return_inverse=True)
        _, process = np.unique(
            events["process"].to_numpy(dtype=object)[both].astype(str),
            return_inverse=True,
        )
        place = key * (len(times) + 1) + moment
        order = np.lexsort((both, process, place))
        changed = np.diff(process[order], prepend=process[order][:1]) != 0
        return cls(keys, times, place[order], both[order], np.cumsum(changed))

    def nearest(
        self,
        keys: NDArray[np.uint64],
        start: NDArray[np.int64],
        low: NDArray[np.int64],
        high: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the event of each flow, −1 for none, and whether another process is near.

        Parameters
        ----------
        keys, start
            Ends and start of each flow.
        low, high
            First and last time that an event may have.
        """
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[at] == keys
        base = at * (len(self.times) + 1)

        def first(times: NDArray[np.int64], side: Any) -> NDArray[np.int64]:
            return np.searchsorted(
                self.places, base + np.searchsorted(self.times, times, side)
            )

        begin, end = first(low, "left"), first(high, "right")
        there = known & (begin < end)
        later = np.clip(first(start, "left"), begin, end)
        last = len(self.rows) - 1
        times = self.times[self.places % (len(self.times) + 1)]
        before, after = np.clip(later - 1, 0, last), np.clip(later, 0, last)
        is_before = there & (later > begin)
        is_after = there & (later < end)
        gap_before = np.where(is_before, start - times[before], np.iinfo(np.int64).max)
        gap_after = np.where(is_after, times[after] - start, np.iinfo(np.int64).max)
        # The first of that moment is the first process by name.
        earliest = np.searchsorted(self.places, self.places[before])
        chosen = np.where(gap_before <= gap_after, earliest, after)
        chosen = np.clip(chosen, 0, last)
        inside = np.clip(end - 1, 0, last)
        doubt = there & (self.changes[inside] != self.changes[np.clip(begin, 0, last)])
        return np.where(there, self.rows[chosen], -1), doubt


def _codes(columns: list[pd.Series]) -> list[NDArray[np.uint64]]:
    """Return codes of the addresses of several columns, alike in whatever form."""
    codes: dict[str | None, int] = {None: 0}
    numbered = []
    for column in columns:
        names = Names.of(column)
        texts = [codes.setdefault(canonical(t), len(codes)) for t in names.texts]
        numbered.append(np.array(texts, dtype=np.uint64)[names.codes])
    return numbered


def _unsigned(ports: pd.Series) -> NDArray[np.uint64]:
    return ports.to_numpy(dtype="int64", na_value=0).astype(np.uint64)
