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
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from exfilml._jit import compiled
from exfilml.exceptions import StateError
from exfilml.tally import combine, grouped

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
        """Sum up what the windows still need to know when it is `latest`."""
        times = _coarser(times, latest)
        stays = latest // _STEPS[-1] - times // _STEPS[-1] < _COUNTS[-1]
        # What carries nothing need not be kept.
        stays &= (sums > 0.0).any(axis=1)
        keys, times, sums = keys[stays], times[stays], sums[stays]
        first, group = grouped(combine(keys, times.astype(np.uint64)))
        added = np.empty((len(first), sums.shape[1]))
        for i in range(sums.shape[1]):
            added[:, i] = np.bincount(group, sums[:, i], minlength=len(first))
        keys, times = keys[first], times[first]
        order = np.lexsort((times, keys))
        if len(order) > MAX_ROWS:
            heavy = np.argsort(-added[order].max(axis=1), kind="stable")
            order = order[np.sort(heavy[:MAX_ROWS])]
        return cls(keys[order], times[order], added[order])

    def merge(self, other: Trail, latest: int) -> Trail:
        """Return the sums of both."""
        return self.of(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.times, other.times]),
            np.concatenate([self.sums, other.sums]),
            latest,
        )

    def only(self, keys: NDArray[np.uint64]) -> Trail:
        """Return the rows of some keys, which are distinct."""
        low = np.searchsorted(self.keys, keys, side="left")
        size = np.searchsorted(self.keys, keys, side="right") - low
        behind = np.cumsum(size)
        rows = np.arange(behind[-1] if len(keys) else 0)
        rows += np.repeat(low - (behind - size), size)
        return Trail(self.keys[rows], self.times[rows], self.sums[rows])


def _coarser(times: NDArray[np.int64], latest: int) -> NDArray[np.int64]:
    """Begin the step that each time is kept in when it is `latest`.

    What has left a window need not be known in that window's steps.
    """
    begin = times - times % _STEPS[0]
    for step, count, coarse in zip(_STEPS, _COUNTS, _STEPS[1:], strict=False):
        left = latest // step - times // step >= count
        begin = np.where(left, times - times % coarse, begin)
    return begin


class State:
    """Memory from one call to the next: sums over trailing windows, by kind of key.

    `Detector.new_state` makes one, `score_flows` and its siblings take it and add
    the flows that they score. It holds hashes and sums, no addresses.

    Attributes
    ----------
    earliest, latest
        Start of the first and of the latest flow taken in, seconds from 1970; `None`
        before any.
    """

    def __init__(self) -> None:
        # Of each kind several trails, each more than twice as long as the next, so
        # that a few flows are added without moving all that is known.
        self._trails: dict[str, list[Trail]] = {kind: [] for kind in KINDS}
        self.earliest: int | None = None
        self.latest: int | None = None

    def __repr__(self) -> str:
        if self.earliest is None or self.latest is None:
            return "State(empty)"
        first, last = (np.datetime64(t, "s") for t in (self.earliest, self.latest))
        return f"State({first} to {last} UTC, {self.n_rows:,} sums)"

    @property
    def n_rows(self) -> int:
        """Number of sums kept."""
        return sum(len(t.keys) for trails in self._trails.values() for t in trails)

    def take_in(
        self,
        keys: Mapping[str, NDArray[np.uint64]],
        start: NDArray[np.int64],
        amounts: Mapping[str, NDArray[np.float64]],
    ) -> None:
        """Remember flows; parameters as of `trailing`."""
        if len(start) == 0:
            return
        seconds = start // 1_000_000
        self._note(int(seconds.min()), int(seconds.max()))
        assert self.latest is not None
        for kind, trails in self._trails.items():
            self._append(trails, Trail.of(keys[kind], seconds, amounts[kind], self.latest))

    def merge(self, other: State) -> State:
        """Return the state of the flows of both, such as of two sensors."""
        merged = State()
        for one in (self, other):
            if one.earliest is not None and one.latest is not None:
                merged._note(one.earliest, one.latest)  # noqa: SLF001 - its own class
        for kind, trails in merged._trails.items():  # noqa: SLF001
            for one in (self, other):
                for trail in one._trails[kind]:
                    merged._append(trails, trail)  # noqa: SLF001
        return merged

    def _note(self, first: int, last: int) -> None:
        self.earliest = first if self.earliest is None else min(self.earliest, first)
        self.latest = last if self.latest is None else max(self.latest, last)

    def _append(self, trails: list[Trail], new: Trail) -> None:
        assert self.latest is not None
        while trails and len(trails[-1].keys) < 2 * len(new.keys):
            new = trails.pop().merge(new, self.latest)
        if len(new.keys):
            trails.append(new)

    def only(self, kind: str, keys: NDArray[np.uint64]) -> Trail:
        """Return what is known of some keys of a kind."""
        trails = self._trails[kind]
        if not trails:
            return Trail.empty(kind)
        distinct = np.unique(keys)
        found = [trail.only(distinct) for trail in trails]
        return Trail(
            np.concatenate([t.keys for t in found]),
            np.concatenate([t.times for t in found]),
            np.concatenate([t.sums for t in found]),
        )

    def to_bytes(self) -> bytes:
        """Return the state as bytes: a zip of plain arrays, no pickle."""
        arrays = {"format": np.array(_FORMAT)}
        arrays["span"] = np.array(
            [] if self.earliest is None else [self.earliest, self.latest], dtype="<i8"
        )
        for kind, trails in self._trails.items():
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
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise StateError(
                f"Not a state ({len(data):,} bytes): {error}. Expected what "
                "State.to_bytes gave; begin with detector.new_state()."
            ) from error
        state = cls()
        problem = state._fill(arrays)
        if problem:
            raise StateError(
                f"Not a state ({len(data):,} bytes): {problem}. Expected what "
                "State.to_bytes gave; begin with detector.new_state()."
            )
        return state

    def _fill(self, arrays: Mapping[str, NDArray[np.generic]]) -> str | None:
        """Take over arrays, or say what is wrong with them."""
        parts = [f"{k}/{p}" for k in KINDS for p in ("keys", "times", "sums")]
        if set(arrays) != {"format", "span", *parts}:
            return "members are missing, or there are others"
        if str(arrays["format"]) != _FORMAT:
            return f"format {str(arrays['format'])[:40]!r} instead of {_FORMAT!r}"
        span = arrays["span"]
        if span.dtype != np.int64 or span.shape not in {(0,), (2,)}:
            return "the span of time is none"
        if len(span):
            self._note(int(span[0]), int(span[1]))
        for kind in KINDS:
            keys, times, sums = (arrays[f"{kind}/{p}"] for p in ("keys", "times", "sums"))
            n = len(keys) if keys.ndim == 1 else -1
            if (keys.dtype, times.dtype, sums.dtype) != (
                np.dtype("uint64"),
                np.dtype("int64"),
                np.dtype("float64"),
            ) or (times.shape, sums.shape) != ((n,), (n, len(KINDS[kind]))):
                return f"{kind}: dtypes or shapes differ"
            if n and not len(span):
                return f"{kind}: there are sums, but no span of time"
            trail = Trail(keys, times, sums)  # type: ignore[arg-type]
            ordered = (np.diff(trail.keys.astype(object)) >= 0).all() if n < 2 else (
                trail.keys[1:] >= trail.keys[:-1]
            ).all()
            possible = (np.abs(trail.times) < _LATEST).all() and (
                (trail.sums >= 0.0) & (trail.sums < 2.0**63)
            ).all()
            if not (ordered and possible and n <= MAX_ROWS):
                return f"{kind}: keys out of order, or impossible times or sums"
            if n:
                self._trails[kind].append(trail)
        return None


