"""Tables of cases as `rank_cases` gives them, made by hand."""

from __future__ import annotations

import contextlib
import hashlib

import numpy as np
import pandas as pd
import pytest

from exfilml.feedback import _database

SERVICES = ((6, 443), (17, 53), (6, 8443))


def ranked(
    n: int = 6,
    *,
    seed: int = 0,
    hosts: int = 3,
    places: int = 3,
    first: str = "2026-03-09",
    days: float = 10.0,
) -> pd.DataFrame:
    """Return cases of distinct ends, the most suspicious first."""
    rng = np.random.default_rng(seed)
    ends = [(h, p, s) for h in range(hosts) for p in range(places) for s in SERVICES]
    rng.shuffle(ends)
    ends = ends[:n]
    n = len(ends)
    suspicion = np.sort(rng.uniform(0.0, 20.0, n))[::-1]
    begin = pd.Timestamp(first, tz="UTC") + pd.to_timedelta(
        rng.uniform(0, days * 86400, n).round(3), unit="s"
    )
    return pd.DataFrame(
        {
            "rank": np.arange(1, n + 1),
            "suspicion": suspicion,
            "p_value": 2.0**-suspicion,
            "alert": suspicion > 10.0,
            "case": [hashlib.sha256(repr(e).encode()).hexdigest()[:10] for e in ends],
            "local_ip": [f"10.20.0.{10 + h}" for h, _, _ in ends],
            "place": [f"place{p}.example" for _, p, _ in ends],
            "direction": "outbound",
            "dst_port": pd.array([s[1] for *_, s in ends], dtype="Int64"),
            "protocol": [s[0] for *_, s in ends],
            "app": pd.array(["TLS"] * n, dtype="str"),
            "server_name": pd.array([None] * n, dtype="str"),
            "flows": 1,
            "addresses": 1,
            "first_seen": begin.astype("datetime64[us, UTC]"),
            "last_seen": (begin + pd.Timedelta("1h")).astype("datetime64[us, UTC]"),
            "up_bytes": rng.integers(1, 10**6, n),
            "down_bytes": 0,
            "capability": "volume",
            "reasons": "because",
        }
    )


def listed(cases: pd.DataFrame, verdicts: list[str | None]) -> pd.DataFrame:
    """Return a list of judgements of the first cases; None for none."""
    rows = [
        {"case": case, "verdict": verdict, "reason": "looked at"}
        for case, verdict in zip(cases["case"], verdicts, strict=False)
        if verdict is not None
    ]
    return pd.DataFrame(rows, columns=["case", "verdict", "reason"])


@contextlib.contextmanager
def unsynced():
    """Do not wait for the disk at each judgement; nothing else changes."""
    with pytest.MonkeyPatch.context() as patch:
        settings = (*_database.SETTINGS, "synchronous = OFF")
        patch.setattr(_database, "SETTINGS", settings)
        yield
