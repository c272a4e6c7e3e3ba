"""What files of assets say, row by row, and which of what contradicts itself stays.

See `exfilml.triage.assets` for formats and rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from exfilml.exceptions import AssetsError
from exfilml.triage._account import Account, shown
from exfilml.triage._columns import Columns, choose, columns_of, header_of
from exfilml.triage._texts import Text
from exfilml.triage._times import NEVER, times_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

CRITICALITIES: Final = ("low", "medium", "high", "critical")
FIELDS: Final = ("hostname", "owner", "department", "role", "criticality")
EXPECTED: Final = "a CSV or JSON file of assets, or a folder of such files"
ALIASES: Final = {
    "address": ("address", "ip", "ip_address", "ipv4", "ipv6"),
    "network": ("network", "cidr", "subnet"),
    "hostname": ("hostname", "host", "name", "fqdn"),
    "owner": ("owner", "user", "contact", "assigned_to"),
    "department": ("department", "dept", "unit", "team"),
    "role": ("role", "function", "type"),
    "criticality": ("criticality", "critical", "importance", "priority"),
    "lease_start": ("lease_start", "start", "starts", "valid_from"),
    "lease_end": ("lease_end", "end", "ends", "valid_until", "expire"),
    "lifetime": ("valid_lifetime",),
}
_KEYS: Final = ("address", "network", "hostname")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a row of a file says; a missing text is None."""

    by: str
    key: str
    fields: tuple[str | None, ...]
    start: np.datetime64
    end: np.datetime64
    source: str

    @property
    def rank(self) -> tuple[int, int, str]:
        """Return what orders entries that contradict each other, the best first."""
        criticality = self.fields[-1]
        worth = -1 if criticality is None else CRITICALITIES.index(criticality)
        said = sum(text is not None for text in self.fields)
        return -worth, -said, repr((self.fields, self.source))


def table_of(
    text: Text, columns: Mapping[str, str], account: Account
) -> dict[str, list[str]]:
    """Return the columns of a file that mean something, as texts."""
    if text.is_json:
        table = _json(text, account)
    else:
        wanted = [name for names in ALIASES.values() for name in names]
        head = header_of(text, [*wanted, *columns.values()])
        if head is None:
            raise AssetsError(
                f"{text.path}: no header with a known column; expected "
                f"{', '.join(ALIASES)}, or a column map."
            )
        table = columns_of(text, *head, account)
    found = choose(text.path, table.names, ALIASES, columns, AssetsError)
    if table.names and not any(found[key] for key in _KEYS):
        raise AssetsError(
            f"{text.path}: no column names hosts, got "
            f"{', '.join(map(shown, table.names[:20]))}; expected address, network or "
            "hostname, or a column map."
        )
    return {
        name: table.get(found[name][0]).to_pylist()
        if found[name]
        else [""] * len(table)
        for name in ALIASES
    }


def _json(text: Text, account: Account) -> Columns:
    data = text.json(AssetsError, EXPECTED)
    if isinstance(data, dict) and isinstance(data.get("assets"), list):
        data = data["assets"]
    if not isinstance(data, list):
        raise AssetsError(
            f"{text.path}: got {shown(data)}, expected a list of objects, or an object "
            'with such a list as "assets".'
        )
    rows = [row for row in data if isinstance(row, dict)]
    if len(rows) < len(data):
        first = next(row for row in data if not isinstance(row, dict))
        account.add(
            text.name, "entries that are no object", len(data) - len(rows), first
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([_cell(row.get(name)) for row in rows] for name in names)
    return Columns(tuple(names), tuple(pa.array(c, pa.string()) for c in cells))


def _cell(value: Any) -> str:
    """Return a value of JSON as text; what is no plain value says nothing."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    # A surrogate of its own is no text.
    return str(value).encode("utf-8", "replace").decode() if plain else ""


def entries_of(
    text: Text, table: dict[str, list[str]], account: Account
) -> list[Entry]:
    """Return what the rows of a file say."""
    start, end, is_bad = _terms(table)
    found = []
    for at, (address, network, host) in enumerate(
        zip(*(table[key] for key in _KEYS), strict=True)
    ):
        name = host.strip(". ").lower() or None
        key = canonical(address or network)
        if key is None or is_bad[at] or not (key or name):
            row = {n: values[at] for n, values in table.items() if values[at]}
            reason = "entries without a valid address, network, host name or time"
            account.add(text.name, reason, 1, row)
            continue
        level = table["criticality"][at].lower() or None
        if level not in {None, *CRITICALITIES}:
            reason = "criticalities other than low, medium, high, critical"
            account.add(text.name, reason, 1, level)
            level = None
        rest = (table[n][at] or None for n in ("owner", "department", "role"))
        is_lease = not (np.isnat(start[at]) and np.isnat(end[at]))
        by = "hostname" if not key else "network" if "/" in key else "address"
        if by == "address" and is_lease:
            by = "lease"
        begin, stop = (start[at], end[at]) if by == "lease" else (NEVER, NEVER)
        fields = (name, *rest, level)
        found.append(Entry(by, key or str(name), fields, begin, stop, text.name))
    return found


def _terms(
    table: dict[str, list[str]],
) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64], NDArray[np.bool_]]:
    """Return beginnings and ends of leases, and which are no times."""
    start, odd_start = times_of(table["lease_start"])
    end, odd_end = times_of(table["lease_end"])
    lifetimes = [
        int(t) if t.isdecimal() and len(t) < 11 else 0 for t in table["lifetime"]
    ]
    begun = end - np.array(lifetimes, "timedelta64[s]")
    start = np.where(np.isnat(start) & (np.array(lifetimes) > 0), begun, start)
    return start, end, odd_start | odd_end | (end <= start)


def canonical(text: str) -> str | None:
    """Return an address or network in one form, None if it is none."""
    if not text:
        return ""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    first = network.network_address
    mapped = getattr(first, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    return str(
        network
        if network.prefixlen < network.max_prefixlen
        else network.network_address
    )


def settled(entries: list[Entry], account: Account) -> list[Entry]:
    """Return one entry for each key, and for each key and beginning of a lease."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.by, entry.key, str(entry.start)), []).append(entry)
    kept = []
    for _, group in sorted(groups.items()):
        best = min(group, key=lambda entry: (entry.rank, str(entry.end)))
        kept.append(best)
        others = [entry for entry in group if entry is not best]
        for entry in others:
            is_same = (entry.fields, str(entry.end)) == (best.fields, str(best.end))
            reason = "repeated entries" if is_same else "entries that others contradict"
            account.add(entry.source, reason, 1, entry.key, is_news=not is_same)
    return kept
