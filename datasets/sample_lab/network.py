"""Three namespaces, two cables, and the recording.

``office`` (workstations and the router), ``servers`` (the site's own servers, behind
the router) and ``internet``. Each is an anonymous network, mount, process and memory
namespace held by one process: when that process dies, the kernel removes the
interfaces, kills every server inside and drops the private mounts. Nothing of the
machine's own network is touched, and there is no route out of the lab.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from sample_lab.world import Host, World

# Programs come from the system's packages, whatever else the caller has in its path.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ZONES = ("office", "servers", "internet")
# Segmentation offload stays on, as on a host with a modern card, but merged packets
# stay below this size so that a sample of jumbo and ordinary packets results.
GSO_BYTES = 12_000
# Neighbour discovery and router advertisements are no flows of anybody.
WAN_FILTER = "ip or (ip6 and not icmp6)"
# What servers send outwards crosses both cables; record it on the outer one only.
SERVERS_FILTER = "src net 10.20.0.0/16 and dst net 10.20.0.0/16"


class LabError(RuntimeError):
    """The lab could not be built or a session failed."""


class Network:
    """Namespaces of the lab; use as a context manager.

    Parameters
    ----------
    work
        Scratch directory for configuration, logs and raw captures.
    places
        The world: which hosts there are, and where.
    outside
        Every IPv4 and IPv6 address that exists in the internet namespace.
    """

    def __init__(self, work: Path, places: World, outside: Iterable[str]) -> None:
        self.work = work
        self.places = places
        self._outside = sorted(set(outside))
        self._holders: list[subprocess.Popen[bytes]] = []
        self._pids: dict[str, int] = {}
        self._recorders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the namespaces and connect them."""
        for zone in ZONES:
            self._open(zone)
        self._cable()

    def close(self) -> None:
        """Stop every process of the lab and let the kernel remove the namespaces."""
        for process in self._recorders + self._holders:
            process.kill()
            process.wait()
        self._recorders.clear()
        self._holders.clear()
        # The first process of a namespace is gone only when all others are: then no
        # server writes into the scratch directory any more.
        for pid in self._pids.values():
            for _ in range(500):
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.01)
        self._pids.clear()

    def _open(self, zone: str) -> None:
        # The parent-death signal covers the one end that no handler sees: SIGKILL.
        holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--mount", "--pid", "--ipc", "--fork"),
                *("--kill-child", "--mount-proc", "sleep", "infinity"),
            ]
        )
        self._holders.append(holder)
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        for _ in range(200):
            time.sleep(0.01)
            found = children.read_text().split()
            # The child is ready once it runs sleep: mounts and /proc are then done.
            if found and Path(f"/proc/{found[0]}/comm").read_text() == "sleep\n":
                self._pids[zone] = int(found[0])
                break
        else:
            msg = f"namespace '{zone}' did not start; is this root on Linux?"
            raise LabError(msg)
        self.shell(
            zone,
            f"""
            mount -t tmpfs tmpfs /run
            mount -t tmpfs tmpfs /dev/shm
            mkdir -p /run/sshd /run/empty
            target=$(readlink -f /etc/resolv.conf)
            mkdir -p $(dirname $target); [ -e $target ] || touch $target
            mount --bind {self.work}/resolv.conf $target
            mount --bind {self.work}/pam.d /etc/pam.d
            ip link set lo up
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
                net.ipv4.tcp_timestamps=0 \
                net.ipv4.ip_unprivileged_port_start=0
            """,
        )

    def _cable(self) -> None:
        for a, b, cable, net in (
            ("office", "internet", "wan", 1),
            ("office", "servers", "srv", 2),
        ):
            ends = ((a, 1), (b, 2))
            subprocess.run(
                f"ip link add {cable}1 netns {self._pids[a]}"
                f" address 02:00:00:00:0{net}:01"
                f" type veth peer name {cable}2 netns {self._pids[b]}"
                f" address 02:00:00:00:0{net}:02".split(),
                check=True,
            )
            for zone, end in ends:
                peer = 3 - end
                dev = f"{cable}{end}"
                # Fixed neighbours: no ARP, and an address never has to be found.
                self.shell(
                    zone,
                    f"""
                    ip link set {dev} addrgenmode none gso_max_size {GSO_BYTES} up
                    ip addr add 10.255.{net}.{end}/30 dev {dev}
                    ip addr add fdff:{net}::{end}/64 dev {dev} nodad
                    ip neigh replace 10.255.{net}.{peer} dev {dev} \
                        lladdr 02:00:00:00:0{net}:0{peer} nud permanent
                    ip neigh replace fdff:{net}::{peer} dev {dev} \
                        lladdr 02:00:00:00:0{net}:0{peer} nud permanent
                    """,
                )
        hosts = self.places.hosts
        addresses = {
            "office": [a for h in hosts if h.zone == "office" for a in (h.ip, h.ip6)],
            "servers": sorted(
                {
                    self.places.resolver,
                    self.places.cache,
                    *self.places.internal_names.values(),
                    *(h.ip for h in hosts if h.zone == "servers"),
                }
            ),
            "internet": self._outside,
        }
        for zone, known in addresses.items():
            lines = "\n".join(
                f"addr add {ip}/{128 if ':' in ip else 32} dev lo" for ip in known
            )
            self.shell(zone, f"ip -batch - <<'END'\n{lines}\nEND")
        # The router must forward before a session of an office host sets its routes.
        self.shell(
            "office",
            "ip route add 10.20.0.0/24 via 10.255.2.2;"
            " ip route add default via 10.255.1.2",
        )
        self.shell("servers", "ip route add default via 10.255.2.1")
        self.shell(
            "internet",
            "ip route add 10.20.0.0/16 via 10.255.1.1;"
            " ip route add fd20::/64 via fdff:1::1",
        )

    def impair(self) -> bool:
        """Give the outer cable some delay and loss; return whether the kernel can."""
        try:
            for zone, dev in (("office", "wan1"), ("internet", "wan2")):
                how = "delay 3ms 1ms distribution normal loss 0.03%"
                self.shell(zone, f"tc qdisc add dev {dev} root netem {how}")
        except LabError:
            return False
        return True

    @staticmethod
    def _source(host: Host) -> str:
        """Return commands that make `host` the source of what its zone sends next.

        Sessions run one at a time, so one route with a preferred source address
        gives every client the right address, also those without a bind option.
        """
        if host.zone == "servers":
            return f"route replace default via 10.255.2.1 src {host.ip}"
        return (
            f"route replace default via 10.255.1.2 src {host.ip}\n"
            f"route replace 10.20.0.0/24 via 10.255.2.2 src {host.ip}\n"
            f"route replace 2001:db8::/32 via fdff:1::2 src {host.ip6}"
        )

    def _enter(self, zone: str) -> list[str]:
        return ["nsenter", "-t", str(self._pids[zone]), "-n", "-m", "-p", "-i"]

    def shell(self, zone: str, script: str) -> None:
        """Run a script in a zone and raise `LabError` if it fails."""
        done = subprocess.run(
            [*self._enter(zone), "sh", "-ec", script], capture_output=True, check=False
        )
        if done.returncode:
            msg = f"in {zone}: {script.strip()}: {done.stderr.decode()}"
            raise LabError(msg)

    def spawn(self, zone: str, argv: list[str]) -> None:
        """Start a server that lives until the namespace dies."""
        with (self.work / "servers.log").open("ab") as log:
            subprocess.Popen(
                [*self._enter(zone), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": PATH},
                start_new_session=True,
            )

    def run_as(self, host: Host, script: str, env: dict[str, str]) -> int:
        """Run one client session as `host`; return its exit status."""
        script = f"ip -batch - <<'END'\n{self._source(host)}\nEND\n{script}"
        with (self.work / "sessions.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._enter(host.zone), "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **env, "LC_ALL": "C"},
            )
            try:
                return process.wait(timeout=30)
            finally:
                process.kill()
                process.wait()

    def record(self, stem: str, snap: int = 0) -> list[Path]:
        """Start recording both cables on the router; return the raw capture files.

        `snap` bytes of each packet are kept, 0 for all of them.
        """
        paths = []
        for dev, rule in (("wan1", WAN_FILTER), ("srv1", SERVERS_FILTER)):
            path = self.work / f"{stem}-{dev}.pcap"
            argv = (
                f"tcpdump -Z root -s {snap} -B 65536 -j host -w {path} -i {dev}".split()
            )
            log = (self.work / f"{stem}-{dev}.log").open("wb")
            recorder = subprocess.Popen(
                [*self._enter("office"), *argv, rule], stdout=log, stderr=log
            )
            log.close()
            self._recorders.append(recorder)
            for _ in range(300):
                if path.exists() and b"listening" in Path(log.name).read_bytes():
                    break
                time.sleep(0.01)
            else:
                msg = f"tcpdump on {dev} did not start: {Path(log.name).read_text()}"
                raise LabError(msg)
            paths.append(path)
        return paths

    def stop_recording(self) -> None:
        """Flush and end the recording; raise `LabError` if packets were lost."""
        time.sleep(0.5)
        self.shell("office", "pkill -INT -x tcpdump")
        for recorder in self._recorders:
            recorder.wait(timeout=20)
        self._recorders.clear()
        for log in self.work.glob("*-*1.log"):
            if b"\n0 packets dropped by kernel" not in log.read_bytes():
                msg = f"the recording lost packets: {log.read_text()}"
                raise LabError(msg)
