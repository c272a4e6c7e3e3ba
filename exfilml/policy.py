"""Policy: what a site declares about itself, in a TOML file that is checked strictly.

.. code-block:: toml

    # Whatever stands above the first table. All of it may be left out.
    home = ["10.20.0.0/16"]          # home networks: before the model's
    nat = ["10.20.0.1"]              # one address, many hosts: reasons say so
    resolvers = ["10.20.0.53"]       # DNS goes through these
    proxies = ["10.20.0.80"]         # the web is reached through these
    mail_relays = ["10.20.0.25"]     # mail leaves through these

    [[segment]]                      # what may leave a network; the first that holds
    name = "finance"                 # a host counts
    network = "10.20.3.0/24"
    services = ["https", "domain"]

    [[approve]]
    network = "198.18.11.222"        # or place = "coldvault.example", or both
    service = "ssh"                  # left out: any
    host = "10.20.2.22"              # left out: any
    payload = "ssh"
    max_upload_per_day = "6 GB"
    reason = "nightly backup"
    owner = "dev team"
    expires = 2027-01-01

Where several things may stand, one text does for a list of one.

**Networks** are in CIDR notation, or single addresses. **Services** are named as in
the ranking, after the IANA registry: ``https``, ``tcp/8443``, ``tcp/high``,
``icmp``. A registered name stands for both transports; ``domain/udp`` and
``domain/tcp`` for one; ``udp/53`` is that service whatever its name. **Places** are
registered domains (``example.net``, all that lies below it included) or names below
one (``backup.example.net``, and what lies below that). A name in a packet is its
sender's claim: where the addresses stand still, give ``network`` too, and both must
hold.

**Approvals** say what may go on without an alert, who answers for it and how long.
All of destination, reason, owner, expiry and both ceilings are required, because an
approval never hides a change: it covers a case only while *every* flow of the case is
one that the local side opened, to the destination, over the service and from the host
named; the last of them ended on the day ``expires`` or before (UTC); on no UTC day
does that host send more than ``max_upload_per_day`` to all that the approval names;
and each upload looks as ``payload`` says. Otherwise it re-arms, and the reasons say
why, with numbers. Uploads are counted as in the reasons: payload, where its size is
known. Sizes are bytes (``6_000_000_000``) or texts (``"6 GB"``, ``"512 MiB"``).

**Payload classes** are handshakes (``tls``, ``ssh``, ``quic``, ``openvpn`` …: the
content is encrypted as it should be), ``opaque`` (concealed, and no handshake explains
it), ``compressed``, ``plain`` (text or known structure), ``unknown`` (too little to
tell) and ``unseen`` (the source shows no payload, such as netflow). A flow with less
than 32 payload bytes to judge is within all of them.

**Rules.** What leaves the site past a declared resolver, proxy or mail relay (MITRE
ATT&CK M1037), or over a service that its segment may not use (M1030), is evidence;
`exfilml.ruling` says how it counts. DNS is port 53 and 853 and verified DNS elsewhere;
the web is TCP and UDP port 80, 443, 8080 and 8443 and verified HTTP elsewhere; mail
is TCP port 25. The declared hosts may do themselves what is done through them, and
what goes to them is ranked with what leaves the site. DNS inside HTTPS is web traffic
here.

One file because the keys, their meaning and what is refused are read together.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Final, Self

from exfilml.declarations import Kind, Table, meant, quoted, read_toml
from exfilml.domains import registered_domain
from exfilml.exceptions import PolicyError
from exfilml.networks import NO_NETWORKS, Networks
from exfilml.places import service_name
from exfilml.services import iana_services

HANDSHAKES: Final = (
    *("tls", "dtls", "quic", "ssh", "rdp", "smb3", "stun", "rtp", "zrtp"),
    *("openvpn", "wireguard", "ipsec", "l2tp", "pptp", "sstp", "teredo", "tailscale"),
    *("tinc", "dnscrypt", "whatsapp", "discord", "libp2p"),
)
CLASSES: Final = ("opaque", "compressed", "plain", "unknown", "unseen", *HANDSHAKES)
"""Payload classes that an approval can name."""

LARGEST_CEILING: Final = 10**18
_UNITS: Final = {
    unit: size**power
    for size, units in ((1000, "B kB MB GB TB"), (1024, "B KiB MiB GiB TiB"))
    for power, unit in enumerate(units.split())
}
_SIZE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,6})?)\s*([A-Za-z]{1,3})")
_PORT: Final = re.compile(r"(tcp|udp)/(\d{1,5})")
_OTHER_SERVICES: Final = (
    *("icmp", "icmp6", "igmp", "gre", "esp", "ah", "ftp-data", "stun/udp"),
    *("tcp/high", "udp/high"),
)


@dataclass(frozen=True)
class Approval:
    """What may go on without an alert; empty sets leave it open.

    Attributes
    ----------
    places
        Names: registered domains, or names below one.
    networks
        Of the remote side.
    services
        As `exfilml.places.orient` names them.
    hosts
        Of the local side.
    payload
        Of `CLASSES`.
    max_upload_per_day
        Bytes.
    reason, owner
        One line each.
    expires
        Last day, UTC.
    """

    places: frozenset[str]
    networks: Networks
    services: frozenset[str]
    hosts: Networks
    payload: frozenset[str]
    max_upload_per_day: int
    reason: str
    owner: str
    expires: dt.date


@dataclass(frozen=True)
class Segment:
    """Which services may leave a network."""

    name: str
    networks: Networks
    services: frozenset[str]


@dataclass(frozen=True)
class Policy:
    """What a site declares about itself; the module's text says what it means.

    Attributes
    ----------
    home
        Home networks as `exfilml.places.parse_networks` gives them, or `None`.
    nat, resolvers, proxies, mail_relays
        `Networks`: ``policy.resolvers.covers("10.20.0.53")``.
    segments, approvals
        In the order of the file.

    Examples
    --------
    >>> policy = Policy.parse({"resolvers": ["10.20.0.53"]})
    >>> policy.resolvers.covers("10.20.0.53")
    True
    """

    home: tuple[str, ...] | None = None
    nat: Networks = NO_NETWORKS
    resolvers: Networks = NO_NETWORKS
    proxies: Networks = NO_NETWORKS
    mail_relays: Networks = NO_NETWORKS
    segments: tuple[Segment, ...] = ()
    approvals: tuple[Approval, ...] = ()

    @classmethod
    def of(cls, policy: Policy | str | os.PathLike[str]) -> Policy:
        """Return a policy as it is, and read one that is given as a path.

        Raises
        ------
        PolicyError
            If it is neither, or the file is no policy.
        """
        if isinstance(policy, cls):
            return policy
        if not isinstance(policy, str | os.PathLike):
            raise PolicyError(
                f"policy: got {quoted(policy)}, expected an exfilml.Policy or the path "
                "of a policy file."
            )
        return cls.read(policy)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a policy file.

        Raises
        ------
        PolicyError
            With file, table and key, what was given and what was expected.
        """
        table = read_toml(path, PolicyError, "a policy")
        return cls.parse(table, str(path))

    @classmethod
    def parse(cls, table: Mapping[str, Any], source: str = "policy") -> Self:
        """Check what a policy file says.

        Parameters
        ----------
        table
            As `tomllib` gives it.
        source
            Name of the file, for errors.

        Raises
        ------
        PolicyError
            With source, table and key, what was given and what was expected.
        """
        top = Table(source, table, (*_DECLARED, "segment", "approve"), PolicyError)
        home = top.get("home", _NETWORKS)
        declared = {key: top.get(key, _NETWORKS) for key in _DECLARED[1:]}
        return cls(
            home=None if home is None else home.texts,
            **{key: nets for key, nets in declared.items() if nets is not None},
            segments=tuple(
                _segment(t) for t in top.tables("segment", _KEYS["segment"])
            ),
            approvals=tuple(
                _approval(t) for t in top.tables("approve", _KEYS["approve"])
            ),
        )


