"""Conformance: conversations that do not go as those of the service do.

A protocol has a way to begin: a mail server greets first, a resolver answers. Data
that nobody answers, a stream without a handshake, a client that speaks where the
server should, are the side effects of sending something else over its port
(MITRE ATT&CK: "protocols that do not follow the expected protocol standards and
traffic flows").
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.features._feature import (
    Asked,
    Feature,
    column,
    lookup,
    surprise,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIOR_COUNT: Final = 2.0
USUAL_BITS: Final = 1.0


def _odd(asked: Asked, name: str) -> NDArray[np.float64]:
    """Bits beyond the usual of what a flow does, given its service; NaN if unknown."""
    same, total = _seen(asked, name)
    everywhere = asked.tally(name).values["n"].sum()
    (anywhere,) = asked.take(name, "n")
    general = (anywhere + 1.0) / (everywhere + 2.0)
    share = (same + PRIOR_COUNT * general) / (total + PRIOR_COUNT)
    bits = np.maximum(surprise(share) - USUAL_BITS, 0.0)
    bits = np.minimum(bits, asked.beyond_usual)
    return np.where(asked.observed.hashes[name] == 0, np.nan, bits)


def _seen(asked: Asked, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the service's flows that did the same, and those of which it is known."""
    table = f"service_{name}"
    (same,) = asked.take(table, "n")
    services, totals, _ = asked.tally(table).by_first
    return same, lookup(services, totals, asked.observed.hashes["service"], 0.0)


def conduct(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(how the conversation went | service) beyond 1 bit.

    ``conn_state``: established, one-sided, rejected …; what half the flows do is no
    surprise. The smoothed share of the service's flows: prior with 2 pseudo-counts from
    the whole site. No more than upload goes beyond what is usual, doubling for bit: a
    scan breaks every rule and carries nothing. NaN where the source does not say.
    """
    return _odd(asked, "conduct")


def first_speaker(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(which side's payload came first | service) beyond 1 bit.

    As `conduct`: a mail server greets, a web server is asked. It takes payload to see.
    """
    return _odd(asked, "speaker")


def _say(asked: Asked, name: str, words: str) -> list[str]:
    same, total = _seen(asked, name)
    return [
        f"{words.format((how or 'unknown').replace('_', '-'))} ({k:.0f} of {n:.0f} flows "
        f"over {service} in the baseline)"
        for how, service, n, k in zip(
            asked.observed.names[name].tolist(),
            column(asked, "service"),
            total,
            same,
            strict=True,
        )
    ]


FEATURES: Final = (
    Feature(
        *("conduct", "conformance", "bits", False, conduct),
        partial(_say, name="conduct", words="conversation {}"),
    ),
    Feature(
        *("first_speaker", "conformance", "bits", True, first_speaker),
        partial(_say, name="speaker", words="the {} side spoke first"),
    ),
)
