"""Benign life of the site: who does what, how often, at which hour.

A session is one run of a real client, written as the shell command that a person or a
job would have typed. Sessions are drawn from the seed; nothing here runs anything. One file because
all sessions of a day compete for the same hosts, places and hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sample_lab.world import AGENTS

if TYPE_CHECKING:
    import random

    from sample_lab.content import Corpus
    from sample_lab.world import Host, World

MONDAY = datetime(2024, 3, 4, tzinfo=UTC).timestamp()
DAY = 86_400.0
HALVES = {"baseline": range(5), "test": range(7, 9)}


@dataclass
class Session:
    """One client run: when (virtual, epoch seconds), who, where to, and how.

    ``pace`` is how many virtual seconds a pause of one real second becomes, in labs
    that stretch time.
    """

    when: float
    host: Host
    place: str
    service: str
    script: str
    scenario: str = ""
    label: str = ""
    pace: float = 1.0


# Sessions a day and host. Fractions are chances: 0.4 is two working days in five.
RATES: dict[str, dict[str, float]] = {
    "sales": {
        "web": 6, "api": 1.1, "mail": 0.9, "imap": 1, "crm": 0.6, "files": 0.6,
        "phone": 0.5, "ntp": 0.5, "telemetry": 0.6, "photo": 0.3, "drive": 0.3,
        "print": 0.1,
    },
    "developers": {
        "web": 5.6, "api": 1.5, "imap": 0.8, "mail": 0.5, "fetch": 0.9, "push": 0.7,
        "clone": 0.5, "package": 0.7, "redis": 0.8, "deploy": 0.6, "shell": 0.5,
        "ntp": 0.5, "registry": 0.5, "dig": 0.4, "internal_git": 0.6, "mirror": 0.2,
        "telemetry": 0.4, "status": 0.4,
    },
    "finance": {
        "web": 5.2, "api": 0.8, "mail": 0.9, "imap": 1, "bank": 0.8, "bankfile": 0.6,
        "tax": 0.3, "files": 0.8, "phone": 0.5, "ntp": 0.5, "telemetry": 0.6,
        "drive": 0.4, "crm": 0.3,
    },
    "cameras": {
        "snapshot": 1.7, "clip": 0.9, "mqtt": 2.2, "ntp": 0.9, "firmware": 0.3,
        "sensor": 0.8, "lens_api": 0.8, "syslog": 0.7,
    },
    "fileserver": {
        "backup": 1, "vault_check": 1, "ntp": 1, "syslog": 1, "package": 1,
        "telemetry": 1,
    },
    "mailrelay": {"relay": 7, "ntp": 1, "syslog": 1, "package": 0.7, "dig": 1.5},
    "build": {
        "fetch": 1.4, "package": 1, "registry": 1, "deploy": 1, "redis": 1.4,
        "clone": 0.7, "mirror": 0.5, "ntp": 1, "status": 0.7, "syslog": 0.7,
    },
    "monitor": {
        "ping": 2.4, "status": 1.4, "forward": 1.5, "dig": 1.5, "ntp": 1, "sensor": 1,
        "probe": 1.6,
    },
}  # fmt: skip
# Night jobs and their hour; all else follows the working day of its host.
NIGHT = {"backup": 1.4, "vault_check": 4.2, "package": 5.6, "mirror": 3.1}


class Schedule:
    """Draws the benign sessions of a half of the sample.

    Parameters
    ----------
    rng
        Source of every choice.
    places
        The outside world.
    corpus
        Files that can be fetched and sent.
    """

    def __init__(self, rng: random.Random, places: World, corpus: Corpus) -> None:
        self.rng = rng
        self.places = places
        self.corpus = corpus

    def half(self, name: str) -> list[Session]:
        """Return the sessions of one half, in order of time."""
        out: list[Session] = []
        for day in HALVES[name]:
            for host in self.places.hosts:
                if host.only_test and name != "test":
                    continue
                for kind, rate in RATES[host.role].items():
                    for _ in range(self._count(rate)):
                        place, service, script = getattr(self, f"_{kind}")(host)
                        when = MONDAY + day * DAY + self._hour(host, kind) * 3600
                        out.append(Session(when, host, place, service, script))
        return sorted(out, key=lambda session: session.when)

    def _count(self, rate: float) -> int:
        noisy = rate * self.rng.lognormvariate(0, 0.25) if rate > 1 else rate
        whole = math.floor(noisy)
        return whole + (self.rng.random() < noisy - whole)

    def _hour(self, host: Host, kind: str) -> float:
        rng = self.rng
        if host.zone == "servers" and kind in NIGHT:
            return NIGHT[kind] + rng.uniform(0, 0.3)
        if host.role == "cameras" or host.zone == "servers":
            return rng.uniform(0.1, 23.9)
        # Two humps with lunch between them, and now and then a late evening.
        if rng.random() < 0.03:
            return rng.uniform(18.5, 22)
        centre, width = rng.choice([(10.3, 1.1), (14.9, 1.4)])
        return min(max(rng.gauss(centre, width), 7.2), 18.9)

    # What follows is one method per habit: (place, service, command).

    def _curl(self, host: Host, rest: str) -> str:
        agent = AGENTS[sum(host.ip.encode()) % len(AGENTS)]
        # Some machines run an older TLS library than the rest.
        old = "--tls-max 1.2 " if sum(host.ip.encode()) % 4 == 0 else ""
        return f"curl -sS -m 20 {old}-A '{agent}' {rest} >/dev/null"

    def _path(self) -> str:
        kinds = (
            self.corpus.pages, self.corpus.api, self.corpus.photos, self.corpus.tables,
        )  # fmt: skip
        return self.rng.choice(self.rng.choices(kinds, (60, 22, 14, 4))[0])

    def _web(self, host: Host) -> tuple[str, str, str]:
        site = self.places.pick_site(self.rng, host)
        scheme = "http" if sum(site.name.encode()) % 6 == 0 else "https"
        more = self.rng.choices((1, 2, 3), (80, 15, 5))[0]
        urls = " ".join(f"{scheme}://{site.name}/{self._path()}" for _ in range(more))
        return site.name, scheme, self._curl(host, f"--compressed {urls}")

    def _api(self, host: Host) -> tuple[str, str, str]:
        site = self.places.pick_site(self.rng, host)
        if self.rng.random() < 0.5:
            body = f"-H 'Content-Type: application/json' -d @$C/{self._json()}"
        else:
            body = f"-d 'user={host.name}&q={self.rng.random()}&page=2&lang=en'"
        return site.name, "https", self._curl(host, f"{body} https://{site.name}/api/q")

    def _json(self) -> str:
        return self.rng.choice(self.corpus.api)

    def _doc(self) -> str:
        return self.rng.choice(self.corpus.documents)

    def _https(self, host: Host, name: str, rest: str) -> tuple[str, str, str]:
        return name, "https", self._curl(host, f"{rest}")

    def _crm(self, host: Host) -> tuple[str, str, str]:
        name = "crm.salesdesk.example"
        return self._https(
            host, name, f"-F doc=@$C/{self._doc()} https://{name}/upload"
        )

    def _drive(self, host: Host) -> tuple[str, str, str]:
        name = "drive.mailhost.example"
        doc = self._doc()
        return self._https(host, name, f"-T $C/{doc} https://{name}/dav/{doc}")

    def _photo(self, host: Host) -> tuple[str, str, str]:
        site = self.places.pick_site(self.rng, host)
        photo = self.rng.choice(self.corpus.photos)
        rest = f"-F photo=@$C/{photo} -F caption=hello https://{site.name}/upload"
        return self._https(host, site.name, rest)

    def _telemetry(self, host: Host) -> tuple[str, str, str]:
        name = "telemetry.osvendor.example"
        body = "-H 'Content-Encoding: gzip' --data-binary @-"
        script = self._curl(host, f"{body} https://{name}/v1/events")
        return name, "https", f"gzip -c $C/{self._json()} | {script}"

    def _status(self, host: Host) -> tuple[str, str, str]:
        name = "status.hostline.example"
        return self._https(host, name, f"https://{name}/{self._json()}")

    def _bank(self, host: Host) -> tuple[str, str, str]:
        name = "portal.bankgate.example"
        urls = f"https://{name}/{self._path()} https://{name}/{self._path()}"
        return self._https(host, name, urls)

    def _registry(self, host: Host) -> tuple[str, str, str]:
        name = "registry.codeforge.example"
        layer = self.rng.choice(self.corpus.packages)
        if self.rng.random() < 0.5:
            return self._https(host, name, f"https://{name}/{layer}")
        return self._https(host, name, f"-T $C/{layer} https://{name}/v1/{layer}")

    def _package(self, host: Host) -> tuple[str, str, str]:
        name = "packages.debmirror.example"
        urls = f"http://{name}/{self._json()} http://{name}/{self._pkg()}"
        return name, "http", self._curl(host, urls)

    def _pkg(self) -> str:
        # Small packages are fetched far more often than large ones.
        sizes = [1 / (20_000 + self.corpus.size(p)) for p in self.corpus.packages]
        return self.rng.choices(self.corpus.packages, sizes)[0]

    def _probe(self, host: Host) -> tuple[str, str, str]:
        # The servers have no IPv6, which the sixth site needs.
        site = self.places.sites[self.rng.randrange(5)]
        return site.name, "https", self._curl(host, f"-I https://{site.name}/")

    def _files(self, host: Host) -> tuple[str, str, str]:
        name = "files.corp.example"
        doc = self._doc()
        if self.rng.random() < 0.5:
            return name, "http", self._curl(host, f"http://{name}/{doc}")
        return name, "http", self._curl(host, f"-T $C/{doc} http://{name}/dav/{doc}")

    def _phone(self, host: Host) -> tuple[str, str, str]:
        name = "provision.corp.example"
        return name, "tftp", self._curl(host, f"tftp://{name}/phone.cfg")

    def _ntp(self, _: Host) -> tuple[str, str, str]:
        name = self.rng.choice(list(self.places.ntp))
        # -Q asks once and prints; it does not set any clock.
        return name, "ntp", (
            f"chronyd -Q -t 3 -f /dev/null 'server {name} iburst maxsamples 1'"
            " 'cmdport 0' 'pidfile /run/ask.pid' 'user root'"
        )  # fmt: skip

    def _mail(self, host: Host) -> tuple[str, str, str]:
        name = "smtp.mailhost.example"
        mail = self.rng.choice(self.corpus.mails)
        return name, "submission", (
            f"curl -sS --ssl-reqd smtp://{name}:587/{host.name} -T $C/{mail}"
            f" --mail-from {host.name}@corp.example"
            f" --mail-rcpt info@{self.places.pick_domain(self.rng)[0]}"
        )  # fmt: skip

    def _imap(self, host: Host) -> tuple[str, str, str]:
        name = "imap.mailhost.example"
        box = f"imaps://{name}/INBOX"
        box += (
            f";MAILINDEX={self.rng.randint(1, 16)}" if self.rng.random() < 0.7 else ""
        )
        return name, "imaps", f"curl -sS -u {host.name}:x '{box}' >/dev/null"

    def _relay(self, host: Host) -> tuple[str, str, str]:
        domain, _ = self.places.pick_domain(self.rng)
        mail = self.rng.choice(self.corpus.mails)
        # Some exchangers of the world still take mail in the clear.
        tls = "" if sum(domain.encode()) % 4 == 0 else "--ssl-reqd -k"
        return f"mx.{domain}", "smtp", (
            f"dig +short MX {domain} @{self.places.resolver} >/dev/null;"
            f" curl -sS {tls} smtp://mx.{domain}:25/{host.name}.corp.example"
            f" --mail-from office@corp.example --mail-rcpt info@{domain} -T $C/{mail}"
        )  # fmt: skip

    def _print(self, host: Host) -> tuple[str, str, str]:
        return self._ftp(host, "ftp.printworks.example", f"-T $C/{self._doc()}")

    def _tax(self, host: Host) -> tuple[str, str, str]:
        table = self.rng.choice(self.corpus.tables)
        return self._ftp(host, "ftp.taxportal.example", f"-T $C/{table}")

    def _clip(self, host: Host) -> tuple[str, str, str]:
        photo = self.rng.choice(self.corpus.photos)
        # One camera model knows active mode only.
        mode = "-P -" if host.name.endswith("3") else ""
        return self._ftp(host, "nvr.lenscloud.example", f"{mode} -T $C/{photo}")

    def _ftp(self, host: Host, name: str, rest: str) -> tuple[str, str, str]:
        script = f"curl -sS --disable-eprt -u {host.name}:corp {rest} ftp://{name}/in/"
        return name, "ftp", script

    def _firmware(self, _: Host) -> tuple[str, str, str]:
        name = "mirror.opensource.example"
        script = f"curl -sS ftp://{name}/ >/dev/null"
        return name, "ftp", script

    def _snapshot(self, host: Host) -> tuple[str, str, str]:
        name = "api.lenscloud.example"
        photo = self.rng.choice(self.corpus.photos)
        rest = f"--data-binary @$C/{photo} -H 'Content-Type: image/jpeg'"
        return self._https(host, name, f"{rest} https://{name}/v1/snapshot")

    def _lens_api(self, host: Host) -> tuple[str, str, str]:
        name = "api.lenscloud.example"
        return self._https(host, name, f"https://{name}/{self._json()}")

    def _mqtt(self, host: Host) -> tuple[str, str, str]:
        name = "broker.lenscloud.example"
        return name, "mqtts", (
            f"mosquitto_pub -h {name} -p 8883 --cafile $W/ca.crt -q 1 -i {host.name}"
            f" -t cam/{host.name}/state -f $C/{self._json()}"
        )  # fmt: skip

    def _sensor(self, host: Host) -> tuple[str, str, str]:
        name = "iot.buildsense.example"
        value = round(self.rng.gauss(21, 1.5), 2)
        return name, "mqtt", (
            f"mosquitto_pub -h {name} -p 1883 -q 1 -i {host.name} -t room/{host.name}"
            f" -m '{{\"temperature\":{value},\"humidity\":41,\"battery\":97}}'"
        )  # fmt: skip

    def _syslog(self, host: Host) -> tuple[str, str, str]:
        text = f"session {self.rng.randrange(9999)} opened for user {host.name}"
        return "log.corp.example", "syslog", (
            f"logger -d -n log.corp.example -P 514 -t {host.role} '{text}'"
        )  # fmt: skip

    def _forward(self, _: Host) -> tuple[str, str, str]:
        name = "collector.logwatch.example"
        lines = self.rng.randint(1, 6)
        return name, "syslog", (
            f"head -{lines} $C/{self.rng.choice(self.corpus.tables)}"
            f" | logger -d -n {name} -P 514 -t forward"
        )  # fmt: skip

    def _ping(self, _: Host) -> tuple[str, str, str]:
        site = self.places.sites[self.rng.randrange(8)]
        address = site.ip
        return address, "icmp", f"ping -q -i 0.01 -c 3 {address}"

    def _dig(self, _: Host) -> tuple[str, str, str]:
        server = self.rng.choice(self.places.public_resolvers)
        domain, _ip = self.places.pick_domain(self.rng)
        kind = self.rng.choice(("MX", "A", "TXT"))
        return server, "dns", f"dig +short {kind} {domain} @{server}"

    def _redis(self, host: Host) -> tuple[str, str, str]:
        key = f"job:{self.rng.randrange(500)}"
        value = self._json()
        return "cache.corp.example", "redis", (
            f"redis-cli -h cache.corp.example -x SET {key}:{host.name} < $C/{value};"
            f" redis-cli -h cache.corp.example GET {key}:{host.name}"
        )  # fmt: skip

    def _weighted(self, names: dict[str, str]) -> str:
        weights = [1 / (rank + 1) ** 1.4 for rank in range(len(names))]
        return self.rng.choices(list(names), weights)[0]

    def _git_url(self, name: str) -> str:
        repo = self.rng.choice(("app", "web", "infra", "docs"))
        return f"ssh://{name}$W/repos/{repo}.git"

    def _fetch(self, _: Host) -> tuple[str, str, str]:
        names = {n: ip for n, ip in self.places.ssh.items() if n.startswith("git.")}
        name = self._weighted(names)
        return name, "ssh", (
            f"d=$(mktemp -d $W/clone.XXXX);"
            f" git clone -q --depth 1 {self._git_url(name)} $d; rm -rf $d"
        )  # fmt: skip

    def _push(self, _: Host) -> tuple[str, str, str]:
        return self._change("git.codeforge.example")

    def _internal_git(self, _: Host) -> tuple[str, str, str]:
        return self._change("git.corp.example")

    def _change(self, name: str) -> tuple[str, str, str]:
        document = self.rng.choice(self.corpus.pages)
        return name, "ssh", (
            f"d=$(mktemp -d $W/clone.XXXX);"
            f" git clone -q --depth 1 {self._git_url(name)}"
            f" $d && cd $d && cp $C/{document} doc{self.rng.randrange(999)}.html"
            " && git add . && git commit -qm change && git push -q origin HEAD:main;"
            " rm -rf $d"
        )  # fmt: skip

    def _clone(self, _: Host) -> tuple[str, str, str]:
        name = self._weighted(self.places.git)
        repo = self.rng.choice(("app", "web"))
        return name, "git", (
            f"d=$(mktemp -d $W/clone.XXXX); git clone -q git://{name}/{repo}.git $d;"
            " rm -rf $d"
        )  # fmt: skip

    def _deploy(self, host: Host) -> tuple[str, str, str]:
        name = self.rng.choice(("deploy.hostline.example", "staging.hostline.example"))
        file = self._pkg() if host.role == "build" else self._doc()
        return name, "ssh", f"scp -q $SSH $C/{file} {name}:$W/sink/{host.name}-{file}"

    def _shell(self, _: Host) -> tuple[str, str, str]:
        name = self._weighted(dict(list(self.places.ssh.items())[2:]))
        command = self.rng.choice(("uptime", "ls /usr/bin", "df -h; ps ax", "id"))
        return name, "ssh", f"ssh $SSH {name} '{command}' >/dev/null"

    def _bankfile(self, host: Host) -> tuple[str, str, str]:
        name = "sftp.bankgate.example"
        table = self.rng.choice(self.corpus.tables)
        return name, "ssh", (
            f'echo "put $C/{table} $W/sink/{host.name}.csv" | sftp -q -b - $SSH {name}'
        )  # fmt: skip

    def _mirror(self, _: Host) -> tuple[str, str, str]:
        name = self._weighted(self.places.rsync)
        part = self.rng.choice(
            ("page1?.html", "api?.json", "export*.csv", "photo3.jpg")
        )
        return name, "rsync", (
            f"d=$(mktemp -d $W/clone.XXXX);"
            f" rsync -az rsync://{name}/mirror/'{part}' $d/;"
            " rm -rf $d"
        )  # fmt: skip

    def _backup(self, _: Host) -> tuple[str, str, str]:
        name = "vault.safebackup.example"
        # Yesterday's files come back unchanged, some are new: what rsync then sends
        # differs from night to night by a factor of several.
        keep = self.rng.randint(3, 11)
        return name, "ssh", (
            f"d=$W/sink/vault; mkdir -p $d;"
            f" cp -n $C/nightly/share[0-{keep % 8}].zip $d/;"
            f" rsync -a $C/nightly/ {name}:$d/; rm -rf $d"
        )  # fmt: skip

    def _vault_check(self, _: Host) -> tuple[str, str, str]:
        name = "vault.safebackup.example"
        return name, "ssh", f"ssh $SSH {name} 'ls -l $W/sink | tail -5' >/dev/null"
