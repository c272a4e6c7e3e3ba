"""Transfers that were seen twice: before and behind a proxy, resolver or mail relay.

What a host sends through a relay of its site can be seen up to three times: from the
host to the relay, in the relay's own log, and from the relay outward. Flows are taken
for the same transfer if one side goes through a host that is the local end of the other,
or both are of one host and only one comes from a proxy's log, and

- their place is the same,
- they overlap in time, or lie no more than `WITHIN_S` seconds apart, and
- all that overlap so send similar bytes: the smaller side at least `SIMILAR` of the
  larger, since a relay adds and removes headers.

The side that is nearest to the host counts, because it says who sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.triage._traffic import Traffic

# A relay forwards at once; a mail waits for the connection of its turn.
WITHIN_S: Final = 60
SIMILAR: Final = 0.5

_WITHIN_US: Final = WITHIN_S * 1_000_000
# Sides of a relay, the nearest to the host first.
_TO_RELAY, _LOGGED, _FROM_RELAY = range(3)
_SIDES: Final = 3


@dataclass(frozen=True)
class Doubles:
    """Which flows show a transfer that other flows show, too.

    Attributes
    ----------
    transfer
        int64, shape (n_flows,): the same number for all flows that show a transfer
        twice, −1 for all others.
    counts
        bool, shape (n_flows,): false on the sides that are not counted.
    """

    transfer: NDArray[np.int64]
    counts: NDArray[np.bool_]

    @classmethod
    def of(cls, flows: Traffic) -> Doubles:
        """Look for transfers that were seen twice."""
        told = cls(np.full(len(flows), -1), np.ones(len(flows), dtype=bool))
        into = np.flatnonzero(flows.through != "")
        if not len(into):
            return told
        # A relay has a part in what goes through it and in what it sends itself.
        relays = set(flows.through[into])
        itself = np.array([host in relays for host in flows.local], dtype=bool)
        rows = np.concatenate([into, np.flatnonzero(itself & (flows.through == ""))])
        side = np.full(len(flows), _FROM_RELAY)
        side[into] = np.where(flows.logged[into], _LOGGED, _TO_RELAY)
        if len(np.unique(side[rows])) < 2:
            return told
        relay = np.where(flows.through == "", flows.local, flows.through)
        table = pd.DataFrame(
            {
                "row": rows,
                "relay": relay[rows],
                "place": flows.place[rows],
                "side": side[rows],
                "start": flows.start[rows],
                "end": flows.end[rows],
                "up": flows.up[rows].astype(np.float64),
            }
        )
        found = _doubles(table.sort_values(["relay", "place", "start", "end", "row"]))
        told.transfer[found["row"]] = found["transfer"]
        told.counts[found["row"]] = found["counts"]
        return told


def _doubles(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of transfers that were seen twice, with ``counts``."""
    whose = [table["relay"], table["place"]]
    latest = table.groupby(["relay", "place"], sort=False)["end"].cummax()
    until = latest.groupby(whose, sort=False).shift()
    begins = until.isna() | (table["start"] > until + _WITHIN_US)
    transfer = begins.cumsum().to_numpy() - 1
    side = table["side"].to_numpy()
    sums = np.zeros((int(transfer.max(initial=-1)) + 1, _SIDES))
    np.add.at(sums, (transfer, side), table["up"].to_numpy())
    there = sums > 0
    nearest = np.argmax(there, axis=1)
    kept = sums[np.arange(len(sums)), nearest][:, None]
    similar = np.minimum(sums, kept) >= SIMILAR * np.maximum(sums, kept)
    twice = there & similar & (np.arange(_SIDES) != nearest[:, None])
    counts = ~twice[transfer, side]
    shown = twice.any(axis=1)[transfer] & (~counts | (side == nearest[transfer]))
    told: pd.DataFrame = table.assign(transfer=transfer, counts=counts)[shown]
    return told
