"""Links between cases: what two cases have in common that says something.

What is common to many says nothing: a name counts as a link only if the baseline hardly
knows it (`_COMMON`). Relays, and hosts that others send through, are no places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from exfilml.features import human_bytes
from exfilml.places import network_of
from exfilml.tally import hash_names
from exfilml.triage._doubles import SIMILAR, Doubles
from exfilml.triage._traffic import Traffic
from exfilml.triage.case import Case, Fact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.baseline import Baseline
    from exfilml.policy import Policy

# Places that so many hosts of the baseline used are common.
COMMON_HOSTS: Final = 3
# A new client that more hosts show than these is an update.
MOST_CLIENT_HOSTS: Final = 3
# Which table knows a name as the second part of its keys, and with how many first parts
# it is common: hosts, or services where hosts are not counted.
_COMMON: Final = {
    "place": ("host_place", COMMON_HOSTS),
    "address": ("service_address", 1),
    "network": ("service_network", 1),
    "fingerprint": ("host_fingerprint", 1),
    "user_agent": ("host_user_agent", 1),
}
# Where the baseline shows none of these, nothing can be told to be new.
_MAY_LACK: Final = ("fingerprint", "user_agent")
_SAID: Final = {
    "place": "both sent to {}",
    "address": "both sent to the address {}",
    "network": "both sent into the network {}",
    "fingerprint": "both show the client fingerprint {}",
    "user_agent": "both show the user agent {}",
    "indicator": "both meet the indicator {}",
}
_NEW: Final = {
    "address": ", which the baseline does not know",
    "network": ", which the baseline does not know",
    "fingerprint": ", which no host of the baseline showed",
    "user_agent": ", which no host of the baseline showed",
}
_HOUR_US: Final = 3_600_000_000

# Flows of each case that shows a name.
Shown = Mapping[int, tuple[Hashable, ...]]


@dataclass(frozen=True)
class Told:
    """Cases in order of their rank, and what links are found in.

    Attributes
    ----------
    names, hosts
        Of each case.
    flows
        Labels of the flows of each case.
    first, last
        int64, shape (n_cases,): microseconds since 1970.
    shown
        By kind of link and by name, which cases show it. Names that only one case shows,
        or that are common, are left out.
    users
        How many hosts of the baseline used a place.
    forwards
        bool, shape (n_cases,): others send through the local host.
    relayed
        Facts by the two cases that show the same transfers.
    """

    names: tuple[str, ...]
    hosts: tuple[str, ...]
    flows: tuple[tuple[Hashable, ...], ...]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    shown: Mapping[str, Mapping[str, Shown]]
    users: Mapping[str, int]
    forwards: NDArray[np.bool_]
    relayed: Mapping[tuple[int, int], Fact]

    @classmethod
    def of(
        cls,
        cases: Sequence[Case],
        flows: Traffic,
        of_case: NDArray[np.int64],
        baseline: Baseline | None,
        policy: Policy | None,
    ) -> Told:
        """Look for names that several cases show.

        Parameters
        ----------
        cases
            In order of their rank.
        flows, of_case
            All flows of the cases, and which case each belongs to.
        baseline, policy
            As in `exfilml.triage._incidents.incidents`.
        """
        hosts = tuple(str(case.row["local_ip"]) for case in cases)
        forwarding = (set(flows.through) - {""}) | _declared(hosts, policy)
        remote = flows.remote.copy()
        remote[~flows.outside] = None
        networks = {text: network_of(text) for text in set(remote) - {None}}
        columns = {
            "place": flows.place,
            "address": remote,
            "network": np.array([networks.get(text) for text in remote], dtype=object),
            "fingerprint": flows.fingerprint,
            "user_agent": flows.user_agent,
        }
        shown: dict[str, dict[str, Shown]] = {}
        users: dict[str, int] = {}
        inside = set(flows.local) | forwarding
        for kind, column in columns.items():
            found = _several(column, of_case, flows)
            told = [n for n in found if n not in inside]
            if kind in _MAY_LACK:
                told = [n for n in told if _of_few({hosts[c] for c in found[n]})]
            rare = _rare(kind, told, baseline)
            shown[kind] = {name: found[name] for name in rare}
            if kind == "place":
                users = rare
        shown["indicator"] = _indicators(cases)
        first = np.full(len(cases), np.iinfo(np.int64).max)
        last = np.full(len(cases), np.iinfo(np.int64).min)
        np.minimum.at(first, of_case, flows.start)
        np.maximum.at(last, of_case, flows.end)
        names = tuple(case.name for case in cases)
        forwards = np.array([host in forwarding for host in hosts])
        relayed = dict(_relayed(names, flows, of_case))
        labels = tuple(tuple(case.flows.index) for case in cases)
        return cls(names, hosts, labels, first, last, shown, users, forwards, relayed)

    def apart(self, one: Any, other: Any) -> Any:
        """Return how many microseconds lie between cases, 0 where they overlap."""
        later = np.maximum(self.first[one], self.first[other])
        return np.maximum(later - np.minimum(self.last[one], self.last[other]), 0)

    def pair(self, one: int, other: int) -> str:
        """Name two cases."""
        return f"{self.names[one]} and {self.names[other]}"

    def fact(self, kind: str, name: str, one: int, other: int) -> Fact:
        """Say what two cases have in common, of the kinds in `shown`."""
        hours = float(self.apart(one, other)) / _HOUR_US
        numbers: dict[str, Any] = {"apart_hours": hours}
        new = _NEW.get(kind, "")
        if kind == "place":
            numbers["baseline_hosts"] = self.users[name]
            new = f", which {_hosts(self.users[name])} of the baseline used"
        by = self.shown[kind][name]
        return Fact(
            f"link.{kind}",
            f"{self.pair(one, other)}: {_SAID[kind].format(name)}{new}; "
            f"{_hours(hours)}",
            numbers,
            (*by[one], *by[other]),
            "intel" if kind == "indicator" else "flows",
        )

    def host_fact(self, one: int, other: int) -> Fact:
        """Say that two cases are of the same host."""
        hours = float(self.apart(one, other)) / _HOUR_US
        return Fact(
            "link.host",
            f"{self.pair(one, other)}: both of {self.hosts[one]}; {_hours(hours)}",
            {"apart_hours": hours},
            (*self.flows[one], *self.flows[other]),
        )


def _hosts(n: int) -> str:
    return f"{n or 'no'} host{'' if n <= 1 else 's'}"


def _of_few(hosts: set[str]) -> bool:
    return len(hosts) <= MOST_CLIENT_HOSTS


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours apart" if hours else "at the same time"


def _declared(hosts: Sequence[str], policy: Policy | None) -> set[str]:
    """Return hosts that a policy says others send through."""
    if policy is None:
        return set()
    networks = (policy.proxies, policy.resolvers, policy.mail_relays, policy.nat)
    return {h for h in set(hosts) if any(n.covers(h) for n in networks)}


def _several(
    column: NDArray[np.object_], of_case: NDArray[np.int64], flows: Traffic
) -> dict[str, Shown]:
    """Return names that several cases show, with the flows that do."""
    rows = np.flatnonzero([text is not None for text in column])
    table = pd.DataFrame({"name": column[rows], "case": of_case[rows], "row": rows})
    counted = table.groupby("name")["case"].nunique()
    table = table[table["name"].isin(counted.index[counted > 1])]
    found: dict[str, dict[int, tuple[Hashable, ...]]] = defaultdict(dict)
    groups = table.groupby(["name", "case"], sort=True)["row"].indices
    at = table["row"].to_numpy()
    for key, mine in groups.items():
        name, case = cast("tuple[str, int]", key)
        found[name][int(case)] = flows.told(at[mine])
    return dict(found)


def _rare(kind: str, names: list[str], baseline: Baseline | None) -> dict[str, int]:
    """Return the names that are not common here, and how many use them."""
    if baseline is None or not names:
        return {}
    table, least = _COMMON[kind]
    known, counts = baseline.tables[table].by_second
    if not len(known):
        return {} if kind in _MAY_LACK else dict.fromkeys(names, 0)
    wanted = hash_names(pd.Series(names, dtype="str"))
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    users = np.where(known[at] == wanted, counts[at], 0).tolist()
    return {name: n for name, n in zip(names, users, strict=True) if n < least}


def _indicators(cases: Sequence[Case]) -> dict[str, Shown]:
    found: dict[str, dict[int, tuple[Hashable, ...]]] = defaultdict(dict)
    for row, case in enumerate(cases):
        if len(case.intel):
            # A network holds the servers of many: it says nothing of one event.
            single = case.intel[case.intel["kind"] != "network"]
            for indicator, rows in single.groupby("indicator", sort=True):
                found[str(indicator)][row] = tuple(rows.index)
    return {name: by for name, by in found.items() if len(by) > 1}


def _relayed(
    names: Sequence[str], flows: Traffic, of_case: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int], Fact]]:
    """Yield facts on cases that show the same transfers on two sides of a relay.

    What they share makes up `SIMILAR` of either: a proxy sends more than one host's.
    """
    doubles = Doubles.of(flows)
    seen = pd.DataFrame(
        {
            "transfer": doubles.transfer,
            "counts": doubles.counts,
            "case": of_case,
            "row": np.arange(len(flows)),
            "up": flows.up,
        }
    )
    seen = seen[seen["transfer"] >= 0]
    sums = seen.groupby(["transfer", "case", "counts"], as_index=False)["up"].sum()
    both = sums[~sums["counts"]].merge(
        sums[sums["counts"]], on="transfer", suffixes=("", "_counted")
    )
    both = both[both["case"] != both["case_counted"]]
    both["shared"] = both[["up", "up_counted"]].min(axis=1)
    pairs = both.groupby(["case", "case_counted"], as_index=False)["shared"].sum()
    total = np.bincount(of_case, flows.up)
    larger = np.maximum(total[pairs["case"]], total[pairs["case_counted"]])
    pairs = pairs[(pairs["shared"] >= SIMILAR * larger).to_numpy()]
    relay = np.where(flows.through == "", flows.local, flows.through)
    columns = (pairs[name].tolist() for name in ("case", "case_counted", "shared"))
    for case, counted, shared in zip(*columns, strict=True):
        one, other = min(case, counted), max(case, counted)
        mine = both[(both["case"] == case) & (both["case_counted"] == counted)]
        rows = seen["row"][
            seen["transfer"].isin(mine["transfer"]) & seen["case"].isin((case, counted))
        ].to_numpy()
        yield (
            (one, other),
            Fact(
                "link.relay",
                f"{names[one]} and {names[other]}: {human_bytes(shared)} to "
                f"{flows.place[rows[0]]} seen on both sides of {relay[rows[0]]}",
                {"shared_bytes": int(shared), "flows": len(rows)},
                flows.told(rows),
            ),
        )
