"""The servers that the lab has beyond the sample's, and what theirs do more.

One file because each server takes a dozen lines and they share addresses, names and
the scratch directory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sample_lab import servers as sample
from sample_lab.network import PATH

from lab import sealing
from lab.world import DATABASE, FILES, PROXY, RELAY

if TYPE_CHECKING:
    import random

    from sample_lab.content import Corpus
    from sample_lab.network import Network

    from lab.scenarios import Planner
    from lab.world import LabWorld

PACKAGES = sample.PACKAGES | {
    "libdeflate-gzip": "libdeflate-tools",
    "psql": "postgresql-client",
    "smbclient": "smbclient",
    "smbd": "samba",
    "squid": "squid",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
}
MODULES = {
    "aioquic": "aioquic",
    "cryptography": "cryptography",
    "websockets": "websockets",
}
# Who keeps the mail of the popular domains, many of them each.
_MAIL_FARMS = (
    "mailfarm.example", "postbox.example", "inboxes.example", "lettercloud.example",
)  # fmt: skip
PROGRAMS = Path(__file__).parent / "programs"
# Sizes of the large files, in bytes: what people download and machines back up.
LARGE = (
    900_000, 1_300_000, 2_100_000, 3_600_000, 6_000_000, 9_500_000, 14_000_000,
    22_000_000,
)  # fmt: skip


def _postgres() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def missing_packages() -> list[str]:
    """Return the Debian packages whose commands are not installed."""
    lost = {p for c, p in PACKAGES.items() if not shutil.which(c, path=PATH)}
    return sorted(lost | (set() if _postgres() else {"postgresql"}))


def missing_modules() -> list[str]:
    """Return the Python packages that cannot be imported."""
    from importlib.util import find_spec

    return sorted(p for module, p in MODULES.items() if find_spec(module) is None)


def more_files(
    root: Path, planner: Planner, corpus: Corpus, rng: random.Random
) -> list[str]:
    """Write large files, loads of the planted transfers, and a locked zip.

    Returns
    -------
    list of str
        The large files, smallest first.
    """
    for number, size in enumerate(LARGE):
        # Films and installers: their own compression leaves nothing to compress.
        (root / f"large{number}.bin").write_bytes(
            b"\0\0\0\x20ftypisom" + rng.randbytes(size)
        )
    index = planner.split.index
    (root / f"noise{index}.bin").write_bytes(
        rng.randbytes((6, 9, 14)[index] * 1_000_000)
    )
    locked = b"PK\x03\x04\x14\x00\x01\x00\x63\x00" + rng.randbytes(
        180_000 + 90_000 * index
    )
    (root / f"locked{index}.eml").write_bytes(sealing.encode(locked, "mail"))
    source = b"".join(
        (root / name).read_bytes()
        for name in ("customers.csv", *corpus.documents, *corpus.tables, *corpus.pages)
    )
    sealed = root.parent / "sealed"
    sealed.mkdir()
    for load in planner.loads:
        sealing.write(load, source, sealed)
    return [f"large{number}.bin" for number in range(len(LARGE))]


class LabServers(sample.Servers):
    """Every server of the lab."""

    locations = (
        sample.Servers.locations
        + """
        location = /ws { proxy_pass http://127.0.0.1:8090; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 60s;
            proxy_set_header Connection upgrade; }
    """
    )

    def __init__(self, net: Network, places: LabWorld, planner: Planner) -> None:
        super().__init__(
            net, places, extra=planner.names, shells=tuple(planner.shells), sinks=[]
        )
        self.lab = places
        self.planner = planner
        self.brokers = tuple(planner.brokers)
        self.more_records = "".join(
            f"address=/{zone}/{ip}\n"
            for zone, ip in (places.zones | planner.zones).items()
        )

    def start(self) -> None:
        """Start every server and wait until the slow ones listen."""
        super().start()
        for zone, sockets in (
            ("internet", "t8090 u443 t1883 t8080 u3478"), ("servers", "t3128 t445 t5432"),
        ):  # fmt: skip
            for name in sockets.split():
                self.net.shell(
                    zone,
                    f"for i in $(seq 100); do ss -Hln{name[0]} 'sport = :{name[1:]}'"
                    " | grep -q . && exit 0; sleep 0.1; done;"
                    f" echo 'no server on {name[1:]}' >&2; exit 1",
                )

    def prepare(self) -> None:
        """Write everything that must exist before the namespaces are opened."""
        super().prepare()
        work = self.work
        (work / "smbclient.conf").write_text("[global]\nclient min protocol = SMB2\n")
        (work / "squid").mkdir()
        for key in ("server", "client"):
            secret = subprocess.run(
                ["wg", "genkey"], capture_output=True, check=True
            ).stdout
            (work / f"wg.{key}").write_bytes(secret)
            public = subprocess.run(
                ["wg", "pubkey"], input=secret, capture_output=True, check=True
            ).stdout
            (work / f"wg.{key}.pub").write_bytes(public)
        binaries = _postgres()
        assert binaries is not None
        (work / "pg").mkdir()
        shutil.chown(work / "pg", "postgres", "postgres")
        self._as_postgres(
            str(binaries / "initdb"), "-D", str(work / "pg/data"), "-U", "app", "-N",
            "-A", "trust", "--locale=C", "-E", "UTF8",
        )  # fmt: skip
        with (work / "pg/data/pg_hba.conf").open("a") as file:
            file.write("host all all 10.20.0.0/16 trust\n")

    def _as_postgres(self, *command: str) -> None:
        subprocess.run(
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command],
            check=True, capture_output=True, cwd=self.work,
        )  # fmt: skip

    def _tls_names(self) -> list[str]:
        return sorted({*super()._tls_names(), *self.lab.vpns})

    def env(self) -> dict[str, str]:
        """Return the environment of client sessions."""
        more = {
            "PY": f"{sys.executable} -B",
            "L": str(PROGRAMS),
            "S": str(self.work / "sealed"),
        }
        return super().env() | more

    def tls(self, ip: str) -> str:
        """Return what to add to the TLS socket of a web address."""
        return " http2" if sum(ip.encode()) % 4 else ""

    def more_web(self, zone: str) -> str:
        """Return the web servers on odd ports."""
        if zone != "internet":
            return ""
        return "".join(
            f"server {{ listen {ip}:{port}; server_name {name};"
            f" include {self.work}/site.conf; }}\n"
            for name, ip, port in self.planner.web_ports
        )

    def mail_rules(self, zone: str) -> str:
        """Return the end of an exim configuration: the relay passes mail on."""
        if zone == "internet":
            # Every exchanger greets by a name of its own, as far as it is one.
            greetings = {
                ip: f"mx.{_MAIL_FARMS[number]}"
                for number, ip in enumerate(self.lab.mx_addresses[: len(_MAIL_FARMS)])
            }
            greetings |= {ip: f"mx.{name}" for name, ip in self.lab.late_domains}
            path = self._write(
                "greetings",
                "".join(f"{ip}: {name}\n" for ip, name in greetings.items()),
            )
            found = f"${{lookup{{$received_ip_address}}lsearch{{{path}}}"
            return (
                f"smtp_active_hostname = {found}{{$value}}{{smtp.mailhost.example}}}}\n"
                + super().mail_rules(zone)
            )
        # Some exchangers of the world still take mail in the clear.
        clear = " : ".join(self.lab.mx_addresses[::3])
        return f"""deliver_drop_privilege = true
