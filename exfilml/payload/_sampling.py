"""Which bytes of a direction are kept to be judged, for those who meter and plant."""

from __future__ import annotations

from typing import Final

KEPT_HEAD: Final = 4096
"""First payload bytes of a direction that are kept."""

SLICE_BYTES: Final = 64
"""Bytes of a later packet that are kept."""

MAX_SLICES: Final = 32
"""Slices that are kept at most."""


def kept_slices(candidates: int) -> range:
    """Say of which packets behind the head the slices are kept.

    When the memory is full every second slice is dropped and the stride doubles, so
    that what is left of n candidates is every s-th, s the smallest power of two that
    leaves `MAX_SLICES` or fewer.

    Parameters
    ----------
    candidates
        Packets behind the head with `SLICE_BYTES` of payload or more.
    """
    stride = 1
    while -(-candidates // stride) > MAX_SLICES:
        stride *= 2
    return range(0, candidates, stride)
