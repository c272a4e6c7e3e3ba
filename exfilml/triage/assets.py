"""Assets: whose host an address is, what it does, and how much depends on it.

Read are CSV and JSON (a list of objects) that name an ``address``, a ``network`` or a
``hostname``, with ``owner``, ``department``, ``role`` and ``criticality`` (low, medium,
high or critical). Rows with an address and a time are DHCP leases: they hold from
``lease_start`` to ``lease_end`` only, and a later lease of an address ends an earlier
one. Kea's lease files (``address``, ``hostname``, ``expire``, ``valid_lifetime``) are
read as they are: https://kea.readthedocs.io/en/latest/arm/dhcp4-srv.html#memfile-basic-storage-for-leases.

**The most specific entry wins**: a lease and the host that it names; without one the
address and the host that it names; then networks from the smallest to the largest.
What the most specific entry leaves out comes from the next one that says it;
``inherited`` names those fields, because the owner of a network need not be the owner
of a host. A criticality enters the decision on escalation, never a score.

**Contradictions.** Of several entries for the same address, network or name, the one of
the highest criticality stays, then the one that says the most, then the first by its
text: the order of rows and files does not matter. Both contradictions and repetitions
are counted in `Assets.left_out`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from exfilml.exceptions import AssetsError, AssetsWarning
from exfilml.names import Names
from exfilml.schema import are_addresses
from exfilml.triage._account import Account, shown
from exfilml.triage._columns import check_map
from exfilml.triage._entries import (
    ALIASES,
    EXPECTED,
    FIELDS,
    Entry,
    entries_of,
    settled,
    table_of,
)
from exfilml.triage._hosts import Index
from exfilml.triage._texts import texts
from exfilml.triage._times import NEVER

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Assets:
    """Assets of a site's files, as `exfilml.read_assets` gives them.

    Attributes
    ----------
    table
        The entries that stand: ``by`` (lease, address, network or hostname),
        ``entry``, ``hostname``, ``owner``, ``department``, ``role``, ``criticality``,
        ``lease_start``, ``lease_end`` and ``source``.
    left_out
        DataFrame ``file``, ``reason``, ``count``, ``first``.
    """

    table: pd.DataFrame
    left_out: pd.DataFrame
    _index: Index = field(repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        lost = int(self.left_out["count"].sum())
        return f"<Assets: {len(self):,} entries; {lost:,} left out>"

    def of(self, ips: Any, *, at: Any = None) -> pd.DataFrame:
        """Return what is known of addresses.

        Parameters
        ----------
        ips
            Addresses, for example a column of a flows table.
        at
            Times, one for each address or one for all; without a time no lease holds.
            A time without a zone is UTC.

        Returns
        -------
        pandas.DataFrame
            One row for each address, with its index: ``known`` (bool), ``by`` (what
            named it: lease, hostname, address or network), ``entry`` (the address,
            network or name of that entry), ``hostname``, ``owner``, ``department``,
            ``role``, ``criticality``, ``inherited`` (which fields come from a less
            specific entry, and from which) and ``source`` (file). An address that no
            entry names is not ``known``, and all else is missing.

        Raises
        ------
        AssetsError
            If one is no address, or times do not fit.
        """
        column = ips if isinstance(ips, pd.Series) else pd.Series(ips, dtype="str")
        names = Names.of(column.astype("str"))
        good = are_addresses(names.texts)
        good[-1] = True
        if not good.all():
            bad = names.texts[int((~good).argmax())]
            raise AssetsError(f"assets of {shown(bad)}: no address.")
        return self._index.answer(names, _times(at, len(column)), column.index)


def read_assets(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    columns: Mapping[str, str] | None = None,
) -> Assets:
    """Read assets from files.

    Parameters
    ----------
    paths
        CSV or JSON files, or folders of such files.
    columns
        Column map: which column holds ``address``, ``network``, ``hostname``,
        ``owner``, ``department``, ``role``, ``criticality``, ``lease_start``,
        ``lease_end``, where the names are others.

    Raises
    ------
    AssetsError
        If a file cannot be read, or no column names hosts.

    Warns
    -----
    AssetsWarning
        If entries are left out or contradict each other; `Assets.left_out` counts them.
    """
    columns = check_map(columns, ALIASES, AssetsError)
    account = Account()
    entries: list[Entry] = []
    for text in texts(paths, AssetsError, EXPECTED):
        table = table_of(text, columns, account)
        found = entries_of(text, table, account)
        if not found and not account.reasons(text.name):
            account.add(text.name, "file without assets")
        entries += found
    kept = settled(entries, account)
    account.warn(AssetsWarning, stacklevel=2)
    return Assets(_shown_table(kept), account.table(), Index.of(kept))


def _shown_table(entries: list[Entry]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "by": pd.array([e.by for e in entries], "str"),
        "entry": pd.array([e.key for e in entries], "str"),
    }
    for at, name in enumerate(FIELDS):
        columns[name] = pd.array([e.fields[at] for e in entries], "str")
    for end in ("start", "end"):
        times = np.array([getattr(e, end) for e in entries], "datetime64[us]")
        columns[f"lease_{end}"] = pd.Series(times).dt.tz_localize("UTC")
    columns["source"] = pd.array([e.source for e in entries], "str")
    return pd.DataFrame(columns)


def _times(at: Any, n: int) -> NDArray[np.datetime64]:
    """Return times in UTC, one for each address."""
    if at is None:
        return np.full(n, NEVER)
    try:
        times = pd.to_datetime(at, utc=True)
    except (ValueError, TypeError, OverflowError) as reason:
        raise AssetsError(f"at: got {shown(at)}, expected times.") from reason
    if isinstance(times, pd.Timestamp) or times is pd.NaT:
        times = pd.DatetimeIndex([times] * n, tz="UTC")
    if len(times) != n:
        raise AssetsError(f"at: got {len(times):,} times for {n:,} addresses.")
    plain = pd.DatetimeIndex(times).tz_convert(None)
    return plain.to_numpy().astype("datetime64[us]")
