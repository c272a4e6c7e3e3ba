"""The flows of some cases, and all evidence about them, in the order of the cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.detector import Detector
from exfilml.features import FAMILIES, FEATURES, Asked, FlowFeatures
from exfilml.features.cases import largest_of_case
from exfilml.ranking import Judged
from exfilml.triage._traffic import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Columns of a case's flows beside those of the flows table.
_NAMES: Final = ("local_ip", "remote_ip", "place", "service", "direction")


@dataclass(frozen=True, eq=False)
class Material:
    """What is known of some cases from their flows and the baseline.

    Attributes
    ----------
    judged
        All flows that were ranked.
    cases
        int64, shape (n_cases,): which of its cases, the worst first.
    rows
        int64, shape (n_rows,): their flows, by place in the table.
    case
        int64, shape (n_rows,): which of `cases` each flow belongs to.
    asked
        Those flows, asked about against all that is known.
    """

    detector: Detector
    judged: Judged
    cases: NDArray[np.int64]
    rows: NDArray[np.int64]
    case: NDArray[np.int64]
    asked: Asked
    _leading: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(
        cls, detector: Detector, judged: Judged, cases: NDArray[np.int64]
    ) -> Material:
        """Gather the flows of some cases."""
        scored = judged.scored
        place = np.full(len(scored.case_suspicion), -1)
        place[cases] = np.arange(len(cases))
        rows = np.flatnonzero(place[scored.case] >= 0)
        asked = scored.asked.only(rows).told
        return cls(detector, judged, cases, rows, place[scored.case[rows]], asked)

    @property
    def n_cases(self) -> int:
        """Number of cases."""
        return len(self.cases)

    @cached_property
    def members(self) -> list[NDArray[np.int64]]:
        """Places in `rows` of the flows of each case, in order of time."""
        begin = self.asked.oriented["start"].to_numpy(dtype="datetime64[us]")
        order = np.lexsort((self.asked.tie, begin, self.case))
        ends = np.searchsorted(self.case[order], np.arange(1, self.n_cases))
        return np.split(order, ends)[: self.n_cases]

    @cached_property
    def features(self) -> FlowFeatures:
        """Evidence that the detector knows."""
        learned = self.detector.learned_
        return learned.get("payload", learned["volume"]).features

    @cached_property
    def _evidence(self) -> NDArray[np.float64]:
        return self.features.matrix(self.asked)

    def leading(self, feature: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the flow with the most of an evidence in each case, and how much.

        Returns
        -------
        rows : numpy.ndarray of int64, shape (n_cases,)
            Places in `rows`.
        bits : numpy.ndarray of float64, shape (n_cases,)
            NaN where no flow of the case could be judged, or the model has no such
            evidence.
        """
        if feature not in self._leading:
            if feature in self.features.names:
                values = self._evidence[:, self.features.names.index(feature)]
            else:
                values = np.full(len(self.rows), np.nan)
            ranked = np.where(np.isnan(values), -np.inf, values)
            at = largest_of_case(ranked, self.case, self.asked.tie)
            self._leading[feature] = (at, values[at])
        return self._leading[feature]

    def said(self, feature: str) -> list[str]:
        """Say for each case what its leading flow shows of an evidence."""
        reason = next(f.reason for f in FEATURES if f.name == feature)
        return reason(self.asked.only(self.leading(feature)[0]))

    def labels(self, rows: Any) -> tuple[Any, ...]:
        """Return the labels of some flows, given by their places in `rows`."""
        return tuple(self.asked.oriented.index[rows].tolist())

    def marks(self, matches: pd.DataFrame) -> tuple[Any, ...]:
        """Return the labels of flows whose places in the table are an index."""
        at = pd.unique(matches.index.to_numpy(dtype=np.int64))
        return tuple(self.judged.scored.asked.oriented.index[at].tolist())

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Add up a column of the flows by case, shape (n_cases,)."""
        return np.bincount(self.case, values, minlength=self.n_cases).astype(np.float64)

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say in which cases a flag holds for a flow, shape (n_cases,)."""
        return self.total(flags) > 0

    def at_largest(self, column: Callable[[Asked], Any]) -> Any:
        """Return what a column says of the largest upload of each case."""
        largest = largest_of_case(self.asked.up, self.case, self.asked.tie)
        return column(self.asked.only(largest))

    @cached_property
    def concealed(self) -> NDArray[np.bool_]:
        """Which flows upload what is opaque or obscured, outside any handshake."""
        asked = self.asked
        flags: NDArray[np.bool_] = (
            asked.is_true("judged") & asked.is_true("bare") & asked.oriented.leaves
        )
        return flags

    @cached_property
    def hidden(self) -> NDArray[np.float64]:
        """Bytes uploaded so, or in DNS names or echo data, by flow."""
        asked = self.asked
        carried = np.nan_to_num(asked.oriented.numbers("up_carried_bytes"))
        hidden: NDArray[np.float64] = np.maximum(
            np.where(self.concealed, asked.up, 0.0), carried * asked.oriented.leaves
        )
        return hidden

    @cached_property
    def whole(self) -> pd.DataFrame:
        """The flows of all cases, with the columns of `Case.flows`, as in `rows`."""
        oriented, scored = self.asked.oriented, self.judged.scored
        flows = oriented.flows.iloc[self.rows]
        added: dict[str, Any] = {name: oriented[name].array for name in _NAMES}
        added["up_bytes"] = oriented.numbers("up_bytes")
        added["down_bytes"] = oriented.numbers("down_bytes")
        added["suspicion"] = scored.suspicion[self.rows]
        added["concealed"] = self.concealed
        added["hidden_bytes"] = self.hidden
        return flows.assign(**added)

    def tables(self) -> list[pd.DataFrame]:
        """Return the flows of each case, in order of time, as `Case.flows` has them."""
        return [self.whole.iloc[mine] for mine in self.members]

    def traffic(self) -> list[Traffic]:
        """Return the same as plain arrays."""
        every = Traffic.of(self.whole)
        return [every.rows(mine) for mine in self.members]

    def contributions(self) -> list[dict[str, float]]:
        """Return bits of suspicion by family of the flow that leads each case."""
        scored = self.judged.scored
        worst = scored.worst[self.cases]
        found: list[dict[str, float]] = [{} for _ in worst]
        for name, learned in self.detector.learned_.items():
            payload = name == "payload"
            mine = np.flatnonzero(scored.with_payload[worst] == payload)
            if len(mine) == 0:
                continue
            asked = scored.asked.only(worst[mine])
            bits = self.detector.contributions(asked, payload=payload, exact=True)
            families = learned.features.families
            for at, shares in zip(mine.tolist(), bits, strict=True):
                summed = np.bincount(families, shares, minlength=len(FAMILIES))
                found[at] = dict(zip(FAMILIES, summed.tolist(), strict=True))
        return found
