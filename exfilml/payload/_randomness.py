"""The simulated quantiles of the randomness test, read once."""

from __future__ import annotations

import functools
import importlib.resources
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.exceptions import ModelFileError
from exfilml.payload import _kernel
from exfilml.payload._sampling import KEPT_HEAD, MAX_SLICES, SLICE_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "randomness.npz"
# Beyond the head and the slices that are kept of a direction.
_LENGTHS: Final = KEPT_HEAD + MAX_SLICES * SLICE_BYTES + 1


@functools.cache
def quantiles() -> NDArray[np.float64]:
    """Return the table that ``datasets/make_randomness.py`` wrote, one row a length.

    Raises
    ------
    ModelFileError
        If the file of the installation is missing or is not that table.
    """
    source = importlib.resources.files("exfilml").joinpath("data", NAME)
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            table = np.ascontiguousarray(arrays["null"], dtype=np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(
            f"exfilml/data/{NAME}: {error}. Install exfilml again."
        ) from error
    if (
        table.ndim != 2
        or table.shape[1] != _kernel.NULL_Z + _kernel.LEVELS
        or len(table) < 2
        or not np.isfinite(table).all()
        or (np.diff(table[:, _kernel.NULL_N]) <= 0).any()
    ):
        raise ModelFileError(
            f"exfilml/data/{NAME}: not the table of this version, which has "
            f"{_kernel.NULL_Z + _kernel.LEVELS} columns, one row for each length. Install exfilml again."
        )
    table.setflags(write=False)
    return table


@functools.cache
def null() -> _kernel.Null:
    """Return the table, and what follows from it for each length that samples have."""
    table = quantiles()
    lengths = np.zeros((_LENGTHS, _kernel.KNOWN_COLUMNS))
    powers = np.zeros(_kernel.LEVELS)
    _kernel.describe_all(table, lengths, powers)
    return _kernel.Null(table, lengths, powers)
