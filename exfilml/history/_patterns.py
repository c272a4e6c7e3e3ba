"""Patterns: what the evidence of a case looked like, a row for each case and day.

The row is that of the case's worst flow of the day, as the detector scored it. The same
flows scored again by the same model give the same row, so adding them twice changes
nothing; of several rows for one case, day and model the most suspicious stays.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.detector import Detector, Scored
from exfilml.exceptions import CalibrationWarning
from exfilml.features.cases import largest_of_case
from exfilml.history._engine import engine, frame
from exfilml.history._manifest import DAY_US
from exfilml.history._writing import Stage, told

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from exfilml.state import State

EVIDENCE: Final = "evidence_"
"""Begins the name of a column of evidence; what follows is the feature's."""

_KEYS: Final = ["case", "day", "model"]
_TEXTS: Final = (
    *("local_ip", "remote_ip", "place", "service", "direction"),
    *("app", "server_name", "uid"),
)
# So many rows are kept in memory before they are written.
MOST_KEPT: Final = 200_000


class Patterns:
    """Case-days of tables that are scored one after the other.

    Parameters
    ----------
    detector
        Its home networks are those of the store.
    state
        Memory of earlier tables; `None` to begin one.
    """

    def __init__(self, detector: Detector, state: State | None) -> None:
        self.detector = detector
        self.state = detector.new_state() if state is None else state
        self.model = f"{detector.new_state().identity or 0:016x}"
        self.kept: pd.DataFrame | None = None
        self.days: set[tuple[str, int]] = set()
        self._limits: dict[str, float] = {}

    def add(self, flows: pd.DataFrame, stage: Stage) -> None:
        """Score flows, and keep what their cases look like."""
        if len(flows) == 0:
            return
        rows = self._rows(self.detector.score(flows, self.state))
        parts = [rows] if self.kept is None else [self.kept, rows]
        self.kept = _worst(pd.concat(parts, ignore_index=True))
        if len(self.kept) > MOST_KEPT:
            with told(stage.folder):
                self.stage(stage)

    def stage(self, stage: Stage) -> int:
        """Stage what is kept, merged with what the store has of the same days.

        Returns
        -------
        int
            How many case-days there were so far.
        """
        if self.kept is not None:
            keys = zip(self.kept["case"], self.kept["day"].tolist(), strict=True)
            self.days.update(keys)
            days = self.kept["day"].to_numpy()
            for day in np.unique(days).tolist():
                _stage_day(stage, day, self.kept[days == day])
            self.kept = None
        return len(self.days)

    def _rows(self, scored: Scored) -> pd.DataFrame:
        """Return a row for the worst flow of each case and day."""
        worst, payload = _worst_flows(scored)
        oriented = scored.asked.oriented.rows(worst)
        start = oriented["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
        table = pd.DataFrame(
            {
                "case": [f"{k >> 24:010x}" for k in scored.case_key[worst].tolist()],
                "day": start // DAY_US,
                "model": self.model,
                "start": pd.Series(start)
                .astype("datetime64[us]")
                .dt.tz_localize("UTC"),
                "payload": payload,
                "inside": scored.apart[scored.case[worst]],
                **{name: oriented[name].array for name in _TEXTS},
                "dst_port": oriented["dst_port"].to_numpy(),
                "protocol": oriented["protocol"].to_numpy(),
                "up_bytes": oriented["up_bytes"].to_numpy(),
                "down_bytes": oriented["down_bytes"].to_numpy(),
                "suspicion": np.nan,
                "threshold": np.nan,
                "raw": np.nan,
                "tie": scored.asked.tie[worst],
            }
        )
        for name, learned in self.detector.learned_.items():
            mine = np.flatnonzero(payload == (name == "payload"))
            if len(mine) == 0:
                continue
            evidence = learned.features.matrix(scored.asked.only(worst[mine]))
            raw = learned.parts(evidence).raw
            table.loc[mine, "raw"] = raw
            table.loc[mine, "suspicion"] = learned.cases.suspicion(raw)
            table.loc[mine, "threshold"] = self._limit(name)
            for at, feature in enumerate(learned.features.names):
                column = EVIDENCE + feature
                if column not in table:
                    table[column] = np.nan
                table.loc[mine, column] = evidence[:, at]
        over = (table["suspicion"] >= table["threshold"]).to_numpy()
        table["alerted"] = over & ~table["inside"].to_numpy()
        return table

    def _limit(self, name: str) -> float:
        """Return from which suspicion on a case alerts, by the detector's budget."""
        if name not in self._limits:
            learned = self.detector.learned_
            # The budget is shared by all cases, as in rankings.
            per_day = learned["volume"].cases.per_day
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                self._limits[name] = learned[name].cases.threshold(
                    self.detector.alerts_per_day, per_day
                )
        return self._limits[name]


def features_of(table: pd.DataFrame) -> list[str]:
    """Return the features that a table of patterns has columns of evidence for."""
    names = (str(name) for name in table.columns)
    return [n.removeprefix(EVIDENCE) for n in names if n.startswith(EVIDENCE)]


def _worst_flows(scored: Scored) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the worst flow of each case and day, and whether its payload counts.

    The case's own worst flow is that of its day. On another day it is the flow with the
    highest raw score of those that show the most, payload or volumes alone: what cases
    are scored by.
    """
    start = scored.asked.oriented.flows["start"].to_numpy(dtype="datetime64[us]")
    day = start.astype(np.int64) // DAY_US
    code = pd.factorize(scored.case * (day.max() - day.min() + 1) + day - day.min())[0]
    shows = np.zeros(code.max() + 1, dtype=bool)
    shows[code[scored.with_payload]] = True
    counts = scored.with_payload == shows[code]
    raw = np.where(counts, scored.raw, -np.inf)
    worst = largest_of_case(raw, code, scored.asked.tie)
    worst[code[scored.worst]] = scored.worst
    shows[code[scored.worst]] = scored.case_with_payload
    return worst, shows


def _worst(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the worst row of each case, day and model, as one scoring of all would.

    A flow that shows payload comes before one that does not; ties are told by content.
    """
    order = ["payload", "raw", "tie"]
    rows = rows.sort_values(order, ascending=[False, False, True], kind="stable")
    return rows.drop_duplicates(_KEYS, ignore_index=True)


def _stage_day(stage: Stage, day: int, rows: pd.DataFrame) -> None:
    import pyarrow as pa

    old = [part for part in stage.current("patterns") if part.day == day]
    if old:
        with engine(stage.folder, old) as connection:
            before = frame(connection, "SELECT * FROM patterns", {}).to_pandas()
        before["day"] = day
        rows = _worst(pd.concat([before, rows], ignore_index=True))
    rows = rows.sort_values(["start", "case", "model"], ignore_index=True)
    table: pa.Table = pa.Table.from_pandas(
        rows.drop(columns="day"), preserve_index=False
    )
    kinds: dict[str, Any] = dict.fromkeys(_TEXTS, pa.string())
    kinds["start"] = pa.timestamp("us", "UTC")
    fields = [
        pa.field(name, kinds.get(name, field.type))
        for name, field in zip(table.column_names, table.schema, strict=True)
    ]
    stage.replace(old, [stage.write("patterns", day, table.cast(pa.schema(fields)))])
