"""Who is in the lab: hosts of the site, places outside, names and popularity.

Everything here is decided from the seed before a single packet is sent. Addresses
outside come from the ranges reserved for documentation and benchmarks, names from
the reserved top-level domain ``example``, so the sample points at nobody.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True)
class Host:
    """A machine of the site; ``zone`` is the network namespace it lives in."""

    name: str
    ip: str
    role: str
    zone: str = "office"
    only_test: bool = False

    @property
    def ip6(self) -> str:
        """Return the unique local address that goes with the IPv4 address."""
        _, _, net, last = self.ip.split(".")
        return f"fd20::{net}:{last}"


@dataclass(frozen=True)
class Site:
    """A web site outside: one server name on one address."""

    name: str
    ip: str
    ip6: str = ""


HOSTS = (
    *(Host(f"sales{i}", f"10.20.1.{10 + i}", "sales") for i in range(1, 5)),
    *(Host(f"dev{i}", f"10.20.2.{20 + i}", "developers") for i in range(1, 5)),
    *(Host(f"finance{i}", f"10.20.3.{30 + i}", "finance") for i in range(1, 3)),
    *(Host(f"camera{i}", f"10.20.8.{80 + i}", "cameras") for i in range(1, 4)),
    Host("sales5", "10.20.1.15", "sales", only_test=True),
    Host("dev5", "10.20.2.25", "developers", only_test=True),
    Host("fileserver", "10.20.0.20", "fileserver", "servers"),
    Host("mailrelay", "10.20.0.25", "mailrelay", "servers"),
    Host("build", "10.20.0.40", "build", "servers"),
    Host("monitor", "10.20.0.60", "monitor", "servers"),
)
HOST = {host.name: host for host in HOSTS}
RESOLVER = "10.20.0.53"
CACHE = "10.20.0.45"

INTERNAL_NAMES = {
    "files.corp.example": "10.20.0.20",
    "relay.corp.example": "10.20.0.25",
    "git.corp.example": "10.20.0.40",
    "cache.corp.example": CACHE,
    "log.corp.example": "10.20.0.60",
    "provision.corp.example": RESOLVER,
}

# Services outside that are more than a web page. Names that only the test half uses
# carry no mark here: the resolver knows the whole internet from the start.
UPSTREAM = "198.51.100.53"
PUBLIC_RESOLVERS = (UPSTREAM, "203.0.113.153")
NTP = {
    "0.pool.timehub.example": "198.51.100.123",
    "1.pool.timehub.example": "203.0.113.123",
}
FTP = {
    "nvr.lenscloud.example": "203.0.113.21",
    "ftp.printworks.example": "198.51.100.21",
    "ftp.taxportal.example": "198.51.100.22",
    "mirror.opensource.example": "203.0.113.22",
}
SSH = {
    "vault.safebackup.example": "198.18.7.10",
    "git.codeforge.example": "198.18.7.20",
    "deploy.hostline.example": "198.18.7.30",
    "staging.hostline.example": "198.18.7.31",
    "sftp.bankgate.example": "198.51.100.70",
    "shell.uniwest.example": "203.0.113.70",
    "build.armfarm.example": "203.0.113.71",
    "git.openledger.example": "203.0.113.72",
    "lab.uniwest.example": "203.0.113.73",
}
GIT = {
    "git.kernelworks.example": "203.0.113.94",
    "git.toolchain.example": "203.0.113.95",
}
RSYNC = {
    "rsync.opensource.example": "203.0.113.87",
    "rsync.mapdata.example": "203.0.113.88",
}
MQTT = {
    "broker.lenscloud.example": "198.18.5.18",
    "iot.buildsense.example": "198.18.5.19",
}
MAIL = {
    "smtp.mailhost.example": "198.51.100.25",
    "imap.mailhost.example": "198.51.100.26",
}
SYSLOG = {"collector.logwatch.example": "198.18.5.14"}
MX_ADDRESSES = ("192.0.2.125", "192.0.2.126", "198.51.100.125", "203.0.113.125")

# Known, named web services that sites of this kind use every day.
FIXED_SITES = {
    "crm.salesdesk.example": "198.18.4.20",
    "api.lenscloud.example": "198.18.5.20",
    "registry.codeforge.example": "198.18.7.21",
    "packages.debmirror.example": "203.0.113.80",
    "portal.bankgate.example": "198.51.100.71",
    "telemetry.osvendor.example": "198.18.4.30",
    "drive.mailhost.example": "198.51.100.27",
    "status.hostline.example": "198.18.7.32",
}

_FIRST = """
    north south blue green swift bright silver open daily metro urban prime solar
    cedar maple river stone cloud pixel quick happy global local royal fresh
