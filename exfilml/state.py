"""What was uploaded lately: sums by key over trailing windows of time.

A drip of small uploads, or one upload split over many connections, shows only in
the sum. `State` keeps sums by key over the last 5 minutes, hour, day and 14 days,
and tells each flow the sums up to and including itself: what comes later never
counts.

A window is aligned to steps of absolute time: an hour in steps of 5 minutes is the
current step and the eleven before it. So what lies further back may be kept in
coarser steps without any sum changing: a state is bounded, two of them merge by
adding, and a table read in pieces, in order of time, gives the sums of the table
read at once.

One file because what is kept and how windows slide over it must agree.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd

from exfilml._jit import compiled
from exfilml.exceptions import StateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Name, step in seconds and number of steps of each window.
WINDOWS: Final = {
    "5 min": (60, 5),
    "1 h": (300, 12),
    "1 d": (3600, 24),
    "14 d": (86400, 14),
}
SPANS_S: Final = {name: step * count for name, (step, count) in WINDOWS.items()}
# By what flows are summed, and what.
KINDS: Final = {
    "host": ("hidden",),
    "case": ("up", "hidden", "flows"),
    "host_service": ("up", "hidden", "flows"),
    "place": ("up", "hidden"),
}
# Rows of one kind; beyond, the smallest sums are forgotten first.
MAX_ROWS: Final = 2_000_000
# Rows that are turned into columns at once.
BLOCK: Final = 4096

_STEPS: Final = np.array([step for step, _ in WINDOWS.values()], dtype=np.int64)
_COUNTS: Final = np.array([count for _, count in WINDOWS.values()], dtype=np.int64)
_FORMAT: Final = "exfilml-state-1"
# A year of 65,536 days is far beyond any clock.
_LATEST: Final = 65_536 * 86_400


@dataclass(frozen=True, eq=False)
class Trail:
    """Sums by key and step of time, ordered by both.

    Attributes
    ----------
    keys
        uint64, shape (n_rows,).
    times
        int64, shape (n_rows,): where each step begins, seconds from 1970.
    sums
        float64, shape (n_rows, n_amounts).
    """

    keys: NDArray[np.uint64]
    times: NDArray[np.int64]
    sums: NDArray[np.float64]

    @classmethod
    def empty(cls, kind: str) -> Self:
        """Return a trail of nothing."""
        none = np.zeros(0, dtype=np.uint64)
        return cls(none, none.astype(np.int64), np.zeros((0, len(KINDS[kind]))))

    @classmethod
    def of(
        cls,
        keys: NDArray[np.uint64],
        times: NDArray[np.int64],
        sums: NDArray[np.float64],
        latest: int,
    ) -> Self:
        """Sum up what the windows still need to know when it is `latest`.

        Rows are ordered by key and time.
        """
        keys, times, sums = _add_up(keys, times, sums, latest)
        if len(keys) > MAX_ROWS:
            heavy = np.argsort(-sums.max(axis=1), kind="stable")
            largest = np.sort(heavy[:MAX_ROWS])
            keys, times, sums = keys[largest], times[largest], sums[largest]
        return cls(keys, times, sums)

    def merge(self, other: Trail, latest: int) -> Trail:
        """Return the sums of both."""
        keys, times, sums = (
            np.concatenate(pair)
            for pair in (
                (self.keys, other.keys),
                (self.times, other.times),
                (self.sums, other.sums),
            )
        )
        order = _zip(keys, times, len(self.keys))
        return self.of(keys[order], times[order], sums.take(order, axis=0), latest)

    def only(self, keys: NDArray[np.uint64]) -> Trail:
        """Return the rows of some keys, which are distinct."""
        low = np.searchsorted(self.keys, keys, side="left")
        size = np.searchsorted(self.keys, keys, side="right") - low
        behind = np.cumsum(size)
        rows = np.arange(behind[-1] if len(keys) else 0)
        rows += np.repeat(low - (behind - size), size)
        return Trail(self.keys[rows], self.times[rows], self.sums[rows])


@compiled
def _add_up(
    keys: NDArray[np.uint64],
    times: NDArray[np.int64],
    sums: NDArray[np.float64],
    latest: int,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.float64]]:
    """Add up rows of the same key and step, which are ordered by key and time.

    What has left a window need not be known in that window's steps: it is kept in
    those of the next. What has left all of them, or carries nothing, is left out.
    """
    n_rows, n_amounts = sums.shape
    # When each window begins.
    begin = (latest // _STEPS - _COUNTS + 1) * _STEPS
    kept_keys = np.empty(n_rows, dtype=np.uint64)
    kept_times = np.empty(n_rows, dtype=np.int64)
    added = np.empty((n_rows, n_amounts))
    last = -1
    for row in range(n_rows):
        time = times[row]
        carried = 0.0
        for a in range(n_amounts):
            carried += sums[row, a]
        if time < begin[-1] or carried <= 0.0:
            continue
        level = 0
        while time < begin[level]:
            level += 1
        time -= time % _STEPS[level]
        if last < 0 or keys[row] != kept_keys[last] or time != kept_times[last]:
            last += 1
            kept_keys[last], kept_times[last] = keys[row], time
            for a in range(n_amounts):
                added[last, a] = sums[row, a]
        else:
            for a in range(n_amounts):
                added[last, a] += sums[row, a]
    n_kept = last + 1
    return kept_keys[:n_kept].copy(), kept_times[:n_kept].copy(), added[:n_kept].copy()


@compiled
def _zip(
    keys: NDArray[np.uint64], times: NDArray[np.int64], border: int
) -> NDArray[np.int64]:
    """Order rows by key and time, if those before and from `border` on are ordered."""
    order = np.empty(len(keys), dtype=np.int64)
    one, two = 0, border
    for place in range(len(keys)):
        mine = two == len(keys) or (
            one < border
            and (
                keys[one] < keys[two]
                or (keys[one] == keys[two] and times[one] <= times[two])
            )
        )
        if mine:
            order[place] = one
            one += 1
        else:
            order[place] = two
            two += 1
    return order


@dataclass(frozen=True, eq=False)
class Uploads:
    """What flows send, in order of key and time.

    Attributes
    ----------
    rows
        int64, shape (n_flows,): which flow each is.
    keys
        uint64, shape (n_flows,).
    start
        int64, shape (n_flows,): microseconds from 1970.
    amounts
        float64, shape (n_flows, n_amounts).
    """

    rows: NDArray[np.int64]
    keys: NDArray[np.uint64]
    start: NDArray[np.int64]
    amounts: NDArray[np.float64]

    @classmethod
    def by_kind(
        cls,
        keys: Mapping[str, NDArray[np.uint64]],
        start: NDArray[np.int64],
        amounts: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, Self]:
        """Order flows by key and time, for each kind of key.

        Parameters
        ----------
        keys
            By kind, what each flow is summed under, shape (n_flows,).
        start
            Start of each flow, microseconds from 1970, shape (n_flows,).
        amounts
            By kind, what is summed: whole numbers from 0 on, below 2^53 in all, so
            that sums are exact in any order; shape (n_flows, n_amounts).
        """
        in_time = np.argsort(start, kind="stable")
        uploads = {}
        for kind, of_kind in keys.items():
            code, distinct = pd.factorize(of_kind[in_time])
            rank = np.empty(len(distinct), dtype=np.int64)
            rank[np.argsort(distinct)] = np.arange(len(distinct))
            rows = in_time[_by_code(rank[code], len(distinct))]
            sent = amounts[kind].take(rows, axis=0)
            uploads[kind] = cls(rows, of_kind[rows], start[rows], sent)
        return uploads


class State:
    """Memory from one call to the next: sums over trailing windows, by kind of key.

    `Detector.new_state` makes one, `score_flows` and its siblings take it and add
    the flows that they score. It holds hashes and sums, no addresses.

    Attributes
    ----------
    trails
        By kind of key.
    earliest, latest
        Start of the first and of the latest flow taken in, seconds from 1970; `None`
        before any.
    identity
        Which model's flows these are, 0 … 2^64 − 1; `None` if unknown, or of several.
    """

    def __init__(self, identity: int | None = None) -> None:
        self.identity = identity
        # Of each kind several trails, each more than twice as long as the next, so
        # that a few flows are added without moving all that is known.
        self.trails: dict[str, list[Trail]] = {kind: [] for kind in KINDS}
        self.earliest: int | None = None
        self.latest: int | None = None

    def __repr__(self) -> str:
        return f"State({self.span})"

    @property
    def span(self) -> str:
        """What is known, in words."""
        if self.earliest is None or self.latest is None:
            return "empty"
        first, last = (np.datetime64(t, "s") for t in (self.earliest, self.latest))
        return f"{first} to {last} UTC, {self.n_rows:,} sums"

    @property
    def n_rows(self) -> int:
        """Number of sums kept."""
        return sum(len(t.keys) for trails in self.trails.values() for t in trails)

    def take_in(self, uploads: Mapping[str, Uploads]) -> None:
        """Remember flows, by kind of key."""
        for kind, new in uploads.items():
            if len(new.rows) == 0:
                continue
            seconds = new.start // 1_000_000
            self.note(int(seconds.min()), int(seconds.max()))
            assert self.latest is not None
            trail = Trail.of(new.keys, seconds, new.amounts, self.latest)
            self.append(self.trails[kind], trail)

    def copy(self) -> State:
        """Return a state that goes on by itself from what is known."""
        return self.merge(State(self.identity))

    def merge(self, other: State) -> State:
        """Return the state of the flows of both, such as of two sensors."""
        merged = State(self.identity if self.identity == other.identity else None)
        for one in (self, other):
            if one.earliest is not None and one.latest is not None:
                merged.note(one.earliest, one.latest)
        for kind, trails in merged.trails.items():
            for one in (self, other):
                for trail in one.trails[kind]:
                    merged.append(trails, trail)
        return merged

    def note(self, first: int, last: int) -> None:
        """Widen the span of time that is known."""
        self.earliest = first if self.earliest is None else min(self.earliest, first)
        self.latest = last if self.latest is None else max(self.latest, last)

    def append(self, trails: list[Trail], new: Trail) -> None:
        """Add sums to those of a kind."""
        assert self.latest is not None
        while trails and len(trails[-1].keys) < 2 * len(new.keys):
            new = trails.pop().merge(new, self.latest)
        if len(new.keys):
            trails.append(new)

    def only(self, kind: str, keys: NDArray[np.uint64]) -> Trail:
        """Return what is known of some keys of a kind, which are ordered."""
        known = Trail.empty(kind)
        distinct = keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))]
        for trail in self.trails[kind]:
            assert self.latest is not None
            known = known.merge(trail.only(distinct), self.latest)
        return known

    def to_bytes(self) -> bytes:
        """Return the state as bytes: a zip of plain arrays, no pickle."""
        arrays = {"format": np.array(_FORMAT)}
        arrays["span"] = np.array(
            [] if self.earliest is None else [self.earliest, self.latest], dtype="<i8"
        )
        if self.identity is not None:
            arrays["identity"] = np.array(self.identity, dtype=np.uint64)
        for kind, trails in self.trails.items():
            whole = Trail.empty(kind)
            for trail in trails:
                assert self.latest is not None
                whole = whole.merge(trail, self.latest)
            arrays[f"{kind}/keys"] = whole.keys
            arrays[f"{kind}/times"] = whole.times
            arrays[f"{kind}/sums"] = whole.sums
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
        return packed.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` gave, and check it.

        Raises
        ------
        StateError
            If it is no state, or damaged.
        """
        try:
            arrays = _unpack(data)
            _check(arrays)
            state = cls(int(arrays["identity"]) if "identity" in arrays else None)
            if len(arrays["span"]):
                state.note(*arrays["span"].tolist())
            for kind in KINDS:
                trail = Trail(*(arrays[f"{kind}/{part}"] for part in _PARTS))
                if len(trail.keys):
                    state.trails[kind].append(trail)
        except ValueError as error:
            raise StateError(
                f"Not a state ({len(data):,} bytes): {error}. Expected what "
                "State.to_bytes gave; begin anew with detector.new_state()."
            ) from error
        return state


