"""Puts together what each direction of a flow carried.

Of the libraries that were tried none does it. scapy 2.8 (`StringBuffer`) fills what is
missing with zeros and does not tell, lets later segments overwrite earlier ones and
does not unwind sequence numbers; pypacker 5.4 (`ra_collect`) joins what it has without
a look at gaps and overlaps. tshark's ``follow`` is right but for a sentence that it
writes into the data where some are missing; the tests compare with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.carve import _packets
from exfilml.carve import _placing as placing
from exfilml.carve._assemble import count_differing, cover
from exfilml.carve._blocks import Capture
from exfilml.carve._carved import (
    SLACK_S,
    Source,
    capture_paths,
    carve_packets,
    check_slack,
    tell_unknown,
)
from exfilml.carve._scan import scan
from exfilml.carve._stream import Store, Stream
from exfilml.carve._wanted import check_flows, wanted

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

WAYS: Final = ("src", "dst")


class _Collecting:
    """Keeps what reassembly needs of rows: some 80 bytes a packet."""

    def __init__(self) -> None:
        self.kept: list[NDArray[np.int64]] = []

    def begin(self, capture: Capture) -> None:
        """Learn of a capture."""

    def section(self, block: bytes, *, little: bool) -> None:
        """Sections tell nothing of streams."""

    def take(
        self, data: NDArray[np.uint8], rows: NDArray[np.int64], capture: Capture
    ) -> None:
        self.kept.append(rows[:, placing.KEPT])


def follow_streams(
    captures: Source | Iterable[Source],
    flows: pd.DataFrame,
    *,
    slack_s: float = SLACK_S,
) -> list[Stream]:
    """Put together what flows carried, per direction.

    TCP by sequence numbers: segments out of order, sent again, overlapping or with
    numbers that wrap around come out in order, and what is missing is told. UDP
    datagrams and data of ICMP echo follow each other as they were captured, put
    together from IP fragments; of other protocols, what IP carried.

    Parameters
    ----------
    captures
        Best what `carve_packets` wrote: a plain file is read in place, and must not
        change while streams are used. Of several and of packed ones the packets are
        first carved to a temporary file.
    flows
        As for `carve_packets`.
    slack_s
        As for `carve_packets`.

    Returns
    -------
    list of Stream
        By flow, then the source's before the answers; none of directions that carried
        nothing.

    Raises
    ------
    CarveError
        If of several or packed captures not one packet is found.
    SourceError
        If a capture cannot be read.
    FlowsError
        If `flows` lacks columns.
    """
    check_flows(flows)
    check_slack(slack_s)
    paths = capture_paths(captures)
    if len(paths) > 1 or _is_packed(paths[0]):
        # What is mapped to memory stays when its name is gone.
        with tempfile.TemporaryDirectory(prefix="exfilml-") as folder:
            whole = Path(folder) / "case.pcapng"
            carve_packets(paths, flows, whole, slack_s=slack_s)
            return _follow(whole, flows, slack_s)
    return _follow(paths[0], flows, slack_s)


def _follow(path: Path, flows: pd.DataFrame, slack_s: float) -> list[Stream]:
    table, known = wanted(flows, slack_s)
    tell_unknown(known)
    collected = _Collecting()
    scan([path], table, collected)
    if not collected.kept:
        return []
    store = Store(path)
    rows = np.concatenate(collected.kept)
    placing.place_fragments(rows)
    order = np.lexsort((rows[:, placing.WAY], rows[:, placing.FLOW]))
    keys = rows[order, placing.FLOW] * 2 + rows[order, placing.WAY]
    breaks = np.flatnonzero(np.diff(keys)) + 1
    streams = []
    for part in np.split(order, breaks):
        # The sort is stable: rows of a direction are in order of arrival.
        stream = _stream(rows[part], part, flows.index, store)
        if stream is not None:
            streams.append(stream)
    return streams


def _is_packed(path: Path) -> bool:
    from exfilml.sources._packed import LONGEST_MAGIC, packing

    try:
        with path.open("rb") as file:
            return packing(file.read(LONGEST_MAGIC)) is not None
    except OSError:
        # Said by whoever reads it.
        return False


def _stream(
    rows: NDArray[np.int64], where: NDArray[np.int64], index: pd.Index, store: Store
) -> Stream | None:
    """Put one direction together; None if it carried nothing."""
    readable = rows[:, placing.FLAGS] & _packets.UNREADABLE == 0
    protocol = int(rows[0, placing.PROTOCOL])
    if protocol == placing.TCP:
        placed = placing.place_segments(rows)
    else:
        there = readable & (rows[:, placing.FLAGS] & _packets.NO_ECHO == 0)
        placed = placing.place_datagrams(rows[there], where[there])
    placed.outside += int((~readable).sum())
    if not placed.length:
        return None
    full = placed.held > 0
    starts, places = placed.starts[full], placed.places[full]
    ends = starts + placed.held[full]
    order = np.argsort(starts, kind="stable")
    at, length, segment = cover(starts, ends, order)
    held = int(length.sum())
    repeated = int((ends - starts).sum()) - held
    differing = 0
    if repeated:
        differing = count_differing(
            store.data, starts, ends, places, at, length, segment
        )
    gaps = np.concatenate(
        ([0], np.stack([at, at + length], 1).ravel(), [placed.length])
    )
    gaps = gaps.reshape(-1, 2)
    gaps = gaps[gaps[:, 0] < gaps[:, 1]]
    return Stream(
        flow=index[int(rows[0, placing.FLOW])],
        way=WAYS[int(rows[0, placing.WAY])],
        protocol=protocol,
        length=placed.length,
        held=held,
        gaps=gaps,
        gap_cut=placing.within(gaps, *placing.cut_off(placed)),
        messages=placed.messages,
        connections=placed.connections,
        begin_seen=placed.begin_seen,
        end_seen=placed.end_seen,
        segments=int((placed.wire > 0).sum()),
        repeated=repeated,
        differing=int(differing),
        outside=placed.outside,
        _at=at,
        _parts=np.stack([places[segment] + at - starts[segment], length], 1),
        _store=store,
    )
