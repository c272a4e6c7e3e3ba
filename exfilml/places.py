"""What an address, a name or a port is: local or remote, which place, which service.

Everything here is a pure function of the flows table and the home networks.
`orient` turns initiator and responder into local and remote, and bytes sent by each
into *up* (leaving the site) and *down*: exfiltration is an upload whoever opened the
connection.

A *place* is where data goes as an analyst would name it. For names it is the
registered domain by the Public Suffix List (one label below a public suffix, private
suffixes such as cloud storage buckets included), so that ``cdn7.example.net`` and
``cdn8.example.net`` are one place; without a name it is the remote address.

A *service* is the name that IANA registered for the responder's port, else
``tcp/8443``; all unregistered ports from 32768 on, where operating systems take
their ephemeral ports, are one service, because such numbers carry no meaning.

One file because `orient` asks all of it of every flow.
"""

from __future__ import annotations

import functools
import importlib.resources
import ipaddress
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import OptionError
from exfilml.schema import PAYLOAD_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIRECTIONS: Final = ("outbound", "inbound", "internal", "external", "unknown")

# RFC 1918, RFC 4193 (unique local), RFC 3927 and RFC 4291 (link-local).
PRIVATE_NETWORKS: Final = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
)

EPHEMERAL_FROM: Final = 32768
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
# IANA protocol numbers that have no ports; their flows are named by the number.
_PORTLESS: Final = {1: "icmp", 2: "igmp", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6"}

# Kinds of address, in the code that `_address_kind` gives.
_LOCAL, _REMOTE, _GROUP, _LOOPBACK, _NOWHERE = range(5)

_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(home: Iterable[str] | str | None) -> tuple[str, ...]:
    """Check home networks and return them in canonical form.

    Parameters
    ----------
    home
        Networks in CIDR notation or single addresses; `None` for
        `PRIVATE_NETWORKS`.

    Raises
    ------
    OptionError
        If one of them is no network.
    """
    if home is None:
        return PRIVATE_NETWORKS
    texts = [home] if isinstance(home, str) else list(home)
    if not texts:
        raise OptionError(
            "home networks: got an empty list, expected networks such as "
            "10.0.0.0/8; leave the option out for the private networks."
        )
    networks = []
    for text in texts:
        try:
            networks.append(str(ipaddress.ip_network(text, strict=False)))
        except ValueError as error:
            raise OptionError(
                f"home network {text!r}: {error}; expected CIDR notation such as "
                "10.0.0.0/8 or 2001:db8::/32."
            ) from error
    return tuple(networks)


def _distinct(
    values: pd.Series, function: Callable[[str], object], dtype: str
) -> NDArray[np.generic]:
    """Apply a function once to each distinct text; missing values stay missing."""
    codes, distinct = pd.factorize(values, use_na_sentinel=True)
    results = np.empty(len(distinct) + 1, dtype=object)
    results[:-1] = [function(str(v)) for v in distinct]
    results[-1] = None if dtype == "object" else 0
    taken: NDArray[np.generic] = results.astype(dtype)[codes]
    return taken


def _address_kind(addresses: pd.Series, home: tuple[str, ...]) -> NDArray[np.int64]:
    networks = [ipaddress.ip_network(n) for n in home]
    # The all-hosts address of a home network is a broadcast, not a place.
    broadcasts: set[_IpAddress] = {ipaddress.ip_address("255.255.255.255")}
    broadcasts |= {
        n.broadcast_address for n in networks if n.version == 4 and n.prefixlen < 31
    }

    def kind(text: str) -> int:
        address = ipaddress.ip_address(text)
        if address.is_multicast or address in broadcasts:
            return _GROUP
        if address.is_loopback:
            return _LOOPBACK
        if address.is_unspecified:
            return _NOWHERE
        return _LOCAL if any(_within(address, n) for n in networks) else _REMOTE

    return _distinct(addresses, kind, "int64")  # type: ignore[return-value]


def _within(address: _IpAddress, network: _IpNetwork) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address) in network


