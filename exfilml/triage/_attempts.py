"""One attempt to decrypt, and what came of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exfilml.triage._ciphers import Cipher
from exfilml.triage._keys import Key

_LEAST_SAID: Final = 1e-300
"""Smaller bounds come out as 0, which no bound is."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A key that fits.

    Attributes
    ----------
    cipher, key_name, iv_name
        Which cipher and mode, where the key came from and where the IV lay.
    key, iv
        The bytes; `iv` is empty if there is none.
    offset
        Where in the data the ciphertext begins.
    false_hit
        Upper bound of the probability that this or any other attempt was taken for
        a hit by chance.
    proven
        Whether an authentication tag fits.
    verdict, magic
        What payload says of the plaintext.
    plaintext
        All of it.
    """

    cipher: str
    key_name: str
    key: bytes
    iv_name: str
    iv: bytes
    offset: int
    false_hit: float
    proven: bool
    verdict: str
    magic: str | None
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Attempts:
    """What became of all attempts.

    Attributes
    ----------
    tried
        How many there were.
    hits
        Keys that fit, the surest first.
    not_tried
        Ciphers that the installed libraries do not have.
    looked_encrypted
        Whether the data could be told from random bytes before.
    """

    tried: int
    hits: tuple[Hit, ...]
    not_tried: tuple[str, ...]
    looked_encrypted: bool

    def __str__(self) -> str:
        """Say it in a sentence or two."""
        if self.hits:
            best = self.hits[0]
            iv = f", IV {best.iv_name}" if best.iv_name else ""
            text = (
                f"{best.cipher} with the key {best.key.hex()} ({best.key_name}){iv} from "
                f"byte {best.offset:,} on gives {best.magic or best.verdict}; "
                f"{self.tried:,} attempts, a false hit among them has a probability of "
                f"{max(best.false_hit, _LEAST_SAID):.2g} at most."
            )
        else:
            text = f"No key fits: {self.tried:,} attempts."
            if not self.looked_encrypted:
                text += " The data do not look encrypted: they are no random bytes."
        if self.not_tried:
            text += f" Not tried, because not installed: {', '.join(self.not_tried)}."
        return text


@dataclass(frozen=True, slots=True)
class Attempt:
    """A key, a cipher, and where the IV and the ciphertext lie."""

    cipher: Cipher
    key: Key
    raw: bytes
    iv_name: str
    iv: bytes
    offset: int
    begin: int

    def plain(self, data: bytes, most: int | None, raw: bytes | None = None) -> bytes:
        """Decrypt up to so many bytes; none if there is not one block."""
        body = data[self.begin :]
        if most is not None and not self.cipher.tag:
            body = body[:most]
        body = body[: len(body) - len(body) % self.cipher.block]
        if len(body) <= self.cipher.tag:
            return b""
        try:
            return self.cipher.decrypt(raw or self.raw, self.iv, body)
        except ValueError:
            return b""
