"""What is normal here: mergeable, bounded counts, learned in one pass.

A `Baseline` is a set of `Tally` tables. Each maps a key (a host, a service, a pair
of them …) to counts, sums and peaks, so that two baselines merge by adding and a
day can be added to a month. Beside them stand `Histograms`: upload sizes by key, whose
quantiles are exact to a tenth, and hours of activity. Both are bounded: a baseline of
any number of flows takes no more than so much memory (see `exfilml.tally`).

Nothing here decides what is suspicious; `exfilml.features` asks questions of it.

One file because the tables and the columns that they count are one list.
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
from exfilml.state import KINDS, WINDOWS, State, Uploads, trailing
from exfilml.tally import Tally, combine, day_bits, hash_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below this many payload bytes a verdict says nothing, and neither may its absence.
MIN_JUDGED_BYTES: Final = 32

VOLUME: Final = ("n", "bits", "bits_squared", "peak_bits", "up", "down")
# Columns of names that evidence and reasons read, not only count.
KEPT_NAMES: Final = ("service", "wrapper", "token", "conduct", "speaker")
PAYLOAD: Final = ("judged", "concealed", "bare", "unverified", "bare_bits")
# Bytes in DNS names and echo data, of the flows whose protocol can carry such.
CARRIED: Final = ("carriers", "carried_bits", "carried_bits_squared")
MISDECLARED: Final = ("declared", "misdeclared")
# First and last UTC day since 1970, and which days: see `exfilml.tally.n_days`.
SEEN: Final = ("first_day", "last_day", "days")
# log2 of upload over download, and its square.
RATIO: Final = ("ratio", "ratio_squared")
SQUARED: Final = "_squared"
# Flows much smaller than this are headers and acknowledgements: their ratio is even.
RATIO_PRIOR_BYTES: Final = 2000.0


def windows_of(what: str) -> tuple[str, ...]:
    """Name the columns of one sum over trailing windows, such as ``case_up``."""
    return tuple(f"{what}_{i}" for i in range(len(WINDOWS)))


def _moments(*sums: str) -> tuple[str, ...]:
    columns = tuple(column for what in sums for column in windows_of(what))
    return columns + tuple(column + SQUARED for column in columns)


# Sums over windows that baselines count, by kind of key and amount, and which flows
# have one.
SUMMED: Final = {
    "case_up": "n",
    "place_up": "n",
    "host_hidden": "bare",
    "case_hidden": "hidden",
    "place_hidden": "hidden",
    "case_flows": "hidden",
}
# The kinds of key among them; the others are only for new flows.
COUNTED_KINDS: Final = tuple(dict.fromkeys(what.rsplit("_", 1)[0] for what in SUMMED))


@dataclass(frozen=True, slots=True)
class Spec:
    """How one table is keyed and what it counts."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


TABLES: Final[dict[str, Spec]] = {
    "site": Spec((), VOLUME + RATIO + PAYLOAD + ("hidden",) + _moments(*SUMMED)),
    "host": Spec(
        ("local_ip",), VOLUME + PAYLOAD + SEEN + ("hidden",) + _moments("host_hidden")
    ),
    "service": Spec(
        ("service",),
        VOLUME
        + RATIO
        + PAYLOAD
        + CARRIED
        + MISDECLARED
        + SEEN
        + ("hidden",)
        + _moments("case_up", "place_up", "case_hidden", "place_hidden", "case_flows"),
    ),
    "subnet_service": Spec(("subnet", "service"), VOLUME),
    "host_service": Spec(("local_ip", "service"), VOLUME + SEEN + _moments("case_up")),
    "service_place": Spec(
        ("service", "place"), VOLUME + CARRIED + SEEN + ("judged", "bare")
    ),
    "service_address": Spec(("service", "remote_ip"), ("n",)),
    "service_network": Spec(("service", "network"), ("n",)),
    "place_address": Spec(("place", "remote_ip"), ("n",)),
    "wrapper": Spec(("wrapper",), PAYLOAD),
    "service_wrapper": Spec(("service", "wrapper"), PAYLOAD),
    "token": Spec(("token",), ("judged",)),
    "service_token": Spec(("service", "token"), ("judged",)),
    "host_place": Spec(("local_ip", "place"), ("n", *SEEN)),
    "service_conduct": Spec(("service", "conduct"), ("n",)),
    "conduct": Spec(("conduct",), ("n",)),
    "service_speaker": Spec(("service", "speaker"), ("n",)),
    "speaker": Spec(("speaker",), ("n",)),
    "host_fingerprint": Spec(("local_ip", "fingerprint"), ("n",)),
    "host_user_agent": Spec(("local_ip", "user_agent"), ("n",)),
    "host_process": Spec(("local_ip", "process"), ("n",)),
}
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
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
# The last bin of each, up to 2⁶³ bytes.
MOST_BIN: Final = {
    "upload": int(upload_bins(np.array([2.0**63]))[0]),
    "hour_of_week": HOURS_OF_WEEK - 1,
    "hour_of_day": 23,
}