keep_environment =
begin acl
take:
  accept
begin routers
out:
  driver = dnslookup
  domains = *
  transport = outward
  no_more
begin transports
outward:
  driver = smtp
  interface = {RELAY}
  hosts_avoid_tls = {clear}
  tls_verify_hosts = :
  tls_try_verify_hosts = :
  hosts_try_dane = :
begin retry
* * F,1h,30m
"""

    def _rest(self) -> None:
        super()._rest()
        self._proxy()
        self._shares()
        self._database()
        self._answers()
        work = self.work
        quic = sorted({*self.lab.quic.values(), *self.planner.quic.values()})
        certificate = str(work / "certs" / f"{next(iter(self.lab.quic))}.crt")
        self.net.spawn("internet", [
            sys.executable, "-B", str(PROGRAMS / "quic.py"), "serve", certificate,
            str(work / "site.key"), *quic,
        ])  # fmt: skip

    def _answers(self) -> None:
        lab = self.lab
        entries = [
            *self.planner.answers,
            *lab.peers,
            *({"kind": "mirror", "ip": ip, "port": 3478} for ip in lab.calls.values()),
            {"kind": "chatty", "ip": lab.opaque["license.planware.example"],
             "port": lab.opaque_port},
            {"kind": "murmur", "ip": lab.opaque["relay.lenscloud.example"],
             "port": lab.relay_port},
        ]  # fmt: skip
        path = self._write("answer.json", json.dumps(entries))
        self.net.spawn(
            "internet", [sys.executable, "-B", str(PROGRAMS / "answer.py"), path]
        )

    def _proxy(self) -> None:
        shutil.chown(self.work / "squid", "proxy", "proxy")
        path = self._write(
            "squid.conf",
            f"""http_port {PROXY}:3128
