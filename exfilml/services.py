"""Which service IANA registered for a port; free of pandas, as `exfilml.columns`."""

from __future__ import annotations

import functools
import importlib.resources


@functools.cache
def iana_services() -> dict[tuple[int, int], str]:
    """Return the shipped registry: (IANA protocol number, port) to service name."""
    text = importlib.resources.files("exfilml").joinpath("data/iana_services.csv")
    with text.open(encoding="ascii") as lines:
        rows = [line.strip().split(",") for line in lines if not line.startswith("#")]
    number = {"tcp": 6, "udp": 17}
    return {(number[proto], int(port)): name for port, proto, name in rows[1:]}