# Names that many flows do not have.
MAY_LACK: Final = ("conduct", "speaker", "fingerprint", "user_agent", "process")


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
        tables = {}
        for name, spec in TABLES.items():
            # A name that is not known is no name.
            named = [observed.hashes[k] != 0 for k in spec.keys if k in MAY_LACK]
            rows = np.logical_and.reduce(named) if named else slice(None)
            tables[name] = Tally.group(
                tuple(observed.hashes[k][rows] for k in spec.keys),
                {v: observed.column(v)[rows] for v in spec.values},
                observed.n_rows,
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
            Validated flows tables of any size, such as a day each, in order of time:
            sums over trailing windows know what came before. All else is the same in
            any order.
        home
            As `exfilml.places.parse_networks` gives it.
        """
        state = State()
        known = cls.learn(Observed.of(orient(empty_flows(), home)))
        for flows in chunks:
            observed = Observed.of(orient(flows, home), state, COUNTED_KINDS)
            known = known.merge(cls.learn(observed))
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
    tie
        A number for each flow that its content gives, not its place in a table.
    names
        The columns of `KEPT_NAMES`.
    bins
        Columns of bins that `HISTOGRAMS` count.
    """

    hashes: Mapping[str, NDArray[np.uint64]]
    values: Mapping[str, NDArray[np.float64]]
    tie: NDArray[np.uint64]
    names: Mapping[str, Names] = field(default_factory=dict)
    bins: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of flows."""
        return len(self.tie)

    @classmethod
    def of(
        cls,
        oriented: Oriented,
        state: State | None = None,
        kinds: Iterable[str] = tuple(KINDS),
    ) -> Observed:
        """Prepare what `exfilml.places.orient` gave.

        Parameters
        ----------
        oriented
            The flows.
        state
            What came before them; the flows are added to it. `None` for nothing.
        kinds
            Kinds of key that uploads are summed under, of `exfilml.state.KINDS`.
        """
        wrappers = wrapper_names(oriented)
        tokens = _tokens(oriented)
        names = {
            name: oriented.names(name)
            for name in (
                *("local_ip", "subnet", "remote_ip", "network", "place", "service"),
                *MAY_LACK,
            )
        }
        names |= {"wrapper": wrappers, "token": tokens}
        up = oriented.numbers("up_volume")
        sampled = oriented.numbers("up_sampled_bytes")
        judged = sampled >= MIN_JUDGED_BYTES
        concealed = oriented.numbers("up_concealed") == 1.0
        bare = concealed & wrappers.each(lambda text: text == BARE, missing=False)
        unverified = judged & tokens.each(lambda t: t == UNVERIFIED, missing=False)
        down = oriented.numbers("down_volume")
        ratio = np.log2((up + RATIO_PRIOR_BYTES) / (down + RATIO_PRIOR_BYTES))
        carried = oriented.numbers("up_carried_bytes")
        carried_bits = np.log2(1.0 + np.nan_to_num(carried))
        declared = judged & ~oriented.names("up_declared").missing
        misdeclared = oriented.numbers("up_misdeclared") == 1.0
        volume = _volume_values(up, down)
        values = {
            **volume,
            "ratio": ratio,
            "visible": (~np.isnan(sampled)).astype("float64"),
            "judged": judged.astype("float64"),
            "concealed": concealed.astype("float64"),
            "bare": bare.astype("float64"),
            "unverified": unverified.astype("float64"),
            "bare_bits": np.where(bare, volume["bits"], 0.0),
            "carriers": (~np.isnan(carried)).astype("float64"),
            "carried_bits": carried_bits,
            "declared": declared.astype("float64"),
            "misdeclared": (declared & misdeclared).astype("float64"),
        }
        hidden = np.maximum(np.where(bare, up, 0.0), np.nan_to_num(carried))
        hidden *= oriented.leaves
        values["hidden"] = (hidden > 0.0).astype("float64")
        hashes = {name: hash_names(column) for name, column in names.items()}
        start = oriented["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
        tie = _tie(oriented, hashes, start)
        keys = {
            "host": hashes["local_ip"],
            "case": case_key(hashes),
            "host_service": combine(hashes["local_ip"], hashes["service"]),
            "place": combine(hashes["service"], hashes["place"]),
        }
        summed = {
            "up": np.floor(up),
            "hidden": np.floor(hidden),
            "flows": (hidden >= CHUNK_BYTES).astype("float64"),
        }
        # Every host looks up names: what they carry counts by place alone.
        of_host = {"hidden": summed["up"] * (bare & oriented.leaves)}
        keys = {kind: keys[kind] for kind in kinds}
        amounts = {
            kind: np.column_stack(
                [(of_host if kind == "host" else summed)[a] for a in KINDS[kind]]
            )
            for kind in kinds
        }
        uploads = Uploads.by_kind(keys, start, amounts)
        sums = trailing(State() if state is None else state, uploads)
        if state is not None:
            state.take_in(uploads)
        for kind in kinds:
            speaking = bare if kind == "host" else hidden > 0.0
            for amount, told in zip(KINDS[kind], sums[kind], strict=True):
                spoken = told if amount == "up" else told * speaking
                names_of = windows_of(f"{kind}_{amount}")
                values |= dict(zip(names_of, spoken, strict=True))
        day = start // DAY_US
        values |= {"first_day": day, "last_day": day, "days": day_bits(day)}
        hour = start // HOUR_US
        bins = {
            "upload": upload_bins(up),
            # 1970 began on a Thursday.
            "hour_of_week": ((hour + 72) % HOURS_OF_WEEK).astype(np.uint8),
            "hour_of_day": (hour % 24).astype(np.uint8),
        }
        return cls(hashes, values, tie, {n: names[n] for n in KEPT_NAMES}, bins)

    def keys(self, names: tuple[str, ...]) -> NDArray[np.uint64]:
        """Return the key of each flow for such parts, zeros for none."""
        if not names:
            return np.zeros(self.n_rows, dtype=np.uint64)
        return combine(*(self.hashes[name] for name in names))

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, or the squares of one."""
        if name.endswith(SQUARED) and name not in self.values:
            return np.square(self.values[name.removesuffix(SQUARED)], dtype=np.float64)
        return self.values[name].astype(np.float64, copy=False)

    def rows(self, at: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Observed:
        """Return some of the rows."""
        return Observed(
            {name: column[at] for name, column in self.hashes.items()},
            {name: column[at] for name, column in self.values.items()},
            self.tie[at],
            {name: column[at] for name, column in self.names.items()},
            {name: column[at] for name, column in self.bins.items()},
        )


def _tie(
    oriented: Oriented,
    hashes: Mapping[str, NDArray[np.uint64]],
    start: NDArray[np.int64],
) -> NDArray[np.uint64]:
    ports = oriented["src_port"].to_numpy() * 65536 + oriented["dst_port"].to_numpy()
    names = (hashes[n] for n in ("local_ip", "remote_ip", "service"))
    return combine(start.astype(np.uint64), ports.astype(np.uint64), *names)


FTP: Final = hash_names(pd.Series(["ftp", "ftp-data"], dtype="str"))


def case_key(hashes: Mapping[str, NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Return the key of each flow's case: local host, place and service.

    A transfer by FTP is one case, its control connection and those of its data.
    """
    control, data = FTP
    service = np.where(hashes["service"] == data, control, hashes["service"])
    return combine(hashes["local_ip"], hashes["place"], service)


def _volume_values(
    up: NDArray[np.float64], down: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    bits = np.log2(1.0 + up)
    return {
        "n": np.ones(len(up)),
        "bits": bits,
        "peak_bits": bits,
        "up": up,
        "down": down,
    }


# A name looked up, a nonce: less than this is no piece of a transfer.
CHUNK_BYTES: Final = 64.0
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
