"""Port–protocol mismatch: whether the payload speaks what the port is for.

The application counts only where payload was inspected *and* our own structural
check agrees (``app_verified``); anything else is "unrecognised". On a registered
port that is the strongest mismatch there is. What a port is for comes from the
site's baseline, blended with the IANA registry while the baseline says little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.baseline import UNVERIFIED
from exfilml.features._feature import Asked, Feature, column, surprise
from exfilml.places import is_registered

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What four flows would say: the registry is overruled by a handful of real ones.
PRIOR_COUNT: Final = 4.0
EXPECTED: Final = 0.9
OTHER: Final = 0.02
# A port that is nobody's claims nothing: what is verified there is no surprise as such.
UNCLAIMED: Final = 0.1

# What half the flows speak.
USUAL_BITS: Final = 1.0

# Names that nDPI gives to what IANA lists under another service name.
SPEAKS: Final[dict[str, frozenset[str]]] = {
    "tls": frozenset(
        {
            "https",
            "imaps",
            "pop3s",
            "submissions",
            "ldaps",
            "ftps",
            "ftps-data",
            "domain-s",
            "nntps",
            "telnets",
            "sip-tls",
            "syslog-tls",
            "amqps",
            "secure-mqtt",
            "ircs-u",
        }
    ),
    "http": frozenset({"http", "http-alt", "ipp", "hkp", "puppet", "tproxy"}),
    "quic": frozenset({"https/udp", "domain-s/udp"}),
    "dns": frozenset({"domain", "domain/udp", "mdns/udp"}),
    "smtp": frozenset({"smtp", "submission"}),
    "imap": frozenset({"imap2", "imap"}),
    "pop3": frozenset({"pop3"}),
    "ftp_control": frozenset({"ftp"}),
    "ftp_data": frozenset({"ftp-data"}),
    "ssh": frozenset({"ssh"}),
    "ntp": frozenset({"ntp/udp"}),
    "mqtt": frozenset({"mqtt"}),
    "rsync": frozenset({"rsync"}),
    "git": frozenset({"git"}),
    "postgresql": frozenset({"postgresql"}),
    "redis": frozenset({"redis"}),
    "mysql": frozenset({"mysql"}),
    "snmp": frozenset({"snmp/udp", "snmp"}),
    "stun": frozenset({"stun/udp", "stun"}),
    "sip": frozenset({"sip", "sip/udp"}),
    "dhcp": frozenset({"bootps/udp", "bootpc/udp"}),
    "openvpn": frozenset({"openvpn", "openvpn/udp"}),
    "ldap": frozenset({"ldap"}),
    "rdp": frozenset({"ms-wbt-server"}),
    "icmp": frozenset({"icmp"}),
    "icmpv6": frozenset({"icmp6"}),
}


def _expects(service: str, spoken: str) -> bool:
    name = spoken.lower()
    return service in SPEAKS.get(name, ()) or service.removesuffix("/udp") == name


def _probability(asked: Asked) -> NDArray[np.float64]:
    """P(application | service), baseline counts on a prior from the registry."""
    services, spoken = asked.observed.names["service"], asked.observed.names["token"]
    # Judged once for each service and application, however many flows.
    width = len(spoken.texts) + 1
    codes, pairs = pd.factorize(services.codes * width + (spoken.codes + 1))
    expected, registered = np.zeros((2, len(pairs)), dtype=bool)
    for i, pair in enumerate(pairs.tolist()):
        service, token = services.texts[pair // width], spoken.texts[pair % width - 1]
        expected[i] = token is not None and _expects(service, token)
        registered[i] = is_registered(service)
    on_registry = np.where(expected, EXPECTED, OTHER)[codes]
    (judged_site,) = asked.take("site", "judged")
    (judged_token,) = asked.take("token", "judged")
    anywhere = (judged_token + OTHER) / (judged_site + 1.0)
    verified = spoken.each(lambda token: token != UNVERIFIED, missing=False)
    free = np.where(verified, np.maximum(anywhere, UNCLAIMED), anywhere)
    prior = np.where(registered[codes], on_registry, free)
    (both,) = asked.take("service_token", "judged")
    (judged,) = asked.take("service", "judged")
    return (both + PRIOR_COUNT * prior) / (judged + PRIOR_COUNT)


def mismatch(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(verified application | service) beyond 1 bit; 0 without enough payload.

    What half the flows speak is no mismatch. Prior with the weight of 4 flows: 0.9 for what IANA registered for the port and
    0.02 for anything else; on unregistered ports the application's share of all
    traffic at the site, for verified ones at least 0.1.
    """
    bits = np.maximum(surprise(_probability(asked)) - USUAL_BITS, 0.0)
    bits = np.where(asked.is_true("judged"), bits, 0.0)
    return np.where(asked.is_true("visible"), bits, np.nan)


def _say_mismatch(asked: Asked) -> list[str]:
    both, judged = (
        asked.take("service_token", "judged")[0],
        asked.take("service", "judged")[0],
    )
    parts = []
    for service, spoken, app, n, k in zip(
        column(asked, "service"),
        asked.observed.names["token"].tolist(),
        column(asked, "app"),
        judged,
        both,
        strict=True,
    ):
        if spoken != UNVERIFIED:
            what = f"{spoken} on {service}"
        elif isinstance(app, str):
            what = f"port says {app}, but the payload on {service} does not follow it"
        else:
            what = f"payload on {service} follows no known protocol"
        seen = (
            f"{k:.0f} of {n:.0f} flows there in the baseline"
            if n
            else "no flow there in the baseline showed what it speaks"
        )
        parts.append(f"{what} ({seen})")
    return parts


FEATURES: Final = (
    Feature("mismatch", "mismatch", "bits", True, mismatch, _say_mismatch),
)
