"""What a feature is, and the arithmetic that several families share.

One file because a mark is made and told from the same levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exfilml.baseline import TABLES, Baseline, Observed, windows_of
from exfilml.features._peers import Peers
from exfilml.places import Oriented
from exfilml.tally import Tally, combine

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How many observations a specific level needs before it counts as much as the
# general one it falls back to.
BLEND: Final = 5.0

# Name of the table of peer groups by service.
PEERS: Final = "peer_service"


@dataclass(frozen=True, slots=True)
class Asked:
    """The flows that are asked about: as a table and as hashed keys, row by row.

    Attributes
    ----------
    oriented, observed
        The flows.
    baseline
        What evidence is measured against.
    known
        What has been seen at all: `baseline`, and what came after it. It can only
        take evidence away, so that scores stay comparable with those of calibration,
        which knew `baseline` alone. Reasons speak of it.
    """

    oriented: Oriented
    observed: Observed
    baseline: Baseline
    known: Baseline
    # What was looked up before: several features ask for the same.
    _keys: dict[tuple[str, ...], NDArray[np.uint64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _found: dict[str, NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _taken: dict[tuple[str, str], NDArray[np.float64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _new: dict[str, NDArray[np.bool_]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _beyond: list[NDArray[np.float64]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def told(self) -> Asked:
        """The same flows, asked about against all that is known: for reasons."""
        return replace(self, baseline=self.known)

    def only(self, rows: NDArray[Any] | slice) -> Asked:
        """Ask about some of the flows."""
        return replace(
            self, oriented=self.oriented.rows(rows), observed=self.observed.rows(rows)
        )

    def keys(self, tally: str) -> NDArray[np.uint64]:
        """Return what each flow is counted under in a table of the baseline."""
        if tally == PEERS:
            names: tuple[str, ...] = ("peers", "service")
        else:
            names = TABLES[tally].keys
        if names not in self._keys:
            parts = [self._hashes(k) for k in names]
            nothing = np.zeros(self.n_flows, dtype=np.uint64)
            self._keys[names] = combine(*parts) if parts else nothing
        return self._keys[names]

    def _hashes(self, name: str) -> NDArray[np.uint64]:
        hashes = self.observed.hashes
        if name == "peers":
            peers = Peers.of(self.baseline.tables["host_service"])
            return peers.groups_of(hashes["local_ip"])
        return hashes[name]

    def rows(self, tally: str) -> NDArray[np.int64]:
        """Return the row of each flow in a table of the baseline, −1 if unseen."""
        if tally not in self._found:
            self._found[tally] = self.tally(tally).find(self.keys(tally))
        return self._found[tally]

    def is_new(self, tally: str) -> NDArray[np.bool_]:
        """Say of which flows the key in a table was never seen at all."""
        if tally not in self._new:
            new: NDArray[np.bool_] = self.rows(tally) < 0
            if new.any():
                late = self.known.tables[tally].find(self.keys(tally)[new])
                new[new] = late < 0
            self._new[tally] = new
        return self._new[tally]

    def tally(self, name: str) -> Tally:
        """Return a table of the baseline, or that of `PEERS`, which follows from it."""
        if name == PEERS:
            return Peers.of(self.baseline.tables["host_service"]).tally
        return self.baseline.tables[name]

    def take(self, tally: str, *names: str) -> list[NDArray[np.float64]]:
        """Return values of a table for each flow, 0 where its key is unseen."""
        for name in names:
            if (tally, name) not in self._taken:
                taken = self.tally(tally).take(name, self.rows(tally))
                self._taken[tally, name] = taken
        return [self._taken[tally, name] for name in names]

    @property
    def n_flows(self) -> int:
        """Number of flows."""
        return self.observed.n_rows

    @property
    def tie(self) -> NDArray[np.uint64]:
        """A number for each flow that its content gives, not its place in a table."""
        return self.observed.tie

    @property
    def up(self) -> NDArray[np.float64]:
        """Uploaded bytes, shape (n_flows,)."""
        return self.observed.values["up"]

    @property
    def bits(self) -> NDArray[np.float64]:
        """Uploaded bytes as log2(1 + bytes), shape (n_flows,)."""
        return self.observed.values["bits"]

    @property
    def beyond_usual(self) -> NDArray[np.float64]:
        """log2 upload above the mean of the service, blended with the site's.

        In doublings, shape (n_flows,). What is odd about a conversation is evidence
        of theft as far as something goes out: by itself, or by what its case added up
        to in 14 days.
        """
        if not self._beyond:
            usual: NDArray[np.float64] | float = 0.0
            for level in ("site", "service"):
                count, total = self.take(level, "n", "bits")
                usual = blend(count, total / np.maximum(count, 1.0), usual)
            summed = self.observed.values[windows_of("case_up")[-1]]
            most = np.maximum(self.bits, summed)
            self._beyond.append(np.maximum(most - usual, 0.0))
        return self._beyond[0]

    def is_true(self, flag: str) -> NDArray[np.bool_]:
        """Return a flag of `Observed`: ``visible``, ``judged``, ``concealed``, ``bare``.

        Shape (n_flows,).
        """
        flags: NDArray[np.bool_] = self.observed.values[flag] > 0
        return flags


# What is worth a reader's time, by unit.
WORTH_TELLING: Final = {"bits": 2.0, "share": 0.25}

Compute = Callable[[Asked], "NDArray[np.float64]"]
Reason = Callable[[Asked], list[str]]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of evidence: larger is more suspicious, 0 is normal.

    Attributes
    ----------
    name, family
        Column name and the family it belongs to.
    unit
        Unit of the values.
    needs_payload
        Whether it can only be computed where payload is visible.
    compute
        `Asked` to float64 of shape (n_flows,); NaN where it cannot be judged.
    reason
        `Asked` to one sentence part for each flow, with the numbers behind it.
    in_forest
        Whether the forest sees it; if not, it counts for itself alone.
    instead_of
        Feature in whose place it stands where the baseline shows what it judges;
        where not, that one stays. `None` for a feature that is always asked.
    """

    name: str
    family: str
    unit: str
    needs_payload: bool
    compute: Compute
    reason: Reason
    in_forest: bool = True
    instead_of: str | None = None

    @property
    def definition(self) -> str:
        """First paragraph of what `compute` says it computes."""
        return (self.compute.__doc__ or "").strip().split("\n\n")[0]


