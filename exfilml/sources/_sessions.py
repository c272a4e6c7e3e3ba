"""Sessions as firewalls tell of them: how they went, and long ones that go on.

Some firewalls report a long session again and again, each time with what it has counted
since it began: the last report counts. Others log that a session began, and leave out of what
they log of its end what they said then. Until a session ends, what was said last of it
is held, of at most `MOST_HELD` sessions; reports for `SILENCE` at most, which is several
times as long as firewalls are silent about a session that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.columns import MAX_DURATION_S
from exfilml.sources._words import conversations

MOST_HELD: Final = 2_000_000
# An hour, in microseconds.
SILENCE: Final = 3_600_000_000
_NEVER: Final = -(2**62)


def session_states(columns: Mapping[str, Any], reset: Any) -> Any:
    """Say how sessions went, from packets and from whether the server reset them.

    A firewall that follows TCP lets nothing through without a handshake. A session that
    the server reset with its only packet was rejected.
    """
    flags = pa.nulls(len(reset), pa.int64())
    states = conversations({**columns, "tcp_flags": flags})
    at_once = pc.less_equal(columns["dst_packets"], 1)
    rejected = pc.and_(pc.equal(columns["protocol"], 6), pc.and_(reset, at_once))
    return pc.if_else(pc.fill_null(rejected, False), "rejected", states)


def begun(ended: Any, seconds: Any) -> Any:
    """Return when sessions began that took whole seconds, in microseconds.

    None where nothing takes so long.
    """
    lasted = pc.fill_null(seconds, 0)
    possible = pc.less_equal(lasted, int(MAX_DURATION_S))
    start = pc.subtract(ended, pc.multiply(pc.if_else(possible, lasted, 0), 10**6))
    return pc.if_else(possible, start, pa.scalar(None, pa.int64()))


class LongSessions:
    """Reports of sessions that may go on.

    Attributes
    ----------
    open
        How many sessions were given back whose end was not seen.
    """

    def __init__(self) -> None:
        self._held: pa.Table | None = None
        self.open = 0

    def add(self, reports: pa.Table) -> pa.Table:
        """Take reports in order; return those that count.

        Columns ``session``, which names it, ``goes_on`` (bool) and ``seen``, the time
        of the report in microseconds, are read.
        """
        if self._held is not None:
            reports = pa.concat_tables([self._held, reports])
        if not reports.num_rows:
            return reports
        goes_on = reports.column("goes_on").to_numpy()
        held = goes_on & (_before(reports)[1] < 0)
        seen = pc.fill_null(reports.column("seen"), _NEVER).to_numpy()
        silent = held & (seen < seen.max() - SILENCE) & (seen != _NEVER)
        if held.sum() - silent.sum() > MOST_HELD:
            silent = held
        self.open += int(silent.sum())
        self._held = reports.filter(pa.array(held & ~silent)).combine_chunks()
        return reports.filter(pa.array(~goes_on | silent))

    def finish(self) -> pa.Table | None:
        """Return the last reports of those that go on; None if there are none."""
        held, self._held = self._held, None
        if held is None or not held.num_rows:
            return None
        self.open += held.num_rows
        return held


class Beginnings:
    """What was logged when sessions began."""

    def __init__(self) -> None:
        self._held: pa.Table | None = None

    def add(self, records: pa.Table, told: Sequence[str]) -> pa.Table:
        """Take records in order; return those of ends.

        Columns ``session``, which names it, and ``begins`` (bool) are read. What
        columns in `told` said at the beginning is added as ``began_…``, None where no
        beginning was seen.
        """
        if self._held is not None:
            records = pa.concat_tables([self._held, records])
        if not records.num_rows:
            for name in told:
                records = records.append_column(f"began_{name}", records.column(name))
            return records
        begins = records.column("begins").to_numpy()
        before, after = _before(records)
        known = (before >= 0) & begins[before]
        at = pa.array(np.where(known, before, 0), pa.int64(), mask=~known)
        held = np.flatnonzero(begins & (after < 0))[-MOST_HELD:]
        self._held = records.take(pa.array(held)).combine_chunks()
        for name in told:
            found = records.column(name).combine_chunks().take(at)
            records = records.append_column(f"began_{name}", found)
        return records.filter(pa.array(~begins))


def _before(records: pa.Table) -> tuple[Any, Any]:
    """Return of each record where the one before and after it of its session stand.

    -1 where there is none.
    """
    names = records.column("session").combine_chunks().dictionary_encode()
    code = pc.fill_null(names.indices, len(names.dictionary)).to_numpy()
    order = np.argsort(code, kind="stable")
    same = code[order[1:]] == code[order[:-1]]
    before = np.full(len(code), -1)
    after = np.full(len(code), -1)
    before[order[1:][same]] = order[:-1][same]
    after[order[:-1][same]] = order[1:][same]
    return before, after
