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

import re
from typing import Final

FEWEST_BITS: Final = 3.4
"""Set bits per byte up to which a packet is exempt; random bytes have 4."""

MOST_BITS: Final = 4.6
"""Set bits per byte from which on a packet is exempt."""

_FIRST: Final = 6
_SHARE: Final = 0.5
_MARKS: Final = bytes(32) + b"P" * 95 + bytes(129)
_RUN: Final = b"P" * 21
_TLS: Final = re.compile(rb"[\x16\x17]\x03[\x00-\x09]")
_HTTP: Final = (b"GET ", b"PUT ", b"POST ", b"HEAD ")


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
    size = len(first)
    if size == 0 or _TLS.match(first) or first.startswith(_HTTP):
        return False
    bits = int.from_bytes(first).bit_count()
    if not FEWEST_BITS * size < bits < MOST_BITS * size:
        return False
    printable = first.translate(_MARKS)
    return not (
        printable.startswith(_RUN[:_FIRST])
        or printable.count(b"P") > _SHARE * size
        or _RUN in printable
    )
