"""Text columns that hold each text once: codes, and the texts they stand for.

A million flows name a few thousand hosts and places. What is said about a name
(which network it lies in, what it hashes to) is said once for each text, and a code
carries it to the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Arrow tells texts apart faster, but takes longer to begin than so many rows.
FEW: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """A column of texts, some of which may be missing.

    Attributes
    ----------
    codes
        int64, shape (n_rows,): where in `texts` each row's text stands; −1 is its
        last entry.
    texts
        object: str or None, the last of them always None. The same text may stand
        in two places.
    """

    codes: NDArray[np.int64]
    texts: NDArray[np.object_]

    @classmethod
    def of(cls, column: pd.Series) -> Self:
        """Take the texts of a column apart; missing values become None."""
        if len(column) > FEW:
            codes, distinct = column.array.factorize()
            return cls(codes, _ended(np.asarray(distinct, dtype=object)))
        place: dict[str, int] = {}
        values = column.array.to_numpy(dtype=object)
        gaps = pd.isna(values)
        codes = np.array(
            [
                -1 if gap else place.setdefault(text, len(place))
                for text, gap in zip(values, gaps, strict=True)
            ],
            dtype=np.int64,
        )
        return cls(codes, _ended(list(place)))

    @classmethod
    def one_of(cls, texts: list[str], codes: NDArray[np.int64]) -> Self:
        """Name rows by the position of their text in a list."""
        return cls(codes, _ended(texts))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Self:
        """Return some of the rows: a slice, positions or a mask."""
        return type(self)(self.codes[rows], self.texts)

    def map(self, function: Callable[[str], str | None]) -> Self:
        """Return the names that a function gives for these; None stays None."""
        texts = np.empty_like(self.texts)
        texts[:] = [None if text is None else function(text) for text in self.texts]
        return type(self)(self.codes, texts)

    def each(self, function: Callable[[str], Any], missing: Any) -> NDArray[Any]:
        """Return what a function says of each row's text, or what missing ones get."""
        said = [missing if t is None else function(t) for t in self.texts]
        return np.array(said)[self.codes]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which rows have no text."""
        return self.each(lambda _: False, missing=True)

    def filled(self, text: str) -> Self:
        """Return these names with a text for missing ones."""
        filler = self.one_of([text], np.zeros(len(self), dtype=np.int64))
        return self.where(~self.missing, filler)

    def where(self, mine: NDArray[np.bool_], other: Names) -> Self:
        """Return these names where `mine`, the other ones elsewhere."""
        if mine.all():
            return self
        # A missing one of the others, −1, becomes the last of these texts: None too.
        theirs = other.codes + len(self.texts)
        texts = np.concatenate([self.texts, other.texts])
        return type(self)(np.where(mine, self.codes, theirs), texts)

    def tolist(self) -> list[str | None]:
        """Return the texts row by row."""
        texts: list[str | None] = self.texts[self.codes].tolist()
        return texts

    @property
    def array(self) -> pd.api.extensions.ExtensionArray:
        """The column as pandas keeps texts."""
        if len(self) < len(self.texts):
            return pd.array(self.texts[self.codes], dtype="str")
        return pd.array(self.texts, dtype="str")[self.codes]

    def series(self, index: pd.Index) -> pd.Series:
        """Return the column as a Series."""
        return pd.Series(self.array, index=index)


def _ended(texts: NDArray[np.object_] | list[str]) -> NDArray[np.object_]:
    """Append the entry that stands for a missing text."""
    ended = np.empty(len(texts) + 1, dtype=object)
    ended[:-1] = texts
    return ended