acl all_ports port 1-65535
acl CONNECT method CONNECT
http_access allow all
cache deny all
access_log none
cache_log {self.work}/squid/cache.log
cache_store_log none
pid_filename none
coredump_dir {self.work}/squid
visible_hostname proxy.corp.example
tcp_outgoing_address {PROXY}
dns_nameservers {self.places.resolver}
positive_dns_ttl 40 seconds
server_persistent_connections off
forwarded_for delete
pinger_enable off
shutdown_lifetime 0 seconds
hosts_file none
""",
        )
        self.net.spawn("servers", ["squid", "-N", "-f", path])

    def _shares(self) -> None:
        work = self.work
        for folder in ("share", "samba"):
            (work / folder).mkdir()
        for name in (work / "corpus").glob("*.*"):
            if name.suffix in (".zip", ".jpg", ".csv", ".html"):
                (work / "share" / name.name).hardlink_to(name)
        folders = "".join(
            f"{kind} = {work}/samba\n"
            for kind in (
                "private dir", "lock directory", "state directory", "cache directory",
                "pid directory", "ncalrpc dir",
            )
        )  # fmt: skip
        path = self._write(
            "smb.conf",
            f"""[global]
{folders}interfaces = {FILES}/32
bind interfaces only = yes
smb ports = 445
disable netbios = yes
load printers = no
disable spoolss = yes
map to guest = bad user
guest account = root
log file = {work}/samba/log
server min protocol = SMB2
[share]
path = {work}/share
guest ok = yes
read only = no
force user = root
""",
        )
        self.net.spawn("servers", ["smbd", "-F", "--no-process-group", "-s", path])

    def _database(self) -> None:
        work = self.work
        binaries = _postgres()
        self.net.spawn("servers", [
            "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
            f"{binaries}/postgres", "-D", f"{work}/pg/data", "-h", DATABASE,
            "-k", f"{work}/pg", "-c", "fsync=off", "-c", "autovacuum=off",
        ])  # fmt: skip
        self.net.shell(
            "servers",
            f"""
            for i in $(seq 100); do
                psql -q -h {work}/pg -U app -d postgres -c 'create database app' \
                    2>/dev/null && break
                sleep 0.1
            done
            psql -q -h {work}/pg -U app -d app -c "
                create table orders (id int, kind text, amount int);
                create table notes (line text);
                insert into orders select g, md5(g::text), g * 7 % 991
                    from generate_series(1, 4000) g"
            """,
        )

    def _tunnels(self) -> None:
        for name, ip in self.lab.vpns.items():
            self.net.spawn("internet", self.vpn("server", ip, name=name))
        for name, ip in self.planner.vpns.items():
            self.net.spawn("internet", self.vpn("server", ip, name=name, number=1))
        if self.planner.split.index == 1:
            return
        self.net.spawn("internet", ["wireguard-go", "-f", "wg0"])
        self.net.shell(
            "internet",
            f"""
            for i in $(seq 60); do wg show wg0 >/dev/null 2>&1 && break; sleep 0.05; done
            wg set wg0 private-key {self.work}/wg.server listen-port 51820 \
                peer $(cat {self.work}/wg.client.pub) allowed-ips 10.97.0.2/32
            ip addr add 10.97.0.1/24 dev wg0
            ip link set wg0 mtu 1380 up
            """,
        )

    def vpn(
        self, role: str, address: str, *, name: str = "", number: int = 0
    ) -> list[str]:
        """Return the command line of one end of a tunnel that needs no fragments."""
        line = super().vpn(role, address, name=name, number=number)
        return [*line, "--tun-mtu", "1380"]

    def tunnel_clients(self) -> tuple[str, str]:
        """Return the commands of the known and of the new OpenVPN client."""
        known = [
            " ".join(self.vpn("client", name, name=name, number=number))
            for number, names in enumerate((self.lab.vpns, self.planner.vpns))
            for name in list(names)[:1]
        ]
        return known[0], known[1] if len(known) > 1 else ""
