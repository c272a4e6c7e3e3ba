"""What is normal here: mergeable, bounded counts, learned in one pass.

A `Baseline` is a set of `Tally` tables. Each maps a key (a host, a service, a pair
of them …) to counts, sums and peaks, so that two baselines merge by adding and a
day can be added to a month. Beside them stand `Histograms`: upload sizes by key, whose
quantiles are exact to a tenth, and hours of activity. Both are bounded: a baseline of
any number of flows takes no more than so much memory (see `exfilml.tally`).

Nothing here decides what is suspicious; `exfilml.features` asks questions of it.

One file because what flows are counted by and what counts them fit each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.histograms import Histograms, upload_bins, upload_of_bin
from exfilml.names import Names
from exfilml.places import Oriented, orient
from exfilml.schema import empty_flows
from exfilml.tally import Tally, combine, day_bits, grouped, hash_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below this many payload bytes a verdict says nothing, and neither may its absence.
MIN_JUDGED_BYTES: Final = 32

VOLUME: Final = ("n", "bits", "bits_squared", "peak_bits", "up", "down")
# Columns of names that evidence and reasons read, not only count.
KEPT_NAMES: Final = ("service", "wrapper", "token")
PAYLOAD: Final = ("judged", "concealed", "bare", "unverified", "bare_bits")
# Bytes in DNS names and echo data, of the flows whose protocol can carry such.
CARRIED: Final = ("carriers", "carried_bits", "carried_squares")
MISDECLARED: Final = ("declared", "misdeclared")
# First and last UTC day since 1970, and which days: see `exfilml.tally.n_days`.
SEEN: Final = ("first_day", "last_day", "days")


@dataclass(frozen=True, slots=True)
class Spec:
    """How one table is keyed and what it counts."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


TABLES: Final[dict[str, Spec]] = {
    "site": Spec((), VOLUME + PAYLOAD),
    "host": Spec(("local_ip",), VOLUME + PAYLOAD + SEEN),
    "service": Spec(("service",), VOLUME + PAYLOAD + CARRIED + MISDECLARED + SEEN),
    "host_service": Spec(("local_ip", "service"), VOLUME + SEEN),
    "service_place": Spec(("service", "place"), VOLUME + CARRIED + SEEN),
    "service_address": Spec(("service", "remote_ip"), ("n",)),
    "service_network": Spec(("service", "network"), ("n",)),
    "wrapper": Spec(("wrapper",), PAYLOAD),
    "service_wrapper": Spec(("service", "wrapper"), PAYLOAD),
    "token": Spec(("token",), ("judged",)),
    "service_token": Spec(("service", "token"), ("judged",)),
    "host_place": Spec(("local_ip", "place"), ("n", *SEEN)),
    "site_day": Spec((), VOLUME),
    "service_day": Spec(("service",), VOLUME),
    "host_service_day": Spec(("local_ip", "service"), VOLUME),
}
# What later versions count; a model that lacks it never asks for it.
LATER_VALUES: Final = frozenset(CARRIED + MISDECLARED + SEEN)
# Counted per case and day instead of per flow.
DAY_TABLES: Final = ("site_day", "service_day", "host_service_day")
# By key and bin. Hours are UTC; those of a week begin with Monday's first.
HISTOGRAMS: Final[dict[str, Spec]] = {
    "site_upload": Spec((), ("upload",)),
    "service_upload": Spec(("service",), ("upload",)),
    "host_upload": Spec(("local_ip",), ("upload",)),
    "host_service_upload": Spec(("local_ip", "service"), ("upload",)),
    "service_place_upload": Spec(("service", "place"), ("upload",)),
    "site_hour": Spec((), ("hour_of_week",)),
    "host_hour": Spec(("local_ip",), ("hour_of_day",)),
}
HOURS_OF_WEEK: Final = 168
# The last bin of each, up to 2⁶³ bytes.
MOST_BIN: Final = {
    "upload": int(upload_bins(np.array([2.0**63]))[0]),
    "hour_of_week": HOURS_OF_WEEK - 1,
    "hour_of_day": 23,
}


