"""What an address, a name or a port is: local or remote, which place, which service.

Everything here is a pure function of the flows table and the home networks.
`orient` turns initiator and responder into local and remote, and bytes sent by each
into *up* (leaving the site) and *down*: exfiltration is an upload whoever opened the
connection. What a name is, is worked out once for each text; columns that scoring
does not need are made when they are asked for.

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
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np
import pandas as pd

from exfilml.domains import registered_domain
from exfilml.exceptions import OptionError
from exfilml.names import Names
from exfilml.schema import numbers
from exfilml.services import iana_services

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIRECTIONS: Final = ("outbound", "inbound", "internal", "external", "unknown")
_OUTBOUND, _INBOUND, _INTERNAL, _EXTERNAL, _UNKNOWN = range(5)

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

# Kinds of address.
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


# Of flows between public addresses, a network must be at one end of so many to be taken
# for the site's own, and all that are taken must be at one end of nearly all.
_LEAST_OWN: Final = 0.1
_ALL_OWN: Final = 0.9
_MOST_OWN: Final = 4


def infer_networks(flows: pd.DataFrame) -> tuple[str, ...]:
    """Return home networks as the flows of a baseline suggest them.

    `PRIVATE_NETWORKS`, unless most flows have no end there: then every flow of a site
    has an end in few networks. They are looked for among the /16 (IPv4) or /48 (IPv6),
    one after the other: that which opens most of the flows that are left, or where none
    opens a tenth, as before a farm of servers, that which answers most. If four do not
    explain nine flows of ten, nothing is inferred.

    Parameters
    ----------
    flows
        A validated flows table.
    """
    return PublicEnds.of(flows).networks()


@dataclass(frozen=True)
class PublicEnds:
    """Between which networks flows go that have no private end; such counts add up.

    Attributes
    ----------
    n_flows
        Flows, whatever their ends.
    pairs
        Flows without a private end by the /16 or /48 of initiator and responder.
    """

    n_flows: int = 0
    pairs: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, flows: pd.DataFrame) -> PublicEnds:
        """Count the ends of a validated flows table."""
        ends = [Names.of(flows[f"{side}_ip"]) for side in ("src", "dst")]
        kind = functools.cache(_Home.of(PRIVATE_NETWORKS).kind)
        outside = np.logical_and.reduce(
            [
                names.each(lambda text: kind(text) == _REMOTE, missing=False)
                for names in ends
            ]
        )
        if not outside.any():
            return cls(len(flows))
        blocks = [names[outside].map(_block).tolist() for names in ends]
        pairs = pd.DataFrame({"src": blocks[0], "dst": blocks[1]})
        counted = pairs.groupby(["src", "dst"]).size().reset_index(name="n")
        columns = (counted[name].tolist() for name in ("src", "dst", "n"))
        return cls(len(flows), {(a, b): n for a, b, n in zip(*columns, strict=True)})

    def merge(self, other: PublicEnds) -> PublicEnds:
        """Return the counts of both together."""
        pairs = dict(self.pairs)
        for pair, n in other.pairs.items():
            pairs[pair] = pairs.get(pair, 0) + n
        return PublicEnds(self.n_flows + other.n_flows, pairs)

    def networks(self) -> tuple[str, ...]:
        """Return the home networks that these ends suggest, see `infer_networks`."""
        total = sum(self.pairs.values())
        if self.n_flows == 0 or total < 0.5 * self.n_flows:
            return PRIVATE_NETWORKS
        left = pd.DataFrame(
            [(*pair, n) for pair, n in self.pairs.items()], columns=["src", "dst", "n"]
        )
        own: list[str] = []
        for _ in range(_MOST_OWN):
            found = (left.groupby(side)["n"].sum() for side in ("src", "dst"))
            most = next(
                (n for n in found if len(n) and n.max() >= _LEAST_OWN * total), None
            )
            if most is None:
                break
            # The first by name of those with as many: in whatever order flows came.
            own.append(str(most.idxmax()))
            left = left[(left["src"] != own[-1]) & (left["dst"] != own[-1])]
        explained = 1.0 - left["n"].sum() / total
        return (*PRIVATE_NETWORKS, *own) if explained >= _ALL_OWN else PRIVATE_NETWORKS


def _block(text: str) -> str:
    if ":" not in text:
        return ".".join(text.split(".")[:2]) + ".0.0/16"
    return str(ipaddress.ip_network((text, 48), strict=False))


@dataclass(frozen=True, slots=True)
class _Home:
    """Home networks, in the forms that addresses are compared with.

    Attributes
    ----------
    networks
        All of them.
    ranges
        First and last address of each of version 4, as numbers.
    broadcasts
        All-hosts addresses of those: a broadcast is not a place.
    """

    networks: tuple[_IpNetwork, ...]
    ranges: tuple[tuple[int, int], ...]
    broadcasts: frozenset[int]

    @classmethod
    @functools.lru_cache(maxsize=16)
    def of(cls, home: tuple[str, ...]) -> _Home:
        """Parse what `parse_networks` gave."""
        networks = tuple(ipaddress.ip_network(n) for n in home)
        four = [n for n in networks if n.version == 4]
        ranges = [(int(n.network_address), int(n.broadcast_address)) for n in four]
        everyone = {int(n.broadcast_address) for n in four if n.prefixlen < 31}
        return cls(networks, tuple(ranges), frozenset({0xFFFFFFFF, *everyone}))

    def kind(self, text: str) -> int:
        """Say of what kind an address is."""
        try:
            # The operating system reads version 4, which most are, in a tenth of
            # the time that `ipaddress` takes.
            number = int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
        except OSError:
            return self._kind_of_six(ipaddress.ip_address(text))
        first = number >> 24
        if 224 <= first < 240 or number in self.broadcasts:
            return _GROUP
        if first == 127:
            return _LOOPBACK
        if number == 0:
            return _NOWHERE
        for low, high in self.ranges:
            if low <= number <= high:
                return _LOCAL
        return _REMOTE

    def _kind_of_six(self, address: _IpAddress) -> int:
        if address.is_multicast:
            return _GROUP
        if address.is_loopback:
            return _LOOPBACK
        if address.is_unspecified:
            return _NOWHERE
        plain = getattr(address, "ipv4_mapped", None) or address
        return _LOCAL if any(plain in n for n in self.networks) else _REMOTE


def network_of(text: str) -> str:
    """Return the /24 (IPv4) or /48 (IPv6) of an address, as text."""
    if ":" not in text:
        return text[: text.rindex(".")] + ".0/24"
    return str(ipaddress.ip_network((text, 48), strict=False))


def _service(flows: pd.DataFrame, app: Names) -> Names:
    """Name the service of each flow from protocol, responder port and application.

    FTP data connections are one service whatever their port, where the application
    is known.
    """
    key = flows["protocol"].to_numpy() * 65536 + flows["dst_port"].to_numpy()
    codes, distinct = pd.factorize(key)
    named = [service_name(k >> 16, k & 65535) for k in distinct.tolist()]
    is_data = app.each(lambda name: name == "FTP_DATA", missing=False)
    codes[is_data] = len(named)
    # STUN and the media behind it take the ports that both sides agree on (RFC 8445):
    # the port says nothing, the structure of the messages does.
    is_media = app.each(_is_media, missing=False) & (
        numbers(flows["app_verified"]) == 1.0
    )
    codes[is_media & (flows["protocol"].to_numpy() == 17)] = len(named) + 1
    return Names.one_of([*named, "ftp-data", "stun/udp"], codes)


def _is_media(app: str) -> bool:
    return app.partition(".")[0] in {"STUN", "RTP", "SRTP", "RTCP", "DTLS-SRTP"}


def service_name(protocol: int, port: int) -> str:
    """Name the service of an IANA protocol number and the responder's port."""
    if protocol in _PORTLESS:
        return _PORTLESS[protocol]
    registered = iana_services().get((protocol, port))
    if registered:
        return registered if protocol == 6 else f"{registered}/udp"
    name = _PROTOCOLS.get(protocol, f"ip-{protocol}")
    if protocol not in _PROTOCOLS:
        return name
    return f"{name}/high" if port >= EPHEMERAL_FROM else f"{name}/{port}"


