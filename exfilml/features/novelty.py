"""Novelty: a place, address, network or service not seen before, and how rare that is.

How surprising something new is depends on how often something new turns up: a
laptop visits new web sites every hour, a camera never does, and new destinations
for SSH are rarer than for HTTPS. Good and Turing's estimate says it from the
baseline alone: the chance that the next observation is unseen is the share of
observations that were seen exactly once (I. J. Good, Biometrika 40, 1953). One is
added to that count and two to the observations, so that n observations never claim
more than log2(n + 2) bits.

What is new counts only as far as the upload, or what the case uploaded in 14 days,
exceeds the mean of its service, doubling for bit: that a place is new is evidence of
theft to the extent that something goes there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.features._feature import (
    Asked,
    Feature,
    blend,
    column,
    lookup,
    surprise,
)
from exfilml.tally import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _unseen(asked: Asked, table: str, level: str | None) -> NDArray[np.float64]:
    """Bits of surprise where the flow's key of `table` was never seen, else 0.

    The chance of something unseen is estimated at `level` (the first part of the
    table's key), blended with that of the whole site.
    """
    tally = asked.tally(table)
    bits: NDArray[np.float64] = surprise(np.array(tally.unseen_share))
    if level == "service":
        bits = _by_row(tally, asked.tally(level))[asked.rows(level)]
    elif level is not None:
        # What a key that was never seen leaves is the site's.
        bits = lookup(*_by_first(tally), asked.observed.hashes[level], float(bits))
    return np.where(asked.is_new(table), np.minimum(bits, asked.beyond_usual), 0.0)


def _by_first(tally: Tally) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Surprise at something unseen, in bits, by the first part of a table's keys."""
    if ("unseen",) not in tally.derived:
        who, total, once = tally.by_first
        chance = blend(total, (once + 1.0) / (total + 2.0), tally.unseen_share)
        tally.derived["unseen",] = (who, surprise(chance))
    who, bits = tally.derived["unseen",]
    return who, bits


def _by_row(tally: Tally, firsts: Tally) -> NDArray[np.float64]:
    """As `_by_first`, for the rows of the table of first parts and one that has none."""
    if ("unseen", "rows") not in tally.derived:
        site = float(surprise(np.array(tally.unseen_share)))
        bits = lookup(*_by_first(tally), firsts.first, site)
        tally.derived["unseen", "rows"] = (np.append(bits, site),)
    by_row: NDArray[np.float64] = tally.derived["unseen", "rows"][0]
    return by_row


def _unseen_for_host(asked: Asked, table: str, name: str) -> NDArray[np.float64]:
    """Bits of surprise where the host never showed a name, else 0.

    ``(n · own + 5 · others) / (n + 5)`` of a host that was seen n times: *own* is Good
    and Turing's estimate from its habits, *others* is −log2 of the share of what hosts
    of the site use that no more other hosts use than this. To a host that was never
    seen all is new, and what stands out is what hardly anybody else here uses.
    """
    tally = asked.tally(table)
    new = np.flatnonzero(asked.is_new(table))
    own, pull = _habits(tally, asked.tally("host"))
    rows = asked.rows("host")[new]
    users = lookup(*tally.by_second, asked.observed.hashes[name][new], 0.0)
    rare = _rarity(tally)
    others = rare[np.minimum(users.astype(np.int64), len(rare) - 1)]
    bits = np.zeros(asked.n_flows)
    bits[new] = np.minimum(own[rows] + pull[rows] * others, asked.beyond_usual[new])
    return bits


def _habits(
    tally: Tally, hosts: Tally
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each host's own habits add to a surprise, and what others' weigh.

    As `blend`, for the rows of the table of hosts and one for those never seen.
    """
    if ("habits",) not in tally.derived:
        who, total, once = tally.by_first
        n = np.append(lookup(who, total, hosts.first, 0.0), 0.0)
        alone = np.append(lookup(who, once, hosts.first, 0.0), 0.0)
        own = surprise((alone + 1.0) / (n + 2.0))
        tally.derived["habits",] = (blend(n, own, 0.0), blend(n, 0.0 * own, 1.0))
    own, pull = tally.derived["habits",]
    return own, pull


def _rarity(tally: Tally) -> NDArray[np.float64]:
    """Surprise at what so many other hosts use, in bits, by their number from 0 on.

    Each name that a host uses is one observation, and one is added as in `_unseen`.
    """
    if ("rarity",) not in tally.derived:
        _, users = tally.by_second
        seen = np.cumsum(np.bincount(users, users, minlength=2))
        # A name with c users has c − 1 others to each of them.
        tally.derived["rarity",] = (surprise((seen[1:] + 1.0) / (seen[-1] + 2.0)),)
    rare: NDArray[np.float64] = tally.derived["rarity",][0]
    return rare


def place_for_host(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen place | host) where this host never used the place, in bits."""
    return _unseen_for_host(asked, "host_place", "place")


def place_for_service(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen place | service) where no host used it so, in bits."""
    return _unseen(asked, "service_place", "service")


def address_for_place(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen address | place, or service) where it was never seen, in bits.

    Of a place that is known for the service the addresses of that place are asked: those
    of a cloud change every day, those of a licence server never do. Of a new place those
    of the service.
    """
    return np.where(
        asked.is_new("service_place"),
        _unseen(asked, "service_address", "service"),
        _unseen(asked, "place_address", "place"),
    )


def network_for_service(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen /24 or /48 | service) where no host used it so, in bits.

    0 where the place is known for the service: a name may move.
    """
    bits = _unseen(asked, "service_network", "service")
    return np.where(asked.is_new("service_place"), bits, 0.0)


def service_for_host(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen service | host) where this host never used it, in bits."""
    return _unseen_for_host(asked, "host_service", "service")


def _unseen_name(asked: Asked, table: str, name: str) -> NDArray[np.float64]:
    """Bits of surprise where a host never showed a name, 0 where there is none.

    Most flows have none by their nature, and a forest would isolate those that do.
    """
    missing = asked.observed.hashes[name] == 0
    return np.where(missing, 0.0, _unseen_for_host(asked, table, name))


def fingerprint_for_host(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen client fingerprint | host) where the host never had it, in bits."""
    return _unseen_name(asked, "host_fingerprint", "fingerprint")


def user_agent_for_host(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen user agent | host) where the host never had it, in bits."""
    return _unseen_name(asked, "host_user_agent", "user_agent")


def process_for_host(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen process | host) where it never used the network, in bits."""
    # A baseline without processes cannot tell new ones from old.
    if len(asked.tally("host_process").keys) == 0:
        return np.zeros(asked.n_flows)
    return _unseen_name(asked, "host_process", "process")


def service_for_site(asked: Asked) -> NDArray[np.float64]:
    """−log2 P(unseen service) where no host of the site used it, in bits."""
    return _unseen(asked, "service", None)


def _say_new(asked: Asked, table: str, name: str, word: str) -> list[str]:
    hosts = lookup(*asked.tally(table).by_second, asked.observed.hashes[name], 0.0)
    total = asked.baseline.n_hosts
    return [
        f"{word} {value} never seen from {host} ({k:.0f} of {total} hosts)"
        for value, host, k in zip(
            column(asked, name), column(asked, "local_ip"), hosts, strict=True
        )
    ]


def _say_new_for_service(asked: Asked, name: str, word: str) -> list[str]:
    return [
        f"{word} {value} never seen for {service} from any host"
        for value, service in zip(
            column(asked, name), column(asked, "service"), strict=True
        )
    ]


def _say_address(asked: Asked) -> list[str]:
    new = asked.is_new("service_place")
    places, services = column(asked, "place"), column(asked, "service")
    return [
        f"address {address} never seen for {service if n else place} from any host"
        for address, place, service, n in zip(
            column(asked, "remote_ip"), places, services, new, strict=True
        )
    ]


_say_service = partial(_say_new, table="host_service", name="service", word="service")

FEATURES: Final = tuple(
    Feature(
        name, "novelty", "bits", needs_payload=False, compute=compute, reason=reason
    )
    for name, compute, reason in (
        (
            "new_place_host",
            place_for_host,
            partial(_say_new, table="host_place", name="place", word="destination"),
        ),
        (
            "new_place_service",
            place_for_service,
            partial(_say_new_for_service, name="place", word="destination"),
        ),
        (
            "new_address",
            address_for_place,
            _say_address,
        ),
        (
            "new_network",
            network_for_service,
            partial(_say_new_for_service, name="network", word="network"),
        ),
        (
            "new_fingerprint",
            fingerprint_for_host,
            partial(
                _say_new,
                table="host_fingerprint",
                name="fingerprint",
                word="client fingerprint",
            ),
        ),
        (
            "new_user_agent",
            user_agent_for_host,
            partial(
                _say_new, table="host_user_agent", name="user_agent", word="user agent"
            ),
        ),
        (
            "new_process",
            process_for_host,
            partial(_say_new, table="host_process", name="process", word="process"),
        ),
        ("new_service_host", service_for_host, _say_service),
        ("new_service_site", service_for_site, _say_service),
    )
)
