"""What an analyst gives as a key, and the keys that follow from it.

Malware reports and memory images give keys as hex, base64 or text, and programs make
keys of passwords. Every reading of a text that is possible is tried, and every key
that is derived from it counts as an attempt.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from exfilml.exceptions import OptionError

READINGS: Final = ("hex", "base64", "text")
MOST_BYTES: Final = 4096
SALTED: Final = b"Salted__"
"""What `openssl enc` writes before eight bytes of salt."""

OPENSSL_ITERATIONS: Final = 10_000
"""Of `openssl enc -pbkdf2`, see openssl-enc(1)."""

_DERIVED_SIZES: Final = (16, 24, 32)
_KEY_AND_IV: Final = 32 + 16
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2}[ :,]?)+)")


@dataclass(frozen=True, slots=True)
class Key:
    """Bytes that may be a key.

    Attributes
    ----------
    name
        Where they come from, as an analyst would say it.
    raw
        As many bytes as the source gives; ciphers take what they need.
    exact
        Whether `raw` is the key as it is, with its own length; else it is a stream of
        derived bytes, of which ciphers take the first.
    iv
        Derived bytes that follow a key of a given length stand for the IV.
    """

    name: str
    raw: bytes
    exact: bool = True
    iv: bool = False

    def of_size(self, sizes: Iterable[int]) -> Iterator[bytes]:
        """Yield the keys of sizes that a cipher takes."""
        wanted = {len(self.raw)} if self.exact else {len(self.raw), *_DERIVED_SIZES}
        for size in sorted(wanted.intersection(sizes)):
            if size <= len(self.raw):
                yield self.raw[:size]

    def iv_after(self, key_size: int, iv_size: int) -> bytes | None:
        """Return the IV that is derived together with the key."""
        found = self.raw[key_size : key_size + iv_size]
        return found if self.iv and len(found) == iv_size else None


def readings(text: str) -> list[tuple[str, bytes]]:
    """Read a key as hex, base64 and text, whichever are possible.

    Parameters
    ----------
    text
        ``hex:…``, ``base64:…`` or ``text:…`` for one reading, else all of them.

    Returns
    -------
    list of (str, bytes)
        Reading and bytes, each bytes once.

    Raises
    ------
    OptionError
        If there is no such reading, or the key is empty or longer than `MOST_BYTES`.
    """
    kind, colon, rest = text.partition(":")
    only = kind if colon and kind in READINGS else None
    body = rest if only else text
    found: dict[bytes, str] = {}
    for reading in (only,) if only else READINGS:
        raw = _read(reading, body)
        if raw:
            found.setdefault(raw, reading)
    if not found or max(map(len, found)) > MOST_BYTES:
        expected = f"{only} of" if only else "hex, base64 or text of"
        raise OptionError(
            f"key {text[:40]!r}: expected {expected} 1 to {MOST_BYTES:,} bytes."
        )
    return [(reading, raw) for raw, reading in found.items()]


def _read(reading: str, body: str) -> bytes | None:
    if reading == "text":
        return body.encode("utf-8", "surrogateescape")
    if reading == "hex":
        digits = _HEX.fullmatch(body.strip())
        return bytes.fromhex(re.sub("[ :,]", "", digits[1])) if digits else None
    try:
        return base64.b64decode(body.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None


def derived(
    text: str, *, salts: Iterable[bytes] = (), iterations: Iterable[int] = ()
) -> list[Key]:
    """Return the keys that a text can stand for.

    As it is; hashed by MD5, SHA-1 and SHA-256; stretched by OpenSSL's EVP_BytesToKey
    (one round, MD5 and SHA-256: EVP_BytesToKey(3)), with each salt and without; and by
    PBKDF2 (RFC 8018 §5.2; HMAC of SHA-1 and SHA-256) with each salt and each number of
    iterations.

    Parameters
    ----------
    text
        See `readings`.
    salts
        Salts; none for no PBKDF2.
    iterations
        Iterations of PBKDF2.
    """
    keys = []
    salts, iterations = list(salts), list(iterations)
    for reading, raw in readings(text):
        keys.append(Key(reading, raw))
        keys += [
            Key(f"{name.upper()} of {reading}", hashlib.new(name, raw).digest(), False)
            for name in ("md5", "sha1", "sha256")
        ]
        for name in ("md5", "sha256"):
            for salt in (b"", *salts):
                salted = f", salt {salt.hex()}" if salt else ""
                title = f"EVP_BytesToKey ({name.upper()}{salted}) of {reading}"
                stream = _evp_bytes_to_key(name, raw, salt)
                keys.append(Key(title, stream, exact=False, iv=True))
        for name in ("sha1", "sha256"):
            for salt in salts:
                for count in iterations:
                    title = (
                        f"PBKDF2 ({name.upper()}, {count:,} iterations, salt "
                        f"{salt.hex()}) of {reading}"
                    )
                    stream = hashlib.pbkdf2_hmac(name, raw, salt, count, _KEY_AND_IV)
                    keys.append(Key(title, stream, exact=False, iv=True))
    return keys


def _evp_bytes_to_key(name: str, password: bytes, salt: bytes) -> bytes:
    """Return key and IV, D_1 ‖ D_2 ‖ … with D_i = hash(D_(i−1) ‖ password ‖ salt)."""
    stream = last = b""
    while len(stream) < _KEY_AND_IV:
        last = hashlib.new(name, last + password + salt).digest()
        stream += last
    return stream[:_KEY_AND_IV]
