"""Sets of networks, and whether one of them holds an address.

Addresses are numbers of 128 bits, in two halves; those of version 4 in the form that
version 6 maps them to (``::ffff:192.0.2.1``, RFC 4291, section 2.5.5.2), so that
either way to write one is the same address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAPPED: Final = 0xFFFF << 32
_HALF: Final = (1 << 64) - 1
# More of them are counted, not listed.
MOST_LISTED: Final = 3


def address_numbers(texts: Iterable[str | None]) -> NDArray[np.uint64]:
    """Return addresses as numbers, uint64 of shape (n_addresses, 2), upper half first.

    A missing one is 0, the unspecified address.
    """
    numbers = [0 if text is None else _number(text) for text in texts]
    halves = [(number >> 64, number & _HALF) for number in numbers]
    return np.array(halves, dtype=np.uint64).reshape(-1, 2)


def _number(text: str) -> int:
    address = ipaddress.ip_address(text)
    return int(address) + (_MAPPED if address.version == 4 else 0)


@dataclass(frozen=True)
class Networks:
    """Networks and single addresses, in canonical notation; none of them is allowed.

    >>> Networks.parse(["192.0.2.0/24", "2001:db8::1"]).covers("192.0.2.7")
    True
    """

    texts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Check networks in CIDR notation and single addresses.

        Raises
        ------
        ValueError
            If one of them is none, or has bits set that its length leaves open: a
            network is never taken to be larger than what was written.
        """
        networks = [ipaddress.ip_network(text) for text in texts]
        return cls(
            tuple(
                str(n if n.prefixlen < n.max_prefixlen else n.network_address)
                for n in networks
            )
        )

    def __bool__(self) -> bool:
        return bool(self.texts)

    def __str__(self) -> str:
        more = len(self.texts) - MOST_LISTED
        listed = ", ".join(self.texts[:MOST_LISTED])
        return f"{listed} and {more} more" if more > 0 else listed

    def covers(self, address: str) -> bool:
        """Say whether an address lies in one of the networks."""
        return bool(self.among(address_numbers([address]))[0])

    def among(self, numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say which addresses lie in one of the networks.

        Parameters
        ----------
        numbers
            As `address_numbers` gives it, shape (n_addresses, 2).

        Returns
        -------
        numpy.ndarray of bool, shape (n_addresses,)
        """
        found = np.zeros(len(numbers), dtype=bool)
        for first, mask in self._masked:
            found |= ((numbers & mask) == first).all(axis=1)
        return found

    @cached_property
    def _masked(self) -> list[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """First address and mask of each network."""
        found = []
        for text in self.texts:
            network = ipaddress.ip_network(text)
            free = network.max_prefixlen - network.prefixlen
            mask = (1 << 128) - (1 << free)
            first = address_numbers([str(network.network_address)])[0]
            found.append((first, np.array([mask >> 64, mask & _HALF], dtype=np.uint64)))
        return found


NO_NETWORKS: Final = Networks()

SPECIAL_NETWORKS: Final = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/127", "64:ff9b:1::/48", "100::/64", "fc00::/7", "fe80::/10", "ff00::/8"),
)
"""Networks of special use that traffic of a site carries (IANA's registries, RFC 6890):
private, shared, loopback, link-local, multicast, reserved. Not those for documentation
and benchmarks, which occur in laboratories only."""
