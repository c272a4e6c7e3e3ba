"""Whether compressed data are whole, by the checksum that their format carries."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Final, Protocol

_AT_ONCE: Final = 1 << 20
_MOST: Final = 1 << 26


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpacks(data: bytes, magic: str) -> bool:
    """Say whether an archive unpacks to its end with the right checksum.

    Of gzip, bzip2 and xz; no more than 64 MiB of what comes out are looked at.
    """
    unpacker: _Unpacker
    if magic == "gzip":
        return _gunzips(data)
    if magic == "bzip2":
        unpacker = bz2.BZ2Decompressor()
    elif magic == "xz":
        unpacker = lzma.LZMADecompressor(memlimit=_MOST)
    else:
        return False
    try:
        seen = len(unpacker.decompress(data, _AT_ONCE))
        while not unpacker.eof and seen < _MOST:
            more = unpacker.decompress(b"", _AT_ONCE)
            if not more:
                return False
            seen += len(more)
    except (OSError, EOFError, lzma.LZMAError):
        return False
    return unpacker.eof


def _gunzips(data: bytes) -> bool:
    unpacker = zlib.decompressobj(wbits=31)
    seen = 0
    try:
        while data and not unpacker.eof and seen < _MOST:
            seen += len(unpacker.decompress(data, _AT_ONCE))
            data = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return unpacker.eof
