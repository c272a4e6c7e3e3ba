"""Scope of exposure: how much left, from which hosts, when, and on which paths.

Each fact names the flows it counts and the numbers it says; bytes are IP bytes of the
flows table, ``hidden_bytes`` what was uploaded concealed, or in DNS names and echo data.
A transfer that was seen on both sides of a relay counts once (`exfilml.triage._doubles`).
Hours and days are UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.features import human_bytes
from exfilml.triage._doubles import Doubles
from exfilml.triage._traffic import DataPath, Traffic
from exfilml.triage.case import Fact

if TYPE_CHECKING:
    from numpy.typing import NDArray

# So many data paths, hosts and addresses are told one by one.
MOST_PATHS: Final = 6
MOST_NAMED: Final = 5

_HOUR_US: Final = 3_600_000_000
_DAY_US: Final = 24 * _HOUR_US


def scope_of(
    flows: Traffic, assets: Mapping[str, Mapping[str, Any]]
) -> tuple[Fact, ...]:
    """Say what one case, or several together, expose.

    Parameters
    ----------
    flows
        Of one case or of several, in any order.
    assets
        What is known of local hosts, as `exfilml.Assets.of` gives it; nothing, or
        nothing of a host, if no assets were given.

    Returns
    -------
    tuple of Fact
        ``scope.bytes``, ``scope.hidden``, ``scope.again`` (transfers seen twice),
        ``scope.time``, ``scope.busiest`` (where it is more than one hour),
        ``scope.hosts``, ``scope.host`` for each of them, ``scope.addresses`` and
        ``scope.path`` for each data path, the largest first. None if there are no flows.
    """
    if not len(flows):
        return ()
    order = np.lexsort((flows.up, flows.end, flows.start))
    return tuple(_facts(flows.rows(order), assets))


def _facts(flows: Traffic, assets: Mapping[str, Mapping[str, Any]]) -> Iterator[Fact]:
    doubles = Doubles.of(flows)
    counts = doubles.counts
    once = flows if counts.all() else flows.rows(counts)
    labels = once.told()
    up, down = int(once.up.sum()), int(once.down.sum())
    yield Fact(
        "scope.bytes",
        f"{human_bytes(up)} sent and {human_bytes(down)} received in "
        f"{_count(len(once), 'flow')}",
        {"up_bytes": up, "down_bytes": down, "flows": len(once)},
        labels,
    )
    yield _hidden(once)
    if not counts.all():
        yield _again(flows, doubles)
    yield _time(once)
    if once.start.min() // _HOUR_US != once.start.max() // _HOUR_US:
        yield _busiest(once)
    yield from _hosts(once, assets)
    yield _addresses(once)
    yield from _paths(once)


def _hidden(flows: Traffic) -> Fact:
    rows = flows.is_hidden
    hidden, n = int(flows.hidden[rows].sum()), int(rows.sum())
    unseen = int((~flows.is_seen).sum())
    if n:
        text = (
            f"{human_bytes(hidden)} of it concealed, or in DNS names or echo data, in "
            f"{_count(n, 'flow')}"
        )
    elif unseen == len(flows):
        text = "whether any of it is concealed was not visible: no payload was seen"
    else:
        text = "none of what was seen of it is concealed"
    if unseen and (n or unseen < len(flows)):
        text += f"; of {_count(unseen, 'flow')} no payload was seen"
    numbers = {"hidden_bytes": hidden, "hidden_flows": n, "unseen_flows": unseen}
    about = rows | ~flows.is_seen
    labels = flows.told(about) if about.any() else flows.told()
    return Fact("scope.hidden", text, numbers, labels)


def _again(flows: Traffic, doubles: Doubles) -> Fact:
    lost = ~doubles.counts
    up, n = int(flows.up[lost].sum()), int(lost.sum())
    different = len(np.unique(doubles.transfer[lost]))
    return Fact(
        "scope.again",
        f"{human_bytes(up)} in {_count(n, 'more flow')} not counted: they look like "
        f"{_count(different, 'transfer')} that other flows show, on the other side of a "
        "proxy, resolver or mail relay (same place, same time, similar bytes)",
        {"up_bytes": up, "flows": n, "transfers": different},
        flows.told(lost),
    )


def _time(flows: Traffic) -> Fact:
    first, last = _moment(flows.start.min()), _moment(flows.end.max())
    days = len(np.unique(flows.start // _DAY_US))
    return Fact(
        "scope.time",
        f"from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, flows began on "
        f"{_count(days, 'day')}",
        {"first": first, "last": last, "days": days},
        flows.told(),
    )


def _moment(microseconds: Any) -> pd.Timestamp:
    return pd.Timestamp(int(microseconds), unit="us", tz="UTC").as_unit("us")


def _busiest(flows: Traffic) -> Fact:
    in_hour, hour, hour_up = _most(flows, _HOUR_US)
    in_day, day, day_up = _most(flows, _DAY_US)
    return Fact(
        "scope.busiest",
        f"most in the hour from {hour:%Y-%m-%d %H:%M} UTC ({human_bytes(hour_up)}) "
        f"and on {day:%Y-%m-%d} ({human_bytes(day_up)})",
        {"hour": hour, "hour_up_bytes": hour_up, "day": day, "day_up_bytes": day_up},
        flows.told(in_hour | in_day),
    )


def _most(flows: Traffic, length: int) -> tuple[NDArray[np.bool_], pd.Timestamp, int]:
    """Return the rows, the beginning and the bytes of the busiest stretch of time.

    The first of those with as much.
    """
    begins, at = np.unique(flows.start // length, return_inverse=True)
    sums = np.bincount(at, flows.up)
    most = int(np.argmax(sums))
    return at == most, _moment(begins[most] * length), int(sums[most])


def _hosts(flows: Traffic, assets: Mapping[str, Mapping[str, Any]]) -> Iterator[Fact]:
    """Say which hosts sent, the one that sent most first, and whose they are."""
    names = _by_bytes(flows, flows.local)
    if len(names) > 1:
        yield Fact(
            "scope.hosts",
            f"{len(names)} hosts of the site: {_some(names)}",
            {"hosts": len(names)},
            flows.told(),
        )
    for name in names[:MOST_NAMED]:
        rows = flows.local == name
        asset = assets.get(name, {})
        if len(names) == 1 and not asset:
            return
        up = int(flows.up[rows].sum())
        yield Fact(
            "scope.host",
            f"{name}{whose(asset)} sent {human_bytes(up)}",
            {"up_bytes": up, "flows": int(rows.sum())},
            flows.told(rows),
            "assets" if asset else "flows",
        )


def _by_bytes(flows: Traffic, names: NDArray[np.object_]) -> list[str]:
    """Return names, the one with the largest upload first."""
    codes, distinct = pd.factorize(names, sort=True)
    sums = np.bincount(codes, flows.up, minlength=len(distinct))
    return [str(distinct[i]) for i in np.argsort(-sums, kind="stable")]


def whose(asset: Mapping[str, Any]) -> str:
    """Say in brackets whose host it is, with a space before; "" if nothing was asked."""
    if not asset:
        return ""
    if not is_known(asset):
        return " (in none of the asset files)"
    said = [
        str(asset[name])
        for name in ("hostname", "owner", "department", "role")
        if _is_said(asset.get(name))
    ]
    if _is_said(asset.get("criticality")):
        said.append(f"criticality {asset['criticality']}")
    return f" ({', '.join(said)})" if said else ""


def is_known(asset: Mapping[str, Any]) -> bool:
    """Say whether an entry names the host."""
    known = asset.get("known", any(_is_said(value) for value in asset.values()))
    return bool(_is_said(known) and known)


def _is_said(value: Any) -> bool:
    return value is not None and not pd.isna(value) and value != ""


def _addresses(flows: Traffic) -> Fact:
    addresses = _by_bytes(flows, flows.remote)
    places = _by_bytes(flows, flows.place)
    text = f"to {_count(len(addresses), 'address', 'addresses')}: {_some(addresses)}"
    if set(places) != set(addresses):
        text += f"; {_count(len(places), 'place')}: {_some(places)}"
    return Fact(
        "scope.addresses",
        text,
        {"addresses": len(addresses), "places": len(places)},
        flows.told(),
    )


def _paths(flows: Traffic) -> Iterator[Fact]:
    """Say on which paths data went, the largest first."""
    used = np.unique(flows.path)
    sums = np.bincount(flows.path, flows.up, minlength=len(flows.paths))[used]
    order = used[np.argsort(-sums, kind="stable")]
    for number in order[:MOST_PATHS].tolist():
        rows = flows.path == number
        text = f"over {_named(flows.paths[number])}"
        yield _path("scope.path", text, flows, rows)
    rest = order[MOST_PATHS:]
    if len(rest):
        text = f"on {_count(len(rest), 'smaller path')}"
        yield _path("scope.other_paths", text, flows, np.isin(flows.path, rest))


def _named(path: DataPath) -> str:
    named = f", application {path.application}" if path.application else ""
    through = f", through {path.through}" if path.through else ""
    return f"{path.service} ({path.carrier}{named}{through})"


def _path(name: str, text: str, flows: Traffic, rows: NDArray[np.bool_]) -> Fact:
    numbers = {
        "up_bytes": int(flows.up[rows].sum()),
        "hidden_bytes": int(flows.hidden[rows].sum()),
        "flows": int(rows.sum()),
    }
    text += (
        f": {human_bytes(numbers['up_bytes'])} in {_count(numbers['flows'], 'flow')}"
    )
    return Fact(name, text, numbers, flows.told(rows))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _count(n: int, what: str, many: str = "") -> str:
    return f"{n:,} {what if n == 1 else many or what + 's'}"
