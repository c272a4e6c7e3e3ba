"""Headers of messages: to be set aside only where ciphertext stands behind them.

Columns at the start of messages collide not only in headers but in text, too, and text
under a repeating key has a phase that must not be lost. What is left without the
columns is therefore preferred only if it passes for random bytes where the whole
does not.
"""

from __future__ import annotations

import numpy as np

from exfilml.payload import _kernel


def is_better(framed: bytes, whole: bytes) -> bool:
    """Whether `framed`, without headers, can be ciphertext and `whole` cannot."""
    return _p_random(whole) <= _kernel.OPAQUE_P < _p_random(framed)


def _p_random(data: bytes) -> float:
    """p-value of "uniform random bytes"; nan for none."""
    counts, deltas = np.zeros(256, np.int64), np.zeros(256, np.int64)
    view = np.frombuffer(data, np.uint8)
    _kernel.tally(view, 0, len(data), counts, deltas)
    return float(_kernel.p_uniform(counts, deltas, len(data)))
