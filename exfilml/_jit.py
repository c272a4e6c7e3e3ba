"""How the library compiles its loops.

numba's cache notices a change only in the file of the function that is called, not
in those of the functions it calls: compiled functions that call each other belong
in one file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the interpreter's lock, cached on disk where that is possible.

    numba refuses ``cache=True`` at decoration when neither the package's nor the
    user's cache directory is writable (containers, read-only installs); the library
    must work there too, only with a slower first call.
    """
    return _compiled(function, _nrt=True)


def compiled_bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the same, but without counting references to arrays.

    For small functions that are called often with arrays of others and make none: to
    count, in a way that is safe among threads, took a third of the time of all else.
    """
    return _compiled(function, _nrt=False)


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        made: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        made = numba.njit(**options)(function)
    return made


def is_first_use() -> bool:
    """Say whether the loops have yet to be compiled, which takes a minute or two.

    Told from the cache beside the package, where one can be written there.
    """
    caches = [Path(__file__).parent / room / "__pycache__" for room in _ROOMS]
    writable = all(os.access(cache.parent, os.W_OK) for cache in caches)
    return writable and not all(any(cache.glob("*.nbi")) for cache in caches)


# Of those with loops, the ones that every capture needs.
_ROOMS = ("payload", "_compiled")
