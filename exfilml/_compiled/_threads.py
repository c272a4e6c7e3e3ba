"""Rows shared out among threads; the loops run without the interpreter's lock."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import joblib

if TYPE_CHECKING:
    from collections.abc import Callable

# Many times the rows that starting a thread is worth, and few enough that a thread
# which was held up does not hold up the others.
ROWS_OF_A_PIECE: Final = 8192
FEWEST_ROWS: Final = 2048
# A block of any of the loops divides this.
WHOLE: Final = 256
# A joblib worker finds its share of the machine here; administrators use them too.
LIMITS: Final = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


def allowed_threads(n_jobs: int | None) -> int:
    """Return how many threads `n_jobs` may mean here and now.

    As in scikit-learn `None` is 1 outside a `joblib.parallel_config` and −1 all
    processors; further, never more than the processors this process may use, nor
    than the environment allows. Inside a joblib worker that is the worker's share.
    """
    threads = int(min(joblib.effective_n_jobs(n_jobs), joblib.cpu_count()))
    for name in LIMITS:
        # OpenMP takes a list, one number per level of nesting.
        limit = os.environ.get(name, "").split(",")[0].strip()
        if limit.isdecimal() and int(limit) > 0:
            threads = min(threads, int(limit))
    return max(1, threads)


def over_rows(
    work: Callable[[int, int], object], n_rows: int, n_jobs: int | None
) -> None:
    """Call ``work(first, stop)`` on ranges that cover all rows.

    Raises
    ------
    ValueError
        If `n_jobs` is 0.
    """
    if n_jobs == 0:
        raise ValueError("n_jobs is 0; it must be None, positive, or negative.")
    threads = allowed_threads(n_jobs) if n_rows >= 2 * FEWEST_ROWS else 1
    if threads == 1:
        work(0, n_rows)
        return
    piece = min(ROWS_OF_A_PIECE, -(-n_rows // threads))
    piece += -piece % WHOLE
    first = range(0, n_rows, piece)
    stop = [min(n_rows, at + piece) for at in first]
    with ThreadPoolExecutor(threads, "exfilml-forest") as pool:
        for _ in pool.map(work, first, stop):
            pass