_PARTS: Final = {"keys": "uint64", "times": "int64", "sums": "float64"}


def _unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the arrays of a zip.

    Raises
    ------
    ValueError
        In our own words: NumPy's advise to load pickles.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError("it is no zip of arrays") from error


def _check(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays that no state has.

    Raises
    ------
    ValueError
        With what is wrong.
    """

    def require(*, holds: bool, else_say: str) -> None:
        if not holds:
            raise ValueError(else_say)

    parts = {f"{kind}/{part}" for kind in KINDS for part in _PARTS}
    members = set(arrays) - {"identity"}
    require(holds=members == {"format", "span"} | parts, else_say="other members")
    given = str(arrays["format"])[:40]
    require(holds=given == _FORMAT, else_say=f"format {given!r}, not {_FORMAT!r}")
    span = arrays["span"]
    proper = span.dtype == np.int64 and span.shape in {(0,), (2,)}
    require(
        holds=proper and bool((np.abs(span) < _LATEST).all()),
        else_say="an impossible span of time",
    )
    if "identity" in arrays:
        identity = arrays["identity"]
        require(
            holds=identity.dtype == np.uint64 and identity.shape == (),
            else_say="an impossible identity",
        )
    for kind, names in KINDS.items():
        keys, times, sums = (arrays[f"{kind}/{part}"] for part in _PARTS)
        dtypes = [a.dtype.name for a in (keys, times, sums)]
        shapes = [a.shape for a in (keys, times, sums)]
        n = keys.size
        require(
            holds=dtypes == list(_PARTS.values())
            and shapes == [(n,), (n,), (n, len(names))]
            and n <= MAX_ROWS * bool(len(span)),
            else_say=f"{kind}: dtypes or shapes of no state",
        )
        require(
            holds=bool((keys[1:] >= keys[:-1]).all())
            and bool((np.abs(times) < _LATEST).all())
            and bool(((sums >= 0.0) & np.isfinite(sums)).all()),
            else_say=f"{kind}: keys out of order, or impossible times or sums",
        )


def trailing(
    state: State, uploads: Mapping[str, Uploads]
) -> dict[str, NDArray[np.float32]]:
    """Return sums over the windows up to and including the start of each flow.

    Flows of the same start count for each other.

    Parameters
    ----------
    state
        What came before; it is not changed.
    uploads
        The flows, by kind of key.

    Returns
    -------
    dict of str to numpy.ndarray
        By kind: log2(1 + sum), float32 of shape (n_amounts, n_windows, n_flows).
    """
    found = {}
    for kind, new in uploads.items():
        known = state.only(kind, new.keys)
        whose = np.concatenate([known.keys, new.keys])
        when = np.concatenate([known.times * 1_000_000, new.start])
        what = np.concatenate([known.sums, new.amounts])
        order = _zip(whose, when, len(known.keys))
        n_flows, n_amounts = new.amounts.shape
        told = np.empty((n_flows, n_amounts * len(WINDOWS)), dtype=np.float32)
        _slide(whose, when, what, order, new.rows, told)
        bits = np.empty(told.shape[::-1], dtype=np.float32)
        # Turned block by block, rows become columns within the processor's cache.
        for first in range(0, n_flows, BLOCK):
            block = slice(first, first + BLOCK)
            bits[:, block] = np.log2(1.0 + told[block].T)
        found[kind] = bits.reshape(n_amounts, len(WINDOWS), n_flows)
    return found


@compiled
def _by_code(code: NDArray[np.int64], n_codes: int) -> NDArray[np.int64]:
    """Return the rows of code 0, then those of code 1 …, each in order."""
    place = np.zeros(n_codes + 1, dtype=np.int64)
    for c in code:
        place[c + 1] += 1
    place = np.cumsum(place)
    order = np.empty(len(code), dtype=np.int64)
    for row in range(len(code)):
        order[place[code[row]]] = row
        place[code[row]] += 1
    return order


@compiled
def _slide(  # noqa: C901, PLR0912
    whose: NDArray[np.uint64],
    when: NDArray[np.int64],
    what: NDArray[np.float64],
    order: NDArray[np.int64],
    rows: NDArray[np.int64],
    told: NDArray[np.float32],
) -> None:
    """Slide each window over what is known and the flows, ordered by key and time.

    Flows are the last of the entries; the sums of flow i go to ``told[rows[i]]``,
    window by window of each amount.
    """
    n_entries, n_amounts = what.shape
    n_windows = len(_STEPS)
    n_known = n_entries - len(rows)
    micros = _STEPS * 1_000_000
    head = np.zeros(n_windows, dtype=np.int64)
    # What is younger than this has left no window.
    safe = (_COUNTS - 1) * micros
    running = np.zeros(n_amounts * n_windows)
    first = 0
    previous = np.uint64(0)
    while first < n_entries:
        entry = order[first]
        key, now = whose[entry], when[entry]
        if first == 0 or key != previous:
            previous = key
            for w in range(n_windows):
                head[w] = first
            for i in range(len(running)):
                running[i] = 0.0
        stop = first
        while stop < n_entries:
            entry = order[stop]
            if whose[entry] != key or when[entry] != now:
                break
            for a in range(n_amounts):
                amount = what[entry, a]
                if amount > 0.0:
                    for w in range(n_windows):
                        running[a * n_windows + w] += amount
            stop += 1
        for w in range(n_windows):
            if now - when[order[head[w]]] < safe[w]:
                continue
            begin = (now // micros[w] - _COUNTS[w] + 1) * micros[w]
            while when[order[head[w]]] < begin:
                for a in range(n_amounts):
                    running[a * n_windows + w] -= what[order[head[w]], a]
                head[w] += 1
        for at in range(first, stop):
            if order[at] >= n_known:
                row = rows[order[at] - n_known]
                for i in range(len(running)):
                    told[row, i] = running[i]
        first = stop