@dataclass(frozen=True)
class Baseline:
    """What was seen in normal operation.

    Attributes
    ----------
    tables
        One `Tally` for each of `TABLES`.
    histograms
        One for each of `HISTOGRAMS`.
    """

    tables: Mapping[str, Tally] = field(default_factory=dict)
    histograms: Mapping[str, Histograms] = field(
        default_factory=lambda: dict.fromkeys(HISTOGRAMS, Histograms())
    )

    @classmethod
    def learn(cls, observed: Observed) -> Baseline:
        """Count the flows of `observed`."""
        days = observed.case_days()
        tables = {}
        for name, spec in TABLES.items():
            rows = days if name in DAY_TABLES else observed
            tables[name] = Tally.group(
                tuple(rows.hashes[k] for k in spec.keys),
                {v: rows.values[v] for v in spec.values},
                rows.n_rows,
            )
        histograms = {
            name: Histograms.group(observed.keys(spec.keys), observed.bins[value])
            for name, spec in HISTOGRAMS.items()
            for value in spec.values
        }
        return cls(tables, histograms)

    @classmethod
    def of_chunks(
        cls, chunks: Iterable[pd.DataFrame], home: tuple[str, ...]
    ) -> Baseline:
        """Learn from flows that come in pieces: one pass, in bounded memory.

        Parameters
        ----------
        chunks
            Validated flows tables, in any order and of any size, such as a day each.
        home
            As `exfilml.places.parse_networks` gives it.
        """
        known = cls.learn(Observed.of(orient(empty_flows(), home)))
        for flows in chunks:
            known = known.merge(cls.learn(Observed.of(orient(flows, home))))
        return known

    def merge(self, other: Baseline) -> Baseline:
        """Return the baseline of both row sets together."""
        return Baseline(
            {
                name: tally.merge(other.tables[name])
                for name, tally in self.tables.items()
            },
            {
                name: histograms.merge(other.histograms[name])
                for name, histograms in self.histograms.items()
            },
        )

    def quantile(
        self, level: str, keys: NDArray[np.uint64], q: float
    ) -> NDArray[np.float64]:
        """Return a quantile of upload bytes by key, as log2(1 + bytes).

        Parameters
        ----------
        level
            ``site``, ``service``, ``host``, ``host_service`` or ``service_place``.
        keys
            Hashes of keys as the table of that name has them, shape (n_keys,).
        q
            0 … 1.

        Returns
        -------
        numpy.ndarray of float64, shape (n_keys,)
            NaN for keys that were never seen. The bytes are off by at most a tenth.
        """
        bins = self.histograms[f"{level}_upload"].quantile(keys, q)
        return np.log2(1.0 + upload_of_bin(bins))

    @property
    def hours_of_week(self) -> NDArray[np.float64]:
        """Flows by hour of the week in UTC, Monday first, shape (168,)."""
        return self.histograms["site_hour"].total[:HOURS_OF_WEEK]

    def hours_of_day(self, hosts: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Flows of local hosts by hour of the day in UTC, shape (n_hosts, 24).

        `hosts` are keys of the table ``host``; zeros for those never seen.
        """
        return self.histograms["host_hour"].counts_of(hosts)[:, :24]

    @property
    def n_hosts(self) -> int:
        """Number of local hosts seen."""
        return len(self.tables["host"].keys)


@dataclass(frozen=True)
class Observed:
    """Oriented flows in the form that tables count: hashed names and value columns.

    Attributes
    ----------
    hashes
        Hashes of each column of names.
    values
        Columns of numbers.
    day
        UTC day of each flow, counted from 1970.
    names
        The columns of `KEPT_NAMES`.
    bins
        Columns of bins that `HISTOGRAMS` count.
    """

    hashes: Mapping[str, NDArray[np.uint64]]
    values: Mapping[str, NDArray[np.float64]]
    day: NDArray[np.int64]
    names: Mapping[str, Names] = field(default_factory=dict)
    bins: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of flows."""
        return len(self.day)

    @classmethod
    def of(cls, oriented: Oriented) -> Observed:
        """Prepare what `exfilml.places.orient` gave."""
        wrappers = wrapper_names(oriented)
        tokens = _tokens(oriented)
        names = {
            name: oriented.names(name)
            for name in ("local_ip", "remote_ip", "network", "place", "service")
        }
        names |= {"wrapper": wrappers, "token": tokens}
        up = oriented.numbers("up_volume")
        sampled = oriented.numbers("up_sampled_bytes")
        judged = sampled >= MIN_JUDGED_BYTES
        concealed = oriented.numbers("up_concealed") == 1.0
        bare = concealed & wrappers.each(lambda text: text == BARE, missing=False)
        unverified = judged & tokens.each(lambda t: t == UNVERIFIED, missing=False)
        volume = _volume_values(up, oriented.numbers("down_volume"))
        carried = oriented.numbers("up_carried_bytes")
        carried_bits = np.log2(1.0 + np.nan_to_num(carried))
        declared = judged & ~oriented.names("up_declared").missing
        misdeclared = oriented.numbers("up_misdeclared") == 1.0
        values = {
            **volume,
            "visible": (~np.isnan(sampled)).astype("float64"),
            "judged": judged.astype("float64"),
            "concealed": concealed.astype("float64"),
            "bare": bare.astype("float64"),
            "unverified": unverified.astype("float64"),
            "bare_bits": np.where(bare, volume["bits"], 0.0),
            "carriers": (~np.isnan(carried)).astype("float64"),
            "carried_bits": carried_bits,
            "carried_squares": carried_bits * carried_bits,
            "declared": declared.astype("float64"),
            "misdeclared": (declared & misdeclared).astype("float64"),
        }
        day = oriented["start"].to_numpy(dtype="datetime64[D]").astype("int64")
        values |= _seen_values(day)
        bins = _hour_bins(oriented) | {"upload": upload_bins(up)}
        hashes = {name: hash_names(column) for name, column in names.items()}
        return cls(hashes, values, day, {n: names[n] for n in KEPT_NAMES}, bins)

    def keys(self, names: tuple[str, ...]) -> NDArray[np.uint64]:
        """Return the key of each flow for such parts, zeros for none."""
        if not names:
            return np.zeros(self.n_rows, dtype=np.uint64)
        return combine(*(self.hashes[name] for name in names))

    def rows(self, at: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Observed:
        """Return some of the rows."""
        return Observed(
            {name: column[at] for name, column in self.hashes.items()},
            {name: column[at] for name, column in self.values.items()},
            self.day[at],
            {name: column[at] for name, column in self.names.items()},
            {name: column[at] for name, column in self.bins.items()},
        )

    def case_days(self) -> Observed:
        """Return one row for each local host, place, service and UTC day."""
        keys = case_key(self.hashes)
        first, group = grouped(combine(keys, self.day.astype(np.uint64)))
        up, down = (
            np.bincount(group, self.values[v], minlength=len(first)).astype(np.float64)
            for v in ("up", "down")
        )
        return Observed(
            {k: self.hashes[k][first] for k in ("local_ip", "place", "service")},
            _volume_values(up, down),
            self.day[first],
        )


def case_key(hashes: Mapping[str, NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Return the key of each flow's case: local host, place and service."""
    return combine(hashes["local_ip"], hashes["place"], hashes["service"])


def _volume_values(
    up: NDArray[np.float64], down: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    bits = np.log2(1.0 + up)
    return {
        "n": np.ones(len(up)),
        "bits": bits,
        "bits_squared": bits * bits,
        "peak_bits": bits,
        "up": up,
        "down": down,
    }


def _seen_values(day: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    as_number = day.astype(np.float64)
    return {"first_day": as_number, "last_day": as_number, "days": day_bits(day)}


def _hour_bins(oriented: Oriented) -> dict[str, NDArray[np.uint8]]:
    hour = oriented["start"].to_numpy(dtype="datetime64[h]").astype(np.int64)
    # 1970 began on a Thursday.
    of_week = (hour + 72) % HOURS_OF_WEEK
    return {
        "hour_of_week": of_week.astype(np.uint8),
        "hour_of_day": (hour % 24).astype(np.uint8),
    }


BARE: Final = "none"
UNVERIFIED: Final = "?"


def wrapper_names(oriented: Oriented) -> Names:
    """Name the handshake that either side showed, `BARE` where there is none."""
    up, down = oriented.names("up_handshake"), oriented.names("down_handshake")
    return up.where(~up.missing, down).filled(BARE)


def _tokens(oriented: Oriented) -> Names:
    """Name the application if it was verified, else `UNVERIFIED`.

    nDPI writes ``TLS.Google`` for TLS to an address of Google: the part before the
    dot is the protocol, the rest a fact about the place.
    """
    verified = oriented.numbers("app_verified") == 1.0
    apps = oriented.names("app").map(lambda app: re.sub(r"\..*", "", app))
    return apps.where(
        verified, Names.one_of([UNVERIFIED], np.zeros(len(apps), dtype=np.int64))
    )
