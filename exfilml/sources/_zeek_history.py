"""What Zeek's history of a connection tells, in the words of the flows table."""

from __future__ import annotations

from typing import Final

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
# Replies of ICMP, version 4 and 6, whose requests Zeek did not see.
_REPLIES: Final = {1: (0, 14, 16, 18), 58: (129,)}
# Without history: Zeek's word for how it went, where packets alone do not tell.
_STATES: Final = {
    "REJ": "rejected",
    "RSTOS0": "rejected",
    "RSTRH": "rejected",
    "S0": "one_sided",
    "SH": "one_sided",
    "SHR": "one_sided",
}


def how_it_went(  # noqa: PLR0911
    protocol: int,
    icmp_type: int,
    state: str | None,
    history: str | None,
    there: int | None,
    back: int | None,
) -> str | None:
    """Name how a conversation went, one of `exfilml.schema.CONN_STATES`."""
    if there is not None and back is not None:
        both: bool | None = there > 0 and back > 0
    else:
        both = None
    if icmp_type in _REPLIES.get(protocol, ()) and not both:
        return "unsolicited"
    if protocol == 6 and history:
        seen = set(history.lower())
        if "r" in seen and not seen & {"d", "f"}:
            return "rejected"
        if both is None:
            both = any(c.islower() for c in history) and any(
                c.isupper() for c in history
            )
        if both:
            return "established" if seen & {"s", "h"} else "midstream"
        return "one_sided"
    if protocol == 6 and state in _STATES:
        return _STATES[state]
    if both is None:
        return _STATES.get(state or "", "established" if state == "SF" else None)
    if not both:
        return "one_sided"
    return "midstream" if protocol == 6 and state == "OTH" else "established"


def first_speaker(history: str | None) -> str | None:
    """Name the side whose payload came first, ``src`` or ``dst``."""
    if not history or "^" in history:
        return None
    here, there = history.find("D"), history.find("d")
    if here < 0 and there < 0:
        return None
    return "src" if there < 0 or 0 <= here < there else "dst"


def tcp_flags(history: str) -> int:
    """Return the TCP flags that were seen on either side."""
    seen = set(history.lower())
    letters = (("s", _SYN), ("h", _SYN | _ACK), ("a", _ACK), ("f", _FIN), ("r", _RST))
    flags = 0
    for letter, bits in letters:
        flags |= bits if letter in seen else 0
    return flags
