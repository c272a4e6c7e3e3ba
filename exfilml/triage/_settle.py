"""Which entries stay: what has not expired, one of each source for each thing.

See `exfilml.triage.intel` for the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.triage._claims import TLP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.triage._account import Account

URL: Final = 3
"""The position of ``url`` among the kinds."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Indicators row by row: what each stands for, and what is said about it."""

    group: NDArray[np.int64]
    thing: NDArray[np.int64]
    port: NDArray[np.int64]
    kind: NDArray[np.int64]
    alone: NDArray[np.bool_]
    below: NDArray[np.bool_]
    file: NDArray[np.int64]
    about: pa.Table
    shown: Any

    def __len__(self) -> int:
        return len(self.group)

    def where(self, kept: NDArray[np.bool_]) -> Rows:
        """Return some of the rows."""
        mask = pa.array(kept)
        return Rows(
            *(self.group[kept], self.thing[kept], self.port[kept], self.kind[kept]),
            *(self.alone[kept], self.below[kept], self.file[kept]),
            *(self.about.filter(mask), self.shown.filter(mask)),
        )


def times_in(about: pa.Table, name: str) -> NDArray[np.datetime64]:
    times: NDArray[np.datetime64] = about[name].to_numpy().astype("datetime64[us]")
    return times


def current(
    rows: Rows, files: list[str], at: np.datetime64 | None, account: Account
) -> NDArray[np.bool_]:
    """Say which indicators were not expired at a time, and count the others."""
    until, since = (times_in(rows.about, f"valid_{end}") for end in ("until", "from"))
    # What ends before it begins was never valid.
    never = until <= since
    _count(rows, files, never, "indicators that end before they begin", account)
    expired = np.zeros(len(rows), dtype=bool) if at is None else until <= at
    expired &= ~never
    _count(rows, files, expired, "expired indicators", account)
    kept: NDArray[np.bool_] = ~(expired | never)
    return kept


def _count(
    rows: Rows,
    files: list[str],
    mask: NDArray[np.bool_],
    reason: str,
    account: Account,
    *,
    is_news: bool = True,
) -> None:
    """Count some rows, file by file."""
    at = np.flatnonzero(mask)
    for file in np.unique(rows.file[at]).tolist():
        here = at[rows.file[at] == file]
        first = rows.shown[int(here[0])].as_py()
        account.add(files[file], reason, len(here), first, is_news=is_news)


def best(
    rows: Rows, files: list[str], account: Account
) -> tuple[Rows, NDArray[np.int64]]:
    """Leave one entry of each source for each thing; also return the TLP labels.

    Labels are positions in `TLP`, −1 for none.
    """
    source = rows.about["source"].combine_chunks().dictionary_encode()
    keys = pd.DataFrame(
        {
            "group": rows.group,
            "thing": rows.thing,
            "port": rows.port,
            "is_url": rows.kind == URL,
            "alone": rows.alone,
            "below": rows.below,
            "source": source.indices.to_numpy(zero_copy_only=False),
        }
    )
    labels = pc.index_in(rows.about["tlp"], value_set=pa.array(TLP, pa.string()))
    tlp = labels.fill_null(-1).to_numpy().astype(np.int64)
    several = np.flatnonzero(keys.duplicated(keep=False).to_numpy())
    kept = np.ones(len(rows), dtype=bool)
    if len(several):
        some = keys.iloc[several].groupby(list(keys), sort=False).ngroup().to_numpy()
        columns = ["reference", "confidence", "unseen"]
        about = rows.about.select(columns).take(pa.array(several))
        until = _last(times_in(rows.about, "valid_until")[several])
        since = times_in(rows.about, "valid_from")[several].astype(np.int64)
        confidence = np.nan_to_num(about["confidence"].to_numpy(), nan=-1.0)
        reference = about["reference"].fill_null("").to_numpy()
        rank = np.unique(reference.astype(str), return_inverse=True)[1]
        half = about["unseen"].is_valid().to_numpy()
        order = np.lexsort((rank, since, -confidence, half, -until, some))
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = some[order][1:] != some[order][:-1]
        best = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
        worse = order[~is_first]
        kept[several[worse]] = False
        theirs = best[~is_first]
        labels_ = tlp[several]
        differ = np.zeros(len(rows), dtype=bool)
        differ[several[worse]] = (
            (until[worse] != until[theirs])
            | (since[worse] != since[theirs])
            | (confidence[worse] != confidence[theirs])
            | (labels_[worse] != labels_[theirs])
        )
        np.maximum.at(labels_, theirs, labels_[worse])
        tlp[several] = labels_
        _count(
            rows,
            files,
            differ,
            "entries that others of their source contradict",
            account,
        )
        same = ~kept & ~differ
        _count(rows, files, same, "repeated entries", account, is_news=False)
    return rows.where(kept), tlp[kept]


def _last(until: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return times as numbers of which "never" is the largest."""
    numbers = until.astype(np.int64)
    return np.where(np.isnat(until), np.iinfo(np.int64).max, numbers)
