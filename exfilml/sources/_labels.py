"""Labels files: which flows are known to be what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exfilml.columns import START_DTYPE
from exfilml.exceptions import SourceError

if TYPE_CHECKING:
    import pandas as pd


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read a labels file (CSV or Parquet) with the columns `LABEL_COLUMNS`.

    Returns
    -------
    pandas.DataFrame
        Ports as nullable integers, times in UTC; missing means "matches all".

    Raises
    ------
    SourceError
        If the file cannot be read, columns are missing, or values do not fit.
    """
    import pandas as pd

    from exfilml.schema import LABEL_COLUMNS

    is_parquet = Path(path).suffix.lower() == ".parquet"
    try:
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path)
    # pyarrow's errors are ValueErrors or OSErrors.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SourceError(
            f"{path}: not a readable labels file: {reason.rstrip('.')}. Expected CSV or "
            f"Parquet (.parquet) with the columns {', '.join(LABEL_COLUMNS)}."
        ) from error
    missing = [c for c in LABEL_COLUMNS if c not in table.columns]
    if missing:
        raise SourceError(
            f"{path}: no labels file, columns missing: {', '.join(missing)}. "
            f"Expected: {', '.join(LABEL_COLUMNS)}."
        )
    for name in LABEL_COLUMNS:
        try:
            if name in {"src_port", "dst_port", "protocol"}:
                table[name] = table[name].astype("Int64")
            elif name in {"start", "end"}:
                times = pd.to_datetime(table[name], utc=True, format="ISO8601")
                table[name] = times.astype(START_DTYPE)
            else:
                table[name] = table[name].astype("str")
        except (TypeError, ValueError) as error:
            raise SourceError(
                f"{path}: column {name}: {str(error).splitlines()[0]}. Ports and "
                "protocols are numbers, times are ISO 8601 in UTC."
            ) from error
    if table["protocol"].isna().any():
        raise SourceError(f"{path}: column protocol: every label needs a number.")
    return table
