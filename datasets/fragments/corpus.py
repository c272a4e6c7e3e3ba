"""Files of every type, and fragments cut from them."""

from __future__ import annotations

import base64
import importlib.util
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from fragments.ciphers import CIPHERS, encrypt
from fragments.contents import SIDES, Contents
from fragments.encoders import ENCODERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.random import Generator
    from numpy.typing import NDArray

SIZES: Final = (512, 1024, 2048, 4096, 8192, 65536)
"""Bytes of the fragments that results are reported for."""

HEADER_BYTES: Final = 1024
"""Bytes at the start of a file that no fragment shows."""

CONTROLS: Final = ("text", "base64", "records", "machine code")

FAMILIES: Final[dict[str, str]] = {
    "gzip": "deflate", "zip": "deflate", "libdeflate": "deflate", "zopfli": "deflate",
    "png": "deflate", "pdf": "deflate", "docx": "deflate",
    "xz": "lzma", "7z": "lzma", "brotli": "brotli", "woff2": "brotli",
    "lz4": "bytes", "snappy": "bytes", "mp4": "cabac", "hevc": "cabac",
}  # fmt: skip
"""Types that share an entropy coder: left out together, else the test is no test."""


@dataclass
class Corpus:
    """Files by type, and what could not be made."""

    files: dict[str, list[bytes]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def compressed(self) -> list[str]:
        """Names of the compressed types that were made."""
        return [name for name in ENCODERS if name in self.files]

    @property
    def ciphers(self) -> list[str]:
        """Names of the ciphers."""
        return [name for name in CIPHERS if name in self.files]


def build(
    side: str,
    size: int,
    seed: int = 0,
    *,
    only: Iterable[str] | None = None,
) -> Corpus:
    """Make the files of one side.

    Parameters
    ----------
    side
        ``train`` or ``test``; no source file is on both.
    size
        Encoded bytes of each type, about; slow encoders give less.
    seed
        Of everything drawn.
    only
        Types to make; None for all, ciphertext and controls.
    """
    contents = Contents(side)
    corpus = Corpus()
    wanted = set(only) if only is not None else None
    for name, (needs, share, encode) in ENCODERS.items():
        if wanted is not None and name not in wanted:
            continue
        lacking = [need for need in needs if importlib.util.find_spec(need) is None]
        if lacking:
            corpus.missing.append(f"{name} (needs {', '.join(lacking)})")
            continue
        rng = _generator(side, name, seed)
        made: list[bytes] = []
        while sum(map(len, made)) < size * share:
            try:
                made.append(encode(contents, rng))
            except (ImportError, OSError, ValueError, LookupError) as error:
                # A build of the library without this codec.
                corpus.missing.append(f"{name} ({type(error).__name__}: {error})")
                break
        if made:
            corpus.files[name] = made
    for name in CIPHERS if wanted is None else wanted & set(CIPHERS):
        rng = _generator(side, name, seed)
        plain = contents.document(rng, size)
        key = int(rng.integers(2**31))
        corpus.files[name] = [b"\0" * HEADER_BYTES + encrypt(name, plain, key)]
    if wanted is None:
        rng = _generator(side, "controls", seed)
        text = contents.text(rng, size)
        corpus.files |= {
            "text": [text],
            "base64": [base64.b64encode(zlib.compress(text))],
            "records": [contents.records(rng, size)],
            "machine code": [contents.library(rng, size) for _ in range(4)],
        }
    corpus.missing += contents.missing
    return corpus


def _generator(side: str, name: str, seed: int) -> Generator:
    return np.random.default_rng([seed, SIDES.index(side), zlib.crc32(name.encode())])


def cut(files: list[bytes], size: int, rng: Generator) -> NDArray[np.uint8] | None:
    """Cut one fragment of `size` bytes at a random place beyond the header.

    Returns
    -------
    ndarray of shape (size,), or None
        None where no file is long enough.
    """
    fits = [data for data in files if len(data) > HEADER_BYTES + size]
    if not fits:
        return None
    # Files alike, long or short: else what hardly compresses would dominate.
    data = fits[int(rng.integers(len(fits)))]
    start = int(rng.integers(HEADER_BYTES, len(data) - size))
    return np.frombuffer(data, np.uint8, size, start)


def draw(
    files: list[bytes], size: int, count: int, rng: Generator
) -> list[NDArray[np.uint8]]:
    """Cut `count` fragments, or none where no file is long enough."""
    cuts = (cut(files, size, rng) for _ in range(count))
    return [found for found in cuts if found is not None]
