"""Carves: writes the packets of flows to a file of their own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.carve import _packets
from exfilml.carve._absence import why_none
from exfilml.carve._blocks import Capture
from exfilml.carve._scan import scan, seen_in, total
from exfilml.carve._wanted import check_flows, wanted
from exfilml.carve._write import PcapFile, PcapngFile
from exfilml.exceptions import CarveError, CarveWarning, OptionError, OutputError
from exfilml.export import complete_file

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Source = str | os.PathLike[str]

SLACK_S: Final = 2.0
"""Logs have times in whole seconds, begin and duration each cut or rounded."""

_WRAPPINGS: Final = {
    _packets.VLAN: "vlan",
    _packets.STACKED: "vlan in vlan",
    _packets.MPLS: "mpls",
    _packets.PPPOE: "pppoe",
    _packets.TUNNEL: "tunnel",
}


@dataclass(frozen=True)
class Carved:
    """What was found of flows in captures.

    Attributes
    ----------
    out
        The file with the packets.
    packets, bytes
        Packets written, and their bytes on the wire, link layer included.
    flows
        One row per flow, with the index of the flows given: ``packets``, ``src_packets``
        (sent by its source), ``bytes``, ``first``, ``last`` (datetime64[ns, UTC], empty
        where no packet was found).
    missing
        Flows without a packet.
    cut
        Packets of which the capture holds only the first bytes.
    fragments
        IP fragments other than the first that came along.
    wrapped
        What the packets were wrapped in: ``vlan``, ``vlan in vlan``, ``mpls``,
        ``pppoe``, ``tunnel``.
    untimed
        Packets read that have no time (simple packets of pcapng): their flows are told
        by addresses and ports alone.
    read
        Packets in the captures.
    """

    out: Path
    packets: int
    bytes: int
    flows: pd.DataFrame
    missing: int
    cut: int
    fragments: int
    wrapped: tuple[str, ...]
    untimed: int
    read: int

    def __str__(self) -> str:
        """Say it in a sentence or two."""
        text = (
            f"{self.packets:,} of {self.read:,} packets ({self.bytes:,} bytes) of "
            f"{len(self.flows) - self.missing:,} of {len(self.flows):,} flows"
        )
        if self.missing:
            text += f"; of {self.missing:,} flows the captures hold no packet"
        if self.cut:
            text += f"; {self.cut:,} packets are cut off by the capture"
        if self.fragments:
            text += f"; {self.fragments:,} IP fragments came along"
        if self.untimed:
            text += f"; {self.untimed:,} packets of the captures have no time"
        return text


class _Counting:
    """Counts what it hands on to a file."""

    def __init__(self, file: PcapFile | PcapngFile, flows: int) -> None:
        self._file = file
        self.packets = np.zeros((flows, 2), np.int64)
        self.bytes = np.zeros(flows, np.int64)
        self.first = np.full(flows, np.iinfo(np.int64).max)
        self.last = np.full(flows, np.iinfo(np.int64).min)

    def begin(self, capture: Capture) -> None:
        self._file.begin(capture)

    def section(self, block: bytes, *, little: bool) -> None:
        self._file.section(block, little=little)

    def take(
        self, data: NDArray[np.uint8], rows: NDArray[np.int64], capture: Capture
    ) -> None:
        # A fragment that waited for the first of its datagram stands behind it.
        rows = rows[np.argsort(rows[:, _packets.REC], kind="stable")]
        self._file.take(data, rows, capture)
        flow, way = rows[:, _packets.FLOW], rows[:, _packets.WAY]
        np.add.at(self.packets, (flow, way), 1)
        np.add.at(self.bytes, flow, rows[:, _packets.WIRE])
        timed = rows[:, _packets.TIME] != _packets.NO_TIME
        flow, times = flow[timed], rows[timed, _packets.TIME]
        np.minimum.at(self.first, flow, times)
        np.maximum.at(self.last, flow, times)


def capture_paths(captures: Source | Iterable[Source]) -> list[Path]:
    """List captures that were given, one or several."""
    if isinstance(captures, (str, os.PathLike)):
        captures = [captures]
    paths = [Path(capture) for capture in captures]
    if not paths:
        raise CarveError("No capture was given. Expected one or more.")
    return paths


def check_slack(slack_s: float) -> None:
    """Refuse a tolerance that is none."""
    if not 0 <= slack_s <= 1e9:
        raise OptionError(f"slack_s={slack_s!r}: expected seconds, 0 or more.")


def carve_packets(
    captures: Source | Iterable[Source],
    flows: pd.DataFrame,
    out: Source,
    *,
    slack_s: float = SLACK_S,
) -> Carved:
    """Write the packets of flows, and no others, to a capture of their own.

    A packet is a flow's if addresses, ports and protocol are, either way round, and
    it lies in the flow's time; also inside VLAN tags, MPLS, PPPoE and tunnels that are
    not encrypted (IP in IP, GRE, VXLAN, Geneve, GTP-U, TZSP). Fragments follow the first
    of their datagram. Memory does not grow with the captures.

    Parameters
    ----------
    captures
        One or more, pcap or pcapng, also packed. They are read in this order, and
        packets stay in the order of the file.
    flows
        Flows of a case: addresses, ports, protocol, start and duration of a flows
        table. Other columns are ignored. A flow without a port is looked for with any.
    out
        The file to write. With the suffix ``.pcapng`` it is pcapng, else classic
        pcap, with nanoseconds if a capture has them. It appears when it is complete.
    slack_s
        Seconds by which packets may lie before and behind a flow's time.

    Returns
    -------
    Carved
        Packets and bytes, in all and of each flow.

    Raises
    ------
    CarveError
        If not one packet is found, with the times of captures and flows; nothing is
        written. Also for link types that one pcap cannot hold.
    SourceError
        If a capture cannot be read.
    OutputError
        If `out` is one of the captures or cannot be written.
    FlowsError
        If `flows` lacks columns.

    Warns
    -----
    SourceWarning
        If a capture is damaged.
    CarveWarning
        If flows cannot be looked for, because they have no address or time.
    """
    import pandas as pd

    check_flows(flows)
    check_slack(slack_s)
    paths, target = capture_paths(captures), Path(out)
    for path in paths:
        if target.exists() and path.exists() and target.samefile(path):
            raise OutputError(
                f"{target}: is a capture that is read, which would be overwritten; give "
                "the output a name of its own."
            )
    table, known = wanted(flows, slack_s)
    tell_unknown(known)
    with complete_file(target) as part, part.open("w+b") as file:
        writer: PcapFile | PcapngFile
        if target.suffix.lower() == ".pcapng":
            writer = PcapngFile(file)
        else:
            writer = PcapFile(file, nano=any(map(_is_fine, paths)))
        counts = _Counting(writer, len(flows))
        read = scan(paths, table, counts)
        if not counts.packets.any():
            raise CarveError(why_none(paths, read, flows))
        writer.finish()
    found = counts.packets.sum(axis=1)
    timed = counts.first <= counts.last
    told = pd.DataFrame(
        {
            "packets": found,
            "src_packets": counts.packets[:, 0],
            "bytes": counts.bytes,
            "first": _moments(counts.first, timed),
            "last": _moments(counts.last, timed),
        },
        index=flows.index,
    )
    bits = seen_in(read)
    return Carved(
        out=target,
        packets=int(found.sum()),
        bytes=int(counts.bytes.sum()),
        flows=told,
        missing=int((found == 0).sum()),
        cut=total(read, _packets.T_CUT),
        fragments=total(read, _packets.T_FRAGMENTS),
        wrapped=tuple(name for bit, name in _WRAPPINGS.items() if bits & bit),
        untimed=total(read, _packets.T_UNTIMED),
        read=total(read, _packets.T_PACKETS),
    )


def tell_unknown(known: NDArray[np.bool_]) -> None:
    """Warn of flows that cannot be looked for."""
    if not known.all():
        warnings.warn(
            f"{(~known).sum():,} of {len(known):,} flows cannot be looked for: they have "
            "no address, protocol or time.",
            CarveWarning,
            stacklevel=3,
        )


def _is_fine(path: Path) -> bool:
    """Say whether a capture may have times finer than microseconds."""
    from exfilml.sources._packed import plain_head

    try:
        head = plain_head(path, 4)
    except OSError:
        return False
    return head in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a")


def _moments(nanos: NDArray[np.int64], there: NDArray[np.bool_]) -> pd.DatetimeIndex:
    import pandas as pd

    known = np.where(there, nanos, np.iinfo(np.int64).min)
    return pd.DatetimeIndex(known.view("datetime64[ns]")).tz_localize("UTC")