""".split()  # noqa: SIM905
_SECOND = """
    news shop travel bank garden kitchen motors health sports music books media
    times market forum photo games learning weather jobs tools recipes
""".split()  # noqa: SIM905
_PREFIX = ("www", "www", "www", "www", "api", "cdn", "static", "app", "img")
N_SITES = 420
N_MX = 60

AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Gecko/20100101 Firefox/123.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14.3; rv:122.0) Gecko/20100101",
)


class World:
    """The site and its internet, drawn from one random generator.

    Attributes
    ----------
    sites : list of Site
        Web sites in order of popularity, most popular first.
    domains : list of tuple of (str, str)
        Mail domains and the address of their mail exchanger, most popular first.
    """

    # What another lab has elsewhere; sessions and servers ask for it here.
    hosts = HOSTS
    resolver = RESOLVER
    cache = CACHE
    internal_names = INTERNAL_NAMES
    upstream = UPSTREAM
    public_resolvers = PUBLIC_RESOLVERS
    ntp = NTP
    ftp = FTP
    ssh = SSH
    git = GIT
    rsync = RSYNC
    mqtt = MQTT
    mail = MAIL
    syslog = SYSLOG
    mx_addresses = MX_ADDRESSES
    fixed_sites = FIXED_SITES

    def __init__(self, rng: random.Random) -> None:
        pool = [
            *(f"192.0.2.{i}" for i in range(10, 34, 2)),
            *(f"203.0.113.{i}" for i in range(30, 46, 2)),
            *(f"198.18.4.{i}" for i in range(40, 56, 2)),
        ]
        pairs = list(itertools.product(_FIRST, _SECOND))
        rng.shuffle(pairs)
        self.sites: list[Site] = []
        for rank, (first, second) in enumerate(pairs[:N_SITES]):
            # A few addresses hold very many names, as content networks do.
            address = pool[min(int(rng.expovariate(0.12)), len(pool) - 1)]
            name = f"{rng.choice(_PREFIX)}.{first}{second}.example"
            six = f"2001:db8:{rank % 5:x}::{rank:x}" if rank % 12 == 5 else ""
            self.sites.append(Site(name, address, six))
        self.domains = [
            (f"{a}{b}.example", MX_ADDRESSES[i % len(MX_ADDRESSES)])
            for i, (a, b) in enumerate(pairs[N_SITES : N_SITES + N_MX])
        ]
        # Popularity falls as a power of the rank, so the tail never runs dry and
        # every day brings names that nobody here has asked for before.
        self._site_weights = [1 / (rank + 2) ** 1.2 for rank in range(N_SITES)]
        self._mx_weights = [1 / (rank + 1) ** 1.1 for rank in range(N_MX)]
        self._favourites = {host.name: self._draw_sites(rng, 7) for host in HOSTS}

    def _draw_sites(self, rng: random.Random, count: int) -> list[Site]:
        return rng.choices(self.sites, self._site_weights, k=count)

    def pick_site(self, rng: random.Random, host: Host) -> Site:
        """Return a site to visit: a favourite of this host or any site at all."""
        if rng.random() < 0.35:
            return rng.choice(self._favourites[host.name])
        return self._draw_sites(rng, 1)[0]

    def pick_domain(self, rng: random.Random) -> tuple[str, str]:
        """Return a mail domain and the address of its exchanger."""
        return rng.choices(self.domains, self._mx_weights)[0]

    def all_domains(self) -> list[tuple[str, str]]:
        """Return every mail domain with the address of its exchanger."""
        return self.domains

    def all_web(self) -> list[Site]:
        """Return the popular sites and the named services together."""
        return self.sites + [Site(name, ip) for name, ip in self.fixed_sites.items()]

    def names(self) -> dict[str, tuple[str, str]]:
        """Return every outside name with its IPv4 and IPv6 address ('' for none).

        Names with an IPv6 address have no IPv4 address: C libraries prefer IPv4
        when the own address is unique local, so IPv6 would never be used.
        """
        table = {s.name: ("" if s.ip6 else s.ip, s.ip6) for s in self.all_web()}
        for group in (
            self.ntp, self.ftp, self.ssh, self.git, self.rsync, self.mqtt, self.mail,
            self.syslog,
        ):  # fmt: skip
            table.update({name: (ip, "") for name, ip in group.items()})
        table.update({f"mx.{name}": (ip, "") for name, ip in self.all_domains()})
        return table
