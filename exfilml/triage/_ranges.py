"""Which networks hold an address, for a million of each.

Networks of one family are sorted by first address, larger ones first. Two of them lie
one in the other or apart, so that all that hold an address hold the last one that begins
at or before it, if that one holds it, and otherwise are among those around it: one
binary search for each address, then up through the enclosing networks.

Addresses are keys that sort as they do: numbers for version 4, 16 bytes for version 6.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_SIX: Final = "S16"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of both families.

    Attributes
    ----------
    at
        int64, of version 4 and of version 6: which of the texts each is.
    keys
        uint32 of version 4, S16 of version 6.
    """

    at: tuple[NDArray[np.int64], NDArray[np.int64]]
    keys: tuple[NDArray[np.uint32], NDArray[np.bytes_]]


def addresses_of(texts: Any) -> Addresses:
    """Return the keys of an Arrow array of addresses without fault.

    Those of version 4 in the form of version 6 (RFC 4291, section 2.5.5.2) count as
    version 4.
    """
    is_six = pc.match_substring(texts, ":").to_numpy(zero_copy_only=False)
    at_four, at_six = np.flatnonzero(~is_six), np.flatnonzero(is_six)
    four = fours(texts.take(pa.array(at_four)))
    packed = [
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
        for text in texts.take(pa.array(at_six)).to_pylist()
    ]
    mapped = np.array([key.startswith(MAPPED) for key in packed], dtype=bool)
    if mapped.any():
        plain = [
            int.from_bytes(key[12:], "big") for key in packed if key[:12] == MAPPED
        ]
        four = np.concatenate([four, np.array(plain, np.uint32)])
        at_four = np.concatenate([at_four, at_six[mapped]])
        packed = [key for key in packed if key[:12] != MAPPED]
        at_six = at_six[~mapped]
    return Addresses((at_four, at_six), (four, np.array(packed, _SIX)))


def fours(texts: Any) -> NDArray[np.uint32]:
    """Return the keys of an Arrow array of addresses of version 4."""
    parts = pc.split_pattern(texts, ".").flatten().cast(pa.uint32()).to_numpy()
    a, b, c, d = parts.reshape(-1, 4).T
    keys: NDArray[np.uint32] = a << 24 | b << 16 | c << 8 | d
    return keys


def six_bounds(text: str) -> tuple[bytes, bytes, int] | None:
    """Return first and last key and length of a network of version 6, if it is one.

    Also a single address. Bits beyond the length make it none.
    """
    address, slash, length = text.partition("/")
    try:
        key = socket.inet_pton(socket.AF_INET6, address)
        if not slash:
            return key, key, 128
        network = ipaddress.IPv6Network(text)
    except (OSError, ValueError):
        return None
    return key, network.broadcast_address.packed, int(length)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Networks of one family, each once.

    Attributes
    ----------
    first, last
        Keys, sorted by first, larger networks first.
    around
        int64: the smallest network that holds each, −1 for none.
    """

    first: NDArray[Any]
    last: NDArray[Any]
    around: NDArray[np.int64]

    @classmethod
    def of(
        cls, first: NDArray[Any], last: NDArray[Any], length: NDArray[np.int64]
    ) -> tuple[Self, NDArray[np.int64]]:
        """Sort networks; also return which of them each of those given is.

        Parameters
        ----------
        first, last
            Keys.
        length
            Of the prefixes.
        """
        order = np.lexsort((length, first))
        begins, ends = first[order], last[order]
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (begins[1:] != begins[:-1]) | (ends[1:] != ends[:-1])
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.cumsum(is_new) - 1
        begins, ends = begins[is_new], ends[is_new]
        return cls(begins, ends, _around(begins, ends)), place

    def holding(
        self, keys: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all pairs of a key's position and a network that holds it."""
        none = np.zeros(0, dtype=np.int64)
        if not len(self.first) or not len(keys):
            return none, none
        order = np.argsort(keys, kind="stable")
        found = np.searchsorted(self.first, keys[order], "right") - 1
        # The binary search runs through sorted keys, which the cache likes.
        network = np.empty(len(keys), dtype=np.int64)
        network[order] = found
        at = np.flatnonzero(network >= 0)
        network = network[at]
        pairs: list[tuple[Any, Any]] = [(none, none)]
        while len(at):
            holds = self.last[network] >= keys[at]
            pairs.append((at[holds], network[holds]))
            network = self.around[network]
            goes_on = network >= 0
            at, network = at[goes_on], network[goes_on]
        rows, networks = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return rows, networks


def _around(first: NDArray[Any], last: NDArray[Any]) -> NDArray[np.int64]:
    """Say which network lies around each; they are sorted and differ."""
    around = np.full(len(first), -1, dtype=np.int64)
    # Only networks that reach beyond the beginning of the next can hold others.
    holders = np.flatnonzero(np.append(last[:-1] >= first[1:], False)[: len(first)])
    if not len(holders):
        return around
    open_: list[int] = []
    firsts, lasts = first[holders].tolist(), last[holders].tolist()
    for at, begin in enumerate(firsts):
        while open_ and lasts[open_[-1]] < begin:
            open_.pop()
        around[holders[at]] = holders[open_[-1]] if open_ else -1
        open_.append(at)
    # The others lie in the last holder before them that still reaches them.
    rest = np.setdiff1d(np.arange(len(first)), holders)
    before = np.searchsorted(holders, rest) - 1
    candidate = np.where(before >= 0, holders[np.maximum(before, 0)], -1)
    open_at = np.flatnonzero(candidate >= 0)
    while len(open_at):
        outside = last[candidate[open_at]] < first[rest[open_at]]
        open_at = open_at[outside]
        candidate[open_at] = around[candidate[open_at]]
        open_at = open_at[candidate[open_at] >= 0]
    around[rest] = candidate
    return around