def is_registered(name: str) -> bool:
    """Say whether IANA registered the port behind a name that `orient` gave."""
    return "/" not in name.removesuffix("/udp")


@dataclass(frozen=True, slots=True, eq=False)
class Oriented:
    """Flows with local and remote ends, up and down.

    Reads like the table it stands for: ``oriented["place"]`` is a column and
    ``oriented[["up_bytes", "down_bytes"]]`` a table.

    Attributes
    ----------
    flows
        The flows table.
    flipped
        bool, shape (n_flows,): the responder is the local end.
    named
        The columns of names.
    values
        The columns of numbers that every flow has.
    at
        Which rows of all these are meant; `None` for all.
    """

    flows: pd.DataFrame
    flipped: NDArray[np.bool_]
    named: Mapping[str, Names]
    values: Mapping[str, NDArray[Any]]
    at: Any = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def index(self) -> pd.Index:
        """Index of the flows."""
        return self.flows.index if self.at is None else self.flows.index[self.at]

    @property
    def leaves(self) -> NDArray[np.bool_]:
        """Whether each flow can leave the site, shape (n_flows,)."""
        leaves: NDArray[np.bool_] = self._mine(self.values["leaves"])
        return leaves

    def rows(self, at: Any) -> Oriented:
        """Return some of the rows; nothing is copied but what is asked of them."""
        if self.at is not None:
            at = np.arange(len(self.flows))[self.at][at]
        return replace(self, at=at)

    def names(self, column: str) -> Names:
        """Return a column of texts, each text once."""
        if column in self.named:
            named: Names = self._mine(self.named[column])
            return named
        mine, other = self._sides(column)
        names = Names.of(mine)
        return names if other is None else names.where(self._kept, Names.of(other))

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers as float64, NaN where missing."""
        if column in self.values:
            values: NDArray[np.float64] = self._mine(self.values[column])
            return values
        mine, other = self._sides(column)
        sent = numbers(mine)
        return sent if other is None else np.where(self._kept, sent, numbers(other))

    @overload
    def __getitem__(self, column: str) -> pd.Series: ...
    @overload
    def __getitem__(self, column: list[str]) -> pd.DataFrame: ...
    def __getitem__(self, column: str | list[str]) -> pd.Series | pd.DataFrame:
        """Return a column, or a table of several."""
        if isinstance(column, list):
            return pd.DataFrame({c: self[c] for c in column}, index=self.index)
        if column in self.named:
            return self.names(column).series(self.index)
        if column in self.values:
            return pd.Series(self._mine(self.values[column]), index=self.index)
        mine, other = self._sides(column)
        return mine if other is None else mine.where(self._kept, other)

    @property
    def _kept(self) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = ~self._mine(self.flipped)
        return kept

    def _mine(self, column: Any) -> Any:
        return column if self.at is None else column[self.at]

    def _sides(self, column: str) -> tuple[pd.Series, pd.Series | None]:
        """Return a column of the flows, and that of the other side where it counts."""
        way, _, rest = column.partition("_")
        if way not in _SIDES:
            return self._flows(column), None
        side, other = _SIDES[way]
        mine = self._flows(f"{side}_{rest}")
        return mine, self._flows(f"{other}_{rest}") if self.flipped.any() else None

    def _flows(self, column: str) -> pd.Series:
        series = self.flows[column]
        return series if self.at is None else series.iloc[self.at]


_SIDES: Final = {"up": ("src", "dst"), "down": ("dst", "src")}


def orient(flows: pd.DataFrame, home: tuple[str, ...]) -> Oriented:
    """Turn initiator and responder into local and remote, sent bytes into up and down.

    With neither or both ends local, up means initiator to responder. Multicast,
    broadcast and loopback destinations never leave the site: ``internal``, named in
    ``place``. What a proxy asked for on behalf of a local host (column ``via``, see
    `exfilml.sources`) goes out, also where the proxy's address is all that is known.

    Parameters
    ----------
    flows
        A validated flows table.
    home
        As `parse_networks` gives it.

    Returns
    -------
    Oriented
        Index of `flows`; ``direction``, ``local_ip``, ``remote_ip``, ``network``,
        ``place``, ``service``, ``leaves`` (bool: not to a group, a broadcast or
        loopback address), ``up_bytes``, ``down_bytes`` (int64, IP bytes),
        ``up_volume``, ``down_volume`` (float64, see `_volume`), each payload column
        as ``up_…`` and ``down_…``, and all columns of `flows`.
    """
    src, dst = Names.of(flows["src_ip"]), Names.of(flows["dst_ip"])
    kind = functools.cache(_Home.of(home).kind)
    src_kind = src.each(kind, missing=_NOWHERE)
    dst_kind = dst.each(kind, missing=_NOWHERE)
    src_home = (src_kind == _LOCAL) | (src_kind == _LOOPBACK)
    dst_home = (dst_kind == _LOCAL) | (dst_kind == _LOOPBACK) | (dst_kind == _GROUP)
    nowhere = (src_kind == _NOWHERE) | (dst_kind == _NOWHERE)
    direction = np.where(
        src_home,
        np.where(dst_home, _INTERNAL, _OUTBOUND),
        np.where(dst_home, _INBOUND, _EXTERNAL),
    )
    direction[nowhere] = _UNKNOWN
    direction[src_home & _asked_of_proxy(flows, dst_kind)] = _OUTBOUND
    flipped = (direction == _INBOUND) & (dst_kind != _GROUP)
    remote_kind = np.where(flipped, src_kind, dst_kind)
    leaves = (remote_kind != _GROUP) & (remote_kind != _LOOPBACK)
    remote_ip = dst.where(~flipped, src)
    app = Names.of(flows["app"])
    named = Names.of(flows["server_name"])
    # Rulers of a banner, such as "220---------- Welcome", are no name.
    said = named.each(lambda text: any(map(str.isalnum, text)), missing=False)
    domain = named.map(registered_domain)
    address = remote_ip.map(lambda text: _address_name(text, kind(text)))
    oriented = Oriented(
        flows,
        flipped,
        {
            "direction": Names.one_of(list(DIRECTIONS), direction),
            "local_ip": src.where(~flipped, dst),
            "remote_ip": remote_ip,
            "network": remote_ip.map(network_of),
            "subnet": src.where(~flipped, dst).map(network_of),
            "conduct": Names.of(flows["conn_state"]),
            "speaker": _speaker(flows, flipped),
            "place": domain.where(said & ~domain.missing & leaves, address),
            "service": _service(flows, app),
            "app": app,
        },
        {"leaves": leaves},
    )
    header = np.where(flows["protocol"].to_numpy() == 6, 52.0, 28.0)
    header += src.each(lambda text: 20.0 if ":" in text else 0.0, missing=0.0)
    volumes = {f"{way}_volume": _volume(oriented, way, header) for way in _SIDES}
    return replace(oriented, values={**oriented.values, **volumes})


def _asked_of_proxy(
    flows: pd.DataFrame, dst_kind: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say which flows a proxy logged with its own address, or none, as responder.

    What it asked for lies elsewhere, whichever address stands for it.
    """
    logged: NDArray[np.bool_] = ~flows["via"].array.isna()
    rows = np.flatnonzero(logged)
    if len(rows):
        ends = flows[["via", "dst_ip"]].iloc[rows]
        itself = (ends["via"] == "proxy " + ends["dst_ip"]).to_numpy(dtype=bool)
        logged[rows] = itself | (dst_kind[rows] == _NOWHERE)
    return logged


