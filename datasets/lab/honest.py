"""Hard negatives: honest transfers that look like theft, each labelled as what it is.

One function each; `HONEST` lists them. All are new to the site in the test days.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.habits import tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.scenarios import Planner

PROXY = "-x http://proxy.corp.example:3128 "
POST = "curl -sS -m 60 -H Expect: -o /dev/null "
# Over this tunnel: a backup up, a film down.
_LOAD = (
    "curl -sS -m 9 -T $C/nightly/share11.zip http://{far}:8088/dav/a -o /dev/null"
    " && curl -sS -m 9 http://{far}:8088/large0.bin -o /dev/null"
)
_WIREGUARD = (
    "d=wg1; WG_PROCESS_FOREGROUND=1 wireguard-go -f $d >$W/wg.log 2>&1 & tunnel=$!;"
    " for i in $(seq 60); do wg show $d >/dev/null 2>&1 && break; sleep 0.05; done;"
    " wg set $d private-key $W/wg.client peer $(cat $W/wg.server.pub)"
    " endpoint {ip}:51820 allowed-ips 10.97.0.0/24 persistent-keepalive 25;"
    " ip addr add 10.97.0.2/24 dev $d; ip link set $d mtu 1380 up;"
    " for i in $(seq 80); do ping -q -c 1 -W 1 10.97.0.1 >/dev/null 2>&1 && break;"
    " sleep 0.05; done; {load} || exit 1; kill $tunnel; wait $tunnel; true"
)
PEOPLE = "sales developers finance"


def first_backup(plan: Planner) -> None:
    """Back up to a new provider for the first time, over ssh or HTTPS."""
    name, _ = plan.name("cloud" if plan.index else "new", first="vault")
    if plan.index == 1:
        plan.shells.append(name)
        own = plan.honest("first-backup", "developers", name, "ssh/22")
        script = f"rsync -a $C/nightly $C/large3.bin {name}:$W/sink/first/"
    else:
        own = plan.honest("first-backup", "fileserver developers", name, "https/443")
        puts = " ".join(
            f"-T $C/nightly/share{i}.zip https://{name}/dav/{i}" for i in (2, 5, 8, 11)
        )
        script = f"{POST} {puts} -T $C/large4.bin https://{name}/dav/big"
    plan.add_at_work(own, script)


def new_vpn(plan: Planner) -> None:
    """Use a VPN that nobody had before: WireGuard, or OpenVPN on another port."""
    name, ip = plan.name(first="vpn")
    if plan.index == 1:
        own = plan.honest("new-vpn", "sales", name, "openvpn/1195")
        plan.vpns[name] = ip
        script = f"@OPENVPN {_LOAD.format(far='10.98.0.1')}"
    else:
        own = plan.honest("new-vpn", "developers", name, "wireguard/51820")
        script = _WIREGUARD.format(ip=ip, load=_LOAD.format(far="10.97.0.1"))
    plan.add_at_work(own, script, pace=60.0)


def finish(plan: Planner, openvpn: str) -> None:
    """Put the command line of the new tunnel's client, once known, into its script."""
    for scenario in plan.scenarios:
        for session in scenario.sessions:
            if session.script.startswith("@OPENVPN "):
                load = session.script.removeprefix("@OPENVPN ")
                session.script = tunnel(openvpn, load, "10.98.0.1")


def speed_test(plan: Planner) -> None:
    """Test the line's speed: random bytes down and up, in HTTP on another port."""
    name, ip = plan.name(first="speed")
    plan.web_ports.append((name, ip, 8080))
    own = plan.honest("speed-test", "sales developers", name, "http/8080")
    url = f"http://{name}:8080"
    plan.add_at_work(
        own,
        f"curl -sS -m 30 {url}/large4.bin -o /dev/null &&"
        f" {POST}--data-binary @$C/noise{plan.index}.bin {url}/upload",
    )


def new_call_server(plan: Planner) -> None:
    """Call by video at a server of somebody else."""
    name, ip = plan.name(first="meet")
    port = (10000, 19302, 50004)[plan.index]
    plan.answers.append({"kind": "mirror", "ip": ip, "port": port})
    own = plan.honest("new-call-server", "sales finance", name, f"rtp/{port}")
    count = plan.rng.randint(1200, 3000)
    script = f"$PY $L/talk.py call {ip} {port} {count} 1000"
    plan.add_at_work(own, f"dig +short {name} >/dev/null; {script}", pace=300.0)


