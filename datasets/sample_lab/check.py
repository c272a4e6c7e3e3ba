"""Check a sample with NFStream: is what should be there really there."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sample_lab import capture

if TYPE_CHECKING:
    from pathlib import Path

# Encoding, headers and acknowledgements on top of the data itself.
MOST_OVERHEAD = 1.6
MIN_CASES = 300
MIN_SERVICES = 8


def report(sample: Path) -> int:
    """Print tables about the sample; return 1 if something does not hold."""
    problems = checksums(sample)
    labels = table(sample / "labels.csv")
    known: dict[str, set[str]] = {}
    for half in ("baseline", "test"):
        problems += _clock(sample / f"{half}.pcap")
        flows = _flows(sample / f"{half}.pcap")
        rows = labels if half == "test" else []
        marks = [next((r for r in rows if _matches(flow, r)), None) for flow in flows]
        benign = [f for f, mark in zip(flows, marks, strict=True) if mark is None]
        cases = Counter(_case(flow) for flow in benign)
        services = Counter(service for *_, service in cases)
        known[half] = {place for _, place, _ in cases}
        size = (sample / f"{half}.pcap").stat().st_size
        print(f"\n{half}.pcap: {size:,} bytes, {len(flows)} flows, {len(cases)} benign")
        print(f"cases from {len(services)} services (host, name or address, service)\n")
        print(f"{'service':<12}{'flows':>7}{'cases':>7}  applications that nDPI names")
        for service, count in services.most_common():
            own = [f for f in benign if _service(f) == service]
            apps = Counter(f.application_name for f in own).most_common(4)
            text = ", ".join(f"{app} {n}" for app, n in apps)
            print(f"{service:<12}{len(own):>7}{count:>7}  {text}")
        if len(cases) < MIN_CASES or len(services) < MIN_SERVICES:
            problems.append(
                f"{half}: {len(cases)} benign cases, {len(services)} services"
            )
        if half == "test":
            fresh = sum(place not in known["baseline"] for _, place, _ in cases)
            print(f"\nbenign cases at places new since the baseline: {fresh}"
                  f" ({fresh / len(cases):.1%})\n")  # fmt: skip
            problems += _scenarios(sample, flows, marks)
            problems += [
                f"label without a flow: {row}" for row in labels if row not in marks
            ]
    print("\n" + ("\n".join(f"PROBLEM: {p}" for p in problems) or "all checks hold"))
    return int(bool(problems))


def _flows(path: Path) -> list[Any]:
    # Only the check needs it; making the sample does not.
    from nfstream import NFStreamer

    return list(
        NFStreamer(
            source=str(path),
            accounting_mode=1,
            statistical_analysis=True,
            snapshot_length=65535,
            n_meters=1,
        )
    )


def table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def _matches(flow: Any, row: dict[str, str]) -> bool:
    """Return whether a flow is the one a label names, within its time."""
    facts = {
        "src_ip": flow.src_ip,
        "src_port": flow.src_port,
        "dst_ip": flow.dst_ip,
        "dst_port": flow.dst_port,
        "protocol": flow.protocol,
    }
    return (
        all(row[key] in ("", str(value)) for key, value in facts.items())
        and _millis(row["start"]) <= flow.bidirectional_first_seen_ms
        and flow.bidirectional_last_seen_ms <= _millis(row["end"])
    )


def _millis(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def _service(flow: Any) -> str:
    names = {
        (6, 20): "ftp", (6, 21): "ftp", (6, 22): "ssh", (6, 25): "smtp",
        (17, 53): "dns",
        (17, 69): "tftp", (6, 80): "http", (17, 123): "ntp", (6, 443): "https",
        (17, 514): "syslog", (6, 587): "submission", (6, 873): "rsync",
        (6, 993): "imaps", (6, 1883): "mqtt", (6, 8883): "mqtts", (6, 6379): "redis",
        (6, 9418): "git",
    }  # fmt: skip
    if flow.protocol in (1, 58):
        return "icmp"
    for port in (flow.dst_port, flow.src_port):
        if (flow.protocol, port) in names:
            return names[flow.protocol, port]
    return "data port"


def _case(flow: Any) -> tuple[str, str, str]:
    """Return local host, place and service; queries to a resolver are one place."""
    service = _service(flow)
    named = service in ("http", "https", "submission", "smtp", "imaps", "mqtts")
    place = (flow.requested_server_name if named else "") or flow.dst_ip
    host, remote = flow.src_ip, flow.dst_ip
    if flow.src_port == 20:  # active FTP: the server calls back
        host, place = remote, flow.src_ip
    return host, place, "ftp" if service == "data port" else service


def _scenarios(sample: Path, flows: list[Any], marks: list[Any]) -> list[str]:
    problems = []
    print(f"{'scenario':<22}{'label':<14}{'flows':>5}{'data':>10}{'sent':>10}  nDPI")
    for plan in table(sample / "scenarios.csv"):
        own = [
            flow
            for flow, mark in zip(flows, marks, strict=True)
            if mark is not None and mark["scenario"] == plan["scenario"]
        ]
        sent = sum(
            f.src2dst_bytes if f.src_ip == plan["src_ip"] else f.dst2src_bytes
            for f in own
        )
        apps = ", ".join(f"{a} {n}" for a, n in Counter(
            f"{f.application_name}" for f in own).most_common(3))  # fmt: skip
        data = int(plan["bytes"])
        print(f"{plan['scenario']:<22}{plan['label']:<14}{len(own):>5}{data:>10,}"
              f"{sent:>10,}  {apps}")  # fmt: skip
        if not own or not data <= sent <= data * MOST_OVERHEAD:
            problems.append(f"{plan['scenario']}: {sent} bytes sent, {data} planned")
    return problems


def _clock(path: Path) -> list[str]:
    """Return problems of the file as such: order of time, order of bytes, its end."""
    raw = path.read_bytes()
    at, last = capture.FILE_HEADER.size, (0, 0)
    while at < len(raw):
        seconds, micros, kept, _ = capture.RECORD.unpack_from(raw, at)
        if (seconds, micros) < last:
            return [f"{path.name}: time runs backwards at byte {at}"]
        last = (seconds, micros)
        at += capture.RECORD.size + kept
    return [] if at == len(raw) else [f"{path.name}: ends within a packet"]


def checksums(sample: Path) -> list[str]:
    """Return the files whose checksum is not the written one, in words."""
    lines = (sample / "SHA256SUMS").read_text().splitlines()
    return [
        f"{name}: checksum differs"
        for digest, name in (line.split("  ") for line in lines)
        if hashlib.sha256((sample / name).read_bytes()).hexdigest() != digest
    ]
