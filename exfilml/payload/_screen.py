"""The quick questions: random or not, and of which format, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exfilml._jit import compiled
from exfilml.payload import _kernel
from exfilml.payload._randomness import null

if TYPE_CHECKING:
    from numpy.typing import NDArray


def p_uniform(data: bytes) -> float:
    """Return the p-value of uniform random bytes, for all of a buffer.

    Valid at any length: for random bytes P(p ≤ α) ≤ α. nan for no bytes. `judge` gives
    that of what it has not set aside, such as repetitions.
    """
    return float(_p_uniform(np.frombuffer(data, np.uint8), null()))


@compiled
def _p_uniform(data: NDArray[np.uint8], expected: Any) -> float:
    counts = np.zeros(256, np.int64)
    deltas = np.zeros(256, np.int64)
    _kernel.tally(data, 0, len(data), counts, deltas)
    entropy = _kernel.entropy_of(counts, len(data))
    return float(_kernel.p_uniform(counts, deltas, len(data), entropy, expected))
