"""Files as they lie there: plain, or packed with gzip, bzip2, xz or zstd.

How a file is packed is told from its first bytes. What stands before damage is read;
not with Python's file classes, which keep the last good bytes to themselves.
"""

from __future__ import annotations

import bz2
import io
import lzma
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

from exfilml.exceptions import SourceError

CHUNK: Final = 1 << 20
# xz lets a file ask for a dictionary of 4 GB; its highest preset takes 65 MiB.
_XZ_MEMORY: Final = 128 << 20
MAGICS: Final = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
LONGEST_MAGIC: Final = max(map(len, MAGICS))


def packing(head: bytes) -> str | None:
    """Name the packing that a file's first bytes show, None if there is none."""
    return next(
        (kind for magic, kind in MAGICS.items() if head.startswith(magic)), None
    )


class Unpacked:
    """The plain bytes of a file, piece by piece and once.

    Attributes
    ----------
    damage
        What is wrong with the packed data, known when all pieces are read; else None.
    """

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self.damage: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        first = self._read()
        kind = packing(first)
        if kind is None:
            while first:
                yield first
                first = self._read()
            return
        unpack = _zstd if kind == "zstd" else _members
        if not (yield from unpack(kind, first, self._read)):
            self.damage = f"the {kind} data are cut off or damaged; the rest is lost"

    def _read(self) -> bytes:
        data = self._file.read(CHUNK)
        self._advance(len(data))
        return data


def plain_head(path: Path, size: int) -> bytes:
    """Return up to `size` plain bytes of what a file begins with, as far as it goes."""
    with path.open("rb") as file:
        head = file.read(size)
        if packing(head) is None:
            return head
        file.seek(0)
        plain = b""
        for piece in Unpacked(file, lambda _: None):
            plain += piece
            if len(plain) >= size:
                break
    return plain[:size]


def damaged_head(path: Path) -> str | None:
    """Say what is wrong with a file of which no plain byte comes; None if nothing is."""
    with open_plain(path, lambda _: None) as pieces:
        if next(iter(pieces), b""):
            return None
    return pieces.damage


def open_plain(path: Path, advance: Callable[[int], None]) -> Unpacked:
    """Open a file for its plain bytes; `advance` is told of packed bytes read."""
    return Unpacked(path.open("rb", buffering=0), advance)


@contextmanager
def plain_file(path: Path, name: str) -> Iterator[tuple[Path, str | None]]:
    """Lend a file with the plain bytes, for what cannot read pieces; and its damage.

    The file itself where it is not packed, else a temporary one.

    Raises
    ------
    SourceError
        If there is no room for it.
    """
    with path.open("rb") as file:
        packed = packing(file.read(LONGEST_MAGIC))
    if packed is None:
        yield path, None
        return
    with tempfile.TemporaryDirectory(prefix="exfilml-") as folder:
        plain = Path(folder) / name
        try:
            # Progress counts bytes of what is read afterwards.
            with open_plain(path, lambda _: None) as pieces, plain.open("wb") as target:
                target.writelines(pieces)
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be decompressed to {folder}: {error.strerror}. "
                "Decompress it yourself, or set TMPDIR to a place with room."
            ) from error
        yield plain, pieces.damage


class _Gzip:
    """zlib's decoder with the interface of the other two."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._member.decompress(data or self._member.unconsumed_tail, most)


_DECODERS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": _Gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


def _members(
    kind: str, first: bytes, read: Callable[[], bytes]
) -> Generator[bytes, None, bool]:
    """Unpack joined members a piece at a time; return whether that was everything."""
    decoder = _DECODERS[kind]()
    data = first
    while True:
        if decoder.eof:
            # Members may be joined; zeros pad them on tape.
            data = decoder.unused_data.lstrip(b"\0")
            while not data:
                data = read()
                if not data:
                    return True
                data = data.lstrip(b"\0")
            decoder = _DECODERS[kind]()
        try:
            piece = decoder.decompress(data, CHUNK)
        except (zlib.error, OSError, EOFError, lzma.LZMAError):
            return False
        if piece:
            yield piece
        data = b""
        if not decoder.eof and decoder.needs_input:
            data = read()
            if not data:
                return False


class _Pieces(io.RawIOBase):
    """A file for Arrow, of pieces that are read one by one."""

    def __init__(self, first: bytes, read: Callable[[], bytes]) -> None:
        self._rest = first
        self._read_more = read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = self._read_more()
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _zstd(
    kind: str, first: bytes, read: Callable[[], bytes]
) -> Generator[bytes, None, bool]:
    """Unpack zstd frames, for which the standard library has no decoder before 3.14."""
    import pyarrow as pa

    # A piece as small as this loses little where Arrow gives up in the middle of one.
    size = 1 << 16
    try:
        with pa.CompressedInputStream(
            pa.PythonFile(_Pieces(first, read)), kind
        ) as file:
            while data := file.read(size):
                yield data
    except (pa.ArrowException, OSError):
        return False
    return True
