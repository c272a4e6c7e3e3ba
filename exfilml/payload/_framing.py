"""Headers of messages: to be set aside only where ciphertext stands behind them.

Columns at the start of messages collide not only in headers but in text, too, and text
under a repeating key has a phase that must not be lost. What is left without the
columns is therefore preferred only if it passes for random bytes where the whole
does not. Bytes that every message begins with are set aside in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from exfilml.payload import _kernel
from exfilml.payload._content import Carried, Part, each
from exfilml.payload._randomness import null

LEAST_MESSAGES: Final = 3
"""Fewer may begin alike by chance, and mean nothing by it."""

LEAST_PREFIX: Final = 4
"""Shorter prefixes are set aside by their columns or not at all."""


def is_better(framed: bytes, whole: bytes) -> bool:
    """Whether `framed`, without headers, can be ciphertext and `whole` cannot."""
    return p_random(whole) <= _kernel.OPAQUE_P < p_random(framed)


def p_random(data: bytes) -> float:
    """p-value of "uniform random bytes"; nan for none."""
    counts, deltas = np.zeros(256, np.int32), np.zeros(256, np.int32)
    view = np.frombuffer(data, np.uint8)
    _kernel.tally(view, 0, len(data), counts, deltas)
    entropy = _kernel.entropy_of(counts, len(data))
    p = _kernel.p_uniform(counts, deltas, len(data), entropy, null())
    return float(p)


def unwrap(
    head: bytes, packets: Sequence[int], slices: bytes, width: int
) -> Carried | None:
    """Take the header off that all messages of a datagram protocol begin with.

    A constant prefix of `LEAST_PREFIX` bytes or more, else columns that repeat more
    than random bytes can (session, type, counter; `_kernel.frame_columns`) where
    ciphertext stands behind them. None if there is neither.
    """
    messages, at = [], 0
    for size in packets:
        messages.append(head[at : at + size])
        at += size
    if len(messages) < LEAST_MESSAGES or at < len(head):
        return None
    # The last is cut where the head ends.
    starts = messages[:-1] if len(head) >= at and slices else messages
    prefix = _common([*starts, *each(slices, width)])
    if prefix < LEAST_PREFIX:
        rows = [m[:width] for m in messages if 0 < width <= len(m)]
        grid = np.frombuffer(b"".join(rows) + slices, np.uint8)
        prefix = int(_kernel.frame_columns(grid, width)) if width else 0
        if not prefix or not is_better(b"".join(m[prefix:] for m in messages), head):
            return None
    rest = b"".join(m[prefix:] for m in messages)
    later = b"".join(piece[prefix:] for piece in each(slices, width))
    return Carried((Part(rest, None, prefix),), later, max(0, width - prefix))


def _common(messages: Sequence[bytes]) -> int:
    """Length of what all messages begin with."""
    # What the first and the last in order share, those between them share too.
    low, high = min(messages), max(messages)
    for at, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return at
    return min(len(low), len(high))
