"""The servers on both sides: Debian's packages, configured as shortly as they allow.

One file because each server takes a dozen lines and they share addresses, names and
certificates.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sample_lab.network import PATH

if TYPE_CHECKING:
    from sample_lab.network import Network
    from sample_lab.world import World

# Commands the lab needs and the Debian package that brings each.
PACKAGES = {
    "bash": "bash",
    "chronyd": "chrony",
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "dnsmasq": "dnsmasq-base",
    "dovecot": "dovecot-imapd",
    "exim4": "exim4-daemon-light",
    "git": "git",
    "ip": "iproute2",
    "logger": "bsdutils",
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "openvpn": "openvpn",
    "ping": "iputils-ping",
    "pkill": "procps",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "rsync": "rsync",
    "socat": "socat",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "sysctl": "procps",
    "tcpdump": "tcpdump",
    "vsftpd": "vsftpd",
}
VPN_PORT = "1194"


def missing_packages() -> list[str]:
    """Return the Debian packages whose commands are not installed."""
    return sorted({p for c, p in PACKAGES.items() if not shutil.which(c, path=PATH)})


def _openssl(work: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=work, capture_output=True, check=True)


class Servers:
    """Keys, configuration files and start-up of every server of the lab."""

    # Further lines for the resolver of the internet.
    more_records = ""
    brokers: tuple[str, ...] = ()
    locations = """
        location ~ ^/(api/|upload|v1/|dav/) { proxy_pass http://127.0.0.1:8081; }
    """

    def __init__(
        self,
        net: Network,
        places: World,
        *,
        extra: dict[str, str],
        shells: tuple[str, ...],
        sinks: list[str],
    ) -> None:
        self.net = net
        self.work = net.work
        self.places = places
        self.extra = extra
        self.shells = shells
        self.sinks = sinks

    def prepare(self) -> None:
        """Write everything that must exist before the namespaces are opened."""
        work = self.work
        (work / "resolv.conf").write_text(f"nameserver {self.places.resolver}\n")
        shutil.copytree("/etc/pam.d", work / "pam.d")
        # Any user name is welcome on the lab's FTP servers, as a guest.
        (work / "pam.d/lab-ftp").write_text(
            "auth required pam_permit.so\naccount required pam_permit.so\n"
        )
        for name in ("sink", "ftp", "mail", "exim", "repos", "nginx", "tftp"):
            (work / name).mkdir()
        shutil.chown(work / "exim", "Debian-exim", "Debian-exim")
        shutil.chown(work / "mail", "mail", "mail")
        (work / "ftp/in").mkdir()
        shutil.chown(work / "ftp/in", "ftp")
        self._keys()
        self._repositories()
        (work / "tftp/phone.cfg").write_text("vlan=8\nserver=10.20.0.53\n" * 20)

    def _keys(self) -> None:
        work = self.work
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl(
            work, "req", "-x509", *ec, "-days", "3650", "-subj", "/CN=Lab Root",
            "-keyout", "ca.key", "-out", "ca.crt",
        )  # fmt: skip
        (work / "certs").mkdir()
        _openssl(
            work, "req", "-new", *ec, "-subj", "/CN=lab", "-keyout", "site.key",
            "-out", "site.csr",
        )  # fmt: skip
        (work / "site.key").chmod(0o644)
        for name in self._tls_names():
            (work / "ext").write_text(f"subjectAltName=DNS:{name}\n")
            _openssl(
                work, "x509", "-req", "-in", "site.csr", "-CA", "ca.crt", "-CAkey",
                "ca.key", "-subj", f"/CN={name}", "-days", "3650", "-extfile", "ext",
                "-out", f"certs/{name}.crt",
            )  # fmt: skip
        for key in ("hostkey", "userkey"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / key],
                check=True,
            )
        (work / "ssh_config").write_text(
            f"User root\nIdentityFile {work}/userkey\nIdentitiesOnly yes\n"
            "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
            "AddressFamily inet\nKexAlgorithms curve25519-sha256\n"
        )

    def _tls_names(self) -> list[str]:
        names = [site.name for site in self.places.all_web()]
        return [
            *names,
            *self.extra,
            *self.places.mail,
            *self.places.mqtt,
            *self.places.internal_names,
            "mx",
        ]

    def _repositories(self) -> None:
        script = """
            RANDOM=7
            for name in app web infra docs; do
                git init -q --bare -b main $name.git
                git clone -q $name.git checkout 2>/dev/null
                cp ../corpus/page$((RANDOM % 40)).html ../corpus/api1*.json checkout/
                git -C checkout add . && git -C checkout commit -qm start
                git -C checkout push -q origin HEAD:main && rm -rf checkout
            done
        """
        subprocess.run(
            ["bash", "-ec", script], cwd=self.work / "repos", check=True, env=self.env()
        )

    def env(self) -> dict[str, str]:
        """Return the environment of client sessions."""
        work = self.work
        who = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", "Lab"), ("EMAIL", "lab@corp.example"))
        }
        return {
            **who,
            "PATH": PATH,
            "HOME": str(work),
            "W": str(work),
            "C": str(work / "corpus"),
            "CURL_CA_BUNDLE": str(work / "ca.crt"),
            "SSH": f"-F {work}/ssh_config",
            "GIT_SSH_COMMAND": f"ssh -F {work}/ssh_config",
            "RSYNC_RSH": f"ssh -F {work}/ssh_config",
        }

    def start(self) -> None:
        """Start every server and wait until the slow ones listen."""
        self._web()
        self._names()
        self._remote_shells()
        self._mail()
        self._files()
        self._rest()
        time.sleep(2.5)
        self.net.shell(
            "internet",
            "for p in 21 22 25 53 80 443 587 873 993 1883 8883 9418; do"
            ' ss -Hltn "sport = :$p" | grep -q . ||'
            ' { echo "no server on $p" >&2; exit 1; }'
            "; done",
        )

    def _write(self, name: str, text: str) -> str:
        path = self.work / name
        path.write_text(text)
        return str(path)

    def tls(self, ip: str) -> str:
        """Return what to add to the TLS socket of a web address."""
        return ""

    def more_web(self, zone: str) -> str:
        """Return further server blocks of a zone's nginx."""
        return ""

    def mail_rules(self, zone: str) -> str:
        """Return the end of an exim configuration: what becomes of a mail."""
        return (
            "acl_smtp_data = drop_it\nbegin acl\ntake:\n  accept\ndrop_it:\n  discard\n"
        )

    def _nginx(self, zone: str, sites: list[tuple[str, str]]) -> None:
        work = self.work
        blocks = "".join(
            f"""
            server {{ listen {ip}:80; listen {ip}:443 ssl{self.tls(ip)}; server_name {name};
                ssl_certificate {work}/certs/{name}.crt; include {work}/site.conf; }}"""
            for name, ip in sites
        )
        self._write("site.conf", self.locations)
        temp = "\n".join(
            f"{kind}_temp_path {work}/nginx/{zone}-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # The back end answers at once and the proxy reads the whole body first, which
        # is how an application server behind a proxy behaves towards the client.
        config = f"""
            user root; worker_processes 1; pid /run/nginx.pid; daemon off;
            error_log {work}/nginx-{zone}.log;
            events {{ worker_connections 4096; }}
            http {{
            access_log off; {temp}
            include /etc/nginx/mime.types; default_type application/octet-stream;
            root {work}/corpus; index page1.html;
            gzip on; gzip_min_length 400; gzip_proxied any;
            gzip_types text/css application/json text/csv application/javascript;
            server_names_hash_max_size 4096; server_names_hash_bucket_size 128;
            client_max_body_size 64m; ssl_certificate_key {work}/site.key;
            ssl_protocols TLSv1.2 TLSv1.3;
            server {{ listen 8088; include {work}/site.conf; }}
            server {{ listen 127.0.0.1:8081; default_type application/json;
                location / {{ return 200 '{{"status":"ok","id":"$request_id"}}'; }} }}
            {blocks}{self.more_web(zone)}
            }}
        """
        path = self._write(f"nginx-{zone}.conf", config)
        self.net.spawn(zone, ["nginx", "-c", path])

    def _web(self) -> None:
        sites = [
            (s.name, f"[{s.ip6}]" if s.ip6 else s.ip) for s in self.places.all_web()
        ]
        self._nginx("internet", sites + list(self.extra.items()))
        self._nginx("servers", [("files.corp.example", "10.20.0.20")])

    def _names(self) -> None:
        table = self.places.names()
        table.update({name: (ip, "") for name, ip in self.extra.items()})
        records = "".join(
            f"host-record={name},{','.join(filter(None, ips))}\n"
            for name, ips in table.items()
        )
        records += "".join(
            f"mx-host={name},mx.{name},10\n" for name, _ in self.places.all_domains()
        )
        # Short lifetimes: minutes of lab time are days of the sample's time.
        outside = (
            "no-resolv\nno-hosts\nbind-interfaces\nlocal-ttl=45\nlocal=/example/\n"
            + "".join(f"listen-address={ip}\n" for ip in self.places.public_resolvers)
            + records
            + self.more_records
        )
        inside = (
            f"no-resolv\nno-hosts\nbind-interfaces\nlisten-address={self.places.resolver}\n"
            f"server={self.places.upstream}@{self.places.resolver}\nlocal=/corp.example/\n"
            f"enable-tftp\ntftp-root={self.work}/tftp\nuser=root\n"
            "neg-ttl=45\ncache-size=2000\n"
            + "".join(
                f"host-record={n},{ip}\n"
                for n, ip in self.places.internal_names.items()
            )
        )
        for zone, text in (("internet", outside), ("servers", inside)):
            path = self._write(f"dnsmasq-{zone}.conf", text)
            self.net.spawn(
                zone, ["dnsmasq", "-k", "-C", path, "-x", "/run/dnsmasq.pid"]
            )

    def _remote_shells(self) -> None:
        common = (
            f"HostKey {self.work}/hostkey\nAuthorizedKeysFile {self.work}/userkey.pub\n"
            "StrictModes no\nPermitRootLogin prohibit-password\nUsePAM yes\n"
            "PasswordAuthentication no\nUseDNS no\nPrintMotd no\nPidFile none\n"
            "MaxStartups 100\nSubsystem sftp internal-sftp\n"
            "AcceptEnv GIT_PROTOCOL\n"
        )
        # sshd takes at most 16 addresses.
        for zone, ips in (
            (
                "internet",
                [*self.places.ssh.values(), *(self.extra[n] for n in self.shells)],
            ),
            ("servers", ["10.20.0.20", "10.20.0.40"]),
        ):
            listen = "".join(f"ListenAddress {ip}\n" for ip in ips)
            path = self._write(f"sshd-{zone}.conf", common + listen)
            self.net.spawn(zone, ["/usr/sbin/sshd", "-D", "-e", "-f", path])
        repos = f"--base-path={self.work}/repos"
        listen_git = [f"--listen={ip}" for ip in self.places.git.values()]
        self.net.spawn(
            "internet",
            ["git", "daemon", "--reuseaddr", "--export-all", repos, *listen_git],
        )

    def _mail(self) -> None:
        work = self.work
        outside = [*self.places.mx_addresses, self.places.mail["smtp.mailhost.example"]]
        for zone, ips, cert in (
            ("internet", outside, "smtp.mailhost.example"),
            ("servers", ["10.20.0.25"], "relay.corp.example"),
        ):
            path = self._write(
                f"exim-{zone}.conf",
                f"""
primary_hostname = {cert}
local_interfaces = {" : ".join(ips)}
daemon_smtp_ports = 25 : 587
spool_directory = {work}/exim
log_file_path = {work}/exim/{zone}-%slog
pid_file_path = /run/exim.pid
exim_user = Debian-exim
exim_group = Debian-exim
tls_advertise_hosts = *
tls_certificate = {work}/certs/{cert}.crt
tls_privatekey = {work}/site.key
rfc1413_query_timeout = 0s
acl_smtp_rcpt = take
{self.mail_rules(zone)}""",
            )
            self.net.spawn(zone, ["exim4", "-C", path, "-bdf"])
        imap = "imap.mailhost.example"
        path = self._write(
            "dovecot.conf",
            f"""
protocols = imap
base_dir = /run/dovecot
log_path = {work}/dovecot.log
listen = {self.places.mail[imap]}
ssl_cert = <{work}/certs/{imap}.crt
ssl_key = <{work}/site.key
mail_location = maildir:{work}/mail/%u
first_valid_uid = 1
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=mail gid=mail
}}
""",
        )
        mails = sorted((work / "corpus").glob("mail*.eml"))
        for host in self.places.hosts:
            box = work / "mail" / host.name
            for sub in ("cur", "new", "tmp"):
                (box / sub).mkdir(parents=True)
            for number, mail in enumerate(mails[:16]):
                shutil.copy(
                    mail, box / "cur" / f"{1_700_000_000 + number}.{number}.lab:2,S"
                )
        subprocess.run(["chown", "-R", "mail:mail", work / "mail"], check=True)
        self.net.spawn("internet", ["dovecot", "-F", "-c", path])

    def _files(self) -> None:
        ftp = self._write(
            "vsftpd.conf",
            f"""listen=YES
local_enable=YES
write_enable=YES
guest_enable=YES
guest_username=ftp
virtual_use_local_privs=YES
local_root={self.work}/ftp
pam_service_name=lab-ftp
secure_chroot_dir=/run/empty
seccomp_sandbox=NO
isolate_network=NO
background=NO
connect_from_port_20=YES
anon_umask=022
xferlog_enable=NO
allow_writeable_chroot=YES
""",
        )
        self.net.spawn("internet", ["vsftpd", ftp])
        for zone, write in (("internet", "yes"), ("servers", "no")):
            path = self._write(
                f"rsyncd-{zone}.conf",
                f"uid=root\ngid=root\nuse chroot=no\npid file=/run/rsyncd.pid\n"
                f"reverse lookup=no\n"
                f"[mirror]\npath={self.work}/corpus\nread only=yes\n"
                f"[in]\npath={self.work}/sink\nread only={'no' if write else 'yes'}\n",
            )
            self.net.spawn(zone, ["rsync", "--daemon", "--no-detach", "--config", path])

    def _rest(self) -> None:
        work = self.work
        for number, ip in enumerate(self.places.ntp.values()):
            path = self._write(
                f"chrony{number}.conf",
                f"local stratum {number + 2}\nallow all\nbindaddress {ip}\ncmdport 0\n"
                f"pidfile /run/chrony{number}.pid\nuser root\n",
            )
            # -x: the lab's time server must never steer the clock of the machine.
            self.net.spawn("internet", ["chronyd", "-x", "-d", "-f", path])
        name, ip = next(iter(self.places.mqtt.items()))
        other = self.places.mqtt["iot.buildsense.example"]
        path = self._write(
            "mosquitto.conf",
            f"user root\nallow_anonymous true\nlistener 1883 {other}\n"
            + "".join(f"listener 1883 {broker}\n" for broker in self.brokers)
            + f"listener 8883 {ip}\ncertfile {work}/certs/{name}.crt\n"
            f"keyfile {work}/site.key\n",
        )
        self.net.spawn("internet", ["mosquitto", "-c", path])
        self.net.spawn(
            "servers",
            [
                "redis-server",
                "--bind",
                self.places.cache,
                "--protected-mode",
                "no",
                "--save",
                "",
            ],
        )
        for zone, address in (
            ("servers", "10.20.0.60"),
            ("internet", self.places.syslog["collector.logwatch.example"]),
        ):
            self._sink(zone, f"UDP4-RECV:514,bind={address}")
        for sink in self.sinks:
            self._sink("internet", sink)
        self._tunnels()

    def _tunnels(self) -> None:
        self.net.spawn(
            "internet", self.vpn("server", self.extra["vpn.awayhome.example"])
        )

    def _sink(self, zone: str, address: str) -> None:
        self.net.spawn(zone, ["socat", "-u", address, "/dev/null"])

    def vpn(
        self,
        role: str,
        address: str,
        *,
        name: str = "vpn.awayhome.example",
        number: int = 0,
    ) -> list[str]:
        """Return the command line of one end of a tunnel; each has its number."""
        mine, peer = (1, 2) if role == "server" else (2, 1)
        side = (
            f"--local {address} --tls-server --dh none --connect-timeout 900"
            if role == "server"
            else f"--remote {address} --nobind --tls-client"
        )
        net = f"10.{99 - number}.0."
        return [
            *f"openvpn --dev tun{number} --proto udp".split(),
            *("--port", str(int(VPN_PORT) + number), *side.split()),
            *("--ifconfig", f"{net}{mine}", f"{net}{peer}"),
            *("--ca", str(self.work / "ca.crt")),
            *("--cert", str(self.work / "certs" / f"{name}.crt")),
            *("--key", str(self.work / "site.key"), "--explicit-exit-notify", "1"),
        ]