def remote_network(addresses: pd.Series) -> NDArray[np.object_]:
    """Return the /24 (IPv4) or /48 (IPv6) of each address, as text."""

    def network(text: str) -> str:
        prefix = 24 if ipaddress.ip_address(text).version == 4 else 48
        return str(ipaddress.ip_network((text, prefix), strict=False))

    return _distinct(addresses, network, "object")  # type: ignore[return-value]


@functools.cache
def _suffix_list() -> Callable[[str], str | None]:
    from publicsuffixlist import PublicSuffixList

    find: Callable[[str], str | None] = PublicSuffixList().privatesuffix
    return find


def registered_domain(names: pd.Series) -> NDArray[np.object_]:
    """Return the registered domain of each host name, else the name itself.

    Addresses given as names, and missing names, give `None`.
    """
    find = _suffix_list()

    def domain(text: str) -> str | None:
        name = text.strip().rstrip(".").lower()
        host = name.rsplit(":", 1)[0] if name.count(":") == 1 else name
        if not host:
            return None
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return find(host) or host
        return None

    return _distinct(names, domain, "object")  # type: ignore[return-value]


@functools.cache
def iana_services() -> dict[tuple[int, int], str]:
    """Return the shipped registry: (IANA protocol number, port) to service name."""
    text = importlib.resources.files("exfilml").joinpath("data/iana_services.csv")
    with text.open(encoding="ascii") as lines:
        rows = [line.strip().split(",") for line in lines if not line.startswith("#")]
    number = {"tcp": 6, "udp": 17}
    return {(number[proto], int(port)): name for port, proto, name in rows[1:]}


def service(flows: pd.DataFrame) -> NDArray[np.object_]:
    """Name the service of each flow from protocol, responder port and application.

    FTP data connections are one service whatever their port, where the application
    is known.
    """
    key = flows["protocol"].to_numpy() * 65536 + flows["dst_port"].to_numpy()
    codes, distinct = pd.factorize(key)
    named = np.array([_service_name(int(k) >> 16, int(k) & 65535) for k in distinct])
    names: NDArray[np.object_] = named.astype(object)[codes]
    names[(flows["app"] == "FTP_DATA").to_numpy(dtype=bool, na_value=False)] = (
        "ftp-data"
    )
    return names


def _service_name(protocol: int, port: int) -> str:
    if protocol in _PORTLESS:
        return _PORTLESS[protocol]
    registered = iana_services().get((protocol, port))
    if registered:
        return registered if protocol == 6 else f"{registered}/udp"
    name = _PROTOCOLS.get(protocol, f"ip-{protocol}")
    if protocol not in _PROTOCOLS:
        return name
    return f"{name}/high" if port >= EPHEMERAL_FROM else f"{name}/{port}"


def is_registered(services: pd.Series) -> NDArray[np.bool_]:
    """Say whether IANA registered the port behind each name that `service` gave."""
    return _distinct(
        services, lambda name: "/" not in name.removesuffix("/udp"), "bool"
    )  # type: ignore[return-value]