def _speaker(flows: pd.DataFrame, flipped: NDArray[np.bool_]) -> Names:
    """Name the side whose payload came first, ``local`` or ``remote``."""
    speaker = Names.of(flows["first_speaker"])
    by_local = speaker.each(lambda who: who == "src", missing=False) != flipped
    codes = np.where(speaker.missing, -1, by_local.astype(np.int64))
    return Names.one_of(["remote", "local"], codes)


# Whose server speaks first: FTP (RFC 959), SSH (RFC 4253), telnet (RFC 854), SMTP
# (RFC 5321), POP3 (RFC 1939), IMAP (RFC 9051), NNTP (RFC 3977), MySQL, VNC (RFC 6143).
GREETING: Final = frozenset(
    {
        *("ftp", "ssh", "telnet", "smtp", "submission", "pop3", "imap2", "nntp"),
        *("mysql", "tcp/5900"),
    }
)
# Nobody answers these: syslog (RFC 5426), traps of SNMP (RFC 3416), IPFIX and NetFlow
# (RFC 7011), sFlow (RFC 3176), StatsD.
ONE_WAY: Final = frozenset(
    {"syslog/udp", "snmp-trap/udp", "udp/2055", "udp/4739", "udp/6343", "udp/8125"}
)

# Hosts of a site answer for these by asking others in turn: resolvers, mail relays,
# web and SOCKS proxies.
RELAYING: Final = frozenset(
    {
        *("domain", "domain/udp", "domain-s", "domain-s/udp"),
        *("smtp", "submission", "submissions"),
        *("tcp/3128", "http-alt", "socks"),
    }
)
# Names in these say who speaks, or who is looked for on the same link: nothing lies
# behind the address that they are sent to (RFC 1001, RFC 4795, RFC 6762).
LINK_ONLY: Final = frozenset(
    {"netbios-ns/udp", "netbios-dgm/udp", "llmnr/udp", "mdns/udp"}
)


