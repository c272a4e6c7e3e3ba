"""A made-up site: flows tables for tests that need structure but no packets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from exfilml.schema import validate_flows

SERVICES = (
    # port, protocol, application, handshake, grammar, verdict, concealed
    (443, 6, "TLS", "tls", None, "opaque", True),
    (80, 6, "HTTP", None, "http", "text", False),
    (53, 17, "DNS", None, "dns", "structured", False),
    (22, 6, "SSH", "ssh", None, "opaque", True),
    (25, 6, "SMTP", None, "smtp", "text", False),
)


def office(
    n_flows: int = 600,
    *,
    seed: int = 0,
    days: float = 5.0,
    first_day: str = "2026-03-02",
    payload: bool = True,
    hosts: int = 10,
) -> pd.DataFrame:
    """Benign flows of some hosts to five services, with new places every day."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(SERVICES), n_flows, p=[0.45, 0.2, 0.25, 0.04, 0.06])
    port, protocol, app, handshake, grammar, verdict, concealed = (
        np.array(column, dtype=object)[kind] for column in zip(*SERVICES, strict=True)
    )
    host = rng.integers(10, 10 + hosts, n_flows)
    # Zipf: most visits go to few places, and new ones keep turning up.
    site = np.minimum(rng.zipf(1.6, n_flows), 40_000)
    up = np.exp(rng.normal(6.5, 1.2, n_flows)).astype(int) + 60
    down = np.exp(rng.normal(8.5, 1.5, n_flows)).astype(int) + 60
    seconds = np.sort(rng.uniform(0, days * 86400, n_flows))
    start = pd.Timestamp(first_day, tz="UTC") + pd.to_timedelta(seconds, unit="s")
    remote = [f"198.{18 + s // 65536 % 2}.{s // 256 % 256}.{s % 256}" for s in site]
    named = np.isin(port.astype(int), [443, 80])
    flows = pd.DataFrame(
        {
            "start": start.astype("datetime64[us, UTC]"),
            "duration_s": rng.exponential(2.0, n_flows),
            "src_ip": [f"10.20.{h // 250}.{h % 250}" for h in host],
            "src_port": rng.integers(33000, 60000, n_flows),
            "dst_ip": remote,
            "dst_port": port.astype(int),
            "protocol": protocol.astype(int),
            "src_bytes": up + 80,
            "dst_bytes": down + 80,
            "src_packets": 3 + up // 1400,
            "dst_packets": 3 + down // 1400,
            "server_name": [
                f"www.site{s}.example" if n else None
                for s, n in zip(site, named, strict=True)
            ],
        }
    )
    if payload:
        flows["app"] = app
        flows["app_verified"] = True
        flows["conn_state"] = "established"
        flows["first_speaker"] = np.where(port.astype(int) == 25, "dst", "src")
        for side, size in (("src", up), ("dst", down)):
            flows[f"{side}_payload_bytes"] = size
            flows[f"{side}_sampled_bytes"] = np.minimum(size, 6144)
            flows[f"{side}_verdict"] = verdict
            flows[f"{side}_concealed"] = concealed.astype(bool)
            flows[f"{side}_handshake"] = handshake
            flows[f"{side}_protocol"] = grammar
            flows[f"{side}_entropy"] = np.where(concealed.astype(bool), 7.9, 5.0)
            flows[f"{side}_p_random"] = np.where(concealed.astype(bool), 0.5, 0.0)
    return validate_flows(flows)


def theft(
    flows: pd.DataFrame,
    *,
    up: int = 5_000_000,
    dst_ip: str = "203.0.113.9",
    dst_port: int = 8443,
    src_ip: str = "10.20.0.12",
) -> pd.DataFrame:
    """Return one flow with raw ciphertext going out, in the middle of `flows`."""
    row = flows.iloc[[len(flows) // 2]].copy()
    row["src_ip"], row["dst_ip"] = src_ip, dst_ip
    row["dst_port"], row["protocol"] = dst_port, 6
    row["src_bytes"], row["dst_bytes"] = up + up // 30, up // 50
    row["src_packets"], row["dst_packets"] = up // 1400, up // 2800
    row["server_name"] = pd.NA
    if row["src_payload_bytes"].notna().all():
        row["app"], row["app_verified"] = pd.NA, pd.NA
        row["first_speaker"] = "src"
        row["src_payload_bytes"], row["dst_payload_bytes"] = up, 0
        row["src_sampled_bytes"], row["dst_sampled_bytes"] = min(up, 6144), 0
        row["src_verdict"], row["src_concealed"] = "opaque", True
        row["src_entropy"], row["src_p_random"] = 7.97, 0.6
        for column in ("src_handshake", "dst_handshake", "src_protocol"):
            row[column] = pd.NA
    return validate_flows(row)
