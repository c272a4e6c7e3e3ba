"""How often normal operation did what a rule of the policy forbids.

A rule that a site keeps is strong evidence when it is broken; one that it breaks every
day says little. A broken rule is therefore worth::

    bits = min(8, log2((n + 256) / (v + 1)))

where of *n* outward flows of the baseline that the rule speaks of *v* broke it: the
declaration itself counts as 256 flows, of which one broke the rule, and no rule is
worth more than what is seen once in 256 flows. Bits are never negative: breaking a
rule never lowers suspicion.

The baseline counts by pairs of names, and not which way a flow went. Flows to a host
that is the local end of others are taken for internal, and a segment's flows over a
service are taken to leave the site as often as those of the whole site do. Both leave
*v* rather too large than too small, and inward connections to servers of the site count
in it too. Declared networks of more than 65,536 addresses cannot be looked up: rules
about them are worth all 8 bits.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.baseline import Baseline
from exfilml.names import Names
from exfilml.networks import Networks
from exfilml.tally import hash_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

# As surprising as what normal operation shows once in 256 cases: it alerts where the
# budget allows that much, and elsewhere lifts what other evidence speaks of too.
MOST_BITS: Final = 8.0
MOST_LISTED: Final = 65_536


@dataclass(frozen=True)
class Precedents:
    """Answers from what a baseline counted."""

    known: Baseline

    def bits_past(self, networks: Networks, services: list[str]) -> float:
        """Return what it is worth that flows over some services go past some hosts."""
        declared = _hashes(networks)
        if declared is None:
            return MOST_BITS
        hashes = _hashed(services)
        outward = self._outward.reindex(hashes, fill_value=0.0).sum()
        by, to = self._counts("host_service"), self._counts("service_address")
        by = by[by["first"].isin(declared) & by["second"].isin(hashes)]
        to = to[to["second"].isin(declared) & to["first"].isin(hashes)]
        to = to[~to["second"].isin(self._hosts)]
        broke = outward - by["n"].sum() - to["n"].sum()
        return float(_bits(outward, min(max(broke, 0.0), outward)))

    def bits_of_services(
        self, networks: Networks, services: list[str]
    ) -> NDArray[np.float64]:
        """Return what it is worth that hosts of some networks use a service outward.

        Returns
        -------
        numpy.ndarray of float64, shape (n_services,)
        """
        inside = _hashes(networks)
        if inside is None:
            return np.full(len(services), MOST_BITS)
        counts = self._counts("host_service")
        used = counts[counts["first"].isin(inside)].groupby("second")["n"].sum()
        used *= (self._outward / self._total).reindex(used.index, fill_value=1.0)
        broke = used.reindex(_hashed(services), fill_value=0.0).to_numpy()
        return np.asarray(_bits(used.sum(), broke), dtype=np.float64)

    @cached_property
    def _hosts(self) -> NDArray[np.uint64]:
        """Local ends of flows."""
        return self.known.tables["host"].first

    @cached_property
    def _total(self) -> pd.Series:
        """Flows by service."""
        return self._counts("service").set_index("first")["n"]

    @cached_property
    def _outward(self) -> pd.Series:
        """Flows by service that ended at no host of the site."""
        to = self._counts("service_address")
        inside = to[to["second"].isin(self._hosts)].groupby("first")["n"].sum()
        left = self._total.sub(inside, fill_value=0.0)
        return left.clip(lower=0.0)

    def _counts(self, table: str) -> pd.DataFrame:
        tally = self.known.tables[table]
        return pd.DataFrame(
            {"first": tally.first, "second": tally.second, "n": tally.values["n"]}
        )


def _bits(spoken_of: Any, broke: Any) -> Any:
    return np.minimum(np.log2((spoken_of + 2.0**MOST_BITS) / (broke + 1.0)), MOST_BITS)


def _hashed(texts: list[str]) -> NDArray[np.uint64]:
    return hash_names(Names.one_of(texts, np.arange(len(texts))))


def _hashes(networks: Networks) -> NDArray[np.uint64] | None:
    """Hash all addresses of some networks; `None` if they are too many."""
    parsed = [ipaddress.ip_network(text) for text in networks.texts]
    if sum(network.num_addresses for network in parsed) > MOST_LISTED:
        return None
    return _hashed([str(address) for network in parsed for address in network])
