"""Benign life of the lab's office, on top of what the sample's office does.

Working days have two humps, weekends belong to machines. What a host does in a session
is the sample's habit where there is one; new here are the site's proxy and mail relay,
QUIC, WebSocket, calls, large downloads, forms, REST uploads, SMB, a database, VPNs,
cloud backups and two vendors' opaque protocols. One file because all sessions of a day
compete for the same hosts, places and hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sample_lab.schedule import Schedule, Session

if TYPE_CHECKING:
    import random

    from sample_lab.content import Corpus
    from sample_lab.world import Host

    from lab.world import LabWorld

# Sessions a working day and host; the sum over hosts and days is what takes the time.
RATES: dict[str, dict[str, float]] = {
    "sales": {
        "web": 3.6, "api": 0.5, "form": 0.5, "mail": 0.6, "imap": 0.6, "crm": 0.4,
        "files": 0.2, "smb": 0.4, "phone": 0.25, "ntp": 0.25, "telemetry": 0.4,
        "photo": 0.2, "drive": 0.25, "print": 0.05, "quic": 0.35, "talk": 0.3,
        "call": 0.25, "download": 0.25, "share": 0.12, "vpn": 0.05, "planware": 0.2,
        "crash": 0.06, "lost": 0.15, "reputation": 0.25,
        "submit": 0.25, "beacon": 0.4, "blob": 0.05, "peer": 0.12,
    },
    "developers": {
        "web": 3.2, "api": 0.7, "imap": 0.5, "mail": 0.3, "fetch": 0.45, "push": 0.4,
        "clone": 0.25, "package": 0.4, "redis": 0.35, "db": 0.4, "deploy": 0.3,
        "shell": 0.3, "ntp": 0.25, "registry": 0.3, "dig": 0.2, "internal_git": 0.3,
        "mirror": 0.12, "telemetry": 0.3, "status": 0.2, "quic": 0.3, "talk": 0.35,
        "call": 0.2, "download": 0.35, "rest": 0.3, "snippet": 0.15, "vpn": 0.04,
        "upgrade": 0.2, "lost": 0.2, "reputation": 0.15,
        "submit": 0.15, "beacon": 0.3, "peer": 0.14,
    },
    "finance": {
        "web": 3.4, "api": 0.4, "form": 0.6, "mail": 0.6, "imap": 0.6, "bank": 0.5,
        "bankfile": 0.4, "tax": 0.2, "files": 0.3, "smb": 0.6, "phone": 0.25,
        "ntp": 0.25, "telemetry": 0.4, "drive": 0.3, "crm": 0.2, "db": 0.3,
        "planware": 0.9, "lost": 0.1, "submit": 0.25, "beacon": 0.3, "peer": 0.06, "call": 0.15, "download": 0.1, "quic": 0.2, "share": 0.15,
    },
    "cameras": {
        "snapshot": 1.2, "clip": 0.6, "mqtt": 1.2, "ntp": 0.5, "firmware": 0.15,
        "sensor": 0.4, "lens_api": 0.5, "syslog": 0.5, "relay_cloud": 1.6,
    },
    "things": {
        "sensor": 2.0, "mqtt": 0.6, "ntp": 0.5, "syslog": 0.5, "rest": 0.5,
        "upgrade": 0.1, "blob": 0.8,
    },
    "fileserver": {
        "backup": 1, "vault_check": 1, "ntp": 1, "syslog": 1, "package": 0.7,
        "telemetry": 1, "upgrade": 0.5,
    },
    "mailrelay": {"ntp": 1, "syslog": 1, "package": 0.7, "dig": 1.5, "upgrade": 0.4, "reputation": 3},
    "build": {
        "fetch": 1.2, "package": 0.8, "registry": 1, "deploy": 0.8, "redis": 1,
        "clone": 0.5, "mirror": 0.4, "ntp": 1, "status": 0.6, "syslog": 0.6,
        "cloud_backup": 1.2, "upgrade": 0.4, "rest": 1.5,
    },
    "monitor": {
        "ping": 2, "status": 1.2, "forward": 1.2, "dig": 1.2, "ntp": 1, "sensor": 0.6,
        "probe": 1.5, "db": 1, "rest": 2,
    },
}  # fmt: skip
# One number for how long a split takes to make, and how large it is.
SCALE = 0.92
NIGHT = {
    "backup": 1.4, "vault_check": 4.2, "package": 5.6, "mirror": 3.1,
    "cloud_backup": 2.3, "upgrade": 4.8,
}  # fmt: skip
# The planning software asks its vendor on these weekdays only.
PLANWARE_DAYS = (1, 3)


class Habits(Schedule):
    """Draws the benign sessions of a half.

    Parameters
    ----------
    rng
        Source of every choice.
    places
        The site and its internet.
    corpus
        Files that can be fetched and sent.
    large
        Names of files from one to tens of megabytes, smallest first.
    """

    def __init__(
        self, rng: random.Random, places: LabWorld, corpus: Corpus, large: list[str]
    ) -> None:
        super().__init__(rng, places, corpus)
        self.places: LabWorld = places
        self.large = large

    def half(self, name: str) -> list[Session]:
        """Return the sessions of one half, in order of time."""
        split = self.places.split
        out: list[Session] = []
        for day in split.days(name):
            weekend = day % 7 >= 5
            # Days differ as a whole: holidays begin, deadlines near.
            mood = self.rng.lognormvariate(0, 0.12)
            for host in self.places.hosts:
                people = host.role in ("sales", "developers", "finance")
                late = host.only_test and name != "test"
                if late or (weekend and people and self.rng.random() < 0.93):
                    continue
                away = people and self.rng.random() < 0.06
                for kind, rate in RATES[host.role].items():
                    if away or (kind == "planware" and day % 7 not in PLANWARE_DAYS):
                        continue
                    for _ in range(self._count(SCALE * rate * (mood if people else 1))):
                        place, service, script = getattr(self, f"_{kind}")(host)
                        when = split.when(day, self._hour(host, kind))
                        out.append(
                            Session(
                                when, host, place, service, script, pace=_pace(kind)
                            )
                        )
        return sorted(out, key=lambda session: session.when)

    def _hour(self, host: Host, kind: str) -> float:
        rng = self.rng
        if host.zone == "servers" and kind in NIGHT:
            return NIGHT[kind] + rng.uniform(0, 0.3)
        if host.role in ("cameras", "things") or host.zone == "servers":
            return rng.uniform(0.1, 23.9)
        if rng.random() < 0.03:
            return rng.uniform(18.5, 22.5)
        early = -0.8 if host.role == "finance" else 0.7 * (host.role == "developers")
        centre, width = rng.choice([(10.1, 1.1), (14.8, 1.4)])
        return min(max(rng.gauss(centre + early, width), 6.8), 19.6)

    def _curl(self, host: Host, rest: str) -> str:
        command = super()._curl(host, rest)
        if host.name not in self.places.behind_proxy:
            return command
        proxy = "http://proxy.corp.example:3128"
        return (
            f"http_proxy={proxy} https_proxy={proxy} no_proxy=.corp.example {command}"
        )

    def _name(self, names: dict[str, str]) -> str:
        return self._weighted(names)

    def _document(self) -> str:
        kinds = (
            self.corpus.documents, self.corpus.photos, self.corpus.tables,
            self.corpus.packages,
        )  # fmt: skip
        return self.rng.choice(self.rng.choices(kinds, (60, 20, 15, 5))[0])

    # What follows is one method per habit: (place, service, command).

    def _mail(self, host: Host) -> tuple[str, str, str]:
        if self.rng.random() < 0.35:
            return super()._mail(host)
        mail = self.rng.choice(self.corpus.mails)
        domain, _ = self.places.pick_domain(self.rng)
        tls = "--ssl-reqd -k" if sum(host.name.encode()) % 2 else ""
        return f"mx.{domain}", "smtp", (
            f"curl -sS {tls} smtp://relay.corp.example:25/{host.name} -T $C/{mail}"
            f" --mail-from {host.name}@corp.example --mail-rcpt info@{domain};"
            " sleep 0.25"
        )  # fmt: skip

    def _form(self, host: Host) -> tuple[str, str, str]:
        site = self.places.pick_site(self.rng, host)
        words = "+".join(self.rng.choices(("order", "offer", "date", "city"), k=9))
        body = f"-d 'name={host.name}&note={words}&n={self.rng.randrange(10**9)}'"
        scheme = "http" if sum(site.name.encode()) % 6 == 0 else "https"
        url = f"{scheme}://{site.name}/api/form"
        return site.name, scheme, self._curl(host, f"{body} {url}")

    def _rest(self, host: Host) -> tuple[str, str, str]:
        name = self.rng.choice(
            (
                "collect.metricbeat.example",
                "api.billing.example",
                "hr.peopledesk.example",
            )
        )
        body = f"-X PUT -H 'Content-Type: application/json' -d @$C/{self._json()}"
        return self._https(host, name, f"{body} https://{name}/v1/items")

    def _download(self, host: Host) -> tuple[str, str, str]:
        weights = [1 / (rank + 1) ** 1.3 for rank in range(len(self.large))]
        file = self.rng.choices(self.large, weights)[0]
        if self.rng.random() < 0.5:
            site = self.places.pick_site(self.rng, host).name
        else:
            site = "cdn.osvendor.example"
        return site, "https", self._curl(host, f"https://{site}/{file}")

    def _upgrade(self, host: Host) -> tuple[str, str, str]:
        name = "update.osvendor.example"
        file = self.large[min(int(self.rng.expovariate(1.2)), len(self.large) - 1)]
        urls = f"http://{name}/{self._json()} http://{name}/{file}"
        return name, "http", self._curl(host, urls)

    def _share(self, host: Host) -> tuple[str, str, str]:
        name = "share.filedrop.example"
        file = self.rng.choice(self.large[:4] + self.corpus.documents)
        return self._https(host, name, f"-F file=@$C/{file} https://{name}/upload")

    def _snippet(self, host: Host) -> tuple[str, str, str]:
        name = "paste.snippets.example"
        rest = f"--data-binary @$C/{self._path()} https://{name}/api/paste"
        return self._https(host, name, rest)

    def _crash(self, host: Host) -> tuple[str, str, str]:
        name = "crash.browserco.example"
        dump = self.rng.choice(self.corpus.packages)
        rest = f"-F dump=@$C/{dump} https://{name}/v1/report"
        return self._https(host, name, rest)

    def _cloud_backup(self, host: Host) -> tuple[str, str, str]:
        name = "objects.cloudvault.example"
        files = [*self.rng.sample(self.large[:6], 2), "nightly/journal.xml.xz"]
        puts = " ".join(
            f"-T $C/{file} https://{name}/v1/store/{self.rng.randrange(10**6)}"
            for file in files
        )
        return self._https(host, name, puts)

    def _quic(self, _: Host) -> tuple[str, str, str]:
        name = self._name(self.places.quic)
        sizes = [int(self.rng.lognormvariate(11, 1.3)) for _ in range(3)]
        return name, "quic", (
            f"dig +short {name} >/dev/null; $PY $L/quic.py get"
            f" {self.places.quic[name]} {name} {' '.join(map(str, sizes))}"
        )  # fmt: skip

    def _talk(self, _: Host) -> tuple[str, str, str]:
        name = self._name(self.places.sockets)
        scheme = "ws" if name.startswith("ws.") else "wss"
        count = self.rng.randint(3, 25)
        script = f"$PY $L/talk.py ws {scheme}://{name}/ws '' {count} 0.015"
        return name, "websocket", script

    def _call(self, _: Host) -> tuple[str, str, str]:
        name = self._name(self.places.calls)
        packets = min(int(self.rng.lognormvariate(5.6, 0.9)) + 60, 2500)
        size = self.rng.choice((180, 700, 1000))
        return name, "rtp", (
            f"dig +short {name} >/dev/null;"
            f" $PY $L/talk.py call {self.places.calls[name]} 3478 {packets} {size}"
        )  # fmt: skip

    def _planware(self, _: Host) -> tuple[str, str, str]:
        name = "license.planware.example"
        count, size = self.rng.randint(4, 14), self.rng.choice((120, 400, 1400))
        address, port = self.places.opaque[name], self.places.opaque_port
        return name, "opaque", (
            f"dig +short {name} >/dev/null;"
            f" $PY $L/talk.py chat tcp {address} {port} {count} {size} 0.01"
        )  # fmt: skip

    def _relay_cloud(self, _: Host) -> tuple[str, str, str]:
        name = "relay.lenscloud.example"
        count, size = self.rng.randint(5, 30), self.rng.choice((90, 600))
        address, port = self.places.opaque[name], self.places.relay_port
        return name, "opaque", (
            f"dig +short {name} >/dev/null;"
            f" $PY $L/talk.py chat udp {address} {port} {count} {size} 0.005"
        )  # fmt: skip

    def _reputation(self, _: Host) -> tuple[str, str, str]:
        # Virus scanners ask about files by their hash, in a name.
        zone = next(iter(self.places.zones))
        names = [
            f"{self.rng.randbytes(20).hex()}.{self.rng.randrange(9)}.{zone}"
            for _ in range(self.rng.randint(1, 4))
        ]
        return zone, "dns", f"dig +short {' '.join(names)} >/dev/null"

    def _lost(self, host: Host) -> tuple[str, str, str]:
        # A server that is gone, a name that never was.
        site = self.places.pick_site(self.rng, host)
        if self.rng.random() < 0.5:
            return site.name, "dns", f"dig +short ww.{site.name}.invalid >/dev/null"
        return site.name, "refused", (
            f"curl -sS -m 2 http://{site.name}:{self.rng.choice((81, 8443, 8880))}/"
            " >/dev/null 2>&1; true"
        )  # fmt: skip

    def _submit(self, host: Host) -> tuple[str, str, str]:
        # A form with an attachment, at whatever site asks for one.
        site = self.places.pick_site(self.rng, host)
        scheme = "http" if sum(site.name.encode()) % 6 == 0 else "https"
        large = self.rng.random() < 0.08
        file = self.rng.choice(self.large[:5]) if large else self._document()
        rest = f"-F file=@$C/{file} -F note=hello {scheme}://{site.name}/upload"
        return site.name, scheme, self._curl(host, rest)

    def _beacon(self, host: Host) -> tuple[str, str, str]:
        # What pages report home: small, and coded so that nobody reads it.
        site = self.places.pick_site(self.rng, host)
        scheme = "http" if sum(site.name.encode()) % 6 == 0 else "https"
        size = min(int(self.rng.lognormvariate(6.2, 1.0)), 12_000)
        data = f"head -c {size} /dev/urandom | base64 -w 0"
        rest = f"--data-binary @- {scheme}://{site.name}/api/b"
        return site.name, scheme, f"{data} | {self._curl(host, rest)}"

    def _blob(self, host: Host) -> tuple[str, str, str]:
        # A vendor's own encryption in the body of plain HTTP.
        name = "stat.homething.example"
        size = min(int(self.rng.lognormvariate(6.8, 1.1)), 60_000)
        kind = "-H 'Content-Type: application/octet-stream'"
        rest = self._curl(host, f"{kind} --data-binary @- http://{name}/api/blob")
        return name, "http", f"head -c {size} /dev/urandom | {rest}"

    def _peer(self, _: Host) -> tuple[str, str, str]:
        weights = [1 / (rank + 1) ** 0.6 for rank in range(len(self.places.peers))]
        peer = self.rng.choices(self.places.peers, weights)[0]
        ip, port = str(peer["ip"]), peer["port"]
        if peer["kind"] == "mirror":
            count = min(int(self.rng.lognormvariate(5.2, 0.9)) + 20, 1500)
            size = self.rng.choice((180, 700, 1000))
            return ip, "peer", f"$PY $L/talk.py call {ip} {port} {count} {size}"
        kind = "tcp" if peer["kind"] == "chatty" else "udp"
        count, size = self.rng.randint(4, 60), self.rng.choice((60, 300, 1100))
        return (
            ip,
            "peer",
            f"$PY $L/talk.py chat {kind} {ip} {port} {count} {size} 0.004",
        )

    def _smb(self, host: Host) -> tuple[str, str, str]:
        name = "files.corp.example"
        file = self._document()
        if self.rng.random() < 0.5:
            command = f"lcd $C; put {file} {host.name}-{file}"
        else:
            command = f"get {self.rng.choice(self.corpus.documents)} /dev/null"
        return name, "smb", (
            f"smbclient -s $W/smbclient.conf -N -d 0 //{name}/share -c '{command}'"
            " >/dev/null"
        ).replace("$C", str(self.corpus.root))  # fmt: skip

    def _db(self, _: Host) -> tuple[str, str, str]:
        name = "db.corp.example"
        table = self.rng.choice(self.corpus.tables)
        rows = f"generate_series(1, {self.rng.randint(1, 200)}) g"
        query = self.rng.choice((
            "select kind, count(*), avg(amount) from orders group by kind",
            f"select * from orders order by id desc limit {self.rng.randint(5, 400)}",
            f"insert into orders select g, 'kind', g from {rows}",
        ))  # fmt: skip
        psql = f"psql -q -X -h {name} -U app -d app"
        if self.rng.random() < 0.3:
            run = f"cut -c1-200 $C/{table} | {psql} -c 'copy notes from stdin'"
            return name, "postgresql", run
        return name, "postgresql", f'{psql} -c "{query}" >/dev/null'

    def _vpn(self, _: Host) -> tuple[str, str, str]:
        name = "vpn.partnernet.example"
        files = self.rng.choices(self.corpus.documents + self.corpus.pages, k=3)
        load = " ".join(f"http://10.99.0.1:8088/{file}" for file in files)
        up = f"curl -sS -m 9 -T $C/{self._doc()} http://10.99.0.1:8088/dav/a"
        return (
            name,
            "openvpn",
            tunnel(self.client, f"curl -sS -m 9 {load} >/dev/null && {up} >/dev/null"),
        )

    # The command line of the known tunnel's client; set once keys exist.
    client = ""


def tunnel(client: str, load: str, far: str = "10.99.0.1") -> str:
    """Return a script that opens an OpenVPN tunnel, runs `load` and closes it."""
    return (
        f"{client} >$W/vpn.log 2>&1 & tunnel=$!;"
        " for i in $(seq 80); do sleep 0.05;"
        f" ping -q -c 1 -W 1 {far} >/dev/null 2>&1 && break; done;"
        f" {load} || exit 1; kill $tunnel; wait $tunnel; true"
    )


def _pace(kind: str) -> float:
    """Return how much slower a session of this kind is in virtual time."""
    return {
        "talk": 1500.0, "call": 400.0, "relay_cloud": 600.0, "planware": 300.0, "peer": 500.0,
        "vpn": 120.0, "quic": 30.0, "download": 20.0, "imap": 40.0,
    }.get(kind, 4.0)  # fmt: skip
