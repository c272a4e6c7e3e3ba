"""Process: a program that never used the network from this host, and how rare it is.

Which process opened a connection is what hosts know and packets do not show (MITRE
ATT&CK data sources DS0009 Process and DS0029 Network Traffic, component Network
Connection Creation): `exfilml.add_processes` joins it to flows. A transfer by a program
that neither this host nor any other of its kind ever used for that stands out even
where place, port and payload are usual.

It says more than `novelty.process_for_host`, in whose place it stands where a baseline
shows processes: how many hosts of the same kind, and of the site, use the program; and
it is missing, not 0, where a flow shows no process. Hosts that report their processes
are often few: a forest would isolate their flows for being visible, and so does not see
this column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from exfilml.features._feature import (
    Asked,
    Feature,
    blend,
    column,
    lookup,
    surprise,
)
from exfilml.features._peers import Peers
from exfilml.tally import combine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.baseline import Baseline

TABLE: Final = "host_process"


class Users(NamedTuple):
    """Which hosts use which processes, counted by group of hosts.

    Attributes
    ----------
    groups
        Hashes of groups, strictly increasing, shape (n_groups,).
    begin
        Where the pairs of each group begin in `others`, and the end of all.
    others
        Of each pair of host and process, how many other hosts of the group use the
        process; in order within a group.
    keys, users
        Hashes of group and process, strictly increasing, and by how many hosts.
    """

    groups: NDArray[np.uint64]
    begin: NDArray[np.int64]
    others: NDArray[np.int64]
    keys: NDArray[np.uint64]
    users: NDArray[np.int64]

    @classmethod
    def of(cls, group: NDArray[np.uint64], process: NDArray[np.uint64]) -> Users:
        """Count pairs of host and process, of which the host's group is given."""
        keys, at, users = np.unique(
            combine(group, process), return_inverse=True, return_counts=True
        )
        groups, of = np.unique(group, return_inverse=True)
        others = users[at] - 1
        order = np.lexsort((others, of))
        begin = np.searchsorted(of[order], np.arange(len(groups) + 1))
        return cls(groups, begin, others[order], keys, users)

    def of_each(
        self, group: NDArray[np.uint64], process: NDArray[np.uint64]
    ) -> NDArray[np.float64]:
        """Return how many hosts of a group use a process, for each row."""
        return lookup(self.keys, self.users, combine(group, process), 0.0)

    def rarity(
        self, group: NDArray[np.uint64], process: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the number of pairs of each row's group, and bits of surprise there.

        −log2 of the share of them whose process no more other hosts use; one is added
        to either number.
        """
        used = self.of_each(group, process).astype(np.int64)
        row = lookup(self.groups, np.arange(len(self.groups)), group, -1.0)
        row = row.astype(np.int64)
        begin, end = self.begin[row], self.begin[np.minimum(row + 1, len(self.groups))]
        begin = np.where(row < 0, 0, begin)
        end = np.where(row < 0, 0, end)
        # Of all groups in one search: pairs stand in order of group, then of others.
        most = int(self.others.max(initial=0)) + 2
        place = np.repeat(np.arange(len(self.groups)), np.diff(self.begin))
        ordered = place * most + self.others
        wanted = np.maximum(row, 0) * most + np.minimum(used, most - 1)
        upto = np.searchsorted(ordered, wanted, side="right")
        fewer = np.clip(upto, begin, end) - begin
        n = (end - begin).astype(np.float64)
        return n, surprise((fewer + 1.0) / (n + 1.0))


def _counted(baseline: Baseline) -> tuple[Users, Users]:
    """Count the users of processes among hosts of a kind, and of the site."""
    tally = baseline.tables[TABLE]
    if ("users",) not in tally.derived:
        peers = Peers.of(baseline.tables["host_service"])
        everyone = np.zeros(len(tally.keys), dtype=np.uint64)
        tally.derived["users",] = (
            Users.of(peers.groups_of(tally.first), tally.second),
            Users.of(everyone, tally.second),
        )
    kind, site = tally.derived["users",]
    return kind, site


def _habits(asked: Asked) -> NDArray[np.float64]:
    """Surprise at anything new from each flow's host, in bits: see `process`."""
    tally = asked.tally(TABLE)
    if ("turnover",) not in tally.derived:
        who, total, _ = tally.by_first
        _, shown = np.unique(tally.first, return_counts=True)
        tally.derived["turnover",] = (who, surprise((shown + 1.0) / (total + 1.0)))
    who, bits = tally.derived["turnover",]
    return lookup(who, bits, asked.observed.hashes["local_ip"], 0.0)


def _groups(asked: Asked) -> NDArray[np.uint64]:
    peers = Peers.of(asked.baseline.tables["host_service"])
    return peers.groups_of(asked.observed.hashes["local_ip"])


def process(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen process | host, hosts of its kind, site) where unseen, in bits.

    0 where this host used the network by this process before; missing where the flow
    shows none, or the baseline does not know any. Else *own* + *others*. *own* is
    −log2((d + 1) / (n + 1)) of a host that showed d processes in n flows: how often
    something new turns up there (processes open many connections at once, so that
    "seen once", which Good and Turing count, says little). *others* is
    (m · kind + 5 · site) / (m + 5), with m pairs of host and process known of the hosts
    of its kind (`exfilml.features._peers`); either part is −log2 of the share of pairs
    whose process no more other hosts use. Not above what the upload, or the case's in 14
    days, exceeds the mean of its service by, as novelty.
    """
    bits = np.full(asked.n_flows, np.nan)
    hashes = asked.observed.hashes["process"]
    if len(asked.tally(TABLE).keys) == 0:
        return bits
    shown = hashes != 0
    bits[shown] = 0.0
    new = np.flatnonzero(shown & asked.is_new(TABLE))
    if len(new) == 0:
        return bits
    kind, site = _counted(asked.baseline)
    m, of_kind = kind.rarity(_groups(asked)[new], hashes[new])
    everyone = np.zeros(len(new), dtype=np.uint64)
    _, of_site = site.rarity(everyone, hashes[new])
    total = _habits(asked)[new] + blend(m, of_kind, of_site)
    bits[new] = np.minimum(total, asked.beyond_usual[new])
    return bits


def _say(asked: Asked) -> list[str]:
    hashes = asked.observed.hashes["process"]
    kind, site = _counted(asked.baseline)
    everyone = np.zeros(asked.n_flows, dtype=np.uint64)
    of_site = site.of_each(everyone, hashes)
    of_kind = kind.of_each(_groups(asked), hashes)
    total = len(asked.tally(TABLE).by_first[0])
    return [
        _sentence(name, host, n_site, n_kind, total)
        for name, host, n_site, n_kind in zip(
            *(column(asked, "process"), column(asked, "local_ip")),
            *(of_site.tolist(), of_kind.tolist()),
            strict=True,
        )
    ]


def _sentence(name: str, host: str, of_site: float, of_kind: float, total: int) -> str:
    if not of_site:
        return f"process {name} never used the network here (0 of {total} hosts)"
    near = f"{of_kind:.0f} of its kind" if of_kind else "none of its kind"
    return (
        f"process {name} never used the network from {host} ({of_site:.0f} of {total} "
        f"hosts, {near})"
    )


FEATURES: Final = (
    Feature(
        "process", "process", "bits", needs_payload=False, compute=process,
        reason=_say, in_forest=False, instead_of="new_process",
    ),
)  # fmt: skip
