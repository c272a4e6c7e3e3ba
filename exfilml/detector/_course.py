"""What is learned on the way through the blocks: tables, forests, calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from exfilml.baseline import DAY_US, Baseline, Observed
from exfilml.calibration import Calibrator
from exfilml.chunks import Largest, Sample, starts
from exfilml.detector._learned import Learned
from exfilml.detector._stream import Stream
from exfilml.features import Asked, FlowFeatures
from exfilml.features.cases import Cases
from exfilml.places import Oriented, stays_inside
from exfilml.stability import Bins

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAY_S: Final = 86400.0
LATER_THAN_ANY_US: Final = 2**63 - 1
# Rows of the calibration block that are scored at once.
SCORED_AT_ONCE: Final = 131_072


class Learn(Protocol):
    """How a capability learns from evidence."""

    def __call__(
        self, features: FlowFeatures, evidence: NDArray[np.float64]
    ) -> Learned: ...


class Course:
    """What is learned on the way through the blocks.

    Parameters
    ----------
    learn
        Grows a forest on evidence.
    evidence
        Features of all capabilities.
    stream
        The flows, and where blocks end.
    known
        What a model knew before, if it is updated.

    Attributes
    ----------
    baseline
        What describes the flows of the block.
    growing
        What learns from them.
    """

    def __init__(
        self,
        learn: Learn,
        evidence: Evidence,
        stream: Stream,
        known: Baseline | None,
    ) -> None:
        self.baseline = self.growing = known
        self._learn = learn
        self._evidence = evidence
        self._stream = stream
        self._block = 0
        self._trained = Sample()
        self._calibration: _Calibration | None = None

    def take(self, block: int, flows: Oriented, observed: Observed) -> None:
        """Learn from some flows of a block; blocks come in order."""
        if block > self._block:
            self._block, self.baseline = block, self.growing
            if block == len(self._stream.seen) - 1:
                self.growing = None
                self._calibration = _Calibration(self._forests())
                self._trained = Sample()
        if block > 0:
            assert self.baseline is not None
            asked = Asked(flows, observed, self.baseline, self.baseline)
            if self._calibration is not None:
                self._calibration.add(asked, self._evidence)
            else:
                rows = self._trained.wanted(asked.tie)
                some = asked if len(rows) == asked.n_flows else asked.only(rows)
                self._trained.add(some.tie, self._evidence.matrix(some))
        new = Baseline.learn(observed)
        self.growing = new if self.growing is None else self.growing.merge(new)

    def _forests(self) -> dict[str, Learned]:
        """Learn from a sample of evidence what each capability has to know."""
        rows = self._trained.rows()
        self._evidence, rows = self._evidence.learnable(rows)
        evidence = self._evidence
        learned = {
            "volume": self._learn(evidence.volume, evidence.seen(rows, "volume"))
        }
        if self._stream.shows_payload(slice(1, -1)):
            mine = evidence.seen(rows, "payload")
            learned["payload"] = self._learn(evidence.payload, mine)
        return learned

    def calibrated(self) -> dict[str, Learned]:
        """Return what was learned, calibrated by the last block."""
        assert self._calibration is not None
        if not self._stream.shows_payload(-1):
            self._calibration.learned.pop("payload", None)
        return self._calibration.calibrated(self._evidence)


@dataclass(frozen=True)
class Evidence:
    """Evidence of all capabilities in one matrix; what payload is visible is marked."""

    payload: FlowFeatures
    volume: FlowFeatures

    @cached_property
    def columns(self) -> list[int]:
        """Where in the matrix the columns are that volumes alone show."""
        return [self.payload.names.index(name) for name in self.volume.names]

    def matrix(self, asked: Asked) -> NDArray[np.float64]:
        """Return evidence, and as the last column whether payload is visible."""
        visible = asked.is_true("visible")
        matrix = np.full((asked.n_flows, len(self.payload.names) + 1), np.nan)
        # What nothing shows need not be worked out.
        if visible.any():
            matrix[:, :-1] = self.payload.matrix(asked)
        else:
            matrix[:, self.columns] = self.volume.matrix(asked)
        matrix[:, -1] = visible
        return matrix

    def learnable(
        self, rows: NDArray[np.float64]
    ) -> tuple[Evidence, NDArray[np.float64]]:
        """Return what these rows of a baseline can teach, and the rows cut to it."""
        whole = self.payload.learnable(rows[:, :-1])
        names = self.payload.names
        if whole.names == names:
            return self, rows
        volume = [n for n in self.volume.names if n in whole.names]
        left = Evidence(whole, FlowFeatures(payload=False, names=volume))
        return left, rows[:, [*map(names.index, whole.names), -1]]

    def seen(self, rows: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        """Return the evidence that a capability judges."""
        if name == "payload":
            return rows[rows[:, -1] > 0, :-1]
        return np.ascontiguousarray(rows[:, self.columns])


class _Calibration:
    """Scores of the calibration block, flow by flow and by case."""

    def __init__(self, learned: dict[str, Learned]) -> None:
        self.learned = learned
        self.flows: dict[str, list[NDArray[np.float64]]] = {n: [] for n in learned}
        self.cases = {name: Largest() for name in learned}
        self.sample = Sample()
        self.days: set[int] = set()
        self.first, self.last = LATER_THAN_ANY_US, 0

    def add(self, asked: Asked, evidence: Evidence) -> None:
        """Score flows that nothing was learned from."""
        for first in range(0, asked.n_flows, SCORED_AT_ONCE):
            rows = slice(first, first + SCORED_AT_ONCE)
            some = asked if asked.n_flows <= SCORED_AT_ONCE else asked.only(rows)
            matrix = evidence.matrix(some)
            wanted = self.sample.wanted(some.tie)
            self.sample.add(some.tie[wanted], matrix[wanted])
            keys, inside = Cases.of(some).keys, stays_inside(some.oriented)
            for name, learned in self.learned.items():
                mine = slice(None) if name == "volume" else matrix[:, -1] > 0
                raw = learned.parts(evidence.seen(matrix, name)).raw
                self.flows[name].append(raw)
                self.cases[name].add(keys[mine], raw, inside[mine])
        start = starts(asked.oriented.flows)
        if asked.oriented.at is not None:
            start = start[asked.oriented.at]
        self.first = min(self.first, int(start[0]))
        self.last = int(start[-1])
        self.days.update(np.unique(start // DAY_US).tolist())

    def calibrated(self, evidence: Evidence) -> dict[str, Learned]:
        """Return what was learned, calibrated."""
        span = max((self.last - self.first) / 1e6, 1.0) / DAY_S
        # Days without any flow do not count.
        days = float(min(span, len(self.days)))
        shown = self.sample.rows()
        calibrated = {}
        for name, learned in self.learned.items():
            cases = self.cases[name]
            leaving = ~cases.flags
            of_cases = cases.values[leaving] if leaving.any() else cases.values
            calibrated[name] = replace(
                learned,
                flows=Calibrator.fit(np.concatenate(self.flows[name]), days),
                cases=Calibrator.fit(of_cases, days),
                bins=Bins.of(evidence.seen(shown, name)),
            )
        return calibrated