def stays_inside(oriented: Oriented) -> NDArray[np.bool_]:
    """Say which flows end at a host of the site, shape (n_flows,).

    Not those whose place lies behind that host (a name asked of the site's resolver, a
    host reached through its proxy, a mail domain through its relay), nor those over
    services that such hosts relay, where the source does not show the place. Names of
    NetBIOS and its like are no such places.
    """
    internal = oriented.names("direction").each(
        lambda way: way == "internal", missing=False
    )
    place, remote = oriented.names("place"), oriented.names("remote_ip")
    # Judged once for each pair, however many flows.
    at, pairs = pd.factorize(place.codes * (len(remote.texts) + 1) + remote.codes + 1)
    there = np.array(
        [
            place.texts[p // (len(remote.texts) + 1)]
            == remote.texts[p % (len(remote.texts) + 1) - 1]
            for p in pairs.tolist()
        ],
        dtype=bool,
    )
    service = oriented.names("service")
    relays = service.each(lambda s: s in RELAYING, missing=False)
    on_link = service.each(lambda s: s in LINK_ONLY, missing=False)
    inside: NDArray[np.bool_] = internal & (
        there[at] & ~relays | ~oriented.leaves | on_link
    )
    return inside


def _volume(
    oriented: Oriented, way: str, header: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return payload bytes, or the best estimate of them from what is visible.

    Without payload columns the headers of the counted packets are taken off (TCP 52
    bytes with the timestamp option that all current systems send, otherwise 28; 20
    more for IPv6), because the acknowledgements of a large download would otherwise
    read as an upload of 2 % of its size. Without packet counts IP bytes stand.
    """
    seen = oriented.numbers(f"{way}_payload_bytes")
    unseen = np.isnan(seen)
    if unseen.any():
        packets = np.nan_to_num(oriented.numbers(f"{way}_packets"))
        estimate = oriented.numbers(f"{way}_bytes") - header * packets
        seen = np.where(unseen, np.maximum(estimate, 0.0), seen)
    return seen


def _address_name(text: str, kind: int) -> str:
    """Name an address as a place."""
    if kind == _LOOPBACK:
        return f"loopback {text}"
    if kind == _GROUP:
        return f"{'broadcast' if text.endswith('.255') else 'multicast'} {text}"
    return text