_DECLARED: Final = ("home", "nat", "resolvers", "proxies", "mail_relays")


def _segment(table: Table) -> Segment:
    networks = table.need("network", _NETWORKS)
    return Segment(
        name=table.get("name", _TEXT) or str(networks),
        networks=networks,
        services=table.need("services", _ALLOWED),
    )


def _approval(table: Table) -> Approval:
    places, networks = table.get("place", _PLACES), table.get("network", _NETWORKS)
    if places is None and networks is None:
        raise table.refuse(
            "place and network are both missing, expected a destination."
        )
    return Approval(
        places=places or frozenset(),
        networks=networks or NO_NETWORKS,
        services=table.get("service", _SERVICES) or frozenset(),
        hosts=table.get("host", _NETWORKS) or NO_NETWORKS,
        payload=table.need("payload", _PAYLOAD),
        max_upload_per_day=table.need("max_upload_per_day", _CEILING),
        reason=table.need("reason", _TEXT),
        owner=table.need("owner", _TEXT),
        expires=table.need("expires", _DATE),
    )


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise ValueError
    return texts


def _some(given: Any) -> list[str]:
    texts = _texts(given)
    if not texts:
        raise ValueError("an empty list says nothing, leave the key out")
    return texts


def _line(given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError
    return " ".join(given.split())


def _networks(given: Any) -> Networks:
    return Networks.parse(_some(given))


def _places(given: Any) -> frozenset[str]:
    return frozenset(_place(text) for text in _some(given))


def _place(text: str) -> str:
    name = text.strip().rstrip(".").lower()
    if name.startswith("*."):
        raise ValueError(
            f"a name stands for all that lies below it, write {quoted(name[2:])}"
        )
    try:
        ipaddress.ip_network(name, strict=False)
    except ValueError:
        pass
    else:
        raise ValueError("addresses stand behind the key network")
    # Packets carry the form in ASCII (RFC 5891).
    name = name.encode("idna").decode("ascii")
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
        raise ValueError(f"{quoted(text)} is no host name")
    return name


def is_registered_domain(place: str) -> bool:
    """Say whether a name of an approval stands for a place, not for a part of one."""
    return registered_domain(place) == place


@cache
def _known_services() -> Mapping[str, frozenset[str]]:
    """Which services each name stands for."""
    known = {name: frozenset({name}) for name in _OTHER_SERVICES}
    for (protocol, _), name in iana_services().items():
        way, full = ("tcp", name) if protocol == 6 else ("udp", f"{name}/udp")
        known[f"{name}/{way}"] = frozenset({full})
        known[name] = known.get(name, frozenset()) | {full}
    return known


def _services(given: Any) -> frozenset[str]:
    return frozenset[str]().union(*(_service(text) for text in _texts(given)))


def _service(text: str) -> frozenset[str]:
    named = _PORT.fullmatch(text)
    if named and int(named[2]) < 65536:
        return frozenset({service_name(6 if named[1] == "tcp" else 17, int(named[2]))})
    known = _known_services()
    if text not in known:
        raise ValueError(f"{quoted(text)} is no service{meant(text, known)}")
    return known[text]


def _some_services(given: Any) -> frozenset[str]:
    return _services(_some(given))


def _payload(given: Any) -> frozenset[str]:
    texts = _some(given)
    for text in texts:
        if text not in CLASSES:
            raise ValueError(f"{quoted(text)} is no class{meant(text, CLASSES)}")
    return frozenset(texts)


def _ceiling(given: Any) -> int:
    if isinstance(given, str):
        found = _SIZE.fullmatch(given.strip())
        if found is None or found[2] not in _UNITS:
            raise ValueError
        given = int(Decimal(found[1]) * _UNITS[found[2]])
    if not isinstance(given, int) or isinstance(given, bool):
        raise ValueError  # noqa: TRY004 - `Table.get` says what was expected
    if not 1 <= given <= LARGEST_CEILING:
        raise ValueError("out of range")
    return given


def _date(given: Any) -> dt.date:
    if isinstance(given, dt.datetime) or not isinstance(given, dt.date):
        raise ValueError  # noqa: TRY004 - `Table.get` says what was expected
    return given


_NETWORKS: Final = Kind(
    "networks such as 10.20.0.0/16 or addresses, one text or a list", _networks
)
_NAMED: Final = "services such as https, domain/udp or tcp/8443, one text or a list"
_SERVICES: Final = Kind(_NAMED, _some_services)
_ALLOWED: Final = Kind(f"{_NAMED}, which may be empty", _services)
_PLACES: Final = Kind("names such as example.net, one text or a list", _places)
_PAYLOAD: Final = Kind(f"one or several of {', '.join(CLASSES)}", _payload)
_CEILING: Final = Kind(
    f"bytes as a number or a text such as '2 GB' ({', '.join(_UNITS)})", _ceiling
)
_TEXT: Final = Kind("a text", _line)
_DATE: Final = Kind("a date such as 2027-01-01, without quotes or time", _date)
_KEYS: Final = {
    "segment": ("name", "network", "services"),
    "approve": (
        *("place", "network", "service", "host", "payload", "max_upload_per_day"),
        *("reason", "owner", "expires"),
    ),
}
