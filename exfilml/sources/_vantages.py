"""Records of one conversation from several places that saw it, each byte counted once.

Clouds log at every interface: what one machine sends to another inside the same
network is logged where it leaves and where it arrives. Added up, every upload inside
would count twice.

Records are paired as in `_pairs`, and summed for each vantage by itself. When the
conversation is over, each direction counts as the vantage says that saw the most of
it; where vantages share a direction between them, that is too little, and never too
much. Records without a vantage count as those of one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.sources._pairs import MOST_HELD, Pairs

VANTAGE: Final = "vantage"


class Vantages(Pairs):
    """Conversations that may go on, by who saw them; see `Pairs`."""

    def add(self, records: pd.DataFrame) -> pd.DataFrame:
        """Take records, with a column ``vantage``; return flows that are over."""
        if not len(records):
            return pd.DataFrame()
        seen, group = self._seen(records)
        start, end = _span(seen)
        latest = np.maximum.reduceat(end, _begins(group))
        idle = self._idle // pd.Timedelta(microseconds=1)
        over = (latest < start.max() - idle)[group]
        if (~over).sum() > MOST_HELD:
            over[:] = True
        self._held = seen[~over].reset_index(drop=True)
        return _merged(seen[over].reset_index(drop=True), group[over])

    def finish(self) -> pd.DataFrame:
        """Return the flows that are still held."""
        held, self._held = self._held, None
        if held is None or not len(held):
            return pd.DataFrame()
        # They were summed before; which belong together is told anew.
        return _merged(*self._seen(held))

    def _seen(self, records: pd.DataFrame) -> tuple[pd.DataFrame, Any]:
        """Sum records by conversation and vantage; say which conversation each is of."""
        parts = [records] if self._held is None else [self._held, records]
        table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else records
        order, first, turned, start, end = self._grouped(table)
        group = np.zeros(len(order), dtype=np.int64)
        group[first] = 1
        group = np.cumsum(group) - 1
        vantage = pd.factorize(table[VANTAGE])[0][order]
        # Stable: within a vantage the order of time stays.
        by_vantage = np.lexsort((vantage, group))
        order, turned = order[by_vantage], turned[by_vantage]
        start, end = start[by_vantage], end[by_vantage]
        group, vantage = group[by_vantage], vantage[by_vantage]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (group[1:] != group[:-1]) | (vantage[1:] != vantage[:-1])
        # As the conversation goes, whichever end its first record here came from.
        table = _turn(table.iloc[order].reset_index(drop=True), turned)
        straight = np.zeros(len(order), dtype=bool)
        seen = self._summed(
            table,
            np.arange(len(order)),
            np.flatnonzero(begins),
            straight,
            start,
            end,
        )
        return seen, group[begins]


def _turn(table: pd.DataFrame, turned: Any) -> pd.DataFrame:
    """Turn rows round: what the source was is the destination."""
    if not turned.any():
        return table
    turned_names = {
        name: f"{'dst' if name.startswith('src_') else 'src'}_{name[4:]}"
        for name in table.columns
        if name.startswith(("src_", "dst_"))
    }
    both = table.copy()
    for name, other in turned_names.items():
        if other in table:
            both[name] = table[name].where(~turned, table[other])
    return both


def _begins(group: Any) -> Any:
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))


def _span(seen: pd.DataFrame) -> tuple[Any, Any]:
    """Return starts and ends in microseconds."""
    start = seen["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    return start, start + np.rint(seen["duration_s"].to_numpy() * 1e6).astype(np.int64)


def _merged(seen: pd.DataFrame, group: Any) -> pd.DataFrame:
    """Make one flow of what several vantages saw of it."""
    if not len(seen):
        return pd.DataFrame()
    begins = _begins(group)
    if len(begins) == len(seen):
        return seen.drop(columns=VANTAGE)
    number = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(seen))))
    start, end = _span(seen)
    # That of the vantage which saw it first.
    earliest = np.lexsort((start, number))[begins]
    flows: pd.DataFrame = seen.iloc[earliest].reset_index(drop=True)
    for way in ("src", "dst"):
        octets = seen[f"{way}_bytes"].to_numpy()
        most = np.lexsort((-octets, number))[begins]
        for what in ("bytes", "packets"):
            if f"{way}_{what}" in seen:
                chosen = seen[f"{way}_{what}"].iloc[most]
                flows[f"{way}_{what}"] = chosen.reset_index(drop=True)
    first, last = start[earliest], np.maximum.reduceat(end, begins)
    flows["duration_s"] = (last - first) / 1e6
    if "tcp_flags" in seen:
        flags = seen["tcp_flags"].fillna(0).to_numpy(dtype=np.int64)
        together = pd.array(np.bitwise_or.reduceat(flags, begins), dtype="Int64")
        known = np.logical_or.reduceat(seen["tcp_flags"].notna().to_numpy(), begins)
        flows["tcp_flags"] = together
        flows.loc[~known, "tcp_flags"] = pd.NA
    return flows.drop(columns=VANTAGE)
