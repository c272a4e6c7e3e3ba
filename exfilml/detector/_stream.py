"""Flows on their way into a detector, cut into blocks by time."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.baseline import Observed
from exfilml.chunks import in_chunks
from exfilml.exceptions import BaselineError, OptionError
from exfilml.places import Oriented, orient
from exfilml.schema import CAPABILITIES, Doubts, capability_level
from exfilml.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fewer flows leave nothing to calibrate with.
FEWEST_FLOWS: Final = 50
# A few odd flows with payload among many without are no picture of a site.
LEAST_VISIBLE: Final = 10
LEAST_SHARE: Final = 0.1
TABLES_SHARE: Final = 0.4
CALIBRATION_SHARE: Final = 0.3
# Of the flows that a model is updated with.
UPDATE_CALIBRATION_SHARE: Final = 0.5
TRAINING_BLOCKS: Final = 3


def check_size(n_flows: int) -> None:
    if not isinstance(n_flows, numbers.Integral):
        raise OptionError(
            f"n_flows: got {n_flows!r}, expected how many flows all tables hold, a "
            "whole number."
        )
    if n_flows < FEWEST_FLOWS:
        raise BaselineError(
            f"The baseline has {n_flows} flows; at least {FEWEST_FLOWS} are needed to "
            "learn and to calibrate. Give a longer capture or more files."
        )


def cuts_of(n_flows: int, tables_share: float) -> NDArray[np.int64]:
    """Cut so many flows into one block of tables, some of training, and calibration.

    What the tables leave is shared as in a fit: calibration has as many as training.
    """
    # As literals, because two sums of shares may differ in the last bit.
    calibrated = CALIBRATION_SHARE if tables_share else UPDATE_CALIBRATION_SHARE
    training = np.linspace(
        tables_share * n_flows, (1.0 - calibrated) * n_flows, TRAINING_BLOCKS + 1
    )
    cuts: NDArray[np.int64] = np.r_[0, training.round(), n_flows].astype(np.int64)
    return cuts


class Stream:
    """Flows on their way into a detector, and what is counted of them.

    Attributes
    ----------
    cuts
        int64, shape (n_blocks + 1,): number of the first flow of each block, and of all.
    seen
        int64, shape (n_blocks,): how many flows of each block show payload.
    doubts
        Duplicates and wrong clocks.
    levels
        int64, by `exfilml.schema.CAPABILITIES`: the most that flows show.
    """

    def __init__(
        self,
        tables: Iterable[pd.DataFrame],
        cuts: NDArray[np.int64],
        home: tuple[str, ...],
        after: pd.Timestamp | None,
    ) -> None:
        self.cuts = cuts
        self.seen = np.zeros(len(cuts) - 1, dtype=np.int64)
        self.doubts = Doubts()
        self.levels = np.zeros(len(CAPABILITIES), dtype=np.int64)
        self._tables, self._home, self._after = tables, home, after
        self._first: pd.Timestamp | None = None
        self._last: pd.Timestamp | None = None

    def pieces(self) -> Iterator[tuple[int, Oriented, Observed]]:
        """Prepare flows chunk by chunk; no piece is of two blocks.

        Yields
        ------
        block, flows, observed
            Number of the block, and rows of it.
        """
        state = State()
        first = 0
        for chunk in in_chunks(self._tables):
            self._note(chunk)
            flows = orient(chunk, self._home)
            observed = Observed.of(flows, state)
            ends = np.clip(self.cuts - first, 0, len(chunk)).tolist()
            for block, (begin, end) in enumerate(pairwise(ends)):
                rows = slice(begin, end)
                if begin < end:
                    shown = flows.rows(rows)["src_sampled_bytes"].notna()
                    self.seen[block] += int(shown.sum())
                    whole = end - begin == len(chunk)
                    yield (
                        block,
                        flows if whole else flows.rows(rows),
                        observed if whole else observed.rows(rows),
                    )
            first += len(chunk)
            # Else they would stay while the next ones are made.
            del chunk, flows, observed
        if first != self.cuts[-1]:
            raise BaselineError(
                f"The tables hold {first:,} flows; {int(self.cuts[-1]):,} were announced."
            )

    def _note(self, chunk: pd.DataFrame) -> None:
        first, last = chunk["start"].iloc[0], chunk["start"].iloc[-1]
        if self._first is None:
            if self._after is not None and first < self._after:
                raise BaselineError(
                    f"The flows begin at {first:%Y-%m-%d %H:%M:%S} UTC, before "
                    f"{self._after:%Y-%m-%d %H:%M:%S} UTC, the end of what the model "
                    "learned from: flows would count twice. Leave out what it knows "
                    "(train --since)."
                )
            self._first = first
        self._last = last
        self.doubts.add(chunk)
        self.levels += np.bincount(capability_level(chunk), minlength=len(CAPABILITIES))

    @property
    def window(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        """First and last start."""
        assert self._first is not None
        assert self._last is not None
        return self._first, self._last

    @property
    def shown(self) -> dict[str, int]:
        """How many flows show what, where any do."""
        counts = zip(CAPABILITIES, self.levels.tolist(), strict=True)
        return {name: n for name, n in counts if n}

    def shows_payload(self, blocks: int | slice) -> bool:
        """Say whether enough flows of some blocks show payload to learn from them."""
        n_seen = int(self.seen[blocks].sum())
        n_flows = int(np.diff(self.cuts)[blocks].sum())
        return n_seen >= LEAST_VISIBLE and n_seen >= LEAST_SHARE * n_flows

    @property
    def why_payload_is_not_judged(self) -> str:
        """Say how few flows show payload."""
        return (
            f"Payload is not judged: only {int(self.seen.sum()):,} of "
            f"{int(self.cuts[-1]):,} flows show it, {int(self.seen[1:-1].sum()):,} where "
            f"the forest is trained and {int(self.seen[-1]):,} where it is calibrated. "
            "At least a tenth of either is needed."
        )