def trailing(
    state: State,
    keys: Mapping[str, NDArray[np.uint64]],
    start: NDArray[np.int64],
    amounts: Mapping[str, NDArray[np.float64]],
    tie: NDArray[np.uint64],
) -> dict[str, NDArray[np.float32]]:
    """Return sums over the windows up to and including each flow.

    Parameters
    ----------
    state
        What came before; it is not changed.
    keys
        By kind, what each flow is summed under, shape (n_flows,).
    start
        Start of each flow, microseconds from 1970, shape (n_flows,).
    amounts
        By kind, what is summed: whole numbers from 0 on, below 2^53 in all, so that
        sums are exact in any order; shape (n_flows, n_amounts).
    tie
        Order among flows of the same start, shape (n_flows,).

    Returns
    -------
    dict of str to numpy.ndarray
        By kind: log2(1 + sum), float32 of shape (n_amounts, n_windows, n_flows).
    """
    in_time = np.lexsort((tie, start))
    seconds = start[in_time] // 1_000_000
    found = {}
    for kind in KINDS:
        sums = np.ascontiguousarray(amounts[kind][in_time])
        mine = keys[kind][in_time]
        before = state.only(kind, mine)
        kept = len(before.keys)
        if kept:
            whose = np.concatenate([before.keys, mine])
            when = np.concatenate([before.times, seconds])
            what = np.concatenate([before.sums, sums])
            # What is known comes before a flow of the same second.
            order = np.lexsort((when, whose))
        else:
            whose, when, what = mine, seconds, sums
            order = np.argsort(mine, kind="stable")
        told = np.empty((len(KINDS[kind]), len(WINDOWS), len(whose)), dtype=np.float32)
        _slide(whose, when, what, order, _STEPS, _COUNTS, told)
        back = np.empty((*told.shape[:2], len(mine)), dtype=np.float32)
        back[:, :, in_time] = told[:, :, kept:]
        found[kind] = back
    return found


@compiled
def _slide(
    whose: NDArray[np.uint64],
    when: NDArray[np.int64],
    what: NDArray[np.float64],
    order: NDArray[np.int64],
    steps: NDArray[np.int64],
    counts: NDArray[np.int64],
    told: NDArray[np.float32],
) -> None:
    """Slide each window over the rows of each key, which `order` puts side by side."""
    n_windows, n_amounts = len(steps), what.shape[1]
    head = np.zeros(n_windows, dtype=np.int64)
    running = np.zeros((n_windows, n_amounts))
    for r in range(len(order)):
        i = order[r]
        if r == 0 or whose[i] != whose[order[r - 1]]:
            head[:] = r
            running[:] = 0.0
        for w in range(n_windows):
            oldest = when[i] // steps[w] - counts[w]
            while when[order[head[w]]] // steps[w] <= oldest:
                for a in range(n_amounts):
                    running[w, a] -= what[order[head[w]], a]
                head[w] += 1
            for a in range(n_amounts):
                running[w, a] += what[i, a]
                told[a, w, i] = np.log2(1.0 + running[w, a])