def large_https_upload(plan: Planner) -> None:
    """Send a film to a new place by HTTPS."""
    name, _ = plan.name("cloud", first="send")
    own = plan.honest("large-https-upload", "sales finance", name, "https/443")
    file = f"$C/large{5 + plan.index % 2}.bin"
    plan.add_at_work(own, f"{POST}-T {file} https://{name}/dav/video.mp4")


def zip_post(plan: Planner) -> None:
    """Post a zip to a new portal by plain HTTP, in one split through the proxy."""
    name, _ = plan.name(first="portal")
    own = plan.honest("zip-post", "finance developers", name, "http/80")
    own.via = "proxy" if plan.index == 1 else ""
    proxy = PROXY if own.via else ""
    file = f"$C/nightly/share{9 - plan.index}.zip"
    plan.add_at_work(own, f"{POST}{proxy}-F report=@{file} http://{name}/upload")


def rsync_new_host(plan: Planner) -> None:
    """Rsync to a new host, by its own protocol or over ssh."""
    name, _ = plan.name(first="mirror")
    own = plan.honest("rsync-new-host", "developers", name, "rsync/873")
    to = f"rsync://{name}/in/"
    if plan.index == 1:
        own.carrier = "ssh/22"
        plan.shells.append(name)
        to = f"{name}:$W/sink/r7/"
    plan.add_at_work(own, f"rsync -a $C/album.zip $C/nightly {to}")


def new_iot_device(plan: Planner) -> None:
    """Let a new thing talk to its vendor all day, nobody knows about what."""
    name, ip = plan.name(first="iot")
    port = (6683, 8899, 20020)[plan.index]
    kind, answer = (("tcp", "chatty"), ("udp", "murmur"), ("tcp", "chatty"))[plan.index]
    plan.answers.append({"kind": answer, "ip": ip, "port": port})
    own = plan.honest("new-iot-device", "things", name, f"opaque {kind}/{port}")
    own.host = next(
        h.name for h in plan.places.hosts if h.role == "things" and h.only_test
    )
    own.pacing = "all day"
    for hour in range(1, 71, 2):
        count, size = plan.rng.randint(4, 12), plan.rng.choice((90, 250))
        script = f"$PY $L/talk.py chat {kind} {ip} {port} {count} {size} 0.01"
        plan.add(
            own,
            hour + plan.rng.uniform(0, 0.3),
            f"dig +short {name} >/dev/null; {script}",
            pace=900.0,
        )


def scp_new_host(plan: Planner) -> None:
    """Copy an archive to a developer's own host."""
    name, _ = plan.name(first="host")
    plan.shells.append(name)
    own = plan.honest("scp-new-host", "developers", name, "ssh/22")
    files = f"$C/nightly/share{8 + plan.index}.zip $C/album.zip"
    plan.add_at_work(own, f"scp -q $SSH {files} {name}:$W/sink/")


def locked_zip_mail(plan: Planner) -> None:
    """Mail a password-protected zip, as accountants do."""
    domain = plan.mail_domain()
    own = plan.honest("locked-zip-mail", "finance", domain, "mail/25")
    own.via = "relay"
    plan.add_at_work(
        own,
        f"curl -sS smtp://relay.corp.example:25/{own.host} -T $C/locked{plan.index}.eml"
        f" --mail-from office@corp.example --mail-rcpt box@{domain}; sleep 0.5",
    )


def whiteboard(plan: Planner) -> None:
    """Share a whiteboard over a WebSocket in TLS, at a content network."""
    name, _ = plan.name("cdn", first="board")
    own = plan.honest("whiteboard", "sales developers", name, "wss/443")
    script = f"$PY $L/talk.py ws wss://{name}/ws $C/album.zip 40 0.01"
    plan.add_at_work(own, script, pace=300.0)


def quic_upload(plan: Planner) -> None:
    """Upload a film from a browser over QUIC."""
    name, ip = plan.name("cloud", first="studio")
    plan.quic[name] = ip
    own = plan.honest("quic-upload", "sales", name, "quic/443")
    script = f"$PY $L/quic.py put {ip} {name} $C/large1.bin"
    plan.add_at_work(own, f"dig +short {name} >/dev/null; {script}")


HONEST: tuple[Callable[[Planner], None], ...] = (
    first_backup, new_vpn, speed_test, new_call_server, large_https_upload, zip_post,
    rsync_new_host, new_iot_device, scp_new_host, locked_zip_mail, whiteboard,
    quic_upload,
)  # fmt: skip
