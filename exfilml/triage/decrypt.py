"""Attempts to decrypt what was carved, with keys that the analyst has.

Every reading and derivation of every key is tried with every cipher, mode, place of
the IV and offset. **What counts as success** is that the bytes can no longer be told
from plaintext: `exfilml.payload` finds a file's magic number, or its test of uniform
random bytes fails. A wrong key leaves uniform random bytes, for which that test's
p-value is valid; times the number of attempts (Bonferroni) it bounds the probability
that any of them is a false hit. A magic number is found in `MAGIC_RATE` of random
buffers at most. A checksum in an archive that unpacks is wrong once in 2³² on top, an
authentication tag that fits once in 2¹²⁸.

That holds if the data are ciphertext. Data with a structure of their own keep some of
it under any key: a repeated block stays one, and text under XOR stays far from random.
So each success is held against `CONTROLS` random keys of the same size with the same
cipher, mode, IV and offset; where one of them does as well, it is no hit.

A repeating XOR key over text needs no key to be found (`exfilml.payload`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.exceptions import DependencyError, OptionError
from exfilml.payload import PayloadEvidence, find_magic, find_xor, judge, p_uniform
from exfilml.triage._archives import unpacks
from exfilml.triage._attempts import Attempt, Attempts, Hit
from exfilml.triage._ciphers import Cipher, all_ciphers
from exfilml.triage._keys import OPENSSL_ITERATIONS, SALTED, Key, derived

__all__ = ["Attempts", "Hit", "try_keys"]

if TYPE_CHECKING:
    from collections.abc import Callable

OFFSETS: Final = range(17)
"""Bytes before the ciphertext that are tried: length fields and short headers."""

SEEN_BYTES: Final = 1024
LEAST_BYTES: Final = 16
MOST_FALSE: Final = 0.01
MAGIC_RATE: Final = 1e-6
"""Share of random buffers in which payload finds a magic number, at most: nine in 20
million of 32 bytes, five of them DER and four JPEG."""

CHECKSUM_RATE: Final = 2.0**-32
TAG_RATE: Final = 2.0**-128
XOR_RATE: Final = 1e-5
"""No key was found in 100,000 random buffers (`exfilml.payload`, `_xor`)."""

CONTROLS: Final = 20
ITERATIONS: Final = (1, 1000, OPENSSL_ITERATIONS)
_MOST_SALTS: Final = 64
_SURE: Final = 1e-6
_START: Final = 8
_ALIKE: Final = 0.7
_KINDS: Final = np.repeat([0, 1, 0, 1, 2], [9, 5, 18, 95, 129])
"""Control characters, text with its blanks, and bytes beyond ASCII."""

_SIZES: Final = np.bincount(_KINDS)


def try_keys(
    data: bytes,
    keys: Iterable[str],
    *,
    ivs: Iterable[bytes] = (),
    salts: Iterable[bytes] = (),
    iterations: Iterable[int] = ITERATIONS,
    offsets: Iterable[int] = OFFSETS,
    progress: Callable[[int], None] | None = None,
) -> Attempts:
    """Try keys on bytes that may be ciphertext.

    Parameters
    ----------
    data
        One direction of a stream, or one message.
    keys
        Each as hex, base64 or text; every reading that is possible is tried
        (``hex:…``, ``base64:…``, ``text:…`` for one only). Also the passwords that keys
        are derived from. With none, only a repeating XOR key is looked for.
    ivs
        IVs and nonces that are known; at the head of the ciphertext, all zero, and
        derived with the key they are tried anyway.
    salts
        Salts of PBKDF2 and EVP_BytesToKey; that of ``openssl enc`` is read from the
        data.
    iterations
        Iterations of PBKDF2.
    offsets
        Where the ciphertext may begin, in bytes.
    progress
        Called now and then with the number of attempts so far.

    Raises
    ------
    OptionError
        If the data are shorter than 16 bytes, a key cannot be read or an option is
        impossible.
    DependencyError
        If cryptography is not installed.
    """
    where, counts, more = _checked(data, offsets, iterations, salts)
    keys = _texts(keys)
    try:
        ciphers, missing = all_ciphers()
    except ImportError as error:
        raise DependencyError(
            "Decryption needs cryptography; install it with "
            "pip install 'exfilml[triage]'."
        ) from error
    if data.startswith(SALTED) and len(data) > 16:
        more.append(data[8:16])
        where = sorted({*where, 16})
    candidates = [
        k for text in keys for k in derived(text, salts=more, iterations=counts)
    ]
    encrypted = judge(data[:SEEN_BYTES]).p_random > MOST_FALSE
    found: list[tuple[float, Attempt]] = []
    tried = 0
    for attempt in _attempts(data, ciphers, candidates, list(ivs), where):
        tried += 1
        if progress is not None and tried % 1000 == 0:
            progress(tried)
        chance = _chance(attempt, data)
        if chance * tried <= MOST_FALSE:
            found.append((chance, attempt))
    fitting = [
        _hit(attempt, data, chance * tried, seen)
        for chance, attempt in found
        if chance * tried <= MOST_FALSE
        and (seen := _convincing(attempt, data, encrypted=encrypted)) is not None
    ]
    hits = sorted(fitting, key=_order)
    recovered = find_xor(data)
    if recovered is not None:
        hits.append(
            Hit(
                *("XOR", "recovered without a key", recovered.key, "", b"", 0),
                *(XOR_RATE, False, "text", None, recovered.plain),
            )
        )
    return Attempts(tried, tuple(hits), tuple(missing), encrypted)


def _checked(
    data: bytes,
    offsets: Iterable[int],
    iterations: Iterable[int],
    salts: Iterable[bytes],
) -> tuple[list[int], list[int], list[bytes]]:
    if not isinstance(data, bytes):
        raise OptionError(f"data: expected bytes, got {type(data).__name__}.")
    if len(data) < LEAST_BYTES:
        raise OptionError(
            f"{len(data)} bytes of data: expected {LEAST_BYTES} or more, fewer cannot "
            "be told from chance. Carve more of the stream."
        )
    where, counts, more = sorted(set(offsets)), list(iterations), list(salts)
    if not where or where[0] < 0:
        raise OptionError(f"offsets {where[:3]}: expected one or more, from 0 on.")
    if any(count < 1 for count in counts):
        raise OptionError(f"iterations {min(counts)}: expected 1 or more.")
    if len(more) > _MOST_SALTS:
        raise OptionError(f"{len(more)} salts: expected at most {_MOST_SALTS}.")
    return where, counts, more


def _texts(keys: Iterable[str]) -> list[str]:
    """Return keys, unless they are none; one text alone would be read by letters."""
    given = list(keys) if isinstance(keys, Iterable) else [keys]
    if isinstance(keys, str | bytes) or not all(isinstance(k, str) for k in given):
        raise OptionError(
            "keys: expected a list of texts; bytes as hex, such as ['hex:00ff…']."
        )
    return given


def _attempts(
    data: bytes,
    ciphers: list[Cipher],
    keys: list[Key],
    ivs: list[bytes],
    where: list[int],
) -> Iterator[Attempt]:
    for key in keys:
        for cipher in ciphers:
            for raw in key.of_size(cipher.key_sizes):
                for offset in where:
                    for name, iv, begin in _ivs(data, cipher, key, raw, ivs, offset):
                        if len(data) - begin > cipher.tag:
                            yield Attempt(cipher, key, raw, name, iv, offset, begin)


def _ivs(
    data: bytes, cipher: Cipher, key: Key, raw: bytes, ivs: list[bytes], offset: int
) -> Iterator[tuple[str, bytes, int]]:
    """Yield the name of an IV, the IV, and where the ciphertext begins."""
    size = cipher.iv_size
    if not size:
        yield "", b"", offset
        return
    head = data[offset : offset + size]
    if len(head) == size:
        yield "at the head", head, offset + size
    yield "all zero", bytes(size), offset
    together = key.iv_after(len(raw), size)
    known = ((f"{iv.hex()} (given)", iv) for iv in ivs if len(iv) == size)
    both = [] if together is None else [("derived with the key", together)]
    for name, iv in chain(known, both):
        yield name, iv, offset


def _chance(attempt: Attempt, data: bytes) -> float:
    """Return how probable bytes like these are under a wrong key."""
    plain = attempt.plain(data, SEEN_BYTES)
    if not plain:
        return 1.0
    if attempt.cipher.tag:
        return TAG_RATE
    magic = find_magic(plain)
    rate = 1.0 if magic is None else MAGIC_RATE
    if magic is not None and unpacks(attempt.plain(data, None), magic):
        rate *= CHECKSUM_RATE
    # Two ways to succeed.
    return min(2.0 * min(p_uniform(plain), rate), 1.0)


def _convincing(
    attempt: Attempt, data: bytes, *, encrypted: bool
) -> PayloadEvidence | None:
    """Return what the plaintext is, if it is something and no random key does as well.

    Data that were not random before stay a little less than random under most keys:
    that alone is no plaintext.
    """
    seen = judge(attempt.plain(data, SEEN_BYTES))
    if attempt.cipher.tag:
        return seen
    if seen.verdict == "opaque":
        return None
    if not encrypted and seen.verdict == "compressed" and seen.magic is None:
        return None
    # Of the attempt alone, so that the same attempts give the same hits.
    draw = random.Random(attempt.raw)  # noqa: S311 - nothing is kept secret with it
    for _ in range(CONTROLS):
        other = draw.randbytes(len(attempt.raw))
        control = judge(attempt.plain(data, SEEN_BYTES, other))
        if (control.verdict, control.magic) == (seen.verdict, seen.magic):
            return None
    return seen


def _order(hit: Hit) -> tuple[bool, bool, bool, bool, int]:
    """Order hits: what a tag or a checksum proves, then the longest whose start is plaintext, too.

    A wrong IV spoils the first block of some modes and nothing behind it, and a block
    that is taken for an IV is missing. Where one of them begins like a file, the others
    have lost its magic number.
    """
    magic = find_magic(hit.plaintext)
    spoilt = magic is None and not _begins_alike(hit.plaintext)
    whole = magic is not None and unpacks(hit.plaintext, magic)
    sure = hit.proven or whole or hit.false_hit < _SURE
    return not hit.proven, not sure, spoilt, magic is None, -len(hit.plaintext)


def _begins_alike(plain: bytes) -> bool:
    """Say whether the first bytes are like the others, and not like any bytes.

    Kinds of bytes are compared, because a heading has other letters than its table.
    """
    kinds = _KINDS[np.frombuffer(plain, np.uint8)]
    others = np.bincount(kinds[_START:], minlength=len(_SIZES)) + 1.0
    bits = np.log2(others / others.sum() * 256.0 / _SIZES)
    first, rest = bits[kinds[:_START]].mean(), bits[kinds].mean()
    return bool(first >= _ALIKE * rest)


def _hit(attempt: Attempt, data: bytes, false_hit: float, seen: PayloadEvidence) -> Hit:
    return Hit(
        cipher=attempt.cipher.name,
        key_name=attempt.key.name,
        key=attempt.raw,
        iv_name=attempt.iv_name,
        iv=attempt.iv,
        offset=attempt.offset,
        false_hit=false_hit,
        proven=attempt.cipher.tag > 0,
        verdict=seen.verdict,
        magic=seen.magic,
        plaintext=attempt.plain(data, None),
    )
