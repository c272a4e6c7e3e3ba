"""Whose host an address is at a time: leases, names, addresses and networks together.

See `exfilml.triage.assets` for what comes before what.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from exfilml.names import Names
from exfilml.triage._entries import FIELDS, Entry, canonical
from exfilml.triage._ranges import Ranges, addresses_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES: Final = {
    "known": "bool",
    "by": "str",
    "entry": "str",
    **dict.fromkeys(FIELDS, "str"),
    "inherited": "str",
    "source": "str",
}
_LONG_AGO: Final = np.datetime64("0001-01-01", "us")
_LATEST: Final = pd.Timestamp("9999-12-31").as_unit("us")


@dataclass(frozen=True, slots=True)
class Index:
    """Entries by how they name hosts.

    Attributes
    ----------
    entries
        All of them.
    ranges, of_range
        Addresses and networks of both families, and the entry of each.
    of_host
        The entry of each host name, also by the first label where only one has it.
    leases
        ``address``, ``lease`` (the entry), ``time`` and ``end``, by time.
    """

    entries: Sequence[Entry]
    ranges: tuple[Ranges, Ranges]
    of_range: tuple[NDArray[np.int64], NDArray[np.int64]]
    of_host: Mapping[str, int]
    leases: pd.DataFrame

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Index:
        """Sort entries by how they name hosts."""
        nets: tuple[list[Any], list[Any]] = ([], [])
        hosts: dict[str, int] = {}
        labels: dict[str, list[int]] = {}
        for at, entry in enumerate(entries):
            if entry.by in {"address", "network"}:
                network = ipaddress.ip_network(entry.key)
                ends = (network[0], network[-1])
                if network.version == 4:
                    nets[0].append((*map(int, ends), network.prefixlen, at))
                else:
                    keys = (end.packed for end in ends)
                    nets[1].append((*keys, network.prefixlen, at))
            elif entry.by == "hostname":
                hosts[entry.key] = at
                labels.setdefault(entry.key.partition(".")[0], []).append(at)
        for label, those in labels.items():
            if len(those) == 1:
                hosts.setdefault(label, those[0])
        ranges, of_range = zip(
            *(_ranges(n, k) for n, k in zip(nets, (np.uint32, "S16"), strict=True)),
            strict=True,
        )
        return cls(entries, ranges, of_range, hosts, _leases(entries))

    def answer(
        self, names: Names, times: NDArray[np.datetime64], index: pd.Index
    ) -> pd.DataFrame:
        """Return what is known of addresses at times; see `Assets.of`."""
        chains = self._chains(names)
        lease = self._lease_of(names, times)
        code = np.where(names.codes < 0, len(names.texts) - 1, names.codes)
        pair = code * (len(self.entries) + 1) + lease + 1
        of_pair, pairs = pd.factorize(pair)
        said: dict[tuple[int, ...], tuple[Any, ...]] = {}
        rows = []
        for each in pairs.tolist():
            who, leased = divmod(each, len(self.entries) + 1)
            chain = self._chain(leased - 1, chains.get(who, []))
            if chain not in said:
                said[chain] = self._say(chain)
            rows.append(said[chain])
        columns = list(zip(*rows, strict=True)) or [()] * len(DTYPES)
        table = pd.DataFrame(
            {
                name: pd.Series(list(values), dtype=dtype)
                for (name, dtype), values in zip(DTYPES.items(), columns, strict=True)
            }
        )
        return table.iloc[of_pair].set_axis(index)

    def _chains(self, names: Names) -> dict[int, list[int]]:
        """Return entries that hold each distinct address, the smallest first."""
        addresses = addresses_of(pa.array(names.texts[:-1], pa.string()))
        chains: dict[int, list[int]] = {}
        for at, keys, ranges, entries in zip(
            addresses.at, addresses.keys, self.ranges, self.of_range, strict=True
        ):
            rows, networks = ranges.holding(keys)
            pairs = zip(at[rows].tolist(), entries[networks].tolist(), strict=True)
            for who, entry in pairs:
                chains.setdefault(who, []).append(entry)
        return chains

    def _lease_of(
        self, names: Names, times: NDArray[np.datetime64]
    ) -> NDArray[np.int64]:
        """Return the lease that holds for each address at its time, −1 for none."""
        held = np.full(len(times), -1, dtype=np.int64)
        known = {text: n for n, text in enumerate(self.leases["address"].unique())}
        if not known:
            return held
        of_text = [_place(text, known) for text in names.texts]
        asked = np.array(of_text)[names.codes]
        rows = np.flatnonzero((asked >= 0) & ~np.isnat(times))
        rows = rows[np.argsort(times[rows], kind="stable")]
        right = self.leases.assign(address=self.leases["address"].map(known))
        left = pd.DataFrame({"address": asked[rows], "time": times[rows]})
        met = pd.merge_asof(left, right, on="time", by="address")
        holds = (met["end"].isna() | (met["time"] < met["end"])) & met["lease"].notna()
        mask = holds.to_numpy(dtype=bool)
        held[rows[mask]] = met["lease"].to_numpy()[mask].astype(np.int64)
        return held

    def _chain(self, lease: int, static: list[int]) -> tuple[int, ...]:
        """Return the entries about a host, the most specific first."""
        chain = []
        for entry in ([lease] if lease >= 0 else []) + static:
            chain.append(entry)
            host = self.entries[entry].fields[0]
            if host is not None and self.entries[entry].by != "network":
                named = self._named(host)
                if named is not None:
                    chain.append(named)
        # Another host had the address before: what is said of it is not said of this.
        if lease >= 0:
            mine = chain[: 1 + (len(chain) > 1 and self._by(chain[1]) == "hostname")]
            chain = mine + [e for e in chain[len(mine) :] if self._by(e) == "network"]
        return tuple(chain)

    def _by(self, entry: int) -> str:
        return self.entries[entry].by

    def _named(self, host: str) -> int | None:
        found = self.of_host.get(host)
        return self.of_host.get(host.partition(".")[0]) if found is None else found

    def _say(self, chain: tuple[int, ...]) -> tuple[Any, ...]:
        """Return the columns of an answer, in the order of `DTYPES`."""
        values: list[str | None] = []
        inherited: dict[str, list[str]] = {}
        for at, name in enumerate(FIELDS):
            value = None
            for entry in map(self.entries.__getitem__, chain):
                is_its_own = name != "hostname" or entry.by != "network"
                if entry.fields[at] is not None and is_its_own:
                    value = entry.fields[at]
                    if entry is not self.entries[chain[0]]:
                        whence = f"{entry.by} {entry.key}"
                        inherited.setdefault(whence, []).append(name)
                    break
            values.append(value)
        if not any(value is not None for value in values):
            return (False, *[None] * (len(DTYPES) - 1))
        first = self.entries[chain[0]]
        told = "; ".join(f"{', '.join(n)} from {w}" for w, n in inherited.items())
        return (True, first.by, first.key, *values, told or None, first.source)


def _ranges(nets: list[Any], key: Any) -> tuple[Ranges, NDArray[np.int64]]:
    first, last, length, entry = list(zip(*nets, strict=True)) or [()] * 4
    lengths = np.array(length, np.int64)
    ranges, place = Ranges.of(np.array(first, key), np.array(last, key), lengths)
    of_range = np.empty(len(place), dtype=np.int64)
    of_range[place] = np.array(entry, np.int64)
    return ranges, of_range


def _leases(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return leases, of which a later one of an address ends an earlier one."""
    those = [
        (e.key, at, e.start, e.end) for at, e in enumerate(entries) if e.by == "lease"
    ]
    key, lease, start, end = list(zip(*those, strict=True)) or [()] * 4
    begun = np.array(start, "datetime64[us]")
    table = pd.DataFrame(
        {
            "address": pd.array(key, "str"),
            "lease": np.array(lease, np.int64),
            # A lease whose beginning is not known was always there.
            "time": np.where(np.isnat(begun), _LONG_AGO, begun),
            "end": np.array(end, "datetime64[us]"),
        }
    )
    table = table.sort_values(["time", "lease"], ignore_index=True)
    following = table.groupby("address")["time"].shift(-1)
    sooner = following < table["end"].fillna(_LATEST)
    return table.assign(end=table["end"].mask(sooner, following))


def _place(text: str | None, known: Mapping[str, int]) -> int:
    if text is None:
        return -1
    found = known.get(text)
    if found is None and ":" in text:
        found = known.get(canonical(text.partition("%")[0]) or "")
    return -1 if found is None else found
