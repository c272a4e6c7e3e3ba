"""Payload: whether the upload is concealed, and how surprising that is here.

Concealed means opaque for its length, or opaque once decoded, as
`exfilml.payload` judges it. Encryption as such is normal; encryption without the
handshake of any protocol that encrypts, on a service that does not do so in the
baseline, is what T1048.001 describes. An upload is *bare* when it is concealed and
neither side showed a handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exfilml.features._feature import (
    Asked,
    Feature,
    blend,
    column,
    human_bytes,
    mark,
    surprise,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pseudo-counts of the Beta prior that each level inherits from the one above.
PRIOR_COUNT: Final = 2.0

# Before any bare upload was seen, one of 64 bytes is the least worth a doubling:
# keep-alives and nonces of ordinary protocols stay below.
FIRST_BARE_BITS: Final = 6.0

# Before any was seen, DNS names and echo data of 64 bytes are nothing to speak of.
FIRST_CARRIED_BITS: Final = 6.0

# Allowed above the mean of earlier bare uploads before more of it is evidence.
BARE_SLACK_BITS: Final = 2.0


def _usual_share(asked: Asked) -> NDArray[np.float64]:
    """P(concealed | service, handshake), falling back to the handshake alone."""
    judged, concealed = asked.take("wrapper", "judged", "concealed")
    general = (concealed + PRIOR_COUNT * 0.5) / (judged + PRIOR_COUNT)
    judged, concealed = asked.take("service_wrapper", "judged", "concealed")
    return (concealed + PRIOR_COUNT * general) / (judged + PRIOR_COUNT)


def concealed(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(concealed | service, handshake) where the upload is concealed, else 0.

    The probability is the smoothed share in the baseline: Beta prior with 2
    pseudo-counts from the same handshake on all services, itself from one half.
    """
    counts = asked.is_true("judged") & asked.is_true("concealed")
    bits = np.where(counts, surprise(_usual_share(asked)), 0.0)
    return np.where(asked.is_true("visible"), bits, np.nan)


