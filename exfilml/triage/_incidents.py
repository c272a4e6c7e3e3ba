"""Incidents: cases that probably belong to one event, and why.

Cases that go to an analyst (``L1`` or above) are joined by links. **Strong links** join
whatever they connect:

==========  ==================================================================
relay       one case shows what the other sent through a proxy, resolver or mail
            relay: the same place, the same time, similar bytes
indicator   both meet the same indicator of compromise, other than a network
place       both sent to the same place that fewer than `COMMON_HOSTS` hosts of the
            baseline used, or to the same address that the baseline does not know, no
            more than `PLACE_DAYS` apart
client      both show the same client fingerprint or user agent that no host of the
            baseline showed, no more than `PLACE_DAYS` apart
==========  ==================================================================

**Weak links** are the same local host, and the same /24 (IPv4) or /48 (IPv6) network that
the baseline does not know, each no more than `HOST_HOURS` apart. They never chain: what
they join must be linked pair by pair, so that one busy host or one large provider does
not make everything one incident. A host that others send through does not link what it
forwards.

A case below ``L1`` never joins two others; it is added to the incident, or the case, that
it has a strong link to. What is common is known from the baseline alone: without one,
only the same host, relays and indicators link.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from exfilml.triage._links import COMMON_HOSTS, Told
from exfilml.triage._scope import scope_of
from exfilml.triage._traffic import Traffic
from exfilml.triage.case import LEVELS, Case, Fact, Incident

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.baseline import Baseline
    from exfilml.policy import Policy

__all__ = ["COMMON_HOSTS", "HOST_HOURS", "PLACE_DAYS", "incidents"]

# A thief comes back to the same place; a week of leave may lie between.
PLACE_DAYS: Final = 14
# What one host does within a day is looked at together anyway.
HOST_HOURS: Final = 24

_HOUR_US: Final = 3_600_000_000
_STRONG_US: Final = PLACE_DAYS * 24 * _HOUR_US
_WEAK_US: Final = HOST_HOURS * _HOUR_US
_LEAST_LEVEL: Final = LEVELS.index("L1")
# Where several links join the same cases, the first says why.
_STRENGTH: Final = ("indicator", "place", "address", "fingerprint", "user_agent")
_RELAY: Final = -1


class _Link(NamedTuple):
    """A strong link; the order of links is their strength."""

    strength: int
    apart: int
    one: int
    other: int
    name: str


def incidents(
    cases: Sequence[Case],
    traffic: Sequence[Traffic],
    *,
    baseline: Baseline | None = None,
    policy: Policy | None = None,
) -> tuple[Incident, ...]:
    """Put cases together that belong together.

    Parameters
    ----------
    cases
        Triaged cases, in any order, which makes no difference.
    traffic
        The flows of each.
    baseline
        What the site usually does: `Detector.known_`. `None` if it is not known.
    policy
        What the site declares: its proxies, resolvers, mail relays and translated
        addresses do not link the cases they forward.

    Returns
    -------
    tuple of Incident
        Of two cases or more each, that with the worst case first.
    """
    order = sorted(
        (i for i, flows in enumerate(traffic) if len(flows)),
        key=lambda i: (int(cases[i].row["rank"]), cases[i].name),
    )
    if len(order) < 2:
        return ()
    ordered = [cases[i] for i in order]
    flows = Traffic.join([traffic[i] for i in order])
    of_case = np.repeat(np.arange(len(order)), [len(traffic[i]) for i in order])
    told = Told.of(ordered, flows, of_case, baseline, policy)
    assets = {str(case.row["local_ip"]): case.asset for case in ordered}
    reached = np.array([_level(case) >= _LEAST_LEVEL for case in ordered])
    group, facts = _joined(told, reached)
    members: dict[int, list[int]] = defaultdict(list)
    for case, number in enumerate(group.tolist()):
        members[number].append(case)
    because: dict[int, list[Fact]] = defaultdict(list)
    for case, fact in facts:
        because[int(group[case])].append(fact)
    return tuple(
        Incident(
            f"i{ordered[rows[0]].name}",
            tuple(ordered[row].name for row in rows),
            tuple(because[number]),
            scope_of(flows.rows(np.isin(of_case, rows)), assets),
        )
        for number, rows in members.items()
        if len(rows) > 1
    )


def _level(case: Case) -> int:
    return LEVELS.index(case.decision.level)


def _joined(
    told: Told, reached: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[tuple[int, Fact]]]:
    """Return the group of each case, and facts with a case that each joined."""
    group = np.arange(len(told.names))
    facts: list[tuple[int, Fact]] = []
    links = sorted(_strong(told, reached))
    for link in links:
        ours, theirs = group[link.one], group[link.other]
        if reached[link.one] and reached[link.other] and ours != theirs:
            group[group == max(ours, theirs)] = min(ours, theirs)
            facts.append((link.one, _said(told, link)))
    facts += _join_weakly(told, reached, group)
    added: set[int] = set()
    for link in links:
        low = link.one if reached[link.other] else link.other
        high = link.other if low == link.one else link.one
        if reached[high] and not reached[low] and low not in added:
            added.add(low)
            group[low] = group[high]
            facts.append((low, _said(told, link)))
    return group, facts


def _said(told: Told, link: _Link) -> Fact:
    if link.strength == _RELAY:
        return told.relayed[link.one, link.other]
    return told.fact(_STRENGTH[link.strength], link.name, link.one, link.other)


def _strong(told: Told, reached: NDArray[np.bool_]) -> Iterator[_Link]:
    """Yield strong links, none between two cases that no analyst is to see."""
    for one, other in told.relayed:
        if reached[one] or reached[other]:
            yield _Link(_RELAY, int(told.apart(one, other)), one, other, "")
    for strength, kind in enumerate(_STRENGTH):
        for name, by in told.shown[kind].items():
            cases = np.array(sorted(by), dtype=np.int64)
            high, low = cases[reached[cases]], cases[~reached[cases]]
            pairs = list(_in_turn(told, high.tolist()))
            if len(high):
                nearest = np.argmin(told.apart(low[:, None], high[None, :]), axis=1)
                pairs += zip(low.tolist(), high[nearest].tolist(), strict=True)
            for one, other in pairs:
                apart = int(told.apart(one, other))
                if apart <= _STRONG_US or kind == "indicator":
                    first, second = min(one, other), max(one, other)
                    yield _Link(strength, apart, first, second, name)


def _in_turn(told: Told, cases: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of cases that follow each other, each with the one that ended last."""
    order = sorted(cases, key=lambda c: (told.first[c], told.last[c], c))
    latest = order[0] if order else 0
    for case in order[1:]:
        yield latest, case
        if told.last[case] > told.last[latest]:
            latest = case


