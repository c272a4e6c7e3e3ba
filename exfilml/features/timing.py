"""Timing: uploads at hours when nobody here is at work.

People and machines have their hours: an office sleeps at night, a backup runs then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.features._feature import (
    BLEND,
    Asked,
    Feature,
    column,
    surprise,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOURS: Final = 24
EVEN_BITS: Final = 3.0


def _activity(asked: Asked) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a host's flows within an hour of each flow's own, and in all."""
    hour = asked.observed.bins["hour_of_day"].astype(np.int64)
    hosts, whose = np.unique(asked.keys("host"), return_inverse=True)
    flows = asked.baseline.hours_of_day(hosts)
    near = flows + np.roll(flows, 1, axis=1) + np.roll(flows, -1, axis=1)
    return near[whose, hour], flows.sum(axis=1)[whose]


def odd_hour(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(this hour of the day, one more or less | host) beyond 3 bits.

    Three of 24 hours alike are 3 bits. The share is that of the host's flows in the
    baseline, blended with that of the whole site; no more than upload goes beyond what
    is usual counts, doubling for bit (see `beyond_usual`). Hours are UTC.
    """
    hour = asked.observed.bins["hour_of_day"].astype(np.int64)
    site = asked.baseline.hours_of_week.reshape(-1, HOURS).sum(axis=0)
    near = site + np.roll(site, 1) + np.roll(site, -1)
    share = (near + 1.0) / (site.sum() + 2.0)
    own, total = _activity(asked)
    chance = np.minimum((own + BLEND * share[hour]) / (total + BLEND), 1.0)
    bits = np.maximum(surprise(chance) - EVEN_BITS, 0.0)
    return np.minimum(bits, asked.beyond_usual)


def _say_odd_hour(asked: Asked) -> list[str]:
    own, total = _activity(asked)
    return [
        f"at {start:%H:%M} UTC, when "
        + (
            f"{host} is seldom active ({k:.0f} of its {n:.0f} flows within an hour of that)"
            if n
            else "few hosts are active here"
        )
        for start, host, k, n in zip(
            asked.oriented["start"], column(asked, "local_ip"), own, total, strict=True
        )
    ]


FEATURES: Final = (
    Feature("odd_hour", "timing", "bits", False, odd_hour, _say_odd_hour),
)
