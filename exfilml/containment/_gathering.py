"""What of a case can be contained: addresses, names, ports; and what cannot, and why.

Never a target are the site's own networks and what the policy declares (resolvers,
proxies, mail relays, translated addresses), a proxy that the flows went through, and
networks of special use: what is meant lies behind them. A name that was asked for there
still is one.

Nor is the resolver or the mail server that was given a name: the name is.

*Shared* is what others need: what the policy approves, a place that several other hosts
of the site used before, a web service (ATT&CK T1567), a network of a cloud or a CDN, a
host for the sites of others (`exfilml.containment._sharing`), an address where other
hosts reach other places (`exfilml.containment._neighbours`). It is left to alerts about
this one host, and never blocked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pandas as pd

from exfilml.containment._names import (
    canonical,
    host_or_address,
    is_address,
    why_many_owners,
    why_nobodys,
)
from exfilml.containment._neighbours import Neighbours
from exfilml.containment._ports import streams_of
from exfilml.containment._sharing import (
    others_told,
    why_address_is_shared,
    why_place_is_shared,
)
from exfilml.containment._site import Site
from exfilml.containment._targets import Target, Targets
from exfilml.domains import registered_domain
from exfilml.triage.case import Case

MOST_ADDRESSES: Final = 64
MOST_NAMES: Final = 20

# Of the hundred columns of a flow.
_ASKED: Final = (
    *(
        "start",
        "dst_port",
        "protocol",
        "server_name",
        "via",
        "src_domain",
        "dst_domain",
    ),
    *(
        "local_ip",
        "remote_ip",
        "place",
        "service",
        "direction",
        "up_bytes",
        "concealed",
    ),
)
_MAIL: Final = frozenset({"smtp", "submission", "submissions"})
_DNS: Final = "domain"


@dataclass
class _Gathered:
    """Targets of one case, while they are gathered."""

    site: Site
    proxies: set[str]
    shared_place: str
    found: dict[tuple[str, bool], Target] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, target: Target) -> None:
        shared = target.shared or self.site.why_approved(target.value)
        self.found[target.value, target.is_name] = replace(target, shared=shared)

    def why_own(self, address: str) -> str:
        if address in self.proxies:
            return "the proxy that the flows went through, never a target"
        return self.site.why_own(address)


def targets_of(case: Case, site: Site, neighbours: Neighbours) -> Targets:
    """Say what of a case can be contained."""
    flows = case.flows[list(_ASKED)].reset_index(drop=True)
    # A proxy is named by its log, whatever network it stands in.
    proxies = set(flows["via"].dropna().map(lambda via: via.removeprefix("proxy ")))
    shared = why_place_is_shared(case) or site.why_approved(str(case.row["place"]))
    gathered = _Gathered(site, proxies, shared)
    remote = flows["remote_ip"].map(canonical)
    is_own = remote.map(lambda address: bool(gathered.why_own(address)))
    _add_addresses(case, flows, remote, gathered, neighbours)
    _add_names(flows, gathered)
    found = tuple(sorted(gathered.found.values(), key=_order))
    others = others_told(case)
    addresses = [target.value for target in found if not target.is_name]
    if addresses:
        others += f"; {neighbours.told(addresses, case)}"
    return Targets(
        case=case,
        hosts=tuple(sorted(set(flows["local_ip"].dropna().map(canonical)))),
        found=found,
        streams=tuple(streams_of(flows, is_own)),
        left_out=tuple(gathered.left_out.items()),
        others=others,
    )


def _add_addresses(
    case: Case,
    flows: pd.DataFrame,
    remote: pd.Series,
    gathered: _Gathered,
    neighbours: Neighbours,
) -> None:
    shared = gathered.shared_place or why_address_is_shared(case)
    carries = flows["place"] != flows["remote_ip"]
    service = flows["service"].fillna("")
    relays = {
        "a resolver that was asked for the name: the name is the target": (
            carries & service.str.startswith(_DNS)
        ),
        "a mail server of the domain: the domain is the target": (
            carries & service.isin(_MAIL)
        ),
    }
    for address, rows in _largest(flows, remote, MOST_ADDRESSES, gathered):
        why = gathered.why_own(address)
        for reason, mask in relays.items():
            why = why or (reason if mask[rows.index].all() else "")
        if why:
            gathered.left_out[address] = why
        else:
            here = shared or neighbours.why_shared(address, case)
            gathered.add(_target(address, rows, shared=here))


def _order(target: Target) -> tuple[bool, int, str]:
    return target.is_name, -target.up_bytes, target.value


def _target(
    value: str,
    rows: pd.DataFrame,
    *,
    is_name: bool = False,
    below: bool = False,
    is_mail: bool = False,
    shared: str = "",
) -> Target:
    return Target(
        value=value,
        is_name=is_name,
        below=below,
        is_mail=is_mail,
        up_bytes=int(rows["up_bytes"].sum()),
        first=rows["start"].min(),
        last=rows["start"].max(),
        shared=shared,
    )


def _largest(
    flows: pd.DataFrame, key: pd.Series, most: int, gathered: _Gathered
) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Give the flows of each value of a key, the largest upload first, up to `most`."""
    sums = flows["up_bytes"].groupby(key).sum()
    order = sorted(sums.items(), key=lambda item: (-int(item[1]), str(item[0])))
    for value, _ in order[:most]:
        yield value, flows[(key == value).to_numpy()]
    rest = len(order) - most
    if rest > 0:
        gathered.left_out[f"{rest:,} more"] = (
            f"of {len(order):,} destinations the {most} with the largest upload are "
            "drafted"
        )


def _add_names(flows: pd.DataFrame, gathered: _Gathered) -> None:
    """Add the names that were asked for."""
    service = flows["service"].fillna("")
    asked = flows["server_name"]
    is_dns = service.str.startswith(_DNS)
    # Below its registered domain a tunnel asks for a new name each time.
    asked = asked.where(~is_dns, asked.map(registered_domain, na_action="ignore"))
    carried = flows["src_domain"].where(
        flows["src_domain"].notna(), flows["dst_domain"]
    )
    asked = asked.where(asked.notna(), carried)
    known = asked.notna()
    if not known.any():
        return
    flows, asked, is_dns = flows[known], asked[known], is_dns[known]
    valid = asked.map(host_or_address)
    none = asked[valid.isna()].unique().tolist()
    for text in none[:MOST_NAMES]:
        gathered.left_out[text] = "no host name (RFC 1123)"
    if len(none) > MOST_NAMES:
        more = f"{len(none) - MOST_NAMES:,} more that were asked for"
        gathered.left_out[more] = "no host names (RFC 1123)"
    is_mail = service[known].isin(_MAIL)
    good = valid.notna()
    whole = valid[good]
    if whole.nunique() > MOST_NAMES:
        # So many names are generated: what is registered stands for them.
        whole = whole.map(lambda name: registered_domain(name) or name)
        is_dns[:] = True
    flows = flows[good]
    for name, rows in _largest(flows, whole, MOST_NAMES, gathered):
        is_name = not is_address(name)
        why = why_nobodys(name) if is_name else gathered.why_own(name)
        if why:
            gathered.left_out[name] = why
            continue
        if not is_name:
            if (name, False) not in gathered.found:
                gathered.add(_target(name, rows, shared=gathered.shared_place))
            continue
        gathered.add(
            _target(
                name,
                rows,
                is_name=True,
                below=bool(is_dns[rows.index].any()),
                is_mail=bool(is_mail[rows.index].all()),
                shared=why_many_owners(name) or gathered.shared_place,
            )
        )
