"""Who else used the addresses of some cases, in the flows that were triaged.

A case knows its own flows only. That twelve other hosts reach other names at the same
address, which is then a CDN or a shared host, stands in the others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from exfilml.containment._names import canonical
from exfilml.containment._sharing import MANY_HOSTS
from exfilml.places import orient
from exfilml.schema import validate_flows
from exfilml.triage.case import LEVELS, Case


@dataclass(frozen=True)
class Neighbours:
    """Other uses of addresses.

    Attributes
    ----------
    uses
        By address: DataFrame ``local_ip``, ``place``, each pair once, without what
        belongs to cases that go to L1 or higher: a second victim is no reason not to
        block.
    are_known
        Whether the flows were given.
    """

    uses: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    are_known: bool = False

    @classmethod
    def of(
        cls, flows: pd.DataFrame, home: tuple[str, ...], cases: Iterable[Case]
    ) -> Neighbours:
        """Look for the addresses of cases in all flows."""
        found = list(cases)
        wanted = {a for case in found for a in case.flows["remote_ip"].dropna()}
        table = validate_flows(flows)
        there = table["src_ip"].isin(wanted) | table["dst_ip"].isin(wanted)
        oriented = orient(table[there.to_numpy()], home)
        rows = oriented[["local_ip", "remote_ip", "place", "direction"]]
        # Whom a remote side reached by itself does not need it.
        rows = rows[(rows["direction"] != "inbound").to_numpy(dtype=bool)]
        rows = rows[["local_ip", "remote_ip", "place"]].drop_duplicates()
        serious = [
            case.flows[["local_ip", "remote_ip"]]
            for case in found
            if LEVELS.index(case.decision.level) >= LEVELS.index("L1")
        ]
        if serious:
            pairs = pd.MultiIndex.from_frame(pd.concat(serious))
            keys = pd.MultiIndex.from_frame(rows[["local_ip", "remote_ip"]])
            rows = rows[~keys.isin(pairs)]
        rows = rows[rows["remote_ip"].isin(wanted)]
        uses = {canonical(str(a)): use for a, use in rows.groupby("remote_ip")}
        return cls(uses, are_known=True)

    def why_shared(self, address: str, case: Case) -> str:
        """Say why others need an address of a case; else empty."""
        rows = self._others(address, case)
        here = (rows["place"] == case.row["place"]).to_numpy(dtype=bool)
        names, elsewhere = rows["place"][~here], rows["local_ip"][~here]
        if names.nunique():
            hosts, places = elsewhere.nunique(), names.nunique()
            what = "another place" if places == 1 else f"{places:,} other places"
            verb = "reaches" if hosts == 1 else "reach"
            return f"{_hosts(hosts)} {verb} {what} there"
        hosts = rows["local_ip"].nunique()
        return f"{_hosts(hosts)} use it" if hosts >= MANY_HOSTS else ""

    def told(self, addresses: Iterable[str], case: Case) -> str:
        """Say how many other hosts used some addresses of a case."""
        if not self.are_known:
            return "who else uses its addresses was not asked (no flows given)"
        hosts: set[str] = set()
        for address in addresses:
            hosts.update(self._others(address, case)["local_ip"])
        return (
            f"{_hosts(len(hosts))} used its addresses in the flows at hand, "
            "beyond what other cases explain"
        )

    def _others(self, address: str, case: Case) -> pd.DataFrame:
        if address not in self.uses:
            return pd.DataFrame({"local_ip": [], "place": []}, dtype="str")
        rows = self.uses[address]
        return rows[~rows["local_ip"].isin(case.flows["local_ip"]).to_numpy()]


def _hosts(n: int) -> str:
    return "1 other host" if n == 1 else f"{n:,} other hosts"


NOT_ASKED: Final = Neighbours()
