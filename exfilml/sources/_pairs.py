"""Records of one direction each, paired into flows.

Exporters of NetFlow report each direction of a conversation for itself, and a long one
in parts. Records with the same two ends and protocol belong to one flow as long as no
gap between them is longer than the idle timeout, as in captures. The initiator is the
source of the earliest record; where both begin in the same instant, the end with the
higher port, as clients have.

Only conversations that may go on are held in memory: those that sent something within
the idle timeout before the latest record, at most `MOST_HELD`. Records that come later
than that, as in files that are not in order of time, become flows of their own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

MOST_HELD: Final = 2_000_000
_FIN, _SYN, _RST, _PSH = 1, 2, 4, 8
_SUMS: Final = ("src_bytes", "dst_bytes", "src_packets", "dst_packets")


class Pairs:
    """Conversations that may go on.

    Parameters
    ----------
    idle_timeout
        Seconds of silence that end a flow.
    """

    def __init__(self, idle_timeout: int) -> None:
        self._idle = pd.Timedelta(seconds=idle_timeout)
        self._held: pd.DataFrame | None = None

    def add(self, records: pd.DataFrame) -> pd.DataFrame:
        """Take records of the flows table's columns; return flows that are over."""
        if not len(records):
            return records
        flows: pd.DataFrame = self._paired(records)
        latest = flows["start"].max()
        ended = flows["start"] + pd.to_timedelta(
            flows["duration_s"].fillna(0.0), unit="s"
        )
        over = (ended < latest - self._idle).to_numpy()
        if (~over).sum() > MOST_HELD:
            over[:] = True
        self._held = flows[~over]
        done: pd.DataFrame = flows[over]
        return done.reset_index(drop=True)

    def finish(self) -> pd.DataFrame:
        """Return the flows that are still held."""
        flows = (
            pd.DataFrame() if self._held is None else self._held.reset_index(drop=True)
        )
        self._held = None
        return flows

    def _paired(self, records: pd.DataFrame) -> pd.DataFrame:
        parts = [records] if self._held is None else [self._held, records]
        table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else records
        return self._summed(table, *self._grouped(table))

    def _grouped(self, table: pd.DataFrame) -> tuple[Any, Any, Any, Any, Any]:
        """Put records in order, so that those of a flow stand together.

        Returns the order, where each flow begins, which records go against the
        direction of the first, and the start and end of each in microseconds.
        """
        names, places = (
            pd.factorize(
                pd.concat([table["src_ip"], table["dst_ip"]], ignore_index=True)
            ),
            len(table),
        )
        codes = names[0].astype(np.int64)
        src = codes[:places] << 16 | table["src_port"].to_numpy()
        dst = codes[places:] << 16 | table["dst_port"].to_numpy()
        low, high = np.minimum(src, dst), np.maximum(src, dst)
        protocol = table["protocol"].to_numpy()
        start = table["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
        length = np.rint(table["duration_s"].fillna(0.0).to_numpy() * 1e6)
        end = start + length.astype(np.int64)
        # In the same instant, the end with the higher port comes first.
        later = table["src_port"].to_numpy() < table["dst_port"].to_numpy()
        order = np.lexsort((later, start, protocol, high, low))
        low, high, protocol = low[order], high[order], protocol[order]
        start, end, src = start[order], end[order], src[order]
        same = np.zeros(len(order), dtype=bool)
        same[1:] = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
        same[1:] &= protocol[1:] == protocol[:-1]
        reach = _running_max(end, same)
        idle = self._idle // pd.Timedelta(microseconds=1)
        joined = same.copy()
        joined[1:] &= start[1:] - reach[:-1] <= idle
        group = np.cumsum(~joined) - 1
        first = np.flatnonzero(~joined)
        turned = src != src[first][group]
        return order, first, turned, start, end

    @staticmethod
    def _summed(
        table: pd.DataFrame,
        order: Any,
        first: Any,
        turned: Any,
        start: Any,
        end: Any,
    ) -> pd.DataFrame:
        """Add up the records of each group, in the direction of its first."""
        flows: pd.DataFrame = table.iloc[order[first]].reset_index(drop=True)
        for here, there in (("src", "dst"), ("dst", "src")):
            for what in ("bytes", "packets"):
                if f"{here}_{what}" not in table:
                    continue
                own, other = (
                    table[f"{side}_{what}"].fillna(0).to_numpy(dtype=np.int64)[order]
                    for side in (here, there)
                )
                given = np.where(turned, other, own)
                # Groups stand together.
                total = np.add.reduceat(given, first)
                kind = table[f"{here}_{what}"].dtype
                flows[f"{here}_{what}"] = pd.Series(total).astype(kind)
                told = table[[f"src_{what}", f"dst_{what}"]].notna().any(axis=1)
                if not told.all():
                    known = np.logical_or.reduceat(told.to_numpy()[order], first)
                    flows.loc[~known, f"{here}_{what}"] = pd.NA
        latest = np.maximum.reduceat(end, first)
        flows["duration_s"] = (latest - start[first]) / 1e6
        if "tcp_flags" in table:
            told = table["tcp_flags"].notna().to_numpy()[order]
            flags = table["tcp_flags"].fillna(0).to_numpy(dtype=np.int64)[order]
            together = np.bitwise_or.reduceat(flags, first)
            known = np.logical_or.reduceat(told, first)
            flows["tcp_flags"] = pd.array(together, dtype="Int64")
            flows.loc[~known, "tcp_flags"] = pd.NA
        return flows


def _running_max(values: Any, same: Any) -> Any:
    """Return the maximum so far within each run of rows that are the same as before."""
    group = np.cumsum(~same)
    # Groups one after the other, each above all before it.
    lift = values - values.min()
    span = int(lift.max()) + 1 if len(lift) else 1
    if span * int(group[-1] + 1) < 2**62:
        return np.maximum.accumulate(lift + group * span) - group * span + values.min()
    return pd.Series(values).groupby(group).cummax().to_numpy()
