"""Threat intelligence from files: which flows meet an indicator.

Read are plain lists, CSV, STIX bundles and MISP events (`exfilml.triage._plain`,
``_csv``, ``_stix``, ``_misp``), never the network. An indicator meets a flow by

- either end's address, or the address that a proxy was asked for (``server_name``);
- the name that was asked for, and the domain that DNS names were sent below
  (``server_name``, ``src_domain``, ``dst_domain``): a domain and all names below it;
- the host of a URL: that name alone, since flows show no paths;
- the client's fingerprint (JA3, JA4).

A *place* of `exfilml.places` is the registered domain or the address, which is too
coarse here: an indicator ``c2.example.com`` says nothing about ``www.example.com``.
So matches are made with what places are made of, the requested host, the queried name,
the recipient's domain where the source puts it there, and belong to a case through its
flows.

**Time.** A flow that starts when an indicator is no longer valid does not match; how
many did not stands in ``attrs["expired"]`` of the matches. A flow before the indicator
became valid matches and is marked ``early``: indicators are published after their first
use, and that is what history is searched for. ``at`` leaves out, and counts, what was no
longer valid then.

**Several entries.** Each source that names an indicator is a match of its own. Of
entries of one source for the same thing, the one stays that is valid the longest, then
one that asks for nothing unseen, then the most confident one, then the one valid from
the earliest time, then the first by reference; its TLP label is the strictest of all.

**Ports.** An indicator with a port matches flows at whose end with that address, or
that name, the port is; a name asked of a proxy can carry its own.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from exfilml.exceptions import IntelError, IntelWarning
from exfilml.places import parse_networks
from exfilml.schema import validate_flows
from exfilml.triage import _csv, _misp, _plain, _stix
from exfilml.triage._account import Account, shown
from exfilml.triage._claims import SCHEMA
from exfilml.triage._columns import check_map, header_of
from exfilml.triage._indicators import NO_INDICATOR, Found, find
from exfilml.triage._meetings import NAMES, meetings
from exfilml.triage._merge import Book
from exfilml.triage._texts import Text, texts
from exfilml.triage._times import time_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXPECTED: Final = (
    "a list, a CSV file, a STIX bundle or a MISP event, or a folder of such files"
)
MATCH_DTYPES: Final = {
    "indicator": "str",
    "kind": "str",
    "matched": "str",
    "value": "str",
    "port": "Int64",
    "source": "str",
    "confidence": "float64",
    "tlp": "str",
    "valid_from": "datetime64[us, UTC]",
    "valid_until": "datetime64[us, UTC]",
    "early": "bool",
    "unseen": "str",
    "reference": "str",
    "description": "str",
}


@dataclass(frozen=True, eq=False)
class Intel:
    """Indicators of a site's files, as `exfilml.read_intel` gives them.

    Attributes
    ----------
    left_out
        DataFrame ``file``, ``reason``, ``count``, ``first``: what cannot be matched,
        was refused, expired or repeated.
    """

    left_out: pd.DataFrame
    _book: Book = field(repr=False)

    def __len__(self) -> int:
        return len(self._book.table)

    def __repr__(self) -> str:
        counts = self._book.table["kind"].value_counts()
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.items()) or "none"
        return f"<Intel: {kinds}; {int(self.left_out['count'].sum()):,} left out>"

    @property
    def indicators(self) -> pd.DataFrame:
        """The indicators: `indicator kind port source confidence tlp valid_from …`."""
        return self._book.table.copy()

    def match(self, flows: pd.DataFrame) -> pd.DataFrame:
        """Return the matches of flows and indicators.

        Parameters
        ----------
        flows
            A flows table.

        Returns
        -------
        pandas.DataFrame
            One row for each flow and indicator that meet, in the order of the flows.
            The index is that of the flow. Columns: ``indicator``, ``kind`` (address,
            network, domain, url or fingerprint), ``matched`` (the column of the flow)
            and ``value`` (what stands in it), ``port`` (that the indicator asks for),
            ``source``, ``confidence`` (0 to 100), ``tlp`` (clear, green, amber,
            amber+strict or red), ``valid_from``, ``valid_until``, ``early`` (the flow
            began before ``valid_from``), ``unseen`` (what a STIX pattern asks for
            beyond that and the flow does not show), ``reference`` and ``description``.

        Raises
        ------
        FlowsError
            If it is no flows table.
        """
        flows = validate_flows(flows)
        met = meetings(self._book, flows)
        start = flows["start"].to_numpy(dtype="datetime64[us]")
        began = start[met["row"]]
        over = began >= self._book.until[met["indicator"]]
        table = self._table(flows, met[~over], began[~over])
        table.attrs["expired"] = int(over.sum())
        return table

    def _table(
        self, flows: pd.DataFrame, met: pd.DataFrame, began: NDArray[np.datetime64]
    ) -> pd.DataFrame:
        row, indicator = met["row"].to_numpy(), met["indicator"].to_numpy()
        table = self._book.table.iloc[indicator].set_axis(flows.index[row])
        matched = met["matched"].to_numpy(dtype=object)
        value = np.full(len(met), None, dtype=object)
        for column in ("src_ip", "dst_ip", *NAMES, "fingerprint"):
            here = matched == column
            value[here] = flows[column].iloc[row[here]].to_numpy(dtype=object)
        table = table.assign(
            matched=pd.array(matched, "str"),
            value=pd.array(value, "str"),
            early=began < self._book.since[indicator],
        )
        return table[list(MATCH_DTYPES)]


def read_intel(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    home: Iterable[str] | str | None = None,
    at: dt.datetime | str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Intel:
    """Read indicators of compromise from files.

    Parameters
    ----------
    paths
        Files, or folders of files, which are read whole. What each is, its content
        says: plain lists, CSV with a header, STIX 2 bundles, MISP events.
    home
        The site's own networks: indicators that touch them are refused.
    at
        The time of the analysis: indicators that had expired then are left out. A time
        without a zone is UTC. By default each flow is judged by its own time alone.
    columns
        Column map of CSV files: which column holds the ``indicator`` (or ``address``,
        ``domain``, ``url``, ``fingerprint``), ``port``, ``source``, ``confidence``,
        ``tlp``, ``valid_from``, ``valid_until``, ``reference``, ``description``.

    Raises
    ------
    IntelError
        If a file cannot be read, or is none of these, or ``at`` is no time.
    OptionError
        If ``home`` is no network.

    Warns
    -----
    IntelWarning
        If indicators are left out; `Intel.left_out` counts all of them.
    """
    own = () if home is None else parse_networks(home)
    columns = check_map(columns, _csv.ALIASES, IntelError)
    moment = _moment(at)
    account = Account()
    parts: list[tuple[str, pa.Table, Found]] = []
    for text in texts(paths, IntelError, _EXPECTED):
        claims = _claims(text, columns, account)
        found = find(claims, text.name, own, account)
        _check(text, claims, found, account)
        parts.append((text.name, claims, found))
    book = Book.of(parts, moment, account)
    account.warn(IntelWarning, stacklevel=2)
    return Intel(account.table(), book)


def _claims(text: Text, columns: Mapping[str, str], account: Account) -> pa.Table:
    """Read the claims of a file by the reader that its content asks for."""
    if text.is_json:
        data = text.json(IntelError, _EXPECTED)
        if _stix.is_mine(data):
            return _stix.read(text, data, account)
        if _misp.is_mine(data):
            return _misp.read(text, data, account)
        raise IntelError(
            f"{text.path}: JSON, but no STIX bundle and no MISP event; expected "
            f"{_EXPECTED}."
        )
    if _misp.is_hashes(text):
        return SCHEMA.empty_table()
    is_csv = text.path.suffix.lower() in {".csv", ".tsv"}
    if header_of(text, [*_csv.KNOWN, *columns.values()]) or (is_csv and columns):
        return _csv.read(text, columns, account)
    return _plain.read(text)


def _check(text: Text, claims: pa.Table, found: Found, account: Account) -> None:
    """Refuse a text that is something else, such as the page of an error."""
    reasons = account.reasons(text.name)
    if len(claims) and not len(found) and reasons == [NO_INDICATOR]:
        first = claims["text"][0].as_py()
        if not text.is_json:
            raise IntelError(
                f"{text.path}: none of its {len(claims):,} lines is an indicator "
                f"(first: {shown(first)}); expected {_EXPECTED}. A CSV file needs a "
                "header, or a column map."
            )
    if not len(claims) and not reasons:
        account.add(text.name, "file without indicators")


def _moment(at: dt.datetime | str | None) -> np.datetime64 | None:
    if at is None:
        return None
    moment = time_of(at)
    if np.isnat(moment):
        raise IntelError(
            f"at: got {shown(at)}, expected a time such as 2026-11-28T12:00:00Z."
        )
    return moment
