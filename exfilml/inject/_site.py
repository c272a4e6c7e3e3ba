"""What has to be known of a site to plant into its flows."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import FlowsError
from exfilml.inject._carriers import ICMP, ICMP6, Carrier
from exfilml.places import orient, parse_networks
from exfilml.schema import validate_flows

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABEL: Final = "exfil"
DAY_US: Final = 86_400_000_000


@dataclass(frozen=True)
class Site:
    """What has to be known of a site to plant into its flows.

    Attributes
    ----------
    hosts
        Local addresses that send to the outside.
    windows
        For each host the days on which it does: first and last start, in µs since
        1970, int64 of shape (n_days, 2).
    used
        For each (protocol, port) what it leads to: columns ``remote_ip server_name
        fingerprint n inside``.
    addresses
        All remote addresses.
    networks
        /24 and /48 networks of all remote addresses.
    places
        All places in the table.
    named
        Whether the table shows host names at all.
    home
        Home networks.
    """

    hosts: tuple[str, ...]
    windows: tuple[NDArray[np.int64], ...]
    used: Mapping[tuple[int, int], pd.DataFrame]
    addresses: frozenset[str]
    networks: frozenset[str]
    places: frozenset[str]
    named: bool
    home: tuple[str, ...]

    @classmethod
    def of(cls, flows: pd.DataFrame, home: Iterable[str] | str | None = None) -> Site:
        """Survey a flows table.

        Flows that are labelled ``exfil`` teach neither places nor hours.

        Raises
        ------
        FlowsError
            If there are no flows, or none leaves the site.
        OptionError
            If home networks are none.
        """
        networks = parse_networks(home)
        flows = validate_flows(flows)
        if len(flows) == 0:
            raise FlowsError(
                "There are no flows to plant into: expected a table of the site's own "
                "traffic, a day or more of it."
            )
        oriented = orient(flows, networks)
        way = oriented.names("direction")
        outside = way.each(lambda text: text == "outbound", missing=False)
        inside = way.each(lambda text: text == "internal", missing=False)
        stolen = (flows["label"] == LABEL).to_numpy(dtype=bool, na_value=False)
        outside &= oriented.leaves & ~stolen
        if not outside.any():
            raise FlowsError(
                f"None of {len(flows):,} flows goes from a home network "
                f"({', '.join(networks)}) to the outside, so that no host can be said "
                "to upload anything. Give the site's networks with `home`."
            )
        start = flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
        table = pd.DataFrame(
            {
                "host": oriented.names("local_ip").series(flows.index),
                "day": start // DAY_US,
                "start": start,
            }
        )[outside]
        days = table.groupby(["host", "day"], sort=True)["start"].agg(["min", "max"])
        windows = {str(h): g.to_numpy() for h, g in days.groupby(level="host")}
        leads = (outside | (inside & oriented.leaves)) & ~stolen
        used = pd.DataFrame(
            {
                "protocol": flows["protocol"],
                "dst_port": flows["dst_port"],
                "remote_ip": oriented.names("remote_ip").series(flows.index),
                "server_name": flows["server_name"],
                "fingerprint": flows["fingerprint"],
                "inside": inside,
            }
        )[leads]
        # How often each is used, without a row for every flow.
        counted = used.groupby(list(used.columns), dropna=False).size()
        leading = counted.rename("n").reset_index()
        return cls(
            hosts=tuple(windows),
            windows=tuple(windows.values()),
            used={
                (int(rows["protocol"].iloc[0]), int(rows["dst_port"].iloc[0])): rows
                for _, rows in leading.groupby(["protocol", "dst_port"])
            },
            addresses=frozenset(filter(None, oriented.names("remote_ip").texts)),
            networks=frozenset(filter(None, oriented.names("network").texts)),
            places=frozenset(filter(None, oriented.names("place").texts)),
            named=bool(flows["server_name"].notna().any()),
            home=networks,
        )

    def leads_to(self, carrier: Carrier, *, six: bool) -> pd.DataFrame | None:
        """Return where the site's flows to the carrier's ports go, or `None`."""
        protocol = ICMP6 if six and carrier.protocol == ICMP else carrier.protocol
        if carrier.name == "ftp":
            keys = [(protocol, 21)]
        elif carrier.unused:
            return None
        else:
            keys = [k for k in self.used if k[0] == protocol and k[1] in carrier.ports]
        rows = [self.used[key] for key in keys if key in self.used]
        if not rows:
            return None
        found = pd.concat(rows, ignore_index=True)
        fits = (found["remote_ip"].str.contains(":") == six).to_numpy()
        # Names may be asked of the site's own resolver; all else leaves the site.
        if carrier.name != "dns":
            fits = fits & ~found["inside"].to_numpy()
            if carrier.named and self.named:
                fits = fits & found["server_name"].notna().to_numpy()
        return found[fits] if fits.any() else None

    def leads_out(self, *, six: bool) -> pd.DataFrame | None:
        """Return where the site's flows to the outside go, whatever the port."""
        rows = pd.concat(self.used.values(), ignore_index=True)
        fits = (rows["remote_ip"].str.contains(":") == six) & ~rows["inside"]
        return rows[fits] if fits.any() else None


def reserved_networks(
    *, six: bool
) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Yield networks that no one has: documentation and benchmarks."""
    if six:
        yield from (ipaddress.ip_network(f"2001:db8:{i:x}::/48") for i in range(512))
        return
    yield from ipaddress.ip_network("198.18.0.0/15").subnets(new_prefix=24)
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"):
        yield ipaddress.ip_network(text)
