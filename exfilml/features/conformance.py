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
from exfilml.places import GREETING, ONE_WAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIOR_COUNT: Final = 2.0
EXPECTED: Final = 0.9
USUAL_BITS: Final = 1.0


def _odd(
    asked: Asked, name: str, expected: NDArray[np.bool_], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Bits beyond the usual of what a flow does, given its service; NaN if unknown.

    Of a service whose standard says how it goes (`known`), a prior takes the place of
    what is seen all over the site.
    """
    same, total = _seen(asked, name)
    everywhere = asked.tally(name).values["n"].sum()
    (anywhere,) = asked.take(name, "n")
    general = (anywhere + 1.0) / (everywhere + 2.0)
    general = np.where(known, np.where(expected, EXPECTED, 1.0 - EXPECTED), general)
    share = (same + PRIOR_COUNT * general) / (total + PRIOR_COUNT)
    bits = np.maximum(surprise(share) - USUAL_BITS, 0.0)
    bits = np.minimum(bits, asked.beyond_usual)
    return np.where(asked.observed.hashes[name] == 0, np.nan, bits)


def _is_one_of(asked: Asked, services: frozenset[str]) -> NDArray[np.bool_]:
    names = asked.observed.names["service"]
    return names.each(lambda name: name in services, missing=False)


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
    the whole site, or 0.9 for one-sided where nobody ever answers (`places.ONE_WAY`). No
    more than upload goes beyond what is usual, doubling for bit: a scan breaks every
    rule and carries nothing. NaN where the source does not say.
    """
    one_sided = asked.observed.names["conduct"].each(
        lambda how: how == "one_sided", missing=False
    )
    return _odd(asked, "conduct", one_sided, _is_one_of(asked, ONE_WAY))


def first_speaker(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(which side's payload came first | service) beyond 1 bit.

    As `conduct`, with 0.9 for the server where it greets (`places.GREETING`): a mail
    server does, a web server is asked. It takes payload to see.
    """
    by_local = asked.observed.names["speaker"].each(
        lambda who: who == "local", missing=False
    )
    # The server is the local side of what was opened from outside.
    served = asked.oriented.names("direction").each(
        lambda way: way == "inbound", missing=False
    )
    return _odd(asked, "speaker", by_local == served, _is_one_of(asked, GREETING))


# What an analyst would not know by its name.
_WORDS: Final = {"unsolicited": "of replies that nothing asked for"}


def _say(asked: Asked, name: str, words: str) -> list[str]:
    same, total = _seen(asked, name)
    return [
        words.format(_WORDS.get(how, how.replace("_", "-")))
        + f" ({k:.0f} of {n:.0f} flows over {service} in the baseline)"
        for how, service, n, k in zip(
            [how or "unknown" for how in asked.observed.names[name].tolist()],
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
