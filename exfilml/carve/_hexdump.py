"""Bytes as an analyst reads them: offset, hex, text."""

from __future__ import annotations

from typing import Final

_WIDTH: Final = 16
_VISIBLE: Final = range(0x20, 0x7F)


def hexdump(data: bytes, begin: int = 0) -> str:
    r"""Write bytes in lines of 16; what is no printable ASCII is a dot in the text.

    >>> print(hexdump(b"GET /\x1b[2J"))
    00000000  47 45 54 20 2f 1b 5b 32  4a                       |GET /.[2J|

    Parameters
    ----------
    data
        Any bytes.
    begin
        Offset of the first.
    """
    lines = []
    for at in range(0, len(data), _WIDTH):
        part = data[at : at + _WIDTH]
        left, right = part[:8].hex(" "), part[8:].hex(" ")
        text = "".join(chr(byte) if byte in _VISIBLE else "." for byte in part)
        lines.append(f"{begin + at:08x}  {left:<23}  {right:<23}  |{text}|")
    return "\n".join(lines)
