"""Real ciphertext of seven ciphers, from the ``cryptography`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator


def _block(algorithm: str, mode: str, key: int, block: int) -> Callable[..., bytes]:
    def encrypt_one(data: bytes, rng: Generator) -> bytes:
        from cryptography.hazmat.decrepit.ciphers import algorithms as old
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        cipher = getattr(old, algorithm, None) or getattr(algorithms, algorithm)
        nonce = rng.bytes(12 if mode == "GCM" else block)
        made = Cipher(cipher(rng.bytes(key)), getattr(modes, mode)(nonce)).encryptor()
        whole = data[: len(data) // block * block]
        return made.update(whole) + made.finalize()

    return encrypt_one


def _chacha20(data: bytes, rng: Generator) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    cipher = Cipher(algorithms.ChaCha20(rng.bytes(32), rng.bytes(16)), mode=None)
    return cipher.encryptor().update(data)


def _rc4(data: bytes, rng: Generator) -> bytes:
    from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
    from cryptography.hazmat.primitives.ciphers import Cipher

    return Cipher(ARC4(rng.bytes(16)), mode=None).encryptor().update(data)


CIPHERS: Final[dict[str, Callable[..., bytes]]] = {
    "aes-128-ctr": _block("AES", "CTR", 16, 16),
    "aes-256-cbc": _block("AES", "CBC", 32, 16),
    "aes-256-gcm": _block("AES", "GCM", 32, 16),
    "3des-cbc": _block("TripleDES", "CBC", 24, 8),
    "camellia-256-cbc": _block("Camellia", "CBC", 32, 16),
    "chacha20": _chacha20,
    "rc4": _rc4,
}


def encrypt(name: str, data: bytes, seed: int) -> bytes:
    """Encrypt `data` under a key drawn from `seed`, without padding or header."""
    return CIPHERS[name](data, np.random.default_rng(seed))
