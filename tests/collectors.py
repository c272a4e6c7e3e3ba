"""nfdump's programs, which collect and count independently of us."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pandas as pd


def collect(folder: Path, *datagrams: bytes, options: tuple[str, ...] = ()) -> Path:
    """Have nfcapd write what it receives; return the file."""
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["nfcapd", "-p", str(port), "-b", "127.0.0.1", "-l", str(folder)]
    collector = subprocess.Popen(
        [*command, "-t", "3600", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not _listens(port):
            time.sleep(0.05)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for data in datagrams:
                sender.sendto(data, ("127.0.0.1", port))
                time.sleep(0.02)
        time.sleep(0.3)
    finally:
        collector.terminate()
        collector.wait(10)
    (written,) = folder.glob("nfcapd.2*")
    return written


def _listens(port: int) -> bool:
    wanted = f":{port:04X}"
    lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    return any(line.split()[1].endswith(wanted) for line in lines)


def own_totals(path: Path) -> tuple[int, int]:
    """Bytes and packets as nfdump adds them up itself."""
    done = subprocess.run(
        ["nfdump", "-r", path, "-I"], capture_output=True, text=True, check=True
    )
    stated = dict(line.split(": ") for line in done.stdout.splitlines() if ": " in line)
    return int(stated["Bytes"]), int(stated["Packets"])


def totals(flows: pd.DataFrame) -> tuple[int, int]:
    return (
        int(flows["src_bytes"].sum() + flows["dst_bytes"].sum()),
        int(flows["src_packets"].sum() + flows["dst_packets"].sum()),
    )
