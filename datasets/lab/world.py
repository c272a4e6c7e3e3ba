"""Who is in the lab's office, and what stands on its internet.

Decided from the split's seed before a packet is sent. Addresses outside come from
198.18.0.0/15, which is reserved for benchmarks: 512 networks, a third of them for
each split. A few networks are a content network's or a cloud's and carry very many
names; the rest have one or a few.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
from typing import TYPE_CHECKING

from sample_lab import world as sample
from sample_lab.world import Host, Site, World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.splits import Split

N_SITES = 900
N_MX = 80
N_PEERS = 150
PROXY = "10.20.0.80"
DATABASE = "10.20.0.50"
RELAY = "10.20.0.25"
FILES = "10.20.0.20"

QUIC_NAMES = (
    "www.vidstream.example", "edge.vidstream.example", "play.vidstream.example",
    "fonts.webstatic.example", "img.webstatic.example", "maps.geotile.example",
)  # fmt: skip
SOCKET_NAMES = (
    "rt.teamtalk.example",
    "push.salesdesk.example",
    "ws.tickerfeed.example",
)
CALL_NAMES = ("sfu1.meetline.example", "sfu2.meetline.example", "turn.teamtalk.example")
OPAQUE_NAMES = ("license.planware.example", "relay.lenscloud.example")
VPN_NAMES = ("vpn.partnernet.example",)
MORE_SITES = (
    "objects.cloudvault.example", "upload.cloudvault.example", "cdn.osvendor.example",
    "update.osvendor.example", "app.teamtalk.example", "collect.metricbeat.example",
    "crash.browserco.example", "share.filedrop.example", "paste.snippets.example",
    "api.billing.example", "hr.peopledesk.example", "stat.homething.example",
)  # fmt: skip
_HOSTING_NETS = 46
_FRESH_NETS = 60
_SPARE_NETS = 30


class LabWorld(World):
    """One split's site and internet.

    Attributes
    ----------
    fresh : iterator of str
        Networks (``198.18.7.``) that nothing benign uses.
    spare : list of str
        Networks that nothing in the captures uses.
    cloud : list of str
        Networks of clouds, known to the baseline.
    cdn : list of str
        Addresses that carry very many names.
    """

    def __init__(self, split: Split) -> None:  # noqa: PLR0915
        rng = random.Random(f"{split.seed} world")
        self.split = split
        nets = [f"198.{18 + n // 256}.{n % 256}." for n in range(512)]
        random.Random("networks").shuffle(nets)
        own = iter(nets[split.index :: 3])
        self.hosts = tuple(_hosts(rng))
        self.host = {host.name: host for host in self.hosts}
        self.internal_names = {
            **sample.INTERNAL_NAMES,
            "proxy.corp.example": PROXY,
            "db.corp.example": DATABASE,
        }

        moved: dict[str, str] = {}

        def place(address: str) -> str:
            net, _, last = address.rpartition(".")
            if net not in moved:
                moved[net] = next(own)
            return moved[net] + last

        def place_all(names: dict[str, str]) -> dict[str, str]:
            return {name: place(address) for name, address in names.items()}

        self.upstream = place(sample.UPSTREAM)
        self.public_resolvers = tuple(map(place, sample.PUBLIC_RESOLVERS))
        self.mx_addresses = tuple(map(place, sample.MX_ADDRESSES))
        for group in ("ntp", "ftp", "ssh", "git", "rsync", "mqtt", "mail", "syslog"):
            setattr(self, group, place_all(getattr(World, group)))
        self.cloud = [next(own) for _ in range(4)]
        cdn_nets = [next(own) for _ in range(3)]
        self.cdn = [
            f"{net}{i}" for net in cdn_nets for i in rng.sample(range(9, 250), 5)
        ]
        hosting = [next(own) for _ in range(_HOSTING_NETS)]
        self.fresh = [next(own) for _ in range(_FRESH_NETS)]
        self.spare = [next(own) for _ in range(_SPARE_NETS)]

        def in_cloud() -> str:
            return f"{rng.choice(self.cloud)}{rng.randrange(20, 40)}"

        self.fixed_sites = place_all(sample.FIXED_SITES)
        self.fixed_sites |= {name: in_cloud() for name in MORE_SITES}
        # One process each serves these, at an address of its own.
        self.quic = {n: f"{self.cloud[0]}{60 + i}" for i, n in enumerate(QUIC_NAMES)}
        self.sockets = {
            n: f"{self.cloud[1]}{60 + i}" for i, n in enumerate(SOCKET_NAMES)
        }
        self.calls = {n: f"{self.cloud[2]}{70 + i}" for i, n in enumerate(CALL_NAMES)}
        self.opaque = {n: f"{hosting[i]}{77}" for i, n in enumerate(OPAQUE_NAMES)}
        self.vpns = {n: f"{hosting[4]}{90 + i}" for i, n in enumerate(VPN_NAMES)}
        self.fixed_sites |= {**self.quic, **self.sockets}
        # Every name below these exists: somebody encodes questions in them.
        self.zones = {"rep.avguard.example": f"{hosting[5]}91"}
        self.opaque_port = (7707, 9061, 8891)[split.index]
        self.relay_port = (32100, 10554, 18040)[split.index]

        # Machines of somebody, reached by address: peers of calls and of games.
        self.peers = [
            {
                "kind": rng.choice(("mirror", "mirror", "chatty", "murmur")),
                "ip": f"{rng.choice(hosting)}{100 + i % 50}",
                "port": rng.randrange(1024, 65536),
            }
            for i in range(N_PEERS)
        ]

        pairs = list(itertools.product(sample._FIRST, sample._SECOND))  # noqa: SLF001
        more = list(itertools.product(sample._SECOND, sample._FIRST))  # noqa: SLF001
        pairs += more
        rng.shuffle(pairs)
        spread = [
            f"{net}{last}" for net in hosting for last in rng.sample(range(9, 70), 4)
        ]
        self.late_domains: list[tuple[str, str]] = []
        self.sites = []
        for rank, (first, second) in enumerate(pairs[:N_SITES]):
            draw = rng.random()
            address = (
                self.cdn[min(int(rng.expovariate(0.25)), len(self.cdn) - 1)]
                if draw < 0.45
                else in_cloud()
                if draw < 0.65
                else rng.choice(spread)
            )
            name = f"{rng.choice(sample._PREFIX)}.{first}{second}.example"  # noqa: SLF001
            six = f"2001:db8:{split.index + 1}{rank % 7:x}::{rank:x}"
            self.sites.append(Site(name, address, six if rank % 12 == 5 else ""))
        self.domains = [
            (f"{a}{b}.example", self.mx_addresses[i % len(self.mx_addresses)])
            for i, (a, b) in enumerate(pairs[N_SITES : N_SITES + N_MX])
        ]
        self._site_weights = [1 / (rank + 2) ** 1.15 for rank in range(N_SITES)]
        self._mx_weights = [1 / (rank + 1) ** 1.1 for rank in range(N_MX)]
        self._favourites = {host.name: self._draw_sites(rng, 9) for host in self.hosts}
        self.behind_proxy = {
            h.name for h in self.hosts if h.role == "finance" or h.name in _PROXIED
        }

    def pick_site(self, rng: random.Random, host: Host) -> Site:
        """Return a site to visit that this host can reach.

        The site's own servers, hence its proxy, have no IPv6.
        """
        while True:
            site = super().pick_site(rng, host)
            plain = host.zone == "servers" or host.name in self.behind_proxy
            if not (site.ip6 and plain):
                return site

    def all_domains(self) -> list[tuple[str, str]]:
        """Return every mail domain, those that only scenarios write to included."""
        return self.domains + self.late_domains

    def names(self) -> dict[str, tuple[str, str]]:
        """Return every outside name with its IPv4 and IPv6 address ('' for none)."""
        table = super().names()
        for group in (self.calls, self.opaque, self.vpns):
            table.update({name: (ip, "") for name, ip in group.items()})
        return table

    def outside(self, more: Iterable[str]) -> list[str]:
        """Return every address of the internet, `more` included."""
        known = {ip for pair in self.names().values() for ip in pair if ip}
        known |= {site.ip for site in self.all_web()}
        known |= {str(peer["ip"]) for peer in self.peers}
        known |= {*self.public_resolvers, *self.mx_addresses, *more}
        return sorted(known, key=lambda ip: (":" in ip, ipaddress.ip_address(ip)))


_PROXIED = ("sales1", "sales2", "sales3", "sales5", "dev6", "dev7")


def _hosts(rng: random.Random) -> Iterable[Host]:
    roles = (
        ("sales", "sales", 1, rng.randint(7, 9)),
        ("dev", "developers", 2, rng.randint(7, 9)),
        ("finance", "finance", 3, rng.randint(3, 4)),
        ("camera", "cameras", 8, rng.randint(3, 4)),
        ("thing", "things", 9, 4),
    )
    for name, role, net, count in roles:
        numbers = sorted(rng.sample(range(11, 90), count))
        late = count - 1 if role in ("sales", "developers", "things") else count
        for i, last in enumerate(numbers):
            yield Host(
                f"{name}{i + 1}", f"10.20.{net}.{last}", role, only_test=i >= late
            )
    for name, last in (
        ("fileserver", 20), ("mailrelay", 25), ("build", 40), ("monitor", 60),
    ):  # fmt: skip
        yield Host(name, f"10.20.0.{last}", name, "servers")
