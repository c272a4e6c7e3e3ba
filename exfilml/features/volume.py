"""Volume: more upload than is usual for this service, host, pair or place.

Each level keeps mean and variance of log2 upload bytes over flows. Its *mark* is
mean + 2 standard deviations, which 2 % of log-normal uploads exceed, blended with
the mark of the next more general level while the level has few flows:
host and service → peer group and service → local network and service → service → site, known place and service → service, host → site.
Evidence is how many doublings the upload lies above the mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.features._feature import (
    BLEND,
    PEERS,
    Asked,
    Feature,
    column,
    human_bytes,
    mark,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What reasons call usual.
USUAL_SHARE: Final = 0.95

_LEVELS: Final = {
    "host": ("site", "host"),
    "service": ("site", "service"),
    "host_service": ("site", "service", "subnet_service", PEERS, "host_service"),
    "service_place": ("site", "service", "service_place"),
}


def _excess(asked: Asked, table: str) -> NDArray[np.float64]:
    return np.maximum(asked.bits - mark(asked, _LEVELS[table], "bits"), 0.0)


def above_service(asked: Asked) -> NDArray[np.float64]:
    """log2 upload bytes above the mark of this service, in doublings."""
    return _excess(asked, "service")


def above_host(asked: Asked) -> NDArray[np.float64]:
    """log2 upload bytes above the mark of this local host, in doublings.

    Weighed ``n / (n + 5)`` by how often the host was seen: of one that was never seen,
    the service alone says what is much.
    """
    (n,) = asked.take("host", "n")
    return _excess(asked, "host") * n / (n + BLEND)


def above_host_service(asked: Asked) -> NDArray[np.float64]:
    """log2 upload bytes above the mark of this host for this service, in doublings."""
    return _excess(asked, "host_service")


def above_place(asked: Asked) -> NDArray[np.float64]:
    """log2 upload bytes above the mark of a known place for this service, in doublings.

    0 where the place was never seen: that is for `novelty` to say.
    """
    known = asked.rows("service_place") >= 0
    return np.where(known, _excess(asked, "service_place"), 0.0)


def ratio(asked: Asked) -> NDArray[np.float64]:
    """log2 upload over download above the usual mark of this service, in doublings.

    ``log2((up + k) / (down + k))`` with k = 2000 bytes, above mean + 2 standard
    deviations of the service, blended with the site's. It is the producer–consumer
    ratio of C. Bullard and J. Gerth, "PCR: A New Flow Metric" (FloCon 2014), with
    the end of its scale drawn apart: (2^x − 1) / (2^x + 1) = PCR.
    """
    usual = mark(asked, ("site", "service"), "ratio")
    return np.maximum(asked.observed.values["ratio"] - usual, 0.0)


def _compare(asked: Asked, table: str, whose: list[str]) -> list[str]:
    """Sentence part: how the upload compares with the largest one at a level."""
    count, peak = asked.take(table, "n", "peak_bits")
    most = asked.baseline.quantile(table, asked.keys(table), USUAL_SHARE)
    parts = []
    for up, n, bits, below, who in zip(asked.up, count, peak, most, whose, strict=True):
        largest = 2.0**bits - 1.0
        sent = f"sent {human_bytes(up)}"
        if n == 0:
            parts.append(f"{sent} (the baseline has no flow of {who})")
        elif up > 1.05 * largest:
            times = up / max(largest, 1.0)
            shown = f"{times:.0f}×" if times >= 10 else f"{times:.1f}×"
            parts.append(f"{sent} — {shown} the largest upload of {who}")
        else:
            parts.append(
                f"{sent} — {USUAL_SHARE:.0%} of the uploads of {who} stay below "
                f"{human_bytes(2.0**below - 1.0)}, the largest was {human_bytes(largest)}"
            )
    return parts


def _say_service(asked: Asked) -> list[str]:
    whose = [f"any host to {s}" for s in column(asked, "service")]
    return _compare(asked, "service", whose)


def _say_host(asked: Asked) -> list[str]:
    return _compare(asked, "host", [f"{h} to any service" for h in _hosts(asked)])


def _say_host_service(asked: Asked) -> list[str]:
    whose = [
        f"{h} to {s}"
        for h, s in zip(_hosts(asked), column(asked, "service"), strict=True)
    ]
    return _compare(asked, "host_service", whose)


def _say_place(asked: Asked) -> list[str]:
    return _compare(
        asked, "service_place", [f"any host to {p}" for p in _places(asked)]
    )


def _hosts(asked: Asked) -> list[str]:
    return column(asked, "local_ip")


def _places(asked: Asked) -> list[str]:
    return column(asked, "place")


def _say_ratio(asked: Asked) -> list[str]:
    count, usual_up, usual_down = asked.take("service", "n", "up", "down")
    return [
        f"{up / max(up + down, 1.0):.0%} of {human_bytes(up + down)} went out"
        + (f"; {s} usually sends {u / max(u + d, 1.0):.0%}" if n else "")
        for up, down, u, d, n, s in zip(
            asked.up,
            asked.observed.values["down"],
            usual_up,
            usual_down,
            count,
            column(asked, "service"),
            strict=True,
        )
    ]


FEATURES: Final = tuple(
    Feature(name, "volume", unit, needs_payload=False, compute=compute, reason=reason)
    for name, unit, compute, reason in (
        ("volume_service", "bits", above_service, _say_service),
        ("volume_host", "bits", above_host, _say_host),
        ("volume_host_service", "bits", above_host_service, _say_host_service),
        ("volume_place", "bits", above_place, _say_place),
        ("ratio", "bits", ratio, _say_ratio),
    )
)
