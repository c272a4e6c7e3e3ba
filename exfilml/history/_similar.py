"""Case-days that look alike: neighbours in evidence space, and why.

A column of evidence counts in units of what is worth telling (2 bits, or a share of
0.25): two case-days that differ by that much in one column, all else equal, are at a
distance of 1. Columns that one of both does not show are left out and the others
count for them (scikit-learn's ``nan_euclidean``); who shares fewer than half of the
columns asked about is no neighbour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import OptionError
from exfilml.features import FEATURES, FlowFeatures
from exfilml.history._patterns import EVIDENCE, features_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_SHARED: Final = 0.5
MOST_TOLD: Final = 4
# Of what is worth telling: closer values agree.
AGREE: Final = 0.5

FOUND: Final = (
    *("distance", "shared", "case", "start", "local_ip", "place", "service"),
    *("direction", "dst_port", "app", "up_bytes", "down_bytes", "suspicion"),
    *("alerted", "agrees", "differs", "model", "uid"),
)
_FAMILIES: Final = {f.name: f.family for f in FEATURES}
_UNITS: Final = {f.name: f.unit for f in FEATURES}


def asked_evidence(
    patterns: pd.DataFrame, case: str | None, evidence: Any
) -> tuple[pd.Series, NDArray[np.bool_]]:
    """Return the evidence that is asked about, and which rows may be neighbours.

    Parameters
    ----------
    patterns
        Rows of the store.
    case
        Name of a case; its most suspicious day is meant, and none of its days is a
        neighbour.
    evidence
        Or evidence by feature: a mapping or a Series.

    Raises
    ------
    OptionError
        If neither or both are given, the store does not know the case, or none of the
        features.
    """
    if (case is None) == (evidence is None):
        raise OptionError("Expected either the name of a case or evidence.")
    known = features_of(patterns)
    if case is not None:
        rows = patterns[(patterns["case"] == case).to_numpy(dtype=bool)]
        if len(rows) == 0:
            raise OptionError(
                f"case {case!r}: the history has no pattern of it ({len(patterns):,} "
                "case-days known). Patterns are stored when flows are added with a "
                "model (exfilml history add --model)."
            )
        worst = rows.iloc[int(rows["suspicion"].to_numpy().argmax())]
        mine = pd.Series(
            {name: worst[EVIDENCE + name] for name in known}, dtype="float64"
        )
        # Another model knows other days as normal: its evidence says something else.
        same = (patterns["model"] == worst["model"]).to_numpy(dtype=bool)
        return mine, same & (patterns["case"] != case).to_numpy(dtype=bool)
    given = pd.Series(evidence)
    foreign = sorted(str(name) for name in given.index if name not in _UNITS)
    if foreign:
        raise OptionError(
            f"evidence: no such features: {', '.join(foreign[:5])}; expected names of "
            "exfilml.features.FEATURES."
        )
    try:
        mine = given.astype("float64").reindex(known)
    except (TypeError, ValueError):
        raise OptionError("evidence: expected numbers by name of feature.") from None
    return mine, np.ones(len(patterns), dtype=bool)


def nearest(
    patterns: pd.DataFrame, mine: pd.Series, among: NDArray[np.bool_], n: int
) -> pd.DataFrame:
    """Return the case-days whose evidence is nearest, see `History.similar`."""
    from sklearn.neighbors import NearestNeighbors

    names = [name for name in mine.index if np.isfinite(mine[name])]
    units = dict(zip(_UNITS, FlowFeatures(payload=True).worth_telling, strict=True))
    unit = np.array([units[name] for name in names])
    point = mine[names].to_numpy(dtype=float)
    matrix = patterns[[EVIDENCE + name for name in names]].to_numpy(dtype=float)
    shared = np.isfinite(matrix).sum(axis=1)
    rows = np.flatnonzero(among & (shared >= max(LEAST_SHARED * len(names), 1)))
    if len(rows) == 0 or not names:
        return _table(patterns.iloc[:0], np.zeros(0), np.zeros(0, int), [], [])
    neighbours = NearestNeighbors(
        n_neighbors=min(n, len(rows)), metric="nan_euclidean", algorithm="brute"
    ).fit(matrix[rows] / unit)
    distance, at = neighbours.kneighbors((point / unit)[None, :])
    chosen = rows[at[0]]
    texts = [_told(names, point, matrix[row], unit) for row in chosen]
    return _table(
        patterns.iloc[chosen],
        distance[0],
        shared[chosen],
        [agrees for agrees, _ in texts],
        [differs for _, differs in texts],
    )


def _told(
    names: list[str],
    mine: NDArray[np.float64],
    theirs: NDArray[np.float64],
    unit: NDArray[np.float64],
) -> tuple[str, str]:
    """Say which evidence of two case-days agrees, and which differs most."""
    apart = np.abs(mine - theirs) / unit
    # That both show nothing is no likeness worth telling.
    weight = np.minimum(mine, theirs) / unit
    alike = np.flatnonzero((apart <= AGREE) & (weight >= 1.0))
    alike = alike[np.argsort(-weight[alike], kind="stable")]
    other = np.flatnonzero(apart > AGREE)
    other = other[np.argsort(-apart[other], kind="stable")]

    def told(rows: NDArray[np.int64], word: str) -> str:
        # One for each family: its columns rise together.
        first = {_FAMILIES[names[i]]: i for i in rows[::-1].tolist()}
        leading = [i for i in rows.tolist() if i in first.values()][:MOST_TOLD]
        parts = [
            f"{names[i]} {mine[i]:.1f} {word} {theirs[i]:.1f} {_UNITS[names[i]]}"
            for i in leading
        ]
        more = len(rows) - len(leading)
        return ", ".join(parts) + (f" and {more} more" if more > 0 else "")

    return told(alike, "and"), told(other, "against")


def _table(
    rows: pd.DataFrame,
    distance: NDArray[np.float64],
    shared: NDArray[np.int64],
    agrees: list[str],
    differs: list[str],
) -> pd.DataFrame:
    table = rows.assign(distance=distance, shared=shared)
    table["agrees"] = pd.Series(agrees, index=rows.index, dtype="str")
    table["differs"] = pd.Series(differs, index=rows.index, dtype="str")
    return table[list(FOUND)].reset_index(drop=True)
