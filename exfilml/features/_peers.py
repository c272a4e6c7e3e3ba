"""Peer groups: hosts of one kind, as far as their habits tell.

A host's group is the service that tells it apart: the one with the largest share of its
flows times the logarithm of how few hosts use it, which is the term frequency times
inverse document frequency of G. Salton and C. Buckley (Information Processing and
Management 24, 1988) with hosts for documents and services for terms. Mail servers,
developers with SSH and cameras find each other; hosts that use only what all do are one
group more. Nothing is stored for it: the table of hosts and services says it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from exfilml.tally import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What is a smaller part of a host's flows is not what it is there for.
REGULAR_SHARE: Final = 0.01


class Peers(NamedTuple):
    """Hosts by group.

    Attributes
    ----------
    hosts
        Hashes of hosts, strictly increasing, shape (n_hosts,).
    groups
        Hash of the service that each one's group is named for, 0 for none.
    tally
        What the groups did over each service: the sum of their hosts.
    """

    hosts: NDArray[np.uint64]
    groups: NDArray[np.uint64]
    tally: Tally

    @classmethod
    def of(cls, host_service: Tally) -> Peers:
        """Group the hosts of a table by host and service."""
        if ("peers",) not in host_service.derived:
            host_service.derived["peers",] = (cls._found(host_service),)
        (peers,) = host_service.derived["peers",]
        return cls(*peers)

    @classmethod
    def _found(cls, host_service: Tally) -> Peers:
        hosts, host = np.unique(host_service.first, return_inverse=True)
        _, service, users = np.unique(
            host_service.second, return_inverse=True, return_counts=True
        )
        share = host_service.count / np.bincount(host, host_service.count)[host]
        weight = share * np.log(len(hosts) / users[service])
        weight[share < REGULAR_SHARE] = 0.0
        groups = np.zeros(len(hosts), dtype=np.uint64)
        telling = np.flatnonzero(weight > 0.0)
        # Of several values for one place the last stays: the heaviest.
        telling = telling[np.argsort(weight[telling], kind="stable")]
        groups[host[telling]] = host_service.second[telling]
        parts = (groups[host], host_service.second)
        tally = Tally.group(parts, host_service.values, len(host))
        return cls(hosts, groups, tally)

    def groups_of(self, hosts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the group of hosts; one that was never seen is its own."""
        if len(self.hosts) == 0:
            return hosts
        at = np.minimum(np.searchsorted(self.hosts, hosts), len(self.hosts) - 1)
        return np.where(self.hosts[at] == hosts, self.groups[at], hosts)