def orient(flows: pd.DataFrame, home: tuple[str, ...]) -> pd.DataFrame:
    """Turn initiator and responder into local and remote, sent bytes into up and down.

    With neither or both ends local, up means initiator to responder. Multicast,
    broadcast and loopback destinations never leave the site: ``internal``, named in
    ``place``.

    Parameters
    ----------
    flows
        A validated flows table.
    home
        As `parse_networks` gives it.

    Returns
    -------
    pandas.DataFrame
        Index of `flows`; ``start``, ``duration_s``, ``direction``, ``local_ip``,
        ``remote_ip``, ``network``, ``leaves`` (bool: not to a group, a broadcast or
        loopback address), ``place``, ``service``, ``app``,
        ``app_verified``, ``conn_state``, ``up_bytes``, ``down_bytes`` (int64, IP
        bytes), ``up_volume``, ``down_volume`` (float64, see `_volume`) and each
        payload column as ``up_…`` and ``down_…``.
    """
    src = _address_kind(flows["src_ip"], home)
    dst = _address_kind(flows["dst_ip"], home)
    src_home = (src == _LOCAL) | (src == _LOOPBACK)
    dst_home = (dst == _LOCAL) | (dst == _LOOPBACK) | (dst == _GROUP)
    nowhere = (src == _NOWHERE) | (dst == _NOWHERE)
    direction = np.select(
        [nowhere, src_home & dst_home, src_home, dst_home],
        ["unknown", "internal", "outbound", "inbound"],
        default="external",
    ).astype(object)
    flipped = (direction == "inbound") & (dst != _GROUP)
    remote_kind = np.where(flipped, src, dst)

    def pick(a: str, b: str) -> pd.Series:
        return flows[a].where(~flipped, flows[b])

    remote_ip = pick("dst_ip", "src_ip")
    oriented = {
        "start": flows["start"],
        "duration_s": flows["duration_s"],
        "direction": pd.Series(direction, index=flows.index),
        "local_ip": pick("src_ip", "dst_ip"),
        "remote_ip": remote_ip,
        "network": pd.Series(remote_network(remote_ip), index=flows.index),
        "leaves": pd.Series(
            (remote_kind != _GROUP) & (remote_kind != _LOOPBACK), index=flows.index
        ),
        "place": _place(flows, remote_ip, remote_kind),
        "service": pd.Series(service(flows), index=flows.index),
        "app": flows["app"],
        "app_verified": flows["app_verified"],
        "conn_state": flows["conn_state"],
        "up_bytes": pick("src_bytes", "dst_bytes"),
        "down_bytes": pick("dst_bytes", "src_bytes"),
    }
    for name in PAYLOAD_COLUMNS:
        oriented[f"up_{name}"] = pick(f"src_{name}", f"dst_{name}")
        oriented[f"down_{name}"] = pick(f"dst_{name}", f"src_{name}")
    for way, a, b in (("up", "src", "dst"), ("down", "dst", "src")):
        oriented[f"{way}_volume"] = _volume(
            oriented[f"{way}_bytes"],
            pick(f"{a}_packets", f"{b}_packets"),
            oriented[f"{way}_payload_bytes"],
            flows,
        )
    return pd.DataFrame(oriented, index=flows.index, copy=False)


def _volume(
    ip_bytes: pd.Series, packets: pd.Series, payload: pd.Series, flows: pd.DataFrame
) -> pd.Series:
    """Return payload bytes, or the best estimate of them from what is visible.

    Without payload columns the headers of the counted packets are taken off (TCP 52
    bytes with the timestamp option that all current systems send, otherwise 28; 20
    more for IPv6), because the acknowledgements of a large download would otherwise
    read as an upload of 2 % of its size. Without packet counts IP bytes stand.
    """
    header = np.where(flows["protocol"] == 6, 52.0, 28.0)
    header += np.where(flows["src_ip"].str.contains(":", regex=False), 20.0, 0.0)
    counted = packets.to_numpy(dtype="float64", na_value=0.0)
    estimate = np.maximum(ip_bytes.to_numpy(dtype="float64") - header * counted, 0.0)
    seen = payload.to_numpy(dtype="float64", na_value=np.nan)
    return pd.Series(np.where(np.isnan(seen), estimate, seen), index=flows.index)


def _place(
    flows: pd.DataFrame, remote_ip: pd.Series, kind: NDArray[np.int64]
) -> pd.Series:
    place = registered_domain(flows["server_name"])
    unnamed = pd.isna(place)
    place[unnamed] = remote_ip.to_numpy(dtype=object)[unnamed]
    for code, word in ((_GROUP, "multicast"), (_LOOPBACK, "loopback")):
        where = kind == code
        place[where] = [f"{word} {a}" for a in remote_ip[where]]
    broadcast = (kind == _GROUP) & remote_ip.str.endswith(".255").to_numpy(dtype=bool)
    place[broadcast] = [f"broadcast {a}" for a in remote_ip[broadcast]]
    return pd.Series(place, index=flows.index)
