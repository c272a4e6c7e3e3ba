"""How the library compiles its loops.

numba's cache notices a change only in the file of the function that is called, not
in those of the functions it calls: compiled functions that call each other belong
in one file.
"""

from __future__ import annotations

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
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
