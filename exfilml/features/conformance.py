"""Conformance: conversations that do not go as those of the service do.

A protocol has a way to begin: a mail server greets first, a resolver answers. Data
that nobody answers, a stream without a handshake, a client that speaks where the
server should, are the side effects of sending something else over its port
(MITRE ATT&CK: "protocols that do not follow the expected protocol standards and
traffic flows").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.features._feature import (
    Asked,
    Feature,
    column,
    surprise,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIOR_COUNT: Final = 2.0
USUAL_BITS: Final = 1.0


def conduct(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(how the conversation went, who spoke first | service) beyond 1 bit.

    What half the flows do is no surprise. The smoothed share of the service's flows: prior with 2 pseudo-counts from the
    whole site. No more than upload goes beyond what is usual, doubling for bit (see
    `beyond_usual`): a scan breaks every rule and carries nothing. NaN where the source
    says neither.
    """
    (total,) = asked.take("site", "n")
    (anywhere,) = asked.take("conduct", "n")
    general = (anywhere + 1.0) / (total + 2.0)
    (count,) = asked.take("service", "n")
    (same,) = asked.take("service_conduct", "n")
    share = (same + PRIOR_COUNT * general) / (count + PRIOR_COUNT)
    bits = np.maximum(surprise(share) - USUAL_BITS, 0.0)
    bits = np.minimum(bits, asked.beyond_usual)
    return np.where(asked.observed.hashes["conduct"] == 0, np.nan, bits)


def _say_conduct(asked: Asked) -> list[str]:
    (count,) = asked.take("service", "n")
    (same,) = asked.take("service_conduct", "n")
    return [
        f"conversation {(how or 'unknown').replace('_', '-')} ({k:.0f} of {n:.0f} flows over {service} in the baseline)"
        for how, service, n, k in zip(
            asked.observed.names["conduct"].tolist(),
            column(asked, "service"),
            count,
            same,
            strict=True,
        )
    ]


FEATURES: Final = (
    Feature("conduct", "conformance", "bits", False, conduct, _say_conduct),
)
