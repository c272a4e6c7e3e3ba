"""Indicators of many files as one book: each once for each source, ready to look up."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from exfilml.triage._claims import SCHEMA, TLP
from exfilml.triage._indicators import Found, Named, Nets
from exfilml.triage._ranges import Ranges
from exfilml.triage._settle import URL, Rows, best, current, times_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.triage._account import Account

KINDS: Final = ("address", "network", "domain", "url", "fingerprint")
_ADDRESS, _NETWORK, _DOMAIN, _, _FINGERPRINT = range(5)
_ABOUT: Final = (
    *("source", "confidence", "tlp", "valid_from", "valid_until", "unseen"),
    *("reference", "description"),
)
DTYPES: Final = {
    "indicator": "str",
    "kind": "str",
    "port": "Int64",
    "source": "str",
    "confidence": "float64",
    "tlp": "str",
    "valid_from": "datetime64[us, UTC]",
    "valid_until": "datetime64[us, UTC]",
    "unseen": "str",
    "reference": "str",
    "description": "str",
}


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Which indicators stand for each of some things, as positions in one array.

    Attributes
    ----------
    starts
        int64, shape (n_things + 1,).
    members
        int64: positions of indicators.
    """

    starts: NDArray[np.int64]
    members: NDArray[np.int64]

    @classmethod
    def of(cls, thing: NDArray[np.int64], rows: NDArray[np.int64], n: int) -> Self:
        """Group rows by the thing that each stands for."""
        order = np.argsort(thing, kind="stable")
        counts = np.bincount(thing, minlength=n)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return cls(starts.astype(np.int64), rows[order])

    def expand(
        self, things: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the members of each thing, and the position in `things` of each."""
        counts = self.starts[things + 1] - self.starts[things]
        at = np.repeat(np.arange(len(things)), counts)
        within = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.members[self.starts[things][at] + within], at


@dataclass(frozen=True, slots=True, eq=False)
class Book:
    """Indicators, and where to look them up.

    Attributes
    ----------
    table
        Columns as in `DTYPES`.
    until
        datetime64[us], from when on each is no longer valid; NaT for never.
    since
        datetime64[us], from when on each is valid; NaT for always.
    port
        int64, 0 for any.
    alone, below
        bool: whether a name itself matches, and the names below it.
    ranges, in_range
        Networks of version 4 and 6, and the indicators of each.
    texts, of_text
        Distinct names and fingerprints as Arrow texts, and the indicators of each.
    """

    table: pd.DataFrame
    until: NDArray[np.datetime64]
    since: NDArray[np.datetime64]
    port: NDArray[np.int64]
    alone: NDArray[np.bool_]
    below: NDArray[np.bool_]
    ranges: tuple[Ranges, Ranges]
    in_range: tuple[Lists, Lists]
    texts: tuple[Any, Any]
    of_text: tuple[Lists, Lists]

    @classmethod
    def of(
        cls,
        parts: list[tuple[str, pa.Table, Found]],
        at: np.datetime64 | None,
        account: Account,
    ) -> Self:
        """Unite files; what was expired at a time and what repeats is counted.

        Parameters
        ----------
        parts
            Names of files, their claims and what was found in them.
        at
            A time in UTC, or `None`.
        account
            Of what is left out.
        """
        files = [file for file, _, _ in parts]
        claims = pa.concat_tables([SCHEMA.empty_table(), *(c for _, c, _ in parts)])
        of_file = np.repeat(np.arange(len(parts)), [len(c) for _, c, _ in parts])
        before = np.cumsum([0, *(len(c) for _, c, _ in parts)])
        shown = pa.chunked_array([f.shown for _, _, f in parts], pa.string())
        four, six, names, prints = (
            _joined(
                [
                    (getattr(f, name), n)
                    for (_, _, f), n in zip(parts, before[:-1], strict=True)
                ]
            )
            for name in ("four", "six", "names", "prints")
        )
        ranges, things = zip(*(_ranges(n) for n in (four, six)), strict=True)
        texts, codes = zip(*(_distinct(n.value) for n in (names, prints)), strict=True)
        groups = (four, six, names, prints)
        claim = np.concatenate([g.row for g in groups])
        group = np.repeat(np.arange(4), [len(g.row) for g in groups])
        of_net = np.ones(len(four.row) + len(six.row), dtype=bool)
        no_net = np.zeros(len(of_net), dtype=bool)
        rows = Rows(
            group=group,
            thing=np.concatenate([*things, *codes]),
            port=np.concatenate([g.port for g in groups]),
            kind=_kinds(four, six, names, prints),
            alone=np.concatenate([of_net, names.alone, prints.alone]),
            below=np.concatenate([no_net, names.below, prints.below]),
            file=of_file[claim],
            about=claims.take(pa.array(claim)).combine_chunks(),
            shown=shown.take(pa.array(claim)).combine_chunks(),
        )
        kept = current(rows, files, at, account)
        rows, tlp = best(rows.where(kept), files, account)
        lists = [
            Lists.of(rows.thing[at_], at_, n)
            for at_, n in (
                (np.flatnonzero(rows.group == g), n)
                for g, n in enumerate(
                    [len(r.first) for r in ranges] + [len(t) for t in texts]
                )
            )
        ]
        return cls(
            table=_table(rows, tlp),
            until=times_in(rows.about, "valid_until"),
            since=times_in(rows.about, "valid_from"),
            port=rows.port,
            alone=rows.alone,
            below=rows.below,
            ranges=ranges,
            in_range=(lists[0], lists[1]),
            texts=texts,
            of_text=(lists[2], lists[3]),
        )


def _joined(parts: list[tuple[Any, int]]) -> Any:
    """Join what was found in files; rows count through all claims then."""
    moved = [replace(part, row=part.row + n) for part, n in parts]
    return functools.reduce(lambda a, b: a.joined(b), moved)


def _ranges(nets: Nets) -> tuple[Ranges, NDArray[np.int64]]:
    return Ranges.of(nets.first, nets.last, nets.length)


def _distinct(values: Any) -> tuple[Any, NDArray[np.int64]]:
    coded = values.dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return coded.dictionary, codes


def _kinds(four: Nets, six: Nets, names: Named, prints: Named) -> NDArray[np.int64]:
    nets = [
        np.where(n.is_url, URL, np.where(n.length == most, _ADDRESS, _NETWORK))
        for n, most in ((four, 32), (six, 128))
    ]
    named = np.where(names.is_url, URL, _DOMAIN)
    return np.concatenate([*nets, named, np.full(len(prints.row), _FINGERPRINT)])


def _table(rows: Rows, tlp: NDArray[np.int64]) -> pd.DataFrame:
    kinds = pa.array(KINDS, pa.string()).take(pa.array(rows.kind))
    labels = pa.array([*TLP, None], pa.string()).take(
        pa.array(np.where(tlp < 0, len(TLP), tlp))
    )
    port = pd.array(rows.port, "Int64")
    port[rows.port == 0] = pd.NA
    columns = {
        "indicator": rows.shown,
        "kind": kinds,
        "port": port,
        "tlp": labels,
        **{name: rows.about[name] for name in _ABOUT if name != "tlp"},
    }
    return pd.DataFrame(
        {
            name: pd.array(columns[name], "Int64")
            if name == "port"
            else _column(columns[name], dtype)
            for name, dtype in DTYPES.items()
        }
    )


def _column(values: Any, dtype: str) -> pd.Series:
    if dtype == "str":
        return pd.Series(pd.array(values.to_numpy(zero_copy_only=False), "str"))
    if dtype == "float64":
        return pd.Series(values.to_numpy().astype(np.float64))
    times = values.to_numpy().astype("datetime64[us]")
    return pd.Series(times).dt.tz_localize("UTC")
