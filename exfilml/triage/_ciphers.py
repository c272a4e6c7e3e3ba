"""Symmetric ciphers and their modes, each a function of key, IV and bytes.

The ciphers are those of `cryptography`; Salsa20 is PyCryptodome's. Ciphers that only
old malware still uses are in `cryptography`'s room of decrepit ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final

Decrypt = Callable[[bytes, bytes, bytes], bytes]

_XOR_KEY_SIZES: Final = range(1, 257)
_RC4_KEY_SIZES: Final = range(5, 257)


@dataclass(frozen=True, slots=True)
class Cipher:
    """A cipher in one mode.

    Attributes
    ----------
    name
        As in ``AES-CBC``.
    key_sizes
        Bytes that a key may have.
    iv_size
        Bytes of the IV or nonce; 0 for none.
    block
        Bytes of a block, of which whole ones are needed; 1 for streams.
    tag
        Bytes of an authentication tag behind the ciphertext.
    decrypt
        Key, IV and ciphertext to plaintext; raises ValueError if the tag is wrong.
    """

    name: str
    key_sizes: tuple[int, ...]
    iv_size: int
    block: int
    tag: int
    decrypt: Decrypt


def all_ciphers() -> tuple[list[Cipher], list[str]]:
    """Return the ciphers at hand, and the names of those that are not installed."""
    from cryptography.hazmat.decrepit.ciphers import algorithms as old
    from cryptography.hazmat.primitives.ciphers import algorithms as new

    ciphers = [Cipher("XOR", tuple(_XOR_KEY_SIZES), 0, 1, 0, _xor)]
    blocks = (
        ("AES", new.AES, (16, 24, 32), 16),
        ("Camellia", old.Camellia, (16, 24, 32), 16),
        ("SM4", new.SM4, (16,), 16),
        ("3DES", _triple_des, (8, 16, 24), 8),
        ("Blowfish", old.Blowfish, (4, 8, 16, 24, 32, 56), 8),
    )
    for name, algorithm, sizes, block in blocks:
        ciphers += _modes(name, algorithm, sizes, block)
    ciphers += [
        Cipher("AES-GCM", (16, 24, 32), 12, 1, 16, _gcm),
        Cipher("AES-GCM, tag unknown", (16, 24, 32), 12, 1, 0, _gcm_untagged),
        # RFC 8439: the first block makes the key of the tag.
        Cipher("ChaCha20-Poly1305", (32,), 12, 1, 16, _chacha_poly),
        *(_chacha(start) for start in (0, 1)),
        Cipher("ChaCha20, 8-byte nonce", (32,), 8, 1, 0, _chacha_original),
    ]
    missing = []
    try:
        from Cryptodome.Cipher import ARC4, Salsa20
    except ImportError:
        missing = ["Salsa20", "RC4 with a key of an odd size"]
        ciphers.append(
            Cipher("RC4", (5, 7, 8, 10, 16, 20, 24, 32), 0, 1, 0, _whole(old.ARC4))
        )
    else:
        ciphers += [
            Cipher(
                "RC4",
                tuple(_RC4_KEY_SIZES),
                0,
                1,
                0,
                lambda key, _, data: ARC4.new(key).decrypt(data),
            ),
            Cipher(
                "Salsa20",
                (16, 32),
                8,
                1,
                0,
                lambda key, nonce, data: Salsa20.new(key, nonce).decrypt(data),
            ),
        ]
    missing += [cipher.name for cipher in ciphers if not _runs(cipher)]
    return [c for c in ciphers if c.name not in missing], missing


def _runs(cipher: Cipher) -> bool:
    """Say whether the installed libraries have a mode."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        # Keys of equal parts are refused by 3DES.
        cipher.decrypt(
            bytes(range(cipher.key_sizes[-1])), bytes(cipher.iv_size), bytes(64)
        )
    except UnsupportedAlgorithm:
        return False
    except ValueError:
        return True
    return True


def _modes(
    name: str, algorithm: Any, sizes: tuple[int, ...], block: int
) -> Iterator[Cipher]:
    from cryptography.hazmat.decrepit.ciphers import modes as old
    from cryptography.hazmat.primitives.ciphers import modes as new

    yield Cipher(f"{name}-ECB", sizes, 0, block, 0, _of(algorithm, _no_iv))
    yield Cipher(f"{name}-CBC", sizes, block, block, 0, _of(algorithm, new.CBC))
    yield Cipher(f"{name}-CFB", sizes, block, 1, 0, _of(algorithm, old.CFB))
    yield Cipher(f"{name}-OFB", sizes, block, 1, 0, _of(algorithm, old.OFB))
    # Libraries of 64-bit ciphers have no counter mode.
    if block == 16:
        yield Cipher(f"{name}-CTR", sizes, block, 1, 0, _of(algorithm, new.CTR))


def _of(algorithm: Any, mode: Callable[[bytes], Any]) -> Decrypt:
    def decrypt(key: bytes, iv: bytes, data: bytes) -> bytes:
        return _run(algorithm(key), mode(iv), data)

    return decrypt


def _no_iv(_: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers import modes

    return modes.ECB()  # noqa: S305 - malware uses it


def _triple_des(key: bytes) -> Any:
    """Take keys of one and two parts, too: DES, and 3DES with the first part again."""
    from cryptography.hazmat.decrepit.ciphers import algorithms

    return algorithms.TripleDES((key * 3)[:24])


def _whole(algorithm: Any) -> Decrypt:
    return lambda key, _, data: _run(algorithm(key), None, data)


def _run(algorithm: Any, mode: Any, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher as Both

    decryptor = Both(algorithm, mode).decryptor()
    plain: bytes = decryptor.update(data) + decryptor.finalize()
    return plain


def _xor(key: bytes, _: bytes, data: bytes) -> bytes:
    stream = bytes(islice(cycle(key), len(data)))
    both = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return both.to_bytes(len(data), "big")


def _gcm(key: bytes, nonce: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return _authentic(AESGCM(key), nonce, data)


def _chacha_poly(key: bytes, nonce: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return _authentic(ChaCha20Poly1305(key), nonce, data)


def _authentic(cipher: Any, nonce: bytes, data: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(nonce, data, None)
    except InvalidTag as error:
        raise ValueError("the tag is of another key, nonce or text") from error
    return plain


def _gcm_untagged(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """Decrypt as GCM does, NIST SP 800-38D §7.2: counters from 2 on."""
    from cryptography.hazmat.primitives.ciphers import algorithms, modes

    counter = modes.CTR(nonce + (2).to_bytes(4, "big"))
    return _run(algorithms.AES(key), counter, data)


def _chacha(start: int) -> Cipher:
    def decrypt(key: bytes, nonce: bytes, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import algorithms

        counter = start.to_bytes(4, "little")
        return _run(algorithms.ChaCha20(key, counter + nonce), None, data)

    return Cipher(f"ChaCha20, counter from {start}", (32,), 12, 1, 0, decrypt)


def _chacha_original(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """Decrypt with Bernstein's layout: 64 bits of counter, 64 of nonce."""
    from cryptography.hazmat.primitives.ciphers import algorithms

    return _run(algorithms.ChaCha20(key, bytes(8) + nonce), None, data)
