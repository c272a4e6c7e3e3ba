"""Running a lab: what must be there, one session after another, the tables beside."""

from __future__ import annotations

import csv
import hashlib
import ipaddress
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sample_lab import capture, network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sample_lab.capture import Flow
    from sample_lab.network import Network
    from sample_lab.schedule import Session

LABEL_COLUMNS = [
    "src_ip", "src_port", "dst_ip", "dst_port", "protocol", "start", "end", "label",
    "scenario",
]  # fmt: skip
# After a client has ended, its servers still close their side.
SETTLE_S = 0.03


def stop(*_: object) -> None:
    """Turn a signal into what Ctrl-C raises."""
    raise KeyboardInterrupt


def build(program: str, make: Callable[[Path], Path], out: Path) -> int:
    """Run `make` in a scratch directory, then copy the folder it returns to `out`.

    Returns
    -------
    int
        Exit status; whatever goes wrong, nothing is written.
    """
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="exfilml-lab-") as scratch:
        work = Path(scratch)
        # Servers drop privileges and must still reach their files.
        work.chmod(0o755)
        try:
            made = make(work)
        except network.LabError as error:
            print(f"{program}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{program}: stopped; nothing was written", file=sys.stderr)
            return 130
        # Only what is complete replaces what is there.
        out.mkdir(parents=True, exist_ok=True)
        for path in made.iterdir():
            shutil.copyfile(path, out / path.name)
    return 0


def missing(packages: list[str]) -> str:
    """Return what keeps this machine from running a lab, in one sentence."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux; run it with sudo there"
    try:
        import PIL  # noqa: F401
    except ImportError:
        packages = [*packages, "python3-pil"]
    return f"missing; run: apt-get install {' '.join(packages)}" if packages else ""


class Progress:
    """One line on a terminal, a line for each step elsewhere."""

    def __call__(self, text: str, end: str = "") -> None:
        """Say what is being done."""
        line = f"\r{text:<60}" if sys.stderr.isatty() else f"{text}\n"
        print(line, end=end if sys.stderr.isatty() else "", file=sys.stderr, flush=True)


def run(
    net: Network,
    sessions: list[Session],
    env: dict[str, str],
    say: Progress,
    half: str,
) -> list[float]:
    """Run sessions one after another; return the real start of each.

    Raises
    ------
    LabError
        If a client fails: a sample with holes in it would be worse than none.
    """
    starts: list[float] = []
    for number, session in enumerate(sessions):
        if number % 100 == 0:
            say(f"{half}: session {number} of {len(sessions)}")
        starts.append(time.time())
        status = net.run_as(session.host, session.script, env)
        if status:
            tail = (net.work / "sessions.log").read_text(errors="replace")[-600:]
            msg = f"{session.host.name} -> {session.place}: {session.script}: {tail}"
            raise network.LabError(msg)
        time.sleep(SETTLE_S)
    return starts


def label_row(flow: Flow, label: str, scenario: str) -> list[object]:
    """Return the row of a labels file that names one flow."""
    protocol, source, sport, target, dport = flow.key
    ports = (sport, dport) if protocol in (capture.TCP, capture.UDP) else ("", "")
    return [
        ipaddress.ip_address(source), ports[0], ipaddress.ip_address(target),
        ports[1], protocol, utc(math.floor(flow.first)),
        utc(math.ceil(flow.last)), label, scenario,
    ]  # fmt: skip


def utc(seconds: float) -> str:
    """Return a time as labels files have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_csv(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    """Write a table with a header line."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of files beside them."""
    sums = [
        f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}" for n in names
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
