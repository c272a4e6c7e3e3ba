"""The rules by which China's firewall tells fully encrypted traffic.

Wu et al., "How the Great Firewall of China Detects and Blocks Fully Encrypted
Traffic", USENIX Security 2023, section 4: a first packet is *exempt* if its bytes
have at most 3.4 or at least 4.6 set bits on average, if its first six bytes or more
than half of its bytes are printable, if more than 20 printable bytes follow each
other, or if it is TLS or HTTP. What is left looks encrypted from its first byte,
where a protocol would say hello. They measured that 0.6 % of ordinary connections
are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml._jit import compiled, compiled_bare

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_BITS: Final = 3.4
"""Set bits per byte up to which a packet is exempt; random bytes have 4."""

MOST_BITS: Final = 4.6
"""Set bits per byte from which on a packet is exempt."""

_FIRST: Final = 6
_SHARE: Final = 0.5
_RUN: Final = 21
# Masks of what is printable: -1 for these, and 0.
_PRINTABLE: Final = np.array([-(32 <= value < 127) for value in range(256)])
_SET_BITS: Final = np.array([value.bit_count() for value in range(256)])
# Of five letters the first four; a space follows.
_METHODS: Final = tuple(
    int.from_bytes(name) for name in (b"GET ", b"PUT ", b"POST", b"HEAD")
)


def looks_fully_encrypted(first: bytes) -> bool:
    """Say whether the first packet of a connection is exempt from none of the rules.

    Parameters
    ----------
    first
        Payload of the first packet of the side that speaks first.

    Returns
    -------
    bool
        False for no bytes. Short packets pass by chance: the rules were made for
        blocking, where a second look at the connection follows.
    """
    return bool(is_exempt_from_none(np.frombuffer(first, np.uint8), 0, len(first)))


@compiled_bare
def is_exempt_from_none(data: NDArray[np.uint8], at: int, end: int) -> bool:
    """Say it of ``data[at:end]``."""
    size = end - at
    if size == 0:
        return False
    if (
        size >= 3
        and 0x16 <= data[at] <= 0x17
        and data[at + 1] == 3
        and data[at + 2] < 10
    ):
        return False
    if size >= 4:
        word = 0
        for i in range(4):
            word = word << 8 | data[at + i]
        for method in _METHODS:
            if word == method and (
                word & 255 == 32 or (size > 4 and data[at + 4] == 32)
            ):
                return False
    bits = 0
    printable = 0
    run = np.int64(0)
    longest = np.int64(0)
    for i in range(at, end):
        bits += _SET_BITS[data[i]]
        run = (run + 1) & _PRINTABLE[data[i]]
        longest = max(longest, run)
        printable -= _PRINTABLE[data[i]]
    if not FEWEST_BITS * size < bits < MOST_BITS * size:
        return False
    starts = size >= _FIRST
    for i in range(at, min(end, at + _FIRST)):
        starts &= _PRINTABLE[data[i]] != 0
    return not (starts or printable > _SHARE * size or longest >= _RUN)


@compiled
def are_exempt(data: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of many first packets, at (start, stop) in `data`, whether a rule exempts them."""
    exempt = np.ones(places.shape[0], np.bool_)
    for i in range(places.shape[0]):
        exempt[i] = not is_exempt_from_none(data, places[i, 0], places[i, 1])
    return exempt
