"""DuckDB over the files of a store: bounded memory, no network, errors with names.

Names that come from packets reach it as parameters and as columns, never as text of a
query. Paths are escaped: DuckDB reads ``*``, ``?`` and ``[`` in them as patterns.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from exfilml.exceptions import DependencyError, HistoryError
from exfilml.history._manifest import Part
from exfilml.history._stored import flow_schema

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# What does not fit goes to a temporary folder.
MEMORY: Final = "2GB"
MOST_BYTES: Final = 2**63 - 1


def check_installed() -> None:
    """Refuse to go on without DuckDB.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    try:
        import duckdb  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "A history of flows needs duckdb; install it with "
            "pip install 'exfilml[triage]'."
        ) from error


@contextlib.contextmanager
def engine(folder: Path, parts: Sequence[Part]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection with the views ``flows`` and ``patterns`` over some files.

    Parameters
    ----------
    folder
        The store.
    parts
        The files that are meant; each is looked for first.

    Raises
    ------
    HistoryError
        If a file is missing or damaged, by name; or if memory or the temporary folder
        do not suffice.
    """
    check_installed()
    import duckdb

    check_files(folder, parts)
    spill = tempfile.mkdtemp(prefix="exfilml-history-")
    connection = duckdb.connect(
        config={
            "memory_limit": MEMORY,
            "temp_directory": spill,
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        for kind in ("flows", "patterns"):
            _view(connection, kind, [folder / p.path for p in parts if p.kind == kind])
        yield connection
    except duckdb.Error as error:
        found = _explained(folder, parts, error)
        if found is None:
            raise
        raise found from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def frame(connection: duckdb.DuckDBPyConnection, query: str, values: Any) -> Any:
    """Return what a query finds, as a table of Arrow."""
    return connection.sql(query, params=values).to_arrow_table()


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return a table of Arrow as pandas has it: UTC, whole numbers, texts."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        kind = str(column.type)
        if kind.startswith("timestamp"):
            columns[name] = column.to_pandas().astype("datetime64[us, UTC]")
        elif kind in {"string", "null"}:
            columns[name] = column.to_pandas().astype("str")
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)


def check_files(folder: Path, parts: Sequence[Part]) -> None:
    """Look for files, and whether they are as long as they were written.

    Raises
    ------
    HistoryError
        With the first that are not, by name.
    """
    bad = [(part, why) for part in parts if (why := _missing(folder, part))]
    if bad:
        raise _not_whole(folder, bad)


def damage(folder: Path, part: Part) -> str:
    """Say what is wrong with a file, "" for nothing; all of it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if why := _missing(folder, part):
        return why
    try:
        with pq.ParquetFile(
            folder / part.path, page_checksum_verification=True
        ) as parquet:
            rows = sum(len(batch) for batch in parquet.iter_batches())
    except (pa.ArrowException, OSError, ValueError) as error:
        return re.sub(r"\s+", " ", str(error))[:80] or "cannot be read"
    return "" if rows == part.rows else f"{rows:,} of {part.rows:,} rows"


def saturated(total: str) -> str:
    """Write a sum of bytes in SQL: hostile counters may add up to more than int64."""
    return f"CAST(least(sum({total}), {MOST_BYTES}) AS BIGINT)"


def _missing(folder: Path, part: Part) -> str:
    try:
        size = (folder / part.path).stat().st_size
    except OSError as error:
        return error.strerror or "missing"
    return "" if size == part.size else f"{size:,} bytes, expected {part.size:,}"


def _view(connection: duckdb.DuckDBPyConnection, kind: str, paths: list[Path]) -> None:
    if not paths:
        import pyarrow as pa

        empty = flow_schema() if kind == "flows" else pa.schema([("case", pa.string())])
        connection.register(kind, empty.empty_table())
        return
    names = [re.sub(r"([*?\[])", r"[\1]", str(path.absolute())) for path in paths]
    # Models differ in the evidence that they know; flows have the same columns.
    connection.read_parquet(
        names, hive_partitioning=False, union_by_name=kind == "patterns"
    ).create_view(kind)


def _explained(
    folder: Path, parts: Sequence[Part], error: Exception
) -> HistoryError | None:
    """Say which file is damaged, else what DuckDB lacks; `None` for a fault of ours."""
    import duckdb

    bad = [(part, why) for part in parts if (why := damage(folder, part))]
    if bad:
        return _not_whole(folder, bad)
    if not isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException):
        return None
    reason = re.sub(r"\s+", " ", str(error))[:200]
    return HistoryError(
        f"{folder}: the history cannot be asked: {reason} Make room in "
        f"{tempfile.gettempdir()}, or ask for less."
    )


def _not_whole(folder: Path, bad: list[tuple[Part, str]]) -> HistoryError:
    told = "; ".join(f"{part.path}: {why}" for part, why in bad[:3])
    more = f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
    return HistoryError(
        f"{folder}: {len(bad):,} files of the history are missing or damaged ({told}"
        f"{more}). Restore them from a backup, or give them up (exfilml history prune "
        "--damaged) and add the sources of these days again."
    )