def bare_host(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(bare | host) where the upload is bare, else 0.

    The smoothed share of the host's judged uploads: Beta prior with 2 pseudo-counts
    from the whole site. It speaks where the service is new and its own share knows
    nothing.
    """
    judged, bare = asked.take("site", "judged", "bare")
    general = (bare + PRIOR_COUNT * 0.5) / (judged + PRIOR_COUNT)
    judged, bare = asked.take("host", "judged", "bare")
    share = (bare + PRIOR_COUNT * general) / (judged + PRIOR_COUNT)
    counts = asked.is_true("judged") & asked.is_true("bare")
    return np.where(
        asked.is_true("visible"), np.where(counts, surprise(share), 0.0), np.nan
    )


def bare_place(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(bare | service, place) where the upload is bare, else 0.

    The smoothed share of judged uploads to this place over this service: Beta prior
    with 2 pseudo-counts from the service, itself with 2 from the whole site. A place
    that takes in such uploads every day does not stand out; a new one does.
    """
    share: NDArray[np.float64] | float = 0.5
    for table in ("site", "service", "service_place"):
        judged, bare = asked.take(table, "judged", "bare")
        share = (bare + PRIOR_COUNT * share) / (judged + PRIOR_COUNT)
    counts = asked.is_true("judged") & asked.is_true("bare")
    bits = np.where(counts, surprise(np.asarray(share)), 0.0)
    return np.where(asked.is_true("visible"), bits, np.nan)


def bare_volume(asked: Asked) -> NDArray[np.float64]:
    """log2 bytes of a bare upload above the usual bare upload of the service.

    Usual is the mean of log2 bytes over bare uploads of this service plus 2
    doublings, blended with the site's; 6 bits before any was seen. 0 where the
    upload is not bare.
    """
    usual: NDArray[np.float64] | float = FIRST_BARE_BITS
    for table in ("site", "service"):
        count, bits = asked.take(table, "bare", "bare_bits")
        own = bits / np.maximum(count, 1.0) + BARE_SLACK_BITS
        usual = blend(count, own, usual)
    excess = np.maximum(asked.bits - usual, 0.0)
    bare = asked.is_true("judged") & asked.is_true("bare")
    return np.where(asked.is_true("visible"), np.where(bare, excess, 0.0), np.nan)


def carried(asked: Asked) -> NDArray[np.float64]:
    """log2 bytes in DNS names or echo data above the usual mark, in doublings.

    These are bytes where the protocol carries no data of users: labels of distinct
    names under one registered domain, echo data that neither fill nor repeat. The
    mark is mean + 2 standard deviations of this place at this service, blended with
    the service's, itself with 6 bits (64 bytes). 0 for other protocols.
    """
    usual = mark(
        asked,
        ("service", "service_place"),
        "carried_bits",
        count="carriers",
        first=FIRST_CARRIED_BITS,
    )
    excess = np.maximum(asked.observed.values["carried_bits"] - usual, 0.0)
    return np.where(asked.is_true("visible"), excess, np.nan)


def misdeclared(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(misdeclared | service) where the content is not what is declared, else 0.

    A carrier gives a media type or a file name, and the bytes are opaque and cannot be
    that. The probability is the smoothed share of the service's uploads with such a
    declaration: Beta prior with 2 pseudo-counts from one in sixteen.
    """
    declared, wrong = asked.take("service", "declared", "misdeclared")
    share = (wrong + PRIOR_COUNT / 16.0) / (declared + PRIOR_COUNT)
    bits = np.where(asked.is_true("misdeclared"), surprise(share), 0.0)
    return np.where(asked.is_true("visible"), bits, np.nan)


def _appearance(asked: Asked) -> list[str]:
    """Say what each upload looks like, and whether a handshake explains it."""
    table = asked.oriented
    # Behind a plain-text header the body is what was judged.
    entropy = table["up_body_entropy"].fillna(table["up_entropy"])
    p_random = table["up_body_p_random"].fillna(table["up_p_random"])
    parts = []
    for verdict, encoding, period, bits, p, hand in zip(
        column(asked, "up_verdict"),
        column(asked, "up_encoding"),
        asked.oriented.numbers("up_xor_period").tolist(),
        entropy,
        p_random,
        table["up_handshake"].fillna(table["down_handshake"]),
        strict=True,
    ):
        if isinstance(hand, str):
            parts.append(f"payload {verdict} after a handshake ({hand})")
        elif encoding == "xor":
            parts.append(
                f"payload is text under a repeating key of {period:.0f} bytes (XOR)"
            )
        elif isinstance(encoding, str):
            parts.append(
                f"payload is {encoding} around bytes that look encrypted, and no TLS, "
                "SSH or other handshake"
            )
        else:
            parts.append(
                f"payload {verdict} ({bits:.2f} bits/byte, randomness p={p:.2g}) and "
                "no TLS, SSH or other handshake"
            )
    return parts


def _say_concealed(asked: Asked) -> list[str]:
    judged, seen = asked.take("service_wrapper", "judged", "concealed")
    parts = []
    for what, service, n, k in zip(
        _appearance(asked), column(asked, "service"), judged, seen, strict=True
    ):
        here = (
            f"{k:.0f} of {n:.0f} such flows to {service} in the baseline"
            if n
            else f"never seen on {service} in the baseline"
        )
        parts.append(f"{what} ({here})")
    return parts


def _say_bare_host(asked: Asked) -> list[str]:
    judged, bare = asked.take("host", "judged", "bare")
    return [
        f"{what} ("
        + (
            f"{host} did so in {k:.0f} of {n:.0f} flows of the baseline)"
            if n
            else f"the baseline has no flow of {host})"
        )
        for what, host, n, k in zip(
            _appearance(asked), column(asked, "local_ip"), judged, bare, strict=True
        )
    ]


def _say_bare_place(asked: Asked) -> list[str]:
    judged, bare = asked.take("service_place", "judged", "bare")
    return [
        f"{what} ("
        + (f"{k:.0f} of {n:.0f} uploads" if n else "no upload")
        + f" to {place} over {service} in the baseline)"
        for what, place, service, n, k in zip(
            _appearance(asked),
            column(asked, "place"),
            column(asked, "service"),
            judged,
            bare,
            strict=True,
        )
    ]


def _say_bare_volume(asked: Asked) -> list[str]:
    count, bits = asked.take("service", "bare", "bare_bits")
    parts = []
    for up, n, total, service in zip(
        asked.up, count, bits, column(asked, "service"), strict=True
    ):
        usual = (
            f"usually {human_bytes(2 ** (total / n) - 1)} where {service} does so"
            if n
            else f"never done on {service} in the baseline"
        )
        parts.append(
            f"{human_bytes(up)} of concealed data without any handshake ({usual})"
        )
    return parts


def _say_carried(asked: Asked) -> list[str]:
    carried = asked.oriented.numbers("up_carried_bytes")
    names = asked.oriented.numbers("up_names")
    domain = column(asked, "up_domain")
    duration = asked.oriented.numbers("duration_s")
    parts = []
    for size, count, where, seconds in zip(
        carried, names, domain, duration, strict=True
    ):
        what = (
            f"{count:.0f} names{_under(where)} carry {human_bytes(size)}"
            if count > 0
            else f"echo data that neither fill nor repeat carry {human_bytes(size)}"
        )
        rate = (
            f", {human_bytes(60.0 * size / seconds)} a minute" if seconds > 60 else ""
        )
        parts.append(what + rate)
    return parts


def _under(domain: Any) -> str:
    """Name the domain that names lie below, where they have one in common."""
    return f" under {domain}" if isinstance(domain, str) and domain else ""


def _say_misdeclared(asked: Asked) -> list[str]:
    declared, wrong = asked.take("service", "declared", "misdeclared")
    return [
        f"declared as {what}, but the bytes are {verdict} ({k:.0f} of {n:.0f} such "
        f"uploads to {service} in the baseline)"
        for what, verdict, service, n, k in zip(
            column(asked, "up_declared"),
            column(asked, "up_verdict"),
            column(asked, "service"),
            declared,
            wrong,
            strict=True,
        )
    ]


FEATURES: Final = (
    Feature("concealed", "payload", "bits", True, concealed, _say_concealed),
    Feature("bare_host", "payload", "bits", True, bare_host, _say_bare_host),
    Feature("bare_place", "payload", "bits", True, bare_place, _say_bare_place),
    Feature("bare_volume", "hidden", "bits", True, bare_volume, _say_bare_volume),
    Feature("carried", "hidden", "bits", True, carried, _say_carried),
    Feature("misdeclared", "payload", "bits", True, misdeclared, _say_misdeclared),
)