def _join_weakly(
    told: Told, reached: NDArray[np.bool_], group: NDArray[np.int64]
) -> list[tuple[int, Fact]]:
    """Join groups whose cases are linked pair by pair, the nearest in time first."""
    rows = np.flatnonzero(reached)
    apart = told.apart(rows[:, None], rows[None, :])
    hosts = np.unique(np.array(told.hosts, dtype=object)[rows], return_inverse=True)[1]
    alike = (hosts[:, None] == hosts[None, :]) & ~told.forwards[rows][:, None]
    by_host = alike & (apart <= _WEAK_US)
    by_network: dict[tuple[int, int], str] = {}
    at = {int(row): i for i, row in enumerate(rows)}
    linked = by_host.copy()
    for name, by in sorted(told.shown["network"].items()):
        mine = np.array([at[case] for case in sorted(by) if case in at], dtype=np.int64)
        near = apart[np.ix_(mine, mine)] <= _WEAK_US
        linked[np.ix_(mine, mine)] |= near
        for i, j in np.argwhere(np.triu(near, 1)):
            by_network.setdefault((int(mine[i]), int(mine[j])), name)
    # Groups of strong links are one from here on: of each pair of them some two cases
    # must be linked.
    number, of_group = np.unique(group[rows], return_inverse=True)
    whole = np.zeros((len(number), len(number)), dtype=bool)
    pairs = np.argwhere(np.triu(linked, 1))
    first, second = of_group[pairs[:, 0]], of_group[pairs[:, 1]]
    whole[first, second] = True
    whole[second, first] = True
    now = np.arange(len(number))
    facts = []
    order = np.lexsort((pairs[:, 1], pairs[:, 0], apart[pairs[:, 0], pairs[:, 1]]))
    for i, j in pairs[order].tolist():
        ours, theirs = sorted((int(now[of_group[i]]), int(now[of_group[j]])))
        if ours == theirs or not whole[ours, theirs]:
            continue
        now[now == theirs] = ours
        whole[ours] &= whole[theirs]
        whole[:, ours] = whole[ours]
        one, other = int(rows[i]), int(rows[j])
        if by_host[i, j]:
            fact = told.host_fact(one, other)
        else:
            fact = told.fact("network", by_network[i, j], one, other)
        facts.append((one, fact))
    group[rows] = number[now[of_group]]
    return facts