def blend(
    count: NDArray[np.float64],
    own: NDArray[np.float64],
    general: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Mix a specific estimate with a general one by how often the specific was seen.

    ``(n · own + 5 · general) / (n + 5)``: a level with five observations counts half.
    """
    return (count * own + BLEND * general) / (count + BLEND)


# A level whose values never vary would call 1 % more an excess.
LEAST_DEVIATION_BITS: Final = 0.5


def high_mark(
    count: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean + 2 standard deviations, from count, sum and sum of squares, in bits."""
    mean = total / np.maximum(count, 1.0)
    variance = np.maximum(squares / np.maximum(count, 1.0) - mean * mean, 0.0)
    return mean + 2.0 * np.maximum(np.sqrt(variance), LEAST_DEVIATION_BITS)


def mark(
    asked: Asked,
    tables: Sequence[str],
    bits: str,
    *,
    count: str = "n",
    first: float | None = None,
) -> NDArray[np.float64]:
    """Return the usual high mark of a column in bits, blended over several levels.

    Parameters
    ----------
    tables
        Tables of the baseline, from the most general level to the most specific one.
    bits
        Column of log2 bytes.
    count
        Column that says how many observations a level has.
    first
        Mark before anything was seen; `None` for the most general level's own.
    """
    if first is None:
        # The most general level has one row, and it counts in full.
        general, *tables = tables
        values = asked.tally(general).values
        n, total, squares = (values[v] for v in (count, bits, f"{bits}_squared"))
        first = float(high_mark(n, total, squares).sum())
    usual: NDArray[np.float64] | float = first
    for table in tables:
        own, pull = _levels(asked.tally(table), count, bits)
        rows = asked.rows(table)
        usual = own[rows] + pull[rows] * usual
    return np.broadcast_to(usual, asked.n_flows)


def _levels(
    tally: Tally, count: str, bits: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each row of a table adds to a mark, and what it leaves of another.

    As `blend`; one row more, for what was never seen, leaves all.
    """
    name = ("mark", count, bits)
    if name not in tally.derived:
        n, total, squares = (
            np.append(tally.values[v], 0.0) for v in (count, bits, f"{bits}_squared")
        )
        own = high_mark(n, total, squares)
        tally.derived[name] = (blend(n, own, 0.0), blend(n, 0.0 * own, 1.0))
    own, pull = tally.derived[name]
    return own, pull


_LEVEL_NAMES: Final = {
    "site": "at this site",
    "service": "for this service",
    "subnet_service": "for this network and service",
    "peer_service": "for hosts of its kind and this service",
    "host_service": "for this host and service",
    "host": "for this host",
    "service_place": "for this place",
}


def speaking_level(
    asked: Asked, tables: Sequence[str], count: str, *, site_first: bool
) -> list[str]:
    """Name the level that weighs most in a mark of `mark`, for each flow.

    Parameters
    ----------
    tables, count
        As of `mark`.
    site_first
        Whether the first table speaks where no other does; else a fixed first mark.
    """
    left = np.ones(asked.n_flows)
    weights = []
    for table in reversed(tables):
        (n,) = asked.take(table, count)
        in_full = site_first and table == tables[0]
        own = np.ones_like(n) if in_full else n / (n + BLEND)
        weights.append(left * own)
        left = left * (1.0 - own)
    names = [*(_LEVEL_NAMES[t] for t in reversed(tables)), "before any was seen"]
    strongest = np.argmax(np.array([*weights, left]), axis=0)
    return [names[i] for i in strongest.tolist()]


def surprise(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return −log2 of probabilities: bits of surprise (Shannon 1948)."""
    return -np.log2(np.clip(probability, 1e-12, 1.0))


def human_bytes(count: float) -> str:
    """Write a byte count as an analyst reads it: ``48 MB``, decimal units."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            digits = 0 if unit == "B" or size >= 10 else 1
            return f"{size:.{digits}f} {unit}"
        size /= 1000.0
    raise AssertionError


def lookup(
    keys: NDArray[np.uint64],
    values: NDArray[Any],
    wanted: NDArray[np.uint64],
    missing: float,
) -> NDArray[np.float64]:
    """Return the value of each wanted key, or what keys that are not there get."""
    if len(keys) == 0:
        return np.full(len(wanted), missing)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing).astype("float64")


def column(asked: Asked, name: str) -> list[Any]:
    """Return a column of the oriented table as Python values."""
    values: list[Any] = asked.oriented[name].tolist()
    return values
